//! The threads that serve callers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Gauges, family};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabels {
    worker: u32,
}

/// The families of workers. Cheap to clone.
#[derive(Clone)]
pub struct WorkerMetrics {
    connections: Gauges<WorkerLabels>,
    busy: Family<WorkerLabels, Counter<f64, AtomicU64>>,
}

impl WorkerMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let busy = "Time a worker was not waiting for anything: near 1 a second it is at its end";
        Self {
            connections: family(r, "worker_connections", "Connections of callers that a worker serves now"),
            busy: family(r, "worker_busy_seconds", busy),
        }
    }

    /// Notes how a worker does: its connections, and the time it was busy since it began.
    pub fn note(&self, worker: usize, connections: usize, busy: Duration) {
        let labels = WorkerLabels { worker: u32::try_from(worker).unwrap_or(u32::MAX) };
        let connections = i64::try_from(connections).unwrap_or(i64::MAX);
        self.connections.get_or_create(&labels).set(connections);
        // Told as a sum already: a counter counts what is added.
        self.busy.get_or_create(&labels).inner().store(busy.as_secs_f64().to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn each_worker_has_its_series() {
        let metrics = Metrics::new();
        metrics.workers.note(0, 3, Duration::from_millis(1500));
        metrics.workers.note(0, 2, Duration::from_millis(2500));
        metrics.workers.note(1, 0, Duration::ZERO);
        let text = metrics.text();
        for line in [
            "hearth_worker_connections{worker=\"0\"} 2",
            "hearth_worker_busy_seconds_total{worker=\"0\"} 2.5",
            "hearth_worker_connections{worker=\"1\"} 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
