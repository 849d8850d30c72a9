//! When a pool opens a session and when it lets one go: rules without I/O, followed by the pool and by the simulator alike
//! (`examples/forecast_sim`).

use std::time::Duration;

/// The pool is looked after this often.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Sessions of one pool that may be in the making at once: a cold pool under a storm must not become a storm on the server.
pub const CONNECTS_AT_ONCE: usize = 2;
/// A session beyond what is needed is kept for so long: an open one costs little, opening one does not.
pub const IDLE: Duration = Duration::from_mins(5);
/// Below so much of its limit a pool opens a session at once, in place of waiting for one: a fifth.
const WARM_PART: usize = 5;
/// A session is replaced when it has lived so much of its lifetime, so that its successor is there before it must go.
const OLD: f64 = 0.95;

/// Few enough are open to open one at once.
pub fn is_cold(total: usize, limit: usize) -> bool {
    total < (limit / WARM_PART).max(1)
}

/// True while more are needed than are being opened, and one more may be.
pub fn may_connect(needed: usize, connecting: usize) -> bool {
    needed > connecting && connecting < CONNECTS_AT_ONCE
}

/// How many to open ahead of need so that `wanted` are open, within the limit.
pub fn missing(wanted: usize, limit: usize, total: usize) -> usize {
    wanted.min(limit).saturating_sub(total)
}

/// What is worth keeping open, and what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surplus {
    /// More than is wanted: they go once they were idle for long.
    pub unused: usize,
    /// Opened because of a forecast, and neither foreseen nor needed any more: they go at once.
    pub unasked: usize,
}

impl Surplus {
    /// Of `total`, where `keep` are wanted lately or foreseen, and `added` were opened for a forecast alone.
    pub fn of(total: usize, keep: usize, added: usize) -> Self {
        let unused = total.saturating_sub(keep);
        Self { unused, unasked: unused.min(added) }
    }

    /// True if a session that was idle for so long goes; it is then counted off.
    pub fn lets_go(&mut self, idle: Duration) -> bool {
        let goes = self.unasked > 0 || (self.unused > 0 && idle > IDLE);
        if goes {
            self.unasked = self.unasked.saturating_sub(1);
            self.unused = self.unused.saturating_sub(1);
        }
        goes
    }
}

/// True when an idle session has lived so long that it goes before it must, if one may go now.
pub fn is_old(age: Duration, lifetime: Duration) -> bool {
    age > lifetime.mul_f64(OLD)
}

/// At most one session goes for its age in so long, so that they never go together, whatever their ages.
pub fn spacing(lifetime: Duration, total: usize) -> Duration {
    lifetime / u32::try_from(total.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_forecast_added_in_vain_goes_at_once_and_what_was_used_stays_its_time() {
        let mut surplus = Surplus::of(12, 4, 3);
        assert_eq!(surplus, Surplus { unused: 8, unasked: 3 });
        let gone = (0..12).filter(|_| surplus.lets_go(Duration::ZERO)).count();
        assert_eq!(gone, 3);
        let gone = (0..12).filter(|_| surplus.lets_go(2 * IDLE)).count();
        assert_eq!((gone, surplus), (5, Surplus { unused: 0, unasked: 0 }));
        assert!(!Surplus::of(12, 4, 0).lets_go(Duration::ZERO), "what demand opened is kept its time");
        assert!(!Surplus::of(12, 12, 9).lets_go(2 * IDLE), "what is wanted stays");
    }

    #[test]
    fn a_pool_opens_at_once_while_few_are_open_and_two_at_a_time() {
        assert!(is_cold(0, 1) && is_cold(7, 40) && !is_cold(8, 40));
        assert!(may_connect(1, 0) && may_connect(9, 1) && !may_connect(9, 2) && !may_connect(1, 1));
        assert_eq!((missing(9, 6, 2), missing(1, 6, 2)), (4, 0));
    }
}
