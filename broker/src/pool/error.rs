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
        waiting: u32,
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
    /// The pool is closed: the broker is shutting down.
    #[error("the pool of `{backend}` is closed")]
    Closed {
        /// Which backend.
        backend: BackendName,
    },
}
