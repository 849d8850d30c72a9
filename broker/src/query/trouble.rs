//! What streams and copies share: running the broker's own steps around them, and what may go wrong.

use std::time::Duration;

use hearth_client::wire::{Notice, Outcome};
use tokio::time::{timeout, timeout_at};
use tokio_postgres::error::SqlState;

use super::error::{Failure, QueryError};
use super::exchange::{Event, Exchange, Step};
use super::prepare::Unprepared;
use crate::base::Deadline;
use crate::encode::TooLarge;
use crate::pool::Lease;
use crate::pool::postgres::{Broken, ServerError, ask};

/// How long the server may take to roll back.
const SETTLE_GRACE: Duration = Duration::from_secs(1);
/// Notices kept of one statement. A loop that raises one a row would fill the answer otherwise.
const MAX_NOTICES: usize = 100;
/// What they may say, all together. Unit: bytes.
const MAX_NOTICE_BYTES: usize = 64 * 1024;

/// Why a stream or a copy broke off, before its transaction was to end.
#[derive(Debug)]
pub enum Trouble {
    /// Refused before the statement was sent, or for what it brought.
    Refused(QueryError),
    /// The database's refusal.
    Server(Box<ServerError>),
    /// The connection is over.
    Broken(Broken),
    /// A value did not fit its type: the schema changed under the session.
    SchemaChanged,
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<QueryError> for Trouble {
    fn from(error: QueryError) -> Self {
        Self::Refused(error)
    }
}

impl From<TooLarge> for Trouble {
    fn from(limit: TooLarge) -> Self {
        Self::Refused(QueryError::TooLarge { limit, outcome: Outcome::NotApplied })
    }
}

impl From<Unprepared> for Trouble {
    fn from(unprepared: Unprepared) -> Self {
        match unprepared {
            Unprepared::Refused(error) => Self::Refused(error),
            Unprepared::Server(error) => Self::Server(error),
            Unprepared::Broken(broken) => Self::Broken(broken),
        }
    }
}

impl Trouble {
    /// Another connection may do better.
    pub fn is_dead_connection(&self) -> bool {
        matches!(self, Self::Broken(_))
    }

    /// For the caller, with what is known of the effect where the server did not tell.
    pub fn into_failure(self, outcome: Outcome) -> Failure {
        match self {
            Self::Refused(error) => error,
            Self::Server(error) if error.state == SqlState::QUERY_CANCELED => QueryError::TimedOut { outcome },
            Self::Server(db) => QueryError::Database { db, outcome: Outcome::NotApplied },
            Self::Broken(broken) => QueryError::Lost { outcome, source: Box::new(broken) },
            Self::SchemaChanged => QueryError::SchemaChanged { outcome },
        }
        .into()
    }
}

/// Keeps a notice, if there are not too many.
pub fn note(notices: &mut Vec<Notice>, notice: Notice) {
    let length = |notice: &Notice| {
        notice.message.len()
            + notice.detail.as_ref().map_or(0, String::len)
            + notice.hint.as_ref().map_or(0, String::len)
    };
    let bytes: usize = notices.iter().map(length).sum();
    if notices.len() < MAX_NOTICES && bytes + length(&notice) <= MAX_NOTICE_BYTES {
        notices.push(notice);
    }
}

/// Errors: the deadline has passed, and nothing is started any more.
pub fn in_time(deadline: Deadline) -> Result<(), QueryError> {
    if deadline.has_passed() { Err(QueryError::TimedOut { outcome: Outcome::NotApplied }) } else { Ok(()) }
}

/// Runs steps of the broker's own to the server's readiness.
pub async fn run_own(lease: &mut Lease, steps: &[Step<'_>]) -> Result<(), Trouble> {
    let channel = &mut lease.session_mut().channel;
    let mut exchange = Exchange::send(channel, steps, true);
    let mut refused = None;
    loop {
        match exchange.next(channel).await {
            Ok(Event::Refused { error, .. }) => refused = Some(error),
            Ok(Event::Ready) => return refused.map_or(Ok(()), |error| Err(Trouble::Server(error))),
            Ok(_) => {}
            // What these steps do is done, a commit too.
            Err(_) if exchange.is_through() => return Ok(()),
            Err(broken) => return Err(broken.into()),
        }
    }
}

/// Ends the transaction, once everything before is answered; the lease is clean after it.
///
/// Errors: a deferred constraint's refusal; or, if the connection breaks, an outcome that is unknown.
pub async fn commit(lease: &mut Lease, closing: &[Step<'_>], deadline: Deadline) -> Result<(), Failure> {
    let rolls_back = closing.len() > 1;
    let unknown = if rolls_back { Outcome::NotApplied } else { Outcome::Unknown };
    in_time(deadline)?;
    match timeout_at(deadline.at() + SETTLE_GRACE, run_own(lease, closing)).await {
        Ok(Ok(())) => {
            lease.finish();
            Ok(())
        }
        Ok(Err(Trouble::Server(db))) => {
            settle(lease).await;
            Err(QueryError::Database { db, outcome: Outcome::NotApplied }.into())
        }
        // The server's last words came before the commit's answer, so there was none.
        Ok(Err(trouble @ Trouble::Broken(Broken::Ended(_)))) => Err(trouble.into_failure(Outcome::NotApplied)),
        Ok(Err(trouble)) => Err(trouble.into_failure(unknown)),
        Err(_) => Err(QueryError::TimedOut { outcome: unknown }.into()),
    }
}

/// After a refusal: reads what is owed and rolls back, so that the connection is clean at once. Where that takes long, the
/// dropped lease sees to it.
pub async fn settle(lease: &mut Lease) {
    let channel = &mut lease.session_mut().channel;
    let work = async {
        channel.settle().await.ok()?;
        if channel.status() != b'I' {
            ask::command(channel, "ROLLBACK").await.ok()?;
        }
        Some(())
    };
    if let Ok(Some(())) = timeout(SETTLE_GRACE, work).await {
        lease.session_mut().close_loose();
        lease.finish();
    }
}
