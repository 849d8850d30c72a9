//! Redis over HTTP, as the public serverless Redis clients speak it.
//!
//! Every body is JSON of the exact shape those clients read: an object for one command, an array for a pipeline, and
//! `{"error": …}` with a status that is not 2xx for a refusal as a whole.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hearth_client::wire::RedisReply;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use redis::Pipeline;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::body;
use super::call::{BackendPath, Call};
use super::error::Error;
use super::problem;
use crate::base::{Deadline, RequestId};
use crate::broker::Broker;
use crate::config::Scope;
use crate::encode::reply::{ReplyEncoding, refusal, reply};
use crate::pool::Cache;
use crate::query::command::{CommandError, command};

/// One answer a command, in the same order.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its schema is used: the answers are written as they come")]
struct RedisReplies(Vec<RedisReply<serde_json::Value>>);

/// An answer and its status.
type Written = (StatusCode, Vec<u8>);

/// Runs one Redis command: `["SET","k","v","EX",60]` → `{"result":"OK"}`.
#[utoipa::path(
    post, path = "/v1/redis/{cache}", tag = "redis", operation_id = "redis_command", security(("key" = [])),
    params(
        ("cache" = String, Path, description = "The cache's name"),
        ("upstash-encoding" = Option<String>, Header, description = "`base64`: every string in the result is base64"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
    ),
    request_body(content = Vec<serde_json::Value>, description = "The command's name and its arguments: strings, numbers, booleans"),
    responses(
        (status = 200, description = "The result", body = RedisReply<serde_json::Value>),
        (status = 400, description = "Redis' refusal, or a malformed or forbidden command", body = RedisReply<serde_json::Value>),
        (status = 401, description = "WRONGPASS", body = RedisReply<serde_json::Value>),
        (status = 403, description = "The key has no scope `redis`", body = RedisReply<serde_json::Value>),
        (status = 404, description = "No such cache", body = RedisReply<serde_json::Value>),
        (status = 408, description = "The body came too slowly", body = RedisReply<serde_json::Value>),
        (status = 413, description = "The body is too large", body = RedisReply<serde_json::Value>),
        (status = 429, description = "The tenant's limits", body = RedisReply<serde_json::Value>),
        (status = 500, description = "A bug in the broker", body = RedisReply<serde_json::Value>),
        (status = 502, description = "The connection died", body = RedisReply<serde_json::Value>),
        (status = 503, description = "Redis takes no connection, or the broker is shutting down", body = RedisReply<serde_json::Value>),
        (status = 504, description = "No answer before the deadline", body = RedisReply<serde_json::Value>),
    )
)]
pub async fn run_command(
    State(broker): State<Arc<Broker>>,
    Extension(request_id): Extension<RequestId>,
    BackendPath(cache): BackendPath,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut call = Call::new(request_id);
    let ended = one(&broker, &mut call, &cache, &headers, body).await;
    respond(call, ended)
}

/// Runs several Redis commands in one write, not as a transaction: an array of answers in the same order.
#[utoipa::path(
    post, path = "/v1/redis/{cache}/pipeline", tag = "redis", operation_id = "redis_pipeline", security(("key" = [])),
    params(
        ("cache" = String, Path, description = "The cache's name"),
        ("upstash-encoding" = Option<String>, Header, description = "`base64`: every string in the results is base64"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
    ),
    request_body(content = Vec<Vec<serde_json::Value>>, description = "Commands, each an array of its name and arguments"),
    responses(
        (status = 200, description = "One answer a command; a refused command does not stop the rest", body = RedisReplies),
        (status = 400, description = "The body is no pipeline", body = RedisReply<serde_json::Value>),
        (status = 401, description = "WRONGPASS", body = RedisReply<serde_json::Value>),
        (status = 403, description = "The key has no scope `redis`", body = RedisReply<serde_json::Value>),
        (status = 404, description = "No such cache", body = RedisReply<serde_json::Value>),
        (status = 408, description = "The body came too slowly", body = RedisReply<serde_json::Value>),
        (status = 413, description = "The body is too large", body = RedisReply<serde_json::Value>),
        (status = 429, description = "The tenant's limits", body = RedisReply<serde_json::Value>),
        (status = 500, description = "A bug in the broker", body = RedisReply<serde_json::Value>),
        (status = 502, description = "The connection died", body = RedisReply<serde_json::Value>),
        (status = 503, description = "Redis takes no connection, or the broker is shutting down", body = RedisReply<serde_json::Value>),
        (status = 504, description = "No answer before the deadline", body = RedisReply<serde_json::Value>),
    )
)]
pub async fn run_pipeline(
    State(broker): State<Arc<Broker>>,
    Extension(request_id): Extension<RequestId>,
    BackendPath(cache): BackendPath,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut call = Call::new(request_id);
    let ended = many(&broker, &mut call, &cache, &headers, body).await;
    respond(call, ended)
}

