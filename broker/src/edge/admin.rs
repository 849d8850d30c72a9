//! The admin interface: metrics and pools, for operators only.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{auth, problem};
use crate::base::RequestId;
use crate::broker::Broker;
use crate::pool::Endpoint;

/// Every metric in the `OpenMetrics` text format.
pub async fn metrics(
    State(broker): State<Arc<Broker>>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
) -> Response {
    if let Err(error) = auth::admin(&broker, &headers) {
        return problem::plain(&request_id, &error.into());
    }
    for database in broker.databases.values() {
        let all: Vec<_> = database.endpoints().iter().map(|endpoint| endpoint.status()).collect();
        let (lent, idle) = (all.iter().map(|s| s.lent).sum(), all.iter().map(|s| s.idle).sum());
        let (max, waiting) = (all.iter().map(|s| s.max).sum(), all.iter().map(|s| s.waiting).sum());
        broker.metrics.set_pool(database.name().as_str(), lent, idle, max, waiting);
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], broker.metrics.text()).into_response()
}

/// Every pool at this moment.
pub async fn pools(
    State(broker): State<Arc<Broker>>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
) -> Response {
    if let Err(error) = auth::admin(&broker, &headers) {
        return problem::plain(&request_id, &error.into());
    }
    let pools: Vec<Value> =
        broker.databases.values().flat_map(|database| database.endpoints().iter().map(pool)).collect();
    Json(json!({ "pools": pools })).into_response()
}

fn pool(endpoint: &Arc<Endpoint>) -> Value {
    let (s, standing) = (endpoint.status(), endpoint.server().standing());
    json!({
        "database": endpoint.backend().as_str(), "endpoint": endpoint.address(), "zone": endpoint.zone(),
        "role": standing.role.as_str(), "state": endpoint.state(), "open": s.open(), "idle": s.idle, "lent": s.lent,
        "lanes": s.lanes, "connecting": s.connecting, "closing": s.cleaning, "limit": s.limit, "max": s.max,
        "waiting": s.waiting, "conserved": endpoint.is_conserved(),
    })
}
