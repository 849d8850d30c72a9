use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::canned::{Server, Step, answer, ok};
use crate::wire::Outcome;

const EMPTY: &str = r#"{"columns": [], "rows": [], "row_count": 3, "command": "UPDATE"}"#;

fn problem(status: u16, code: &str, retryable: bool, retry_after_ms: Option<u64>) -> Step {
    let body = json!({
        "type": format!("/problems/{code}"), "title": "t", "status": status, "code": code, "detail": "what happened",
        "request_id": "req-2", "outcome": "not_applied", "retryable": retryable, "retry_after_ms": retry_after_ms,
    });
    answer(status, "", &body.to_string())
}

async fn execute(client: &Client) -> Result<u64, Error> {
    client.db("app").query("UPDATE t SET x = 1").execute().await
}

#[tokio::test]
async fn request_carries_identity_deadline_and_encoded_name() {
    let server = Server::start(vec![ok(EMPTY)]).await;
    let client = server.client().build().unwrap().with_timeout(Duration::from_secs(2));
    client.db("my app/ü").query("SELECT 1").execute().await.unwrap();
    let request = server.requests().await.remove(0);
    assert!(request.starts_with("POST /v1/db/my%20app%2F%C3%BC/query HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer secret-key\r\n"), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.contains("user-agent: hearth-client/"), "{request}");
    let left_ms: u64 = request.split_once("hearth-timeout-ms: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    assert!((1500..=2000).contains(&left_ms), "{left_ms}");
}

#[tokio::test]
async fn retryable_problem_is_tried_again() {
    let server = Server::start(vec![problem(503, "overloaded", true, None), ok(EMPTY)]).await;
    assert_eq!(execute(&server.client().build().unwrap()).await.unwrap(), 3);
    assert_eq!(server.requests().await.len(), 2);
}

#[tokio::test]
async fn other_problem_is_not_tried_again() {
    let server = Server::start(vec![problem(422, "statement_failed", false, None)]).await;
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert_eq!((error.status(), error.request_id()), (Some(422), Some("req-1")));
}

#[tokio::test]
async fn retries_end_at_their_maximum() {
    let server = Server::start(vec![problem(503, "draining", true, None); 3]).await;
    let error = execute(&server.client().max_retries(2).build().unwrap()).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(server.requests().await.len(), 3);
}

#[tokio::test]
async fn retry_waits_as_long_as_the_broker_asks() {
    let server = Server::start(vec![problem(429, "rate_limited", true, Some(300)), ok(EMPTY)]).await;
    let start = Instant::now();
    execute(&server.client().build().unwrap()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
}

#[tokio::test]
async fn retry_that_would_pass_the_deadline_gives_the_error_at_once() {
    let server = Server::start(vec![problem(429, "rate_limited", true, Some(60_000))]).await;
    let start = Instant::now();
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert!(error.is_rate_limited() && start.elapsed() < Duration::from_secs(5));
    assert_eq!(error.retry_after(), Some(Duration::from_mins(1)));
}

#[tokio::test]
async fn lost_answer_is_unknown_and_not_tried_again() {
    let server = Server::start(vec![Step::Reset]).await;
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, false), "{error:?}");
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn lost_answer_to_a_read_is_not_applied_and_left_to_the_caller() {
    let server = Server::start(vec![Step::Reset]).await;
    let client = server.client().build().unwrap();
    let error = client.db("app").query("SELECT 1").read_only().execute().await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, true), "{error:?}");
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn cut_answer_is_unknown() {
    let whole =
        Step::Answer("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{".to_owned());
    let server = Server::start(vec![whole]).await;
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(error.to_string(), "connection broke before the answer was complete");
}

