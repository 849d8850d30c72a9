//! Errors as answers.

use serde::{Deserialize, Serialize};

/// What became of the request's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing has happened in the database.
    NotApplied,
    /// The effect is committed.
    Applied,
    /// The broker could not learn whether the effect is committed.
    Unknown,
}

/// Why a request was refused or failed: a closed set, each with its page under `/problems/{code}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// Malformed JSON, an unknown field, a wrong number of parameters, a statement this endpoint cannot run.
    InvalidRequest,
    /// No key, or a bad or expired one.
    Unauthenticated,
    /// The key may not do this.
    Forbidden,
    /// No such path.
    NotFound,
    /// The path exists under another method.
    MethodNotAllowed,
    /// No such database for this key.
    UnknownDatabase,
    /// No such cache for this key.
    UnknownCache,
    /// A constraint, a serialization failure or a deadlock.
    Conflict,
    /// The request body is over the limit.
    RequestTooLarge,
    /// The result is over the limit.
    ResultTooLarge,
    /// The statement itself is at fault.
    StatementFailed,
    /// The tenant's request rate is used up.
    RateLimited,
    /// The tenant's quota for today is used up.
    QuotaExhausted,
    /// The tenant has too many requests in flight.
    TooManyInFlight,
    /// The connection died while the statement ran.
    BackendLost,
    /// The broker has no room for the request.
    Overloaded,
    /// The database or cache does not accept connections.
    BackendDown,
    /// The broker is shutting down.
    Draining,
    /// The deadline passed while the request waited; nothing ran.
    QueueDeadline,
    /// The statement was cancelled at the deadline.
    StatementTimeout,
    /// `expect_rows` or `max_affected` does not hold; everything was rolled back.
    ExpectationFailed,
    /// No such named statement for this key.
    UnknownStatement,
    /// The control database has no such tenant.
    UnknownTenant,
    /// The tenant has no such key in the control database.
    UnknownKey,
    /// What was to be changed is not what the caller has seen any more.
    PreconditionFailed,
    /// The reader of a stream took too little of it for too long.
    ReaderTooSlow,
    /// The caller sent its request too slowly.
    RequestTimeout,
    /// A bug in the broker.
    Internal,
    /// A code newer than this crate.
    #[serde(other)]
    Other,
}

/// An error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A page that explains this kind of problem, relative to the broker's address.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem as one word.
    pub code: ProblemCode,
    /// What happened this time, and what to do about it.
    pub detail: String,
    /// The request's id, as in the `X-Request-Id` header and the logs.
    pub request_id: String,
    /// What became of the request's effect.
    pub outcome: Outcome,
    /// The same request, sent again, may succeed and cannot apply twice.
    pub retryable: bool,
    /// When to try again. Units: milliseconds.
    pub retry_after_ms: Option<u64>,
    /// The five-character SQLSTATE, where the database refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
    /// The database's own error record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresError>,
    /// In a batch: which statement, counted from 0. The others before it are rolled back with it, but for
    /// `"transaction": null`, where they stay applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<u32>,
    /// The limits that refused the request, by policy name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violated_policies: Vec<String>,
}

/// PostgreSQL's error record. Source: PostgreSQL manual, "Error and Notice Message Fields".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[expect(missing_docs, reason = "the field names are PostgreSQL's own")]
pub struct PostgresError {
    pub severity: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub where_: Option<String>,
}
