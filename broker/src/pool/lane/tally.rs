//! What lanes have done since somebody last looked.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of all lanes of one endpoint.
#[derive(Debug, Default)]
pub struct Tally {
    asked: AtomicU64,
    ahead: AtomicU64,
    over_budget: AtomicU64,
}

/// One reading of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Statements that took a lane, or found all of them full.
    pub asked: u64,
    /// Statements ahead of these, all together.
    pub ahead: u64,
    /// Statements that the server stopped at the lane's budget.
    pub over_budget: u64,
}

impl Tally {
    /// A statement found so many ahead.
    pub fn asked(&self, ahead: usize) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.ahead.fetch_add(ahead as u64, Ordering::Relaxed);
    }

    /// The server stopped one at the lane's budget.
    pub fn over_budget(&self) {
        self.over_budget.fetch_add(1, Ordering::Relaxed);
    }

    /// What has happened since the last call.
    pub fn take(&self) -> Counts {
        Counts {
            asked: self.asked.swap(0, Ordering::Relaxed),
            ahead: self.ahead.swap(0, Ordering::Relaxed),
            over_budget: self.over_budget.swap(0, Ordering::Relaxed),
        }
    }
}

impl Counts {
    /// Statements that one found ahead of it, on average.
    pub fn depth(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a second's worth of statements")]
        if self.asked == 0 { 0.0 } else { self.ahead as f64 / self.asked as f64 }
    }
}
