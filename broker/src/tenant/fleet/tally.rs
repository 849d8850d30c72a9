//! A day's count over all brokers: each adds what it has counted, and hears what all have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::script::{Ask, Script};
use super::{Fleet, IDLE, Leased, Moment};
use crate::tenant::quota::{Used, day};

/// How often a count that is used is heard.
const OFTEN: Duration = Duration::from_millis(100);
/// A day's count is kept until no clock can think it is that day.
const KEPT: Duration = Duration::from_hours(48);

/// The count of one thing of one tenant.
pub struct Tally {
    key: String,
    used: Arc<Used>,
    awake: AtomicBool,
    fleet: Arc<Fleet>,
    state: Mutex<State>,
}

struct State {
    day: u64,
    /// What all have counted, as far as Redis has told.
    known: u64,
    /// What the last ask told Redis of.
    told: u64,
    /// Counted for others while Redis is away: as much for each as here.
    assumed: u64,
    asked: Instant,
    /// When it last grew here.
    grew: Instant,
}

impl Tally {
    /// A count that Redis does not know yet.
    pub fn new(used: Arc<Used>, fleet: &Arc<Fleet>, tenant: &str, policy: &str) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            key: fleet.key("day", tenant, policy),
            used,
            awake: AtomicBool::new(false),
            fleet: Arc::clone(fleet),
            state: Mutex::new(State { day: 0, known: 0, told: 0, assumed: 0, asked: now - OFTEN, grew: now }),
        })
    }

    /// True if it is shared in this fleet.
    pub fn is_in(&self, fleet: &Arc<Fleet>) -> bool {
        Arc::ptr_eq(&self.fleet, fleet)
    }

    /// It is used.
    pub fn wake(self: &Arc<Self>) {
        if !self.awake.load(Ordering::Relaxed) && !self.awake.swap(true, Ordering::AcqRel) {
            self.fleet.woken(Arc::clone(self) as Arc<dyn Leased>);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new day with the clock, and tells what is counted and not known to the others.
    fn news(&self, state: &mut State, moment: &Moment) -> u64 {
        let count = self.used.count(moment.unix);
        if state.day != day(moment.unix) {
            *state = State { day: day(moment.unix), known: 0, told: 0, assumed: 0, ..*state };
        }
        let news = count.saturating_sub(state.known + state.assumed);
        if news > 0 {
            state.grew = moment.now;
        }
        news
    }
}

impl Leased for Tally {
    fn ask(&self, moment: &Moment) -> Option<Ask> {
        let mut state = self.state();
        let news = self.news(&mut state, moment);
        if moment.now - state.asked < OFTEN && !moment.ending {
            return None;
        }
        (state.asked, state.told) = (moment.now, news);
        let args = [u128::from(state.known), news.into(), KEPT.as_millis()].map(|n| n.to_string()).to_vec();
        Some(Ask { script: Script::Count, key: format!("{}:{}", self.key, state.day), args })
    }

    fn answered(&self, moment: &Moment, [count, _]: [i64; 2]) {
        let mut state = self.state();
        if state.day != day(moment.unix) {
            return;
        }
        let count = count.unsigned_abs();
        let (told, assumed) = (std::mem::take(&mut state.told), std::mem::take(&mut state.assumed));
        let counted = state.known + told + assumed;
        self.used.add(moment.unix, count.saturating_sub(counted));
        self.used.give_back(counted.saturating_sub(count));
        state.known = count;
    }

    fn alone(&self, moment: &Moment) {
        let mut state = self.state();
        let news = self.news(&mut state, moment);
        // All of it is news until Redis is back: what is assumed of the others is no more than that for each.
        let others = news * u64::from(moment.live - 1);
        if others > state.assumed {
            self.used.add(moment.unix, others - state.assumed);
            state.assumed = others;
        }
    }

    fn rests(&self, moment: &Moment) -> bool {
        let state = self.state();
        if moment.now - state.grew <= IDLE || state.asked <= state.grew {
            return false;
        }
        self.awake.store(false, Ordering::Release);
        let grew = self.used.count(moment.unix) > state.known + state.assumed;
        !grew || self.awake.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::tenant::fleet::tests::{fleet, moment};

    fn asked(tally: &Tally) -> Option<[u64; 2]> {
        let ask = tally.ask(&moment())?;
        Some([0, 1].map(|index| ask.args[index].parse().expect("a number")))
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_count_is_added_and_what_is_counted_meanwhile_stays() {
        let used = Arc::<Used>::default();
        let tally = Tally::new(Arc::clone(&used), &fleet(), "acme", "requests-per-day");
        used.add(0, 10);
        assert_eq!(asked(&tally), Some([0, 10]));
        used.add(0, 5);
        tally.answered(&moment(), [30, 0]);
        assert_eq!(used.count(0), 35);
        assert_eq!(asked(&tally), None, "not so soon");
        advance(OFTEN).await;
        assert_eq!(asked(&tally), Some([30, 5]));
        // No answer came: the next one tells the same.
        advance(OFTEN).await;
        assert_eq!(asked(&tally), Some([30, 5]));
        tally.answered(&moment(), [35, 0]);
        assert_eq!(used.count(0), 35);
    }

    #[tokio::test(start_paused = true)]
    async fn alone_it_counts_for_the_others_too_until_they_are_heard() {
        let used = Arc::<Used>::default();
        let tally = Tally::new(Arc::clone(&used), &fleet(), "acme", "requests-per-day");
        for _ in 0..4 {
            used.add(0, 5);
            tally.alone(&moment());
        }
        assert_eq!(used.count(0), 60, "20 here, and as many for each of the two others");
        assert_eq!(asked(&tally), Some([0, 20]));
        tally.answered(&moment(), [23, 0]);
        assert_eq!(used.count(0), 23, "they had three");
    }
}
