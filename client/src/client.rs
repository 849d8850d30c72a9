//! The client: where the broker is, who asks, and one request with its retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Request, Url};

use crate::database::Database;
use crate::error::{Effect, Error, Reason};
use crate::redis::Redis;
use crate::retry::{self, Instant, Schedule};
use crate::wire::header;

mod answer;
mod builder;
mod call;
pub(crate) use answer::{Answer, Begun, Origin, classify};
pub use builder::ClientBuilder;
pub(crate) use call::{Call, Media, REDIS, SQL, escaped, segment};

/// How much longer than the broker the client waits: the broker's answer at the deadline says what became of the
/// statement, a timeout here cannot.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

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

    /// A client whose calls all end within `timeout` from now; streams, downloads and subscriptions begin within it.
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

    /// Sends one request and reads the whole answer, trying again where that is safe, until the deadline.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        self.persist(call, Bounds::Answer).await?.whole().await
    }

    /// Sends one request, trying again where that is safe, until an answer begins. The deadline bounds no more than that.
    pub(crate) async fn begin(&self, call: Call) -> Result<Begun, Error> {
        self.persist(call, Bounds::Beginning).await
    }

    /// Sends one request whose body can be read once: one try.
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    pub(crate) async fn upload(&self, call: Call, body: reqwest::Body) -> Result<Answer, Error> {
        let plan = Plan::new(&call, self.deadline(), Bounds::Answer);
        let mut request = self.request(call)?;
        *request.body_mut() = Some(body);
        self.exchange(request, plan).await?.whole().await
    }

    async fn persist(&self, call: Call, bounds: Bounds) -> Result<Begun, Error> {
        let plan = Plan::new(&call, self.deadline(), bounds);
        let request = self.request(call)?;
        let mut schedule = Schedule::new(self.shared.max_retries, retry::rng());
        let mut last_error = None;
        loop {
            let request = request.try_clone().expect("the body is bytes, never a stream");
            let error = match self.exchange(request, plan).await {
                Ok(begun) => return Ok(begun),
                Err(error) if error.is_deadline() => return Err(last_error.unwrap_or(error)),
                Err(error) if error.is_retried() => error,
                Err(error) => return Err(error),
            };
            match schedule.next_pause(error.retry_after(), retry::left_until(plan.deadline)) {
                Some(pause) => retry::sleep(pause).await,
                None => return Err(error),
            }
            last_error = Some(error);
        }
    }

    /// One try: the request out, the beginning of its answer in.
    async fn exchange(&self, mut request: Request, plan: Plan) -> Result<Begun, Error> {
        let Plan { surface, media, effect, deadline, bounds } = plan;
        let left = retry::left_until(deadline);
        if left < Duration::from_millis(1) {
            return Err(Error::new(Reason::Deadline, effect));
        }
        let left_ms = u64::try_from(left.as_millis()).expect("no timeout is longer than LONGEST_TIMEOUT");
        request.headers_mut().insert(HeaderName::from_static(header::TIMEOUT_MS), left_ms.into());
        if bounds == Bounds::Answer {
            *request.timeout_mut() = Some(left + ANSWER_GRACE);
        }
        let until = deadline + ANSWER_GRACE;
        let exchange = async {
            let response = self.shared.http.execute(request).await;
            let response = response.map_err(|error| Error::new(classify(error), effect))?;
            answer::accept(response, surface, media, effect, until).await
        };
        match bounds {
            Bounds::Answer => exchange.await,
            // The request's own timeout would run on, and cut a body that takes longer.
            Bounds::Beginning => {
                let late = || Err(Error::new(Reason::Timeout(None), effect));
                retry::by(until, exchange).await.unwrap_or_else(late)
            }
        }
    }

    fn deadline(&self) -> Instant {
        let longest = Instant::now() + self.shared.timeout;
        self.deadline.map_or(longest, |own| own.min(longest))
    }

    fn request(&self, call: Call) -> Result<Request, Error> {
        let Call { method, surface, name, tail, body, answer, headers, .. } = call;
        let name = segment("a database or cache; use one that the broker's config lists", &name)?;
        let url = format!("{}/v1/{surface}/{name}{tail}", self.shared.base_url);
        let url = Url::parse(&url).expect("a URL that parsed, plus percent-encoded segments, is a URL");
        let mut request = Request::new(method, url);
        *request.headers_mut() = headers;
        request.headers_mut().insert(AUTHORIZATION, self.shared.authorization.clone());
        if let Some(media_type) = answer.asked() {
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static(media_type));
        }
        if let Some((media_type, body)) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            *request.body_mut() = Some(body.into());
        }
        Ok(request)
    }
}

/// What every try of one call has in common, beside the request.
#[derive(Clone, Copy)]
struct Plan {
    surface: &'static str,
    media: Media,
    effect: Effect,
    deadline: Instant,
    bounds: Bounds,
}

impl Plan {
    fn new(call: &Call, deadline: Instant, bounds: Bounds) -> Self {
        Self { surface: call.surface, media: call.answer, effect: call.effect, deadline, bounds }
    }
}

/// What has to come before the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounds {
    Answer,
    Beginning,
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

#[cfg(test)]
mod tests;
