//! The admin interface: metrics, pools, what happened and what was decided; holding or renewing a pool; tenants and keys of the
//! control database. Who may ask is settled before anything here is reached (`server/operators.rs`).

mod file_keys;
mod history;
pub mod keys;
mod pools;
pub mod tenants;

use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::CONTENT_TYPE;
use serde_json::json;

pub use file_keys::file_keys;
pub use history::{decisions, events};
pub use pools::pools;

use super::call::BackendPath;
use super::error::Error;
use super::problem;
use crate::base::{RequestId, Workers};
use crate::broker::Broker;
use crate::pool::Database;

/// Every metric in the `OpenMetrics` text format. Whoever asks does not keep the workers alive.
pub async fn metrics(State(broker): State<Arc<Broker>>, Extension(workers): Extension<Weak<Workers>>) -> Response {
    for (worker, (connections, busy)) in workers.upgrade().iter().flat_map(|workers| workers.doing()).enumerate() {
        broker.metrics.workers.note(worker, connections, busy);
    }
    for endpoint in broker.databases.values().flat_map(|database| database.endpoints()) {
        endpoint.measure();
    }
    for cache in broker.caches.values() {
        cache.measure();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], broker.metrics_text()).into_response()
}

/// Lends nothing of a database until it is resumed; callers wait, up to their deadlines.
pub async fn pause(broker: State<Arc<Broker>>, id: Extension<RequestId>, path: BackendPath) -> Response {
    control(&broker, &id, &path, Database::pause)
}

/// Lends again.
pub async fn resume(broker: State<Arc<Broker>>, id: Extension<RequestId>, path: BackendPath) -> Response {
    control(&broker, &id, &path, Database::resume)
}

/// Replaces every connection of a database as it comes back.
pub async fn reconnect(broker: State<Arc<Broker>>, id: Extension<RequestId>, path: BackendPath) -> Response {
    control(&broker, &id, &path, Database::reconnect)
}

/// Does it to the database and to each of its shards, and tells how they stand.
fn control(broker: &Broker, id: &RequestId, path: &BackendPath, act: fn(&Database)) -> Response {
    let name = path.0.as_str();
    let is_meant = |known: &str| known == name || known.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    let meant: Vec<_> = broker.databases.values().filter(|database| is_meant(database.name().as_str())).collect();
    if meant.is_empty() {
        return problem::plain(id, &Error::UnknownDatabase(name.to_owned()));
    }
    for database in &meant {
        act(database);
    }
    let told =
        meant.iter().map(|database| json!({"database": database.name().as_str(), "paused": database.is_paused()}));
    Json(json!({ "databases": told.collect::<Vec<_>>() })).into_response()
}
