use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const KEY: &str = "k_demo.very-secret";

/// The failure that an insert ends in when the broker answers each request with this status and body.
async fn insert_answered_by(status: u16, body: Value) -> Failure {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let broker = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            // The head and the body come in one or two pieces; the answer may overtake the second.
            let _ = socket.read(&mut request).await;
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: application/problem+json\r\nconnection: close\r\n");
            let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.expect("the client listens");
        }
    });
    let failure = insert_at(&format!("http://{address}")).await;
    broker.abort();
    failure
}

async fn insert_at(url: &str) -> Failure {
    let orders = HearthOrders::new(Client::new(url, KEY).expect("a sound address"));
    let order = NewOrder { item: "logs".to_owned(), quantity: 1 };
    let deadline = Instant::now() + Duration::from_millis(300);
    orders.insert(&order, deadline).await.expect_err("no broker, no order")
}

fn problem(status: u16, code: &str) -> Value {
    json!({ "type": format!("/problems/{code}"), "title": "t", "status": status, "code": code, "detail": "d",
            "request_id": "r", "outcome": "not_applied", "retryable": false, "retry_after_ms": null })
}

fn with(mut problem: Value, field: &str, value: impl Into<Value>) -> Value {
    problem[field] = value.into();
    problem
}

#[tokio::test]
async fn every_problem_has_its_answer() {
    for (problem, status, code) in [
        (problem(409, "conflict"), 409, "conflict"),
        (with(problem(409, "conflict"), "retryable", true), 503, "unavailable"),
        (with(problem(429, "rate_limited"), "retryable", true), 503, "unavailable"),
        (with(problem(503, "overloaded"), "retryable", true), 503, "unavailable"),
        (problem(504, "statement_timeout"), 504, "timeout"),
        (with(problem(502, "backend_lost"), "outcome", "unknown"), 502, "outcome_unknown"),
        (problem(401, "unauthenticated"), 500, "internal"),
        (with(problem(422, "statement_failed"), "sqlstate", "42P01"), 500, "internal"),
        (problem(418, "of_a_newer_broker"), 500, "internal"),
    ] {
        let answered = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
        let failure = insert_answered_by(answered, problem.clone()).await;
        assert_eq!((failure.status.as_u16(), failure.code), (status, code), "{problem}");
        assert_eq!(failure.retry_after.is_some(), status == 503, "{problem}");
    }
}

#[tokio::test]
async fn the_pause_the_broker_asks_for_is_handed_on_in_whole_seconds() {
    let overloaded = with(problem(503, "overloaded"), "retryable", true);
    let failure = insert_answered_by(503, with(overloaded, "retry_after_ms", 2_100)).await;
    assert_eq!(failure.retry_after, Some(3));
}

#[tokio::test]
async fn a_broker_that_is_away_is_worth_another_try_and_shows_no_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let failure = insert_at(&url).await;
    assert_eq!((failure.status.as_u16(), failure.retry_after), (503, Some(1)));
    assert!(failure.cause.starts_with("broker cannot be reached"), "{failure}");
    assert!(!format!("{failure:?}").contains("very-secret"));
}

#[tokio::test]
async fn a_proxy_that_answers_for_the_broker_leaves_the_outcome_open() {
    let failure = insert_answered_by(502, json!("bad gateway")).await;
    assert_eq!((failure.status.as_u16(), failure.code), (502, "outcome_unknown"));
}
