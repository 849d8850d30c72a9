//! Tokens of a rate that is shared: leased ahead by recent demand, taken here without waiting.
//!
//! `balance` is what was leased and is not used. It may fall below zero as far as `credit` goes: what is known to be left in Redis,
//! divided by the live brokers. What was taken on credit is charged there with the next lease, whatever is left by then.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::script::{Ask, Script};
use super::{Fleet, IDLE, Leased, Moment};
use crate::tenant::left::Left;

/// A lease holds what will be wanted for so long, by recent demand.
const HORIZON: Duration = Duration::from_millis(150);
/// Where there is plenty a lease is renewed so seldom.
const SELDOM: Duration = Duration::from_millis(200);
/// Nobody who is refused need look again sooner.
const SOONEST: Duration = Duration::from_millis(20);

/// What a shared rate lets in. Its unit is the limit's own: requests, or microseconds of databases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// On average.
    pub per_second: f64,
    /// At once.
    pub burst: i64,
    /// How much may be owed at most.
    pub debt: i64,
    /// The window it was written for, to tell it apart.
    pub window: Duration,
}

/// One rate of one tenant, shared.
pub struct Bucket {
    terms: Terms,
    key: String,
    balance: AtomicI64,
    credit: AtomicI64,
    /// What is owed in Redis: nothing is left before that is paid.
    owed: AtomicI64,
    /// What was asked for since the task looked, refused or not.
    wanted: AtomicI64,
    awake: AtomicBool,
    fleet: Arc<Fleet>,
    pace: Mutex<Pace>,
}

/// What the task knows.
struct Pace {
    /// Unit: a second.
    demand: f64,
    looked: Instant,
    used: Instant,
    asked: Instant,
    /// Since when nothing was granted by Redis or by ourselves.
    granted: Instant,
    /// Part of a token that we are due while alone.
    fraction: f64,
    /// Taken for ourselves while alone; Redis has not heard of it.
    self_granted: i64,
    /// What the last ask has told Redis of: spent from the balance, and self-granted.
    told: (i64, i64),
    /// It is idle, and what is left is known since then: it may sleep.
    refreshed: bool,
}

impl Bucket {
    /// A bucket that has leased nothing yet. It begins on credit: its part of the burst.
    pub fn new(terms: Terms, fleet: &Arc<Fleet>, tenant: &str, policy: &str) -> Arc<Self> {
        let now = Instant::now();
        let pace = Pace {
            demand: 0.0,
            looked: now,
            used: now,
            asked: now - SELDOM,
            granted: now,
            fraction: 0.0,
            self_granted: 0,
            told: (0, 0),
            refreshed: false,
        };
        Arc::new(Self {
            terms,
            key: fleet.key("rate", tenant, policy),
            balance: AtomicI64::new(0),
            credit: AtomicI64::new(part(terms.burst, fleet.live())),
            owed: AtomicI64::new(0),
            wanted: AtomicI64::new(0),
            awake: AtomicBool::new(false),
            fleet: Arc::clone(fleet),
            pace: Mutex::new(pace),
        })
    }

    /// The same tenant's bucket under other terms: what is leased stays, as far as it may.
    pub fn under(&self, terms: Terms, tenant: &str, policy: &str) -> Arc<Self> {
        let new = Self::new(terms, &self.fleet, tenant, policy);
        new.balance.store(self.balance.load(Ordering::Acquire).min(lease(&terms, terms.per_second)), Ordering::Release);
        new.credit.fetch_min(self.credit.load(Ordering::Acquire).max(1), Ordering::AcqRel);
        new.owed.store(self.owed.load(Ordering::Acquire), Ordering::Release);
        new
    }

    /// True if it is this rate in this fleet.
    pub fn is(&self, terms: &Terms, fleet: &Arc<Fleet>) -> bool {
        self.terms == *terms && Arc::ptr_eq(&self.fleet, fleet)
    }

    /// True if it is shared in this fleet.
    pub fn is_in(&self, fleet: &Arc<Fleet>) -> bool {
        Arc::ptr_eq(&self.fleet, fleet)
    }

