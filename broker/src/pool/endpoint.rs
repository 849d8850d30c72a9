//! One login on one server of a database: its idle sessions, its lanes, and what is known of how it fares.
//!
//! `queue` keeps the idle sessions and those who wait for one. When one is opened, how many there may be and when one goes is decided
//! here and beside (`checkout`, `opener`, `upkeep`).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::decision::{Trigger, Verdict};
use super::demand::Demand;
use super::event::{CloseReason, Event};
use super::foresight::Foresight;
use super::health::Health;
use super::journal::Facts;
use super::lane::Lanes;
use super::ledger::{Ledger, State};
use super::load::Load;
use super::opener::Opening;
use super::postgres::Session;
use super::postgres::connect::Connector;
use super::queue::{Account, Object, Queue};
use super::registry::Registry;
use super::server::Server;
use super::service_time::ServiceTime;
use super::sizing;
use crate::base::BackendName;
use crate::config::PoolConfig;
use crate::observe::EndpointMetrics;

/// One login on one server.
pub struct Endpoint {
    /// The database it serves.
    pub(super) backend: BackendName,
    /// `host:port`.
    pub(super) address: Arc<str>,
    pub(super) zone: Option<String>,
    pub(super) config: PoolConfig,
    pub(super) connector: Arc<Connector>,
    pub(super) server: Arc<Server>,
    /// Idle sessions, and those who wait for one.
    pub(super) idle: Queue<Session>,
    /// The broker's own.
    pub(super) own_account: Arc<Account>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) registry: Registry,
    pub(super) lanes: Lanes,
    pub(super) opening: Opening,
    pub(super) demand: Demand,
    pub(super) foresight: Foresight,
    pub(super) service: ServiceTime,
    pub(super) load: Load,
    /// What it may have of the server now; never more than `config.max`.
    pub(super) limit: AtomicUsize,
    pub(super) max_waiting: u32,
    pub(super) schema_epoch: Arc<AtomicU64>,
    /// Grows when every session is to be replaced.
    pub(super) generation: AtomicU64,
    /// Sessions being made clean after their callers left, and tasks that open some.
    pub(super) cleaning: TaskTracker,
    pub(super) metrics: EndpointMetrics,
    pub(super) retired_last: Mutex<Instant>,
    pub(super) conserved: AtomicBool,
    pub(super) health: Health,
}

/// An endpoint at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Sessions waiting to be lent.
    pub idle: usize,
    /// Sessions lent to one caller each.
    pub lent: usize,
    /// Sessions shared by many.
    pub lanes: usize,
    /// Sessions being opened.
    pub connecting: usize,
    /// Sessions being made clean.
    pub cleaning: usize,
    /// The most there may be by the server's capacity and the others' needs.
    pub limit: usize,
    /// The most there may be at all.
    pub max: usize,
    /// Callers waiting.
    pub waiting: usize,
    /// Sessions closed under holders who have not let go of them; counted nowhere else.
    pub severed: usize,
}

impl EndpointStatus {
    /// Sessions that are open.
    pub fn open(&self) -> usize {
        self.idle + self.lent + self.lanes + self.cleaning
    }
}

impl Endpoint {
    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The database it serves.
    pub fn backend(&self) -> &BackendName {
        &self.backend
    }

