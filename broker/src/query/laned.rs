//! Running a short read on a lane. Whatever a lane cannot do well, it leaves to a lease: the statement has no effect, so running
//! it again costs only time.

use std::sync::Arc;

use hearth_client::wire::Outcome;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;

use super::error::QueryError;
use super::exchange::{self, Budget, Fault};
use super::run::{Answer, Run};
use crate::pool::lane::{PATIENCE, Place};
use crate::pool::postgres::Prepared;

/// Runs the statement on a lane; `None` where a lease must.
///
/// Cancel safe: a dropped run's rows are thrown away. Nothing is cancelled at the server, where neighbours share the session.
pub async fn run(run: &Run<'_>) -> Option<Result<Answer, QueryError>> {
    // A request that asks for READ ONLY has the server enforce it, which takes a transaction and so a lease.
    if run.limits.read_only {
        return None;
    }
    let key = run.statement.key();
    if !run.habits.are_good(&key) || !run.is_harmless() {
        return None;
    }
    let place = run.database.lane()?;
    let started = Instant::now();
    let _active = run.metrics.active();
    let patience = run.deadline.at().min(started + PATIENCE);
    let ended = timeout_at(patience, on(run, &place, &key)).await;
    match ended {
        Ok(Ok(body)) => {
            run.metrics.wait_seconds.observe(0.0);
            run.habits.note_on_lane(&key, started.elapsed(), place.ahead, body.len());
            Some(Ok(Answer { body, queue: std::time::Duration::ZERO, db: started.elapsed() }))
        }
        Ok(Err(Fault::Refused(error))) => Some(Err(error)),
        Ok(Err(Fault::TooLarge { limit, .. })) => {
            run.habits.ban(&key);
            Some(Err(QueryError::TooLarge { limit, outcome: Outcome::NotApplied }))
        }
        Ok(Err(Fault::Driver(error))) => {
            // Out of the lane's budget, or the lane itself is ill: a lease will tell. Everything else it would tell again.
            let db = error.as_db_error()?;
            let own_fault = db.parsed_severity() == Some(tokio_postgres::error::Severity::Error);
            let over_budget = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(db.code());
            let stale =
                db.routine() == Some("RevalidateCachedQuery") || *db.code() == SqlState::INVALID_SQL_STATEMENT_NAME;
            if over_budget {
                run.habits.ban(&key);
            }
            if stale {
                run.database.schema_changed();
            }
            let told = own_fault && !over_budget && !stale;
            told.then(|| Err(QueryError::Database { db: Box::new(db.clone()), outcome: Outcome::NotApplied }))
        }
        Ok(Err(Fault::SchemaChanged)) => {
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

async fn on(run: &Run<'_>, place: &Place, key: &str) -> Result<Vec<u8>, Fault> {
    let session = place.session();
    let prepared = if let Some(prepared) = place.prepared(key) {
        prepared
    } else {
        let types = exchange::types(&session.client, run.statement).await?;
        let prepared = Arc::new(Prepared::new(session.client.prepare_typed(run.statement.sql, &types).await?));
        place.keep(key, &prepared);
        prepared
    };
    let values = exchange::bind(run.statement, &prepared).map_err(Fault::Refused)?;
    let budget = Budget {
        max_bytes: run.limits.max_bytes,
        max_rows: run.limits.max_rows,
        read_only: false,
        deadline: run.deadline,
        harmless: true,
    };
    exchange::read(session, run.statement, &prepared, values, budget).await
}
