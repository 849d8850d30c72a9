//! Problem responses (RFC 9457). What an error is there, [`facts`] says; causes and addresses stay inside.

mod facts;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hearth_client::wire::{Problem, ProblemCode, StreamTail};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};

pub use facts::{Facts, facts};

use super::auth::AuthError;
use super::call::Call;
use super::error::Error;
use crate::base::RequestId;
use crate::observe::RouteMetrics;
use crate::pool::ListenError;
use crate::query::QueryError;

/// The code as it stands in addresses, metrics and the body.
pub fn code_name(code: ProblemCode) -> &'static str {
    super::pages::page(code).code
}

/// Ends a call in a problem.
pub fn finish(mut call: Call, error: &Error) -> Response {
    let facts = facts(error);
    if has_run(error) {
        call.ran_in_vain();
    }
    log(&call.request_id, error, &facts);
    let code = code_name(facts.code);
    let response = response(&call.request_id, error, &facts);
    call.finish(response, Some(code))
}

/// True where a database has worked for it.
fn has_run(error: &Error) -> bool {
    let Error::Query(failure) = error else { return false };
    failure.after_others
        || !matches!(
            failure.error,
            QueryError::Refused(_) | QueryError::ParamCount { .. } | QueryError::Param { .. } | QueryError::Pool(_)
        )
}

/// A problem for a request that has no call.
pub fn plain(request_id: &RequestId, error: &Error) -> Response {
    let facts = facts(error);
    log(request_id, error, &facts);
    response(request_id, error, &facts)
}

/// The same with one member more, for one kind of problem alone. Source: RFC 9457 section 3.2.
pub fn extended(request_id: &RequestId, error: &Error, name: &str, value: serde_json::Value) -> Response {
    let facts = facts(error);
    log(request_id, error, &facts);
    let mut body = serde_json::to_value(problem(request_id, error, &facts)).expect("a problem is plain data");
    body[name] = value;
    written(body.to_string().into_bytes(), &facts)
}

/// The last line of a stream that broke off.
pub fn streamed(request_id: &RequestId, error: &Error, metrics: &RouteMetrics) -> Bytes {
    let facts = facts(error);
    log(request_id, error, &facts);
    metrics.failed(code_name(facts.code));
    let error = Box::new(problem(request_id, error, &facts));
    let mut line = serde_json::to_vec(&StreamTail::Error { error }).expect("a problem is plain data");
    line.push(b'\n');
    line.into()
}

/// A problem told within a stream that had begun well.
pub fn in_stream(request_id: &RequestId, error: &Error) -> Problem {
    let facts = facts(error);
    // A drain ends every stream there is, and has its own line.
    if !matches!(error, Error::Draining) {
        log(request_id, error, &facts);
    }
    problem(request_id, error, &facts)
}

/// The whole chain, once, where the error stops. What the caller is at fault for is told by its code alone: the text may hold a
/// value of theirs.
fn log(request_id: &RequestId, error: &Error, facts: &Facts) {
    if !facts.status.is_server_error() {
        let sqlstate = sqlstate(error);
        let code = code_name(facts.code);
        tracing::debug!(request.id = %request_id, error.type = code, db.response.status_code = sqlstate, "request refused: {code}");
        return;
    }
    let mut causes = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes = format!("{causes}: {cause}");
        source = cause.source();
    }
    tracing::warn!(request.id = %request_id, error.type = code_name(facts.code), "request failed: {error}{causes}");
}

fn sqlstate(error: &Error) -> Option<&str> {
    match error {
        Error::Query(failure) => match &failure.error {
            QueryError::Database { db, .. } => Some(db.state.code()),
            _ => None,
        },
        _ => None,
    }
}

fn response(request_id: &RequestId, error: &Error, facts: &Facts) -> Response {
    written(serde_json::to_vec(&problem(request_id, error, facts)).expect("a problem is plain data"), facts)
}

fn written(body: Vec<u8>, facts: &Facts) -> Response {
    let mut response = (facts.status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
    headers(response.headers_mut(), facts);
    response
}

/// The headers that go with a status, on problems and on Redis errors alike.
pub fn headers(headers: &mut HeaderMap, facts: &Facts) {
    if let Some(wait) = facts.retry_after {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from_str(&seconds.to_string()).expect("digits are header text"));
    }
    if facts.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

fn problem(request_id: &RequestId, error: &Error, facts: &Facts) -> Problem {
    let page = super::pages::page(facts.code);
    let failure = if let Error::Query(failure) = error { Some(failure) } else { None };
    let db = match (error, failure.map(|failure| &failure.error)) {
        (Error::Listen(ListenError::Refused { db }), _) | (_, Some(QueryError::Database { db, .. })) => Some(&**db),
        _ => None,
    };
    Problem {
        type_uri: format!("/problems/{}", page.code),
        title: page.title.to_owned(),
        status: facts.status.as_u16(),
        code: facts.code,
        detail: db.map_or_else(|| error.to_string(), |db| db.record.message.clone()),
        request_id: request_id.to_string(),
        outcome: facts.outcome,
        retryable: facts.retryable,
        retry_after_ms: facts.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        sqlstate: db.map(|db| db.state.code().to_owned()),
        postgres: db.map(|db| db.record.clone()),
        statement: failure.and_then(|failure| u32::try_from(failure.statement?).ok()),
        violated_policies: match error {
            Error::Auth(AuthError::TooManyFailures { .. }) => vec!["failed-attempts".to_owned()],
            Error::Admission(error) => vec![error.policy().to_owned()],
            _ => Vec::new(),
        },
    }
}
