//! What came back: an answer, the beginning of one, or what stands in its place.

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::de::DeserializeOwned;

use super::call::{Media, REDIS};
use crate::error::{Effect, Error, Reason};
use crate::retry::Instant;
use crate::wire::{Problem, RedisReply, header};

/// What an error has to know of the request it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) request_id: Option<String>,
    pub(crate) effect: Effect,
}

impl Origin {
    /// A fault found in a successful answer.
    pub(crate) fn error(&self, reason: Reason) -> Error {
        Error::new(reason, self.effect).with_request_id(self.request_id.clone())
    }
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Bytes,
    pub(crate) origin: Origin,
}

impl Answer {
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| self.error(Reason::Decode(source)))
    }

    pub(crate) fn request_id(&self) -> Option<&str> {
        self.origin.request_id.as_deref()
    }

    pub(crate) fn error(&self, reason: Reason) -> Error {
        self.origin.error(reason)
    }
}

/// The beginning of a successful answer; its body is still to come.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) response: reqwest::Response,
    pub(crate) origin: Origin,
    /// When the client stops waiting for what belongs to the beginning.
    pub(crate) until: Instant,
}

impl Begun {
    pub(super) async fn whole(self) -> Result<Answer, Error> {
        let Self { response, origin, .. } = self;
        let body = response.bytes().await.map_err(|error| origin.error(classify(error)))?;
        Ok(Answer { body, origin })
    }
}

/// Lets pass what the broker meant as a success; anything else it reads to the end, for the reason.
pub(super) async fn accept(
    response: reqwest::Response,
    surface: &'static str,
    media: Media,
    effect: Effect,
    until: Instant,
) -> Result<Begun, Error> {
    let (status, headers) = (response.status(), response.headers());
    let origin = Origin { request_id: text_of(headers, header::REQUEST_ID), effect };
    let content_type = text_of(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    if status.is_success() && media.fits(&content_type) {
        return Ok(Begun { response, origin, until });
    }
    let retry_after = text_of(headers, RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok());
    let body = response.bytes().await.map_err(|error| origin.error(classify(error)))?;
    Err(origin.error(refusal(surface, status, &body)).with_retry_after(retry_after.map(Duration::from_secs)))
}

/// What kind of failure a missing answer is. A connection that timed out counts as not reached: nothing was sent.
pub(crate) fn classify(error: reqwest::Error) -> Reason {
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    if error.is_connect() {
        return Reason::Connect(error);
    }
    if error.is_timeout() { Reason::Timeout(Some(error)) } else { Reason::Transport(error) }
}

/// What an answer other than success says: a problem, a Redis error, or nothing the broker would send.
fn refusal(surface: &'static str, status: StatusCode, body: &[u8]) -> Reason {
    let status = status.as_u16();
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return Reason::Problem(Box::new(problem));
    }
    // Elsewhere `{"error": …}` is some proxy's, which may have passed the request on: not for us to send again.
    let reply = if surface == REDIS { serde_json::from_slice(body).ok() } else { None };
    match reply {
        Some(RedisReply::<serde::de::IgnoredAny>::Error { error: message }) => {
            Reason::Redis { status: Some(status), message }
        }
        _ => Reason::Foreign { status },
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