async fn one(broker: &Broker, call: &mut Call, cache: &str, headers: &HeaderMap, body: Body) -> Result<Written, Error> {
    let (cache, body, deadline, max) = admitted(broker, call, cache, headers, body).await?;
    let encoding = encoding(headers)?;
    let raw: &RawValue = parse(&body)?;
    let command = command(raw)?;
    let start = Instant::now();
    let value = cache.run(&command, deadline).await?;
    call.spent(std::time::Duration::ZERO, start.elapsed());
    let mut out = Vec::new();
    let ok = reply(&mut out, &value, encoding);
    within(&out, max.bytes)?;
    Ok((if ok { StatusCode::OK } else { StatusCode::BAD_REQUEST }, out))
}

async fn many(
    broker: &Broker,
    call: &mut Call,
    cache: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Written, Error> {
    let (cache, body, deadline, max) = admitted(broker, call, cache, headers, body).await?;
    let items: Vec<&RawValue> = parse(&body)?;
    if items.is_empty() {
        return Err(CommandError::Malformed("empty pipeline request".to_owned()).into());
    }
    if items.len() > max.commands {
        let text = format!("ERR a pipeline may hold {} commands, not {}", max.commands, items.len());
        return Err(Error::Invalid(text));
    }
    let encoding = encoding(headers)?;
    // A command that is refused here leaves a hole; the others keep their order around it.
    let checked: Vec<_> = items.into_iter().map(command).collect();
    let mut pipeline = Pipeline::with_capacity(checked.len());
    for command in checked.iter().flatten() {
        pipeline.add_command(command.clone());
    }
    let start = Instant::now();
    let values = if pipeline.is_empty() { Vec::new() } else { cache.run_all(&pipeline, deadline).await? };
    call.spent(std::time::Duration::ZERO, start.elapsed());
    let mut values = values.into_iter();
    let mut out = b"[".to_vec();
    for (index, command) in checked.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match (command, command.is_ok().then(|| values.next()).flatten()) {
            (Err(error), _) => refusal(&mut out, &error.to_string()),
            (Ok(_), Some(value)) => drop(reply(&mut out, &value, encoding)),
            (Ok(_), None) => refusal(&mut out, "ERR no answer"),
        }
        within(&out, max.bytes)?;
    }
    out.push(b']');
    Ok((StatusCode::OK, out))
}

async fn admitted(
    broker: &Broker,
    call: &mut Call,
    cache: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Arc<Cache>, bytes::Bytes, Deadline, Most), Error> {
    let (principal, deadline) = call.identify(broker, headers)?;
    principal.needs(&[Scope::Redis])?;
    let tenant = &principal.tenant;
    let (cache, metrics) = tenant.caches.get(cache).ok_or_else(|| Error::UnknownCache(cache.to_owned()))?;
    call.admit(tenant, metrics)?;
    let body = body::read(headers, body, broker.server.max_request_bytes, deadline).await?;
    let most = Most { commands: tenant.limits.max_pipeline as usize, bytes: tenant.limits.max_result_bytes };
    Ok((Arc::clone(cache), body, deadline, most))
}

/// What one request may have.
struct Most {
    commands: usize,
    /// Unit: bytes of encoded answer.
    bytes: u64,
}

/// Errors once an answer passes the tenant's limit. The commands have run.
fn within(out: &[u8], max_bytes: u64) -> Result<(), Error> {
    if out.len() as u64 > max_bytes { Err(Error::ReplyTooLarge { limit: max_bytes }) } else { Ok(()) }
}

fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, CommandError> {
    serde_json::from_slice(body).map_err(|error| CommandError::Malformed(error.to_string()))
}

fn encoding(headers: &HeaderMap) -> Result<ReplyEncoding, Error> {
    match headers.get("upstash-encoding").map(http::HeaderValue::as_bytes) {
        None => Ok(ReplyEncoding::Plain),
        Some(b"base64") => Ok(ReplyEncoding::Base64),
        Some(_) => Err(Error::Invalid("ERR Upstash-Encoding must be base64".to_owned())),
    }
}

fn respond(call: Call, ended: Result<Written, Error>) -> Response {
    match ended {
        Ok((status, out)) => call.finish((status, [(CONTENT_TYPE, "application/json")], out).into_response(), None),
        Err(error) => {
            let facts = problem::facts(&error);
            tracing::debug!(request.id = %call.request_id, "redis request refused: {error}");
            let mut out = Vec::new();
            refusal(&mut out, &text(&error));
            let mut response = (facts.status, [(CONTENT_TYPE, "application/json")], out).into_response();
            problem::headers(&mut response, &facts);
            call.finish(response, Some(problem::code_name(facts.code)))
        }
    }
}

/// In Redis' own style: an upper-case word first.
fn text(error: &Error) -> String {
    match error {
        Error::Auth(super::auth::AuthError::Scope(_)) => "NOPERM this key may not run Redis commands".to_owned(),
        Error::Auth(_) => "WRONGPASS invalid or missing auth token".to_owned(),
        Error::Admission(_) => format!("ERR max requests limit exceeded: {error}"),
        Error::RequestTooLarge { limit } => format!("ERR max request size exceeded. Limit: {limit} bytes"),
        Error::Command(error) => error.to_string(),
        other => {
            let text = other.to_string();
            if text.starts_with("ERR ") { text } else { format!("ERR {text}") }
        }
    }
}
