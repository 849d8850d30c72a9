//! Requests over one window of time, by governor. A rate can be looked at without being used, and what was taken can be given
//! back: several windows of a tenant are charged together or not at all.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::left::Left;

type Limiter = RateLimiter<Touch, State, Since, StateInformationMiddleware>;

/// One tenant's rate over one window. Clones are the same rate.
#[derive(Clone)]
pub struct Rate {
    limiter: Arc<Limiter>,
    state: State,
    /// What one request costs.
    interval: Duration,
    terms: Terms,
}

/// How many requests a rate lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Requests in a window, on average.
    pub requests: NonZeroU32,
    /// The window.
    pub window: Duration,
    /// Requests at once.
    pub burst: NonZeroU32,
}

/// What a check does with the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Touch {
    Take,
    Look,
}

/// The moment at which the whole burst is there again, as governor counts it; 0: it is. Unit: nanoseconds.
#[derive(Clone, Default)]
struct State(Arc<AtomicU64>);

impl StateStore for State {
    type Key = Touch;

    fn measure_and_replace<T, F, E>(&self, touch: &Touch, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let known = |state: u64| (state != 0).then(|| Nanos::from(state));
        let mut before = self.0.load(Ordering::Acquire);
        loop {
            let (told, after) = decide(known(before))?;
            if *touch == Touch::Look {
                return Ok(told);
            }
            match self.0.compare_exchange_weak(before, after.into(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(told),
                Err(now) => before = now,
            }
        }
    }
}

/// Tokio's clock, since a moment.
struct Since(Instant);

impl Clock for Since {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Rate {
    /// A rate of which nothing is used.
    pub fn new(terms: Terms) -> Self {
        let interval = (terms.window / terms.requests.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(interval).expect("is not zero").allow_burst(terms.burst);
        let state = State::default();
        let limiter: RateLimiter<_, _, _, NoOpMiddleware<Duration>> =
            RateLimiter::new(quota, state.clone(), Since(Instant::now()));
        Self { limiter: Arc::new(limiter.with_middleware()), state, interval, terms }
    }

    /// Another rate for the same tenant. What was used up of the burst stays used up: a reload gives nothing away.
    #[must_use]
    pub fn under(&self, terms: Terms) -> Self {
        let used = self.terms.burst.get().saturating_sub(self.remaining()).min(terms.burst.get());
        let new = Self::new(terms);
        if let Some(used) = NonZeroU32::new(used) {
            // Cannot be refused: it is at most the burst, of which nothing is used yet.
            let _ = new.limiter.check_key_n(&Touch::Take, used);
        }
        new
    }

    /// What it lets in.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Takes one request. Errors: how long until there is one again; nothing is taken.
    pub fn take(&self) -> Result<(), Duration> {
        self.limiter.check_key(&Touch::Take).map(drop).map_err(|not| not.wait_time_from(self.limiter.clock().now()))
    }

    /// Gives back what was taken for a request that another limit refused.
    pub fn give_back(&self) {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        // Below the present moment all is the same.
        let given = |state: u64| Some(state.saturating_sub(interval));
        let _ = self.state.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, given);
    }

    fn remaining(&self) -> u32 {
        self.limiter.check_key(&Touch::Look).map_or(0, |state| state.remaining_burst_capacity().saturating_add(1))
    }

    /// What is left of it.
    pub fn left(&self) -> Left {
        let remaining = self.remaining();
        let used = self.terms.burst.get().saturating_sub(remaining);
        Left { remaining: remaining.into(), reset: self.interval * used }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn rate(requests: u32, window: u64, burst: u32) -> Rate {
        Rate::new(terms(requests, window, burst))
    }

    fn terms(requests: u32, window: u64, burst: u32) -> Terms {
        let count = |count| NonZeroU32::new(count).expect("not zero");
        Terms { requests: count(requests), window: Duration::from_secs(window), burst: count(burst) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_in_and_the_next_one_told_how_long() {
        let rate = rate(5, 1, 5);
        for left in (0..5).rev() {
            rate.take().expect("in the burst");
            assert_eq!(rate.left().remaining, left);
            assert_eq!(rate.left().remaining, left, "to look takes nothing");
        }
        assert_eq!(rate.take().expect_err("the burst is used up"), Duration::from_millis(200));
        advance(Duration::from_millis(199)).await;
        assert!(rate.take().is_err());
        advance(Duration::from_millis(1)).await;
        rate.take().expect("one is there again");
        assert_eq!(rate.left(), Left { remaining: 0, reset: Duration::from_secs(1) });
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_lets_its_requests_in_and_no_more() {
        let rate = rate(60, 60, 60);
        assert!((0..60).all(|_| rate.take().is_ok()));
        let mut more = 0;
        for _ in 0..600 {
            advance(Duration::from_millis(100)).await;
            more += u32::from(rate.take().is_ok());
        }
        assert_eq!(more, 60, "over the second minute");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_was_never_taken() {
        let rate = rate(1, 1, 2);
        for _ in 0..10 {
            rate.take().expect("there is one");
            rate.give_back();
        }
        assert_eq!(rate.left().remaining, 2);
        rate.give_back();
        assert_eq!(rate.left().remaining, 2, "and never more than all");
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_keeps_what_was_used_up() {
        let before = rate(1, 1, 10);
        for _ in 0..8 {
            before.take().expect("in the burst");
        }
        assert_eq!(before.under(terms(1, 1, 20)).left().remaining, 12);
        let lowered = before.under(terms(1, 1, 5));
        assert!(lowered.take().is_err(), "more was used than there is now");
        assert_eq!(before.left().remaining, 2, "the old one is as it was");
    }
}
