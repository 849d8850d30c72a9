//! How many sessions were wanted at once, lately: a high-water mark a bucket, since an average hides the burst a pool is for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One bucket's length.
pub const BUCKET: Duration = Duration::from_secs(10);
/// Buckets in the window: growth shows at once, and is forgotten after this many.
const WINDOW: u64 = 3;
const SLOTS: usize = 4;

/// High-water marks of what is lent, shared and waited for, in a ring.
#[derive(Debug)]
pub struct Demand {
    start: Instant,
    /// A bucket's number in the upper half, its mark in the lower.
    slots: [AtomicU64; SLOTS],
}

impl Demand {
    /// None yet.
    pub fn new(start: Instant) -> Self {
        Self { start, slots: Default::default() }
    }

    /// Notes that so many are wanted now.
    pub fn note(&self, now: Instant, wanted: usize) {
        let bucket = self.bucket(now);
        let mark = bucket << 32 | (wanted as u64).min(u64::from(u32::MAX));
        // Of one bucket the larger mark stays; a later bucket's is always larger.
        self.slots[Self::slot(bucket)].fetch_max(mark, Ordering::AcqRel);
    }

    /// The highest mark of the window.
    pub fn peak(&self, now: Instant) -> usize {
        let bucket = self.bucket(now);
        (bucket.saturating_sub(WINDOW - 1)..=bucket).map(|bucket| self.mark(bucket)).max().unwrap_or(0)
    }

    /// The mark of the last bucket that is over, and the bucket's number.
    pub fn closed(&self, now: Instant) -> (u64, usize) {
        let last = self.bucket(now).saturating_sub(1);
        (last, self.mark(last))
    }

    /// The mark so far of the bucket that is open, and the bucket's number.
    pub fn open(&self, now: Instant) -> (u64, usize) {
        let bucket = self.bucket(now);
        (bucket, self.mark(bucket))
    }

    /// How long the bucket stays open.
    pub fn left(&self, now: Instant) -> Duration {
        let since = (now - self.start).as_secs_f64();
        BUCKET.saturating_sub(Duration::from_secs_f64(since % BUCKET.as_secs_f64()))
    }

    fn mark(&self, bucket: u64) -> usize {
        let mark = self.slots[Self::slot(bucket)].load(Ordering::Acquire);
        if mark >> 32 == bucket { usize::try_from(mark & u64::from(u32::MAX)).unwrap_or(usize::MAX) } else { 0 }
    }

    /// Counted from 1, so that an empty slot is of no bucket.
    fn bucket(&self, now: Instant) -> u64 {
        (now - self.start).as_secs() / BUCKET.as_secs() + 1
    }

    fn slot(bucket: u64) -> usize {
        usize::try_from(bucket % SLOTS as u64).expect("less than the number of slots")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_at_once_and_forgotten_after_the_window() {
        let start = Instant::now();
        let demand = Demand::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        demand.note(at(1), 9);
        demand.note(at(2), 4);
        assert_eq!(demand.peak(at(2)), 9);
        demand.note(at(12), 3);
        assert_eq!(demand.closed(at(12)), (1, 9));
        assert_eq!(demand.peak(at(29)), 9);
        assert_eq!(demand.peak(at(30)), 3);
        assert_eq!(demand.peak(at(600)), 0);
        demand.note(at(604), 2);
        assert_eq!((demand.open(at(604)), demand.left(at(604))), ((61, 2), Duration::from_secs(6)));
    }
}
