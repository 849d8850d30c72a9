//! Redis over HTTP, as the public serverless Redis clients speak it.
//!
//! Every body is JSON of the exact shape those clients read: an object for one command, an array for a pipeline, and
//! `{"error": …}` with a status that is not 2xx for a refusal as a whole.

pub mod path;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use hearth_client::wire::RedisReply;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::call::{BackendPath, Call, Headers};
use super::error::Error;
use super::json::json;
use super::{auth, body, header, problem};
use crate::base::Deadline;
use crate::broker::Broker;
use crate::config::Scope;
use crate::encode::reply::{Replies, ReplyEncoding, refusal, reply};
use crate::encode::resp::{Args, NotResp};
use crate::pool::Cache;
use crate::pool::redis::Executed;
use crate::query::command::{Command, CommandError, command, parse};

/// One answer a command, in the same order.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its schema is used: the answers are written as they come")]
struct RedisReplies(Vec<RedisReply<serde_json::Value>>);

/// Room for a usual answer.
const ANSWER_BYTES: usize = 128;

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
    mut call: Call,
    BackendPath(cache): BackendPath,
    Headers(headers): Headers,
    body: Body,
) -> Response {
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
    mut call: Call,
    BackendPath(cache): BackendPath,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    let ended = many(&broker, &mut call, &cache, &headers, body).await;
    respond(call, ended)
}

/// Runs several Redis commands as one transaction: all of them without another's between, or none.
#[utoipa::path(
    post, path = "/v1/redis/{cache}/multi-exec", tag = "redis", operation_id = "redis_transaction", security(("key" = [])),
    params(
        ("cache" = String, Path, description = "The cache's name"),
        ("upstash-encoding" = Option<String>, Header, description = "`base64`: every string in the results is base64"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
    ),
    request_body(content = Vec<Vec<serde_json::Value>>, description = "The commands"),
    responses(
        (status = 200, description = "An answer a command, in the same order; some may be errors", body = RedisReplies),
        (status = 400, description = "EXECABORT: nothing ran; or a malformed or forbidden command", body = RedisReply<serde_json::Value>),
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
pub async fn run_transaction(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    BackendPath(cache): BackendPath,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    let ended = transaction(&broker, &mut call, &cache, &headers, body).await;
    respond(call, ended)
}

async fn one(broker: &Broker, call: &mut Call, cache: &str, headers: &HeaderMap, body: Body) -> Result<Written, Error> {
    let asked = admitted(broker, call, cache, headers, body).await?;
    let command = command(asked.text()?)?;
    run(call, &asked, command).await
}

/// Runs one command, over a lane or, where it waits, on a connection of its own.
async fn run(call: &mut Call, asked: &Asked, command: Command<'_>) -> Result<Written, Error> {
    call.note(|event| event.command(&command.args[0]));
    let start = Instant::now();
    let answer = if command.wait.is_some() {
        let key = command.args.get(1).map(|key| &**key);
        Box::pin(asked.cache.wait(key, |most| command.within(most), asked.deadline)).await
    } else {
        asked.cache.run(&command.args, asked.most_wire_bytes(), asked.deadline).await
    };
    call.spent(Duration::ZERO, start.elapsed());
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    let ok = answer?.write_next(&mut out, asked.encoding)?;
    asked.within(&out)?;
    Ok((if ok { StatusCode::OK } else { StatusCode::BAD_REQUEST }, out))
}

async fn many(
    broker: &Broker,
    call: &mut Call,
    cache: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Written, Error> {
    let asked = admitted(broker, call, cache, headers, body).await?;
    // A command that is refused here leaves a hole; the others keep their order around it.
    let mut sent = Vec::new();
    let refused: Vec<Option<CommandError>> = asked
        .commands("pipeline")?
        .into_iter()
        .map(|raw| among_others(raw).map(|command| sent.push(command.args)).err())
        .collect();
    note(call, "redis_pipeline", &sent);
    let start = Instant::now();
    let mut answers = if sent.is_empty() {
        Replies::tree(Vec::new())
    } else {
        asked.cache.run_all(&sent, asked.most_wire_bytes(), asked.deadline).await?
    };
    call.spent(Duration::ZERO, start.elapsed());
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    for (index, refused) in refused.iter().enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        match refused {
            Some(error) => refusal(&mut out, &error.to_string()),
            None => drop(answers.write_next(&mut out, asked.encoding)?),
        }
        asked.within(&out)?;
    }
    out.push(b']');
    Ok((StatusCode::OK, out))
}

async fn transaction(
    broker: &Broker,
    call: &mut Call,
    cache: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Written, Error> {
    let asked = admitted(broker, call, cache, headers, body).await?;
    let commands = asked.commands("transaction")?.into_iter().enumerate().map(|(index, raw)| {
        let refused = |error| CommandError::InTransaction { index, error: Box::new(error) };
        among_others(raw).map(|command| command.args).map_err(refused)
    });
    let commands = commands.collect::<Result<Vec<_>, _>>()?;
    note(call, "redis_transaction", &commands);
    let start = Instant::now();
    let executed = asked.cache.transaction(&commands, asked.deadline).await;
    call.spent(Duration::ZERO, start.elapsed());
    let mut out = Vec::new();
    let answers = match executed? {
        Executed::Ran(answers) => answers,
        Executed::Discarded(why) => {
            refusal(&mut out, &why);
            return Ok((StatusCode::BAD_REQUEST, out));
        }
    };
    for (index, answer) in answers.iter().enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        reply(&mut out, answer, asked.encoding);
        asked.within(&out)?;
    }
    out.push(b']');
    Ok((StatusCode::OK, out))
}

/// Tells the audit log which commands these are.
fn note(call: &mut Call, action: &'static str, commands: &[Args<'_>]) {
    call.note(|event| {
        event.action = action;
        for args in commands {
            event.command(&args[0]);
        }
    });
}

/// A command of several: it may not wait, since the others would.
fn among_others(raw: &RawValue) -> Result<Command<'_>, CommandError> {
    let command = command(raw.get())?;
    if command.wait.is_some() { Err(CommandError::WaitsAmongOthers(command.name())) } else { Ok(command) }
}

