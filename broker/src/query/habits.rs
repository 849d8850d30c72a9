//! What is known of each statement's habits: fast and small, or not. Bounded memory; a statement starts unknown.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Statements remembered; when full, the memory starts anew. At 40 bytes each: 320 KiB.
const MOST: usize = 8_192;
/// Fast and small runs on a lease before a statement may use a lane.
const RUNS: u32 = 3;
/// Slower is not fast. A lane's callers wait for each other, so a tenth of its budget.
const FAST: Duration = Duration::from_millis(5);
/// Larger is not small. Unit: bytes of encoded result.
const SMALL_BYTES: usize = 64 * 1024;
/// How long a statement that was over a lane's budget, or large, stays off it.
const BANNED: Duration = Duration::from_secs(30);
/// How long one stays off that may only have stood behind a slow one. Back on a lease, the slow one is not promoted again.
const DOUBTED: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
enum Habit {
    /// Fast and small so often in a row.
    Good(u32),
    /// Off the lanes until then.
    Banned(Instant),
}

/// The habits of one database's statements.
#[derive(Default)]
pub struct Habits {
    /// The lock guards one look-up.
    known: Mutex<HashMap<u64, Habit>>,
    hash: RandomState,
}

impl Habits {
    /// True for a statement that was fast and small the last few times.
    pub fn are_good(&self, key: &str) -> bool {
        match self.known().get(&self.hash.hash_one(key)) {
            Some(Habit::Good(runs)) => *runs >= RUNS,
            _ => false,
        }
    }

    /// Notes a run on a lease.
    pub fn note(&self, key: &str, took: Duration, bytes: usize) {
        let fingerprint = self.hash.hash_one(key);
        let good = took < FAST && bytes <= SMALL_BYTES;
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        let habit = known.entry(fingerprint).or_insert(Habit::Good(0));
        *habit = match *habit {
            Habit::Banned(until) if Instant::now() < until => Habit::Banned(until),
            Habit::Good(runs) if good => Habit::Good(runs.saturating_add(1)),
            _ if good => Habit::Good(1),
            _ => Habit::Good(0),
        };
    }

    /// Notes a run on a lane behind `ahead` others: a large result takes the statement off, and so does a run that was not fast
    /// for so many.
    pub fn note_on_lane(&self, key: &str, took: Duration, ahead: usize, bytes: usize) {
        let fair = 2 * FAST * u32::try_from(ahead + 1).unwrap_or(u32::MAX);
        if bytes > SMALL_BYTES {
            self.ban(key);
        } else if took > fair {
            self.ban_for(key, DOUBTED);
        }
    }

    /// Takes a statement off the lanes for a while.
    pub fn ban(&self, key: &str) {
        self.ban_for(key, BANNED);
    }

    fn ban_for(&self, key: &str, time: Duration) {
        self.known().insert(self.hash.hash_one(key), Habit::Banned(Instant::now() + time));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Habit>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_statement_is_promoted_by_good_runs_and_demoted_for_a_while() {
        let habits = Habits::default();
        for run in 0..RUNS {
            assert!(!habits.are_good("a"), "after {run} runs");
            habits.note("a", Duration::from_millis(1), 100);
        }
        assert!(habits.are_good("a"));
        habits.note("a", Duration::from_millis(20), 100);
        assert!(!habits.are_good("a"), "one slow run begins anew");
        habits.ban("a");
        for _ in 0..RUNS {
            habits.note("a", Duration::from_millis(1), 100);
        }
        assert!(!habits.are_good("a"), "banned");
        tokio::time::advance(BANNED).await;
        for _ in 0..RUNS {
            habits.note("a", Duration::from_millis(1), 100);
        }
        assert!(habits.are_good("a"));
        habits.note_on_lane("a", Duration::from_millis(70), 9, 100);
        assert!(habits.are_good("a"), "fast, for the tenth in line");
        habits.note_on_lane("a", Duration::from_millis(30), 0, 100);
        assert!(!habits.are_good("a"), "slow, and nobody was ahead");
        tokio::time::advance(DOUBTED).await;
        for _ in 0..RUNS {
            habits.note("a", Duration::from_millis(1), 100);
        }
        habits.note_on_lane("a", Duration::from_millis(1), 0, SMALL_BYTES + 1);
        assert!(!habits.are_good("a"), "too large for a lane");
    }
}
