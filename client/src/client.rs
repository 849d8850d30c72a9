//! The client: where the broker is, who asks, and one request with its retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Request, StatusCode, Url};

use crate::error::{Effect, Error, Reason};
use crate::query::Database;
use crate::redis::Redis;
use crate::retry::{self, Instant, Schedule};
use crate::wire::{Problem, RedisReply, header};

mod builder;
pub use builder::ClientBuilder;

/// How much longer than the broker the client waits: the broker's answer at the deadline says what became of the
/// statement, a timeout here cannot.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// What may stand in a path segment as it is (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The two surfaces this crate speaks to, as they stand in the path.
pub(crate) const SQL: &str = "db";
pub(crate) const REDIS: &str = "redis";

/// A connection to a Hearth broker.
///
/// Build it once and clone it freely: clones share the connections. Natively a call needs a tokio runtime with time and
/// I/O enabled.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
}

struct Shared {
    http: reqwest::Client,
    /// Without a slash at the end.
    base_url: String,
    authorization: HeaderValue,
    timeout: Duration,
    max_retries: u32,
}

impl Client {
    /// Builds a client from `HEARTH_URL` and `HEARTH_KEY`.
    ///
    /// Errors: one of the two is missing or unusable; the message says what to set.
    pub fn from_env() -> Result<Self, Error> {
        ClientBuilder::from_env()?.build()
    }

    /// Builds a client for the broker at `url` (`https://hearth.example.com`), with the API key or JWT `key`.
    pub fn new(url: &str, key: &str) -> Result<Self, Error> {
        ClientBuilder::new(url, key).build()
    }

    /// A client whose calls all end within `timeout` from now.
    ///
    /// In a function, pass the invocation's remaining time less what the function itself needs to answer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with_deadline(Instant::now() + timeout.min(builder::LONGEST_TIMEOUT))
    }

    /// A client whose calls all end by `deadline`, or by an earlier one this client already has.
    ///
    /// Each request tells the broker what is left of it; retries stay inside. An answer the broker gives at the deadline
    /// itself is still waited for, at most a quarter of a second.
    #[must_use]
    pub fn with_deadline(&self, deadline: impl Into<Instant>) -> Self {
        let deadline = deadline.into();
        let deadline = self.deadline.map_or(deadline, |earlier| earlier.min(deadline));
        Self { shared: Arc::clone(&self.shared), deadline: Some(deadline) }
    }

    /// The PostgreSQL database the broker knows as `name`.
    pub fn db(&self, name: &str) -> Database {
        Database::new(self.clone(), name)
    }

    /// The Redis cache the broker knows as `name`.
    pub fn redis(&self, name: &str) -> Redis {
        Redis::new(self.clone(), name)
    }

    /// Sends one request, trying again where that is safe, until the deadline.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let longest = Instant::now() + self.shared.timeout;
        let deadline = self.deadline.map_or(longest, |own| own.min(longest));
        let (surface, effect) = (call.surface, call.effect);
        let request = self.request(call)?;
        let mut schedule = Schedule::new(self.shared.max_retries, retry::rng());
        let mut last_error = None;
        loop {
            let left = retry::left_until(deadline);
            if left < Duration::from_millis(1) {
                return Err(last_error.unwrap_or_else(|| Error::new(Reason::Deadline, effect)));
            }
            let error = match self.exchange(&request, left, surface, effect).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retried() => error,
                Err(error) => return Err(error),
            };
            match schedule.next_pause(error.retry_after(), retry::left_until(deadline)) {
                Some(pause) => retry::sleep(pause).await,
                None => return Err(error),
            }
            last_error = Some(error);
        }
    }

    /// One try: the request out, the whole answer in.
    async fn exchange(
        &self,
        request: &Request,
        left: Duration,
        surface: &'static str,
        effect: Effect,
    ) -> Result<Answer, Error> {
        let mut request = request.try_clone().expect("the body is bytes, never a stream");
        let left_ms = u64::try_from(left.as_millis()).expect("no timeout is longer than LONGEST_TIMEOUT");
        request.headers_mut().insert(HeaderName::from_static(header::TIMEOUT_MS), left_ms.into());
        *request.timeout_mut() = Some(left + ANSWER_GRACE);
        let failed = |error: reqwest::Error| Error::new(classify(error), effect);

        let response = self.shared.http.execute(request).await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let request_id = text_of(&headers, header::REQUEST_ID);
        let body = response.bytes().await.map_err(|error| failed(error).with_request_id(request_id.clone()))?;
        if status.is_success() && is_json(&headers) {
            return Ok(Answer { body: body.into(), request_id, effect });
        }
        let retry_after = text_of(&headers, RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok());
        Err(Error::new(refusal(surface, status, &body), effect)
            .with_request_id(request_id)
            .with_retry_after(retry_after.map(Duration::from_secs)))
    }

    fn request(&self, call: Call) -> Result<Request, Error> {
        let Call { surface, name, tail, body, effect, headers } = call;
        if matches!(name.as_str(), "" | "." | "..") {
            let message =
                format!("`{name}` is no name for a database or cache; use one that the broker's config lists");
            return Err(Error::new(Reason::Request(message), effect));
        }
        let name = utf8_percent_encode(&name, UNRESERVED);
        let url = format!("{}/v1/{surface}/{name}{tail}", self.shared.base_url);
        let url = Url::parse(&url).expect("a URL that parsed, plus percent-encoded segments, is a URL");
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        request.headers_mut().insert(AUTHORIZATION, self.shared.authorization.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        Ok(request)
    }
}

/// Everything but the key, which nobody needs to see.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.shared.base_url)
            .field("timeout", &self.shared.timeout)
            .field("max_retries", &self.shared.max_retries)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// A request as the layers above state it: `POST /v1/{surface}/{name}{tail}`.
pub(crate) struct Call {
    pub(crate) surface: &'static str,
    pub(crate) name: String,
    pub(crate) tail: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) effect: Effect,
    pub(crate) headers: HeaderMap,
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Vec<u8>,
    request_id: Option<String>,
    effect: Effect,
}

impl Answer {
    pub(crate) fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| self.error(Reason::Decode(source)))
    }

    pub(crate) fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// A fault found in a successful answer.
    pub(crate) fn error(&self, reason: Reason) -> Error {
        Error::new(reason, self.effect).with_request_id(self.request_id.clone())
    }
}

/// What kind of failure a missing answer is. A connection that timed out counts as not reached: nothing was sent.
fn classify(error: reqwest::Error) -> Reason {
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    if error.is_connect() {
        return Reason::Connect(error);
    }
    if error.is_timeout() { Reason::Timeout(error) } else { Reason::Transport(error) }
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

fn is_json(headers: &HeaderMap) -> bool {
    text_of(headers, CONTENT_TYPE.as_str()).is_some_and(|value| value.starts_with("application/json"))
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests;
