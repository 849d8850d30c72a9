//! Proof that a request was let in; released on drop.

use std::time::Duration;

use super::inflight::Permit;
use super::policy::Tenant;
use super::rate::RateState;

/// A request that was let in. What runs for a tenant asks for one of these.
#[derive(Debug)]
pub struct Admission {
    permit: Option<Permit>,
    /// What is left of the rate, where there is one.
    pub rate: Option<RateState>,
}

impl Admission {
    /// The request counts as in flight no longer; what is left of the rate stays known.
    pub fn release(&mut self) {
        self.permit = None;
    }
}

/// Why a request was not let in. Nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The rate is used up.
    #[error("the tenant's {per_second} requests a second are used up")]
    RateLimited {
        /// The rate.
        per_second: u32,
        /// How long until one more is let in.
        retry_after: Duration,
    },
    /// Too many requests run already.
    #[error("{limit} of the tenant's requests are in flight already")]
    TooManyInFlight {
        /// How many may be.
        limit: u32,
    },
    /// Too many event streams are open already.
    #[error("{limit} of the tenant's event streams are open already")]
    TooManyListeners {
        /// How many may be.
        limit: u32,
    },
}

impl Tenant {
    /// Lets one request in, or says why not. In flight first: a request that is refused there costs no rate.
    pub fn admit(&self) -> Result<Admission, AdmissionError> {
        let permit = self.in_flight.take().map_err(|limit| AdmissionError::TooManyInFlight { limit })?;
        let rate =
            match &self.rate {
                None => None,
                Some(rate) => Some(rate.take().map_err(|retry_after| AdmissionError::RateLimited {
                    per_second: rate.per_second(),
                    retry_after,
                })?),
            };
        Ok(Admission { permit: Some(permit), rate })
    }

    /// Lets one event stream in that was admitted as a request; it counts until the permit is dropped.
    pub fn admit_listener(&self) -> Result<Permit, AdmissionError> {
        self.listeners.take().map_err(|limit| AdmissionError::TooManyListeners { limit })
    }
}
