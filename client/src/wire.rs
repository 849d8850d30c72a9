//! The shapes of the HTTP interface, shared by broker and client.
//!
//! Requests refuse unknown fields, so that a typo never does half a job; answers accept them, so that an older client
//! reads a newer broker. Source: `docs/api.md`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Names of the headers this interface adds to HTTP.
pub mod header {
    /// The caller's deadline for the whole request, queueing included. Units: milliseconds.
    pub const TIMEOUT_MS: &str = "hearth-timeout-ms";
    /// Taken from the caller or made by the broker; echoed, logged and put into every problem.
    pub const REQUEST_ID: &str = "x-request-id";
}

/// The body of `POST /v1/db/{database}/query`: one statement, autocommit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QueryRequest<'a> {
    /// One SQL statement with `$1`-style placeholders.
    #[serde(borrow)]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "SELECT id, name FROM users WHERE id = $1"))]
    pub sql: Cow<'a, str>,
    /// One JSON value for each placeholder: null, booleans, numbers, strings; arrays for array types; any JSON value
    /// for `json` and `jsonb`; `{"$bytes": "<base64>"}` for `bytea`.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<serde_json::Value>, example = json!([42])))]
    pub params: Vec<&'a RawValue>,
    /// PostgreSQL type names that override what the server infers, by position; null leaves a place to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<Option<String>>>,
    /// Rows as objects or as arrays; arrays keep duplicate column names.
    #[serde(default)]
    pub rows: RowShape,
    /// Values as JSON or as PostgreSQL's own text.
    #[serde(default)]
    pub values: ValueFormat,
    /// `int8` and `numeric` as strings (lossless in every JSON reader) or as numbers.
    #[serde(default)]
    pub int8: Int8Format,
    /// Runs the statement READ ONLY, enforced by the server.
    #[serde(default)]
    pub read_only: bool,
    /// More rows than this end the request in 413 `result_too_large`; nothing is cut off silently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}

/// How a row is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RowShape {
    /// `{"id": 1, "name": "Ada"}`
    #[default]
    Object,
    /// `[1, "Ada"]`
    Array,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ValueFormat {
    /// What PostgreSQL's `to_json(value)` gives.
    #[default]
    Json,
    /// What PostgreSQL's own text output gives, always a string or null.
    Text,
}

/// How `int8` and `numeric` are written under [`ValueFormat::Json`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Int8Format {
    /// `"9007199254740993"`: lossless in every JSON reader.
    #[default]
    String,
    /// `9007199254740993`: for readers with 64-bit integers.
    Number,
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Column {
    /// The name as the statement gives it; may repeat.
    pub name: String,
    /// The PostgreSQL type's name.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The PostgreSQL type's object id.
    pub oid: u32,
}

/// The answer of `POST /v1/db/{database}/query`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueryResponse<R> {
    /// The result's columns; empty for a statement without a result.
    pub columns: Vec<Column>,
    /// The rows, as [`RowShape`] says.
    pub rows: Vec<R>,
    /// Rows returned, or rows affected where the statement returns none.
    pub row_count: u64,
    /// The command's name as PostgreSQL reports it: `SELECT`, `INSERT`, `CREATE TABLE` …
    pub command: String,
}

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

/// One Redis command's answer: exactly one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum RedisReply<R> {
    /// Redis refused, or the broker did.
    Error {
        /// Redis' own text, or the broker's in the same style.
        error: String,
    },
    /// Redis answered.
    Result {
        /// The reply as JSON: strings, integers, null and nested arrays.
        result: R,
    },
}

/// The answer of `GET /v1/whoami`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Whoami {
    /// The tenant this key belongs to.
    pub tenant: String,
    /// The key's id (never its secret).
    pub key_id: String,
    /// What the key may do: `sql:read`, `sql:write`, `redis`.
    pub scopes: Vec<String>,
    /// The databases the tenant may use.
    pub databases: Vec<String>,
    /// The caches the tenant may use.
    pub caches: Vec<String>,
    /// The tenant's limits; null means unlimited.
    pub limits: BTreeMap<String, Option<u64>>,
    /// What is in use now: `in_flight`.
    pub usage: BTreeMap<String, u64>,
}