/// A request that was let in, with its body.
struct Asked {
    cache: Arc<Cache>,
    body: Bytes,
    deadline: Deadline,
    encoding: ReplyEncoding,
    max_commands: usize,
    /// Unit: bytes of encoded answer.
    max_bytes: u64,
}

impl Asked {
    /// JSON is UTF-8.
    fn text(&self) -> Result<&str, CommandError> {
        std::str::from_utf8(&self.body).map_err(|error| CommandError::Malformed(error.to_string()))
    }

    /// The body's commands, none of them read yet.
    fn commands(&self, what: &str) -> Result<Vec<&RawValue>, Error> {
        let items: Vec<&RawValue> = parse(self.text()?)?;
        if items.is_empty() {
            return Err(CommandError::Malformed(format!("empty {what} request")).into());
        }
        if items.len() > self.max_commands {
            let text = format!("ERR a {what} may hold {} commands, not {}", self.max_commands, items.len());
            return Err(Error::Invalid(text));
        }
        Ok(items)
    }

    /// Errors once an answer passes the tenant's limit. The commands have run.
    fn within(&self, out: &[u8]) -> Result<(), Error> {
        if out.len() as u64 > self.max_bytes { Err(Error::ReplyTooLarge { limit: self.max_bytes }) } else { Ok(()) }
    }

    /// An answer that is longer as Redis writes it is over the limit as JSON too: of small values JSON is the shorter, but not
    /// by more than half. It is then thrown away as it comes.
    fn most_wire_bytes(&self) -> usize {
        usize::try_from(self.max_bytes).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(1024)
    }
}

async fn admitted(
    broker: &Broker,
    call: &mut Call,
    cache: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Asked, Error> {
    let (principal, deadline) = call.identify(broker, headers, "redis").await?;
    principal.needs(&[Scope::Redis])?;
    let tenant = &principal.tenant;
    let (cache, metrics) = tenant.caches.get(cache).ok_or_else(|| Error::UnknownCache(cache.to_owned()))?;
    call.note(|event| event.backend = Some(cache.name().clone()));
    call.admit(tenant, metrics)?;
    let body = body::read(headers, body, &broker.server, deadline).await?;
    Ok(Asked {
        cache: Arc::clone(cache),
        body,
        deadline,
        encoding: encoding(headers)?,
        max_commands: tenant.limits.max_pipeline as usize,
        max_bytes: tenant.limits.max_result_bytes,
    })
}

fn encoding(headers: &HeaderMap) -> Result<ReplyEncoding, Error> {
    match headers.get(&header::UPSTASH_ENCODING).map(HeaderValue::as_bytes) {
        None => Ok(ReplyEncoding::Plain),
        Some(b"base64") => Ok(ReplyEncoding::Base64),
        Some(_) => Err(Error::Invalid("ERR Upstash-Encoding must be base64".to_owned())),
    }
}

impl From<NotResp> for Error {
    /// What came was taken apart when it arrived, and one answer a command was asked for.
    fn from(_: NotResp) -> Self {
        Self::Internal
    }
}

fn respond(call: Call, ended: Result<Written, Error>) -> Response {
    match ended {
        Ok((status, out)) => call.finish(json(status, out), None),
        Err(error) => {
            let facts = problem::facts(&error);
            // By its code alone: the text may hold a value.
            let code = problem::code_name(facts.code);
            tracing::debug!(request.id = %call.request_id, error.type = code, "redis request refused: {code}");
            let mut out = Vec::new();
            refusal(&mut out, &text(&error));
            let mut response = json(facts.status, out);
            problem::headers(response.headers_mut(), &facts);
            call.finish(response, Some(problem::code_name(facts.code)))
        }
    }
}

/// In Redis' own style: an upper-case word first.
fn text(error: &Error) -> String {
    match error {
        Error::Auth(auth::AuthError::Scope(_)) => "NOPERM this key may not run Redis commands".to_owned(),
        Error::Auth(auth::AuthError::NoKeys { .. }) => format!("ERR {error}"),
        Error::Admission(_) | Error::Auth(auth::AuthError::TooManyFailures { .. }) => {
            format!("ERR max requests limit exceeded: {error}")
        }
        Error::Auth(_) => "WRONGPASS invalid or missing auth token".to_owned(),
        Error::RequestTooLarge { limit } => format!("ERR max request size exceeded. Limit: {limit} bytes"),
        Error::Command(error) => error.to_string(),
        other => {
            let text = other.to_string();
            if text.starts_with("ERR ") { text } else { format!("ERR {text}") }
        }
    }
}
