//! One data request from its headers to its answer: who, by when, how long each part took, and what the limits say.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::BoxError;
use axum::body::HttpBody;
use axum::extract::FromRequestParts;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::auth::{self, AuthError, Principal};
use super::error::Error;
use super::header::{self, Text};
use super::peer::Peer;
use super::{guarded, limits, routing};
use crate::base::{Deadline, RequestId};
use crate::broker::Broker;
use crate::observe::audit::Entry;
use crate::observe::{Event, RouteMetrics, Who};
use crate::pool::Consistency;
use crate::tenant::{Admission, Permit, Tenant};

/// The largest deadline that is a number to every reader of JSON Schema's `int64`.
const MAX_TIMEOUT_MS: u64 = i64::MAX as u64;

/// One data request.
pub struct Call {
    /// Its id.
    pub request_id: RequestId,
    peer: Option<Peer>,
    start: Instant,
    auth: Duration,
    queue: Duration,
    db: Duration,
    principal: Option<Principal>,
    entry: Option<Entry>,
    admission: Option<Admission>,
    metrics: Option<RouteMetrics>,
    /// Where it went, if there was a choice: what a later read must be as new as, and whether a replica served it.
    went: Option<(Option<Consistency>, bool)>,
}

impl Call {
    fn new(request_id: RequestId, peer: Option<Peer>) -> Self {
        Self {
            request_id,
            peer,
            start: Instant::now(),
            auth: Duration::ZERO,
            queue: Duration::ZERO,
            db: Duration::ZERO,
            principal: None,
            entry: None,
            admission: None,
            metrics: None,
            went: None,
        }
    }

    /// Who is asking, and by when they want an answer. `action` is what the audit log calls it.
    pub async fn identify(
        &mut self,
        broker: &Broker,
        headers: &HeaderMap,
        action: &'static str,
    ) -> Result<(Principal, Deadline), Error> {
        let principal = self.authenticate(broker, headers, action).await?;
        let limits = &principal.tenant.limits;
        let deadline = self.deadline(headers, limits.default_timeout, limits.max_timeout)?;
        Ok((principal, deadline))
    }

    /// The same for a stream: by when it must have begun, or for bulk data in, by when it must be over.
    pub async fn identify_stream(
        &mut self,
        broker: &Broker,
        headers: &HeaderMap,
        action: &'static str,
    ) -> Result<(Principal, Deadline), Error> {
        let principal = self.authenticate(broker, headers, action).await?;
        let most = principal.tenant.limits.stream_timeout;
        let deadline = self.deadline(headers, most, most)?;
        Ok((principal, deadline))
    }

    /// Who is asking.
    pub async fn authenticate(
        &mut self,
        broker: &Broker,
        headers: &HeaderMap,
        action: &'static str,
    ) -> Result<Principal, Error> {
        let found = auth::principal(broker, headers, self.peer.as_ref(), self.start).await;
        self.auth = self.start.elapsed();
        if broker.audit.is_some() {
            self.begin_entry(broker, headers, action, &found);
        }
        let principal = found?;
        self.principal = Some(principal.clone());
        Ok(principal)
    }

    fn deadline(&self, headers: &HeaderMap, default: Duration, most: Duration) -> Result<Deadline, Error> {
        let asked = timeout(headers)?.unwrap_or(default);
        Ok(Deadline::from_start(self.start, asked.min(most)))
    }

    fn begin_entry(
        &mut self,
        broker: &Broker,
        headers: &HeaderMap,
        action: &'static str,
        found: &Result<Principal, AuthError>,
    ) {
        let Some(audit) = &broker.audit else { return };
        let mut event = Event::new(action);
        match found {
            Ok(principal) => {
                event.who = Some(Who {
                    tenant: principal.tenant.id.clone(),
                    via: principal.identity.via.as_str(),
                    identity: Arc::clone(&principal.identity.name),
                });
            }
            // The block was told when it began; what it refuses is counted.
            Err(AuthError::TooManyFailures { .. }) => return,
            Err(error) => {
                event.reason = error.reason();
                event.claimed = auth::claimed(broker, headers);
            }
        }
        event.request_id = Some(self.request_id.clone());
        event.address = self.peer.as_ref().map(|peer| peer.address);
        self.entry = Some(audit.begin(event, self.start));
    }

    /// Tells the audit log more, where there is one.
    pub fn note(&mut self, tell: impl FnOnce(&mut Event)) {
        if let Some(event) = self.entry.as_mut().and_then(Entry::event) {
            tell(event);
        }
    }

    /// The audit log's entry, for what ends later than the call.
    pub fn take_entry(&mut self) -> Option<Entry> {
        self.entry.take()
    }

    /// Asks the tenant's limits. The request counts as in flight until the call is over.
    pub fn admit(&mut self, tenant: &Tenant, metrics: &RouteMetrics) -> Result<(), Error> {
        self.metrics = Some(metrics.clone());
        self.admission = Some(tenant.admit()?);
        Ok(())
    }

