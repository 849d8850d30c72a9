//! Several statements: `POST /v1/db/{database}/batch`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hearth_client::wire::{BatchRequest, BatchResponse, BatchStatement, Transaction};
use http::{HeaderMap, StatusCode};

use super::problems::Problems;
use super::{Asked, note};
use crate::broker::Broker;
use crate::edge::call::{BackendPath, Call, Headers};
use crate::edge::json::json;
use crate::edge::{Error, body, problem};
use crate::encode::columns::Format;
use crate::encode::rows::row_count;
use crate::query::{Answer, Expect, Failure, QueryError, Readings, Statement, Unit, Value};

/// Runs several statements in one transaction, all or nothing, in one round trip to the database.
///
/// With `"transaction": null` each commits by itself, in order, up to the first error.
#[utoipa::path(
    post, path = "/v1/db/{database}/batch", tag = "sql", operation_id = "batch", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
        ("x-request-id" = Option<String>, Header, description = "Echoed, logged and put into every problem"),
    ),
    request_body = BatchRequest,
    responses((status = 200, description = "One result a statement", body = BatchResponse<serde_json::Value>), Problems)
)]
pub async fn batch(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    BackendPath(database): BackendPath,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    match answer(&broker, &mut call, &database, &headers, body).await {
        Ok(answer) => {
            call.spent(answer.queue, answer.db);
            call.used_rows(|| answer.rows());
            call.note(|event| event.rows = answer.results.iter().map(|result| row_count(result)).sum());
            call.finish(json(StatusCode::OK, written(&answer)), None)
        }
        Err(error) => problem::finish(call, &error),
    }
}

async fn answer(
    broker: &Broker,
    call: &mut Call,
    database: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, Error> {
    let who = call.identify(broker, headers, "batch").await?;
    who.0.may_send_sql()?;
    let asked = Asked::new(broker, call, who, database, headers)?;
    let body = body::read(headers, body, &broker.server, asked.deadline).await?;
    let request: BatchRequest<'_> = serde_json::from_slice(&body).map_err(|error| Error::Invalid(error.to_string()))?;
    let settings = asked.settings(&request.settings)?;
    let max = asked.tenant().limits.max_batch;
    if request.statements.is_empty() || request.statements.len() > max as usize {
        let count = request.statements.len();
        return Err(Error::Invalid(format!("a batch has 1 to {max} statements, and this one has {count}")));
    }
    let format = Format { rows: request.rows, values: request.values, int8: request.int8 };
    let mut statements = Vec::with_capacity(request.statements.len());
    for (index, statement) in request.statements.iter().enumerate() {
        statements.push(read(statement, format, &broker.readings).map_err(|error| numbered(error, index))?);
    }
    let read_only = !asked.may_write();
    call.to_database();
    match request.transaction {
        Some(begin) => {
            let begin = Transaction { read_only: begin.read_only || read_only, ..begin };
            let (statements, expect) = statements.into_iter().unzip();
            let unit = Unit::batch(statements, expect, begin, &settings, request.dry_run)?;
            note(call, &unit);
            Ok(asked.run(&unit, &[], None).go().await?)
        }
        None if request.dry_run => {
            Err(Error::Invalid("`dry_run` needs a transaction: leave `\"transaction\": null` out".to_owned()))
        }
        None => one_by_one(&asked, call, statements, read_only, &settings).await,
    }
}

fn read<'a>(
    statement: &'a BatchStatement<'a>,
    format: Format,
    readings: &Readings,
) -> Result<(Statement<'a>, Expect), QueryError> {
    let params: Result<Vec<_>, _> = statement.params.iter().map(|raw| Value::of_batch(raw)).collect();
    let params = params.map_err(QueryError::Refused)?;
    let expect = Expect { rows: statement.expect_rows, max_affected: statement.max_affected };
    Ok((Statement::new(&statement.sql, params, statement.types.as_deref(), format, readings)?, expect))
}

/// Each statement commits by itself; those before one that fails stay applied.
async fn one_by_one(
    asked: &Asked<'_>,
    call: &mut Call,
    statements: Vec<(Statement<'_>, Expect)>,
    read_only: bool,
    settings: &BTreeMap<String, String>,
) -> Result<Answer, Error> {
    // All are read, and refused, before the first runs.
    let mut units = Vec::with_capacity(statements.len());
    for (index, (statement, expect)) in statements.into_iter().enumerate() {
        if statement.refers_to().is_some_and(|earlier| earlier >= index) {
            let refusal = "it has a `$ref` to a statement that does not come before it";
            return Err(numbered(QueryError::Refused(refusal.to_owned()), index).into());
        }
        let unit = Unit::one(statement, expect, read_only, settings, false);
        units.push(unit.map_err(|error| numbered(error, index))?);
    }
    for unit in &units {
        note(call, unit);
    }
    let mut whole = Answer::default();
    for (index, unit) in units.iter().enumerate() {
        let ended = asked.run(unit, &whole.results, None).go().await;
        let answer = ended.map_err(|failure| Failure { after_others: index > 0, ..numbered(failure.error, index) })?;
        whole.results.extend(answer.results);
        whole.queue += answer.queue;
        whole.db += answer.db;
    }
    whole.attempts = 1;
    Ok(whole)
}

fn numbered(error: QueryError, statement: usize) -> Failure {
    Failure { statement: Some(statement), ..error.into() }
}

fn written(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::with_capacity(answer.results.iter().map(|result| result.len() + 1).sum::<usize>() + 40);
    out.extend_from_slice(b"{\"results\":[");
    for (index, result) in answer.results.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(result);
    }
    out.extend_from_slice(b"],\"attempts\":");
    out.extend_from_slice(itoa::Buffer::new().format(answer.attempts).as_bytes());
    out.push(b'}');
    out
}
