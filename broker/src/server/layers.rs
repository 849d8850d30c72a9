//! What surrounds every request, outermost first.
//!
//! 1. `identify`: the request id, so that everything below can log and answer with it.
//! 2. `catch`: a panic in a handler becomes a 500 with that id; the connection lives on.
//! 3. `track`: refuses while draining, else counts the request as in flight until its answer is complete. An event stream,
//!    whose answer never is, counts among the streams instead.
//! 4. `compress`: inside of all these, so that the answer is complete when its compressed form is.

use std::any::Any;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use http::HeaderValue;

use super::compress;
use crate::base::RequestId;
use crate::broker::{Broker, Live};
use crate::edge::{Error, auth, guarded, header, problem};

/// The first three, in one function: each is a few lines, and one boxed future a request is enough.
pub async fn around(State(broker): State<Arc<Broker>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::from_header(request.headers().get(&header::REQUEST_ID).map(HeaderValue::as_bytes));
    request.extensions_mut().insert(id.clone());
    // Before the question whether the broker drains: a request that slipped in between would be cut.
    let in_flight = broker.requests.token();
    let response = if broker.is_draining() && !is_probe(request.uri().path()) {
        problem::plain(&id, &Error::Draining)
    } else {
        let handled = std::panic::AssertUnwindSafe(compress::run(request, next)).catch_unwind().await;
        let response = handled.unwrap_or_else(|panic| panicked(&id, panic.as_ref()));
        let counted = if guarded::is_stream(&response) { broker.streams.token() } else { in_flight };
        guarded::until_sent(response, counted)
    };
    echoed(response, &id)
}

/// The request id alone, for the admin interface: it stays open while the broker drains, and is not counted.
pub async fn identify(mut request: Request, next: Next) -> Response {
    let id = RequestId::from_header(request.headers().get(&header::REQUEST_ID).map(HeaderValue::as_bytes));
    request.extensions_mut().insert(id.clone());
    echoed(next.run(request).await, &id)
}

/// Operators only: everything of the admin interface but the probes.
pub async fn operators(State(live): State<Live>, request: Request, next: Next) -> Response {
    // Not held on: a reload must not wait for the request that asks for it.
    let refused = auth::admin(&live.now(), request.headers()).err();
    match (refused, request.extensions().get::<RequestId>()) {
        (None, _) => next.run(request).await,
        (Some(error), Some(id)) => problem::plain(id, &error.into()),
        (Some(error), None) => problem::plain(&RequestId::from_header(None), &error.into()),
    }
}

fn echoed(mut response: Response, id: &RequestId) -> Response {
    let value = HeaderValue::from_str(id.as_str()).expect("a request id is plain ASCII");
    response.headers_mut().insert(&header::REQUEST_ID, value);
    response
}

/// Load balancers keep asking while the broker drains.
fn is_probe(path: &str) -> bool {
    path == "/healthz" || path == "/readyz"
}

fn panicked(id: &RequestId, panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(request.id = %id, "a handler panicked: {}", text.unwrap_or("no message"));
    problem::plain(id, &Error::Internal)
}
