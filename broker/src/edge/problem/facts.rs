//! The one map from errors to statuses, codes and outcomes.

use std::time::Duration;

use hearth_client::wire::{Outcome, ProblemCode};
use http::StatusCode;
use tokio_postgres::error::SqlState;

use crate::broker::ReloadError;
use crate::control::ControlError;
use crate::edge::auth::AuthError;
use crate::edge::error::Error;
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
