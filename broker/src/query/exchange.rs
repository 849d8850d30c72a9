//! One statement over one lease: prepare, bind, execute, read to the end.

use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use futures_util::future::{Either, select};
use hearth_client::wire::Outcome;
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Error};

use super::error::QueryError;
use super::statement::Statement;
use crate::base::Deadline;
use crate::encode::params::{self, TextParam};
use crate::encode::rows::RowError;
use crate::encode::{RowWriter, TooLarge};
use crate::pool::Lease;
use crate::pool::postgres::{Prepared, Session};

/// What the caller may have, for one statement.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Unit: bytes of encoded result.
    pub max_bytes: u64,
    /// Rows, if the request names a ceiling.
    pub max_rows: Option<u64>,
    /// Run READ ONLY, enforced by the server.
    pub read_only: bool,
    /// Nothing is started after it.
    pub deadline: Deadline,
    /// It can have no effect, so it need not be read to its end to know its outcome.
    pub harmless: bool,
}

/// Why an exchange did not end with a result.
#[derive(Debug)]
pub enum Fault {
    /// Refused before anything was sent.
    Refused(QueryError),
    /// The driver's error: the database's refusal, or a connection that broke.
    Driver(Error),
    /// The result passed a limit. `done`: the statement was read to its end all the same.
    TooLarge { limit: TooLarge, done: bool },
    /// A value did not fit its type: the schema changed under the session.
    SchemaChanged,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

/// The statement prepared on the lease's session: from its cache, or now. From the second sighting in the pool on it is kept.
pub async fn prepare(lease: &mut Lease, statement: &Statement<'_>) -> Result<Arc<Prepared>, Fault> {
    let key = statement.key();
    if let Some(known) = lease.session_mut().prepared.get(&key) {
        return Ok(known);
    }
    let types = types(&lease.session().client, statement).await?;
    // Not `query_typed_raw`, which is one round trip less: it resolves unknown result types while its own rows wait in the
    // same connection, and a large result then never moves (decision 0004).
    let prepared = Arc::new(Prepared::new(lease.session().client.prepare_typed(statement.sql, &types).await?));
    if lease.database().sightings().seen_before(&key) {
        lease.session_mut().prepared.insert(&key, Arc::clone(&prepared));
    }
    Ok(prepared)
}

/// The types that the request names for its placeholders; empty where it leaves them to the server.
pub async fn types(client: &Client, statement: &Statement<'_>) -> Result<Vec<Type>, Fault> {
    match statement.types {
        Some(names) => types_by_name(client, names).await,
        None => Ok(Vec::new()),
    }
}

/// Asks the server what the type names mean.
async fn types_by_name(client: &Client, names: &[Option<String>]) -> Result<Vec<Type>, Fault> {
    let given: Vec<TextParam> =
        names.iter().map(|name| TextParam(Some(name.as_deref().unwrap_or("unknown").into()))).collect();
    let list: Vec<String> = (1..=given.len()).map(|n| format!("pg_catalog.to_regtype(${n})::pg_catalog.oid")).collect();
    let sql = format!("SELECT {}", list.join(", "));
    let rows: Vec<_> = pin!(client.query_raw(&sql, given).await?).try_collect().await?;
    let row =
        rows.first().ok_or_else(|| Fault::Refused(QueryError::Refused("`types` could not be looked up".to_owned())))?;
    let mut types = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let oid = row.get::<_, Option<Oid>>(index).ok_or_else(|| {
            let name = name.as_deref().unwrap_or_default();
            Fault::Refused(QueryError::Refused(format!("`types[{index}]`: there is no type `{name}`")))
        })?;
        types.push(Type::new(String::new(), oid.0, Kind::Simple, String::new()));
    }
    Ok(types)
}

/// An object id as the server prints it.
struct Oid(u32);

impl<'a> tokio_postgres::types::FromSql<'a> for Oid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.parse()?))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The request's values as the statement's parameters. Nothing has been sent yet.
pub fn bind(statement: &Statement<'_>, prepared: &Prepared) -> Result<Vec<TextParam>, QueryError> {
    let places = prepared.params();
    if places.len() != statement.params.len() {
        return Err(QueryError::ParamCount { wanted: places.len(), given: statement.params.len() });
    }
    let made = statement.params.iter().zip(places).enumerate();
    made.map(|(index, (value, ty))| {
        params::param(value, ty).map_err(|error| QueryError::Param { number: index + 1, error })
    })
    .collect()
}

/// Runs a prepared statement and writes its result.
///
/// Returns only when the server is ready for the next query: a deferred constraint may refuse after the last row.
pub async fn execute(
    lease: &Lease,
    statement: &Statement<'_>,
    prepared: &Prepared,
    values: Vec<TextParam>,
    budget: Budget,
) -> Result<Vec<u8>, Fault> {
    let session = lease.session();
    // Look-ups of types went before, with tags of their own.
    session.observed.begin();
    if !budget.read_only {
        return read(session, statement, prepared, values, budget).await;
    }
    // Awaited: a BEGIN that was cancelled, sent in one write with the statement, would leave the statement to run on its own,
    // free to write.
    session.client.batch_execute("BEGIN READ ONLY").await?;
    if budget.deadline.has_passed() {
        return Err(Fault::Refused(QueryError::TimedOut { outcome: Outcome::NotApplied }));
    }
    session.observed.begin();
    let reading = pin!(read(session, statement, prepared, values, budget));
    let ending = pin!(session.client.batch_execute("COMMIT"));
    // Polled in this order, so sent in this order, in one write; each answers by itself.
    match select(reading, ending).await {
        Either::Left((Ok(result), ending)) => ending.await.map(|()| result).map_err(Fault::from),
        Either::Left((Err(fault @ Fault::TooLarge { done: false, .. }), _)) => Err(fault),
        Either::Left((Err(fault), ending)) => {
            // The refusal is the news; COMMIT then only ends the failed transaction.
            let _ = ending.await;
            Err(fault)
        }
        Either::Right((ended, reading)) => reading.await.and_then(|result| ended.map(|()| result).map_err(Fault::from)),
    }
}

/// Sends a prepared statement and reads its rows to the end.
pub async fn read(
    session: &Session,
    statement: &Statement<'_>,
    prepared: &Prepared,
    values: Vec<TextParam>,
    budget: Budget,
) -> Result<Vec<u8>, Fault> {
    let columns = prepared.columns(statement.format);
    let mut writer = RowWriter::new(&columns, budget.max_bytes, budget.max_rows);
    let mut rows = pin!(session.client.query_raw(&prepared.statement, values).await?);
    let mut too_large = None;
    while let Some(row) = rows.try_next().await? {
        if too_large.is_some() {
            continue;
        }
        match writer.push(&row) {
            Ok(()) => {}
            // Reading on costs only time, but the outcome of an effect is known only at the end.
            Err(RowError::TooLarge(limit)) if budget.harmless => {
                return Err(Fault::TooLarge { limit, done: false });
            }
            Err(RowError::TooLarge(limit)) => too_large = Some(limit),
            Err(RowError::BadLiteral(_)) => return Err(Fault::SchemaChanged),
        }
    }
    if let Some(limit) = too_large {
        return Err(Fault::TooLarge { limit, done: true });
    }
    if session.observed.is_shared() {
        return Ok(writer.finish_read(statement.read_command()));
    }
    let tags = session.observed.take_tags();
    Ok(writer.finish(tags.first().map_or("", String::as_str)))
}
