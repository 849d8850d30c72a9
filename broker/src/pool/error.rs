//! Why no connection could be had, or why one failed.

use std::time::Duration;

use crate::base::BackendName;

/// Why no connection could be had. In every case nothing ran.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The deadline passed while waiting for a free connection.
    #[error("no free connection to `{backend}` within {} ms", waited.as_millis())]
    WaitTimeout {
        /// Which backend.
        backend: BackendName,
        /// How long the caller waited.
        waited: Duration,
    },
    /// Too many callers wait already.
    #[error("{waiting} callers wait for `{backend}` already")]
    Overloaded {
        /// Which backend.
        backend: BackendName,
        /// How many wait.
        waiting: usize,
    },
    /// Too many of the tenant's own requests wait already.
    #[error("{waiting} of the tenant's requests wait for `{backend}` already")]
    QueueFull {
        /// Which backend.
        backend: BackendName,
        /// How many wait.
        waiting: usize,
    },
    /// The queue is longer than the caller can wait.
    #[error("a connection to `{backend}` would be free in about {} ms, too late for the request's deadline", expected.as_millis())]
    TooLate {
        /// Which backend.
        backend: BackendName,
        /// How long it would be.
        expected: Duration,
        /// When the queue may be short enough again for one as patient.
        retry_after: Duration,
    },
    /// The backend takes no connection.
    #[error("`{backend}` takes no connection")]
    Down {
        /// Which backend.
        backend: BackendName,
        /// What the dial said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pool is closed: the broker is shutting down, or a reload has replaced the pool.
    #[error("the pool of `{backend}` is closed")]
    Closed {
        /// Which backend.
        backend: BackendName,
    },
    /// Opening connections failed too often just now; nobody tries for a moment.
    #[error("`{backend}` took no connection several times in a row; the next try is in {} ms", retry_after.as_millis())]
    BreakerOpen {
        /// Which backend.
        backend: BackendName,
        /// Until the next try.
        retry_after: Duration,
    },
    /// The server has refused the broker's login several times in a row; nobody tries for longer. The caller is not told: what it
    /// could do about it is nothing.
    #[error("`{backend}` takes no connection for now; the next try is in {} ms", retry_after.as_millis())]
    LoginRefused {
        /// Which backend.
        backend: BackendName,
        /// Until the next try.
        retry_after: Duration,
        /// For the log.
        #[source]
        source: LoginRefused,
    },
    /// None of the database's servers takes writes.
    #[error("no server of `{backend}` takes writes, for {} ms now", waited.as_millis())]
    NoPrimary {
        /// Which backend.
        backend: BackendName,
        /// How long the caller waited.
        waited: Duration,
    },
    /// An operator has paused the pool, and the deadline passed.
    #[error("`{backend}` is paused; waited {} ms", waited.as_millis())]
    Paused {
        /// Which backend.
        backend: BackendName,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The caller's consistency token is of a history that a failover has cut off.
    #[error("`{backend}` has lost what the consistency token stands for: a failover went on from before it")]
    HistoryLost {
        /// Which backend.
        backend: BackendName,
    },
}

/// What operators are told, in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server refuses the broker's login; set the password right, then `POST /admin/v1/databases/NAME/reconnect` or wait"
)]
pub struct LoginRefused;
