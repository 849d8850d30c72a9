//! A body as it arrives, chunk by chunk.

use bytes::Bytes;

use crate::client::{Begun, Origin, classify};
use crate::error::{Error, Reason};
use crate::retry::{self, Instant};

/// The body of an answer that has begun. It holds no more than the chunk it gives; the network holds back the rest.
///
/// Dropping it closes the request, and the broker cancels what it runs.
pub(crate) struct Chunks {
    body: Option<Body>,
    origin: Origin,
    /// Until when the answer has to begin; `None` once it has.
    until: Option<Instant>,
}

impl Chunks {
    pub(crate) fn new(begun: Begun) -> Self {
        let Begun { response, origin, until } = begun;
        Self { body: Some(Body::new(response)), origin, until: Some(until) }
    }

    /// The answer has begun: from here on the caller decides how long it takes.
    pub(crate) fn lift_deadline(&mut self) {
        self.until = None;
    }

    /// The next chunk; `None` after the last one, after an error, and after [`close`](Self::close).
    ///
    /// Cancel safety: a chunk is either given or still to come.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let next = self.body.as_mut()?.next();
        let chunk = match self.until {
            Some(until) => retry::by(until, next).await.unwrap_or(Err(Reason::Timeout(None))),
            None => next.await,
        };
        match chunk {
            Ok(Some(chunk)) => Some(Ok(chunk)),
            Ok(None) => {
                self.close();
                None
            }
            Err(reason) => Some(Err(self.fail(reason))),
        }
    }

    /// A fault that ends the stream.
    pub(crate) fn fail(&mut self, reason: Reason) -> Error {
        self.close();
        self.origin.error(reason)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.body.is_none()
    }

    fn close(&mut self) {
        self.body = None;
    }

    pub(crate) fn request_id(&self) -> Option<&str> {
        self.origin.request_id.as_deref()
    }
}

#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
struct Body(reqwest::Response);

#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
impl Body {
    fn new(response: reqwest::Response) -> Self {
        Self(response)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Reason> {
        let chunk = self.0.chunk().await.map_err(classify)?;
        // Where only the end of the connection ends the body, nobody can tell a whole one from a cut one.
        if chunk.is_none() && !self.tells_its_end() { Err(Reason::Cut) } else { Ok(chunk) }
    }

    fn tells_its_end(&self) -> bool {
        use reqwest::Version;
        use reqwest::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
        let headers = self.0.headers();
        self.0.version() > Version::HTTP_11
            || headers.contains_key(CONTENT_LENGTH)
            || headers.contains_key(TRANSFER_ENCODING)
    }
}

/// The host reports a cut body as an error.
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
struct Body(std::pin::Pin<Box<dyn futures_core::Stream<Item = Result<Bytes, reqwest::Error>>>>);

#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
impl Body {
    fn new(response: reqwest::Response) -> Self {
        Self(Box::pin(response.bytes_stream()))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Reason> {
        std::future::poll_fn(|context| self.0.as_mut().poll_next(context)).await.transpose().map_err(classify)
    }
}
