//! Requests a second, by governor.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// One tenant's rate.
pub struct Rate {
    limiter: Limiter,
    clock: DefaultClock,
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

/// What is left of a tenant's rate, for the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Requests that may come at once.
    pub remaining: u32,
    /// Seconds until the whole burst is there again, rounded up.
    pub reset_s: u64,
}

impl Rate {
    /// A rate of `per_second` on average, and `burst` at once.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>();
        Self { limiter, clock: DefaultClock::default(), per_second, burst }
    }

    /// Another rate for the same tenant. What was used up of the burst stays used up: a reload gives nothing away.
    #[must_use]
    pub fn under(&self, per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        // The only way to look is to take one.
        let left = self.take().map_or(0, |state| state.remaining + 1);
        let used = self.burst.get().saturating_sub(left).min(burst.get());
        let new = Self::new(per_second, burst);
        if let Some(used) = NonZeroU32::new(used) {
            // Cannot be refused: it is at most the burst, of which nothing is used yet.
            let _ = new.limiter.check_n(used);
        }
        new
    }

    /// True if it is this rate.
    pub fn is(&self, per_second: NonZeroU32, burst: NonZeroU32) -> bool {
        (self.per_second, self.burst) == (per_second, burst)
    }

    /// Takes one request off the rate. Errors: how long until there is one again.
    pub fn take(&self) -> Result<RateState, Duration> {
        match self.limiter.check() {
            Ok(snapshot) => Ok(self.state(snapshot.remaining_burst_capacity())),
            Err(not_until) => Err(not_until.wait_time_from(self.clock.now())),
        }
    }

    /// The rate. Unit: requests a second.
    pub fn per_second(&self) -> u32 {
        self.per_second.get()
    }

    fn state(&self, remaining: u32) -> RateState {
        let used = self.burst.get().saturating_sub(remaining);
        RateState { remaining, reset_s: u64::from(used.div_ceil(self.per_second.get())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_and_the_next_one_told_how_long() {
        let five = NonZeroU32::new(5).expect("not zero");
        let rate = Rate::new(five, five);
        for left in (0..5).rev() {
            assert_eq!(rate.take().expect("in the burst").remaining, left);
        }
        let wait = rate.take().expect_err("the burst is used up");
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
    }

    #[test]
    fn another_rate_keeps_what_was_used_up() {
        let count = |count: u32| NonZeroU32::new(count).expect("not zero");
        let before = Rate::new(count(1), count(10));
        for _ in 0..8 {
            before.take().expect("in the burst");
        }
        let raised = before.under(count(1), count(20));
        assert_eq!(raised.take().expect("12 are left").remaining, 11);
        let lowered = before.under(count(1), count(5));
        assert!(lowered.take().is_err(), "more was used than there is now");
    }
}
