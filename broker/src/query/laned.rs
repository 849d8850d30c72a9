//! Running a short read on a lane. Whatever a lane cannot do well, it leaves to a lease: the statement has no effect, so running
//! it again costs only time.

use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use hearth_client::wire::Outcome;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Type};

use super::error::QueryError;
use super::prepare;
use super::run::{Answer, Run};
use super::statement::Statement;
use crate::encode::columns::Field;
use crate::encode::rows::RowError;
use crate::encode::{RowWriter, TooLarge};
use crate::pool::lane::{OnLane, PATIENCE, Place};
use crate::pool::postgres::{ServerError, Shape};

/// Why a lane has no result.
enum Trouble {
    Refused(QueryError),
    Driver(tokio_postgres::Error),
    TooLarge(TooLarge),
    SchemaChanged,
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Driver(error)
    }
}

/// Runs the statement on a lane; `None` where a lease must.
///
/// Cancel safe: a dropped run's rows are thrown away. Nothing is cancelled at the server, where neighbours share the session.
pub async fn run(run: &Run<'_>) -> Option<Result<Answer, QueryError>> {
    // Types by name take a look-up, and anything around the statement takes a transaction: both take a lease.
    let [statement] = &*run.unit.statements else { return None };
    if !run.unit.is_plain() || statement.types.is_some() {
        return None;
    }
    let key = statement.key();
    if !run.habits.are_good(&key) || !run.is_harmless() {
        return None;
    }
    let place = run.database.lane()?;
    let started = Instant::now();
    let _active = run.metrics.active();
    let patience = run.deadline.at().min(started + PATIENCE);
    let ended = timeout_at(patience, on(run, statement, &place, &key)).await;
    match ended {
        Ok(Ok(body)) => {
            run.metrics.wait_seconds.observe(0.0);
            run.habits.note_on_lane(&key, started.elapsed(), place.ahead, body.len());
            let queue = std::time::Duration::ZERO;
            Some(Ok(Answer { results: vec![body], attempts: 1, queue, db: started.elapsed(), ..Answer::default() }))
        }
        Ok(Err(Trouble::Refused(error))) => Some(Err(error)),
        Ok(Err(Trouble::TooLarge(limit))) => {
            run.habits.ban(&key);
            Some(Err(QueryError::TooLarge { limit, outcome: Outcome::NotApplied }))
        }
        Ok(Err(Trouble::Driver(error))) => refused(run, &key, &error),
        Ok(Err(Trouble::SchemaChanged)) => {
            run.database.schema_changed();
            None
        }
        Err(_) if run.deadline.has_passed() => Some(Err(QueryError::TimedOut { outcome: Outcome::NotApplied })),
        Err(_) => {
            place.retire();
            None
        }
    }
}

/// Out of the lane's budget, or the lane itself is ill: a lease will tell. Everything else it would tell again.
fn refused(run: &Run<'_>, key: &str, error: &tokio_postgres::Error) -> Option<Result<Answer, QueryError>> {
    let db = ServerError::from(error.as_db_error()?);
    let over_budget = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(&db.state);
    let stale = db.is_stale_plan() || db.state == SqlState::INVALID_SQL_STATEMENT_NAME;
    if over_budget {
        run.habits.ban(key);
    }
    if stale {
        run.database.schema_changed();
    }
    let told = !db.is_fatal && !over_budget && !stale;
    told.then(|| Err(QueryError::Database { db: Box::new(db), outcome: Outcome::NotApplied }))
}

async fn on(run: &Run<'_>, statement: &Statement<'_>, place: &Place, key: &str) -> Result<Vec<u8>, Trouble> {
    let session = place.session();
    let prepared = if let Some(prepared) = place.prepared(key) {
        prepared
    } else {
        let handle = session.client.prepare(statement.sql).await?;
        let field = |c: &tokio_postgres::Column| Field { name: c.name().to_owned(), ty: c.type_().clone() };
        let shape = Shape::new(handle.params().to_vec(), handle.columns().iter().map(field).collect());
        let prepared = Arc::new(OnLane { statement: handle, shape });
        place.keep(key, &prepared);
        prepared
    };
    let values = prepare::bind(statement, &prepared.shape, &[]).map_err(Trouble::Refused)?;
    let columns = prepared.shape.columns(statement.format);
    let mut writer = RowWriter::new(columns, run.limits.max_bytes, run.limits.max_rows);
    let mut rows = pin!(session.client.query_raw(&prepared.statement, values).await?);
    while let Some(row) = rows.try_next().await? {
        let values = (0..row.len()).map(|index| row.get::<_, Option<Printed<'_>>>(index).map(|text| text.0));
        writer.push(values).map_err(|error| match error {
            RowError::TooLarge(limit) => Trouble::TooLarge(limit),
            RowError::BadLiteral(_) => Trouble::SchemaChanged,
        })?;
    }
    Ok(writer.finish_read(statement.read_command()))
}

/// A value as the server prints it, borrowed from the row.
struct Printed<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Printed<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
