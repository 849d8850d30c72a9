//! Opening sessions: only when waiting is worse, few at once, and in tasks of their own, so that a caller who leaves throws
//! nothing away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::breaker::{Breaker, CONNECT, LOGIN, Open};
use super::decision::{Hold, LastHold, Trigger, Verdict};
use super::endpoint::Endpoint;
use super::event::{BreakerName, ErrorReason, Event, OpenReason};
use super::journal::Facts;
use super::ledger::{Alive, Entry, State};
use super::postgres::Session;
use super::sizing::{self, CONNECTS_AT_ONCE};

/// The state of one endpoint's opening.
pub struct Opening {
    /// Callers for whom waiting has become worse than a new session.
    urgent: AtomicUsize,
    /// Sessions to be opened ahead of need.
    ahead: AtomicUsize,
    /// The lock makes a place in the ledger and the look at its room one step.
    placing: Mutex<Pace>,
    pub(super) breaker: Breaker,
    /// A server that answers and refuses the login is not away: it is asked again much later.
    pub(super) logins: Breaker,
    pub(super) last_hold: LastHold,
    failures: watch::Sender<Option<Arc<Failure>>>,
}

struct Pace {
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// A session that could not be opened.
#[derive(Debug)]
pub struct Failure {
    /// What the driver said.
    pub error: Arc<tokio_postgres::Error>,
    /// The server is there and has no room.
    pub is_full: bool,
}

/// Makes one caller's need urgent until it is dropped.
pub(super) struct Urgent<'a>(&'a AtomicUsize);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Opening {
    /// Nothing opened yet.
    pub fn new() -> Self {
        Self {
            urgent: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
            placing: Mutex::new(Pace { backoff: Backoff::new(), not_before: None }),
            breaker: Breaker::new(CONNECT),
            logins: Breaker::new(LOGIN),
            last_hold: LastHold::default(),
            failures: watch::Sender::new(None),
        }
    }

    /// Hears of each session that could not be opened from now on.
    pub(super) fn failures(&self) -> watch::Receiver<Option<Arc<Failure>>> {
        self.failures.subscribe()
    }

    pub(super) fn urgent(&self) -> usize {
        self.urgent.load(Ordering::Acquire)
    }

    pub(super) fn ahead(&self) -> usize {
        self.ahead.load(Ordering::Acquire)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// A caller that waits no longer for one that comes back.
    pub(super) fn urgent(self: &Arc<Self>) -> Urgent<'_> {
        self.opening.urgent.fetch_add(1, Ordering::AcqRel);
        let urgent = Urgent(&self.opening.urgent);
        self.want();
        urgent
    }

    /// Opens sessions until `count` are open or being opened.
    pub(super) fn open_ahead(self: &Arc<Self>, count: usize) {
        let missing = sizing::missing(count, self.limit(), self.ledger.total());
        self.opening.ahead.store(missing, Ordering::Release);
        self.want();
    }

    /// While there are no open sessions and a breaker is open: which, and for how long.
    pub(super) fn is_shut(&self) -> Option<(BreakerName, Open)> {
        if self.ledger.total() > 0 {
            return None;
        }
        let connect = self.opening.breaker.shut().map(|open| (BreakerName::Connect, open));
        connect.or_else(|| self.opening.logins.shut().map(|open| (BreakerName::Login, open)))
    }

    /// Opens what is needed now, as far as gate, limit and server allow. Called wherever one of them may have changed.
    pub(super) fn want(self: &Arc<Self>) {
        loop {
            let opening = self.ledger.count(State::Connecting);
            let urgent = self.opening.urgent();
            let needed = urgent + self.opening.ahead();
            if !sizing::may_connect(needed, opening) {
                if needed > opening {
                    self.hold(Hold::Gate);
                }
                return;
            }
            match self.place() {
                Ok((entry, alive)) => {
                    let trigger = if urgent > opening { Trigger::Demand } else { Trigger::Ahead };
                    self.decide(trigger, Verdict::Open);
                    self.cleaning.spawn(Arc::clone(self).open(entry, alive, trigger));
                }
                Err(hold) => return hold.map_or((), |hold| self.hold(hold)),
            }
        }
    }

