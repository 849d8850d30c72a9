//! A parameter as a request brings it: JSON, the server's own text, or a reference to an earlier result of the same batch.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::encode::params::{self, ParamError, TextParam};
use tokio_postgres::types::Type;

/// The largest result that may be referred to: each reference reads all of it. Unit: bytes.
const MAX_RESULT_BYTES: usize = 1 << 20;

/// One parameter.
#[derive(Debug)]
pub enum Value<'a> {
    /// A JSON value, written for the type that the server wants there.
    Json(&'a RawValue),
    /// Text as the server reads it, whatever the type.
    Text(String),
    /// A value of an earlier result.
    Ref(Reference),
}

/// Where in the earlier results a value stands: `0.rows[2].id`, `0.rows[2][1]`, `0.rows[*].id`, `0.row_count`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Which statement's result.
    pub statement: usize,
    path: Path,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Path {
    RowCount,
    Cell(Option<usize>, Column),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Name(String),
    Index(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "$ref")]
    path: String,
}

#[derive(Deserialize)]
struct Encoded<'a> {
    #[serde(borrow)]
    rows: Vec<&'a RawValue>,
    row_count: u64,
}

impl<'a> Value<'a> {
    /// Reads one parameter of a batch. Errors: text about a `$ref` that is not one.
    pub fn of_batch(raw: &'a RawValue) -> Result<Self, String> {
        if !raw.get().starts_with('{') || !raw.get().contains("\"$ref\"") {
            return Ok(Self::Json(raw));
        }
        match serde_json::from_str::<Written>(raw.get()) {
            Ok(Written { path }) => Reference::read(&path).map(Self::Ref),
            // An object with other members is a JSON value that happens to have this one.
            Err(_) => Ok(Self::Json(raw)),
        }
    }

    /// The parameter for a place of type `ty`. `results` are the encoded results of the statements before.
    pub fn bind(&self, ty: &Type, results: &[Vec<u8>]) -> Result<TextParam, ParamError> {
        match self {
            Self::Json(raw) => params::param(raw, ty),
            Self::Text(text) if text.contains('\0') => Err(ParamError::Nul),
            Self::Text(text) => Ok(TextParam(Some(text.clone().into_bytes()))),
            Self::Ref(reference) => params::param(&reference.resolve(results).map_err(ParamError::Reference)?, ty),
        }
    }
}

impl Reference {
    fn read(text: &str) -> Result<Self, String> {
        let read = || {
            let (statement, rest) = text.split_once('.')?;
            let statement = statement.parse().ok()?;
            if rest == "row_count" {
                return Some((statement, Path::RowCount));
            }
            let (row, column) = rest.strip_prefix("rows[")?.split_once(']')?;
            let row = if row == "*" { None } else { Some(row.parse().ok()?) };
            let column = match column.strip_prefix('.') {
                Some(name) if !name.is_empty() => Column::Name(name.to_owned()),
                _ => Column::Index(column.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?),
            };
            Some((statement, Path::Cell(row, column)))
        };
        let form = "write `0.rows[0].id`, `0.rows[0][1]`, `0.rows[*].id` or `0.row_count`";
        let (statement, path) = read().ok_or_else(|| format!("`{text}` is no reference; {form}"))?;
        Ok(Self { statement, path, text: text.to_owned() })
    }

    /// The value. Errors: text about what is not there.
    fn resolve(&self, results: &[Vec<u8>]) -> Result<Box<RawValue>, String> {
        let nothing = |what: &str| format!("refers to `{}`: {what}", self.text);
        let result = results.get(self.statement).ok_or_else(|| nothing("that statement comes later"))?;
        if result.len() > MAX_RESULT_BYTES {
            return Err(nothing(&format!("the result is larger than {MAX_RESULT_BYTES} bytes, too large to refer to")));
        }
        let Encoded { rows, row_count } =
            serde_json::from_slice(result).map_err(|error| nothing(&format!("the result does not read: {error}")))?;
        let value = match &self.path {
            Path::RowCount => row_count.to_string(),
            Path::Cell(Some(row), column) => {
                let row = rows.get(*row).ok_or_else(|| nothing(&format!("the result has {} rows", rows.len())))?;
                column.of(row).ok_or_else(|| nothing("there is no such column"))?
            }
            Path::Cell(None, column) => {
                let values: Option<Vec<String>> = rows.iter().map(|row| column.of(row)).collect();
                format!("[{}]", values.ok_or_else(|| nothing("there is no such column"))?.join(","))
            }
        };
        RawValue::from_string(value).map_err(|error| nothing(&error.to_string()))
    }
}

impl Column {
    fn of(&self, row: &RawValue) -> Option<String> {
        match self {
            Self::Name(name) => {
                let row: BTreeMap<String, &RawValue> = serde_json::from_str(row.get()).ok()?;
                row.get(name).map(|value| value.get().to_owned())
            }
            Self::Index(index) => {
                let row: Vec<&RawValue> = serde_json::from_str(row.get()).ok()?;
                row.get(*index).map(|value| value.get().to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(path: &str) -> Result<String, String> {
        let results = [
            br#"{"columns":[],"rows":[{"id":"7","n":null},{"id":"8","n":[1,2]}],"row_count":2,"command":"SELECT"}"#
                .to_vec(),
            br#"{"columns":[],"rows":[[1,"a"]],"row_count":1,"command":"SELECT"}"#.to_vec(),
        ];
        Reference::read(path)?.resolve(&results).map(|value| value.get().to_owned())
    }

    #[test]
    fn a_reference_finds_its_value() {
        for (path, value) in [
            ("0.rows[0].id", "\"7\""),
            ("0.rows[1].n", "[1,2]"),
            ("0.rows[*].id", "[\"7\",\"8\"]"),
            ("0.row_count", "2"),
            ("1.rows[0][1]", "\"a\""),
        ] {
            assert_eq!(resolved(path).as_deref(), Ok(value), "{path}");
        }
    }

    #[test]
    fn a_reference_to_nothing_says_what_is_missing() {
        for (path, word) in [
            ("0.rows[2].id", "2 rows"),
            ("0.rows[0].nope", "no such column"),
            ("1.rows[0].id", "no such column"),
            ("5.rows[0].id", "comes later"),
            ("rows[0].id", "no reference"),
            ("0.rows[x].id", "no reference"),
            ("0.rows[0]", "no reference"),
        ] {
            let told = resolved(path).expect_err(path);
            assert!(told.contains(word), "{path}: {told}");
        }
    }
}
