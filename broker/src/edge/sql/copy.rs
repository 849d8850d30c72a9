//! Bulk data both ways: `/v1/db/{database}/copy?sql=COPY …`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use hearth_client::wire::{CopyResponse, Int8Format, RowShape, ValueFormat};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;

use super::problems::Problems;
use super::{Asked, decoded, note, streamed, unnumbered};
use crate::broker::Broker;
use crate::config::Scope;
use crate::edge::auth::AuthError;
use crate::edge::call::{BackendPath, Call, Headers};
use crate::edge::json::json;
use crate::edge::{Error, encoding, problem};
use crate::encode::columns::Format;
use crate::query::copy::{CopyIn, Source};
use crate::query::reading::CopyDirection;
use crate::query::{Expect, Statement, Unit};

/// How long a refused upload is still read.
const LINGER: Duration = Duration::from_secs(5);
/// No rows are written by us.
const FORMAT: Format = Format { rows: RowShape::Object, values: ValueFormat::Json, int8: Int8Format::String };

/// Loads the request's body in one transaction. A cut upload loads nothing.
#[utoipa::path(
    post, path = "/v1/db/{database}/copy", tag = "sql", operation_id = "copy_in", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("sql" = String, Query, description = "COPY … FROM STDIN …", example = "COPY users FROM STDIN (FORMAT csv)"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "The data, as the COPY says"),
    responses((status = 200, description = "Everything is loaded", body = CopyResponse), Problems)
)]
pub async fn copy_in(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    BackendPath(database): BackendPath,
    RawQuery(address): RawQuery,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    match load(&broker, &mut call, &database, address.as_deref(), &headers, body).await {
        Ok(loaded) => {
            let body = serde_json::to_vec(&loaded).expect("counts are plain data");
            call.finish(json(StatusCode::OK, body), None)
        }
        Err(error) => problem::finish(call, &error),
    }
}

async fn load(
    broker: &Broker,
    call: &mut Call,
    database: &str,
    address: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<CopyResponse, Error> {
    let who = call.identify_stream(broker, headers, "copy_in").await?;
    who.0.may_send_sql()?;
    let asked = Asked::new(broker, call, who, database, headers)?;
    if !asked.may_write() {
        return Err(AuthError::Scope(Scope::SqlWrite.as_str()).into());
    }
    let sql = sql(address)?;
    let none = BTreeMap::new();
    let (settings, timeout_ms) = (asked.settings(&none)?, asked.stream_timeout_ms());
    let unit = unit(&asked, &sql, CopyDirection::In, &settings)?.lasting(&timeout_ms);
    note(call, &unit);
    let copy = CopyIn {
        database: &asked.database,
        unit: &unit,
        deadline: asked.deadline,
        sender_timeout: broker.server.reader_timeout,
        caller: &asked.caller,
        metrics: &asked.metrics,
    };
    call.to_database();
    let mut upload = Upload(encoding::decoded(headers, body)?);
    let loaded = match copy.go(&mut upload).await {
        Ok(loaded) => loaded,
        Err(failure) => {
            upload.drain();
            return Err(unnumbered(failure).into());
        }
    };
    call.spent(loaded.queue, loaded.db);
    call.note(|event| event.rows = Some(loaded.response.rows));
    call.used_rows(|| loaded.response.rows);
    Ok(loaded.response)
}

/// Streams what a COPY gives. A body that breaks off was cut: it is whole only where it ends in order.
#[utoipa::path(
    get, path = "/v1/db/{database}/copy", tag = "sql", operation_id = "copy_out", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("sql" = String, Query, description = "COPY … TO STDOUT …", example = "COPY users TO STDOUT (FORMAT csv, HEADER)"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "The caller's deadline for the whole request, in milliseconds"),
    ),
    responses((status = 200, description = "The data, as the COPY says", content(
        (String = "text/csv"), (String = "text/plain"), (String = "application/octet-stream"))), Problems)
)]
pub async fn copy_out(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    BackendPath(database): BackendPath,
    RawQuery(address): RawQuery,
    Headers(headers): Headers,
) -> Response {
    match unload(&broker, &mut call, &database, address.as_deref(), &headers).await {
        Ok(response) => call.finish(response, None),
        Err(error) => problem::finish(call, &error),
    }
}

async fn unload(
    broker: &Broker,
    call: &mut Call,
    database: &str,
    address: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let who = call.identify_stream(broker, headers, "copy_out").await?;
    who.0.may_send_sql()?;
    let asked = Asked::new(broker, call, who, database, headers)?;
    let sql = sql(address)?;
    let none = BTreeMap::new();
    let (settings, timeout_ms) = (asked.settings(&none)?, asked.stream_timeout_ms());
    let unit = unit(&asked, &sql, CopyDirection::Out, &settings)?.lasting(&timeout_ms);
    note(call, &unit);
    call.to_database();
    let stream = asked.streaming(&unit, None, None).open().await.map_err(unnumbered)?;
    call.spent(stream.queue, stream.db);
    call.streams(&stream.rows);
    let content_type = match (stream.is_binary, unit.statements[0].mentions_csv()) {
        (true, _) => "application/octet-stream",
        (false, true) => "text/csv; charset=utf-8",
        (false, false) => "text/plain; charset=utf-8",
    };
    Ok(streamed::response(stream, None, content_type, call, &asked.metrics))
}

fn unit<'a>(
    asked: &Asked<'_>,
    sql: &'a str,
    direction: CopyDirection,
    settings: &'a BTreeMap<String, String>,
) -> Result<Unit<'a>, Error> {
    let statement = Statement::copy(sql, direction, FORMAT)?;
    Ok(Unit::one(statement, Expect::default(), !asked.may_write(), settings, false)?)
}

/// The `sql` in the address. Errors: nothing there, something else too, or text that is not UTF-8.
fn sql(address: Option<&str>) -> Result<String, Error> {
    let mut sql = None;
    for pair in address.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sql", text)) if sql.is_none() => sql = Some(decoded(text)?),
            _ => return Err(Error::Invalid("the address takes `sql`, once, and nothing else".to_owned())),
        }
    }
    sql.ok_or_else(|| Error::Invalid("send the COPY in the address: `?sql=COPY …`, percent-encoded".to_owned()))
}

/// A request's body as the source of a COPY.
struct Upload(Body);

impl Upload {
    /// Reads on for a while, and throws away: a client that is cut off while it sends sees a reset connection in place of the
    /// answer.
    fn drain(mut self) {
        tokio::spawn(tokio::time::timeout(LINGER, async move { while let Some(Ok(_)) = self.next().await {} }));
    }
}

impl Source for Upload {
    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            match self.0.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(format!("the upload broke off, and nothing was loaded: {error}"))),
            }
        }
    }
}
