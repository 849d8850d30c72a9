//! Everything that can end a request, in one enum: the union of the inner layers' errors.

use std::time::Duration;

use crate::broker::ReloadError;
use crate::control::ControlError;
use crate::pool::ListenError;
use crate::pool::redis::CacheError;
use crate::query::command::CommandError;
use crate::query::{Failure, QueryError};
use crate::tenant::AdmissionError;

use super::auth::AuthError;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The body is larger than the broker takes.
    #[error("the request body is larger than {limit} bytes")]
    RequestTooLarge {
        /// Unit: bytes.
        limit: u64,
    },
    /// The answer is larger than the tenant may have; the commands have run.
    #[error("the answer is larger than {limit} bytes")]
    ReplyTooLarge {
        /// Unit: bytes.
        limit: u64,
    },
    /// The body did not come in time.
    #[error("the request body did not arrive within {} ms", waited.as_millis())]
    RequestTimeout {
        /// How long was waited.
        waited: Duration,
    },
    /// Who is asking is not known, or may not ask this.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The tenant's limits.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The tenant has no such database.
    #[error("there is no database `{0}` for this key")]
    UnknownDatabase(String),
    /// The database has no such named statement, or the key may not run it.
    #[error("there is no statement `{0}` for this key")]
    UnknownStatement(String),
    /// The tenant may not set this.
    #[error("the setting `{0}` is not among the tenant's `settings`")]
    SettingNotAllowed(String),
    /// Who is asking has this setting from its token.
    #[error("the setting `{0}` comes from the token, and no request may set it")]
    SettingFixed(String),
    /// The tenant has no such cache.
    #[error("there is no cache `{0}` for this key")]
    UnknownCache(String),
    /// The statement has no result.
    #[error(transparent)]
    Query(#[from] Failure),
    /// The command was refused before it was sent.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The command has no answer.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// LISTEN is not in force.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A stream's reader left too much unread.
    #[error("{unread} events were left unread when the next one came; the stream ends before it")]
    ReaderTooSlow {
        /// How many may be.
        unread: usize,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    Draining,
    /// A reload has replaced the database, or taken it away, while a stream heard it.
    #[error("the configuration of `{0}` has changed; listen again")]
    Replaced(String),
    /// The configuration was not reloaded.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// The control database.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No such path.
    #[error("there is nothing at `{0}`")]
    NotFound(String),
    /// The path exists under another method.
    #[error("this path does not take {0}")]
    MethodNotAllowed(String),
    /// A handler panicked.
    #[error("a bug in the broker ended this request")]
    Internal,
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        Self::Query(error.into())
    }
}
