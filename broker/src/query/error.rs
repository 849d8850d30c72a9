//! Why a statement has no result.

use std::time::Duration;

use hearth_client::wire::Outcome;

use super::unit::Expect;
use crate::encode::{ParamError, TooLarge};
use crate::pool::PoolError;
use crate::pool::postgres::ServerError;

/// Why a statement has no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The statement cannot be run here at all; nothing ran.
    #[error("{0}")]
    Refused(String),
    /// The statement wants another number of parameters; nothing ran.
    #[error("the statement wants {wanted} parameters, and the request has {given}")]
    ParamCount {
        /// Placeholders in the statement.
        wanted: usize,
        /// Values in the request.
        given: usize,
    },
    /// A parameter does not go with its place; nothing ran.
    #[error("parameter ${number} {error}")]
    Param {
        /// Counted from 1, as in the statement.
        number: usize,
        /// What is wrong with it.
        error: ParamError,
    },
    /// No connection could be had; nothing ran.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The database refused.
    #[error("the database refused the statement")]
    Database {
        /// The database's own record.
        #[source]
        db: Box<ServerError>,
        /// What became of the effect: rolled back, but for code that may have committed halfway.
        outcome: Outcome,
    },
    /// The connection died while the statement ran.
    #[error("the connection died while the statement ran")]
    Lost {
        /// What is known of the effect.
        outcome: Outcome,
        /// What the driver said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The deadline passed while the statement ran.
    #[error("the statement was cancelled at the deadline")]
    TimedOut {
        /// What is known of the effect.
        outcome: Outcome,
    },
    /// The result passed a limit.
    #[error("{limit}")]
    TooLarge {
        /// Which.
        limit: TooLarge,
        /// What became of the statement's effect.
        outcome: Outcome,
    },
    /// The schema kept changing while the statement ran; nothing was applied by the last attempt.
    #[error("a type changed while the statement ran")]
    SchemaChanged {
        /// What is known of the effect.
        outcome: Outcome,
    },
    /// The sender of bulk data sent nothing for too long; nothing was loaded.
    #[error("the sender sent nothing for {} ms; nothing was loaded", waited.as_millis())]
    SenderTooSlow {
        /// How long was waited.
        waited: Duration,
    },
    /// A count of rows is not as the request expects; everything was rolled back.
    #[error("{}", unexpected(*.expect, *.rows))]
    Unexpected {
        /// What must hold.
        expect: Expect,
        /// Rows of the statement.
        rows: u64,
    },
}

fn unexpected(expect: Expect, rows: u64) -> String {
    match expect.rows.filter(|wanted| *wanted != rows) {
        Some(wanted) => format!("`expect_rows` is {wanted}, and the statement has {rows}; everything was rolled back"),
        None => format!(
            "`max_affected` is {}, and the statement affects {rows}; everything was rolled back",
            expect.max_affected.unwrap_or_default()
        ),
    }
}

/// Why a request has no result, and which of its statements it was.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Why.
    #[source]
    pub error: QueryError,
    /// Counted from 0; of a batch.
    pub statement: Option<usize>,
    /// Statements before it are applied, so that the request must not be sent again as it is.
    pub after_others: bool,
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self { error, statement: None, after_others: false }
    }
}
