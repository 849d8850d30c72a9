//! How reloads of the configuration went.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How the last reload went.
#[derive(Clone)]
pub struct ReloadMetrics {
    success: Gauge,
    timestamp: Gauge<f64, AtomicU64>,
}

impl ReloadMetrics {
    /// Registers the metrics. The start counts as a reload that went well.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { success: Gauge::default(), timestamp: Gauge::default() };
        let success =
            "1 if the last reload of the configuration was taken over, 0 if it was refused and changed nothing";
        registry.register("config_reload_success", success, metrics.success.clone());
        let timestamp = "When the configuration in use was read, in seconds since 1970";
        registry.register("config_reload_timestamp_seconds", timestamp, metrics.timestamp.clone());
        metrics.taken();
        metrics
    }

    /// A configuration was taken over.
    pub fn taken(&self) {
        self.success.set(1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.timestamp.set(now.unwrap_or_default().as_secs_f64());
    }

    /// A configuration was refused.
    pub fn refused(&self) {
        self.success.set(0);
    }
}
