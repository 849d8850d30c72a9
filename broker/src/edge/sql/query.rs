//! One statement: `POST /v1/db/{database}/query`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hearth_client::wire::{QueryRequest, QueryResponse, StreamHead, media_type};
use http::{HeaderMap, StatusCode};

use super::problems::Problems;
use super::{Asked, line_format, note, streamed, unnumbered};
use crate::broker::Broker;
use crate::edge::call::{BackendPath, Call, Headers};
use crate::edge::json::json;
use crate::edge::{Error, body, problem};
use crate::encode::LineFormat;
use crate::encode::columns::Format;
use crate::encode::rows::row_count;
use crate::query::{Expect, Statement, Unit, Value};

/// Runs one statement, autocommit, with its parameters bound by the server.
#[utoipa::path(
    post, path = "/v1/db/{database}/query", tag = "sql", operation_id = "query", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
        ("x-request-id" = Option<String>, Header, description = "Echoed, logged and put into every problem"),
    ),
    request_body = QueryRequest,
    responses(
        (status = 200, description = "The result", content(
            (QueryResponse<serde_json::Value> = "application/json"), (StreamHead = "application/x-ndjson"), (String = "text/csv")), headers(
            ("server-timing" = String, description = "Milliseconds of auth, queue and db"),
            ("ratelimit" = String, description = "What is left of the tenant's rate"),
            ("ratelimit-policy" = String, description = "The tenant's limits"))),
        Problems,
    )
)]
pub async fn query(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    BackendPath(database): BackendPath,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    match answer(&broker, &mut call, &database, &headers, body).await {
        Ok(response) => call.finish(response, None),
        Err(error) => problem::finish(call, &error),
    }
}

async fn answer(
    broker: &Broker,
    call: &mut Call,
    database: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let format = line_format(headers)?;
    let who = if format.is_some() {
        call.identify_stream(broker, headers, "query").await?
    } else {
        call.identify(broker, headers, "query").await?
    };
    who.0.may_send_sql()?;
    let asked = Asked::new(broker, call, who, database, headers)?;
    let body = body::read(headers, body, &broker.server, asked.deadline).await?;
    let request: QueryRequest<'_> = serde_json::from_slice(&body).map_err(|error| Error::Invalid(error.to_string()))?;
    let settings = asked.settings(&request.settings)?;
    let read_only = request.read_only || !asked.may_write();
    let params = request.params.iter().map(|raw| Value::Json(raw)).collect();
    let shape = Format { rows: request.rows, values: request.values, int8: request.int8 };
    let statement = Statement::new(&request.sql, params, request.types.as_deref(), shape, &broker.readings)?;
    let expect = Expect { rows: None, max_affected: request.max_affected };
    let unit = Unit::one(statement, expect, read_only, &settings, request.dry_run)?;
    one(&asked, call, unit, format, request.max_rows).await
}

/// Runs one statement and writes its result, whole or as it comes.
pub async fn one<'a>(
    asked: &'a Asked<'_>,
    call: &mut Call,
    unit: Unit<'a>,
    format: Option<LineFormat>,
    max_rows: Option<u64>,
) -> Result<Response, Error> {
    note(call, &unit);
    call.to_database();
    let Some(format) = format else {
        let answer = asked.run(&unit, &[], max_rows).go().await.map_err(unnumbered)?;
        call.spent(answer.queue, answer.db);
        asked.tell(call, &answer);
        let body = answer.results.into_iter().next().unwrap_or_default();
        call.note(|event| event.rows = row_count(&body));
        return Ok(json(StatusCode::OK, body).map(Body::new));
    };
    let timeout_ms = asked.stream_timeout_ms();
    let stream = {
        let unit = unit.lasting(&timeout_ms);
        Box::pin(asked.streaming(&unit, Some(format), max_rows).open()).await.map_err(unnumbered)?
    };
    call.spent(stream.queue, stream.db);
    call.streams(&stream.rows);
    let content_type = match format {
        LineFormat::Ndjson => media_type::NDJSON,
        LineFormat::Csv => "text/csv; charset=utf-8; header=present",
    };
    Ok(streamed::response(stream, Some(format), content_type, call, &asked.metrics))
}
