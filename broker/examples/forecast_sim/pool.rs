//! A pool in simulated time: the events of `checkout`, `opener`, `upkeep` and `plan`, and their rules themselves (`sizing`, `demand`,
//! `service_time`, `share`, `forecast`), over sessions that are only counted.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use hearth_broker::pool::demand::Demand;
use hearth_broker::pool::forecast::Forecast;
use hearth_broker::pool::forecast::need::Seen;
use hearth_broker::pool::service_time::ServiceTime;
use hearth_broker::pool::share::{Claim, fair_shares};
use hearth_broker::pool::sizing::{self, Surplus};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::chance::Chance;
use super::tally::Tally;
use super::trace::Trace;

/// How the pool is sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// So many sessions, always.
    Static(usize),
    /// From what is wanted now.
    Reactive,
    /// And from what is coming.
    Predictive,
}

/// The pool and its server.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub min: usize,
    pub max: usize,
    /// What the server has room for.
    pub room: usize,
    pub lifetime: Duration,
    /// Median time to open a session. Unit: milliseconds.
    pub connect_ms: f64,
    pub seed: u64,
}

/// How much longer some connects take than most.
const CONNECT_SPREAD: f64 = 0.3;
const SECOND: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Session {
    opened: u64,
    returned: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    since: u64,
    hold: u32,
    is_urgent: bool,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Returned {
        opened: u64,
        held: u32,
    },
    Opened,
    /// A caller waits no longer for a session that comes back.
    Impatient {
        waiter: u64,
    },
    Sweep,
}

