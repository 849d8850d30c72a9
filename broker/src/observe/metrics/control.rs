//! The control database, as this broker sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::family;

/// What is known of the control database. All zero where there is none.
#[derive(Clone)]
pub struct ControlMetrics {
    up: Gauge,
    is_out: Arc<AtomicBool>,
    sequence: Gauge,
    tenants: Gauge,
    keys: Gauge,
    faulty: Gauge,
    shadowed: Gauge,
    changes: Counter<u64, AtomicU64>,
    failures: Counter<u64, AtomicU64>,
}

/// How many of what are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredCounts {
    /// Tenants in force.
    pub tenants: usize,
    /// Their keys.
    pub keys: usize,
    /// Tenants whose rows cannot be used.
    pub faulty: usize,
    /// Tenants that stand in the file too, which wins.
    pub shadowed: usize,
}

impl ControlMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            up: family(r, "control_up", "1 while the control database is read"),
            is_out: Arc::default(),
            sequence: family(r, "control_sequence", "Number of the last change in force here"),
            tenants: family(r, "control_tenants", "Tenants of the control database in force"),
            keys: family(r, "control_keys", "Keys of the control database in force"),
            faulty: family(r, "control_faulty_tenants", "Tenants whose rows cannot be used and that stay as they were"),
            shadowed: family(r, "control_shadowed_tenants", "Tenants of the control database that the file has too"),
            changes: family(r, "control_changes", "Changes of tenants taken over"),
            failures: family(r, "control_failures", "Times that the control database could not be read"),
        }
    }

    /// The control database is read.
    pub fn up(&self) {
        self.is_out.store(false, Ordering::Relaxed);
        self.up.set(1);
    }

    /// True while it is read.
    pub fn is_up(&self) -> bool {
        self.up.get() == 1
    }

    /// It could not be read. True the first time of an outage.
    pub fn failed(&self) -> bool {
        self.failures.inc();
        self.up.set(0);
        !self.is_out.swap(true, Ordering::Relaxed)
    }

    /// There is none any more.
    pub fn gone(&self) {
        self.up.set(0);
    }

    /// Changes were taken over.
    pub fn applied(&self, sequence: i64, changes: usize, counts: StoredCounts) {
        self.sequence.set(sequence);
        self.changes.inc_by(changes as u64);
        self.holds(counts);
    }

    /// How many there are now.
    pub fn holds(&self, counts: StoredCounts) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.tenants.set(number(counts.tenants));
        self.keys.set(number(counts.keys));
        self.faulty.set(number(counts.faulty));
        self.shadowed.set(number(counts.shadowed));
    }
}
