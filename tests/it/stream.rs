//! Results that leave as they come.

use std::time::Duration;

use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const QUERY: &str = "/v1/db/app/query";
const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv";

fn ask(stack: &Stack, body: &Value, accept: &str) -> reqwest::RequestBuilder {
    stack.request(QUERY, &stack.key).header("accept", accept).body(body.to_string())
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// Sends a request and reads nothing of the answer.
async fn send_raw(stack: &Stack, body: &Value) -> TcpStream {
    let mut socket = TcpStream::connect(stack.url.trim_start_matches("http://")).await.expect("connects");
    let body = body.to_string();
    let head = format!(
        "POST {QUERY} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\naccept: {NDJSON}\r\ncontent-length: {}\r\n\r\n{body}",
        stack.key,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("writes");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_is_columns_rows_and_an_end() {
    let stack = Stack::start().await;
    let body = json!({"sql": "SELECT n AS id, 'a' || n AS name, E'{\"x\":\\n\\r 1}'::json AS j FROM generate_series(1, $1::int4) n", "params": [3]});
    let answer = stack.send(ask(&stack, &body, NDJSON)).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, NDJSON));
    let lines = lines(&answer);
    assert_eq!(lines.len(), 5, "{}", answer.text);
    assert_eq!(lines[0]["columns"][1], json!({"name": "name", "type": "text", "oid": 25}));
    assert_eq!(lines[2], json!({"id": 2, "name": "a2", "j": {"x": 1}}));
    assert_eq!(lines[4], json!({"row_count": 3, "command": "SELECT"}));
    assert!(answer.header("server-timing").contains("db;dur="));
    let arrays = json!({"sql": "SELECT 1 AS a, 2 AS a", "rows": "array", "values": "text"});
    let answer = stack.send(ask(&stack, &arrays, NDJSON)).await;
    assert_eq!(answer.text.lines().nth(1), Some("[\"1\",\"2\"]"));
    let none = stack.send(ask(&stack, &json!({"sql": "CREATE TABLE t (id int4)"}), NDJSON)).await;
    assert_eq!(none.text, "{\"columns\":[]}\n{\"row_count\":0,\"command\":\"CREATE TABLE\"}\n");
    let writes = stack.send(ask(&stack, &json!({"sql": "INSERT INTO t SELECT generate_series(1, 4)"}), NDJSON)).await;
    assert_eq!(self::lines(&writes)[1], json!({"row_count": 4, "command": "INSERT"}));
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 4, "a stream commits");
    let json =
        stack.send(ask(&stack, &json!({"sql": "SELECT 1 AS n"}), "application/json, application/x-ndjson;q=0.5")).await;
    assert_eq!(json.first(), 1);
    stack.send(ask(&stack, &json!({"sql": "SELECT 1"}), "text/html")).await.assert_problem(
        400,
        "invalid_request",
        "not_applied",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_what_copy_writes() {
    let stack = Stack::start().await;
    let sql = "SELECT * FROM (VALUES (1, 'plain', NULL::text, '', now() > 'epoch'), (2, 'say \"hi\"', 'a,b', E'x\\ny\\r', false), \
               (3, '\\.', ' ', 'ü', true)) AS t (id, \"na,me\", c, d, ok)";
    let answer = stack.send(ask(&stack, &json!({"sql": sql}), CSV)).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/csv; charset=utf-8; header=present"));
    let copy = stack.get(&stack.copy_path(&format!("COPY ({sql}) TO STDOUT (FORMAT csv, HEADER)")));
    let copy = stack.send(copy.bearer_auth(&stack.key)).await;
    assert_eq!(answer.text, copy.text);
    assert_eq!(answer.text.lines().next(), Some("id,\"na,me\",c,d,ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_before_the_first_row_is_a_problem_and_one_midway_the_last_line() {
    let stack = Stack::with(Options { pool_max: 1, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4)").await;
    for (sql, status, code) in [
        ("SELEC 1", 422, "statement_failed"),
        ("SELECT 1 / 0", 422, "statement_failed"),
        ("COMMIT", 400, "invalid_request"),
        ("COPY t TO STDOUT", 400, "invalid_request"),
    ] {
        for accept in [NDJSON, CSV] {
            let answer = stack.send(ask(&stack, &json!({"sql": sql}), accept)).await;
            answer.assert_problem(status, code, "not_applied");
        }
    }
    let write = json!({"sql": "INSERT INTO t SELECT n / (n - 50000) FROM generate_series(1, 100000) n RETURNING id"});
    // The server hands out what a write returns only when it has written everything.
    stack.send(ask(&stack, &write, NDJSON)).await.assert_problem(422, "statement_failed", "not_applied");
    let midway = json!({"sql": "SELECT n / (n - 50000) FROM generate_series(1, 100000) n"});
    let answer = stack.send(ask(&stack, &midway, NDJSON)).await;
    assert_eq!(answer.status, 200);
    let told = lines(&answer);
    let error = &told.last().expect("a last line")["error"];
    assert_eq!(
        (&error["code"], &error["sqlstate"], &error["outcome"]),
        (&json!("statement_failed"), &json!("22012"), &json!("not_applied")),
        "{error}"
    );
    assert_eq!(error["request_id"], answer.header("x-request-id"));
    assert!(told.len() > 1_000, "the rows before it are there: {}", told.len());
    let broken = ask(&stack, &midway, CSV).send().await.expect("begins");
    assert_eq!(broken.status(), 200);
    assert!(broken.bytes().await.is_err(), "a CSV that was cut does not end in order");
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    let few = json!({"sql": "SELECT generate_series(1, 10) AS n", "max_rows": 5});
    stack.send(ask(&stack, &few, NDJSON)).await.assert_problem(413, "result_too_large", "not_applied");
    let many = json!({"sql": "SELECT generate_series(1, 30000) AS n", "max_rows": 20000});
    let many = lines(&stack.send(ask(&stack, &many, NDJSON)).await);
    assert_eq!((many.len(), &many[20_001]["error"]["code"]), (20_002, &json!("result_too_large")));
    let slow = json!({"sql": "SELECT repeat('x', 9000), pg_sleep(0.05) FROM generate_series(1, 10000) n"});
    let slow = ask(&stack, &slow, NDJSON).header("hearth-timeout-ms", "60000").send().await.expect("begins");
    drop(slow);
    eventually("what nobody reads is stopped", async || stack.running().await == 0).await;
    assert_eq!(stack.ok("SELECT 1 AS n").await.first(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_flow_while_the_statement_runs() {
    let stack = Stack::start().await;
    // The server itself holds back up to 8 KiB.
    let sql = "SELECT repeat('x', 9000), pg_sleep(CASE WHEN n > 4 THEN 20 ELSE 0 END) FROM generate_series(1, 6) n";
    let body = json!({"sql": sql});
    let mut answer = ask(&stack, &body, NDJSON).send().await.expect("begins");
    let mut text = String::new();
    while text.lines().count() < 4 {
        let chunk = answer.chunk().await.expect("reads").expect("more");
        text.push_str(std::str::from_utf8(&chunk).expect("is UTF-8"));
    }
    assert_eq!(stack.running().await, 1, "it still runs");
    drop(answer);
    let left = tokio::time::Instant::now();
    eventually("a reader that leaves stops the statement", async || stack.running().await == 0).await;
    println!("stopped {} ms after its reader had left", left.elapsed().as_millis());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_timeout_ends_what_lasts_too_long() {
    let stack = Stack::with(Options { limits: "stream_timeout = \"1s\"".to_owned(), ..Options::default() }).await;
    let body = json!({"sql": "SELECT repeat('x', 9000), pg_sleep(0.1) FROM generate_series(1, 1000) n"});
    let told = lines(&stack.send(ask(&stack, &body, NDJSON)).await);
    let error = &told.last().expect("a last line")["error"];
    assert_eq!((&error["code"], &error["outcome"]), (&json!("statement_timeout"), &json!("not_applied")));
    eventually("the statement is cancelled", async || stack.running().await == 0).await;
    let begins_late = ask(&stack, &json!({"sql": "SELECT pg_sleep(20)"}), NDJSON).header("hearth-timeout-ms", "200");
    stack.send(begins_late).await.assert_problem(504, "statement_timeout", "not_applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reads_nothing_is_cut_and_its_connection_freed() {
    let server = "reader_timeout = \"300ms\"".to_owned();
    let stack = Stack::with(Options { pool_max: 1, server, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int8, pad text)").await;
    let write = "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 100000) n RETURNING *";
    let mut stalled = send_raw(&stack, &json!({"sql": write})).await;
    eventually("it runs", async || stack.running().await == 1).await;
    // The only connection comes back, though the reader is still there.
    let answer = stack.ok("SELECT count(*) AS n FROM t").await;
    assert_eq!(answer.first(), "0", "and nothing was written");
    let mut rest = Vec::new();
    stalled.read_to_end(&mut rest).await.expect("ends");
    assert!(rest.len() > 1_000 && !rest.ends_with(b"\r\n0\r\n\r\n"), "what was cut does not end in order");
    // A slow reader that does read gets everything.
    let body = json!({"sql": "SELECT n, repeat('x', 1000) AS pad FROM generate_series(1, 20000) n"});
    let mut slow = send_raw(&stack, &body).await;
    let (mut seen, mut tail, mut buffer) = (0, Vec::new(), vec![0; 1 << 20]);
    loop {
        let read = slow.read(&mut buffer).await.expect("reads");
        seen += read;
        tail.extend_from_slice(&buffer[..read]);
        let from = tail.len().saturating_sub(100);
        tail.drain(..from);
        if String::from_utf8_lossy(&tail).contains("\"row_count\":20000") {
            break;
        }
        assert!(read > 0, "cut after {seen} bytes: {}", String::from_utf8_lossy(&tail));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen > 20_000_000);
}
