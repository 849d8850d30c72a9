//! A request's body that must keep coming.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a body must bring a second, on average, once its timeout has passed: the slowest modem does. Unit: bytes.
const BYTES_A_SECOND: u64 = 1024;

/// The body came too slowly.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the request body came too slowly")]
pub struct TooSlow {
    /// How long it was waited for.
    pub waited: Duration,
}

impl TooSlow {
    /// Finds it in the error of a body.
    pub fn of(error: &axum::Error) -> Option<Self> {
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(*found);
            }
            cause = error.source();
        }
        None
    }
}

/// A body that fails with [`TooSlow`] when nothing comes for `timeout`, or too little after it.
pub struct Paced {
    body: Body,
    timeout: Duration,
    seen: u64,
    /// Begins when something is waited for: a small body has come with its head.
    waiting: Option<Pin<Box<Waiting>>>,
    failed: Option<TooSlow>,
}

struct Waiting {
    begun: Instant,
    last: Instant,
    until: Pin<Box<Sleep>>,
}

impl Paced {
    /// Watches over a body.
    pub fn new(body: Body, timeout: Duration) -> Self {
        Self { body, timeout, seen: 0, waiting: None, failed: None }
    }

    /// By when more must have come.
    fn due(&self, waiting: &Waiting) -> Instant {
        let paid = Duration::from_secs(self.seen / BYTES_A_SECOND);
        (waiting.last + self.timeout).min(waiting.begun + self.timeout.max(paid))
    }

    /// Ready when it has been waited long enough.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let mut waiting = self.waiting.take().unwrap_or_else(|| {
            let now = Instant::now();
            Box::pin(Waiting { begun: now, last: now, until: Box::pin(sleep_until(now + self.timeout)) })
        });
        let polled = loop {
            if waiting.until.as_mut().poll(cx).is_pending() {
                break Poll::Pending;
            }
            let (due, now) = (self.due(&waiting), Instant::now());
            if due <= now {
                break Poll::Ready(TooSlow { waited: now - waiting.begun });
            }
            waiting.until.as_mut().reset(due);
        };
        self.waiting = Some(waiting);
        polled
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(failed) = self.failed {
            return Poll::Ready(Some(Err(axum::Error::new(failed))));
        }
        if let Poll::Ready(ready) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(Ok(frame)) = &ready {
                self.seen += frame.data_ref().map_or(0, Bytes::len) as u64;
                if let Some(waiting) = &mut self.waiting {
                    waiting.last = Instant::now();
                }
            }
            return Poll::Ready(ready);
        }
        self.poll_waiting(cx).map(|failed| {
            self.failed = Some(failed);
            Some(Err(axum::Error::new(failed)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// What is made of a body that brings so many bytes after each pause.
    async fn collected(bytes: usize, pause: Duration, pieces: usize) -> Result<usize, Duration> {
        let pieces = stream::unfold(0, move |n| async move {
            sleep(pause).await;
            (n < pieces).then(|| (Ok::<_, std::io::Error>(Bytes::from(vec![0; bytes])), n + 1))
        });
        let read = Paced::new(Body::from_stream(pieces), TIMEOUT).collect().await;
        read.map(|whole| whole.to_bytes().len()).map_err(|error| TooSlow::of(&error).expect("is too slow").waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_bring_something_and_then_enough() {
        assert_eq!(collected(1, Duration::from_secs(9), 1).await, Err(TIMEOUT), "its end is waited for too");
        assert_eq!(collected(1, Duration::from_secs(4), 1).await, Ok(1));
        assert_eq!(collected(1, Duration::from_secs(11), 1).await, Err(TIMEOUT));
        assert_eq!(collected(100, Duration::from_secs(1), 100).await, Err(TIMEOUT), "it trickles");
        assert_eq!(collected(1200, Duration::from_secs(1), 100).await, Ok(120_000));
        let waited = collected(20_000, Duration::from_secs(11), 9).await;
        assert_eq!(waited, Err(TIMEOUT), "nothing for so long, whatever the average");
    }
}
