//! A stream as a response: its pieces as the body, and its failure as the last line, or as a body that breaks off.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::base::RequestId;
use crate::edge::{Call, problem};
use crate::encode::LineFormat;
use crate::observe::RouteMetrics;
use crate::observe::audit::Entry;
use crate::query::{Piece, Stream};

/// The body of a streamed answer.
struct Pieces {
    left: mpsc::Receiver<Piece>,
    /// Failures are lines of their own.
    tells_failures: bool,
    request_id: RequestId,
    metrics: RouteMetrics,
    is_over: bool,
    /// The audit log's, which ends with the stream: a reader that leaves cancels it.
    entry: Option<Entry>,
}

/// The answer for a stream that has begun. `format` is `None` for the data of a COPY.
pub fn response(
    stream: Stream,
    format: Option<LineFormat>,
    content_type: &'static str,
    call: &mut Call,
    metrics: &RouteMetrics,
) -> Response {
    let body = Pieces {
        left: stream.pieces,
        tells_failures: format == Some(LineFormat::Ndjson),
        request_id: call.request_id.clone(),
        metrics: metrics.clone(),
        is_over: false,
        entry: call.take_entry(),
    };
    ([(CONTENT_TYPE, content_type)], Body::new(body)).into_response()
}

impl Pieces {
    fn ended(&mut self, outcome: &'static str) {
        if let Some(entry) = self.entry.take() {
            entry.finish(outcome);
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let part = ready!(self.left.poll_recv(cx));
        if let Some(Piece::Data(data)) = part {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.is_over = true;
        match part {
            Some(Piece::End) => {
                self.ended("ok");
                Poll::Ready(None)
            }
            Some(Piece::Failed(failure)) => {
                let error = failure.into();
                self.ended(problem::code_name(problem::facts(&error).code));
                let line = problem::streamed(&self.request_id, &error, &self.metrics);
                if self.tells_failures {
                    return Poll::Ready(Some(Ok(Frame::data(line))));
                }
                // CSV has no place for it: a body that ends in order would look whole.
                Poll::Ready(Some(Err(axum::Error::new("the stream broke off"))))
            }
            _ => Poll::Ready(Some(Err(axum::Error::new("the stream was cut")))),
        }
    }
}
