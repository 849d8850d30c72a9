//! SQL over HTTP: read, admit, run, write.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hearth_client::wire::{Problem, QueryRequest, QueryResponse};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use super::body;
use super::call::{BackendPath, Call};
use super::error::Error;
use super::problem;
use crate::base::RequestId;
use crate::broker::Broker;
use crate::config::Scope;
use crate::encode::columns::Format;
use crate::query::{Answer, Expect, Limits, Run, Statement, Unit, Value};

/// Runs one statement, autocommit, with its parameters bound by the server.
#[utoipa::path(
    post, path = "/v1/db/{database}/query", tag = "sql", operation_id = "query", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("hearth-timeout-ms" = Option<u64>, Header, description = "The caller's deadline for the whole request, in milliseconds"),
        ("x-request-id" = Option<String>, Header, description = "Echoed, logged and put into every problem"),
    ),
    request_body = QueryRequest,
    responses(
        (status = 200, description = "The result", body = QueryResponse<serde_json::Value>, headers(
            ("server-timing" = String, description = "Milliseconds of auth, queue and db"),
            ("ratelimit" = String, description = "What is left of the tenant's rate"),
            ("ratelimit-policy" = String, description = "The tenant's limits"))),
        (status = 400, description = "invalid_request", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "unauthenticated", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "unknown_database", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "request_timeout", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "conflict", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "request_too_large, result_too_large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "statement_failed", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "rate_limited, too_many_in_flight", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "internal", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "backend_lost", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "overloaded, backend_down, draining, queue_deadline", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "statement_timeout", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn query(
    State(broker): State<Arc<Broker>>,
    Extension(request_id): Extension<RequestId>,
    BackendPath(database): BackendPath,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut call = Call::new(request_id);
    match run_query(&broker, &mut call, &database, &headers, body).await {
        Ok(answer) => {
            call.spent(answer.queue, answer.db);
            let body = answer.results.into_iter().next().unwrap_or_default();
            call.finish(([(CONTENT_TYPE, "application/json")], body).into_response(), None)
        }
        Err(error) => problem::finish(call, &error),
    }
}

async fn run_query(
    broker: &Broker,
    call: &mut Call,
    database: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, Error> {
    let (principal, deadline) = call.identify(broker, headers)?;
    principal.needs(&[Scope::SqlRead, Scope::SqlWrite])?;
    let tenant = &principal.tenant;
    let (database, metrics) =
        tenant.databases.get(database).ok_or_else(|| Error::UnknownDatabase(database.to_owned()))?;
    call.admit(tenant, metrics)?;
    if headers.contains_key("idempotency-key") {
        // To take the header and not keep its promise would be worse than to refuse.
        return Err(Error::Invalid("Idempotency-Key is not supported by this broker yet".to_owned()));
    }
    if let Some(kind) = streamed(headers) {
        return Err(Error::Invalid(format!(
            "`Accept: {kind}` is not supported by this broker yet; ask for application/json"
        )));
    }
    let body = body::read(headers, body, broker.server.max_request_bytes, deadline).await?;
    let request: QueryRequest<'_> = serde_json::from_slice(&body).map_err(|error| Error::Invalid(error.to_string()))?;
    let read_only = request.read_only || !principal.has(Scope::SqlWrite);
    let params = request.params.iter().map(|raw| Value::Json(raw)).collect();
    let format = Format { rows: request.rows, values: request.values, int8: request.int8 };
    let statement = Statement::new(&request.sql, params, request.types.as_deref(), format)?;
    let expect = Expect { rows: None, max_affected: request.max_affected };
    let unit = Unit::one(statement, expect, read_only, &request.settings, request.dry_run)?;
    let limits = Limits { max_bytes: tenant.limits.max_result_bytes, max_rows: request.max_rows };
    let habits = &broker.habits[database.name()];
    // A failure of the only statement needs no number.
    let ended = Run { database, unit: &unit, earlier: &[], deadline, limits, metrics, habits }.go().await;
    Ok(ended.map_err(|failure| failure.error)?)
}

/// A streamed format that the caller asks for without saying that JSON would do.
fn streamed(headers: &HeaderMap) -> Option<&str> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    let streams = accept.contains("application/x-ndjson") || accept.contains("text/csv");
    let json = accept.contains("*/*") || accept.contains("application/json");
    (streams && !json).then_some(accept)
}
