//! Tenants of the control database, for operators. A change is answered when it is in force here; other brokers have it within a
//! second.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawPathParams, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::base::{Deadline, RequestId};
use crate::broker::{Broker, Live, Trouble};
use crate::config::ServerConfig;
use crate::control::{ControlError, Patch, Store, StoredTenantRow};
use crate::edge::error::Error;
use crate::edge::{body, problem};

/// A write waits at most five seconds for another one, and the server stops it after fifteen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a change may take to be in force here before the answer says that it is not yet (202).
const APPLY: Duration = Duration::from_secs(5);
/// Policies are a few hundred bytes. Unit: bytes.
const MAX_BODY: u64 = 256 << 10;
/// How long a body may take to come.
const BODY: Duration = Duration::from_secs(10);
const PAGE: i64 = 100;
const MAX_PAGE: i64 = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    name: String,
    #[serde(default = "empty")]
    policy: Value,
}

fn empty() -> Value {
    json!({})
}

/// How the control database is doing, and which of its tenants are not in force as they are stored.
pub async fn control(State(live): State<Live>) -> Response {
    let broker = live.now();
    let counts = broker.directory.counts();
    let troubles = broker.directory.troubles();
    let troubles: Vec<Value> = troubles
        .iter()
        .map(|(name, trouble)| {
            let mut told = standing(Some(trouble));
            told["tenant"] = json!(name.as_str());
            told
        })
        .collect();
    let told = json!({
        "configured": broker.control.is_some(), "up": broker.metrics.control.is_up(), "sequence": live.applied_seq(),
        "tenants": counts.tenants, "keys": counts.keys, "not_in_force": troubles,
    });
    Json(told).into_response()
}

/// A page of tenants in the order of their names.
pub async fn list(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    RawQuery(query): RawQuery,
) -> Response {
    let listed = async {
        let (after, limit) = page(query.as_deref().unwrap_or_default())?;
        let broker = live.now();
        let rows = reads(&broker, async |store| store.list(&after, limit + 1).await).await?;
        let more = i64::try_from(rows.len()).is_ok_and(|count| count > limit);
        let rows = &rows[..rows.len().min(usize::try_from(limit).unwrap_or_default())];
        let next = rows.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(&last.name));
        let tenants: Vec<Value> = rows.iter().map(|row| told(row, &broker)).collect();
        Ok(Json(json!({"tenants": tenants, "next": next})).into_response())
    };
    answered(&id, listed.await)
}

/// Makes a tenant.
pub async fn create(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let created = async {
        let NewTenant { name, policy } = json_body(&headers, body).await?;
        let broker = live.now();
        if broker.tenants.contains_key(name.as_str()) {
            return Err(ControlError::InFile(name).into());
        }
        let written = writes(&broker, async |store| store.create(&name, &policy, &broker.known).await).await?;
        let mut response = tenant_response(&live, &written.stored, StatusCode::CREATED, written.seq).await;
        let place = HeaderValue::from_str(&format!("/admin/v1/tenants/{name}")).expect("a name is plain ASCII");
        response.headers_mut().insert(LOCATION, place);
        Ok(response)
    };
    answered(&id, created.await)
}

/// One tenant.
pub async fn show(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    path: RawPathParams,
    headers: HeaderMap,
) -> Response {
    let [name] = names(&path);
    let shown = async {
        let broker = live.now();
        let row = reads(&broker, async |store| store.tenant(&name).await).await?;
        let tag = tag(row.version);
        if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
            return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
        }
        Ok(([(ETAG, tag)], Json(told(&row, &broker))).into_response())
    };
    answered(&id, shown.await)
}

/// Changes a tenant's policy, or suspends or resumes it.
pub async fn update(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    path: RawPathParams,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let [name] = names(&path);
    let updated = async {
        let change: Patch = json_body(&headers, body).await?;
        let wanted = if_match(&headers)?;
        let broker = live.now();
        let written =
            writes(&broker, async |store| store.update(&name, &change, wanted.as_deref(), &broker.known).await).await?;
        Ok(tenant_response(&live, &written.stored, StatusCode::OK, written.seq).await)
    };
    answered(&id, updated.await)
}

/// Takes a tenant away, with its keys.
pub async fn delete(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    path: RawPathParams,
    headers: HeaderMap,
) -> Response {
    let [name] = names(&path);
    let deleted = async {
        let wanted = if_match(&headers)?;
        let written = writes(&live.now(), async |store| store.delete(&name, wanted.as_deref()).await).await?;
        Ok(in_force(&live, written.seq, StatusCode::NO_CONTENT).await.into_response())
    };
    answered(&id, deleted.await)
}

