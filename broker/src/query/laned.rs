//! Running a short read on a lane. Whatever a lane cannot do well, it leaves to a lease: the statement has no effect, so running
//! it again costs only time.

use std::time::Duration;

use hearth_client::wire::Outcome;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::error::QueryError;
use super::habits::Habit;
use super::prepare;
use super::run::{Answer, Run};
use super::statement::Statement;
use crate::encode::rows::RowError;
use crate::encode::{RowWriter, TooLarge};
use crate::observe::OffLane;
use crate::pool::lane::Place;
use crate::pool::pipeline::{Answered, Ended};
use crate::pool::postgres::ServerError;

/// Why a lane has no result.
enum Trouble {
    Refused(QueryError),
    Server(Box<ServerError>),
    TooLarge(TooLarge),
    SchemaChanged,
    /// It has types that the pool has not met yet: a lease learns them.
    UnknownTypes,
    Ended,
    Late,
}

impl From<Ended> for Trouble {
    fn from(ended: Ended) -> Self {
        if ended == Ended::Late { Self::Late } else { Self::Ended }
    }
}

/// Runs the statement on a lane; `None` where a lease must.
///
/// Cancel safe: a dropped run's rows are thrown away. Nothing is cancelled at the server, where neighbours share the session.
pub async fn run(run: &Run<'_>) -> Option<Result<Answer, QueryError>> {
    // Types by name take a look-up, and anything around the statement takes a transaction: both take a lease.
    let [statement] = &*run.unit.statements else { return None };
    if !run.lanes || !run.unit.is_bare() || run.unit.expects_anything() || statement.types.is_some() {
        return None;
    }
    let key = statement.key();
    let habit = run.habits.of(&key);
    if !run.habits.are_good(&habit) || !run.is_pure() {
        return None;
    }
    let place = run.database.lane(&run.caller.account, run.unit.want(run.at_least))?;
    let started = Instant::now();
    let _active = run.metrics.active();
    let ended = on(run, statement, &place, &key, started).await;
    let metrics = run.habits.metrics();
    metrics.depth(place.ahead);
    let told = match ended {
        Ok((body, took)) => {
            let db = started.elapsed();
            run.metrics.wait_seconds.observe(0.0);
            run.habits.note_on_lane(&habit, took, body.len());
            metrics.statements.inc();
            let by_replica = place.endpoint().is_replica();
            Some(Ok(Answer { results: vec![body], attempts: 1, by_replica, db, ..Answer::default() }))
        }
        Err(Trouble::Refused(error)) => Some(Err(error)),
        Err(Trouble::TooLarge(limit)) => {
            run.habits.ban(&habit, OffLane::Large);
            Some(Err(QueryError::TooLarge { limit, outcome: Outcome::NotApplied }))
        }
        Err(Trouble::Server(error)) => refused(run, &habit, &place, error),
        Err(Trouble::SchemaChanged) => {
            run.database.schema_changed();
            None
        }
        Err(Trouble::Late) => Some(Err(QueryError::TimedOut { outcome: Outcome::NotApplied })),
        Err(Trouble::UnknownTypes | Trouble::Ended) => None,
    };
    if told.is_none() {
        metrics.again.inc();
    }
    told
}

/// Out of the lane's budget, or the lane itself is ill: a lease will tell. Everything else it would tell again.
fn refused(run: &Run<'_>, habit: &Habit, place: &Place, db: Box<ServerError>) -> Option<Result<Answer, QueryError>> {
    // A statement that writes after all is refused on a lane, and no fault of the caller's.
    let off = if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(&db.state) {
        Some(OffLane::OverBudget)
    } else {
        (db.state == SqlState::READ_ONLY_SQL_TRANSACTION).then_some(OffLane::Writes)
    };
    let stale = db.is_stale_plan() || db.state == SqlState::INVALID_SQL_STATEMENT_NAME;
    if let Some(reason) = off {
        run.habits.ban(habit, reason);
        if reason == OffLane::OverBudget {
            place.over_budget();
        }
    }
    if stale {
        run.database.schema_changed();
    }
    let told = !db.is_fatal && off.is_none() && !stale;
    told.then_some(Err(QueryError::Database { db, outcome: Outcome::NotApplied }))
}

async fn on(
    run: &Run<'_>,
    statement: &Statement<'_>,
    place: &Place,
    key: &str,
    started: Instant,
) -> Result<(Vec<u8>, Duration), Trouble> {
    let due = run.deadline.at();
    let prepared = if let Some(prepared) = place.prepared(key) {
        prepared
    } else {
        let types = run.database.types();
        let made = place.prepare(key, statement.sql, due, |description| prepare::shape_of_known(types, description));
        Box::pin(made).await?.map_err(Trouble::Server)?.ok_or(Trouble::UnknownTypes)?
    };
    let values = prepare::bind(statement, &prepared.shape, &[]).map_err(Trouble::Refused)?;
    let columns = prepared.shape.columns(statement.format);
    let writer = RowWriter::new(columns, run.limits.max_bytes, run.limits.max_rows);
    let Answered { reader: mut answer, took } = place.run(started, due, &prepared, &values, writer).await?;
    if let Some(error) = answer.refused {
        return Err(Trouble::Server(error));
    }
    match answer.fault.take() {
        Some(RowError::TooLarge(limit)) => return Err(Trouble::TooLarge(limit)),
        Some(RowError::BadLiteral(_)) => return Err(Trouble::SchemaChanged),
        None => {}
    }
    let notices = std::mem::take(&mut answer.notices);
    let writer = answer.into_result().ok_or(Trouble::Ended)?;
    Ok((writer.finish_read(statement.read_command(), &notices), took))
}
