//! Why a command has no answer.

use std::io;
use std::sync::Arc;

use crate::base::BackendName;
use crate::pool::PoolError;

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
        /// What the socket or the client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The deadline passed with the command on its way.
    #[error("`{backend}` did not answer before the deadline")]
    TimedOut {
        /// Which cache.
        backend: BackendName,
    },
    /// The answer is longer than the tenant may have. The commands have run.
    #[error("the answer of `{backend}` is larger than {limit} bytes")]
    TooLong {
        /// Which cache.
        backend: BackendName,
        /// Unit: bytes.
        limit: usize,
    },
    /// The commands' keys are on several nodes of the cluster, and nothing was sent.
    #[error("CROSSSLOT Keys in request don't hash to the same slot: a transaction runs on one node of `{backend}`")]
    CrossSlot {
        /// Which cache.
        backend: BackendName,
    },
}

/// An error that several callers are told.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub(super) struct Shared(pub Arc<io::Error>);
