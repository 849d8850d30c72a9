//! One SQL statement: what to run, its parameters, and the rows as a type of the caller's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Answer, Call, Media};
use crate::database::Database;
use crate::error::{Effect, Error, Reason};
use crate::params::{Bytea, Params};
use crate::rows::RowStream;
use crate::wire::{Int8Format, QueryResponse, RowShape};

mod kind;
use kind::Kind;
pub use kind::{Named, Sql};

/// A statement with what it is given. From [`Database::query`], or by name from [`Database::statement`]; nothing is sent
/// before one of the awaited methods.
///
/// Cancel safety: dropping the future closes the request, and the broker cancels the statement. A write may have
/// happened by then.
#[derive(Debug)]
#[must_use = "nothing is sent before `execute`, `send`, `stream` or one of the `fetch` methods is awaited"]
pub struct Query<'q, K = Sql> {
    database: Database,
    /// The statement, or its name.
    text: Cow<'q, str>,
    kind: K,
    params: Params,
    rows: RowShape,
    int8: Int8Format,
    settings: BTreeMap<String, String>,
    dry_run: bool,
    max_affected: Option<u64>,
    max_rows: Option<u64>,
}

/// For statements given as SQL.
impl Query<'_> {
    /// Names the parameters' PostgreSQL types where the server infers others: `["int8", "text"]`, or with `None` for
    /// those left to the server, `[Some("int8"), None]`.
    pub fn types<'t, T: Into<Option<&'t str>>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.params.set_types(types);
        self
    }

    /// Runs the statement READ ONLY, which the server enforces; a replica may answer.
    pub fn read_only(mut self) -> Self {
        self.kind.read_only = true;
        self
    }

    /// Sends the statement for its rows one by one, in memory that stays flat. Returns once the broker has begun to
    /// answer.
    ///
    /// The client's timeout, and the retries within it, end there: how long the rows may take is up to the reader.
    pub async fn stream<T: DeserializeOwned>(self) -> Result<RowStream<T>, Error> {
        let (database, mut call) = self.into_call()?;
        call.answer = Media::Rows;
        RowStream::open(database.client(), call).await
    }
}

/// For statements given by name.
impl Query<'_, Named> {
    /// Gives the parameter of that name its value, in the shape that [`bind`](Self::bind) takes. Parameters are given by
    /// name or by position, not both.
    pub fn param(mut self, name: &str, value: impl Serialize) -> Self {
        let value = self.params.written(format!("parameter `{name}`"), value);
        self.kind.params.insert(name.to_owned(), value);
        self
    }

    /// Gives the parameter of that name a `bytea` value.
    pub fn param_bytes(self, name: &str, bytes: &[u8]) -> Self {
        self.param(name, Bytea::new(bytes))
    }
}

impl<'q, K: Kind> Query<'q, K> {
    pub(crate) fn new(database: Database, text: Cow<'q, str>) -> Self {
        Self {
            database,
            text,
            kind: K::default(),
            params: Params::default(),
            rows: RowShape::Object,
            int8: Int8Format::Number,
            settings: BTreeMap::new(),
            dry_run: false,
            max_affected: None,
            max_rows: None,
        }
    }

    /// Gives the next placeholder its value; the server binds it, it is never pasted into the text.
    ///
    /// Shape: whatever serde writes as JSON. `Option::None` is NULL, a `Vec` an array, a struct a `json` or `jsonb` value.
    /// JSON has no NaN and no infinity: serde writes null for them, so bind the strings `"NaN"` and `"Infinity"`.
    pub fn bind(mut self, value: impl Serialize) -> Self {
        self.params.bind(value);
        self
    }

    /// Gives the next placeholder a `bytea` value. (`bind` would write an array of numbers.)
    pub fn bind_bytes(self, bytes: &[u8]) -> Self {
        self.bind(Bytea::new(bytes))
    }

    /// Sets a setting for this statement alone, such as `app.user_id` for row-level security. The tenant's configuration
    /// lists the names that are allowed.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// Runs the statement, answers as usual, and rolls back.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Rolls back a statement that affects more rows
    /// ([`ProblemCode::ExpectationFailed`](crate::wire::ProblemCode::ExpectationFailed)).
    pub fn max_affected(mut self, max_affected: u64) -> Self {
        self.max_affected = Some(max_affected);
        self
    }

    /// Refuses a result with more rows ([`ProblemCode::ResultTooLarge`](crate::wire::ProblemCode::ResultTooLarge));
    /// nothing is cut off silently.
    pub fn max_rows(mut self, max_rows: u64) -> Self {
        self.max_rows = Some(max_rows);
        self
    }

    /// Asks for `int8` and `numeric` as strings.
    ///
    /// Without this both are JSON numbers: Rust reads `int8` into an `i64` without loss, and a `numeric` that an `f64`
    /// holds into an `f64`. For a wider `numeric` call this and read a `String`; every `int8` is then a `String` too.
    pub fn exact_numbers(mut self) -> Self {
        self.int8 = Int8Format::String;
        self
    }

    /// Asks for each row as an array in column order, which reads into a tuple: `fetch_all::<(i64, String)>()`. Columns
    /// may then share a name.
    pub fn as_arrays(mut self) -> Self {
        self.rows = RowShape::Array;
        self
    }

    /// All rows.
    pub async fn fetch_all<T: DeserializeOwned>(self) -> Result<Vec<T>, Error> {
        Ok(self.send::<T>().await?.rows)
    }

    /// The first row; an error where there is none.
    pub async fn fetch_one<T: DeserializeOwned>(self) -> Result<T, Error> {
        let (answer, response) = self.fetch().await?;
        response.rows.into_iter().next().ok_or_else(|| answer.error(Reason::RowNotFound))
    }

    /// The first row, if there is one.
    pub async fn fetch_optional<T: DeserializeOwned>(self) -> Result<Option<T>, Error> {
        Ok(self.send().await?.rows.into_iter().next())
    }

    /// The one column of the first row; an error where there is no row or a second column.
    pub async fn fetch_scalar<T: DeserializeOwned>(self) -> Result<T, Error> {
        let (value,) = self.as_arrays().fetch_one().await?;
        Ok(value)
    }

    /// Runs the statement for its effect. Gives the rows affected, or returned.
    pub async fn execute(self) -> Result<u64, Error> {
        Ok(self.send::<serde::de::IgnoredAny>().await?.row_count)
    }

    /// The whole answer: rows of the caller's type, and beside them columns, count, command and the server's notices.
    pub async fn send<T: DeserializeOwned>(self) -> Result<QueryResponse<T>, Error> {
        Ok(self.fetch().await?.1)
    }

    /// The whole answer, with rows as JSON.
    pub async fn response(self) -> Result<QueryResponse<serde_json::Value>, Error> {
        self.send().await
    }

    async fn fetch<T: DeserializeOwned>(self) -> Result<(Answer, QueryResponse<T>), Error> {
        let (database, call) = self.into_call()?;
        let answer = database.client().send(call).await?;
        let response = answer.decode()?;
        Ok((answer, response))
    }

    fn into_call(mut self) -> Result<(Database, Call), Error> {
        self.params.check(String::new)?;
        let writes = !self.dry_run && !self.kind.is_read_only();
        let call = self.database.post(K::path(&self.text)?, K::body(&self)?);
        let effect = if writes { Effect::AllOrNothing } else { Effect::None };
        Ok((self.database, call.with_effect(effect)))
    }
}

#[cfg(test)]
mod tests;
