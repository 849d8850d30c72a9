//! Lanes by backend: how much they carry, who gets on, and why one is taken off.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Counters, Histograms, family, histograms};

/// Statements ahead of one on its lane: from none to a full lane.
const DEPTHS: [f64; 8] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

type Labels = Vec<(&'static str, String)>;

/// Why a statement is taken off the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffLane {
    /// The server stopped it at the lane's budget, waiting or working.
    OverBudget,
    /// Its result was large.
    Large,
    /// It takes too much of the lane's time on average.
    Slow,
    /// It wanted to write.
    Writes,
}

impl OffLane {
    const ALL: [Self; 4] = [Self::OverBudget, Self::Large, Self::Slow, Self::Writes];

    /// The reason as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OverBudget => "over_budget",
            Self::Large => "large",
            Self::Slow => "slow",
            Self::Writes => "writes",
        }
    }
}

/// The families of lanes.
pub(super) struct Lanes {
    statements: Counters<Labels>,
    promotions: Counters<Labels>,
    demotions: Counters<Labels>,
    depth: Histograms<Labels>,
    again: Counters<Labels>,
}

impl Lanes {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            statements: family(r, "lane_statements", "Statements answered over a lane"),
            promotions: family(r, "lane_promotions", "Statements that were let onto the lanes"),
            demotions: family(r, "lane_demotions", "Statements that were taken off the lanes, by reason"),
            depth: histograms(r, "pipeline_depth", "Statements ahead on the lane", || Histogram::new(DEPTHS)),
            again: family(r, "lane_reruns", "Statements that ran again on a lease"),
        }
    }
}

/// One backend's lanes.
#[derive(Clone)]
pub struct LaneMetrics {
    /// Statements answered over a lane.
    pub statements: Counter<u64, AtomicU64>,
    depth: Histogram,
    /// Statements that ran again on a lease.
    pub again: Counter<u64, AtomicU64>,
    promotions: Counter<u64, AtomicU64>,
    demotions: [Counter<u64, AtomicU64>; 4],
}

impl LaneMetrics {
    pub(super) fn new(lanes: &Arc<Lanes>, backend: &str) -> Self {
        let base = vec![("backend", backend.to_owned())];
        let demoted = |reason: OffLane| {
            let labels = vec![("backend", backend.to_owned()), ("reason", reason.as_str().to_owned())];
            lanes.demotions.get_or_create_owned(&labels)
        };
        Self {
            statements: lanes.statements.get_or_create_owned(&base),
            depth: lanes.depth.get_or_create_owned(&base),
            again: lanes.again.get_or_create_owned(&base),
            promotions: lanes.promotions.get_or_create_owned(&base),
            demotions: OffLane::ALL.map(demoted),
        }
    }

    /// A statement found so many ahead on its lane.
    pub fn depth(&self, ahead: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
        self.depth.observe(ahead as f64);
    }

    /// A statement was let on.
    pub fn promoted(&self) {
        self.promotions.inc();
    }

    /// A statement was taken off.
    pub fn demoted(&self, reason: OffLane) {
        self.demotions[reason as usize].inc();
    }
}