struct Timed(u64, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Pool {
    setup: Setup,
    origin: Instant,
    now: u64,
    events: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    chance: Chance,
    /// The most recently returned one on top.
    idle: Vec<Session>,
    lent: usize,
    connecting: usize,
    waiting: VecDeque<Waiter>,
    /// The number of the first that waits.
    first_waiter: u64,
    urgent: usize,
    ahead: usize,
    limit: usize,
    retired_last: u64,
    demand: Demand,
    service: ServiceTime,
    /// Sessions that only the forecast asked for.
    added: usize,
    forecast: Option<Forecast>,
    tally: Tally,
}

/// Replays a trace.
pub fn replay(trace: &Trace, mode: Mode, setup: Setup) -> Tally {
    let setup = match mode {
        Mode::Static(size) => Setup { min: size, max: size, ..setup },
        Mode::Reactive | Mode::Predictive => setup,
    };
    let mut pool = Pool::new(setup, (mode == Mode::Predictive).then(Forecast::default), trace);
    let end = trace.length * SECOND;
    let mut requests = trace.requests.iter().peekable();
    // There is always a next event: the next sweep.
    while let Some(next) = pool.events.peek().map(|Reverse(Timed(at, _, _))| *at) {
        // One at a time: what a request brings about may come before the next request.
        if let Some(request) = requests.next_if(|request| request.at <= next) {
            pool.now = request.at;
            pool.checkout(request.hold);
            continue;
        }
        if next > end {
            break;
        }
        let Some(Reverse(Timed(at, _, event))) = pool.events.pop() else { break };
        pool.now = at;
        pool.handle(event);
    }
    pool.tally.finish(end, pool.forecast.as_ref());
    pool.tally
}

impl Pool {
    fn new(setup: Setup, forecast: Option<Forecast>, trace: &Trace) -> Self {
        let origin = Instant::now();
        let mut pool = Self {
            setup,
            origin,
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            chance: Chance(SmallRng::seed_from_u64(setup.seed)),
            idle: Vec::new(),
            lent: 0,
            connecting: 0,
            waiting: VecDeque::new(),
            first_waiter: 0,
            urgent: 0,
            ahead: 0,
            limit: setup.max,
            retired_last: 0,
            demand: Demand::new(origin),
            service: ServiceTime::default(),
            added: 0,
            forecast,
            tally: Tally::new(trace.counted_from * SECOND, trace.length),
        };
        pool.at(0, Event::Sweep);
        pool
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Returned { opened, held } => self.checkin(opened, held),
            Event::Opened => self.opened(),
            Event::Impatient { waiter } => self.impatient(waiter),
            Event::Sweep => self.sweep(),
        }
    }

    fn at(&mut self, micros: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Timed(micros, self.sequence, event)));
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_micros(self.now)
    }

    fn total(&self) -> usize {
        self.idle.len() + self.lent + self.connecting
    }

    fn in_use(&self) -> usize {
        self.lent + self.waiting.len()
    }

    fn checkout(&mut self, hold: u32) {
        if let Some(session) = self.idle.pop() {
            self.tally.waited(self.now, 0);
            self.lend(session, hold);
            self.demand.note(self.instant(), self.in_use());
            return;
        }
        let is_urgent = sizing::is_cold(self.total(), self.limit);
        let waiter = self.first_waiter + self.waiting.len() as u64;
        self.waiting.push_back(Waiter { since: self.now, hold, is_urgent });
        self.demand.note(self.instant(), self.in_use());
        if is_urgent {
            self.urgent += 1;
            self.want();
        } else {
            let patience = self.service.patience(self.chance.uniform());
            self.at(self.now + micros(patience), Event::Impatient { waiter });
        }
    }

    fn lend(&mut self, session: Session, hold: u32) {
        self.lent += 1;
        self.at(self.now + u64::from(hold), Event::Returned { opened: session.opened, held: hold });
    }

    fn checkin(&mut self, opened: u64, held: u32) {
        self.service.note(Duration::from_micros(u64::from(held)));
        self.lent -= 1;
        let is_spent = Duration::from_micros(self.now - opened) > self.setup.lifetime;
        // What goes is still counted while it is asked whether it may.
        let total = self.total() + 1;
        if total > self.limit || (is_spent && self.may_retire(total)) {
            self.counted();
            self.want();
            return;
        }
        self.give(Session { opened, returned: self.now });
    }

    /// To the first that waits, or on top of the idle ones.
    fn give(&mut self, session: Session) {
        let Some(waiter) = self.waiting.pop_front() else { return self.idle.push(session) };
        self.first_waiter += 1;
        self.urgent -= usize::from(waiter.is_urgent);
        self.tally.waited(waiter.since, self.now - waiter.since);
        self.lend(session, waiter.hold);
    }

    fn impatient(&mut self, waiter: u64) {
        let place = waiter.checked_sub(self.first_waiter).and_then(|place| usize::try_from(place).ok());
        if let Some(waiter) = place.and_then(|place| self.waiting.get_mut(place)) {
            waiter.is_urgent = true;
            self.urgent += 1;
            self.want();
        }
    }

    fn want(&mut self) {
        while sizing::may_connect(self.urgent + self.ahead, self.connecting) && self.total() < self.limit {
            self.connecting += 1;
            self.counted();
            let takes = self.chance.log_normal(self.setup.connect_ms, CONNECT_SPREAD);
            self.at(self.now + micros(Duration::from_secs_f64(takes / 1e3)), Event::Opened);
        }
    }

    fn opened(&mut self) {
        self.tally.connected(self.now);
        self.connecting -= 1;
        self.added += usize::from(self.ahead > 0 && self.urgent == 0 && self.total() >= self.setup.min);
        self.ahead = self.ahead.saturating_sub(1);
        self.give(Session { opened: self.now, returned: self.now });
        self.want();
    }

    fn counted(&mut self) {
        self.tally.open(self.now, self.total());
    }

    fn may_retire(&mut self, total: usize) -> bool {
        let may = self.now - self.retired_last >= micros(sizing::spacing(self.setup.lifetime, total));
        if may {
            self.retired_last = self.now;
        }
        may
    }

    fn sweep(&mut self) {
        let now = self.instant();
        self.demand.note(now, self.in_use());
        let (peak, max) = (self.demand.peak(now).max(self.in_use()), self.setup.max);
        let claim = Claim { floor: self.setup.min.max(1), demand: peak, ceiling: max };
        self.limit = fair_shares(self.setup.room, &[claim])[0].clamp(1, max);
        let (mut keep, mut warm) = (self.demand.peak(now).max(self.setup.min), self.setup.min);
        if let Some(forecast) = &mut self.forecast {
            let (served, hold) = self.service.served();
            let (open, lent, waiting) = (self.idle.len() + self.lent, self.lent, self.waiting.len());
            let seen = Seen { since: sizing::SWEEP, served, hold, open, added: self.added, lent, waiting };
            if forecast.note(seen, self.demand.closed(now), self.demand.open(now), self.demand.left(now)) {
                forecast.foresee();
            }
            let wanted = forecast.wanted();
            (keep, warm) = (keep.max(wanted), warm.max(wanted));
        }
        self.tidy(Surplus::of(self.total(), keep, self.added));
        self.ahead = sizing::missing(warm, self.limit, self.total());
        self.want();
        self.tally.second(self.now, self.total());
        self.at(self.now + micros(sizing::SWEEP), Event::Sweep);
    }

    fn tidy(&mut self, mut surplus: Surplus) {
        let unasked = surplus.unasked;
        let mut kept = Vec::with_capacity(self.idle.len());
        while let Some(session) = self.idle.pop() {
            let (age, total) = (Duration::from_micros(self.now - session.opened), self.total() + 1 + kept.len());
            let is_spent =
                age > self.setup.lifetime || (sizing::is_old(age, self.setup.lifetime) && self.may_retire(total));
            let idle = Duration::from_micros(self.now - session.returned);
            if !(is_spent || total > self.limit || surplus.lets_go(idle)) {
                kept.push(session);
            }
        }
        kept.reverse();
        self.idle = kept;
        self.added = self.added.saturating_sub(unasked - surplus.unasked).min(self.total());
        self.counted();
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
