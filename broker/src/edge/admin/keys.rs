//! Keys of stored tenants, for operators. A secret stands in one answer and nowhere else.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawPathParams, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::tenants::{answered, in_force, json_body, names, reads, writes};
use crate::base::RequestId;
use crate::broker::Live;
use crate::config::units::{duration, parse_duration};
use crate::control::{ControlError, KeyWish, MadeKey, StoredKeyRow, Written};

/// A day: long enough for a deploy of everything that has the key.
const OVERLAP: Duration = Duration::from_hours(24);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyBody {
    #[serde(default = "all")]
    scopes: Vec<String>,
    #[serde(default)]
    statements: Option<Vec<String>>,
    #[serde(default)]
    not_before: Option<Timestamp>,
    #[serde(default, deserialize_with = "duration::deserialize_some")]
    expires_in: Option<Duration>,
}

fn all() -> Vec<String> {
    ["sql:read", "sql:write", "redis"].map(str::to_owned).into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    #[serde(default)]
    overlap: Option<String>,
    #[serde(default, deserialize_with = "duration::deserialize_some")]
    expires_in: Option<Duration>,
}

/// Every key of a tenant, those that are revoked too; without their secrets, which nobody has. When
/// they were last used is what brokers have written: it may be a minute old.
pub async fn list(State(live): State<Live>, Extension(id): Extension<RequestId>, path: RawPathParams) -> Response {
    let [tenant] = names(&path);
    let listed = async {
        let keys = reads(&live.now(), async |store| store.keys(&tenant).await).await?;
        Ok(Json(json!({ "keys": keys })).into_response())
    };
    answered(&id, listed.await)
}

/// One key.
pub async fn show(State(live): State<Live>, Extension(id): Extension<RequestId>, path: RawPathParams) -> Response {
    let [tenant, key] = names(&path);
    let shown = async {
        let keys = reads(&live.now(), async |store| store.keys(&tenant).await).await?;
        let found = keys.into_iter().find(|row| row.id == key);
        let unknown = || ControlError::UnknownKey { tenant: tenant.clone(), id: key.clone(), like: Vec::new() };
        Ok(Json(found.ok_or_else(unknown)?).into_response())
    };
    answered(&id, shown.await)
}

/// Makes a key.
pub async fn create(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    path: RawPathParams,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let [tenant] = names(&path);
    let created = async {
        let NewKeyBody { scopes, statements, not_before, expires_in } = json_body(&headers, body).await?;
        let wish = KeyWish { scopes, statements, not_before, expires_in };
        let broker = live.now();
        let made = writes(&broker, async |store| store.create_key(&tenant, &wish, &broker.known).await).await?;
        Ok(handed_out(&live, &made).await)
    };
    answered(&id, created.await)
}

/// Makes a key in another's place; the old one goes on for a while.
pub async fn rotate(
    State(live): State<Live>,
    Extension(id): Extension<RequestId>,
    path: RawPathParams,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let [tenant, key] = names(&path);
    let rotated = async {
        let RotateBody { overlap, expires_in } = json_body(&headers, body).await?;
        let overlap = overlap.as_deref().map(parse_duration).transpose().map_err(crate::edge::Error::Invalid)?;
        let overlap = overlap.unwrap_or(OVERLAP);
        let made =
            writes(&live.now(), async |store| store.rotate_key(&tenant, &key, overlap, expires_in).await).await?;
        Ok(handed_out(&live, &made).await)
    };
    answered(&id, rotated.await)
}

/// Refuses a key from now on; as often as one likes.
pub async fn revoke(State(live): State<Live>, Extension(id): Extension<RequestId>, path: RawPathParams) -> Response {
    let [tenant, key] = names(&path);
    let revoked = async {
        let written: Written<StoredKeyRow> =
            writes(&live.now(), async |store| store.revoke_key(&tenant, &key).await).await?;
        Ok(in_force(&live, written.seq, StatusCode::NO_CONTENT).await.into_response())
    };
    answered(&id, revoked.await)
}

async fn handed_out(live: &Live, made: &Written<MadeKey>) -> Response {
    let status = in_force(live, made.seq, StatusCode::CREATED).await;
    let mut told: Value = serde_json::to_value(&made.stored.row).expect("is plain data");
    told["key"] = json!(made.stored.new.token());
    if let Some(old) = &made.stored.old {
        told["replaced"] = json!({"id": old.id, "expires": old.expires});
    }
    (status, [(CACHE_CONTROL, "no-store")], Json(told)).into_response()
}
