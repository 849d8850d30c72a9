//! One tenant's part of a queue: those of it who wait, its credit, and what is known of how long its requests take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::account::Account;
use super::usual::Usual;
use crate::base::worker::Worker;

/// What a round gives the heaviest tenant; the others less, by weight, so that no weight makes a tenant's turn longer. Unit:
/// nanoseconds.
pub const QUANTUM: i64 = 1_000_000;
/// Nobody is kept waiting for more rounds than this by what was used before: 10 s of the heaviest tenant's sessions.
const MOST_ROUNDS: i64 = 10_000;
/// What a turn costs until it is known. Unit: nanoseconds.
const UNKNOWN: i64 = 1_000_000;
/// What takes so much longer than is expected is still through in time.
const SPARE: f64 = 1.25;
/// An estimate below this says little of how good estimates are.
const WORTH_NOTING: Duration = Duration::from_millis(10);

/// So many of the oldest are looked at for one who waits where the session is.
const NEARBY: usize = 8;
/// The oldest is passed over so often at the most.
const MOST_PASSED: u8 = 3;

/// One tenant in one queue.
pub struct Flow<W> {
    pub account: Arc<Account>,
    /// By number, the oldest first.
    pub waiting: VecDeque<Waiting<W>>,
    /// What they will cost.
    pub work: i64,
    /// What it may use before others have their turns; below zero what it owes them.
    pub credit: i64,
    pub weight: u32,
    /// It stands in one of the lists.
    pub is_listed: bool,
    /// How long it usually holds a session.
    pub usual: Usual,
    /// How much longer its requests wait than was expected of them.
    drag: f64,
}

/// One request that waits.
pub struct Waiting<W> {
    pub id: u64,
    pub deadline: Instant,
    pub since: Instant,
    /// How long it would wait, as far as was known when it came.
    pub expected: Option<Duration>,
    /// What it will cost, as far as was known when it came.
    pub cost: i64,
    /// Where it waits: a session from there needs not be moved, and no other thread woken up.
    pub near: Option<Worker>,
    /// How often a later one had its turn while this was the oldest.
    pub passed: u8,
    pub waiter: W,
}

/// How long one more would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Until its turn.
    pub wait: Duration,
    /// Until it is through, with something to spare: who is refused has lost nothing, and who is cancelled halfway has cost the
    /// others a session.
    pub done: Duration,
    /// Until its turn, if estimates were always right.
    pub plain: Duration,
}

impl<W> Flow<W> {
    /// Nobody waits, and nothing is owed.
    pub fn new(account: &Arc<Account>) -> Self {
        Self {
            account: Arc::clone(account),
            waiting: VecDeque::new(),
            work: 0,
            credit: 0,
            weight: account.weight(),
            is_listed: false,
            usual: Usual::default(),
            drag: 1.0,
        }
    }

    /// Takes out whose turn it is of those who wait: the oldest, or one of the oldest that waits `here`. A quarter of the turns at least are
    /// the oldest's, so that nobody waits much longer for being elsewhere, and sessions get to where they are wanted.
    pub fn pop(&mut self, here: Option<Worker>) -> Option<Waiting<W>> {
        let oldest = self.waiting.front_mut()?;
        if here.is_some() && oldest.near != here && oldest.passed < MOST_PASSED {
            oldest.passed += 1;
            let nearby = self.waiting.iter().take(NEARBY).position(|waiting| waiting.near == here);
            return self.waiting.remove(nearby.unwrap_or(0));
        }
        self.waiting.pop_front()
    }

    /// How long a turn takes it; `usually` is how long one takes anybody.
    pub fn takes(&self, usually: Option<Duration>, now: Instant) -> Option<Duration> {
        self.usual.known(now).or(usually)
    }

    /// What a turn is charged with.
    pub fn charge(&self, heaviest: u32, usually: Option<Duration>, now: Instant) -> i64 {
        self.takes(usually, now).map_or(UNKNOWN, nanos).min(self.most_debt(heaviest))
    }

    /// What a round gives it.
    pub fn quantum(&self, heaviest: u32) -> i64 {
        (QUANTUM * i64::from(self.weight) / i64::from(heaviest.max(1))).max(1)
    }

    /// The most it may owe.
    pub fn most_debt(&self, heaviest: u32) -> i64 {
        MOST_ROUNDS * self.quantum(heaviest)
    }

    /// Rounds until it is out of debt.
    pub fn rounds(&self, heaviest: u32) -> i64 {
        let quantum = self.quantum(heaviest);
        if self.credit > 0 { 0 } else { (quantum - self.credit) / quantum }
    }

    /// How long its queue stands in one's way: what is waited for is its part, `share`, of so many `serving` sessions; or all of
    /// them once they are through with `all` the work there is, where the others want less than their parts.
    pub fn expected(&self, share: f64, all: i64, serving: usize, takes: Duration) -> Expected {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let (own, all, serving) = ((self.work - self.credit.min(0)) as f64, all as f64, serving.max(1) as f64);
        let plain = Duration::from_secs_f64((own / share).min(all) / 1e9 / serving);
        let wait = plain.mul_f64(self.drag);
        Expected { wait, done: (wait + takes).mul_f64(SPARE), plain }
    }

    /// What others take without waiting, and what is done to sessions between two uses, shows only in this.
    pub fn note_wait(&mut self, expected: Option<Duration>, waited: Duration) {
        if let Some(expected) = expected.filter(|expected| *expected >= WORTH_NOTING) {
            let drag = waited.as_secs_f64() / expected.as_secs_f64();
            self.drag = (self.drag + (drag - self.drag) / 16.0).clamp(0.5, 4.0);
        }
    }
}

/// In the unit of credit.
pub fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 4)
}
