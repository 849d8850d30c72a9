//! Lanes: sessions shared by many callers at once, each with one short read and a `Sync` of its own, pipelined.
//!
//! A lane is for statements that can have no effect, that were fast and small before, and nothing else (`query::laned`). It is
//! time-boxed by the server: who takes longer than [`BUDGET_MS`] is refused there and runs again on a lease. Nothing is ever
//! cancelled through a lane, since that would hit a neighbour; a caller that leaves has its rows thrown away.

mod answer;
mod tally;
mod width;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use deadpool::unmanaged::Object;
use postgres_protocol::message::frontend;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::event::CloseReason;
use super::ledger::State;
use super::pipeline::{Answered, Ended, Pipeline};
use super::postgres::ask::{self, Description};
use super::postgres::wire::DirectStream;
use super::postgres::{PreparedCache, ServerError, Session, Shape};
use crate::base::Deadline;
use crate::encode::{RowWriter, TextParam};

use answer::{Answers, Wanted};
use tally::Tally;
use width::{PAUSE, Width};

pub use answer::Answer;
pub use width::Change;

/// How long one statement may hold up the others behind it. Unit: milliseconds.
const BUDGET_MS: u32 = 50;
/// Callers on one lane at once; one more takes a lease. Past this the wait on the lane is longer than one for a lease.
const DEPTH: usize = 64;
/// The longest wait on a lane. Past it the lane is ill, and is closed: leases serve better.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// How long a lane may wait for a free connection before callers go on without it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The lanes of one endpoint.
pub struct Lanes {
    all: Vec<Lane>,
    /// So many of them are used now.
    used: AtomicUsize,
    tally: Tally,
    /// Locked once a second.
    width: Mutex<Width>,
}

#[derive(Default)]
struct Lane {
    /// The lock guards a look or a swap.
    session: Mutex<Option<Arc<Shared>>>,
    opening: AtomicBool,
}

/// A session on a lane. Closed with its last caller once no more get on: its settings are not a pool's.
pub struct Shared {
    pipeline: Pipeline<Answer>,
    endpoint: Weak<Endpoint>,
    /// `Some` until drop.
    object: Option<Object<Session>>,
    prepared: Mutex<PreparedCache<OnLane>>,
    /// Names of statements that nobody uses any more: closed along with the next request.
    unused: Arc<Mutex<Vec<String>>>,
    named: AtomicU64,
}

/// A statement prepared on a lane. Dropped by its last user, it is closed on the server.
pub struct OnLane {
    name: String,
    /// What it takes and gives.
    pub shape: Arc<Shape>,
    unused: Arc<Mutex<Vec<String>>>,
}

/// A place on a lane.
pub struct Place {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    /// Statements ahead of this caller's when it came.
    pub ahead: usize,
}

impl Lanes {
    /// At most `most` lanes, not opened yet.
    pub fn new(most: usize) -> Self {
        let width = Width::new(most);
        Self {
            all: (0..most).map(|_| Lane::default()).collect(),
            used: AtomicUsize::new(width.lanes()),
            tally: Tally::default(),
            width: Mutex::new(width),
        }
    }

    /// One second is over: there may be more lanes from now on, or fewer.
    pub fn sweep(&self) -> Change {
        let mut width = self.width.lock().unwrap_or_else(PoisonError::into_inner);
        let change = width.step(self.tally.take(), Instant::now());
        let used = width.lanes();
        self.used.store(used, Ordering::Release);
        // Closed with their last callers.
        for lane in &self.all[used..] {
            lane.swap(None);
        }
        change
    }

    /// The server stopped a statement at the lane's budget.
    pub fn over_budget(&self) {
        self.tally.over_budget();
    }

