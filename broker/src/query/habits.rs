//! What is known of each statement's habits: fast and small, or not. Bounded memory; a statement starts unknown.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::LaneMetrics;
use crate::observe::OffLane;

/// Statements remembered; when full, the memory starts anew. At about 100 bytes each: 800 KiB.
const MOST: usize = 8_192;
/// Fast and small runs on a lease, less those that were not, before a statement may use a lane.
const RUNS: u16 = 3;
/// The same for one that was taken off a lane lately, and all of them in a row: what is slow one time in a hundred holds up a lane's
/// other callers again and again, and three good runs say nothing of it.
const PROOF: u16 = 2_048;
/// Slower is not fast. A lane's callers wait for each other, so a tenth of its budget.
const FAST: Duration = Duration::from_millis(5);
/// Larger is not small. Unit: bytes of encoded result.
const SMALL_BYTES: usize = 64 * 1024;
/// How long a statement stays off the lanes when it was taken off; twice as long each time.
const FIRST_BAN: Duration = Duration::from_secs(30);
const LONGEST_BAN: Duration = Duration::from_mins(10);
/// A run on a lane counts so much in the average: one that the machine held up says little of the statement.
const WEIGHT: u32 = 16;

/// One statement's habits.
#[derive(Debug, Default)]
pub struct Habit {
    /// Good runs on a lease, up to as many as are needed.
    score: AtomicU16,
    /// Times it was taken off, lately.
    bans: AtomicU8,
    /// Off the lanes until then. Unit: milliseconds since the memory began; 0: not.
    banned_until_ms: AtomicU64,
    /// Average time that a run on a lane took of the lane. Unit: microseconds.
    average_us: AtomicU32,
}

/// The habits of one database's statements.
pub struct Habits {
    /// Locked for one look-up; for writing only where a statement is new.
    known: RwLock<HashMap<u64, Arc<Habit>>>,
    hash: RandomState,
    start: Instant,
    metrics: LaneMetrics,
}

impl Habits {
    /// Nothing known.
    pub fn new(metrics: LaneMetrics) -> Self {
        Self { known: RwLock::default(), hash: RandomState::new(), start: Instant::now(), metrics }
    }

    /// The habits of the statement under `key`.
    pub fn of(&self, key: &str) -> Arc<Habit> {
        let fingerprint = self.hash.hash_one(key);
        if let Some(habit) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&fingerprint) {
            return Arc::clone(habit);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        Arc::clone(known.entry(fingerprint).or_default())
    }

    /// True for a statement that has been fast and small often enough.
    pub fn are_good(&self, habit: &Habit) -> bool {
        habit.score.load(Ordering::Relaxed) >= self.needed(habit) && !self.is_banned(habit)
    }

    /// Notes a run on a lease.
    pub fn note(&self, habit: &Habit, took: Duration, bytes: usize) {
        if self.is_banned(habit) {
            return;
        }
        let good = took < FAST && bytes <= SMALL_BYTES;
        let needed = self.needed(habit);
        let step = |score: u16| match good {
            true => Some((score + 1).min(needed)),
            // On lanes again, it is judged there: a slow run on a lease may be the machine's.
            false if needed == PROOF => Some(if score < needed { 0 } else { score }),
            false => Some(score.saturating_sub(1)),
        };
        let before = habit.score.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(0);
        if good && before == needed - 1 {
            self.metrics.promoted();
        }
    }

    /// Notes a run on a lane that took so much of the lane's time: a large result takes the statement off, and so does being
    /// slow again and again. A single slow run may be the machine's.
    pub fn note_on_lane(&self, habit: &Habit, took: Duration, bytes: usize) {
        if self.is_banned(habit) {
            return;
        }
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let average = habit.average_us.load(Ordering::Relaxed);
        let average = average - average / WEIGHT + took / WEIGHT;
        habit.average_us.store(average, Ordering::Relaxed);
        if bytes > SMALL_BYTES {
            self.ban(habit, OffLane::Large);
        } else if Duration::from_micros(average.into()) > FAST {
            self.ban(habit, OffLane::Slow);
        }
    }

    /// Takes a statement off the lanes for a while.
    pub fn ban(&self, habit: &Habit, reason: OffLane) {
        self.metrics.demoted(reason);
        let now = self.now_ms();
        let times = if self.is_forgiven(habit) { 0 } else { habit.bans.load(Ordering::Relaxed) };
        habit.bans.store(times.saturating_add(1), Ordering::Relaxed);
        let ban = FIRST_BAN.saturating_mul(1 << times.min(8)).min(LONGEST_BAN);
        habit.banned_until_ms.store(now + ms(ban), Ordering::Relaxed);
        habit.average_us.store(0, Ordering::Relaxed);
        habit.score.store(0, Ordering::Relaxed);
    }

