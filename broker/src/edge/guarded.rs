//! A response body that keeps something until it has been sent, or its reader has gone.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// A body and what it keeps.
pub struct Guarded<G, B = Body> {
    body: B,
    /// Compression asks once more after the end, which a body made of a plain stream answers with a panic.
    ended: bool,
    guard: G,
    /// Told how many bytes leave.
    sent: fn(&mut G, usize),
}

/// Keeps `guard` until the response's body has been sent: a request is in flight for as long as its answer is.
pub fn with<G>(response: Response, guard: G) -> Response<Guarded<G>> {
    response.map(|body| Guarded { body, ended: false, guard, sent: |_, _| {} })
}

/// The same, for what goes on as any other response.
pub fn until_sent<G: Send + Unpin + 'static>(response: Response, guard: G) -> Response {
    with(response, guard).map(Body::new)
}

/// The same, and tells the guard of each piece how many bytes it has.
pub fn until_sent_counted<G, B>(response: Response<B>, guard: G, sent: fn(&mut G, usize)) -> Response
where
    G: Send + Unpin + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    response.map(|body| Body::new(Guarded { body, ended: false, guard, sent }))
}

/// Marks a response that goes on until its reader leaves or the broker drains.
#[derive(Clone, Copy)]
struct Stream;

/// Says that the response goes on until its reader leaves or the broker drains: a drain does not wait for its end.
pub fn mark_stream(response: &mut Response) {
    response.extensions_mut().insert(Stream);
}

/// True for a response marked by [`mark_stream`].
pub fn is_stream(response: &Response) -> bool {
    response.extensions().get::<Stream>().is_some()
}

impl<G: Unpin, B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin> HttpBody for Guarded<G, B> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.ended = matches!(polled, Poll::Ready(None));
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let (sent, bytes) = (self.sent, data.len());
            sent(&mut self.guard, bytes);
        }
        polled.map_err(axum::Error::new)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn the_guard_goes_with_the_body_and_not_before() {
        let guard = Arc::new(());
        let response = until_sent("text".into_response(), Arc::clone(&guard));
        assert_eq!(Arc::strong_count(&guard), 2);
        assert_eq!(response.body().size_hint().exact(), Some(4), "the length is still known");
        let whole = response.into_body().collect().await.expect("a body in memory").to_bytes();
        assert_eq!(whole, "text");
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
