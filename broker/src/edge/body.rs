//! A request's body, whole: within its limit, before its deadline, coming fast enough, and no longer compressed.

use std::pin::pin;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::encoding::{self, Encoding};
use super::error::Error;
use super::pace::{Paced, TooSlow};
use crate::base::Deadline;
use crate::config::ServerConfig;

/// A body over the limit is still read up to this many times the limit, and thrown away: a client that is cut off while it
/// sends sees a reset connection in place of the answer.
const DRAIN_FACTOR: u64 = 8;

/// Reads a body within the server's limits. Its bytes are counted as they are before or without compression.
pub async fn read(headers: &HeaderMap, body: Body, server: &ServerConfig, deadline: Deadline) -> Result<Bytes, Error> {
    let limit = server.max_request_bytes;
    let body = Paced::new(body, server.body_timeout);
    let told = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let read = async {
        match Encoding::of(headers)? {
            None => collect(body, limit, told).await,
            // Boxed, like all that few requests need: a request's future is moved a few times before it runs.
            Some(encoding) => {
                let drained = limit.saturating_mul(DRAIN_FACTOR);
                Box::pin(encoding::collect(encoding, Body::new(body), limit, drained)).await
            }
        }
    };
    let mut read = pin!(read);
    // A small body has come with its head, and then needs no timer.
    if let Some(read) = read.as_mut().now_or_never() {
        return read;
    }
    let start = Instant::now();
    let read = Box::pin(timeout_at(deadline.at(), read.as_mut())).await;
    read.unwrap_or_else(|_| Err(Error::RequestTimeout { waited: start.elapsed() }))
}

async fn collect(mut body: Paced, limit: u64, told: Option<u64>) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    let mut seen = 0_u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len() as u64;
        // Most bodies are one frame, and then nothing is copied.
        if whole.is_empty() && told == Some(seen) && seen <= limit {
            return Ok(data);
        }
        if seen > limit.saturating_mul(DRAIN_FACTOR) {
            break;
        }
        if seen <= limit {
            whole.extend_from_slice(&data);
        }
    }
    if seen > limit { Err(Error::RequestTooLarge { limit }) } else { Ok(whole.freeze()) }
}

/// A body that did not come to its end.
pub fn broken(error: &axum::Error) -> Error {
    TooSlow::of(error).map_or_else(
        || Error::Invalid(format!("the request body broke off: {error}")),
        |TooSlow { waited }| Error::RequestTimeout { waited },
    )
}
