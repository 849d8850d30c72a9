//! A request's body on its way in, which tells the watch when it is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

use super::watch::Watch;

/// The body of a request over HTTP/1.1. Whoever drops it before its end leaves the rest on the connection, where it must never be
/// taken for another request.
pub struct Asked {
    body: Incoming,
    /// None once the end was seen, or where each request has a stream of its own.
    watch: Option<Arc<Watch>>,
}

impl Asked {
    /// Watches over a body.
    pub fn new(body: Incoming, watch: &Arc<Watch>, is_http2: bool) -> Self {
        let is_to_come = !is_http2 && !body.is_end_stream();
        if is_to_come {
            watch.unread(true);
        }
        Self { body, watch: is_to_come.then(|| Arc::clone(watch)) }
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // A body that broke off has no end.
        let is_over = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if is_over && let Some(watch) = self.watch.take() {
            watch.unread(false);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