    /// Takes one. Errors: how long until there is one again; nothing is taken.
    pub fn take(self: &Arc<Self>) -> Result<(), Duration> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        self.wake();
        let floor = -self.credit.load(Ordering::Relaxed);
        let taken = |balance: i64| (balance > floor).then(|| balance - 1);
        self.balance.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).map(drop).map_err(|_| self.wait())
    }

    /// Gives back what was taken for a request that another limit refused.
    pub fn give_back(&self) {
        self.balance.fetch_add(1, Ordering::AcqRel);
    }

    /// Errors: how long until something is left.
    pub fn look(self: &Arc<Self>) -> Result<(), Duration> {
        self.wake();
        if self.balance.load(Ordering::Acquire) > -self.credit.load(Ordering::Relaxed) {
            return Ok(());
        }
        // So that some is leased for whoever comes again.
        self.wanted.fetch_add(1000, Ordering::Relaxed);
        Err(self.wait())
    }

    /// Charges what was used, as far as there may be a debt.
    pub fn charge(self: &Arc<Self>, used: i64) {
        self.wanted.fetch_add(used, Ordering::Relaxed);
        let after = |balance: i64| Some(balance.saturating_sub(used).max((-self.terms.debt).min(balance)));
        let _ = self.balance.fetch_update(Ordering::AcqRel, Ordering::Acquire, after);
        self.wake();
    }

    /// What this broker would let in at once.
    pub fn left(&self) -> Left {
        let remaining = self.balance.load(Ordering::Acquire).saturating_add(self.credit.load(Ordering::Acquire)).max(0);
        let missing = self.terms.burst.saturating_sub(remaining).max(0) + self.owed.load(Ordering::Relaxed);
        Left { remaining: remaining.unsigned_abs(), reset: self.time_for(missing) }
    }

    /// As long as it takes to earn one, and what is owed.
    fn wait(&self) -> Duration {
        self.time_for(self.owed.load(Ordering::Relaxed) + 1).max(SOONEST)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a limit")]
    fn time_for(&self, tokens: i64) -> Duration {
        Duration::try_from_secs_f64(tokens as f64 / self.terms.per_second).unwrap_or(Duration::MAX)
    }

    fn wake(self: &Arc<Self>) {
        if !self.awake.load(Ordering::Relaxed) && !self.awake.swap(true, Ordering::AcqRel) {
            self.fleet.woken(Arc::clone(self) as Arc<dyn Leased>);
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so much off the balance as is there.
    fn withdraw(&self, most: i64) -> i64 {
        let after = |balance: i64| (balance > 0 && most > 0).then(|| balance - most.min(balance));
        let before = self.balance.fetch_update(Ordering::AcqRel, Ordering::Acquire, after);
        before.map_or(0, |balance| most.min(balance))
    }
}

/// An even part, rounded up: the last token is not to be left lying because nobody has a whole part of it.
fn part(of: i64, live: u32) -> i64 {
    let live = i64::from(live);
    if of <= 0 { 0 } else { (of + live - 1) / live }
}

/// What a lease holds at this demand. No more than the rate gives in that time, so that nobody hoards.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the rate")]
fn lease(terms: &Terms, demand: f64) -> i64 {
    if demand <= 0.0 {
        return 0;
    }
    (demand.min(terms.per_second) * HORIZON.as_secs_f64()).ceil() as i64
}

impl Leased for Bucket {
    fn ask(&self, moment: &Moment) -> Option<Ask> {
        let mut pace = self.pace();
        let elapsed = (moment.now - pace.looked).as_secs_f64();
        if elapsed > 0.001 {
            let wanted = self.wanted.swap(0, Ordering::Relaxed);
            if wanted > 0 {
                (pace.used, pace.refreshed) = (moment.now, false);
            }
            #[expect(clippy::cast_precision_loss, reason = "counts of a moment")]
            let rate = wanted as f64 / elapsed;
            // It grows at once and fades over some rounds.
            pace.demand = rate.max(0.5 * rate + 0.5 * pace.demand);
            if pace.demand < 0.01 {
                pace.demand = 0.0;
            }
            pace.looked = moment.now;
        }
        let balance = self.balance.load(Ordering::Acquire);
        let is_idle = moment.ending || moment.now - pace.used > IDLE;
        let target = if is_idle { 0 } else { lease(&self.terms, pace.demand) };
        let credit = self.credit.load(Ordering::Relaxed);
        let has_plenty = credit > 0 && balance + credit > 2 * target;
        if has_plenty && !is_idle && moment.now - pace.asked < SELDOM {
            return None;
        }
        let spent = (-balance).max(0);
        let give = if is_idle || balance > 2 * target + 1 { self.withdraw(balance - target) } else { 0 };
        let want = if give > 0 { 0 } else { (target - balance.max(0)).max(0) };
        // Redis has filled up while nobody asked it: that is taken off again, a burst at most all brokers together.
        let own = std::mem::take(&mut pace.self_granted).min(part(self.terms.burst, moment.live));
        if spent == 0 && give == 0 && want == 0 && own == 0 {
            // What is left there is news too, while it is used and once before it sleeps.
            let is_news =
                if is_idle { !pace.refreshed } else { pace.demand > 0.0 && moment.now - pace.asked >= SELDOM };
            if !is_news {
                return None;
            }
        }
        pace.told = (spent, own);
        pace.asked = moment.now;
        let Terms { per_second, burst, debt, .. } = self.terms;
        let ttl = self.time_for(burst.saturating_add(debt)).as_millis().max(1000).saturating_add(1000);
        let args = [spent + own, want, give].map(|n| n.to_string());
        let args = [per_second.to_string(), burst.to_string(), debt.to_string()].into_iter().chain(args);
        let args = args.chain([ttl.min(7 * 24 * 3_600_000).to_string()]).collect();
        Some(Ask { script: Script::Tokens, key: self.key.clone(), args })
    }

    fn answered(&self, moment: &Moment, [granted, left]: [i64; 2]) {
        let mut pace = self.pace();
        let (spent, _) = std::mem::take(&mut pace.told);
        self.balance.fetch_add(spent.saturating_add(granted), Ordering::AcqRel);
        self.credit.store(part(left, moment.live), Ordering::Release);
        self.owed.store((-left).max(0), Ordering::Release);
        (pace.granted, pace.fraction) = (moment.now, 0.0);
        pace.refreshed = moment.now - pace.used > IDLE;
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "counts of a limit, bounded by its burst"
    )]
    fn alone(&self, moment: &Moment) {
        let mut pace = self.pace();
        // What was told of and not answered to is told again; it was charged twice at worst.
        let (_, own) = std::mem::take(&mut pace.told);
        pace.self_granted = pace.self_granted.saturating_add(own);
        let due = (moment.now - pace.granted).as_secs_f64() * self.terms.per_second / f64::from(moment.live);
        pace.granted = moment.now;
        let most = part(self.terms.burst, moment.live);
        // Our part of what was left goes with it.
        pace.fraction += due + self.credit.swap(0, Ordering::AcqRel).max(0) as f64;
        let whole = pace.fraction.floor().min(most as f64);
        pace.fraction = (pace.fraction - whole).clamp(0.0, 1.0);
        let whole = whole as i64;
        let before = self.balance.fetch_update(Ordering::AcqRel, Ordering::Acquire, |balance| {
            Some(balance.saturating_add(whole).min(most.max(balance)))
        });
        let balance = before.unwrap_or(0);
        pace.self_granted = pace.self_granted.saturating_add(whole.min((most - balance).max(0)));
        self.owed.store(0, Ordering::Release);
        if self.wanted.swap(0, Ordering::Relaxed) > 0 {
            pace.used = moment.now;
        }
        pace.refreshed = moment.now - pace.used > IDLE;
    }

    fn rests(&self, moment: &Moment) -> bool {
        let pace = self.pace();
        if moment.now - pace.used <= IDLE || !pace.refreshed || self.balance.load(Ordering::Acquire) < 0 {
            return false;
        }
        self.awake.store(false, Ordering::Release);
        // Whoever came in between has not been heard.
        self.wanted.load(Ordering::Acquire) == 0 || self.awake.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests;
