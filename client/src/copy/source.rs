//! A caller's stream as a request body, and the error it may end in.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use crate::error::{Effect, Error, Reason};

/// The body, and where its stream's error will be found: HTTP/2 passes on no more than that there was one.
pub(super) fn body<S, B, E>(chunks: S) -> (reqwest::Body, Failure)
where
    S: Stream<Item = Result<B, E>> + Send + 'static,
    B: Into<Bytes> + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    let failure = Failure::default();
    let watched = Watched { chunks: Box::pin(chunks), failure: failure.clone() };
    (reqwest::Body::wrap_stream(watched), failure)
}

/// The error of the caller's stream, once there is one.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<Box<dyn StdError + Send + Sync>>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<Error> {
        let source = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Error::new(Reason::Upload(source), Effect::AllOrNothing))
    }

    fn put(&self, error: Box<dyn StdError + Send + Sync>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

struct Watched<S> {
    chunks: Pin<Box<S>>,
    failure: Failure,
}

impl<S, B, E> Stream for Watched<S>
where
    S: Stream<Item = Result<B, E>>,
    B: Into<Bytes>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    type Item = Result<Bytes, &'static str>;

    /// An error closes the connection, or resets the HTTP/2 stream, in place of the body's end: the broker sees the cut.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.chunks.as_mut().poll_next(context);
        next.map(|chunk| {
            Some(chunk?.map(Into::into).map_err(|error| {
                self.failure.put(error.into());
                "the source of the upload failed"
            }))
        })
    }
}
