//! One database's pool, and getting a connection from it under one deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{
    Object, Pool, PoolConfig as DeadpoolConfig, PoolError as DeadpoolError, QueueMode, TimeoutType, Timeouts,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::error::PoolError;
use super::lane::{Lanes, Place};
use super::lease::Lease;
use super::listen::Hub;
use super::postgres::connect::Connector;
use super::postgres::prepared::Sightings;
use super::postgres::types::Types;
use super::postgres::{Catalog, SessionManager};
use crate::base::{BackendName, Deadline};
use crate::config::{DatabaseConfig, database_url};
use crate::observe::PoolMetrics;

/// Take a connection that is free now, or none.
const NOW: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
/// Wait for one; the caller's deadline stands around it.
const WHENEVER: Timeouts = Timeouts { wait: None, create: None, recycle: None };

/// One PostgreSQL database: its pool and what is known of it.
pub struct Database {
    name: BackendName,
    pool: Pool<SessionManager>,
    pub(super) connector: Arc<Connector>,
    sightings: Sightings,
    catalog: Catalog,
    types: Types,
    schema_epoch: Arc<AtomicU64>,
    lanes: Lanes,
    listeners: Arc<Hub>,
    prepared_statements: usize,
    max_lifetime: Duration,
    waiting: AtomicU32,
    max_waiting: u32,
    min: usize,
    /// Sessions being made clean after their callers left.
    pub(super) cleaning: TaskTracker,
    metrics: PoolMetrics,
}

/// A pool at one moment. `idle + lent <= open <= max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections that are open or opening.
    pub open: usize,
    /// Connections waiting to be lent.
    pub idle: usize,
    /// Connections lent, or being made clean.
    pub lent: usize,
    /// The most there may be.
    pub max: usize,
    /// Callers waiting.
    pub waiting: u32,
}