    /// It goes to a database, whose time is charged: until it is told, until it has failed, or until the caller leaves.
    pub fn to_database(&mut self) {
        if let Some(admission) = &mut self.admission {
            admission.to_database();
        }
    }

    /// Asks the limit on event streams.
    pub fn admit_listener(&mut self, tenant: &Tenant) -> Result<Permit, Error> {
        let mut unseen = Vec::new();
        let shadows = self.admission.as_mut().map_or(&mut unseen, |admission| &mut admission.shadows);
        Ok(tenant.counted.admit_listener(shadows)?)
    }

    /// Notes rows that count against a quota.
    pub fn used_rows(&mut self, count: impl FnOnce() -> u64) {
        if let Some(admission) = &mut self.admission {
            admission.used_rows(count);
        }
    }

    /// The answer goes on as a stream that reads these rows.
    pub fn streams(&mut self, rows: &Arc<AtomicU64>) {
        if let Some(admission) = &mut self.admission {
            admission.streams(Arc::clone(rows));
        }
    }

    /// It ran in a database, and has no result to tell how long: since it was sent there, at most.
    pub fn ran_in_vain(&mut self) {
        if let Some(admission) = &mut self.admission {
            admission.used_database_until_now();
        }
    }

    /// Whose it is, once that is known.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.principal.as_ref().map(|principal| &*principal.tenant)
    }

    /// What was asked for stands and goes on as a stream: from now on it is not in flight.
    pub fn stands(&mut self) {
        if let Some(admission) = &mut self.admission {
            admission.release();
        }
    }

    /// Notes where the time went.
    pub fn spent(&mut self, queue: Duration, db: Duration) {
        self.queue = queue;
        self.db = db;
        if let Some(admission) = &mut self.admission {
            admission.used_database(db);
        }
    }

    /// Notes where it went, of several servers.
    pub fn went(&mut self, written: Option<Consistency>, by_replica: bool) {
        self.went = Some((written, by_replica));
    }

    /// Counts the request, and puts the headers on its answer. `code` is the problem's, if it is one.
    pub fn finish<B>(mut self, mut response: Response<B>, code: Option<&'static str>) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        if let Some(entry) = self.entry.take() {
            entry.finish(code.unwrap_or("ok"));
        }
        if let Some(admission) = &mut self.admission {
            // Where nothing was told, nothing ran.
            admission.used_database(Duration::ZERO);
        }
        if let Some(metrics) = &self.metrics {
            metrics.seconds.observe(self.start.elapsed().as_secs_f64());
            match code {
                None => metrics.ok(),
                Some(code) => metrics.failed(code),
            }
        }
        let headers = response.headers_mut();
        headers.insert(&header::SERVER_TIMING, self.server_timing());
        if let Some(tenant) = self.tenant() {
            limits::tell(headers, tenant, self.admission.as_ref());
        }
        if let Some((written, by_replica)) = self.went {
            routing::tell(headers, written, by_replica);
        }
        guarded::until_sent_counted(response, self.admission, |admission, bytes| {
            if let Some(admission) = admission {
                admission.sent(bytes);
            }
        })
    }

    fn server_timing(&self) -> HeaderValue {
        let mut timing = Text::default();
        timing.text("auth;dur=").millis(self.auth).text(", queue;dur=").millis(self.queue);
        timing.text(", db;dur=").millis(self.db).value()
    }
}

/// A handler's first argument: the request as it arrives.
impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let id = parts.extensions.get::<RequestId>().cloned();
        Ok(Self::new(id.unwrap_or_else(|| RequestId::from_header(None)), parts.extensions.get::<Peer>().cloned()))
    }
}

/// What stands before the name of a database or a cache in a path.
const BEFORE_NAMES: [&str; 3] = ["/v1/db/", "/v1/redis/", "/admin/v1/databases/"];

/// The name of a database or a cache in the path; one that is not UTF-8 reads with U+FFFD, and is then unknown.
pub struct BackendPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for BackendPath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The router's own list of parameters would be copied to be read.
        let path = parts.uri.path();
        let rest = BEFORE_NAMES.iter().find_map(|before| path.strip_prefix(before)).unwrap_or_default();
        let name = &rest[..memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len())];
        let name = percent_decode_str(name).decode_utf8_lossy();
        Ok(Self(name.into_owned()))
    }
}

/// The request's headers, taken and not copied: nothing after this sees any.
pub struct Headers(pub HeaderMap);

impl<S: Send + Sync> FromRequestParts<S> for Headers {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(std::mem::take(&mut parts.headers)))
    }
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(&header::TIMEOUT_MS) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let millis = millis.filter(|millis| (1..=MAX_TIMEOUT_MS).contains(millis)).ok_or_else(|| {
        Error::Invalid("Hearth-Timeout-Ms must be a whole number of milliseconds, at least 1".to_owned())
    })?;
    Ok(Some(Duration::from_millis(millis)))
}
