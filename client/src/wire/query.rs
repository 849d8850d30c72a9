//! One statement and its result.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    /// Settings for this request alone, such as `app.user_id` for row-level security: in force for its transaction, gone
    /// after it. The tenant's configuration lists the names that are allowed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Runs the statement, answers as usual, and rolls back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// A command that affects more rows than this is rolled back: 409 `expectation_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_affected: Option<u64>,
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
    /// What the server had to say beside the result: warnings, `RAISE NOTICE`. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

/// A notice or a warning. Source: PostgreSQL manual, "Error and Notice Message Fields".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Notice {
    /// `WARNING`, `NOTICE`, `INFO` …
    pub severity: String,
    /// The five-character SQLSTATE.
    pub sqlstate: String,
    /// What the server says.
    pub message: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
