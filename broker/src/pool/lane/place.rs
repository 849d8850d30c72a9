//! One lane's session, and a caller's place on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::time::Instant;

use super::answer::{Answer, Answers, Wanted};
use super::share::Share;
use crate::base::Deadline;
use crate::encode::{RowWriter, TextParam};
use crate::pool::endpoint::Endpoint;
use crate::pool::event::CloseReason;
use crate::pool::ledger::State;
use crate::pool::pipeline::{Answered, Ended, Pipeline};
use crate::pool::postgres::ask::{self, Description};
use crate::pool::postgres::wire::DirectStream;
use crate::pool::postgres::{PreparedCache, ServerError, Session, Shape};
use crate::pool::queue::Object;

/// How long one statement may hold up the others behind it. Unit: milliseconds.
const BUDGET_MS: u32 = 50;
/// The longest wait on a lane. Past it the lane is ill, and is closed: leases serve better.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a lane may wait for a free connection before callers go on without it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

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
    pub(super) shared: Arc<Shared>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Statements ahead of this caller's when it came.
    pub ahead: usize,
    pub(super) _share: Share,
}

/// Opens a session for a lane, as nobody else's: READ ONLY, and stopped by the server at its budget.
pub(super) async fn dial(endpoint: &Arc<Endpoint>, prepared_statements: usize) -> Option<Shared> {
    let asked = endpoint.checkout(&endpoint.own_account, Deadline::after(OPEN_TIMEOUT)).await;
    let (mut object, _) = asked.ok()?;
    object.entry.set(State::Lane);
    let limits = format!(
        "SET statement_timeout = {BUDGET_MS}; SET lock_timeout = {BUDGET_MS}; SET default_transaction_read_only = on"
    );
    let set = tokio::time::timeout(OPEN_TIMEOUT, ask::command(&mut object.channel, &limits)).await;
    if !matches!(set, Ok(Ok(()))) {
        // Not back to the pool: whoever came next might find it READ ONLY.
        endpoint.close(object, CloseReason::NotClean);
        return None;
    }
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

    /// Statements on it that are not answered.
    pub(super) fn depth(&self) -> usize {
        self.pipeline.depth()
    }

    /// True while the session is as it was made, and the schema too.
    pub(super) fn is_fit(&self, endpoint: &Endpoint) -> bool {
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

    /// Prepares a statement until `due`, to be kept under `key` with the shape that `shape` makes of its description; `None` where it makes
    /// none.
    pub async fn prepare(
        &self,
        key: &str,
        sql: &str,
        due: Instant,
        shape: impl FnOnce(&Description) -> Option<Shape>,
    ) -> Result<Result<Option<Arc<OnLane>>, Box<ServerError>>, Ended> {
        let name = format!("l{}", self.shared.named.fetch_add(1, Ordering::Relaxed));
        let answer = Answer::to(Wanted::Description(Description::default()));
        let answer = self
            .shared
            .pipeline
            .ask(Instant::now(), due, answer, |out| {
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

    /// Runs a prepared statement until `due`; its rows go into `writer`. `since` is now.
    pub async fn run(
        &self,
        since: Instant,
        due: Instant,
        prepared: &OnLane,
        values: &[TextParam],
        writer: RowWriter,
    ) -> Result<Answered<Answer>, Ended> {
        let run = |out: &mut BytesMut| {
            self.shared.close_unused(out);
            ask::execute(&prepared.name, values.iter().map(|value| value.0.as_deref()), out);
            frontend::sync(out);
        };
        self.shared.pipeline.ask(since, due, Answer::to(Wanted::Result(writer)), run).await
    }

    fn cache(&self) -> MutexGuard<'_, PreparedCache<OnLane>> {
        self.shared.prepared.lock().unwrap_or_else(PoisonError::into_inner)
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
