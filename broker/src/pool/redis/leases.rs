//! Connections for one caller at a time: transactions, and commands that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::Runtime;
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{AsyncConnectionConfig, Pipeline, RedisError, ServerError, Value};
use deadpool_redis::{Connection, Hook, Manager, Pool, PoolError as DeadpoolError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::connect::Connector;
use super::error::CacheError;
use super::node::{Counted, Node};
use crate::base::Deadline;
use crate::observe::EndpointMetrics;
use crate::pool::PoolError;
use crate::pool::event::CloseReason;

/// Callers that may wait for a lease of one node; more are told at once.
const MOST_WAITING: usize = 1000;

/// The exclusive connections of one node.
pub(super) struct Leases {
    pool: Pool,
    /// Turns at waiting: what waits may not have every lease.
    waits: Semaphore,
    waiting: AtomicUsize,
}

/// One connection, for one caller. Dropped in the middle of an exchange, it is closed: nobody else reads what is owed to this
/// caller, and a command that waits waits no more.
pub(super) struct Lease<'a> {
    node: &'a Node,
    connection: Option<Connection>,
    tainted: bool,
    since: Instant,
    _turn: Option<SemaphorePermit<'a>>,
}

impl Leases {
    /// At most `most`, none of them open. Errors: text about the address.
    pub fn new(connector: &Connector, most: u32, metrics: &EndpointMetrics) -> Result<Self, String> {
        // The client's own response timeout is 500 ms; the request's deadline is the one that counts here.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connector.connect_timeout))
            .set_response_timeout(None);
        let manager = Manager::new_with_config(connector.info.clone(), config).map_err(|error| error.to_string())?;
        let opened = metrics.clone();
        let pool = Pool::builder(manager)
            .max_size(most as usize)
            .create_timeout(Some(connector.connect_timeout + Duration::from_millis(100)))
            .runtime(Runtime::Tokio1)
            .post_create(Hook::sync_fn(move |_, _| {
                opened.opened();
                Ok(())
            }))
            .build()
            .map_err(|error| error.to_string())?;
        let waits = Semaphore::new((most as usize * 3 / 4).max(1));
        Ok(Self { pool, waits, waiting: AtomicUsize::new(0) })
    }

    /// Idle ones, lent ones, all there may be, and callers who wait.
    pub fn counts(&self) -> (usize, usize, usize, usize) {
        let status = self.pool.status();
        let idle = status.available.min(status.size);
        (idle, status.size - idle, status.max_size, self.waiting.load(Ordering::Relaxed))
    }

    /// Lends nothing more.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// What is to be run on a lease.
pub(super) struct Job<'a> {
    /// A key of it, or something that may be one.
    pub key: Option<&'a [u8]>,
    /// It waits for something.
    pub waits: bool,
    /// The commands, when so much time is left.
    pub write: &'a (dyn Fn(Duration) -> Pipeline + Sync),
}

impl Node {
    /// Runs it on a lease.
    pub(super) async fn run_on_lease(
        self: &Arc<Self>,
        job: &Job<'_>,
        deadline: Deadline,
    ) -> Result<Vec<Value>, CacheError> {
        let mut lease = self.lease(job.waits, deadline).await?;
        lease.run_all(&(job.write)(deadline.remaining()), deadline).await
    }

    /// Lends a connection. `waits`: to a command that waits.
    ///
    /// Cancel safe: a caller that leaves the queue leaves no trace.
    pub(super) async fn lease(self: &Arc<Self>, waits: bool, deadline: Deadline) -> Result<Lease<'_>, PoolError> {
        let start = Instant::now();
        if let Some(open) = self.breaker.shut() {
            return Err(self.open(open));
        }
        let waiting = Counted::new(&self.leases.waiting);
        let already = self.leases.waiting.load(Ordering::Relaxed);
        if already > MOST_WAITING {
            return Err(PoolError::Overloaded { backend: self.backend.clone(), waiting: already - 1 });
        }
        let got = async {
            let turn = if waits { self.leases.waits.acquire().await.ok() } else { None };
            (turn, self.leases.pool.get().await)
        };
        let got = timeout_at(deadline.at(), got).await;
        drop(waiting);
        let (backend, waited) = (self.backend.clone(), start.elapsed());
        let Ok((turn, got)) = got else {
            self.metrics.wait.timeout.observe(waited.as_secs_f64());
            return Err(PoolError::WaitTimeout { backend, waited });
        };
        match got {
            Ok(connection) => {
                self.metrics.wait.ok.observe(waited.as_secs_f64());
                self.breaker.success();
                Ok(Lease {
                    node: self,
                    connection: Some(connection),
                    tainted: false,
                    since: Instant::now(),
                    _turn: turn,
                })
            }
            Err(error) => {
                self.metrics.wait.rejected.observe(waited.as_secs_f64());
                match error {
                    DeadpoolError::Closed => Err(PoolError::Closed { backend }),
                    error => Err(self.refused(Box::new(error))),
                }
            }
        }
    }
}

impl Lease<'_> {
    /// Runs commands in one write; refusals stand among the values. When the deadline passes first, the connection is closed.
    pub async fn run_all(&mut self, commands: &Pipeline, deadline: Deadline) -> Result<Vec<Value>, CacheError> {
        let backend = self.node.backend.clone();
        let exchange = self.begin().send_packed_commands(commands, 0, commands.len());
        let answer = timeout_at(deadline.at(), exchange).await.map_err(|_| CacheError::TimedOut { backend })?;
        match self.end(answer.map(Value::Array))? {
            Value::Array(values) => Ok(values),
            other => Ok(vec![other]),
        }
    }

    fn begin(&mut self) -> &mut MultiplexedConnection {
        self.tainted = true;
        self.connection.as_mut().expect("it is there until it is dropped")
    }

    /// The exchange is complete, if the connection is well.
    fn end(&mut self, answer: Result<Value, RedisError>) -> Result<Value, CacheError> {
        let value = match answer {
            Ok(value) => value,
            Err(error) if is_broken(&error) => {
                return Err(CacheError::Lost { backend: self.node.backend.clone(), source: Box::new(error) });
            }
            Err(error) => match ServerError::try_from(error) {
                Ok(refusal) => Value::ServerError(refusal),
                Err(error) => {
                    return Err(CacheError::Lost { backend: self.node.backend.clone(), source: Box::new(error) });
                }
            },
        };
        self.tainted = false;
        Ok(value)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.node.metrics.hold.observe(self.since.elapsed().as_secs_f64());
        if self.tainted
            && let Some(connection) = self.connection.take()
        {
            drop(Connection::take(connection));
            self.node.closed(CloseReason::Tainted);
        }
    }
}

/// True for an error that says nothing of the command and all of its connection.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}