    /// Whether it is given traffic: `ok`, `probing` while its server was not asked yet, `ejected`, or `open` for its breaker.
    pub fn state(&self) -> &'static str {
        if self.opening.breaker.shut().is_some() || self.opening.logins.shut().is_some() {
            "open"
        } else if !self.is_usable() {
            "ejected"
        } else if self.server.standing().at.is_none() {
            "probing"
        } else {
            "ok"
        }
    }

    /// Its zone, if it has one.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The server it is on.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The endpoint at this moment.
    pub fn status(&self) -> EndpointStatus {
        EndpointStatus {
            idle: self.ledger.count(State::Idle),
            lent: self.ledger.count(State::Lent),
            lanes: self.ledger.count(State::Lane),
            connecting: self.ledger.count(State::Connecting),
            cleaning: self.ledger.count(State::Cleaning),
            limit: self.limit(),
            max: self.config.max as usize,
            waiting: self.idle.waiting(),
            severed: self.registry.severed(),
        }
    }

    /// Its part in what the server has room for.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    /// Lent, shared and asked for now: the demand.
    pub(super) fn in_use(&self) -> usize {
        let busy = self.ledger.count(State::Lent) + self.ledger.count(State::Lane);
        busy + self.idle.waiting()
    }

    pub(super) fn schema_epoch(&self) -> u64 {
        self.schema_epoch.load(Ordering::Acquire)
    }

    pub(super) fn max_lifetime(&self) -> Duration {
        self.config.max_lifetime
    }

    /// An idle session that may be lent, while nobody waits for one; unfit ones on top of it are closed.
    pub(super) fn take_idle(&self) -> Option<Object<Session>> {
        while let Some(object) = self.idle.take() {
            if let Some(fit) = self.fit(object) {
                return Some(fit);
            }
        }
        None
    }

    /// The session, if it may be lent; else it is closed. Its statements are of the schema as it is now.
    pub(super) fn fit(&self, mut object: Object<Session>) -> Option<Object<Session>> {
        object.channel.look();
        if let Some(reason) = self.unfit(&object) {
            self.close(object, reason);
            return None;
        }
        let epoch = self.schema_epoch();
        if object.schema_epoch != epoch {
            object.forget_all();
            object.schema_epoch = epoch;
        }
        object.entry.set(State::Lent);
        Some(object)
    }

    /// Why the session may not be lent.
    pub(super) fn unfit(&self, session: &Session) -> Option<CloseReason> {
        if session.channel.is_dead() {
            Some(CloseReason::BackendClosed)
        } else if !session.is_reusable() {
            Some(CloseReason::NotClean)
        } else if session.epoch != self.epoch() {
            Some(CloseReason::FailoverEpoch)
        } else {
            None
        }
    }

    /// Which sessions are current: those of the server's present life, and of the operator's last `reconnect`.
    pub(super) fn epoch(&self) -> u64 {
        self.server.epoch() + self.generation.load(Ordering::Acquire)
    }

    /// Takes a session back: it waits for the next caller, or goes where there are more than there may be.
    pub(super) fn checkin(&self, mut object: Object<Session>) {
        if self.ledger.total() > self.limit() {
            self.close(object, CloseReason::Shrink);
            return;
        }
        // One in constant use never lies idle for the sweep to find.
        let now = Instant::now();
        if now - object.opened > self.max_lifetime() && self.may_retire(now) {
            self.close(object, CloseReason::Lifetime);
            return;
        }
        object.returned = now;
        object.entry.set(State::Idle);
        drop(object);
    }

    /// Closes a session for good.
    pub(super) fn close(&self, object: Object<Session>, reason: CloseReason) {
        let (age, uses, pid) = (object.opened.elapsed(), object.uses, object.observed.pid());
        let facts = Facts { pid: Some(pid), age: Some(age), uses: Some(uses), ..Facts::default() };
        self.metrics.closed(reason.as_str(), Some(age), Some(uses));
        drop(Object::take(object));
        self.tell(Event::Close(reason), facts);
        match reason {
            CloseReason::Shrink => self.decide(Trigger::OverLimit, Verdict::Shrink),
            CloseReason::Idle => self.decide(Trigger::Idle, Verdict::Shrink),
            _ => {}
        }
    }

    /// Every session is replaced as it comes back; and the login is tried again, since an operator may have set it right.
    pub fn reconnect(self: &Arc<Self>) {
        self.generation.fetch_add(1 << 32, Ordering::AcqRel);
        self.let_in();
        self.server.nudge.notify_one();
        self.want();
    }

    /// Notes what happened, in the log and for whoever asks.
    pub(super) fn tell(&self, event: Event, facts: Facts) {
        self.server.journal.note(event, &self.backend, &self.address, facts);
    }

    pub(super) fn retired_last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.retired_last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True unless it was found sick, or the breaker is open.
    pub(super) fn is_usable(&self) -> bool {
        self.health.is_usable(Instant::now())
    }

    /// Something about the server's end went wrong: a connection broke, or could not be opened.
    pub(super) fn sick(&self) {
        if self.health.sick(Instant::now()) {
            self.metrics.ejections.inc();
            self.tell(Event::Eject, Facts::default());
        }
        self.server.nudge.notify_one();
    }

    /// At most one session goes each lifetime ÷ size, so that they never go together, whatever their ages.
    pub(super) fn may_retire(&self, now: Instant) -> bool {
        let spacing = sizing::spacing(self.config.max_lifetime, self.ledger.total());
        let mut last = self.retired_last();
        let may = now - *last >= spacing;
        if may {
            *last = now;
        }
        may
    }

    /// True when what is counted by state is what is counted by socket, and what waits to be lent is what the queue holds.
    pub fn is_conserved(&self) -> bool {
        self.ledger.total() == self.ledger.alive() && self.ledger.count(State::Idle) == self.idle.available()
    }

    pub(super) fn note_conserved(&self, holds: bool) {
        let held = self.conserved.swap(holds, Ordering::AcqRel);
        if held && !holds {
            self.metrics.conservation_failures.inc();
            let (states, alive) = (self.ledger.states(), self.ledger.alive());
            let idle = self.idle.available();
            tracing::error!(backend.name = %self.backend, server.address = %self.address, alive, "connections to `{}` do not add up: {states} by state, {alive} by socket, {idle} to be had", self.address);
        }
    }
}
