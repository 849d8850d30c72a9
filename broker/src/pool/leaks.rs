//! What is done about sessions that do not come back.

use std::sync::Arc;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::registry::{Checkout, Found, Holder, Slot};

/// For what the broker itself holds.
const OWN: &str = "hearth";

impl Endpoint {
    /// Tells of sessions held for too long, and closes those held for far too long.
    pub(super) fn look_for_leaks(self: &Arc<Self>) {
        for found in self.registry.sweep(Instant::now()) {
            match found {
                Found::Leak(slot, checkout) => {
                    self.metrics.leaked(checkout.holder.as_ref().map_or(OWN, |holder| holder.tenant.as_str()));
                    let (request, tenant, statement) = words(&checkout);
                    tracing::warn!(
                        backend.name = %self.backend, server.address = %self.address, backend.pid = slot.pid,
                        request.id = request, tenant.id = tenant, statement, held_ms = held_ms(&checkout),
                        "a connection to `{}` is held long past its deadline", self.backend
                    );
                }
                Found::Severed(slot, checkout) => {
                    let (request, tenant, statement) = words(&checkout);
                    tracing::error!(
                        backend.name = %self.backend, server.address = %self.address, backend.pid = slot.pid,
                        request.id = request, tenant.id = tenant, statement, held_ms = held_ms(&checkout),
                        "a connection to `{}` never came back and was closed", self.backend
                    );
                    let endpoint = Arc::clone(self);
                    self.cleaning.spawn(async move {
                        // Its server works on until it writes to the socket that is gone.
                        if let Err(error) = endpoint.connector.cancel(slot.cancel_token()).await {
                            tracing::debug!(error = %error, "a cancellation did not get through");
                        }
                    });
                    self.want();
                }
            }
        }
    }

    /// One that was told of has come back after all.
    pub(super) fn recovered(&self, slot: &Slot, checkout: &Checkout) {
        let (request, tenant, statement) = words(checkout);
        tracing::info!(
            backend.name = %self.backend, server.address = %self.address, backend.pid = slot.pid,
            request.id = request, tenant.id = tenant, statement, held_ms = held_ms(checkout),
            "a connection to `{}` that was held too long came back", self.backend
        );
    }
}

fn held_ms(checkout: &Checkout) -> u64 {
    u64::try_from(checkout.since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn words(checkout: &Checkout) -> (&str, &str, String) {
    match &checkout.holder {
        Some(Holder { request, tenant, fingerprint }) => {
            (request.as_str(), tenant.as_str(), format!("{fingerprint:016x}"))
        }
        None => ("", OWN, String::new()),
    }
}