    /// What is counted of lanes.
    pub fn metrics(&self) -> &LaneMetrics {
        &self.metrics
    }

    /// Good runs on leases before it may use a lane.
    fn needed(&self, habit: &Habit) -> u16 {
        if self.is_forgiven(habit) { RUNS } else { PROOF }
    }

    /// It was never taken off, or not for so long that it does not count any more.
    fn is_forgiven(&self, habit: &Habit) -> bool {
        let last = habit.banned_until_ms.load(Ordering::Relaxed);
        last == 0 || self.now_ms() > last + ms(LONGEST_BAN)
    }

    fn is_banned(&self, habit: &Habit) -> bool {
        let until = habit.banned_until_ms.load(Ordering::Relaxed);
        until > 0 && self.now_ms() < until
    }

    fn now_ms(&self) -> u64 {
        ms(self.start.elapsed())
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    const MS: Duration = Duration::from_millis(1);

    fn promote(habits: &Habits, habit: &Habit) {
        for _ in 0..habits.needed(habit) {
            assert!(!habits.are_good(habit));
            habits.note(habit, MS, 100);
        }
        assert!(habits.are_good(habit));
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_is_promoted_by_good_runs_and_taken_off_for_longer_each_time() {
        let habits = Habits::new(Metrics::new().lanes("app"));
        let habit = habits.of("a");
        for _ in 0..20 {
            habits.note(&habit, 6 * MS, 100);
            habits.note(&habit, MS, SMALL_BYTES + 1);
            habits.note(&habit, MS, 100);
        }
        assert!(!habits.are_good(&habit), "more bad runs than good ones");
        tokio::time::advance(FIRST_BAN).await;
        let habit = habits.of("b");
        promote(&habits, &habit);
        for ban in [FIRST_BAN, 2 * FIRST_BAN, 4 * FIRST_BAN] {
            habits.ban(&habit, OffLane::OverBudget);
            for _ in 0..PROOF {
                habits.note(&habit, MS, 100);
            }
            assert!(!habits.are_good(&habit), "off, however well it runs meanwhile");
            assert!(habits.is_banned(&habit));
            tokio::time::advance(ban).await;
            for _ in 0..10 {
                for _ in 1..PROOF {
                    habits.note(&habit, MS, 100);
                }
                habits.note(&habit, 100 * MS, 100);
            }
            assert!(!habits.are_good(&habit), "slow once in a while");
            promote(&habits, &habit);
            habits.note(&habit, 100 * MS, 100);
            assert!(habits.are_good(&habit), "proven, it is judged on lanes");
        }
        tokio::time::advance(LONGEST_BAN + MS).await;
        habits.ban(&habit, OffLane::OverBudget);
        tokio::time::advance(FIRST_BAN).await;
        habits.note(&habit, MS, 100);
        assert_eq!((habits.is_banned(&habit), habits.needed(&habit)), (false, PROOF), "as long as the first time");
        tokio::time::advance(LONGEST_BAN + MS).await;
        assert_eq!(habits.needed(&habit), RUNS, "forgiven");
        for _ in 0..RUNS {
            habits.note(&habit, MS, 100);
        }
        assert!(habits.are_good(&habit));
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_run_on_a_lane_is_the_machines_and_many_are_the_statements() {
        let habits = Habits::new(Metrics::new().lanes("app"));
        let habit = habits.of("a");
        promote(&habits, &habit);
        for _ in 0..100 {
            habits.note_on_lane(&habit, 45 * MS, 100);
            assert!(habits.are_good(&habit), "once in a while");
            for _ in 0..40 {
                habits.note_on_lane(&habit, MS, 100);
            }
        }
        for _ in 0..WEIGHT {
            habits.note_on_lane(&habit, 12 * MS, 100);
        }
        assert!(!habits.are_good(&habit), "slow every time");
        tokio::time::advance(FIRST_BAN).await;
        promote(&habits, &habit);
        habits.note_on_lane(&habit, MS, SMALL_BYTES + 1);
        assert!(!habits.are_good(&habit), "too large for a lane");
    }

    #[test]
    fn the_memory_is_bounded() {
        let habits = Habits::new(Metrics::new().lanes("app"));
        for n in 0..3 * MOST {
            habits.of(&n.to_string());
        }
        assert!(habits.known.read().expect("not poisoned").len() <= MOST);
    }
}
