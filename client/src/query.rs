//! One SQL statement: text, parameters, and the rows as a type of the caller's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::client::{Answer, Call, Client, SQL};
use crate::error::{Effect, Error, Reason};
use crate::wire::{Int8Format, QueryRequest, QueryResponse, RowShape, ValueFormat};

/// A PostgreSQL database behind the broker. From [`Client::db`].
#[derive(Debug, Clone)]
pub struct Database {
    client: Client,
    name: String,
}

impl Database {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Starts one statement with `$1`-style placeholders. It runs by itself and commits by itself.
    pub fn query<'q>(&self, sql: impl Into<Cow<'q, str>>) -> Query<'q> {
        Query {
            database: self.clone(),
            sql: sql.into(),
            params: Vec::new(),
            types: None,
            rows: RowShape::Object,
            int8: Int8Format::Number,
            read_only: false,
            max_rows: None,
            unusable: None,
        }
    }
}

/// A statement with what it is given. From [`Database::query`]; nothing is sent before one of the awaited methods.
///
/// Cancel safety: dropping the future closes the request, and the broker cancels the statement. A write may have
/// happened by then.
#[derive(Debug)]
#[must_use = "nothing is sent before `execute` or one of the `fetch` methods is awaited"]
pub struct Query<'q> {
    database: Database,
    sql: Cow<'q, str>,
    params: Vec<Box<RawValue>>,
    types: Option<Vec<Option<String>>>,
    rows: RowShape,
    int8: Int8Format,
    read_only: bool,
    max_rows: Option<u64>,
    /// The first parameter that could not be written, kept until the call that can report it.
    unusable: Option<Error>,
}

