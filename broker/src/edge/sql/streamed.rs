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
use crate::edge::problem;
use crate::encode::LineFormat;
use crate::observe::RouteMetrics;
use crate::query::{Piece, Stream};

/// The body of a streamed answer.
struct Pieces {
    left: mpsc::Receiver<Piece>,
    /// Failures are lines of their own.
    tells_failures: bool,
    request_id: RequestId,
    metrics: RouteMetrics,
    is_over: bool,
}

/// The answer for a stream that has begun. `format` is `None` for the data of a COPY.
pub fn response(
    stream: Stream,
    format: Option<LineFormat>,
    content_type: &'static str,
    request_id: &RequestId,
    metrics: &RouteMetrics,
) -> Response {
    let body = Pieces {
        left: stream.pieces,
        tells_failures: format == Some(LineFormat::Ndjson),
        request_id: request_id.clone(),
        metrics: metrics.clone(),
        is_over: false,
    };
    ([(CONTENT_TYPE, content_type)], Body::new(body)).into_response()
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
            Some(Piece::End) => Poll::Ready(None),
            Some(Piece::Failed(failure)) => {
                let line = problem::streamed(&self.request_id, &failure.into(), &self.metrics);
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
