//! What is seen: metrics for Prometheus, log lines for people and machines.

pub mod metrics;
pub mod telemetry;

pub use metrics::{
    ActiveGuard, EndpointMetrics, FleetMetrics, ForecastReading, LaneMetrics, LimitMetrics, Metrics, Named, OffLane,
    PoolMetrics, PoolReading, ReloadMetrics, RouteMetrics,
};