impl Database {
    /// Prepares the pool; no connection is opened yet. Errors: text about an address, a secret or a root certificate.
    pub fn new(
        name: BackendName,
        config: &DatabaseConfig,
        longest_statement: Duration,
        max_waiting: u32,
        metrics: PoolMetrics,
    ) -> Result<Arc<Self>, String> {
        let url = database_url(&config.url)?;
        let password = config.password.as_ref().map(crate::config::Secret::reveal).transpose()?;
        let connector = Connector::new(&url, password.as_deref(), config.pool.connect_timeout, longest_statement)?;
        let connector = Arc::new(connector);
        let schema_epoch = Arc::new(AtomicU64::new(0));
        let manager = SessionManager::new(
            Arc::clone(&connector),
            config.pool.max_lifetime,
            config.pool.prepared_statements as usize,
            Arc::clone(&schema_epoch),
        );
        let pool = Pool::builder(manager)
            .config(DeadpoolConfig {
                max_size: config.pool.max as usize,
                timeouts: WHENEVER,
                queue_mode: QueueMode::Lifo,
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())?;
        let listeners = Hub::new(name.clone(), Arc::clone(&connector), metrics.clone());
        Ok(Arc::new(Self {
            name,
            pool,
            connector,
            sightings: Sightings::default(),
            catalog: Catalog::default(),
            types: Types::default(),
            schema_epoch,
            lanes: Lanes::new(config.pool.lanes.min(config.pool.max / 4) as usize),
            listeners,
            prepared_statements: config.pool.prepared_statements as usize,
            max_lifetime: config.pool.max_lifetime,
            waiting: AtomicU32::new(0),
            max_waiting,
            min: config.pool.min as usize,
            cleaning: TaskTracker::new(),
            metrics,
        }))
    }

    /// The name in the configuration and in addresses.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// What is known of the database's own names.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What is known of the database's own types.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// Which statements have been seen.
    pub fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// The pool's counters.
    pub fn metrics(&self) -> &PoolMetrics {
        &self.metrics
    }

    /// A place on a lane; `None` where a lease serves better.
    pub fn lane(self: &Arc<Self>) -> Option<Place> {
        self.lanes.take(self, self.prepared_statements)
    }

    /// Those who listen, and the connection they share.
    pub fn listeners(&self) -> &Arc<Hub> {
        &self.listeners
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(super) fn schema_epoch(&self) -> u64 {
        self.schema_epoch.load(Ordering::Acquire)
    }

    pub(super) fn max_lifetime(&self) -> Duration {
        self.max_lifetime
    }

    /// Lends a connection: one that is free, a new one, or the next that comes back, whichever is first before `deadline`.
    ///
    /// Cancel safe: a caller that leaves the queue leaves no trace.
    pub async fn checkout(self: &Arc<Self>, deadline: Deadline) -> Result<Lease, PoolError> {
        let start = Instant::now();
        let object = match tokio::time::timeout_at(deadline.at(), self.pool.timeout_get(&NOW)).await {
            Ok(Ok(object)) => object,
            Ok(Err(DeadpoolError::Timeout(TimeoutType::Wait))) => self.wait(start, deadline).await?,
            Ok(Err(error)) => return Err(self.refusal(error, start)),
            // A dial that did not end in time.
            Err(_) => return Err(PoolError::WaitTimeout { backend: self.name.clone(), waited: start.elapsed() }),
        };
        self.metrics.checkout_wait.observe(start.elapsed().as_secs_f64());
        Ok(Lease::new(object, Arc::clone(self)))
    }

    async fn wait(&self, start: Instant, deadline: Deadline) -> Result<Object<SessionManager>, PoolError> {
        let turn = Turn::take(&self.waiting);
        if turn.number > self.max_waiting {
            return Err(PoolError::Overloaded { backend: self.name.clone(), waiting: turn.number - 1 });
        }
        match tokio::time::timeout_at(deadline.at(), self.pool.timeout_get(&WHENEVER)).await {
            Ok(Ok(object)) => Ok(object),
            Ok(Err(error)) => Err(self.refusal(error, start)),
            Err(_) => Err(PoolError::WaitTimeout { backend: self.name.clone(), waited: start.elapsed() }),
        }
    }

    fn refusal(&self, error: DeadpoolError<tokio_postgres::Error>, start: Instant) -> PoolError {
        let backend = self.name.clone();
        match error {
            DeadpoolError::Timeout(_) => PoolError::WaitTimeout { backend, waited: start.elapsed() },
            DeadpoolError::Closed => PoolError::Closed { backend },
            DeadpoolError::Backend(source) => {
                self.metrics.connect_failures.inc();
                PoolError::Down { backend, source: Box::new(source) }
            }
            other @ (DeadpoolError::NoRuntimeSpecified | DeadpoolError::PostCreateHook(_)) => {
                unreachable!("the pool has a runtime and no hooks: {other}")
            }
        }
    }

    /// Notes that a statement has changed the schema: sessions forget types and plans before they are lent again.
    pub fn schema_changed(&self) {
        self.schema_epoch.fetch_add(1, Ordering::AcqRel);
        self.catalog.forget();
        self.types.forget();
    }

    /// Opens connections up to the configured minimum. Errors: the first that could not be opened.
    pub async fn warm(self: &Arc<Self>, deadline: Deadline) -> Result<(), PoolError> {
        let mut leases = Vec::new();
        for _ in 0..self.min.max(1) {
            leases.push(self.checkout(deadline).await?);
        }
        Ok(())
    }

    /// True if a connection is open and idle, or one can be had before `deadline`. A busy pool counts as reachable; an open lane
    /// alone does not.
    pub async fn is_reachable(self: &Arc<Self>, deadline: Deadline) -> bool {
        match self.checkout(deadline).await {
            Ok(_) => true,
            Err(PoolError::WaitTimeout { .. } | PoolError::Overloaded { .. }) => self.status().lent > self.lanes.open(),
            Err(PoolError::Down { .. } | PoolError::Closed { .. }) => false,
        }
    }

    /// The pool at this moment.
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            open: status.size,
            idle: status.available,
            lent: status.size.saturating_sub(status.available),
            max: status.max_size,
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Lends nothing more, and waits until sessions being made clean are done, at most until `deadline`.
    pub async fn close(&self, deadline: Deadline) {
        self.pool.close();
        self.lanes.close();
        self.listeners.close();
        self.cleaning.close();
        if tokio::time::timeout_at(deadline.at(), self.cleaning.wait()).await.is_err() {
            tracing::warn!(backend.name = %self.name, "connections of `{}` were closed before they were clean", self.name);
        }
    }
}

/// A turn in the queue, given up on drop.
struct Turn<'a> {
    waiting: &'a AtomicU32,
    number: u32,
}

impl<'a> Turn<'a> {
    fn take(waiting: &'a AtomicU32) -> Self {
        Self { waiting, number: waiting.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
