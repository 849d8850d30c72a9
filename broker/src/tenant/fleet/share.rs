//! A broker's share of what may be in flight over all brokers: wanted by what ran lately, and held for as long as it is renewed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::script::{Ask, Script};
use super::{Fleet, IDLE, Leased, Moment};

/// A share that is not renewed for so long is everybody's again.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(2);
/// A share that is large enough is renewed so seldom.
const SELDOM: Duration = Duration::from_millis(200);

/// A broker's share of one tenant's limit.
pub struct Share {
    limit: u32,
    key: String,
    /// What runs here.
    count: Arc<AtomicU32>,
    /// How many may.
    most: AtomicU32,
    /// The most that ran or wanted to since the task looked.
    peak: AtomicU32,
    awake: AtomicBool,
    fleet: Arc<Fleet>,
    state: Mutex<State>,
}

struct State {
    /// What was wanted lately.
    need: u32,
    used: Instant,
    asked: Instant,
    /// When Redis has confirmed the share.
    confirmed: Option<Instant>,
}

impl Share {
    /// A share of which Redis does not know yet: an even part, and one at least.
    pub fn new(limit: u32, count: Arc<AtomicU32>, fleet: &Arc<Fleet>, tenant: &str, policy: &str) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            limit,
            key: fleet.key("share", tenant, policy),
            count,
            most: AtomicU32::new(part(limit, fleet.live())),
            peak: AtomicU32::new(0),
            awake: AtomicBool::new(false),
            fleet: Arc::clone(fleet),
            state: Mutex::new(State { need: 0, used: now, asked: now - SELDOM, confirmed: None }),
        })
    }

    /// True if it is a share of this limit in this fleet.
    pub fn is(&self, limit: u32, fleet: &Arc<Fleet>) -> bool {
        self.limit == limit && Arc::ptr_eq(&self.fleet, fleet)
    }

    /// How many may run here, where so many want to.
    pub fn most(self: &Arc<Self>, wanted: u32) -> u32 {
        self.peak.fetch_max(wanted, Ordering::Relaxed);
        if !self.awake.load(Ordering::Relaxed) && !self.awake.swap(true, Ordering::AcqRel) {
            self.fleet.woken(Arc::clone(self) as Arc<dyn Leased>);
        }
        self.most.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, state: &mut State, now: Instant) -> u32 {
        let held = self.count.load(Ordering::Acquire);
        let peak = self.peak.swap(held, Ordering::AcqRel).max(held);
        if peak > 0 {
            state.used = now;
        }
        // It grows at once and fades over some rounds.
        state.need = peak.max(state.need - state.need.div_ceil(8).min(state.need));
        held
    }
}

/// An even part, and one at least: never is everybody refused.
fn part(limit: u32, live: u32) -> u32 {
    (limit / live).max(1)
}

impl Leased for Share {
    fn ask(&self, moment: &Moment) -> Option<Ask> {
        let mut state = self.state();
        let held = self.look(&mut state, moment.now);
        let is_idle = moment.ending || moment.now - state.used > IDLE;
        let want = if is_idle { 0 } else { state.need.max(1) };
        let is_enough = want <= self.most.load(Ordering::Relaxed) && state.confirmed.is_some();
        if is_enough && moment.now - state.asked < SELDOM && !moment.ending {
            return None;
        }
        state.asked = moment.now;
        let numbers = [held, want].map(|n| n.to_string());
        let args = [self.limit.to_string(), moment.me.to_string()].into_iter().chain(numbers);
        let args = args.chain([TIME_TO_LIVE.as_micros().to_string()]).collect();
        Some(Ask { script: Script::Share, key: self.key.clone(), args })
    }

    fn answered(&self, moment: &Moment, [share, _]: [i64; 2]) {
        let mut state = self.state();
        let is_idle = moment.now - state.used > IDLE;
        state.confirmed = (!is_idle).then_some(moment.now);
        let share = u32::try_from(share).unwrap_or(0).min(self.limit.max(self.count.load(Ordering::Acquire)));
        // Asleep it has none, and begins as it began.
        self.most.store(if is_idle { part(self.limit, moment.live) } else { share }, Ordering::Release);
    }

    fn alone(&self, moment: &Moment) {
        let mut state = self.state();
        self.look(&mut state, moment.now);
        // Until then the others count on it.
        if state.confirmed.is_none_or(|confirmed| moment.now - confirmed > TIME_TO_LIVE) {
            state.confirmed = None;
            self.most.store(part(self.limit, moment.live), Ordering::Release);
        }
    }

    fn rests(&self, moment: &Moment) -> bool {
        let state = self.state();
        // What it has is given back first.
        if moment.now - state.used <= IDLE || state.confirmed.is_some() {
            return false;
        }
        self.awake.store(false, Ordering::Release);
        // Whoever came in between has not been heard.
        self.peak.load(Ordering::Acquire) == 0 || self.awake.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::tenant::fleet::tests::{fleet, moment};
    use crate::tenant::inflight::InFlight;

    fn in_flight(limit: u32) -> (InFlight, Arc<Share>) {
        let in_flight =
            InFlight::new(Some(limit)).shared(|count| Share::new(limit, count, &fleet(), "acme", "in-flight"));
        let share = Arc::clone(in_flight.share().expect("is shared"));
        (in_flight, share)
    }

    /// Held, and wanted.
    fn asked(share: &Share) -> Option<[u32; 2]> {
        let ask = share.ask(&moment())?;
        Some([2, 3].map(|index| ask.args[index].parse().expect("a number")))
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_begins_even_and_then_is_what_is_given() {
        let (in_flight, share) = in_flight(30);
        let held: Vec<_> = (0..12).filter_map(|_| in_flight.take().ok()).collect();
        assert_eq!(held.len(), 10);
        assert_eq!(asked(&share), Some([10, 11]), "it wants what was refused too");
        share.answered(&moment(), [28, 1]);
        let more: Vec<_> = (0..30).filter_map(|_| in_flight.take().ok()).collect();
        assert_eq!(more.len(), 18);
        assert_eq!(in_flight.take().expect_err("is full"), 30, "callers are told the whole limit");
        drop((held, more));
        advance(3 * IDLE).await;
        while let Some([held, want]) = asked(&share) {
            assert_eq!(held, 0);
            share.answered(&moment(), [i64::from(want), 1]);
            if share.rests(&moment()) {
                break;
            }
            advance(IDLE).await;
        }
        assert_eq!(share.most.load(Ordering::Acquire), 10, "asleep it has none, and begins as it began");
    }

    #[tokio::test(start_paused = true)]
    async fn alone_it_keeps_its_share_as_long_as_others_count_on_it_and_then_takes_its_part() {
        let (in_flight, share) = in_flight(2);
        let one = in_flight.take().expect("one at least, of two for three");
        asked(&share).expect("asks");
        share.answered(&moment(), [2, 1]);
        share.alone(&moment());
        let two = in_flight.take().expect("its share");
        advance(TIME_TO_LIVE + Duration::from_millis(1)).await;
        share.alone(&moment());
        drop(two);
        assert!(in_flight.take().is_err());
        drop(one);
        assert!(in_flight.take().is_ok(), "one at least");
    }
}
