//! An answer's body on its way out, which tells the watch how its reader does.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::layers::Answered;
use super::watch::Going;

/// HTTP/2 takes a piece whole, whatever room its reader has left: so much at most is then out of the tenant's count. Unit: bytes.
const PIECE: usize = 64 * 1024;

/// The body and the request it belongs to.
pub struct Answer<B = Answered> {
    body: B,
    /// What was made and not taken yet, over HTTP/2.
    rest: Bytes,
    going: Going,
    in_pieces: bool,
}

impl<B: HttpBody<Data = Bytes, Error = axum::Error> + Unpin> Answer<B> {
    /// The answer to a request. `in_pieces`: over HTTP/2, where each stream has a reader of its own. Over HTTP/1.1 the
    /// socket tells.
    pub fn new(body: B, mut going: Going, in_pieces: bool) -> Self {
        going.held_back(in_pieces && !body.is_end_stream());
        Self { body, rest: Bytes::new(), going, in_pieces }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let mut frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) if self.in_pieces => frame,
                other => return Poll::Ready(other),
            };
            match frame.data_mut() {
                Some(data) if data.len() > PIECE => self.rest = std::mem::take(data),
                _ => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: HttpBody<Data = Bytes, Error = axum::Error> + Unpin> HttpBody for Answer<B> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = self.next(cx);
        let is_over = matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.is_end_stream();
        if self.in_pieces {
            self.going.held_back(polled.is_ready() && !is_over);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use http_body_util::BodyExt;
    use tokio::time::Instant;

    use super::*;
    use crate::server::watch::{Patience, Reason, Watch};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_leaves_in_pieces_and_is_its_readers_to_take() {
        let watch = Watch::new(Patience { header: SECOND, idle: 9 * SECOND, reader: SECOND });
        watch.begin();
        let whole: Vec<u8> = (0..3 * PIECE + 5).map(|n| u8::try_from(n % 251).expect("is small")).collect();
        let mut answer = Answer::new(Body::from(whole.clone()), watch.request(true), true);
        let mut taken = Vec::new();
        while let Some(frame) = answer.frame().await {
            let data = frame.expect("is in memory").into_data().expect("is data");
            assert!(data.len() <= PIECE);
            taken.extend_from_slice(&data);
            let left = (whole.len() - taken.len()) as u64;
            assert_eq!(answer.size_hint().exact(), Some(left));
            if left > 0 {
                tokio::time::advance(SECOND).await;
                assert_eq!(watch.due(), Some((Instant::now(), Reason::Reader)), "{left} left");
            }
        }
        assert_eq!(taken, whole);
        assert_eq!(watch.due(), None, "nothing is left to take");
    }
}
