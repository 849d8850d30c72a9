use std::time::Duration;

use serde_json::json;

use super::*;
use crate::Client;
use crate::canned::{self, Server, Step, problem, problem_body, streamed};
use crate::error::Effect;
use crate::wire::{Outcome, ProblemCode};

const LISTENING: &str = "event: listening\ndata: {\"channel\": \"jobs\"}\n\n";
const HEARTBEAT: &str = ": heartbeat\n\n";
const MEDIA_TYPE: &str = "text/event-stream";

fn notified(payload: &str) -> String {
    format!("data: {}\n\n", json!({"channel": "jobs", "payload": payload, "pid": 7}))
}

fn heard(payload: &str) -> Event {
    Event::Notification(Notification { channel: "jobs".to_owned(), payload: payload.to_owned(), pid: 7 })
}

async fn drain(listener: &mut Listener) -> (Vec<Event>, Error) {
    let mut events = Vec::new();
    loop {
        match listener.next().await.expect("a subscription ends in an error") {
            Ok(event) => events.push(event),
            Err(error) => {
                assert!(listener.next().await.is_none(), "nothing follows an error");
                return (events, error);
            }
        }
    }
}

#[tokio::test]
async fn events_come_in_order_and_heartbeats_pass_unseen() {
    let named = format!("event: message\n{}", notified("b"));
    let unknown = "event: moon\ndata: full\n\n";
    let body = [HEARTBEAT, LISTENING, &notified("a"), HEARTBEAT, &named, unknown, "event: reconnected\ndata: {}\n\n"];
    let server = Server::start(vec![problem(503, "overloaded", true), streamed(MEDIA_TYPE, &body.concat(), 0)]).await;
    let client = server.client().build().unwrap();
    let mut listener = client.db("app").listen("jobs/ü").await.unwrap();
    let (events, error) = drain(&mut listener).await;
    assert_eq!(events, [heard("a"), heard("b"), Event::Reconnected]);
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, true), "{error:?}");
    let request = server.requests().await.remove(1);
    assert!(request.starts_with("GET /v1/db/app/listen/jobs%2F%C3%BC HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("accept: text/event-stream\r\n"), "{request}");
}

#[tokio::test]
async fn split_at_any_byte_makes_no_difference() {
    let body = [LISTENING, &notified("ü"), HEARTBEAT, "event: reconnected\ndata: {}\n\n"].concat();
    for at in 0..=body.len() {
        let (first, second) = body.as_bytes().split_at(at);
        let mut listener = Listener::start(canned::chunks([first, second], Effect::None)).await.unwrap();
        assert_eq!(drain(&mut listener).await.0, [heard("ü"), Event::Reconnected], "at {at}");
    }
}

#[tokio::test]
async fn error_event_is_the_problem_it_tells_and_the_end() {
    let failed = format!("event: error\ndata: {}\n\n", problem_body(503, "draining", true));
    let body = [LISTENING, &notified("a"), &failed, &notified("b")].concat();
    let mut listener = Listener::start(canned::chunks([body.as_bytes()], Effect::None)).await.unwrap();
    let (events, error) = drain(&mut listener).await;
    assert_eq!((events, error.code()), (vec![heard("a")], Some(ProblemCode::Draining)));
    let error = Listener::start(canned::chunks([failed.as_bytes()], Effect::None)).await.unwrap_err();
    assert_eq!(error.code(), Some(ProblemCode::Draining));
}

#[tokio::test]
async fn event_that_is_no_notification_is_an_error() {
    for event in ["data: x\n\n", "event: error\ndata: x\n\n"] {
        let body = [LISTENING, event].concat();
        let mut listener = Listener::start(canned::chunks([body.as_bytes()], Effect::None)).await.unwrap();
        let (events, error) = drain(&mut listener).await;
        assert!(events.is_empty() && error.to_string().contains("does not fit"), "{error}");
    }
}

#[tokio::test]
async fn listening_is_waited_for_no_longer_than_the_timeout() {
    let Step::Answer(head) = streamed(MEDIA_TYPE, HEARTBEAT, 100) else { unreachable!() };
    let late = vec![head, HEARTBEAT.to_owned(), LISTENING.to_owned()];
    let server = Server::start(vec![Step::Trickle(late, Duration::from_millis(300))]).await;
    let client = server.client().build().unwrap().with_timeout(Duration::from_millis(200));
    let error = client.db("app").listen("jobs").await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn subscription_outlasts_the_timeout() {
    let events = [LISTENING.to_owned(), notified("a"), notified("b")];
    let Step::Answer(head) = streamed(MEDIA_TYPE, "", events.concat().len()) else { unreachable!() };
    let pieces = [[head].as_slice(), &events].concat();
    let server = Server::start(vec![Step::Trickle(pieces, Duration::from_millis(300))]).await;
    let client = server.client().timeout(Duration::from_millis(700)).build().unwrap();
    let mut listener = client.db("app").listen("jobs").await.unwrap();
    assert_eq!(drain(&mut listener).await.0, [heard("a"), heard("b")]);
}

#[tokio::test]
async fn channel_without_a_name_is_refused_before_anything_is_sent() {
    let db = Client::new("http://127.0.0.1:1", "key").unwrap().db("app");
    for channel in ["", ".", ".."] {
        let error = db.listen(channel).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`{channel}` is no name for a channel"));
    }
}

#[test]
fn futures_are_send() {
    fn assert_send(_: &impl Send) {}
    let db = Client::new("http://127.0.0.1:1", "key").unwrap().db("app");
    assert_send(&async { db.listen("jobs").await.unwrap().next().await });
}
