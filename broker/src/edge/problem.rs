//! The one map from errors to problem responses (RFC 9457). Causes and addresses stay inside.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hearth_client::wire::{Outcome, Problem, ProblemCode, StreamTail};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use tokio_postgres::error::SqlState;

use super::auth::AuthError;
use super::call::Call;
use super::error::Error;
use crate::base::RequestId;
use crate::broker::ReloadError;
use crate::control::ControlError;
use crate::observe::RouteMetrics;
use crate::pool::redis::CacheError;
use crate::pool::{ListenError, PoolError};
use crate::query::QueryError;
use crate::tenant::AdmissionError;

/// After a refusal for want of capacity: soon, since the queue moves.
const SOON: Duration = Duration::from_millis(500);
/// After a backend was found down: a restart takes a moment.
const LATER: Duration = Duration::from_secs(2);

/// What a problem says, before it is written.
pub struct Facts {
    /// The HTTP status.
    pub status: StatusCode,
    /// The kind.
    pub code: ProblemCode,
    /// What became of the effect.
    pub outcome: Outcome,
    /// Sent again it may succeed and cannot apply twice.
    pub retryable: bool,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Facts {
    /// Refused before anything ran, and again if sent again.
    fn refused(status: StatusCode, code: ProblemCode) -> Self {
        Self { status, code, outcome: Outcome::NotApplied, retryable: false, retry_after: None }
    }

    /// Refused before anything ran, but not for ever.
    fn for_now(status: StatusCode, code: ProblemCode, retry_after: Duration) -> Self {
        Self { retryable: true, retry_after: Some(jittered(retry_after)), ..Self::refused(status, code) }
    }

    /// Began to run; what became of it is known, or not. Nothing applied: it may be sent again.
    fn ran(status: StatusCode, code: ProblemCode, outcome: Outcome) -> Self {
        Self { outcome, retryable: outcome == Outcome::NotApplied, ..Self::refused(status, code) }
    }
}

/// The most that is added to a wait.
const MOST_JITTER: Duration = Duration::from_secs(10);

/// Up to a half more, so that callers refused together do not come back together.
fn jittered(wait: Duration) -> Duration {
    wait + (wait / 2).min(MOST_JITTER).mul_f64(rand::random::<f64>())
}

/// Status, code and outcome of an error.
pub fn facts(error: &Error) -> Facts {
    use ProblemCode as Code;
    match error {
        Error::Invalid(_)
        | Error::Command(_)
        | Error::Reload(ReloadError::Config(_))
        | Error::Cache(CacheError::CrossSlot { .. }) => Facts::refused(StatusCode::BAD_REQUEST, Code::InvalidRequest),
        Error::RequestTooLarge { .. } => Facts::refused(StatusCode::PAYLOAD_TOO_LARGE, Code::RequestTooLarge),
        Error::ReplyTooLarge { .. } | Error::Cache(CacheError::TooLong { .. }) => {
            Facts { outcome: Outcome::Applied, ..Facts::refused(StatusCode::PAYLOAD_TOO_LARGE, Code::ResultTooLarge) }
        }
        Error::RequestTimeout { .. } => Facts::refused(StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout),
        Error::Auth(AuthError::Scope(_) | AuthError::StatementsOnly(_) | AuthError::Suspended) => {
            Facts::refused(StatusCode::FORBIDDEN, Code::Forbidden)
        }
        Error::Auth(
            AuthError::Missing
            | AuthError::Malformed
            | AuthError::Invalid
            | AuthError::Expired
            | AuthError::NotYet
            | AuthError::Token(_)
            | AuthError::Mismatch,
        ) => Facts::refused(StatusCode::UNAUTHORIZED, Code::Unauthenticated),
        Error::Auth(AuthError::NoKeys { .. }) => {
            Facts::for_now(StatusCode::SERVICE_UNAVAILABLE, Code::BackendDown, LATER)
        }
        Error::Auth(AuthError::TooManyFailures { retry_after, .. })
        | Error::Admission(AdmissionError::RateLimited { retry_after, .. }) => {
            Facts::for_now(StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, *retry_after)
        }
        Error::Admission(AdmissionError::QuotaExhausted { retry_after, .. }) => {
            Facts::for_now(StatusCode::TOO_MANY_REQUESTS, Code::QuotaExhausted, *retry_after)
        }
        Error::Admission(AdmissionError::TooManyInFlight { .. } | AdmissionError::TooManyListeners { .. }) => {
            Facts::for_now(StatusCode::TOO_MANY_REQUESTS, Code::TooManyInFlight, SOON)
        }
        Error::UnknownDatabase(_) => Facts::refused(StatusCode::NOT_FOUND, Code::UnknownDatabase),
        Error::UnknownStatement(_) => Facts::refused(StatusCode::NOT_FOUND, Code::UnknownStatement),
        Error::SettingNotAllowed(_) | Error::SettingFixed(_) => Facts::refused(StatusCode::FORBIDDEN, Code::Forbidden),
        Error::UnknownCache(_) => Facts::refused(StatusCode::NOT_FOUND, Code::UnknownCache),
        Error::Query(failure) if failure.after_others => Facts { retryable: false, ..query(&failure.error) },
        Error::Query(failure) => query(&failure.error),
        Error::Cache(CacheError::Pool(error)) => pool(error),
        // A command may have run; Redis keeps no record to ask.
        Error::Cache(CacheError::Lost { .. }) => {
            Facts::ran(StatusCode::BAD_GATEWAY, Code::BackendLost, Outcome::Unknown)
        }
        Error::Cache(CacheError::TimedOut { .. }) => {
            Facts::ran(StatusCode::GATEWAY_TIMEOUT, Code::StatementTimeout, Outcome::Unknown)
        }
        Error::Listen(error) => listen(error),
        // Told within a stream. To ask again applies nothing twice.
        Error::ReaderTooSlow { .. } => {
            Facts::ran(StatusCode::REQUEST_TIMEOUT, Code::ReaderTooSlow, Outcome::NotApplied)
        }
        Error::Draining | Error::Replaced(_) | Error::Reload(ReloadError::Draining) => {
            Facts::for_now(StatusCode::SERVICE_UNAVAILABLE, Code::Draining, SOON)
        }
        Error::Reload(ReloadError::Panicked) => Facts::refused(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
        Error::Control(error) => control(error),
        Error::NotFound(_) => Facts::refused(StatusCode::NOT_FOUND, Code::NotFound),
        Error::MethodNotAllowed(_) => Facts::refused(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed),
        Error::Internal => {
            Facts { outcome: Outcome::Unknown, ..Facts::refused(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal) }
        }
    }
}

fn query(error: &QueryError) -> Facts {
    use ProblemCode as Code;
    match error {
        QueryError::Refused(_) | QueryError::ParamCount { .. } | QueryError::Param { .. } => {
            Facts::refused(StatusCode::BAD_REQUEST, Code::InvalidRequest)
        }
        QueryError::Pool(error) => pool(error),
        QueryError::Database { db, outcome: Outcome::NotApplied } => from_sqlstate(&db.state),
        QueryError::Database { db, outcome } => {
            Facts { outcome: *outcome, retryable: false, ..from_sqlstate(&db.state) }
        }
        QueryError::Lost { outcome, .. } => Facts::ran(StatusCode::BAD_GATEWAY, Code::BackendLost, *outcome),
        QueryError::TimedOut { outcome } => Facts::ran(StatusCode::GATEWAY_TIMEOUT, Code::StatementTimeout, *outcome),
        QueryError::TooLarge { outcome, .. } => {
            Facts { outcome: *outcome, ..Facts::refused(StatusCode::PAYLOAD_TOO_LARGE, Code::ResultTooLarge) }
        }
        QueryError::SchemaChanged { outcome } => Facts::ran(StatusCode::CONFLICT, Code::Conflict, *outcome),
        QueryError::SenderTooSlow { .. } => Facts::refused(StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout),
        QueryError::Unexpected { .. } => Facts::refused(StatusCode::CONFLICT, Code::ExpectationFailed),
    }
}

fn pool(error: &PoolError) -> Facts {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        PoolError::WaitTimeout { .. } => Facts::for_now(unavailable, ProblemCode::QueueDeadline, SOON),
        PoolError::Overloaded { .. } | PoolError::QueueFull { .. } => {
            Facts::for_now(unavailable, ProblemCode::Overloaded, SOON)
        }
        PoolError::TooLate { retry_after, .. } => {
            Facts::for_now(unavailable, ProblemCode::Overloaded, (*retry_after).max(SOON))
        }
        PoolError::Down { .. } | PoolError::NoPrimary { .. } => {
            Facts::for_now(unavailable, ProblemCode::BackendDown, LATER)
        }
        PoolError::BreakerOpen { retry_after, .. } | PoolError::LoginRefused { retry_after, .. } => {
            Facts::for_now(unavailable, ProblemCode::BackendDown, *retry_after)
        }
        PoolError::Paused { .. } => Facts::for_now(unavailable, ProblemCode::Overloaded, LATER),
        PoolError::HistoryLost { .. } => Facts::refused(StatusCode::CONFLICT, ProblemCode::Conflict),
        PoolError::Closed { .. } => Facts::for_now(unavailable, ProblemCode::Draining, SOON),
    }
}

fn control(error: &ControlError) -> Facts {
    use ProblemCode as Code;
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        ControlError::NotConfigured => Facts::refused(StatusCode::NOT_FOUND, Code::NotFound),
        ControlError::Settings(_)
        | ControlError::Unreachable(_)
        | ControlError::TimedOut(_)
        | ControlError::NotMigrated { .. }
        | ControlError::OtherMigration { .. } => Facts::for_now(unavailable, Code::BackendDown, LATER),
        ControlError::Busy(_) => Facts::for_now(unavailable, Code::Overloaded, SOON),
        ControlError::Database(refused) if refused.as_db_error().is_some() => {
            Facts::refused(StatusCode::BAD_GATEWAY, Code::BackendLost)
        }
        // The commit may have been what broke off.
        ControlError::Database(_) => Facts::ran(StatusCode::BAD_GATEWAY, Code::BackendLost, Outcome::Unknown),
        ControlError::Unanswered(_) => {
            Facts::ran(StatusCode::GATEWAY_TIMEOUT, Code::StatementTimeout, Outcome::Unknown)
        }
        ControlError::UnknownTenant { .. } => Facts::refused(StatusCode::NOT_FOUND, Code::UnknownTenant),
        ControlError::UnknownKey { .. } => Facts::refused(StatusCode::NOT_FOUND, Code::UnknownKey),
        ControlError::TenantExists(_) | ControlError::InFile(_) | ControlError::KeyState(_) => {
            Facts::refused(StatusCode::CONFLICT, Code::Conflict)
        }
        ControlError::Changed { .. } => Facts::refused(StatusCode::PRECONDITION_FAILED, Code::PreconditionFailed),
        ControlError::Refused(_) => Facts::refused(StatusCode::BAD_REQUEST, Code::InvalidRequest),
    }
}

