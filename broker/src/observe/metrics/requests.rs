//! Requests by backend and tenant: the four indicators.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{ActiveGuard, Counters, Gauges, Histograms, family, histograms, in_seconds};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    backend: String,
    tenant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    backend: String,
    tenant: String,
    code: &'static str,
}

/// The families of requests.
#[derive(Clone)]
pub(super) struct Requests {
    by_code: Counters<CodeLabels>,
    seconds: Histograms<RouteLabels>,
    wait_seconds: Histograms<RouteLabels>,
    active: Gauges<RouteLabels>,
}

impl Requests {
    pub(super) fn register(r: &mut Registry) -> Self {
        let requests = "Data requests by backend, tenant and problem code (`ok` without one)";
        let wait = "Time a request waited for a connection";
        Self {
            by_code: family(r, "requests", requests),
            seconds: histograms(r, "request_seconds", "Whole time of a data request", in_seconds),
            wait_seconds: histograms(r, "connection_wait_seconds", wait, in_seconds),
            active: family(r, "active_connections", "Connections lent to a tenant's requests now"),
        }
    }

    pub(super) fn route(&self, tenant: &str, backend: &str) -> RouteMetrics {
        let labels = RouteLabels { backend: backend.to_owned(), tenant: tenant.to_owned() };
        RouteMetrics(Arc::new(Lazy { families: self.clone(), labels, route: OnceLock::new() }))
    }

    fn made(&self, labels: RouteLabels) -> Route {
        let ok = CodeLabels { backend: labels.backend.clone(), tenant: labels.tenant.clone(), code: "ok" };
        Route {
            ok: self.by_code.get_or_create_owned(&ok),
            by_code: self.by_code.clone(),
            seconds: self.seconds.get_or_create_owned(&labels),
            wait_seconds: self.wait_seconds.get_or_create_owned(&labels),
            active: self.active.get_or_create_owned(&labels),
            labels,
        }
    }
}

/// One tenant's requests to one backend. Cheap to clone. Series appear with its first request: most of a hundred thousand
/// tenants are idle, and four series each, with their buckets, would be most of the memory.
#[derive(Clone)]
pub struct RouteMetrics(Arc<Lazy>);

struct Lazy {
    families: Requests,
    labels: RouteLabels,
    route: OnceLock<Route>,
}

/// The handles of one route.
pub struct Route {
    ok: Counter<u64, AtomicU64>,
    by_code: Counters<CodeLabels>,
    /// Whole time of a request. Unit: seconds.
    pub seconds: Histogram,
    /// Time a request waited for a connection. Unit: seconds.
    pub wait_seconds: Histogram,
    active: Gauge<i64, AtomicI64>,
    labels: RouteLabels,
}

impl std::ops::Deref for RouteMetrics {
    type Target = Route;

    /// One atomic read once the route is there.
    fn deref(&self) -> &Route {
        self.0.route.get_or_init(|| self.0.families.made(self.0.labels.clone()))
    }
}

impl Route {
    /// Counts a request that went well.
    pub fn ok(&self) {
        self.ok.inc();
    }

    /// Counts a request that ended in a problem.
    pub fn failed(&self, code: &'static str) {
        let RouteLabels { backend, tenant } = self.labels.clone();
        self.by_code.get_or_create(&CodeLabels { backend, tenant, code }).inc();
    }

    /// Counts a connection as in use until the guard is dropped.
    pub fn active(&self) -> ActiveGuard {
        ActiveGuard::new(self.active.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::observe::Metrics;

    #[test]
    fn the_four_indicators_stand_in_the_text_by_backend_and_tenant() {
        let metrics = Metrics::new();
        let route = metrics.route("acme", "app");
        let guard = route.active();
        route.ok();
        route.failed("overloaded");
        route.wait_seconds.observe(0.01);
        let text = metrics.text();
        for line in [
            "hearth_active_connections{backend=\"app\",tenant=\"acme\"} 1",
            "hearth_connection_wait_seconds_count{backend=\"app\",tenant=\"acme\"} 1",
            "hearth_requests_total{backend=\"app\",tenant=\"acme\",code=\"overloaded\"} 1",
            "hearth_requests_total{backend=\"app\",tenant=\"acme\",code=\"ok\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        drop(guard);
        let _idle = metrics.route("idle", "app");
        assert!(!metrics.text().contains("idle"), "who asks nothing has no series");
        assert!(metrics.text().contains("hearth_active_connections{backend=\"app\",tenant=\"acme\"} 0"));
    }
}