    /// Lanes that are used now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// A place on the emptiest lane; `None` where a lease serves better: no lane is open yet, or all are full.
    pub fn take(&self, endpoint: &Arc<Endpoint>, prepared_statements: usize) -> Option<Place> {
        let mut best: Option<Arc<Shared>> = None;
        for (index, lane) in self.all[..self.used()].iter().enumerate() {
            match lane.session(endpoint) {
                Some(shared) => {
                    let fewer = best.as_ref().is_none_or(|b| shared.pipeline.depth() < b.pipeline.depth());
                    if fewer {
                        best = Some(shared);
                    }
                }
                None => open(endpoint, index, prepared_statements),
            }
        }
        let shared = best?;
        let ahead = shared.pipeline.depth();
        self.tally.asked(ahead);
        (ahead < DEPTH).then(|| Place { shared, ahead, endpoint: Arc::clone(endpoint) })
    }

    /// Lets go of lanes that have ended, or must: where nobody asks for one, nobody else would notice.
    pub(super) fn bury(&self, endpoint: &Endpoint) {
        for lane in &self.all {
            drop(lane.session(endpoint));
        }
    }

    /// Closes every lane once its callers are done.
    pub fn close(&self) {
        for lane in &self.all {
            lane.swap(None);
        }
    }
}

impl Endpoint {
    /// One step of the sweep: as many lanes as carry most.
    pub(super) fn widen(&self) {
        let (change, lanes) = (self.lanes.sweep(), self.lanes.used());
        match change {
            Change::None => {}
            Change::Tried | Change::Narrowed => {
                tracing::debug!(backend.name = %self.backend, server.address = %self.address, lanes, "{lanes} lanes to `{}`", self.address);
            }
            Change::Paused => {
                self.metrics.lane_pauses.inc();
                tracing::warn!(
                    backend.name = %self.backend, server.address = %self.address,
                    "lanes to `{}` are left alone for {} s: more than 1 % of their statements took too long", self.address, PAUSE.as_secs()
                );
            }
        }
    }
}

impl Lane {
    fn session(&self, endpoint: &Endpoint) -> Option<Arc<Shared>> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = held.as_ref().is_some_and(|shared| shared.is_fit(endpoint));
        if !fit {
            *held = None;
        }
        held.clone()
    }

    fn swap(&self, shared: Option<Arc<Shared>>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = shared;
    }
}

/// Opens a lane beside the callers, who go on with leases meanwhile.
fn open(endpoint: &Arc<Endpoint>, index: usize, prepared_statements: usize) {
    let lane = &endpoint.lanes.all[index];
    if lane.opening.swap(true, Ordering::AcqRel) {
        return;
    }
    let task = Arc::clone(endpoint);
    endpoint.cleaning.spawn(async move {
        let lane = &task.lanes.all[index];
        if let Some(shared) = dial(&task, prepared_statements).await {
            lane.swap(Some(Arc::new(shared)));
        } else {
            tracing::debug!(backend.name = %task.backend, "a lane to `{}` could not be opened", task.backend);
        }
        lane.opening.store(false, Ordering::Release);
    });
}

async fn dial(endpoint: &Arc<Endpoint>, prepared_statements: usize) -> Option<Shared> {
    let mut object = endpoint.checkout(Deadline::after(OPEN_TIMEOUT)).await.ok()?;
    object.entry.set(State::Lane);
    let limits = format!(
        "SET statement_timeout = {BUDGET_MS}; SET lock_timeout = {BUDGET_MS}; SET default_transaction_read_only = on"
    );
    tokio::time::timeout(OPEN_TIMEOUT, ask::command(&mut object.channel, &limits)).await.ok()?.ok()?;
    // Reported by the server from release 14 on, and our own.
    object.observed.take_setting_changed();
    let answers = Answers::new(Arc::clone(&object.observed));
    Some(Shared {
        endpoint: Arc::downgrade(endpoint),
        pipeline: Pipeline::new(DirectStream::new(object.channel.wire()), answers, Some(PATIENCE)),
        object: Some(object),
        prepared: Mutex::new(PreparedCache::new(prepared_statements)),
        unused: Arc::default(),
        named: AtomicU64::new(0),
    })
}

