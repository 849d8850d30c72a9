//! A caller's stream as a request body, the error it may end in, and its end when the request ends first.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;

use crate::error::{Effect, Error, Reason};

/// The body, and the caller's end of it.
pub(super) fn body<S, B, E>(chunks: S) -> (reqwest::Body, Leash)
where
    S: Stream<Item = Result<B, E>> + Send + 'static,
    B: Into<Bytes> + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    let shared = Shared::default();
    let body = reqwest::Body::wrap_stream(Leashed { chunks: Box::pin(chunks), shared: shared.clone() });
    (body, Leash(shared))
}

/// Held while the request runs. Dropping it ends a body that is still being read: after a refusal, or a dropped future,
/// HTTP/1.1 would go on with it in the background, and load what nobody waits for.
pub(super) struct Leash(Shared);

impl Leash {
    /// The error of the caller's stream, if it ended in one: HTTP/2 passes on no more than that there was one.
    pub(super) fn failure(&self) -> Option<Error> {
        let source = self.0.lock().failure.take()?;
        Some(Error::new(Reason::Upload(source), Effect::AllOrNothing))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    failure: Option<Box<dyn StdError + Send + Sync>>,
    is_over: bool,
    /// Who reads the body.
    waker: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Leashed<S> {
    chunks: Pin<Box<S>>,
    shared: Shared,
}

impl<S, B, E> Stream for Leashed<S>
where
    S: Stream<Item = Result<B, E>>,
    B: Into<Bytes>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    type Item = Result<Bytes, &'static str>;

    /// An error closes the connection, or resets the HTTP/2 stream, in place of the body's end: the broker sees the cut.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if state.is_over {
            return Poll::Ready(Some(Err("the upload is over")));
        }
        state.waker = Some(context.waker().clone());
        drop(state);
        let next = self.chunks.as_mut().poll_next(context);
        next.map(|chunk| {
            Some(chunk?.map(Into::into).map_err(|error| {
                self.shared.lock().failure = Some(error.into());
                "the source of the upload failed"
            }))
        })
    }
}