#[tokio::test]
async fn refused_connection_is_tried_again_and_nothing_is_applied() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = ClientBuilder::new(&format!("http://{closed}"), "secret-key").build().unwrap();
    let error = execute(&client).await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable(), error.is_timeout()), (Outcome::NotApplied, true, false));
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn broker_that_comes_back_is_reached_by_a_retry() {
    // Bound but not listening: connections are refused, and nobody else takes the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let client = ClientBuilder::new(&url, "secret-key").max_retries(100).build().unwrap();
    let call = tokio::spawn(async move { execute(&client).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listener = socket.listen(8).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let Step::Answer(bytes) = ok(EMPTY) else { unreachable!() };
    tokio::io::AsyncWriteExt::write_all(&mut stream, bytes.as_bytes()).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn silent_broker_ends_in_a_timeout_just_past_the_deadline() {
    let server = Server::start(vec![Step::Stall]).await;
    let client = server.client().build().unwrap().with_timeout(Duration::from_millis(100));
    let start = Instant::now();
    let error = execute(&client).await.unwrap_err();
    assert_eq!((error.is_timeout(), error.outcome()), (true, Outcome::Unknown), "{error:?}");
    assert!((Duration::from_millis(340)..Duration::from_secs(3)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn passed_deadline_sends_nothing() {
    let client = Client::new("http://127.0.0.1:1", "secret-key").unwrap().with_timeout(Duration::ZERO);
    let error = execute(&client).await.unwrap_err();
    assert_eq!((error.is_timeout(), error.outcome()), (true, Outcome::NotApplied));
    assert!(error.to_string().starts_with("deadline passed before anything was sent"), "{error}");
}

#[tokio::test]
async fn later_deadline_does_not_lengthen_an_earlier_one() {
    let client = Client::new("http://127.0.0.1:1", "secret-key").unwrap();
    let early = client.with_timeout(Duration::ZERO).with_deadline(tokio::time::Instant::now() + Duration::from_secs(9));
    assert!(execute(&early).await.unwrap_err().is_timeout());
}

#[tokio::test]
async fn page_of_a_proxy_is_told_from_an_answer_of_the_broker() {
    let page = "HTTP/1.1 502 Bad\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\noops";
    let server = Server::start(vec![Step::Answer(page.to_owned())]).await;
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert_eq!((error.status(), error.code(), error.outcome()), (Some(502), None, Outcome::Unknown));
    assert!(error.to_string().contains("check HEARTH_URL"), "{error}");
}

#[tokio::test]
async fn json_error_of_a_proxy_is_not_tried_again() {
    let server = Server::start(vec![answer(503, "", r#"{"error":"upstream is slow"}"#)]).await;
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, false), "{error}");
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let server = Server::start(vec![answer(307, "location: http://127.0.0.1:1/\r\n", "")]).await;
    let error = execute(&server.client().build().unwrap()).await.unwrap_err();
    assert_eq!((error.status(), error.outcome()), (Some(307), Outcome::NotApplied));
}

#[tokio::test]
async fn rows_that_do_not_fit_the_type_are_applied_and_an_error() {
    let body = r#"{"columns": [], "rows": [{"id": 1}], "row_count": 1, "command": "SELECT"}"#;
    let server = Server::start(vec![ok(body)]).await;
    let client = server.client().build().unwrap();
    let error = client.db("app").query("SELECT 1").fetch_all::<(i64, String)>().await.unwrap_err();
    assert_eq!((error.outcome(), error.request_id()), (Outcome::Applied, Some("req-1")));
}

#[tokio::test]
async fn fetch_one_wants_a_row_and_fetch_optional_does_not() {
    let server = Server::start(vec![ok(EMPTY), ok(EMPTY)]).await;
    let database = server.client().build().unwrap().db("app");
    let error = database.query("SELECT 1").fetch_one::<serde_json::Value>().await.unwrap_err();
    assert!(error.to_string().starts_with("statement returned no row"), "{error}");
    assert!(database.query("SELECT 1").fetch_optional::<serde_json::Value>().await.unwrap().is_none());
}

#[tokio::test]
async fn name_that_would_leave_the_path_is_refused() {
    let client = Client::new("http://127.0.0.1:1", "secret-key").unwrap();
    for name in ["", ".", ".."] {
        let error = client.db(name).query("SELECT 1").execute().await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert!(error.to_string().contains("is no name for a database"), "{error}");
    }
}

#[test]
fn missing_variables_are_named_with_what_to_set() {
    let message = |url: Option<&str>, key: Option<&str>| {
        let lookup = |name: &str| if name == "HEARTH_URL" { url } else { key }.map(str::to_owned);
        ClientBuilder::from_lookup(lookup).unwrap_err().to_string()
    };
    assert!(message(None, Some("k")).starts_with("HEARTH_URL is not set; set it to the broker's address"));
    assert!(message(Some("http://x"), None).starts_with("HEARTH_KEY is not set; set it to an API key"));
    assert!(message(Some(" "), Some("k")).starts_with("HEARTH_URL is not set"));
}

#[test]
fn unusable_settings_say_what_to_do() {
    let message = |url, key| Client::new(url, key).unwrap_err().to_string();
    assert!(message("hearth.example.com", "k").contains("is not a URL"));
    assert!(message("ftp://hearth.example.com", "k").contains("is not an http or https URL"));
    assert!(message("https://user:secret@hearth.example.com", "k").contains("belong in HEARTH_KEY"));
    assert!(message("https://hearth.example.com/?a=1", "k").contains("holds a query"));
    assert!(message("http://x", "two\nlines").contains("check HEARTH_KEY for line breaks"));
    assert!(message("http://x", "").contains("check HEARTH_KEY"));
}

#[test]
fn line_break_after_the_key_is_forgiven() {
    let client = Client::new("http://x/base/\n", "secret-key\n").unwrap();
    assert_eq!(client.shared.authorization, "Bearer secret-key");
    assert_eq!(client.shared.base_url, "http://x/base");
}

#[tokio::test]
async fn key_is_in_no_debug_output_and_no_error() {
    let secret = "secret-key";
    let builder = ClientBuilder::new("http://127.0.0.1:1", secret).max_retries(0);
    let client = builder.clone().build().unwrap();
    let mut seen = format!("{builder:?}{client:?}{:?}", client.db("app").query("SELECT 1"));
    let mut error: Option<&dyn std::error::Error> = None;
    let failed = execute(&client).await.unwrap_err();
    write!(seen, "{failed:?}").unwrap();
    error.replace(&failed);
    while let Some(cause) = error {
        write!(seen, "{cause} {cause:?}").unwrap();
        error = cause.source();
    }
    let refused = Client::new("https://user:secret-key@host", secret).unwrap_err();
    write!(seen, "{refused} {refused:?}").unwrap();
    let unsendable = Client::new("http://x", "secret-key\u{7f}\nmore").unwrap_err();
    write!(seen, "{unsendable} {unsendable:?}").unwrap();
    assert!(!seen.contains(secret), "{seen}");
    assert!(seen.contains("127.0.0.1"));
}
