//! Who may use the admin interface, and what the audit log is told of them.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::base::RequestId;
use crate::broker::Live;
use crate::edge::auth::{self, AuthError};
use crate::edge::{Peer, problem};
use crate::observe::Event;
use crate::observe::audit::Entry;

/// Of an operator's path, so much is told.
const MAX_PATH_CHARS: usize = 200;

/// Operators only: everything of the admin interface but the probes.
pub async fn only(State(live): State<Live>, request: Request, next: Next) -> Response {
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
