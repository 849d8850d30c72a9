//! LISTEN and NOTIFY as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use hearth_client::wire::{Notification, Problem};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{Call, Headers};
use super::error::Error;
use super::routing::shard;
use super::{guarded, problem};
use crate::base::{BackendName, RequestId};
use crate::broker::Broker;
use crate::config::Scope;
use crate::pool::listen::queue::CAPACITY;
use crate::pool::listen::{End, Event, Subscription};
use crate::tenant::Permit;

/// After so long without an event a comment is sent: proxies close what is silent, commonly after a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// PostgreSQL cuts a longer identifier without a word, and would then listen to another channel.
const MAX_CHANNEL_BYTES: usize = 63;

/// Hears a channel: server-sent events for as long as the reader stays. The first, `listening`, comes when LISTEN is in force.
#[utoipa::path(
    get, path = "/v1/db/{database}/listen/{channel}", tag = "sql", operation_id = "listen", security(("key" = [])),
    params(
        ("database" = String, Path, description = "The database's name"),
        ("channel" = String, Path, description = "The channel's name as it stands, case and all: 1 to 63 bytes"),
        ("hearth-timeout-ms" = Option<u64>, Header, minimum = 1, description = "How long to wait for LISTEN to be in force, in milliseconds; it does not end the stream"),
        ("x-request-id" = Option<String>, Header, description = "Echoed, logged and put into every problem"),
    ),
    responses(
        (status = 200, description = "Events: `listening`; unnamed ones, each a notification; `reconnected` (what was sent meanwhile is lost); `error`, a problem, and the end",
            body = Notification, content_type = "text/event-stream", headers(
            ("server-timing" = String, description = "Milliseconds of auth, queue and db"),
            ("ratelimit" = String, description = "What is left of the tenant's rate"),
            ("ratelimit-policy" = String, description = "The tenant's limits"))),
        (status = 400, description = "invalid_request", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "unauthenticated", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "forbidden", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "unknown_database", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "statement_failed", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "rate_limited, too_many_in_flight", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "internal", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "overloaded, backend_down, draining, queue_deadline", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn listen(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    path: Result<Path<(String, String)>, PathRejection>,
    Headers(headers): Headers,
) -> Response {
    let path = path.map(|Path(path)| path).map_err(|_| Error::Invalid("the path is not UTF-8".to_owned()));
    let subscribed = subscribe(&broker, &mut call, path, &headers).await;
    let policy = call.tenant().and_then(|tenant| tenant.stream_policy_header.clone());
    let mut response = match subscribed {
        Ok(feed) => {
            call.stands();
            call.finish(events(feed), None)
        }
        Err(error) => problem::finish(call, &error),
    };
    if let Some(policy) = policy {
        response.headers_mut().insert("ratelimit-policy", policy);
    }
    response
}

async fn subscribe(
    broker: &Broker,
    call: &mut Call,
    path: Result<(String, String), Error>,
    headers: &HeaderMap,
) -> Result<Feed<Subscription>, Error> {
    let (principal, deadline) = call.identify(broker, headers, "listen").await?;
    principal.may_send_sql()?;
    principal.needs(&[Scope::SqlRead, Scope::SqlWrite])?;
    let (database, channel) = path?;
    let tenant = &principal.tenant;
    let (database, metrics) = tenant.databases.get(&*database).ok_or(Error::UnknownDatabase(database))?;
    let database = shard(broker, database, headers)?;
    call.note(|event| event.backend = Some(database.name().clone()));
    call.admit(tenant, metrics)?;
    check(&channel)?;
    let permit = call.admit_listener(tenant)?;
    let asked = Instant::now();
    let subscription = tokio::select! {
        subscribed = database.listeners().subscribe(&channel, deadline) => subscribed?,
        () = broker.draining.cancelled() => return Err(Error::Draining),
    };
    call.spent(asked.elapsed(), Duration::ZERO);
    let first = Some(event("listening", &Listening { channel: &channel }));
    Ok(Feed {
        source: subscription,
        database: database.name().clone(),
        first,
        draining: broker.draining.clone(),
        request_id: call.request_id.clone(),
        _permit: permit,
    })
}

fn check(channel: &str) -> Result<(), Error> {
    if channel.is_empty() || channel.len() > MAX_CHANNEL_BYTES {
        return Err(Error::Invalid(format!(
            "a channel's name has 1 to {MAX_CHANNEL_BYTES} bytes, and this one {}",
            channel.len()
        )));
    }
    if channel.contains('\0') {
        return Err(Error::Invalid("a channel's name has no NUL character".to_owned()));
    }
    Ok(())
}

/// The data of the first event.
#[derive(Serialize)]
struct Listening<'a> {
    channel: &'a str,
}

/// What one reader is told, and what it holds while it reads.
struct Feed<S> {
    source: S,
    database: BackendName,
    first: Option<Bytes>,
    draining: CancellationToken,
    request_id: RequestId,
    _permit: Permit,
}

/// Where events come from.
trait Source: Send + 'static {
    /// The next event. Cancel safe.
    fn next(&self) -> impl Future<Output = Result<Event, End>> + Send;
}

impl Source for Subscription {
    fn next(&self) -> impl Future<Output = Result<Event, End>> + Send {
        Self::next(self)
    }
}

