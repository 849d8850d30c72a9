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
        let status = database.status();
        broker.metrics.set_pool(database.name().as_str(), status.lent, status.idle, status.max, status.waiting);
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
    let pools: Vec<Value> = broker
        .databases
        .values()
        .map(|database| {
            let s = database.status();
            json!({"database": database.name().as_str(), "open": s.open, "idle": s.idle, "lent": s.lent, "max": s.max, "waiting": s.waiting})
        })
        .collect();
    Json(json!({ "pools": pools })).into_response()
}
