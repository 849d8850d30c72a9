//! What is seen: metrics for Prometheus, log lines for people and machines.

pub mod metrics;
pub mod telemetry;

pub use metrics::{
    ActiveGuard, ControlMetrics, EndpointMetrics, ForecastReading, LaneMetrics, Metrics, Named, OffLane, PoolMetrics,
    PoolReading, ReloadMetrics, RouteMetrics, StoredCounts,
};
