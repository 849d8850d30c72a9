//! The values a statement is given.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::{Effect, Error, Reason};

/// Parameters by position.
#[derive(Debug, Default)]
pub(crate) struct Params {
    values: Vec<Box<RawValue>>,
    types: Option<Vec<Option<String>>>,
    /// The first parameter that could not be written, kept until the call that can report it.
    unusable: Option<(String, serde_json::Error)>,
}

impl Params {
    pub(crate) fn bind(&mut self, value: impl Serialize) {
        let what = format!("parameter ${}", self.values.len() + 1);
        let value = self.written(what, value);
        self.values.push(value);
    }

    pub(crate) fn set_types<'t, T: Into<Option<&'t str>>>(&mut self, types: impl IntoIterator<Item = T>) {
        self.types = Some(types.into_iter().map(|name| name.into().map(str::to_owned)).collect());
    }

    /// A value as JSON; null in the place of one that cannot be written, which `check` then reports.
    pub(crate) fn written(&mut self, what: String, value: impl Serialize) -> Box<RawValue> {
        serde_json::value::to_raw_value(&value).unwrap_or_else(|source| {
            self.unusable.get_or_insert((what, source));
            RawValue::NULL.to_owned()
        })
    }

    /// Errors: the first parameter that could not be written. `place` says whose it is.
    pub(crate) fn check(&mut self, place: impl FnOnce() -> String) -> Result<(), Error> {
        let Some((what, source)) = self.unusable.take() else { return Ok(()) };
        Err(Error::new(Reason::Encode { what: place() + &what, source }, Effect::None))
    }

    pub(crate) fn values(&self) -> Vec<&RawValue> {
        self.values.iter().map(Box::as_ref).collect()
    }

    pub(crate) fn types(&self) -> Option<Vec<Option<String>>> {
        self.types.clone()
    }
}

/// Bytes as the broker takes them for `bytea`.
#[derive(Serialize)]
pub(crate) struct Bytea {
    #[serde(rename = "$bytes")]
    base64: String,
}

impl Bytea {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { base64: STANDARD.encode(bytes) }
    }
}
