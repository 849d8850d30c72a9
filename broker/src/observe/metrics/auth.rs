//! Who was not let in, and why.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Counters, family};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLabels {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    result: &'static str,
}

/// Who was not let in, and why; keys fetched; audit lines that could not be kept.
#[derive(Clone)]
pub struct AuthMetrics {
    failures: Counters<ReasonLabels>,
    refused: Counters<ByLabels>,
    fetches: Counters<FetchLabels>,
    audit_dropped: Counter<u64, AtomicU64>,
}

impl AuthMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let audit_dropped = Counter::default();
        let dropped = "Lines of the audit log that were lost, since they came faster than they could be written";
        r.register("audit_dropped", dropped, audit_dropped.clone());
        let refused = "Requests refused without a look at their credentials, after too many failures";
        Self {
            failures: family(r, "auth_failures", "Credentials that were not taken, by reason"),
            refused: family(r, "auth_refused", refused),
            fetches: family(r, "jwks_fetches", "Attempts to fetch an issuer's keys"),
            audit_dropped,
        }
    }

    /// Credentials were not taken.
    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Credentials were not looked at.
    pub fn refused(&self, by: &'static str) {
        self.refused.get_or_create(&ByLabels { by }).inc();
    }

    /// The handles for one issuer's keys, looked up once.
    pub fn fetches(&self, issuer: &str) -> FetchMetrics {
        let of = |result| self.fetches.get_or_create_owned(&FetchLabels { issuer: issuer.to_owned(), result });
        FetchMetrics { ok: of("ok"), error: of("error") }
    }

    /// Counts lines of the audit log that were lost.
    pub fn audit_dropped(&self) -> Counter<u64, AtomicU64> {
        self.audit_dropped.clone()
    }
}

/// Attempts to fetch one issuer's keys.
pub struct FetchMetrics {
    ok: Counter<u64, AtomicU64>,
    error: Counter<u64, AtomicU64>,
}

impl FetchMetrics {
    /// They came.
    pub fn fetched(&self) {
        self.ok.inc();
    }

    /// They did not.
    pub fn failed(&self) {
        self.error.inc();
    }
}
