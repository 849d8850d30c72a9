//! Numbers for Prometheus: the four indicators (active connections, connection wait, error rate, throughput) by backend and
//! tenant, and what explains them. Labels come from closed sets: configured names and enums.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// From 100 µs, about one round trip to a database in the same machine, to 26 s, near the default deadline.
const SECONDS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4,
    26.0,
];

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    backend: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    backend: String,
    reason: &'static str,
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The server or the network closed it.
    BackendClosed,
    /// A caller left it in the middle of an exchange, and it could not be brought back.
    Tainted,
    /// A statement changed the session beyond a reset, or the reset failed.
    NotClean,
    /// More were open than there may be.
    Shrink,
    /// It was not needed for long.
    Idle,
    /// It was old.
    Lifetime,
    /// The server has begun another life, or an operator wanted new connections.
    FailoverEpoch,
}

impl CloseReason {
    /// The reason as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendClosed => "backend_closed",
            Self::Tainted => "tainted",
            Self::NotClean => "not_clean",
            Self::Shrink => "shrink",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::FailoverEpoch => "failover_epoch",
        }
    }
}

type Gauges<L> = Family<L, Gauge<i64, AtomicI64>>;
type Counters<L> = Family<L, Counter<u64, AtomicU64>>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of the broker's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Counters<CodeLabels>,
    request_seconds: Histograms<RouteLabels>,
    route_wait_seconds: Histograms<RouteLabels>,
    active: Gauges<RouteLabels>,
    checkout_wait: Histograms<BackendLabels>,
    connections: Gauges<StateLabels>,
    waiting: Gauges<BackendLabels>,
    connect_failures: Counters<BackendLabels>,
    closed: Counters<ReasonLabels>,
    conservation_failures: Counters<BackendLabels>,
    opened: Counters<BackendLabels>,
    listeners: Gauges<BackendLabels>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            route_wait_seconds: Family::new_with_constructor(histogram),
            active: Family::default(),
            checkout_wait: Family::new_with_constructor(histogram),
            connections: Family::default(),
            waiting: Family::default(),
            connect_failures: Family::default(),
            closed: Family::default(),
            conservation_failures: Family::default(),
            opened: Family::default(),
            listeners: Family::default(),
        };
        let mut registry = Registry::with_prefix("hearth");
        let r = &mut registry;
        r.register(
            "requests",
            "Data requests by backend, tenant and problem code (`ok` without one)",
            metrics.requests.clone(),
        );
        r.register("request_seconds", "Whole time of a data request", metrics.request_seconds.clone());
        r.register(
            "connection_wait_seconds",
            "Time a request waited for a connection",
            metrics.route_wait_seconds.clone(),
        );
        r.register("active_connections", "Connections lent to a tenant's requests now", metrics.active.clone());
        r.register(
            "checkout_wait_seconds",
            "Time from asking the pool to having a connection",
            metrics.checkout_wait.clone(),
        );
        r.register(
            "pool_connections",
            "Connections by state: lent or idle; `max` is the ceiling",
            metrics.connections.clone(),
        );
        r.register("pool_waiting", "Callers waiting for a connection", metrics.waiting.clone());
        r.register("connect_failures", "Connections that could not be opened", metrics.connect_failures.clone());
        r.register("connections_closed", "Connections closed by the broker, by reason", metrics.closed.clone());
        r.register(
            "conservation_failures",
            "Sweeps after which a pool's connections did not add up",
            metrics.conservation_failures.clone(),
        );
        r.register("connections_opened", "Connections opened", metrics.opened.clone());
        r.register(
            "db_listeners",
            "Event streams that hear notifications, or wait for it, now",
            metrics.listeners.clone(),
        );
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// The handles for one tenant's requests to one backend, looked up once.
    pub fn route(&self, tenant: &str, backend: &str) -> RouteMetrics {
        let labels = RouteLabels { backend: backend.to_owned(), tenant: tenant.to_owned() };
        RouteMetrics {
            ok: self.requests.get_or_create_owned(&CodeLabels {
                backend: backend.to_owned(),
                tenant: tenant.to_owned(),
                code: "ok",
            }),
            requests: self.requests.clone(),
            seconds: self.request_seconds.get_or_create_owned(&labels),
            wait_seconds: self.route_wait_seconds.get_or_create_owned(&labels),
            active: self.active.get_or_create_owned(&labels),
            labels,
        }
    }

    /// The handles for one backend's pool, looked up once.
    pub fn pool(&self, backend: &str) -> PoolMetrics {
        let labels = BackendLabels { backend: backend.to_owned() };
        PoolMetrics {
            checkout_wait: self.checkout_wait.get_or_create_owned(&labels),
            connect_failures: self.connect_failures.get_or_create_owned(&labels),
            conservation_failures: self.conservation_failures.get_or_create_owned(&labels),
            opened: self.opened.get_or_create_owned(&labels),
            closed: self.closed.clone(),
            listeners: self.listeners.clone(),
            backend: labels.backend,
        }
    }

    /// Sets what is read off a pool at the moment of a scrape.
    pub fn set_pool(&self, backend: &str, lent: usize, idle: usize, max: usize, waiting: u32) {
        for (state, value) in [("lent", lent), ("idle", idle), ("max", max)] {
            let labels = StateLabels { backend: backend.to_owned(), state };
            self.connections.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.waiting.get_or_create(&BackendLabels { backend: backend.to_owned() }).set(i64::from(waiting));
    }

    /// Everything in the `OpenMetrics` text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

/// One tenant's requests to one backend.
#[derive(Clone)]
pub struct RouteMetrics {
    ok: Counter<u64, AtomicU64>,
    requests: Counters<CodeLabels>,
    /// Whole time of a request. Unit: seconds.
    pub seconds: Histogram,
    /// Time a request waited for a connection. Unit: seconds.
    pub wait_seconds: Histogram,
    active: Gauge<i64, AtomicI64>,
    labels: RouteLabels,
}

impl RouteMetrics {
    /// Counts a request that went well.
    pub fn ok(&self) {
        self.ok.inc();
    }

    /// Counts a request that ended in a problem.
    pub fn failed(&self, code: &'static str) {
        let RouteLabels { backend, tenant } = self.labels.clone();
        self.requests.get_or_create(&CodeLabels { backend, tenant, code }).inc();
    }

    /// Counts a connection as in use until the guard is dropped.
    pub fn active(&self) -> ActiveGuard {
        self.active.inc();
        ActiveGuard(self.active.clone())
    }
}

/// Counts one of something as in use until it is dropped.
pub struct ActiveGuard(Gauge<i64, AtomicI64>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One backend's pool.
#[derive(Clone)]
pub struct PoolMetrics {
    /// Time from asking the pool to having a connection. Unit: seconds.
    pub checkout_wait: Histogram,
    /// Connections that could not be opened.
    pub connect_failures: Counter<u64, AtomicU64>,
    /// Sweeps after which connections did not add up.
    pub conservation_failures: Counter<u64, AtomicU64>,
    opened: Counter<u64, AtomicU64>,
    closed: Counters<ReasonLabels>,
    listeners: Gauges<BackendLabels>,
    backend: String,
}

impl PoolMetrics {
    /// Counts an opened shared connection, and says which one it is.
    pub fn opened(&self) -> u64 {
        self.opened.inc()
    }

    /// Counts an event stream until the guard is dropped.
    pub fn listener(&self) -> ActiveGuard {
        let gauge = self.listeners.get_or_create_owned(&BackendLabels { backend: self.backend.clone() });
        gauge.inc();
        ActiveGuard(gauge)
    }

    /// Counts a connection that the broker closed.
    pub fn closed(&self, reason: CloseReason) {
        self.closed.get_or_create(&ReasonLabels { backend: self.backend.clone(), reason: reason.as_str() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_indicators_stand_in_the_text_by_backend_and_tenant() {
        let metrics = Metrics::new();
        let route = metrics.route("acme", "app");
        let guard = route.active();
        route.ok();
        route.failed("overloaded");
        route.wait_seconds.observe(0.01);
        metrics.set_pool("app", 1, 2, 8, 0);
        let text = metrics.text();
        for line in [
            "hearth_active_connections{backend=\"app\",tenant=\"acme\"} 1",
            "hearth_connection_wait_seconds_count{backend=\"app\",tenant=\"acme\"} 1",
            "hearth_requests_total{backend=\"app\",tenant=\"acme\",code=\"overloaded\"} 1",
            "hearth_requests_total{backend=\"app\",tenant=\"acme\",code=\"ok\"} 1",
            "hearth_pool_connections{backend=\"app\",state=\"idle\"} 2",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        drop(guard);
        assert!(metrics.text().contains("hearth_active_connections{backend=\"app\",tenant=\"acme\"} 0"));
    }
}
