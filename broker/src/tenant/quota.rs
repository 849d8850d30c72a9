//! What a tenant may use in a day. A day is UTC's, and its count begins anew with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::fleet::Tally;
use super::left::Left;

const DAY: u64 = 24 * 60 * 60;

/// What a tenant may use of one thing in a day.
#[derive(Clone)]
pub struct Quota {
    used: Arc<Used>,
    limit: u64,
    /// How it is shared with other brokers, if it is.
    tally: Option<Arc<Tally>>,
}

/// What was used on one day.
#[derive(Default)]
pub struct Used {
    /// Which day, counted from 1970.
    day: AtomicU64,
    count: AtomicU64,
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Used {
    /// What was used on the day of this moment.
    pub fn count(&self, now: u64) -> u64 {
        self.turn(now);
        self.count.load(Ordering::Acquire)
    }

    /// Adds to it, and tells what it is then.
    pub fn add(&self, now: u64, more: u64) -> u64 {
        self.turn(now);
        self.count.fetch_add(more, Ordering::AcqRel).saturating_add(more)
    }

    /// Takes something off again.
    pub fn give_back(&self, less: u64) {
        let _ = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| Some(count.saturating_sub(less)));
    }

    /// Begins a new day. What is charged in the same instant may be lost with the old one.
    fn turn(&self, now: u64) {
        let (today, known) = (now / DAY, self.day.load(Ordering::Acquire));
        // A clock that was set back does not give yesterday's quota again.
        if today > known && self.day.compare_exchange(known, today, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.count.store(0, Ordering::Release);
        }
    }
}

/// Which day a moment belongs to, counted from 1970.
pub fn day(now: u64) -> u64 {
    now / DAY
}

/// How long until midnight.
pub fn until_midnight(now: u64) -> Duration {
    Duration::from_secs(DAY - now % DAY)
}

impl Quota {
    /// So much a day.
    pub fn new(limit: u64) -> Self {
        Self { used: Arc::default(), limit, tally: None }
    }

    /// The same count shared with other brokers.
    #[must_use]
    pub fn shared(self, tally: impl FnOnce(Arc<Used>) -> Arc<Tally>) -> Self {
        Self { tally: Some(tally(Arc::clone(&self.used))), ..self }
    }

    /// The same count, shared with nobody.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { tally: None, ..self }
    }

    /// The same count under another limit.
    #[must_use]
    pub fn under(&self, limit: u64) -> Self {
        Self { limit, ..self.clone() }
    }

    /// What it allows in a day.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How it is shared with other brokers, if it is.
    pub fn tally(&self) -> Option<&Arc<Tally>> {
        self.tally.as_ref()
    }

    /// Errors: how long until there is something again.
    pub fn look(&self, now: u64) -> Result<(), Duration> {
        self.wake();
        if self.used.count(now) < self.limit { Ok(()) } else { Err(until_midnight(now)) }
    }

    /// Takes one. Errors: how long until there is one again; nothing is taken.
    pub fn take(&self, now: u64) -> Result<(), Duration> {
        self.wake();
        if self.used.add(now, 1) <= self.limit {
            return Ok(());
        }
        self.used.give_back(1);
        Err(until_midnight(now))
    }

    /// Charges what was used, over the limit too.
    pub fn charge(&self, now: u64, used: u64) {
        if used > 0 {
            self.used.add(now, used);
            self.wake();
        }
    }

    /// What is left of it today.
    pub fn left(&self, now: u64) -> Left {
        Left { remaining: self.limit.saturating_sub(self.used.count(now)), reset: until_midnight(now) }
    }

    fn wake(&self) {
        if let Some(tally) = &self.tally {
            tally.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 20_000 * DAY + DAY / 2;

    #[test]
    fn a_day_is_used_up_until_midnight() {
        let quota = Quota::new(3);
        for left in [2, 1, 0] {
            quota.take(NOON).expect("there is one");
            assert_eq!(quota.left(NOON).remaining, left);
        }
        assert_eq!(quota.take(NOON), Err(Duration::from_hours(12)));
        assert_eq!(quota.take(NOON + DAY / 2 - 1), Err(Duration::from_secs(1)));
        quota.take(NOON + DAY / 2).expect("a new day");
        assert_eq!(quota.take(NOON), Ok(()), "a clock set back stays in the new day");
        assert_eq!(quota.left(NOON + DAY / 2).remaining, 1);
    }

    #[test]
    fn what_is_charged_afterwards_may_pass_the_limit_once() {
        let quota = Quota::new(1000);
        quota.look(NOON).expect("nothing is used");
        quota.charge(NOON, 999);
        quota.look(NOON).expect("one is left");
        quota.charge(NOON, 5000);
        assert_eq!(quota.look(NOON), Err(Duration::from_hours(12)));
        let raised = quota.under(10_000);
        assert_eq!(raised.left(NOON).remaining, 4001, "a reload gives nothing away");
    }
}
