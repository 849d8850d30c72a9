//! Numbers for Prometheus: the four indicators (active connections, connection wait, error rate, throughput) by backend and
//! tenant, and what explains them. An area is a file; each registers its own families here. Labels come from closed sets:
//! configured names and enums. Whoever counts holds handles that were looked up once.

mod auth;
mod control;
mod forecasts;
mod lanes;
mod limits;
mod listener;
mod pools;
mod queues;
mod reloads;
mod requests;
mod scrape;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::base::TenantId;

pub use auth::{AuthMetrics, FetchMetrics};
pub use control::{ControlMetrics, StoredCounts};
pub use forecasts::ForecastReading;
pub use lanes::{LaneMetrics, OffLane};
pub use limits::{FleetMetrics, LimitMetrics};
pub use listener::ListenerMetrics;
pub use pools::{ConnectSeconds, EndpointMetrics, PoolMetrics, PoolReading, Waits};
pub use queues::QueueMetrics;
pub use reloads::ReloadMetrics;
pub use requests::RouteMetrics;
pub use scrape::Named;
pub use workers::WorkerMetrics;

/// From 100 µs, about one round trip to a database in the same machine, to 26 s, near the default deadline.
const SECONDS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4,
    26.0,
];

type Gauges<L> = Family<L, Gauge<i64, AtomicI64>>;
type Counters<L> = Family<L, Counter<u64, AtomicU64>>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of the broker's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: requests::Requests,
    pools: Arc<pools::Pools>,
    lanes: Arc<lanes::Lanes>,
    /// Who was not let in.
    pub auth: AuthMetrics,
    /// Connections of clients.
    pub listener: ListenerMetrics,
    limits: limits::Limits,
    /// How reloads went.
    pub reloads: ReloadMetrics,
    /// What is known of the control database.
    pub control: ControlMetrics,
    /// The threads that serve callers.
    pub workers: WorkerMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("hearth");
        let requests = requests::Requests::register(&mut registry);
        let pools = Arc::new(pools::Pools::register(&mut registry));
        let lanes = Arc::new(lanes::Lanes::register(&mut registry));
        let auth = AuthMetrics::register(&mut registry);
        let limits = limits::Limits::register(&mut registry);
        let listener = ListenerMetrics::register(&mut registry);
        let reloads = ReloadMetrics::register(&mut registry);
        let control = ControlMetrics::register(&mut registry);
        let workers = WorkerMetrics::register(&mut registry);
        Self { registry: Arc::new(registry), requests, pools, lanes, auth, limits, listener, reloads, control, workers }
    }

    /// The handles for one tenant's requests to one backend, looked up once.
    pub fn route(&self, tenant: &str, backend: &str) -> RouteMetrics {
        self.requests.route(tenant, backend)
    }

    /// The handles for one backend's pools, looked up once.
    pub fn pool(&self, backend: &str) -> PoolMetrics {
        PoolMetrics::new(&self.pools, backend)
    }

    /// The handles for one backend's lanes, looked up once.
    pub fn lanes(&self, backend: &str) -> LaneMetrics {
        LaneMetrics::new(&self.lanes, backend)
    }

    /// The counts of one tenant's limit.
    pub fn limit(&self, tenant: &TenantId, policy: &'static str) -> LimitMetrics {
        self.limits.of(tenant, policy)
    }

    /// How brokers share limits.
    pub fn fleet(&self) -> FleetMetrics {
        self.limits.fleet()
    }

    /// Everything in the `OpenMetrics` text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// The same without the lines that `keep` does not keep.
    pub fn text_where(&self, keep: impl Fn(Named<'_>) -> bool) -> String {
        scrape::filtered(&self.text(), keep)
    }
}

/// Counts one of something as in use until it is dropped.
pub struct ActiveGuard(Gauge<i64, AtomicI64>);

impl ActiveGuard {
    fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Registers a family and hands it out.
fn family<M: Metric + Default + Clone>(registry: &mut Registry, name: &str, help: &str) -> M {
    let made = M::default();
    registry.register(name, help, made.clone());
    made
}

/// The same for histograms with buckets of their own.
fn histograms<L>(registry: &mut Registry, name: &str, help: &str, empty: fn() -> Histogram) -> Histograms<L>
where
    L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let made = Family::new_with_constructor(empty);
    registry.register(name, help, made.clone());
    made
}

fn in_seconds() -> Histogram {
    Histogram::new(SECONDS)
}
