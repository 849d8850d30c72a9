//! What surrounds every request, outermost first.
//!
//! 1. `identify`: the request id, so that everything below can log and answer with it.
//! 2. `catch`: a panic in a handler becomes a 500 with that id; the connection lives on.
//! 3. `track`: refuses while draining, else counts the request as in flight until its answer is complete. An event stream,
//!    whose answer never is, counts among the streams instead.
//! 4. `compress`: inside of all these, so that the answer is complete when its compressed form is.

use std::any::Any;
use std::future::ready;
use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::Either;
use http::HeaderValue;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{compress, frequent, routes};
use crate::base::RequestId;
use crate::broker::Live;
use crate::edge::guarded::Guarded;
use crate::edge::{Error, guarded, header, problem};

/// Answers the requests of one listener.
pub trait Site: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request) -> impl Future<Output = Response<Answered>> + Send + use<Self>;
}

/// The body of an answer, which keeps the count of what is in flight until it has been sent.
pub type Answered = Guarded<Option<TaskTrackerToken>>;

/// The data interface, with all four around it. They are one function and no `tower` layers: those would box a future and clone a
/// route each, for every request. Nor are they `async`, which would keep the request, and what it becomes, in each of them at once.
#[derive(Clone)]
pub struct Data {
    /// What every request asks for the broker of its moment.
    pub live: Live,
    /// What is inside.
    pub router: Router,
}

impl Site for Data {
    fn answer(&self, mut request: Request) -> impl Future<Output = Response<Answered>> + Send + use<> {
        let broker = self.live.now();
        let id = identified(&mut request);
        // Before the question whether the broker drains: a request that slipped in between would be cut.
        let in_flight = broker.requests.token();
        if broker.is_draining() && !is_probe(request.uri().path()) {
            let refused = guarded::with(problem::plain(&id, &Error::Draining), None);
            return Either::Left(ready(echoed(refused, &id)));
        }
        let handled = compress::run(request, |request| frequent::answer(&broker, &self.router, request));
        let handled = AssertUnwindSafe(handled).catch_unwind();
        Either::Right(handled.map(move |handled| {
            let response = handled.unwrap_or_else(|panic| panicked(&id, panic.as_ref()));
            let counted = if guarded::is_stream(&response) { broker.streams.token() } else { in_flight };
            echoed(guarded::with(response, Some(counted)), &id)
        }))
    }
}

/// The admin interface has the request id alone: it stays open while the broker drains, and is not counted.
#[derive(Clone)]
pub struct Admin {
    /// What is inside.
    pub router: Router,
}

impl Site for Admin {
    fn answer(&self, mut request: Request) -> impl Future<Output = Response<Answered>> + Send + use<> {
        let id = identified(&mut request);
        routes::routed(&self.router, request).map(move |response| echoed(guarded::with(response, None), &id))
    }
}

fn identified(request: &mut Request) -> RequestId {
    let id = RequestId::from_header(request.headers().get(&header::REQUEST_ID).map(HeaderValue::as_bytes));
    request.extensions_mut().insert(id.clone());
    id
}

fn echoed<B>(mut response: Response<B>, id: &RequestId) -> Response<B> {
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
