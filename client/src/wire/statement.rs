//! Statements that the broker's configuration names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Int8Format, RowShape, ValueFormat};

/// The body of `POST /v1/db/{database}/statements/{name}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct StatementRequest<'a> {
    /// The parameters: an object by their declared names, or an array by position. Values as in a query.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>, example = json!({"id": 42})))]
    pub params: Option<&'a RawValue>,
    /// Rows as objects or as arrays.
    pub rows: RowShape,
    /// Values as JSON or as PostgreSQL's own text.
    pub values: ValueFormat,
    /// `int8` and `numeric` as strings or as numbers.
    pub int8: Int8Format,
    /// Settings for this request alone, as in a query.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Runs the statement, answers as usual, and rolls back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// A command that affects more rows than this is rolled back: 409 `expectation_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_affected: Option<u64>,
    /// More rows than this end the request in 413 `result_too_large`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}
