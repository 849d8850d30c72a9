//! What is done about sessions that do not come back.

use std::sync::Arc;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::event::{CloseReason, Event};
use super::journal::Facts;
use super::registry::{Checkout, Found, Slot};

/// The account of what the broker itself holds.
pub const OWN_ACCOUNT: &str = "hearth";

impl Endpoint {
    /// Tells of sessions held for too long, and closes those held for far too long.
    pub(super) fn look_for_leaks(self: &Arc<Self>) {
        for found in self.registry.sweep(Instant::now()) {
            match found {
                Found::Leak(slot, checkout) => {
                    self.metrics.leaked(checkout.holder.as_ref().map_or(OWN_ACCOUNT, |holder| holder.tenant.as_str()));
                    self.tell(Event::Leak, facts(&slot, &checkout));
                }
                Found::Severed(slot, checkout) => {
                    self.metrics.closed(CloseReason::LeakForced.as_str(), None, None);
                    self.tell(Event::Close(CloseReason::LeakForced), facts(&slot, &checkout));
                    self.cleaning.spawn(Arc::clone(self).cancel_severed(slot));
                    self.want();
                }
            }
        }
    }

    /// One that was told of has come back after all.
    pub(super) fn recovered(&self, slot: &Slot, checkout: &Checkout) {
        self.tell(Event::Recovered, facts(slot, checkout));
    }

    /// A server works on for a session whose socket is gone, until it writes to it.
    async fn cancel_severed(self: Arc<Self>, slot: Arc<Slot>) {
        if let Err(error) = self.connector.cancel(slot.cancel_token()).await {
            tracing::debug!(error = %error, "a cancellation did not get through");
        }
    }
}

fn facts(slot: &Slot, checkout: &Checkout) -> Facts {
    let holder = checkout.holder.as_ref();
    Facts {
        pid: Some(slot.pid),
        age: Some(checkout.since.elapsed()),
        request: holder.map(|holder| holder.request.to_string()),
        tenant: Some(holder.map_or_else(|| OWN_ACCOUNT.to_owned(), |holder| holder.tenant.to_string())),
        statement: holder.map(|holder| holder.fingerprint),
        ..Facts::default()
    }
}
