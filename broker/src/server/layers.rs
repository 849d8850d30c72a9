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
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::Either;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{compress, frequent, routes};
use crate::base::RequestId;
use crate::broker::Live;
use crate::edge::auth::{self, AuthError};
use crate::edge::guarded::Guarded;
use crate::edge::{Error, Peer, guarded, header, problem};
use crate::observe::Event;
use crate::observe::audit::Entry;

/// Of an operator's path, so much is told.
const MAX_PATH_CHARS: usize = 200;

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

/// Operators only: everything of the admin interface but the probes.
pub async fn operators(State(live): State<Live>, request: Request, next: Next) -> Response {
    // Not held on: a reload must not wait for the request that asks for it.
    let refused = {
        let peer = request.extensions().get::<Peer>();
        auth::admin(&live.now(), request.headers(), peer, Instant::now()).err()
    };
    let told = operation(&live, &request, refused.as_ref());
    let response = match (refused, request.extensions().get::<RequestId>()) {
        (None, _) => next.run(request).await,
        (Some(error), Some(id)) => problem::plain(id, &error.into()),
        (Some(error), None) => problem::plain(&RequestId::from_header(None), &error.into()),
    };
    if let Some(entry) = told {
        let status = response.status();
        let refused = if status == StatusCode::UNAUTHORIZED { "unauthenticated" } else { "refused" };
        let outcome = if status.is_server_error() { "failed" } else { refused };
        entry.finish(if status.is_success() { "ok" } else { outcome });
    }
    response
}

/// What an operator does, and who tries to be one, stands in the audit log; what an operator looks at does not.
fn operation(live: &Live, request: &Request, refused: Option<&AuthError>) -> Option<Entry> {
    let is_told = match refused {
        None => request.method() != Method::GET,
        // The block was told when it began.
        Some(error) => error.reason().is_some(),
    };
    let audit = live.now().audit.clone().filter(|_| is_told)?;
    let mut event = Event::new("admin");
    event.request_id = request.extensions().get::<RequestId>().cloned();
    event.address = request.extensions().get::<Peer>().map(|peer| peer.address);
    event.path = Some(request.uri().path().chars().take(MAX_PATH_CHARS).collect());
    event.reason = refused.and_then(AuthError::reason);
    Some(audit.begin(event, Instant::now()))
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
