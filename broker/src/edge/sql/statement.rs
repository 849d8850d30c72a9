//! Statements that the configuration names: `/v1/db/{database}/statements/{name}`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawPathParams, RawQuery, State};
use axum::response::{IntoResponse, Response};
use hearth_client::wire::{Int8Format, QueryResponse, RowShape, StatementRequest, ValueFormat};
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::problems::Problems;
use super::{Asked, decoded, line_format, note, query, unnumbered};
use crate::broker::Broker;
use crate::config::NamedStatement;
use crate::edge::call::{Call, Headers};
use crate::edge::json::json;
use crate::edge::{Error, body, problem};
use crate::encode::columns::Format;
use crate::encode::rows::row_count;
use crate::query::{Expect, Statement, Unit, Value};

/// Bytes of a result's hash that make its entity tag: no two of one statement's results meet by chance.
const ETAG_BYTES: usize = 16;

/// Runs a named statement.
#[utoipa::path(
    post, path = "/v1/db/{database}/statements/{name}", tag = "sql", operation_id = "run_statement", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("name" = String, Path, description = "The statement's name"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
    ),
    request_body = StatementRequest,
    responses((status = 200, description = "The result", content(
        (QueryResponse<serde_json::Value> = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))), Problems)
)]
pub async fn run(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    path: RawPathParams,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    match answer(&broker, &mut call, &path, &headers, body).await {
        Ok(response) => call.finish(response, None),
        Err(error) => problem::finish(call, &error),
    }
}

async fn answer(
    broker: &Broker,
    call: &mut Call,
    path: &RawPathParams,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let format = line_format(headers)?;
    let who = if format.is_some() {
        call.identify_stream(broker, headers, "statement").await?
    } else {
        call.identify(broker, headers, "statement").await?
    };
    let (asked, named) = find(broker, call, who, path, headers)?;
    let body = body::read(headers, body, &broker.server, asked.deadline).await?;
    let request: StatementRequest<'_> = if body.is_empty() {
        StatementRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| Error::Invalid(error.to_string()))?
    };
    let settings = asked.settings(&request.settings)?;
    let read_only = named.read_only || !asked.may_write();
    let params = params(named, request.params)?;
    let shape = Format { rows: request.rows, values: request.values, int8: request.int8 };
    let statement = Statement::new(&named.sql, params, None, shape, &broker.readings)?;
    let expect = Expect { rows: None, max_affected: request.max_affected };
    let unit = Unit::one(statement, expect, read_only, &settings, request.dry_run)?;
    query::one(&asked, call, unit, format, request.max_rows).await
}

/// Runs a named statement that is declared read-only; the parameters stand in the address, by name.
///
/// A value is the server's own text of the parameter's type; one that is not there is NULL.
#[utoipa::path(
    get, path = "/v1/db/{database}/statements/{name}", tag = "sql", operation_id = "get_statement", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("name" = String, Path, description = "The statement's name"),
        ("if-none-match" = Option<String>, Header, description = "The entity tag of a result that the caller still has"),
    ),
    responses(
        (status = 200, description = "The result", body = QueryResponse<serde_json::Value>, headers(
            ("etag" = String, description = "Changes with the result"),
            ("cache-control" = String, description = "As the statement is declared"))),
        (status = 304, description = "The result is the one that the caller still has"),
        Problems)
)]
pub async fn get(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    path: RawPathParams,
    RawQuery(values): RawQuery,
    Headers(headers): Headers,
) -> Response {
    match get_answer(&broker, &mut call, &path, values.as_deref(), &headers).await {
        Ok(response) => call.finish(response, None),
        Err(error) => problem::finish(call, &error),
    }
}

