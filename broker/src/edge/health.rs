//! Is the process alive, and can it serve?

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::base::Deadline;
use crate::broker::Broker;

/// How long a backend may take to lend a connection and still count as there. Load balancers ask every few seconds.
const PATIENCE: Duration = Duration::from_millis(800);

/// The process answers. Restart it if this fails.
#[utoipa::path(get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = 200, description = "Alive", body = serde_json::Value)))]
pub async fn alive() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// The broker can serve. Send no traffic while this fails.
#[utoipa::path(get, path = "/readyz", tag = "operations", operation_id = "readyz", responses(
    (status = 200, description = "At least one backend is reachable, or none is configured", body = serde_json::Value),
    (status = 503, description = "Draining, or no backend is reachable", body = serde_json::Value)))]
pub async fn ready(State(broker): State<Arc<Broker>>) -> Response {
    if broker.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "draining"}))).into_response();
    }
    let deadline = Deadline::after(PATIENCE);
    let configured = broker.databases.len() + broker.caches.len();
    let databases = broker.databases.values().map(|database| async move { database.is_reachable(deadline).await });
    let caches = broker.caches.values().map(|cache| async move { cache.ping(deadline).await.is_ok() });
    let (databases, caches) =
        tokio::join!(futures_util::future::join_all(databases), futures_util::future::join_all(caches));
    if configured == 0 || databases.into_iter().chain(caches).any(|reachable| reachable) {
        Json(json!({"status": "ready"})).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "no backend is reachable"}))).into_response()
    }
}