impl Query<'_> {
    /// Gives the next placeholder its value; the server binds it, it is never pasted into the text.
    ///
    /// Shape: whatever serde writes as JSON. `Option::None` is NULL, a `Vec` an array, a struct a `json` or `jsonb` value.
    /// JSON has no NaN and no infinity: serde writes null for them, so bind the strings `"NaN"` and `"Infinity"`.
    pub fn bind(mut self, value: impl Serialize) -> Self {
        match serde_json::value::to_raw_value(&value) {
            Ok(value) => self.params.push(value),
            Err(source) => {
                let what = format!("parameter ${}", self.params.len() + 1);
                self.unusable.get_or_insert_with(|| Error::new(Reason::Encode { what, source }, Effect::None));
                self.params.push(RawValue::NULL.to_owned());
            }
        }
        self
    }

    /// Gives the next placeholder a `bytea` value. (`bind` would write an array of numbers.)
    pub fn bind_bytes(self, bytes: &[u8]) -> Self {
        #[derive(Serialize)]
        struct Bytes {
            #[serde(rename = "$bytes")]
            base64: String,
        }
        self.bind(Bytes { base64: STANDARD.encode(bytes) })
    }

    /// Names the parameters' PostgreSQL types where the server infers others: `["int8", "text"]`, or with `None` for
    /// those left to the server, `[Some("int8"), None]`.
    pub fn types<'t, T: Into<Option<&'t str>>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.types = Some(types.into_iter().map(|name| name.into().map(str::to_owned)).collect());
        self
    }

    /// Runs the statement READ ONLY, which the server enforces; a replica may answer.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
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
        Ok(self.fetch::<T>().await?.1.rows)
    }

    /// The first row; an error where there is none.
    pub async fn fetch_one<T: DeserializeOwned>(self) -> Result<T, Error> {
        let (answer, response) = self.fetch().await?;
        response.rows.into_iter().next().ok_or_else(|| answer.error(Reason::RowNotFound))
    }

    /// The first row, if there is one.
    pub async fn fetch_optional<T: DeserializeOwned>(self) -> Result<Option<T>, Error> {
        Ok(self.fetch().await?.1.rows.into_iter().next())
    }

    /// The one column of the first row; an error where there is no row or a second column.
    pub async fn fetch_scalar<T: DeserializeOwned>(self) -> Result<T, Error> {
        let (value,) = self.as_arrays().fetch_one().await?;
        Ok(value)
    }

    /// Runs the statement for its effect. Gives the rows affected, or returned.
    pub async fn execute(self) -> Result<u64, Error> {
        Ok(self.fetch::<serde::de::IgnoredAny>().await?.1.row_count)
    }

    /// The whole answer, with the columns' names and types.
    pub async fn response(self) -> Result<QueryResponse<serde_json::Value>, Error> {
        Ok(self.fetch().await?.1)
    }

    async fn fetch<T: DeserializeOwned>(self) -> Result<(Answer, QueryResponse<T>), Error> {
        let answer = self.send().await?;
        let response = answer.decode()?;
        Ok((answer, response))
    }

    async fn send(mut self) -> Result<Answer, Error> {
        if let Some(error) = self.unusable.take() {
            return Err(error);
        }
        let call = Call {
            surface: SQL,
            tail: "/query",
            body: self.body(),
            effect: if self.read_only { Effect::None } else { Effect::AllOrNothing },
            headers: HeaderMap::new(),
            name: self.database.name,
        };
        self.database.client.send(call).await
    }

    fn body(&self) -> Vec<u8> {
        let request = QueryRequest {
            sql: Cow::Borrowed(&self.sql),
            params: self.params.iter().map(Box::as_ref).collect(),
            types: self.types.clone(),
            rows: self.rows,
            values: ValueFormat::Json,
            int8: self.int8,
            read_only: self.read_only,
            settings: BTreeMap::new(),
            dry_run: false,
            max_affected: None,
            max_rows: self.max_rows,
        };
        serde_json::to_vec(&request).expect("strings, flags and raw JSON are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn query(sql: &str) -> Query<'_> {
        Client::new("http://127.0.0.1:1", "key").unwrap().db("app").query(sql)
    }

    fn written(query: &Query<'_>) -> Value {
        serde_json::from_slice(&query.body()).unwrap()
    }

    #[test]
    fn plain_statement_asks_for_objects_and_numbers() {
        assert_eq!(
            written(&query("SELECT 1")),
            json!({"sql": "SELECT 1", "rows": "object", "values": "json", "int8": "number", "read_only": false})
        );
    }

    #[test]
    fn every_setting_reaches_the_request() {
        let query = query("SELECT $1, $2")
            .bind(9_007_199_254_740_993_i64)
            .bind(Some("Ada"))
            .types([Some("int8"), None])
            .read_only()
            .max_rows(10)
            .exact_numbers()
            .as_arrays();
        assert_eq!(
            String::from_utf8(query.body()).unwrap(),
            r#"{"sql":"SELECT $1, $2","params":[9007199254740993,"Ada"],"types":["int8",null],"rows":"array","#
                .to_owned()
                + r#""values":"json","int8":"string","read_only":true,"max_rows":10}"#
        );
    }

    #[test]
    fn request_reads_back_as_the_broker_reads_it() {
        let body = query("SELECT $1").bind(json!({"a": [1, null]})).body();
        let request: QueryRequest<'_> = serde_json::from_slice(&body).unwrap();
        assert_eq!((request.sql.as_ref(), request.params[0].get()), ("SELECT $1", r#"{"a":[1,null]}"#));
    }

    #[test]
    fn parameters_keep_their_json_shape() {
        let query = query("").bind(None::<i32>).bind(true).bind(1.5).bind(vec!["x", "y"]).bind_bytes(&[0, 255, 16]);
        assert_eq!(written(&query)["params"], json!([null, true, 1.5, ["x", "y"], {"$bytes": "AP8Q"}]));
    }

    #[test]
    fn types_may_be_plain_names() {
        assert_eq!(written(&query("").types(["int8", "text"]))["types"], json!(["int8", "text"]));
    }

    #[tokio::test]
    async fn unwritable_parameter_is_an_error_that_names_its_place() {
        let keyed_by_pairs = BTreeMap::from([((1, 2), 3)]);
        let error = query("").bind(1).bind(keyed_by_pairs).bind(2).execute().await.unwrap_err();
        assert_eq!(error.to_string(), "parameter $2 cannot be written as JSON");
        assert_eq!(error.outcome(), crate::wire::Outcome::NotApplied);
    }

    #[test]
    fn futures_are_send() {
        fn assert_send(_: &impl Send) {}
        assert_send(&query("").fetch_all::<Value>());
        assert_send(&query("").execute());
    }
}
