//! Each tenant's part of the places on an endpoint's lanes.
//!
//! A tenant alone may have nearly all of them, and several divide them evenly; whoever wants more takes leases, where the queue is
//! fair. An eighth is nobody's, so that one who comes finds a place at once, however much another asks. Tenants are told apart by
//! their buckets alone: two that fall into one share its part, and still have their turns at leases. That costs two counts a
//! statement, and no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::pool::queue::BUCKETS;

/// Nobody's part: one of so many.
const FREE: usize = 8;

/// Places in use, by bucket.
#[derive(Debug)]
pub struct Shares {
    used: [AtomicUsize; BUCKETS],
    /// Buckets that use some.
    active: AtomicUsize,
}

/// One place, given up on drop.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    bucket: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self { used: std::array::from_fn(|_| AtomicUsize::new(0)), active: AtomicUsize::new(0) }
    }
}

impl Shares {
    /// One of `places` for the bucket; `None` where it has its part already.
    pub fn take(self: &Arc<Self>, bucket: usize, places: usize) -> Option<Share> {
        let before = self.used[bucket].fetch_add(1, Ordering::AcqRel);
        if before == 0 {
            self.active.fetch_add(1, Ordering::AcqRel);
        }
        let share = Share { shares: Arc::clone(self), bucket };
        let most = (places - places / FREE) / self.active.load(Ordering::Acquire).max(1);
        // One too many is given back by its drop.
        (before < most.max(1)).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.shares.used[self.bucket].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shares.active.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_leaves_room_and_two_have_half_each() {
        let shares = Arc::new(Shares::default());
        let mut loud: Vec<Share> = std::iter::from_fn(|| shares.take(3, 64)).collect();
        assert_eq!(loud.len(), 56);
        let quiet: Vec<Share> = std::iter::from_fn(|| shares.take(4, 64)).collect();
        assert_eq!(quiet.len(), 28);
        assert!(shares.take(3, 64).is_none(), "it has its part, and more");
        loud.truncate(27);
        loud.extend(shares.take(3, 64));
        assert!(loud.len() == 28 && shares.take(3, 64).is_none());
        drop(quiet);
        assert!(shares.take(3, 64).is_some(), "it is alone again");
        drop(loud);
        assert_eq!(shares.active.load(Ordering::Acquire), 0);
        assert!(shares.used.iter().all(|used| used.load(Ordering::Acquire) == 0));
    }

    #[test]
    fn many_have_one_each_at_the_least() {
        let shares = Arc::new(Shares::default());
        let all: Vec<Option<Share>> = (0..BUCKETS).map(|bucket| shares.take(bucket, 8)).collect();
        assert!(all.iter().all(Option::is_some));
    }
}
