//! Proof that a request was let in; released on drop, when what it has used is charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::inflight::Permit;
use super::limits::{Limits, Usage};
use super::named::Shadows;
use super::policy::Tenant;

/// A request that was let in. What runs for a tenant asks for one of these.
pub struct Admission {
    permit: Option<Permit>,
    meter: Option<Box<Meter>>,
    /// Limits that would have refused it, were they enforced.
    pub shadows: Shadows,
}

/// What a request uses, where somebody must know.
pub struct Meter {
    limits: Arc<Limits>,
    usage: Usage,
    /// Since when it is with a database, until it is known how long.
    asked: Option<Instant>,
    /// A stream: its rows as they are read, and when it began.
    stream: Option<(Arc<AtomicU64>, Instant)>,
}

impl Meter {
    /// Nothing is used yet.
    pub fn new(limits: Arc<Limits>) -> Self {
        Self { limits, usage: Usage::default(), asked: None, stream: None }
    }
}

impl Meter {
    fn used_until_now(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.usage.database += asked.elapsed();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Its caller has left: what runs is cancelled, and was run until now.
        self.used_until_now();
        if let Some((rows, began)) = self.stream.take() {
            self.usage.rows += rows.load(Ordering::Acquire);
            self.usage.database += began.elapsed();
        }
        self.limits.charge(self.usage);
    }
}

impl Admission {
    /// A request that was let in.
    pub fn new(permit: Permit, meter: Option<Box<Meter>>, shadows: Shadows) -> Self {
        Self { permit: Some(permit), meter, shadows }
    }

    /// The request counts as in flight no longer.
    pub fn release(&mut self) {
        self.permit = None;
    }

    /// Notes bytes of the answer.
    pub fn sent(&mut self, bytes: usize) {
        if let Some(meter) = &mut self.meter {
            meter.usage.bytes += bytes as u64;
        }
    }

    /// It goes to a database.
    pub fn to_database(&mut self) {
        if let Some(meter) = &mut self.meter {
            meter.asked = Some(Instant::now());
        }
    }

    /// It was there for so long; nothing where it was not.
    pub fn used_database(&mut self, time: Duration) {
        if let Some(meter) = &mut self.meter
            && meter.asked.take().is_some()
        {
            meter.usage.database += time;
        }
    }

    /// It was there until now, and nobody knows for how long of that: at most all of it.
    pub fn used_database_until_now(&mut self) {
        if let Some(meter) = &mut self.meter {
            meter.used_until_now();
        }
    }

    /// Notes rows, if anybody must know.
    pub fn used_rows(&mut self, count: impl FnOnce() -> u64) {
        if let Some(meter) = self.meter.as_mut().filter(|meter| meter.limits.counts_rows()) {
            meter.usage.rows += count();
        }
    }

    /// The answer goes on as a stream: what it uses until its end is charged then.
    pub fn streams(&mut self, rows: Arc<AtomicU64>) {
        if let Some(meter) = &mut self.meter {
            meter.stream = Some((rows, Instant::now()));
        }
    }
}

/// Why a request was not let in. Nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// A rate is used up.
    #[error("the tenant's rate `{policy}` is used up")]
    RateLimited {
        /// Which.
        policy: &'static str,
        /// How long until one more is let in.
        retry_after: Duration,
    },
    /// A day's quota is used up.
    #[error("the tenant's quota `{policy}` of {limit} is used up for today (UTC)")]
    QuotaExhausted {
        /// Which.
        policy: &'static str,
        /// How much it is.
        limit: u64,
        /// How long until midnight.
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

impl AdmissionError {
    /// The limit that refused, by its name.
    pub fn policy(&self) -> &'static str {
        match self {
            Self::RateLimited { policy, .. } | Self::QuotaExhausted { policy, .. } => policy,
            Self::TooManyInFlight { .. } => crate::config::policy::IN_FLIGHT,
            Self::TooManyListeners { .. } => crate::config::policy::LISTENERS,
        }
    }
}

impl Tenant {
    /// Lets one request in, or says why not.
    pub fn admit(&self) -> Result<Admission, AdmissionError> {
        self.counted.admit()
    }
}
