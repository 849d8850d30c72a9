use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::ClientBuilder;
use crate::canned::{self, Server, Step, problem, problem_body, streamed};
use crate::error::Effect;
use crate::wire::{Outcome, ProblemCode};

const HEAD: &str = r#"{"columns": [{"name": "n", "type": "int4", "oid": 23}]}"#;
const TAIL: &str = r#"{"row_count": 2, "command": "SELECT", "notices": [{"severity": "NOTICE", "sqlstate": "00000", "message": "hm"}]}"#;
const NDJSON: &str = "application/x-ndjson";

fn text(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}

async fn start<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, effect: Effect) -> Result<RowStream<Value>, Error> {
    RowStream::start(canned::chunks(pieces, effect)).await
}

async fn read(lines: &[&str], effect: Effect) -> (Vec<Value>, Option<Error>) {
    let mut stream = start([text(lines).as_bytes()], effect).await.unwrap();
    drain(&mut stream).await
}

async fn drain<T: DeserializeOwned>(stream: &mut RowStream<T>) -> (Vec<T>, Option<Error>) {
    let mut rows = Vec::new();
    while let Some(row) = stream.next().await {
        match row {
            Ok(row) => rows.push(row),
            Err(error) => {
                assert!(stream.next().await.is_none(), "nothing follows an error");
                assert_eq!((stream.row_count(), stream.notices().len()), (None, 0));
                return (rows, Some(error));
            }
        }
    }
    (rows, None)
}