impl<S: Source> Feed<S> {
    /// The next piece of the stream, and the feed if there is more. Dropping the stream drops the feed: a reader that leaves is
    /// subscribed no longer.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        if let Some(first) = self.first.take() {
            return (first, Some(self));
        }
        let error = tokio::select! {
            biased;
            () = self.draining.cancelled() => Error::Draining,
            event = self.source.next() => match event {
                Ok(Event::Heard(heard)) => return (heard.written(data), Some(self)),
                Ok(Event::Reconnected) => return (Bytes::from_static(b"event: reconnected\ndata: {}\n\n"), Some(self)),
                Err(End::TooSlow) => Error::ReaderTooSlow { unread: CAPACITY },
                Err(End::Closed) => Error::Replaced(self.database.to_string()),
            },
            () = tokio::time::sleep(KEEP_ALIVE) => return (Bytes::from_static(b": keep-alive\n\n"), Some(self)),
        };
        (event("error", &problem::in_stream(&self.request_id, &error)), None)
    }
}

fn events<S: Source>(feed: Feed<S>) -> Response {
    let pieces = stream::unfold(Some(feed), async |feed| {
        let (piece, feed) = feed?.next().await;
        Some((Ok::<_, std::convert::Infallible>(piece), feed))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx and those that follow it would collect a buffer of events before they pass one on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    guarded::mark_stream(&mut response);
    response
}

/// A named event. JSON is one line, so one `data` field holds it. Source: HTML standard, "Server-sent events".
fn event(name: &str, data: &impl Serialize) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {}\n\n", json(data)))
}

/// An unnamed event: a notification.
fn data(heard: &Notification) -> Bytes {
    Bytes::from(format!("data: {}\n\n", json(heard)))
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("plain data")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;
    use crate::pool::listen::{Heard, Queue};
    use crate::tenant::inflight::InFlight;

    impl Source for Arc<Queue> {
        fn next(&self) -> impl Future<Output = Result<Event, End>> + Send {
            Queue::next(self)
        }
    }

    struct Reader(Body);

    impl Reader {
        /// The next piece; `None` at the end.
        async fn piece(&mut self) -> Option<String> {
            let frame = self.0.frame().await?.expect("goes on");
            Some(String::from_utf8(frame.into_data().expect("is data").to_vec()).expect("is text"))
        }
    }

    fn stream() -> (Reader, Arc<Queue>, CancellationToken, InFlight) {
        let (queue, draining, limit) = (Arc::<Queue>::default(), CancellationToken::new(), InFlight::new(Some(1)));
        let feed = Feed {
            source: Arc::clone(&queue),
            database: BackendName::new("app"),
            first: Some(event("listening", &Listening { channel: "a \"b\"" })),
            draining: draining.clone(),
            request_id: RequestId::from_header(None),
            _permit: limit.take().expect("there is room"),
        };
        (Reader(events(feed).into_body()), queue, draining, limit)
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_written_one_by_one_and_silence_is_filled() {
        let (mut reader, queue, draining, limit) = stream();
        assert_eq!(reader.piece().await.expect("goes on"), "event: listening\ndata: {\"channel\":\"a \\\"b\\\"\"}\n\n");
        let heard = Notification { channel: "c".to_owned(), payload: "two\nlines".to_owned(), pid: 7 };
        queue.push(Event::Heard(Arc::new(Heard::new(heard)))).expect("there is room");
        queue.push(Event::Reconnected).expect("there is room");
        let notification = reader.piece().await.expect("goes on");
        assert_eq!(notification, "data: {\"channel\":\"c\",\"payload\":\"two\\nlines\",\"pid\":7}\n\n");
        assert_eq!(reader.piece().await.expect("goes on"), "event: reconnected\ndata: {}\n\n");
        let silence = Instant::now();
        for count in 1..=3 {
            assert_eq!(reader.piece().await.expect("goes on"), ": keep-alive\n\n");
            assert_eq!(silence.elapsed().as_secs(), 15 * count);
        }
        draining.cancel();
        let error = reader.piece().await.expect("is told");
        assert!(error.starts_with("event: error\ndata: {\"type\":\"/problems/draining\""), "{error}");
        assert_eq!((reader.piece().await, limit.count()), (None, 0));
    }

    #[tokio::test]
    async fn a_reader_who_stopped_is_told_that_nothing_was_applied() {
        let (mut reader, queue, _, _) = stream();
        while queue.push(Event::Reconnected).is_ok() {}
        reader.piece().await.expect("listening");
        let error = reader.piece().await.expect("is told");
        for part in ["\"code\":\"reader_too_slow\"", "\"outcome\":\"not_applied\"", "\"retryable\":true"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!(reader.piece().await, None);
    }

    #[tokio::test]
    async fn a_reader_who_leaves_gives_its_place_up() {
        let (reader, queue, _, limit) = stream();
        drop(reader);
        assert_eq!((limit.count(), Arc::strong_count(&queue)), (0, 1));
    }

    #[test]
    fn names_are_refused_by_their_bytes() {
        for good in ["a", "ä b\"'\\;", &"x".repeat(63)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a\0b", &"x".repeat(64), &"ä".repeat(32)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