/// Asks the control database. Errors: also that there is none, or that it does not answer.
pub(super) async fn reads<T>(
    broker: &Broker,
    ask: impl AsyncFnOnce(&mut Store) -> Result<T, ControlError>,
) -> Result<T, Error> {
    asked(broker, ControlError::TimedOut(PATIENCE), ask).await
}

/// Changes the control database. Without an answer nobody knows whether it did.
pub(super) async fn writes<T>(
    broker: &Broker,
    write: impl AsyncFnOnce(&mut Store) -> Result<T, ControlError>,
) -> Result<T, Error> {
    asked(broker, ControlError::Unanswered(PATIENCE), write).await
}

async fn asked<T>(
    broker: &Broker,
    late: ControlError,
    ask: impl AsyncFnOnce(&mut Store) -> Result<T, ControlError>,
) -> Result<T, Error> {
    let control = broker.control.as_ref().ok_or(ControlError::NotConfigured)?;
    let mut store = control.store().await?;
    let answered = timeout(PATIENCE, ask(&mut store)).await;
    Ok(answered.unwrap_or(Err(late))?)
}

/// The status of a change that is stored: as wanted once it is in force here, 202 where that takes too long.
pub(super) async fn in_force(live: &Live, seq: i64, wanted: StatusCode) -> StatusCode {
    if live.has_applied(seq, APPLY).await { wanted } else { StatusCode::ACCEPTED }
}

async fn tenant_response(live: &Live, row: &StoredTenantRow, wanted: StatusCode, seq: i64) -> Response {
    let status = in_force(live, seq, wanted).await;
    // Asked after it is in force: what stands in the way of it is known then.
    (status, [(ETAG, tag(row.version))], Json(told(row, &live.now()))).into_response()
}

/// An answer, or the problem in its place.
pub(super) fn answered(id: &RequestId, answer: Result<Response, Error>) -> Response {
    match answer {
        Ok(response) => response,
        Err(Error::Control(ControlError::Refused(faults))) => {
            let told = faults.iter().map(|fault| json!({"path": fault.path, "message": fault.message})).collect();
            problem::extended(id, &Error::Control(ControlError::Refused(faults)), "faults", told)
        }
        Err(error) => problem::plain(id, &error),
    }
}

/// The names in the path, in their order; one that is not UTF-8 is empty, and then unknown.
pub(super) fn names<const N: usize>(path: &RawPathParams) -> [String; N] {
    let mut values = path.iter().map(|(_, value)| value.to_owned());
    std::array::from_fn(|_| values.next().unwrap_or_default())
}

/// Reads a body of JSON; an empty one is an empty object.
pub(super) async fn json_body<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Error> {
    let limits = ServerConfig { max_request_bytes: MAX_BODY, ..ServerConfig::default() };
    let bytes = body::read(headers, body, &limits, Deadline::after(BODY)).await?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| Error::Invalid(format!("the body: {error}")))
}

fn told(row: &StoredTenantRow, broker: &Broker) -> Value {
    let mut told = serde_json::to_value(row).expect("is plain data");
    told["suspended"] = json!(row.suspended_at.is_some());
    let standing = standing(broker.directory.trouble(&row.name).as_ref());
    if let (Value::Object(told), Value::Object(standing)) = (&mut told, standing) {
        told.extend(standing);
    }
    told
}

/// Whether a tenant is in force here as it is stored, and why not.
fn standing(trouble: Option<&Trouble>) -> Value {
    let Some(trouble) = trouble else { return json!({"in_force": "as_stored"}) };
    if trouble.is_shadowed() {
        return json!({"in_force": "from_file"});
    }
    let faults: Vec<Value> =
        trouble.faults.iter().map(|fault| json!({"path": fault.path, "message": fault.message})).collect();
    json!({"in_force": if trouble.is_in_force { "in_part" } else { "no" }, "faults": faults})
}

fn tag(version: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits are header text")
}

/// The versions that the caller takes; `None`: any. Source: RFC 9110 section 13.1.1.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<i64>>, Error> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = |tag: &str| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    let versions: Option<Vec<i64>> = text.split(',').map(version).collect();
    versions
        .map(Some)
        .ok_or_else(|| Error::Invalid(format!("If-Match: `{text}` is no ETag of a tenant, such as \"12\"")))
}

fn page(query: &str) -> Result<(String, i64), Error> {
    let (mut after, mut limit) = (String::new(), PAGE);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("cursor", text) => {
                let name = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                after = name.ok_or_else(|| Error::Invalid("`cursor` is not one that a list has given".to_owned()))?;
            }
            ("limit", text) => {
                let number = text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                limit = number.ok_or_else(|| Error::Invalid(format!("`limit` is a number from 1 to {MAX_PAGE}")))?;
            }
            (name, _) => {
                return Err(Error::Invalid(format!("there is no parameter `{name}`; there are cursor and limit")));
            }
        }
    }
    Ok((after, limit))
}
