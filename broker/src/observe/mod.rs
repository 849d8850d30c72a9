//! What is seen: metrics for Prometheus, log lines for people and machines.

pub mod audit;
pub mod metrics;
pub mod telemetry;

pub use audit::{Audit, Event, Who};
pub use metrics::{
    ActiveGuard, AuthMetrics, ControlMetrics, EndpointMetrics, FetchMetrics, FleetMetrics, ForecastReading,
    LaneMetrics, LimitMetrics, ListenerMetrics, Metrics, Named, OffLane, PoolMetrics, PoolReading, ReloadMetrics,
    RouteMetrics, StoredCounts,
};
