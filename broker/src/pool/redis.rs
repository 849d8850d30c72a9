//! One Redis server: a few shared, pipelined connections ("lanes") that every command goes over.
//!
//! A lane is a deadpool object kept checked out: deadpool's own checkout costs `UNWATCH` and `PING` each time, which would
//! halve throughput. Commands that change a connection's state never get here (`query::command`), so sharing is safe.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::Runtime;
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{self, AsyncConnectionConfig, Cmd, IntoConnectionInfo, Pipeline, ProtocolVersion, Value};
use deadpool_redis::{Connection, Manager, Pool, PoolError as DeadpoolError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::PoolError;
use super::event::CloseReason;
use crate::base::{BackendName, Deadline};
use crate::config::{CacheConfig, Secret};
use crate::observe::{EndpointMetrics, PoolMetrics};

/// A connection unused for longer is asked for a sign of life first: a server that restarted meanwhile is then no caller's news.
const IDLE_DOUBT: Duration = Duration::from_secs(1);

/// The longest wait for that sign. A server that is busy for longer gets a new connection, which costs it little.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// One Redis server and its lanes.
pub struct Cache {
    name: BackendName,
    pool: Pool,
    lanes: Vec<Lane>,
    next: AtomicUsize,
    /// Connections that broke so far. A restarted server breaks all lanes, and each would cost a request to find out.
    failures: AtomicU64,
    metrics: EndpointMetrics,
}

/// One shared connection, opened by its first user and again after it broke.
#[derive(Default)]
struct Lane {
    /// The lock guards a look or a swap, never a wait.
    current: std::sync::Mutex<Option<Open>>,
    /// Held while the lane is opened or asked for a sign of life, so that one caller does it and the rest wait for that.
    opening: Mutex<()>,
}

impl Lane {
    fn current(&self) -> MutexGuard<'_, Option<Open>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Open {
    connection: MultiplexedConnection,
    /// Grows with each opening, so that a failure is charged to the connection it happened on.
    generation: u64,
    /// When it last carried a command.
    used: Instant,
    /// The cache's count of failures when this connection was last known to be well.
    failures: u64,
    /// Keeps the lane's slot in the pool.
    slot: Connection,
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No connection could be had; nothing was sent.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The connection broke after the command may have been sent.
    #[error("the connection to `{backend}` broke")]
    Lost {
        /// Which cache.
        backend: BackendName,
        /// What the client said.
        #[source]
        source: redis::RedisError,
    },
    /// The deadline passed with the command on its way.
    #[error("`{backend}` did not answer before the deadline")]
    TimedOut {
        /// Which cache.
        backend: BackendName,
    },
}

impl Cache {
    /// Prepares the lanes; no connection is opened yet. Errors: text about an address or a secret.
    pub fn new(name: BackendName, config: &CacheConfig, metrics: &PoolMetrics) -> Result<Arc<Self>, String> {
        let mut info = config.url.as_str().into_connection_info().map_err(|error| error.to_string())?;
        let metrics = metrics.endpoint(&info.addr().to_string());
        // RESP2: a RESP3 reply nests and types things that the REST protocol's clients do not expect.
        let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        if let Some(password) = config.password.as_ref().map(Secret::reveal).transpose()? {
            settings = settings.set_password(password);
        }
        info = info.set_redis_settings(settings);
        // The client's own response timeout is 500 ms; the request's deadline is the one that counts here.
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            .set_response_timeout(None);
        let manager = Manager::new_with_config(info, connection).map_err(|error| error.to_string())?;
        let pool = Pool::builder(manager)
            .max_size(config.lanes as usize)
            .create_timeout(Some(config.connect_timeout + Duration::from_millis(100)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())?;
        let lanes = (0..config.lanes).map(|_| Lane::default()).collect();
        Ok(Arc::new(Self { name, pool, lanes, next: AtomicUsize::new(0), failures: AtomicU64::new(0), metrics }))
    }

    /// The name in the configuration and in addresses.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// The cache's counters.
    pub fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    /// Runs one command. A refusal by Redis is a [`Value::ServerError`].
    pub async fn run(&self, command: &Cmd, deadline: Deadline) -> Result<Value, CacheError> {
        let (index, generation, mut lane) = self.lane(deadline).await?;
        let sent = Instant::now();
        let answer = tokio::time::timeout_at(deadline.at(), lane.send_packed_command(command)).await;
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => self.failed(index, generation, error),
            Err(_) => Err(self.timed_out(sent)),
        }
    }

    /// Runs several commands in one write, not as a transaction; refusals stand among the values.
    pub async fn run_all(&self, commands: &Pipeline, deadline: Deadline) -> Result<Vec<Value>, CacheError> {
        let (index, generation, mut lane) = self.lane(deadline).await?;
        let sent = Instant::now();
        let answer =
            tokio::time::timeout_at(deadline.at(), lane.send_packed_commands(commands, 0, commands.len())).await;
        match answer {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error)) => self.failed(index, generation, error).map(|value| vec![value]),
            Err(_) => Err(self.timed_out(sent)),
        }
    }

    async fn lane(&self, deadline: Deadline) -> Result<(usize, u64, MultiplexedConnection), CacheError> {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        let timed_out = || PoolError::WaitTimeout { backend: self.name.clone(), waited: Duration::ZERO };
        let lane = &self.lanes[index];
        if let Some(open) = &mut *lane.current()
            && !self.is_doubtful(open)
        {
            open.used = Instant::now();
            return Ok((index, open.generation, open.connection.clone()));
        }
        let opened = async {
            let _turn = lane.opening.lock().await;
            self.mend(lane).await.map(|(generation, connection)| (index, generation, connection))
        };
        tokio::time::timeout_at(deadline.at(), opened).await.map_err(|_| timed_out())?.map_err(CacheError::from)
    }

    /// Asks a doubtful lane for a sign of life, and opens one that gives none or is not there.
    async fn mend(&self, lane: &Lane) -> Result<(u64, MultiplexedConnection), PoolError> {
        let failures = self.failures.load(Ordering::Acquire);
        let known =
            lane.current().as_ref().map(|open| (open.generation, open.connection.clone(), self.is_doubtful(open)));
        if let Some((generation, connection, doubtful)) = known {
            let well = !doubtful || answers(connection.clone()).await;
            let mut held = lane.current();
            if well {
                if let Some(open) = held.as_mut().filter(|open| open.generation == generation) {
                    (open.used, open.failures) = (Instant::now(), failures);
                }
                return Ok((generation, connection));
            }
            if let Some(broken) = held.take_if(|open| open.generation == generation) {
                self.close_lane(broken);
            }
        }
        let open = self.open().await?;
        let made = (open.generation, open.connection.clone());
        *lane.current() = Some(open);
        Ok(made)
    }

    async fn open(&self) -> Result<Open, PoolError> {
        let backend = self.name.clone();
        let slot = self.pool.get().await.map_err(|error| {
            self.metrics.not_opened("down");
            match error {
                DeadpoolError::Closed => PoolError::Closed { backend },
                error => PoolError::Down { backend, source: Box::new(error) },
            }
        })?;
        let generation = self.metrics.opened();
        let failures = self.failures.load(Ordering::Acquire);
        Ok(Open { connection: slot.as_ref().clone(), generation, used: Instant::now(), failures, slot })
    }

    /// True where the connection may have died unnoticed: long unused, or another one has broken since.
    fn is_doubtful(&self, open: &Open) -> bool {
        open.used.elapsed() > IDLE_DOUBT || open.failures != self.failures.load(Ordering::Acquire)
    }

    /// The broken connection must not go back: the pool would lend it again.
    fn close_lane(&self, broken: Open) {
        drop(Connection::take(broken.slot));
        self.metrics.closed(CloseReason::BackendClosed.as_str(), None, None);
    }

    /// Tells a refusal by Redis from a broken connection, and closes the lane after the latter.
    fn failed(&self, index: usize, generation: u64, error: redis::RedisError) -> Result<Value, CacheError> {
        let broken = error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error();
        if !broken {
            return match redis::ServerError::try_from(error) {
                Ok(refusal) => Ok(Value::ServerError(refusal)),
                Err(source) => Err(CacheError::Lost { backend: self.name.clone(), source }),
            };
        }
        let broken = self.lanes[index].current().take_if(|open| open.generation == generation);
        if let Some(open) = broken {
            self.failures.fetch_add(1, Ordering::AcqRel);
            self.close_lane(open);
        }
        Err(CacheError::Lost { backend: self.name.clone(), source: error })
    }

    /// A connection that did not answer one caller in time may answer nobody any more: the next asks first.
    fn timed_out(&self, sent: Instant) -> CacheError {
        if sent.elapsed() > SIGN_OF_LIFE {
            self.failures.fetch_add(1, Ordering::AcqRel);
        }
        CacheError::TimedOut { backend: self.name.clone() }
    }

    /// Asks for a sign of life.
    pub async fn ping(&self, deadline: Deadline) -> Result<(), CacheError> {
        self.run(&redis::cmd("PING"), deadline).await.map(|_| ())
    }

    /// Lends nothing more.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// True if the connection gives a sign of life.
async fn answers(mut connection: MultiplexedConnection) -> bool {
    let ping = redis::cmd("PING");
    matches!(tokio::time::timeout(SIGN_OF_LIFE, connection.send_packed_command(&ping)).await, Ok(Ok(_)))
}
