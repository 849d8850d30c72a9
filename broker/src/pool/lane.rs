//! Lanes: sessions shared by many callers at once, each with one short read and a `Sync` of its own, pipelined.
//!
//! A lane is for statements that can have no effect, that were fast and small before, and nothing else (`query::laned`). It is
//! time-boxed by the server: who takes longer than [`BUDGET_MS`] is refused there and runs again on a lease. Nothing is ever
//! cancelled through a lane, since that would hit a neighbour; a caller that leaves has its rows thrown away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::unmanaged::Object;

use super::endpoint::Endpoint;
use super::ledger::State;
use super::postgres::{PreparedCache, Session, Shape};
use crate::base::Deadline;

/// How long one statement may hold up the others behind it. Unit: milliseconds.
const BUDGET_MS: u32 = 50;
/// Callers on one lane at once; one more takes a lease. Past this the wait on the lane is longer than one for a lease.
const DEPTH: u64 = 32;
/// The longest wait on a lane. Past it the lane is ill, or full of slow neighbours, and a lease serves better.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// How long a lane may wait for a free connection before callers go on without it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The lanes of one endpoint.
pub struct Lanes {
    lanes: Vec<Lane>,
}

#[derive(Default)]
struct Lane {
    /// The lock guards a look or a swap.
    session: Mutex<Option<Arc<Shared>>>,
    opening: AtomicBool,
}

/// A session on a lane. Closed with its last caller once it is retired: its settings are not a pool's.
pub struct Shared {
    /// `Some` until drop.
    object: Option<Object<Session>>,
    prepared: Mutex<PreparedCache<OnLane>>,
    callers: AtomicU64,
    /// It kept a caller waiting for longer than its budget explains.
    retired: AtomicBool,
}

/// A statement prepared on a lane.
pub struct OnLane {
    /// The driver's handle; dropping the last one closes the statement on the server.
    pub statement: tokio_postgres::Statement,
    /// What it takes and gives.
    pub shape: Shape,
}

/// A place on a lane; drop gives it up.
pub struct Place {
    shared: Arc<Shared>,
    /// Statements ahead of this caller's when it came.
    pub ahead: u64,
}

impl Lanes {
    /// `count` lanes, not opened yet.
    pub fn new(count: usize) -> Self {
        Self { lanes: (0..count).map(|_| Lane::default()).collect() }
    }

    /// A place on the emptiest lane; `None` where a lease serves better: no lane is open yet, or all are full.
    pub fn take(&self, endpoint: &Arc<Endpoint>, prepared_statements: usize) -> Option<Place> {
        let mut best: Option<Arc<Shared>> = None;
        for (index, lane) in self.lanes.iter().enumerate() {
            match lane.session(endpoint) {
                Some(shared) => {
                    let fewer = best.as_ref().is_none_or(|b| shared.depth() < b.depth());
                    if fewer {
                        best = Some(shared);
                    }
                }
                None => open(endpoint, index, prepared_statements),
            }
        }
        let shared = best?;
        let ahead = shared.depth();
        shared.callers.fetch_add(1, Ordering::AcqRel);
        let place = Place { shared, ahead };
        (ahead < DEPTH).then_some(place)
    }

    /// Lanes that are open.
    pub fn open(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.session.lock().unwrap_or_else(PoisonError::into_inner).is_some()).count()
    }

    /// Closes every lane once its callers are done.
    pub fn close(&self) {
        for lane in &self.lanes {
            lane.swap(None);
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
    let lane = &endpoint.lanes.lanes[index];
    if lane.opening.swap(true, Ordering::AcqRel) {
        return;
    }
    let task = Arc::clone(endpoint);
    endpoint.cleaning.spawn(async move {
        let lane = &task.lanes.lanes[index];
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
    // From here on the driver has the stream, for many callers at once.
    object.channel.retire();
    let shared = Shared {
        object: Some(object),
        prepared: Mutex::new(PreparedCache::new(prepared_statements)),
        callers: AtomicU64::new(0),
        retired: AtomicBool::new(false),
    };
    let limits = format!("SET statement_timeout = {BUDGET_MS}; SET lock_timeout = {BUDGET_MS}");
    tokio::time::timeout(OPEN_TIMEOUT, shared.session().client.batch_execute(&limits)).await.ok()?.ok()?;
    // Not reported by the server today; were they, this change would be our own.
    shared.session().observed.take_setting_changed();
    Some(shared)
}

impl Shared {
    fn session(&self) -> &Session {
        self.object.as_ref().expect("a lane has its session until it is dropped")
    }

    /// Statements on the lane: those whose callers wait, or those the server owes answers to where callers have left.
    fn depth(&self) -> u64 {
        self.callers.load(Ordering::Acquire).max(self.session().observed.answers_due())
    }

    /// True while the session is as it was made, and the schema too.
    fn is_fit(&self, endpoint: &Endpoint) -> bool {
        let session = self.session();
        !session.client.is_closed()
            && !self.retired.load(Ordering::Acquire)
            && session.schema_epoch == endpoint.schema_epoch()
            && session.epoch == endpoint.epoch()
            && session.opened.elapsed() < endpoint.max_lifetime()
            && !session.observed.take_setting_changed()
    }
}

impl Place {
    /// The session, shared with others.
    pub fn session(&self) -> &Session {
        self.shared.session()
    }

    /// Nobody else takes this lane from now on; it is closed with its last caller.
    pub fn retire(&self) {
        self.shared.retired.store(true, Ordering::Release);
    }

    /// The statement as it is prepared on this lane.
    pub fn prepared(&self, key: &str) -> Option<Arc<OnLane>> {
        self.cache().get(key)
    }

    /// Keeps a statement prepared on this lane.
    pub fn keep(&self, key: &str, prepared: &Arc<OnLane>) {
        self.cache().insert(key, Arc::clone(prepared));
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, PreparedCache<OnLane>> {
        self.shared.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.callers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}