    /// A place for one more session. Errors: why there is none; `None` for a pool that is closed.
    fn place(&self) -> Result<(Entry, Alive), Option<Hold>> {
        let pace = self.opening.pace();
        if self.idle.is_closed() {
            return Err(None);
        }
        if pace.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(Some(Hold::Backoff));
        }
        if self.ledger.count(State::Connecting) >= CONNECTS_AT_ONCE {
            return Err(Some(Hold::Gate));
        }
        if self.ledger.total() >= self.limit() {
            // Another broker may have left since the last look, or another pool.
            self.server.look_if_old();
            return Err(Some(Hold::Limit));
        }
        if self.opening.breaker.permit().is_err() {
            return Err(Some(Hold::Breaker));
        }
        if self.opening.logins.permit().is_err() {
            self.opening.breaker.release();
            return Err(Some(Hold::Login));
        }
        if !self.server.take_grant(self.ledger.total() == 0) {
            self.opening.breaker.release();
            self.opening.logins.release();
            return Err(Some(Hold::Grant));
        }
        Ok((self.ledger.entry(), self.ledger.born()))
    }

    async fn open(self: Arc<Self>, entry: Entry, alive: Alive, trigger: Trigger) {
        let begun = Instant::now();
        let dialled = {
            let _turn = self.server.gate.acquire().await;
            // Read before dialling: what changes while the session opens is then newer than the session.
            let (epoch, schema_epoch) = (self.epoch(), self.schema_epoch());
            self.connector.dial(Some(alive)).await.map(|dialled| (dialled, epoch, schema_epoch))
        };
        match dialled {
            Ok((dialled, epoch, schema_epoch)) => {
                let (seconds, took) = (&self.metrics.connect, dialled.took);
                seconds.dns.observe(took.dns.as_secs_f64());
                seconds.tcp.observe(took.tcp.as_secs_f64());
                if !took.tls.is_zero() {
                    seconds.tls.observe(took.tls.as_secs_f64());
                }
                seconds.auth.observe(took.auth.as_secs_f64());
                let kept = self.config.prepared_statements as usize;
                let session = Session::new(dialled, entry, kept, epoch, schema_epoch);
                let reason = if trigger == Trigger::Demand { OpenReason::Demand } else { OpenReason::Ahead };
                self.opened(session, reason, begun.elapsed());
            }
            Err(error) => {
                drop(entry);
                let pause = self.failed(error);
                self.want();
                sleep(pause).await;
            }
        }
        self.want();
    }

    /// The server answers its watcher: it is not left alone any more, and after an absence everybody may try again.
    pub(super) fn answered(self: &Arc<Self>, is_back: bool) {
        if self.health.well() {
            self.tell(Event::Return, Facts::default());
        }
        if is_back {
            self.reachable();
            let mut pace = self.opening.pace();
            pace.backoff.reset();
            pace.not_before = None;
            drop(pace);
            self.want();
        }
    }

    /// The server takes connections, whatever it says then.
    fn reachable(&self) {
        if self.opening.breaker.success() {
            self.tell(Event::BreakerClose(BreakerName::Connect), Facts::default());
        }
    }

    /// The server has let us in, or an operator says that it will.
    pub(super) fn let_in(&self) {
        if self.opening.logins.success() {
            self.tell(Event::BreakerClose(BreakerName::Login), Facts::default());
        }
    }

    fn opened(&self, session: Session, reason: OpenReason, took: Duration) {
        self.reachable();
        self.let_in();
        let facts = Facts { pid: Some(session.observed.pid()), connect: Some(took), ..Facts::default() };
        self.tell(Event::Open(reason), facts);
        {
            let mut pace = self.opening.pace();
            pace.backoff.reset();
            pace.not_before = None;
        }
        self.registry.join(&session.slot);
        if self.opening.ahead() > 0 && self.opening.urgent() == 0 && self.ledger.total() > self.config.min as usize {
            self.foresight.note_added();
        }
        let _ = self.opening.ahead.fetch_update(Ordering::AcqRel, Ordering::Acquire, |ahead| ahead.checked_sub(1));
        self.metrics.opened();
        // A pool that was closed meanwhile takes it no more: dropped, it is closed.
        self.idle.add(session);
    }

    /// Tells those who wait, and how long to pause before the next try.
    fn failed(&self, error: tokio_postgres::Error) -> Duration {
        let reason = self.refused(&error);
        let is_full = reason == ErrorReason::Full;
        if is_full {
            // Somebody else has the room: what is open is all there is for now.
            self.set_limit(self.ledger.total().max(1), Trigger::ServerFull);
        }
        self.server.nudge.notify_one();
        let pause = {
            let mut pace = self.opening.pace();
            let pause = pace.backoff.pause(rand::random());
            pace.not_before = Some(Instant::now() + pause);
            pause
        };
        self.opening.ahead.store(0, Ordering::Release);
        self.opening.failures.send_replace(Some(Arc::new(Failure { error: Arc::new(error), is_full })));
        pause
    }

    /// A session could not be opened, for the pool or for whoever watches: tells it, and lets the breakers know.
    pub(super) fn refused(&self, error: &tokio_postgres::Error) -> ErrorReason {
        let reason = ErrorReason::of(error);
        self.metrics.not_opened(reason.as_str());
        let sqlstate = error.code().map(|state| state.code().to_owned());
        // The server's own words name the role and the database at the most.
        let detail = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
        self.tell(Event::Error(reason), Facts { sqlstate, detail: Some(detail), ..Facts::default() });
        let tripped = match reason {
            ErrorReason::Full => {
                self.opening.breaker.release();
                self.opening.logins.release();
                None
            }
            ErrorReason::Login => {
                self.reachable();
                self.opening.logins.failure().then_some(BreakerName::Login)
            }
            ErrorReason::Refused | ErrorReason::Timeout | ErrorReason::Network | ErrorReason::Other => {
                self.opening.logins.release();
                self.opening.breaker.failure().then_some(BreakerName::Connect)
            }
        };
        if let Some(name) = tripped {
            self.metrics.tripped(name.as_str());
            self.tell(Event::BreakerOpen(name), Facts::default());
        }
        reason
    }
}