#[tokio::test]
async fn rows_come_in_order_and_the_tail_tells_the_rest() {
    let body = text(&[HEAD, r#"{"n": 1}"#, r#"{"n": 2}"#, TAIL]);
    let server = Server::start(vec![problem(503, "overloaded", true), streamed(NDJSON, &body, 0)]).await;
    let client = server.client().build().unwrap();
    let mut stream = client.db("app").query("SELECT n").bind(1).stream::<Value>().await.unwrap();
    assert_eq!((stream.columns()[0].name.as_str(), stream.row_count(), stream.command()), ("n", None, None));
    let (rows, error) = drain(&mut stream).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(rows, [json!({"n": 1}), json!({"n": 2})]);
    assert_eq!((stream.row_count(), stream.command()), (Some(2), Some("SELECT")));
    assert_eq!(stream.notices()[0].message, "hm");
    assert!(stream.next().await.is_none());
    let request = server.requests().await.remove(1);
    assert!(request.starts_with("POST /v1/db/app/query HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("accept: application/x-ndjson\r\n"), "{request}");
    assert!(request.contains("hearth-timeout-ms: "), "{request}");
}

#[tokio::test]
async fn row_that_looks_like_a_tail_is_a_row() {
    let failed = json!({"error": problem_body(500, "internal", false)}).to_string();
    let (rows, error) = read(&[HEAD, TAIL, &failed, TAIL, TAIL], Effect::None).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(rows, [TAIL, &failed, TAIL].map(|line| serde_json::from_str::<Value>(line).unwrap()));
}

#[tokio::test]
async fn missing_tail_leaves_a_write_unknown_and_a_read_to_be_tried_again() {
    for (effect, outcome, retryable) in
        [(Effect::AllOrNothing, Outcome::Unknown, false), (Effect::None, Outcome::NotApplied, true)]
    {
        let (rows, error) = read(&[HEAD, r#"{"n": 1}"#, r#"{"n": 2}"#], effect).await;
        let error = error.unwrap();
        assert_eq!(rows, [json!({"n": 1})]);
        assert_eq!((error.outcome(), error.is_retryable(), error.is_retried()), (outcome, retryable, false));
        let (_, error) = read(&[HEAD], effect).await;
        assert_eq!(error.unwrap().outcome(), outcome);
    }
}

#[tokio::test]
async fn cut_body_is_an_error_even_after_a_line_like_a_tail() {
    let body = text(&[HEAD, r#"{"n": 1}"#, TAIL]);
    let server = Server::start(vec![streamed(NDJSON, &body, 1)]).await;
    let mut stream = server.client().build().unwrap().db("app").query("UPDATE").stream::<Value>().await.unwrap();
    let (rows, error) = drain(&mut stream).await;
    let error = error.unwrap();
    assert_eq!((rows.len(), error.outcome(), error.request_id()), (1, Outcome::Unknown, Some("req-1")));
    assert_eq!(error.to_string(), "connection broke before the answer was complete");
}

#[tokio::test]
async fn error_tail_is_the_problem_it_tells() {
    let failed = json!({"error": problem_body(422, "statement_failed", false)}).to_string();
    let (rows, error) = read(&[HEAD, r#"{"n": 1}"#, &failed], Effect::AllOrNothing).await;
    let error = error.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((error.code(), error.outcome()), (Some(ProblemCode::StatementFailed), Outcome::NotApplied));
}

#[tokio::test]
async fn error_in_place_of_the_head_is_told_and_not_tried_again() {
    let failed = json!({"error": problem_body(503, "overloaded", true)}).to_string();
    let server = Server::start(vec![streamed(NDJSON, &failed, 0)]).await;
    let client = server.client().build().unwrap();
    let error = client.db("app").query("SELECT n").stream::<Value>().await.unwrap_err();
    assert_eq!(error.code(), Some(ProblemCode::Overloaded));
    assert_eq!(server.requests().await.len(), 1);
    for body in ["", "\n", "oops\n"] {
        let error = start([body.as_bytes()], Effect::None).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }
}

#[tokio::test]
async fn answer_in_another_form_is_not_taken_for_rows() {
    let server = Server::start(vec![canned::ok(r#"{"columns": [], "rows": []}"#)]).await;
    let client = server.client().build().unwrap();
    let error = client.db("app").query("SELECT n").stream::<Value>().await.unwrap_err();
    assert_eq!((error.status(), error.outcome()), (Some(200), Outcome::Unknown));
}

#[tokio::test]
async fn split_at_any_byte_makes_no_difference() {
    let body = text(&[HEAD, r#"{"n": "ü\n"}"#, TAIL, TAIL]);
    for first in 0..body.len() {
        for second in [first, (first + 3).min(body.len())] {
            let bytes = body.as_bytes();
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            let mut stream = start(pieces, Effect::None).await.unwrap();
            let (rows, error) = drain(&mut stream).await;
            assert!(error.is_none(), "{error:?} at {first}");
            assert_eq!((rows.len(), &rows[0], stream.row_count()), (2, &json!({"n": "ü\n"}), Some(2)), "at {first}");
        }
    }
}

#[tokio::test]
async fn cut_at_any_byte_is_never_a_whole_result() {
    let body = text(&[HEAD, r#"{"n": 1}"#, TAIL]);
    // Without the last line's end the tail still stands there whole.
    for length in 0..body.len() - 1 {
        let Ok(mut stream) = start([&body.as_bytes()[..length]], Effect::AllOrNothing).await else { continue };
        assert!(drain(&mut stream).await.1.is_some(), "cut at {length}");
    }
}

#[tokio::test]
async fn row_that_does_not_fit_ends_the_stream_before_its_effect_is_known() {
    let body = text(&[HEAD, "[1]", r#"["x"]"#, "[3]", TAIL]);
    let chunks = canned::chunks([body.as_bytes()], Effect::AllOrNothing);
    let mut stream: RowStream<(i32,)> = RowStream::start(chunks).await.unwrap();
    let (rows, error) = drain(&mut stream).await;
    assert_eq!(rows, [(1,)]);
    assert_eq!(error.unwrap().outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn stream_outlasts_the_timeout_once_it_has_begun() {
    let lines = [HEAD, "1", "2", TAIL].map(|line| format!("{line}\n"));
    let Step::Answer(head) = streamed(NDJSON, "", lines.concat().len()) else { unreachable!() };
    let pieces = [[head].as_slice(), &lines].concat();
    let server = Server::start(vec![Step::Trickle(pieces, Duration::from_millis(400))]).await;
    // With the quarter of a second that the client adds, less than the whole takes.
    let client = server.client().timeout(Duration::from_secs(1)).build().unwrap();
    let mut stream = client.db("app").query("SELECT n").stream::<Value>().await.unwrap();
    let (rows, error) = drain(&mut stream).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(rows, [json!(1), json!(2)]);
}

#[tokio::test]
async fn stream_that_does_not_begin_ends_at_the_timeout() {
    let head = format!("HTTP/1.1 200 Canned\r\ncontent-type: {NDJSON}\r\ncontent-length: 9\r\n\r\n");
    for step in [Step::Stall, Step::Trickle(vec![head, "{".to_owned(), "}".to_owned()], Duration::from_millis(300))] {
        let server = Server::start(vec![step]).await;
        let client = server.client().build().unwrap().with_timeout(Duration::from_millis(200));
        let error = client.db("app").query("SELECT n").stream::<Value>().await.unwrap_err();
        assert_eq!((error.is_timeout(), error.outcome()), (true, Outcome::Unknown), "{error:?}");
    }
}

#[tokio::test]
async fn slow_reader_holds_back_the_sender() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ClientBuilder::new(&format!("http://{}", listener.local_addr().unwrap()), "k").build().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sender = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.read_u8().await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {NDJSON}\r\ntransfer-encoding: chunked\r\n\r\n");
        connection.write_all(format!("{head}{:x}\r\n{HEAD}\n\r\n", HEAD.len() + 1).as_bytes()).await.unwrap();
        let row = format!("\"{}\"\n", "x".repeat(60_000));
        while connection.write_all(format!("{:x}\r\n{row}\r\n", row.len()).as_bytes()).await.is_ok() {
            counter.fetch_add(row.len(), Ordering::Relaxed);
        }
    });
    let mut stream = client.db("app").query("SELECT n").stream::<String>().await.unwrap();
    let mut read = 0;
    for _ in 0..1000 {
        read += stream.next().await.unwrap().unwrap().len();
    }
    // What the kernel's buffers hold on both sides, and no more.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before - read < 32 << 20, "{} bytes are ahead", before - read);
    drop(stream);
    sender.await.unwrap();
}

#[test]
fn futures_are_send() {
    fn assert_send(_: &impl Send) {}
    let query = || Client::new("http://127.0.0.1:1", "key").unwrap().db("app").query("");
    assert_send(&async move {
        let mut stream = query().stream::<Value>().await.unwrap();
        while let Some(row) = stream.next().await {
            row.unwrap();
        }
    });
}