async fn get_answer(
    broker: &Broker,
    call: &mut Call,
    path: &RawPathParams,
    values: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let who = call.identify(broker, headers, "statement").await?;
    let (asked, named) = find(broker, call, who, path, headers)?;
    if !named.read_only {
        return Err(Error::Invalid("the statement is not declared `read_only`: POST it".to_owned()));
    }
    let shape = Format { rows: RowShape::Object, values: ValueFormat::Json, int8: Int8Format::String };
    let statement =
        Statement::new(&named.sql, address_params(named, values.unwrap_or_default())?, None, shape, &broker.readings)?;
    let none = BTreeMap::new();
    let settings = asked.settings(&none)?;
    let unit = Unit::one(statement, Expect::default(), true, &settings, false)?;
    note(call, &unit);
    call.to_database();
    let answer = asked.run(&unit, &[], None).go().await.map_err(unnumbered)?;
    call.spent(answer.queue, answer.db);
    call.used_rows(|| answer.rows());
    let body = answer.results.into_iter().next().unwrap_or_default();
    call.note(|event| event.rows = row_count(&body));
    let etag = etag(&body);
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*");
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { json(StatusCode::OK, body).map(Body::new) };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(&etag).expect("hexadecimal digits are header text"));
    headers.insert(CACHE_CONTROL, cache_control(named));
    Ok(response)
}

fn find<'b>(
    broker: &'b Broker,
    call: &mut Call,
    who: (crate::edge::auth::Principal, crate::base::Deadline),
    path: &RawPathParams,
    headers: &HeaderMap,
) -> Result<(Asked<'b>, &'b NamedStatement), Error> {
    let mut path = path.iter().map(|(_, value)| value);
    let (database, name) = (path.next().unwrap_or("\u{fffd}"), path.next().unwrap_or("\u{fffd}"));
    let asked = Asked::new(broker, call, who, database, headers)?;
    let named = broker.statements.get(asked.database.name()).and_then(|statements| statements.get(name));
    let named = named.filter(|_| asked.principal.may_run(name));
    let named = named.ok_or_else(|| Error::UnknownStatement(name.to_owned()))?;
    call.note(|event| event.named = Some(name.to_owned()));
    Ok((asked, named))
}

/// The request's parameters in the order of the declared names.
fn params<'a>(named: &NamedStatement, given: Option<&'a RawValue>) -> Result<Vec<Value<'a>>, Error> {
    let invalid = |error: serde_json::Error| Error::Invalid(format!("`params`: {error}"));
    match given.map(|raw| (raw, raw.get().as_bytes()[0])) {
        Some((raw, b'[')) => {
            let list: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(invalid)?;
            Ok(list.into_iter().map(Value::Json).collect())
        }
        Some((raw, b'{')) => {
            let mut map: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).map_err(invalid)?;
            let wanted = |name: &String| map.remove(name).map(Value::Json).ok_or_else(|| missing(named, name));
            let values = named.params.iter().map(wanted).collect::<Result<Vec<_>, _>>()?;
            map.into_keys().next().map_or(Ok(values), |name| Err(unknown(named, &name)))
        }
        Some((raw, _)) if raw.get() != "null" => {
            Err(Error::Invalid("`params` must be an object by name, or an array by position".to_owned()))
        }
        _ => named.params.first().map_or_else(|| Ok(Vec::new()), |name| Err(missing(named, name))),
    }
}

/// Parameters as they stand in an address.
fn address_params(named: &NamedStatement, text: &str) -> Result<Vec<Value<'static>>, Error> {
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if !named.params.contains(&name) {
            return Err(unknown(named, &name));
        }
        if given.insert(name.clone(), value).is_some() {
            return Err(Error::Invalid(format!("the parameter `{name}` stands twice")));
        }
    }
    let null = || Value::Json(RawValue::NULL);
    Ok(named.params.iter().map(|name| given.remove(name).map_or_else(null, Value::Text)).collect())
}

fn missing(named: &NamedStatement, name: &str) -> Error {
    Error::Invalid(format!("the parameter `{name}` is missing; there are: {}", named.params.join(", ")))
}

fn unknown(named: &NamedStatement, name: &str) -> Error {
    Error::Invalid(format!("there is no parameter `{name}`; there are: {}", named.params.join(", ")))
}

fn etag(body: &[u8]) -> String {
    let mut tag = String::from("\"");
    for byte in &Sha256::digest(body)[..ETAG_BYTES] {
        write!(tag, "{byte:02x}").expect("writing to a string does not fail");
    }
    tag + "\""
}

/// Private: another key may see other rows.
fn cache_control(named: &NamedStatement) -> HeaderValue {
    let text =
        named.max_age.map_or("private, no-cache".to_owned(), |age| format!("private, max-age={}", age.as_secs()));
    HeaderValue::from_str(&text).expect("digits are header text")
}