fn listen(error: &ListenError) -> Facts {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        ListenError::Down { .. } => Facts::for_now(unavailable, ProblemCode::BackendDown, LATER),
        ListenError::Refused { db } => from_sqlstate(&db.state),
        ListenError::TimedOut { .. } => Facts::for_now(unavailable, ProblemCode::QueueDeadline, SOON),
        ListenError::Closed { .. } => Facts::for_now(unavailable, ProblemCode::Draining, SOON),
    }
}

/// By class, and by code where a class is mixed, for a statement that was rolled back.
fn from_sqlstate(state: &SqlState) -> Facts {
    use ProblemCode as Code;
    match (state.code().get(..2).unwrap_or_default(), state.code()) {
        (_, "25006") => Facts::refused(StatusCode::FORBIDDEN, Code::Forbidden),
        ("23", _) => Facts::refused(StatusCode::CONFLICT, Code::Conflict),
        (_, "40003") => Facts { outcome: Outcome::Unknown, ..Facts::refused(StatusCode::CONFLICT, Code::Conflict) },
        ("40", _) | (_, "55P03") => Facts::for_now(StatusCode::CONFLICT, Code::Conflict, Duration::from_millis(20)),
        ("53", _) => Facts::for_now(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded, SOON),
        ("08", _) => Facts::ran(StatusCode::BAD_GATEWAY, Code::BackendLost, Outcome::NotApplied),
        _ => Facts::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::StatementFailed),
    }
}

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
    headers(&mut response, facts);
    response
}

/// The headers that go with a status, on problems and on Redis errors alike.
pub fn headers(response: &mut Response, facts: &Facts) {
    let headers = response.headers_mut();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_map_by_class_and_by_code() {
        for (state, status, retryable) in [
            ("23505", 409, false),
            ("40001", 409, true),
            ("40P01", 409, true),
            ("55P03", 409, true),
            ("25006", 403, false),
            ("22P02", 422, false),
            ("42703", 422, false),
            ("P0001", 422, false),
            ("53200", 503, true),
        ] {
            let facts = from_sqlstate(&SqlState::from_code(state));
            assert_eq!(
                (facts.status.as_u16(), facts.retryable, facts.outcome),
                (status, retryable, Outcome::NotApplied),
                "{state}"
            );
        }
    }

    #[test]
    fn an_unknown_outcome_is_never_retryable() {
        for outcome in [Outcome::Unknown, Outcome::Applied] {
            assert!(!Facts::ran(StatusCode::BAD_GATEWAY, ProblemCode::BackendLost, outcome).retryable);
        }
    }
}