impl Shared {
    fn session(&self) -> &Session {
        self.object.as_ref().expect("a lane has its session until it is dropped")
    }

    /// True while the session is as it was made, and the schema too.
    fn is_fit(&self, endpoint: &Endpoint) -> bool {
        let session = self.session();
        !self.pipeline.has_ended()
            && session.schema_epoch == endpoint.schema_epoch()
            && session.epoch == endpoint.epoch()
            && session.opened.elapsed() < endpoint.max_lifetime()
            && !session.observed.take_setting_changed()
    }

    fn unused(&self) -> MutexGuard<'_, Vec<String>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_unused(&self, out: &mut BytesMut) {
        for name in self.unused().drain(..) {
            frontend::close(b'S', &name, out).expect("names of our own have no NUL");
        }
    }
}

impl Place {
    /// The server it leads to.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The server stopped the statement at the lane's budget.
    pub fn over_budget(&self) {
        self.endpoint.lanes.over_budget();
    }

    /// The statement as it is prepared on this lane.
    pub fn prepared(&self, key: &str) -> Option<Arc<OnLane>> {
        self.cache().get(key)
    }

    /// Prepares a statement, to be kept under `key` with the shape that `shape` makes of its description; `None` where it makes
    /// none.
    pub async fn prepare(
        &self,
        key: &str,
        sql: &str,
        shape: impl FnOnce(&Description) -> Option<Shape>,
    ) -> Result<Result<Option<Arc<OnLane>>, Box<ServerError>>, Ended> {
        let name = format!("l{}", self.shared.named.fetch_add(1, Ordering::Relaxed));
        let answer = Answer::to(Wanted::Description(Description::default()));
        let answer = self
            .shared
            .pipeline
            .ask(Instant::now(), answer, |out| {
                self.shared.close_unused(out);
                frontend::parse(&name, sql, [], out).expect("the statement was checked for NUL");
                frontend::describe(b'S', &name, out).expect("names of our own have no NUL");
                frontend::sync(out);
            })
            .await?
            .reader;
        if let Some(refused) = answer.refused {
            return Ok(Err(refused));
        }
        let Wanted::Description(description) = answer.wanted else { return Ok(Ok(None)) };
        let unused = Arc::clone(&self.shared.unused);
        let Some(shape) = shape(&description).map(Arc::new) else {
            self.shared.unused().push(name);
            return Ok(Ok(None));
        };
        let prepared = Arc::new(OnLane { name, shape, unused });
        self.cache().insert(key, Arc::clone(&prepared));
        Ok(Ok(Some(prepared)))
    }

    /// Runs a prepared statement; its rows go into `writer`. `since` is now.
    pub async fn run(
        &self,
        since: Instant,
        prepared: &OnLane,
        values: &[TextParam],
        writer: RowWriter,
    ) -> Result<Answered<Answer>, Ended> {
        let run = |out: &mut BytesMut| {
            self.shared.close_unused(out);
            ask::execute(&prepared.name, values.iter().map(|value| value.0.as_deref()), out);
            frontend::sync(out);
        };
        self.shared.pipeline.ask(since, Answer::to(Wanted::Result(writer)), run).await
    }

    fn cache(&self) -> MutexGuard<'_, PreparedCache<OnLane>> {
        self.shared.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// The result that was asked for.
    pub fn into_result(self) -> Option<RowWriter> {
        match self.wanted {
            Wanted::Result(writer) => Some(writer),
            Wanted::Description(_) => None,
        }
    }
}

impl Drop for OnLane {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let reason = if self.pipeline.has_ended() { CloseReason::BackendClosed } else { CloseReason::LaneEnded };
        match self.endpoint.upgrade() {
            Some(endpoint) => endpoint.close(object, reason),
            None => drop(Object::take(object)),
        }
    }
}
