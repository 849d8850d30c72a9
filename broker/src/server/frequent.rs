//! The two kinds that nearly all requests are of, and their way straight to their handlers (decision 0021).
//!
//! On its way to a handler the router copies the parameters of the path and boxes two futures, which showed in the profile. It has both
//! routes too, for whatever is written another way. The answer's `content-length` is left to hyper.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::response::Response;
use futures_util::future::Either;
use http::Method;

use super::routes::routed;
use crate::broker::Broker;
use crate::edge::{redis, sql};

/// What the data interface answers.
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::IntoResponse;
    use http::StatusCode;

    use super::*;
    use crate::base::RequestId;
    use crate::broker::Live;
    use crate::config::load_text;
    use crate::server::routes::data;

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
