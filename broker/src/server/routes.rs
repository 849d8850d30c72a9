//! Every route, on one screen.

use std::sync::Arc;

use axum::extract::Request;
use axum::handler::Handler;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use futures_util::FutureExt;
use futures_util::future::Either;
use http::Method;

use super::layers;
use crate::base::{RequestId, Workers};
use crate::broker::{Broker, Live};
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
        .route("/metrics", get(admin::metrics).layer(Extension(Arc::clone(workers))))
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
        .route_layer(middleware::from_fn_with_state(live.clone(), layers::operators))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(live.clone())
}

/// What the data interface answers. Nearly all of its requests are of two kinds, and those go straight to their handlers: on its way
/// to one the router copies the parameters of the path and boxes two futures, which showed in the profile. It knows both too.
pub fn answer(
    broker: &Arc<Broker>,
    router: &Router,
    request: Request,
) -> impl Future<Output = Response> + Send + use<> {
    match frequent(request.method(), request.uri().path()) {
        Some(Frequent::Command) => Either::Left(redis::run_command.call(request, Arc::clone(broker))),
        Some(Frequent::Query) => Either::Left(sql::query::query.call(request, Arc::clone(broker))),
        None => Either::Right(routed(router, request)),
    }
}

enum Frequent {
    Command,
    Query,
}

fn frequent(method: &Method, path: &str) -> Option<Frequent> {
    let is_name = |text: &str| !text.is_empty() && !text.contains('/');
    if *method != Method::POST {
        None
    } else if path.strip_prefix("/v1/redis/").is_some_and(is_name) {
        Some(Frequent::Command)
    } else if path.strip_prefix("/v1/db/").and_then(|rest| rest.strip_suffix("/query")).is_some_and(is_name) {
        Some(Frequent::Query)
    } else {
        None
    }
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::IntoResponse;
    use http::StatusCode;

    use super::*;
    use crate::config::load_text;

    /// What a test may see of an answer: its status and its body.
    async fn seen(response: Response) -> (StatusCode, String) {
        let (parts, body) = response.into_response().into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("is in memory");
        (parts.status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn frequent_requests_are_answered_as_the_router_does() {
        let load = || load_text("", std::iter::empty());
        let live = Live::new(&load().expect("is good"), load).expect("is built");
        let (broker, router) = (live.now(), data(&live));
        let request = |method: &str, path: &str| {
            let mut request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
            request.extensions_mut().insert(RequestId::new("id"));
            request
        };
        for (method, path, is_frequent) in [
            ("POST", "/v1/redis/main", true),
            ("POST", "/v1/redis/main?x=/y", true),
            ("POST", "/v1/redis/a%2Fb", true),
            ("POST", "/v1/redis/", false),
            ("POST", "/v1/redis/main/", false),
            ("POST", "/v1/redis/main/pipeline", false),
            ("POST", "/v1/redis/main/get/query", false),
            ("GET", "/v1/redis/main", false),
            ("POST", "/v1/db/main/query", true),
            ("POST", "/v1/db/query", false),
            ("POST", "/v1/db//query", false),
            ("POST", "/v1/db/a/b/query", false),
            ("POST", "/v1/db/main/query/", false),
            ("GET", "/v1/db/main/query", false),
            ("POST", "/v1/db/main/batch", false),
        ] {
            let asked = request(method, path);
            assert_eq!(frequent(asked.method(), asked.uri().path()).is_some(), is_frequent, "{method} {path}");
            let answered = seen(answer(&broker, &router, request(method, path)).await).await;
            assert_eq!(answered, seen(routed(&router, request(method, path)).await).await, "{method} {path}");
            assert!(!is_frequent || answered.0 == StatusCode::UNAUTHORIZED, "{method} {path}: {answered:?}");
        }
    }
}
