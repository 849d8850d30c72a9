//! Time of databases, charged when it is known. Whoever has something left is let in, and may owe afterwards.
//!
//! Kept as a moment: when everything will be there again. One that much is used of lies far ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::left::Left;

/// So many seconds' worth may be used at once: a report of a few seconds is no offence.
pub const BURST: Duration = Duration::from_secs(10);
/// So many seconds' worth may be owed. What is used beyond is forgiven: nobody is refused for longer than this.
pub const MOST_DEBT: Duration = Duration::from_mins(1);

/// One tenant's time of databases.
#[derive(Clone)]
pub struct Debt {
    state: Arc<State>,
    per_second: u32,
}

struct State {
    start: Instant,
    /// When all of it is there again, from `start`. Unit: nanoseconds.
    whole_at: AtomicU64,
}

impl Debt {
    /// So many milliseconds a second, nothing of it used.
    pub fn new(per_second: u32) -> Self {
        let state = State { start: Instant::now(), whole_at: AtomicU64::new(0) };
        Self { state: Arc::new(state), per_second: per_second.max(1) }
    }

    /// The same under another limit. What is owed stays owed for as long: a reload gives nothing away.
    #[must_use]
    pub fn under(&self, per_second: u32) -> Self {
        Self { per_second: per_second.max(1), ..self.clone() }
    }

    /// Errors: how long until something is left.
    pub fn look(&self) -> Result<(), Duration> {
        match self.used().checked_sub(BURST) {
            None => Ok(()),
            Some(owed) => Err(owed + Duration::from_millis(1)),
        }
    }

    /// Charges what was used.
    pub fn charge(&self, time: Duration) {
        let cost = u64::try_from(time.as_nanos() * 1000 / u128::from(self.per_second)).unwrap_or(u64::MAX);
        let now = self.now();
        let most = now.saturating_add(nanos(BURST + MOST_DEBT));
        let after = |whole_at: u64| Some(whole_at.max(now).saturating_add(cost).min(most.max(whole_at)));
        let _ = self.state.whole_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, after);
    }

    /// What is left of it. Unit: milliseconds.
    pub fn left(&self) -> Left {
        let used = self.used();
        let free = BURST.saturating_sub(used).as_millis() * u128::from(self.per_second) / 1000;
        Left { remaining: u64::try_from(free).unwrap_or(u64::MAX), reset: used }
    }

    /// How long it takes until all of it is there again.
    fn used(&self) -> Duration {
        Duration::from_nanos(self.state.whole_at.load(Ordering::Acquire).saturating_sub(self.now()))
    }

    fn now(&self) -> u64 {
        nanos(self.state.start.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn whoever_has_something_left_is_let_in_and_may_owe_afterwards() {
        let debt = Debt::new(500);
        assert_eq!(debt.left().remaining, 5_000);
        debt.look().expect("nothing is used");
        debt.charge(4 * SECOND);
        debt.look().expect("a second is left");
        debt.charge(3 * SECOND);
        assert_eq!(debt.left(), Left { remaining: 0, reset: 14 * SECOND });
        let wait = debt.look().expect_err("two seconds are owed");
        assert!((4 * SECOND..5 * SECOND).contains(&wait), "half of a second comes back each second: {wait:?}");
        advance(wait).await;
        debt.look().expect("it is paid");
        advance(60 * SECOND).await;
        assert_eq!(debt.left().remaining, 5_000, "and no more than all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_is_bounded_and_survives_another_limit() {
        let debt = Debt::new(1);
        for _ in 0..3 {
            debt.charge(3600 * SECOND);
        }
        let wait = debt.look().expect_err("an hour is owed");
        assert!(wait <= MOST_DEBT + SECOND, "{wait:?}");
        let raised = debt.under(1000);
        assert_eq!(raised.look(), Err(wait));
        advance(wait).await;
        raised.look().expect("it is paid");
        raised.charge(2 * SECOND);
        assert!(debt.look().is_err(), "both are the same debt");
    }
}
