//! Why the control database did not do what it was asked.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::config::Fault;

/// Why the control database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration has no `[control]`.
    #[error("no control database is configured (`[control]` in the configuration, or `--control-url`)")]
    NotConfigured,
    /// Its address, password or certificates do not work.
    #[error("the control database's settings do not work: {0}")]
    Settings(String),
    /// It cannot be reached, or does not let the broker in.
    #[error("the control database cannot be reached")]
    Unreachable(#[source] tokio_postgres::Error),
    /// It did not answer in time.
    #[error("the control database did not answer within {0:?}")]
    TimedOut(Duration),
    /// A change was sent and not answered in time: whether it is stored is not known.
    #[error(
        "the control database did not answer within {0:?}; look whether the change is stored before you send it again"
    )]
    Unanswered(Duration),
    /// The file has a tenant of that name, which would win.
    #[error("the configuration file has a tenant `{0}`; take it out there first, or choose another name")]
    InFile(String),
    /// Its schema is not there, or older than this version needs.
    #[error(
        "the control database's schema is at version {found} and this version of hearth needs {needed}: run `hearth migrate`"
    )]
    NotMigrated {
        /// What is there; 0 for nothing.
        found: i32,
        /// What is needed.
        needed: i32,
    },
    /// A migration that was applied is not the one that this version knows.
    #[error("migration {version} (`{name}`) of the control database is not the one of this version of hearth")]
    OtherMigration {
        /// Its number.
        version: i32,
        /// Its name, there.
        name: String,
    },
    /// The database refused or broke off.
    #[error("the control database refused")]
    Database(#[source] tokio_postgres::Error),
    /// Somebody else writes and does not end.
    #[error("another transaction writes to the control database and has not ended within {0:?}; try again")]
    Busy(Duration),
    /// No such tenant.
    #[error("there is no tenant `{name}` in the control database{}", meant(.like))]
    UnknownTenant {
        /// What was asked for.
        name: String,
        /// Names like it.
        like: Vec<String>,
    },
    /// No such key of this tenant.
    #[error("the tenant `{tenant}` has no key `{id}`{}", meant(.like))]
    UnknownKey {
        /// Whose it would be.
        tenant: String,
        /// What was asked for.
        id: String,
        /// Ids like it, or those that there are.
        like: Vec<String>,
    },
    /// The name is taken.
    #[error("there is a tenant `{0}` already")]
    TenantExists(String),
    /// The key cannot be rotated as it is.
    #[error("{0}")]
    KeyState(String),
    /// It is not what the caller has seen any more.
    #[error(
        "the tenant `{name}` is at version {found} and not at {wanted}: somebody else has changed it; read it again"
    )]
    Changed {
        /// Which tenant.
        name: String,
        /// What was expected.
        wanted: String,
        /// What is there.
        found: i64,
    },
    /// What was to be stored is not good.
    #[error("refused: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Fault>),
}

fn meant(like: &[String]) -> String {
    if like.is_empty() { String::new() } else { format!("; did you mean `{}`?", like.join("`, `")) }
}

/// How long a writer waits for another one.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

impl From<tokio_postgres::Error> for ControlError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(&SqlState::LOCK_NOT_AVAILABLE) => Self::Busy(LOCK_PATIENCE),
            _ if error.is_closed() => Self::Unreachable(error),
            _ => Self::Database(error),
        }
    }
}

impl ControlError {
    /// One fault in what was to be stored.
    pub(super) fn fault(path: &str, message: impl Into<String>) -> Self {
        Self::Refused(vec![Fault::new(path, message)])
    }
}
