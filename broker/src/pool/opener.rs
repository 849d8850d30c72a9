//! Opening sessions: only when waiting is worse, few at once, and in tasks of their own, so that a caller who leaves throws
//! nothing away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use super::backoff::Backoff;
use super::breaker::{Breaker, Open};
use super::endpoint::Endpoint;
use super::ledger::{Alive, Entry, State};
use super::postgres::Session;

/// Sessions of one pool that may be in the making at once: a cold pool under a storm must not become a storm on the server.
pub const CONNECTS_AT_ONCE: usize = 2;

/// The state of one endpoint's opening.
pub struct Opening {
    /// Callers for whom waiting has become worse than a new session.
    urgent: AtomicUsize,
    /// Sessions to be opened ahead of need.
    ahead: AtomicUsize,
    /// The lock makes a place in the ledger and the look at its room one step.
    placing: Mutex<Pace>,
    pub(super) breaker: Breaker,
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
            breaker: Breaker::default(),
            failures: watch::Sender::new(None),
        }
    }

    /// Hears of each session that could not be opened from now on.
    pub(super) fn failures(&self) -> watch::Receiver<Option<Arc<Failure>>> {
        self.failures.subscribe()
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
        let missing = count.min(self.limit()).saturating_sub(self.ledger.total());
        self.opening.ahead.store(missing, Ordering::Release);
        self.want();
    }

    /// While there are no open sessions and the breaker is open: for how long.
    pub(super) fn is_shut(&self) -> Option<Open> {
        if self.ledger.total() > 0 { None } else { self.opening.breaker.shut() }
    }

    /// Opens what is needed now, as far as gate, limit and server allow. Called wherever one of them may have changed.
    pub(super) fn want(self: &Arc<Self>) {
        loop {
            let opening = self.ledger.count(State::Connecting);
            let needed = self.opening.urgent.load(Ordering::Acquire) + self.opening.ahead.load(Ordering::Acquire);
            if needed <= opening || opening >= CONNECTS_AT_ONCE {
                return;
            }
            let Some((entry, alive)) = self.place() else { return };
            self.cleaning.spawn(Arc::clone(self).open(entry, alive));
        }
    }

    /// A place for one more session.
    fn place(&self) -> Option<(Entry, Alive)> {
        let pace = self.opening.pace();
        let too_soon = pace.not_before.is_some_and(|at| Instant::now() < at);
        if too_soon || self.idle.is_closed() || self.ledger.count(State::Connecting) >= CONNECTS_AT_ONCE {
            return None;
        }
        if self.ledger.total() >= self.limit() {
            // Another broker may have left since the last look, or another pool.
            self.server.look_if_old();
            return None;
        }
        if self.opening.breaker.permit().is_err() {
            return None;
        }
        if !self.server.take_grant(self.ledger.total() == 0) {
            self.opening.breaker.release();
            return None;
        }
        Some((self.ledger.entry(), self.ledger.born()))
    }

    async fn open(self: Arc<Self>, entry: Entry, alive: Alive) {
        let dialled = {
            let _turn = self.server.gate.acquire().await;
            // Read before dialling: what changes while the session opens is then newer than the session.
            let (epoch, schema_epoch) = (self.epoch(), self.schema_epoch());
            self.connector.dial(Some(alive)).await.map(|dialled| (dialled, epoch, schema_epoch))
        };
        match dialled {
            Ok((dialled, epoch, schema_epoch)) => {
                let kept = self.config.prepared_statements as usize;
                let session = Session::new(dialled, entry, kept, epoch, schema_epoch);
                self.opened(session);
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
        self.health.well();
        if is_back {
            self.opening.breaker.success();
            let mut pace = self.opening.pace();
            pace.backoff.reset();
            pace.not_before = None;
            drop(pace);
            self.want();
        }
    }

    fn opened(&self, session: Session) {
        self.opening.breaker.success();
        {
            let mut pace = self.opening.pace();
            pace.backoff.reset();
            pace.not_before = None;
        }
        self.registry.join(&session.slot);
        let _ = self.opening.ahead.fetch_update(Ordering::AcqRel, Ordering::Acquire, |ahead| ahead.checked_sub(1));
        self.metrics.opened();
        // A pool that was closed meanwhile takes it no more: dropped, it is closed.
        drop(self.idle.try_add(session));
    }

    /// Tells those who wait, and how long to pause before the next try.
    fn failed(&self, error: tokio_postgres::Error) -> Duration {
        let is_full = error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS);
        self.metrics.not_opened(if is_full { "full" } else { "error" });
        tracing::debug!(backend.name = %self.backend, server.address = %self.address, error = %error, "a connection to `{}` could not be opened", self.backend);
        if is_full {
            // Somebody else has the room: what is open is all there is for now.
            self.set_limit(self.ledger.total().max(1));
            self.opening.breaker.release();
        } else {
            self.opening.breaker.failure();
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
}
