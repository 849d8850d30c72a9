//! Every route, on one screen.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use futures_util::FutureExt;

use super::operators;
use crate::base::{RequestId, Workers};
use crate::broker::Live;
use crate::edge::{Error, admin, explain, health, listen, openapi, problem, redis, reload, sql, whoami};

/// The data interface.
pub fn data(live: &Live) -> Router {
    Router::new()
        .route("/v1/db/{database}/query", post(sql::query::query))
        .route("/v1/db/{database}/batch", post(sql::batch::batch))
        .route("/v1/db/{database}/statements/{name}", post(sql::statement::run).get(sql::statement::get))
        .route("/v1/db/{database}/copy", post(sql::copy::copy_in).get(sql::copy::copy_out))
        .route("/v1/db/{database}/listen/{channel}", get(listen::listen))
        .route("/v1/redis/{cache}", post(redis::run_command))
        .route("/v1/redis/{cache}/", post(redis::run_command))
        .route("/v1/redis/{cache}/pipeline", post(redis::run_pipeline))
        .route("/v1/redis/{cache}/multi-exec", post(redis::run_transaction))
        .route(
            "/v1/redis/{cache}/{*command}",
            get(redis::path::run_path).post(redis::path::run_path).put(redis::path::run_path),
        )
        .route("/v1/whoami", get(whoami::whoami))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::document))
        .route("/problems/{code}", get(explain::problem_page))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(live.clone())
}

/// The admin interface, which tells of these workers.
pub fn admin(live: &Live, workers: &Arc<Workers>) -> Router {
    Router::new()
        .route("/metrics", get(admin::metrics).layer(Extension(Arc::downgrade(workers))))
        .route("/admin/v1/pools", get(admin::pools))
        .route("/admin/v1/events", get(admin::events))
        .route("/admin/v1/decisions", get(admin::decisions))
        .route("/admin/v1/keys", get(admin::file_keys))
        .route("/admin/v1/reload", post(reload::reload))
        .route("/admin/v1/databases/{database}/pause", post(admin::pause))
        .route("/admin/v1/databases/{database}/resume", post(admin::resume))
        .route("/admin/v1/databases/{database}/reconnect", post(admin::reconnect))
        .route("/admin/v1/control", get(admin::tenants::control))
        .route("/admin/v1/tenants", get(admin::tenants::list).post(admin::tenants::create))
        .route(
            "/admin/v1/tenants/{tenant}",
            get(admin::tenants::show).patch(admin::tenants::update).delete(admin::tenants::delete),
        )
        .route("/admin/v1/tenants/{tenant}/keys", get(admin::keys::list).post(admin::keys::create))
        .route("/admin/v1/tenants/{tenant}/keys/{key}", get(admin::keys::show).delete(admin::keys::revoke))
        .route("/admin/v1/tenants/{tenant}/keys/{key}/rotate", post(admin::keys::rotate))
        // For all above, and none below.
        .route_layer(middleware::from_fn_with_state(live.clone(), operators::only))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(live.clone())
}

/// What the router answers.
pub fn routed(router: &Router, request: Request) -> impl Future<Output = Response> + Send + use<> {
    tower::Service::call(&mut router.clone(), request).map(|Ok(response)| response)
}

async fn not_found(Extension(id): Extension<RequestId>, request: Request) -> Response {
    problem::plain(&id, &Error::NotFound(request.uri().path().to_owned()))
}

async fn method_not_allowed(Extension(id): Extension<RequestId>, request: Request) -> Response {
    problem::plain(&id, &Error::MethodNotAllowed(request.method().to_string()))
}
