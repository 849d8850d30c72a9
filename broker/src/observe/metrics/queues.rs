//! Those who wait for a session, by tenant: only tenants of whom somebody waits, or was sent away, have lines here.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::Registry;

use super::{Counters, Gauges, family};
use crate::base::TenantId;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    backend: String,
    endpoint: String,
    tenant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShedLabels {
    backend: String,
    endpoint: String,
    tenant: String,
    reason: &'static str,
}

/// The families of queues.
#[derive(Clone)]
pub(super) struct Queues {
    length: Gauges<QueueLabels>,
    shed: Counters<ShedLabels>,
}

impl Queues {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            length: family(r, "queue_length", "Requests waiting for a session, by tenant"),
            shed: family(r, "queue_shed", "Requests that got no session for want of one, by tenant and reason"),
        }
    }
}

/// One endpoint's queue. Cheap to clone.
#[derive(Clone)]
pub struct QueueMetrics {
    queues: Queues,
    backend: Arc<str>,
    endpoint: Arc<str>,
    /// Tenants whose lengths were told last.
    told: Arc<Mutex<HashSet<TenantId>>>,
}

impl QueueMetrics {
    pub(super) fn new(queues: &Queues, backend: &Arc<str>, endpoint: &str) -> Self {
        let (backend, endpoint) = (Arc::clone(backend), endpoint.into());
        Self { queues: queues.clone(), backend, endpoint, told: Arc::default() }
    }

    /// Counts one that got no session. `reason` is a word of an enum.
    pub fn shed(&self, tenant: &TenantId, reason: &'static str) {
        let QueueLabels { backend, endpoint, tenant } = self.labels(tenant);
        self.queues.shed.get_or_create(&ShedLabels { backend, endpoint, tenant, reason }).inc();
    }

    /// Sets the lengths at the moment of a scrape. A tenant of whom nobody waits any more has no line.
    pub fn set(&self, lengths: &[(TenantId, usize)]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, length) in lengths {
            let length = i64::try_from(*length).unwrap_or(i64::MAX);
            self.queues.length.get_or_create(&self.labels(tenant)).set(length);
        }
        let now: HashSet<TenantId> = lengths.iter().map(|(tenant, _)| tenant.clone()).collect();
        for gone in told.difference(&now) {
            self.queues.length.remove(&self.labels(gone));
        }
        *told = now;
    }

    fn labels(&self, tenant: &TenantId) -> QueueLabels {
        QueueLabels {
            backend: self.backend.to_string(),
            endpoint: self.endpoint.to_string(),
            tenant: tenant.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn only_those_who_wait_have_a_line() {
        let metrics = Metrics::new();
        let queues = metrics.pool("app").endpoint("localhost:5432").queues;
        queues.set(&[(TenantId::new("loud"), 7), (TenantId::new("quiet"), 1)]);
        queues.shed(&TenantId::new("loud"), "full");
        let line = "hearth_queue_length{backend=\"app\",endpoint=\"localhost:5432\",tenant=";
        assert!(metrics.text().contains(&format!("{line}\"loud\"}} 7")), "{}", metrics.text());
        queues.set(&[(TenantId::new("loud"), 2)]);
        let text = metrics.text();
        assert!(text.contains(&format!("{line}\"loud\"}} 2")) && !text.contains("\"quiet\""), "{text}");
        assert!(text.contains(
            "hearth_queue_shed_total{backend=\"app\",endpoint=\"localhost:5432\",tenant=\"loud\",reason=\"full\"} 1"
        ));
    }
}
