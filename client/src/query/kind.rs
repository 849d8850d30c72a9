//! The two ways to say what to run: the SQL itself, or the name under which the broker's configuration holds it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use super::Query;
use crate::client::segment;
use crate::error::{Effect, Error, Reason};
use crate::wire::{QueryRequest, StatementRequest, ValueFormat};

/// A statement given as SQL.
#[derive(Debug, Default)]
pub struct Sql {
    pub(super) read_only: bool,
}

/// A statement given by its name in the broker's configuration.
#[derive(Debug, Default)]
pub struct Named {
    pub(super) params: BTreeMap<String, Box<RawValue>>,
}

/// What differs between the two. Not to be implemented elsewhere, and not nameable there.
pub trait Kind: Default {
    /// What follows the database's name in the path.
    fn path(text: &str) -> Result<Cow<'static, str>, Error>;

    /// The request's body.
    fn body(query: &Query<'_, Self>) -> Result<Vec<u8>, Error>;

    /// The server refuses writes.
    fn is_read_only(&self) -> bool;
}

impl Kind for Sql {
    fn path(_sql: &str) -> Result<Cow<'static, str>, Error> {
        Ok("/query".into())
    }

    fn body(query: &Query<'_, Self>) -> Result<Vec<u8>, Error> {
        let request = QueryRequest {
            sql: Cow::Borrowed(&query.text),
            params: query.params.values(),
            types: query.params.types(),
            rows: query.rows,
            values: ValueFormat::Json,
            int8: query.int8,
            read_only: query.kind.read_only,
            settings: query.settings.clone(),
            dry_run: query.dry_run,
            max_affected: query.max_affected,
            max_rows: query.max_rows,
        };
        Ok(serde_json::to_vec(&request).expect("strings, flags and raw JSON are always JSON"))
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

impl Kind for Named {
    fn path(name: &str) -> Result<Cow<'static, str>, Error> {
        Ok(format!("/statements/{}", segment("a statement", name)?).into())
    }

    fn body(query: &Query<'_, Self>) -> Result<Vec<u8>, Error> {
        let params = query.kind.written(&query.params.values())?;
        let request = StatementRequest {
            params: params.as_deref(),
            rows: query.rows,
            values: ValueFormat::Json,
            int8: query.int8,
            settings: query.settings.clone(),
            dry_run: query.dry_run,
            max_affected: query.max_affected,
            max_rows: query.max_rows,
        };
        Ok(serde_json::to_vec(&request).expect("strings, flags and raw JSON are always JSON"))
    }

    fn is_read_only(&self) -> bool {
        false
    }
}

impl Named {
    /// An object by name, an array by position, or nothing.
    fn written(&self, by_position: &[&RawValue]) -> Result<Option<Box<RawValue>>, Error> {
        let params = match (self.params.is_empty(), by_position.is_empty()) {
            (true, true) => return Ok(None),
            (true, false) => to_raw_value(by_position),
            (false, true) => to_raw_value(&self.params),
            (false, false) => {
                let message = "parameters are given both by name and by position; use `param` or `bind`, not both";
                return Err(Error::new(Reason::Request(message.to_owned()), Effect::None));
            }
        };
        Ok(Some(params.expect("strings and raw JSON are always JSON")))
    }
}
