//! Several statements in one transaction and one round trip.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Int8Format, QueryResponse, RowShape, ValueFormat};

/// The body of `POST /v1/db/{database}/batch`: all or nothing, unless `"transaction": null`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchRequest<'a> {
    /// The statements, in order.
    #[serde(borrow)]
    pub statements: Vec<BatchStatement<'a>>,
    /// How the transaction is begun. Null runs the statements one by one, each committed by itself, up to the first error.
    #[serde(default = "in_a_transaction")]
    pub transaction: Option<Transaction>,
    /// Rows as objects or as arrays.
    #[serde(default)]
    pub rows: RowShape,
    /// Values as JSON or as PostgreSQL's own text.
    #[serde(default)]
    pub values: ValueFormat,
    /// `int8` and `numeric` as strings or as numbers.
    #[serde(default)]
    pub int8: Int8Format,
    /// Settings for this request alone, as in a query.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Runs everything, answers as usual, and rolls back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn in_a_transaction() -> Option<Transaction> {
    Some(Transaction::default())
}

/// One statement of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchStatement<'a> {
    /// One SQL statement with `$1`-style placeholders.
    #[serde(borrow)]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "UPDATE accounts SET balance = balance - $1 WHERE id = $2 RETURNING id"))]
    pub sql: Cow<'a, str>,
    /// One JSON value for each placeholder, as in a query; or `{"$ref": "0.rows[0].id"}` for a value of an earlier
    /// statement's result (`0.rows[*].id`: all of that column, as an array; `0.row_count`: the count).
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<serde_json::Value>, example = json!([10, 1])))]
    pub params: Vec<&'a RawValue>,
    /// PostgreSQL type names that override what the server infers, by position; null leaves a place to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<Option<String>>>,
    /// Another row count than this rolls everything back: 409 `expectation_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_rows: Option<u64>,
    /// A command that affects more rows than this rolls everything back: 409 `expectation_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_affected: Option<u64>,
}

/// How a batch's transaction is begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Transaction {
    /// The isolation level; without one, the database's own default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Runs READ ONLY, enforced by the server.
    pub read_only: bool,
    /// With `serializable` and `read_only`: waits for a snapshot that cannot fail.
    pub deferrable: bool,
}

/// A transaction's isolation level. Source: PostgreSQL manual, "Transaction Isolation".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Each statement sees what was committed before it began.
    ReadCommitted,
    /// All see what was committed before the first began.
    RepeatableRead,
    /// As if transactions ran one after another.
    Serializable,
}

/// The answer of `POST /v1/db/{database}/batch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BatchResponse<R> {
    /// One result a statement, in order.
    pub results: Vec<QueryResponse<R>>,
    /// How often the transaction was run: more than 1 after a serialization failure or a deadlock.
    pub attempts: u32,
}
