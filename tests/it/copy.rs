//! Bulk data both ways.

use std::fmt::Write as _;

use hearth_tests::{Answer, Options, Stack, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const COPY: &str = "/v1/db/app/copy";

async fn load(stack: &Stack, sql: &str, data: impl Into<reqwest::Body>) -> Answer {
    stack.send(stack.request(&stack.copy_path(sql), &stack.key).body(data)).await
}

fn unload(stack: &Stack, sql: &str) -> reqwest::RequestBuilder {
    stack.get(&stack.copy_path(sql)).bearer_auth(&stack.key)
}

async fn table(stack: &Stack) {
    stack.ok("CREATE TABLE t (id int4 PRIMARY KEY, name text, at timestamptz)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_go_in_and_come_out_as_the_copy_says() {
    let stack = Stack::with(Options { pool_max: 1, ..Options::default() }).await;
    table(&stack).await;
    let csv = "id,name,at\n1,\"a,b\",2026-01-01 00:00:00+00\n2,,\n3,ü,2026-01-02 00:00:00+00\n";
    let answer = load(&stack, "COPY t FROM STDIN (FORMAT csv, HEADER)", csv).await;
    assert_eq!(answer.text, format!("{{\"command\":\"COPY\",\"rows\":3,\"bytes\":{}}}", csv.len()));
    let out = stack.send(unload(&stack, "COPY (TABLE t ORDER BY id) TO STDOUT (FORMAT csv, HEADER)")).await;
    assert_eq!((out.text.as_str(), out.header("content-type")), (csv, "text/csv; charset=utf-8"));
    for format in ["text", "binary"] {
        let out = unload(&stack, &format!("COPY t TO STDOUT (FORMAT {format})")).send().await.expect("begins");
        let kind = if format == "text" { "text/plain; charset=utf-8" } else { "application/octet-stream" };
        assert_eq!(out.headers()["content-type"], kind);
        let data = out.bytes().await.expect("reads to its end");
        stack.ok("TRUNCATE t").await;
        let answer = load(&stack, &format!("COPY t FROM STDIN (FORMAT {format})"), data).await;
        assert_eq!(answer.body["rows"], 3, "{}", answer.text);
    }
    assert_eq!(stack.count("SELECT count(*) FROM t WHERE name IS NULL").await, 1);
    let mut large = String::new();
    for n in 10..200_000 {
        writeln!(large, "{n}\tname of {n}\t\\N").expect("writes");
    }
    let bytes = large.len();
    let answer = load(&stack, "COPY t FROM STDIN", large).await;
    assert_eq!((&answer.body["rows"], &answer.body["bytes"]), (&199_990.into(), &bytes.into()));
    let out =
        stack.send(unload(&stack, "COPY (SELECT id, name, at FROM t WHERE id >= 10 ORDER BY id) TO STDOUT")).await;
    assert_eq!(out.text.len(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_and_load_nothing() {
    let server = "reader_timeout = \"500ms\"".to_owned();
    let stack = Stack::with(Options { pool_max: 1, server, ..Options::default() }).await;
    table(&stack).await;
    for sql in [
        "SELECT 1",
        "COPY t TO STDOUT",
        "COPY t FROM '/etc/passwd'",
        "COPY t FROM PROGRAM 'id'",
        "INSERT INTO t SELECT 1 FROM stdin",
        "",
    ] {
        load(&stack, sql, "1\n").await.assert_problem(400, "invalid_request", "not_applied");
    }
    for sql in ["SELECT 1", "COPY t FROM STDIN", "COPY t TO '/tmp/x'"] {
        stack.send(unload(&stack, sql)).await.assert_problem(400, "invalid_request", "not_applied");
    }
    let missing = stack.send(stack.request(COPY, &stack.key).body("1")).await;
    missing.assert_problem(400, "invalid_request", "not_applied");
    load(&stack, "COPY nope FROM STDIN", "1\n").await.assert_problem(422, "statement_failed", "not_applied");
    stack.send(unload(&stack, "COPY nope TO STDOUT")).await.assert_problem(422, "statement_failed", "not_applied");
    let bad = load(&stack, "COPY t (id) FROM STDIN", "1\n2\nthree\n4\n").await;
    bad.assert_problem(422, "statement_failed", "not_applied");
    assert!(bad.body["postgres"]["where"].as_str().is_some_and(|at| at.contains("line 3")), "{}", bad.text);
    load(&stack, "COPY t (id) FROM STDIN", "1\n2\n1\n").await.assert_problem(409, "conflict", "not_applied");
    // Refused early, in the middle of much more: the answer still arrives.
    let early = load(&stack, "COPY t (id) FROM STDIN", "x\n".repeat(4_000_000)).await;
    early.assert_problem(422, "statement_failed", "not_applied");
    let reader = stack.request(&stack.copy_path("COPY t FROM STDIN"), &stack.reader).body("1");
    stack.send(reader).await.assert_problem(403, "forbidden", "not_applied");
    let writes = "COPY (INSERT INTO t VALUES (1) RETURNING id) TO STDOUT";
    let reader = stack.get(&stack.copy_path(writes)).bearer_auth(&stack.reader);
    stack.send(reader).await.assert_problem(403, "forbidden", "not_applied");
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    // An error midway cannot be told in the data: the body breaks off.
    let midway = unload(&stack, "COPY (SELECT 1 / (50000 - n) FROM generate_series(1, 100000) n) TO STDOUT");
    let midway = midway.send().await.expect("begins");
    assert_eq!(midway.status(), 200);
    assert!(midway.bytes().await.is_err());
    // A sender that stalls.
    let mut stalled = open(&stack, 1_000).await;
    stalled.write_all(b"1\ta\t\\N\n").await.expect("writes");
    eventually("it waits for data", async || stack.running().await == 1).await;
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stalled, &mut answer).await.expect("is answered");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(stack.ok("SELECT count(*) AS n FROM t").await.first(), "0");
}

/// Begins an upload that says it has so many bytes.
async fn open(stack: &Stack, length: usize) -> TcpStream {
    let mut socket = TcpStream::connect(stack.url.trim_start_matches("http://")).await.expect("connects");
    let head = format!(
        "POST {COPY}?sql=COPY%20t%20FROM%20STDIN HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\r\n",
        stack.key,
    );
    socket.write_all(head.as_bytes()).await.expect("writes");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_anywhere_loads_nothing() {
    const CUTS: usize = 10;
    let stack = Stack::with(Options { pool_max: 2, ..Options::default() }).await;
    table(&stack).await;
    let mut data = String::new();
    for n in 0..100_000 {
        writeln!(data, "{n}\tsomebody called {n}\t\\N").expect("writes");
    }
    // Anywhere, also behind the last byte but one, and exactly at the end of a row.
    let mut seed = 42_usize;
    let mut cuts: Vec<usize> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 20) % data.len()
    })
    .take(CUTS)
    .collect();
    cuts.extend([0, data.len() - 1, data[..data.len() / 2].rfind('\n').expect("rows") + 1]);
    for cut in cuts {
        let mut socket = open(&stack, data.len()).await;
        socket.write_all(&data.as_bytes()[..cut]).await.expect("writes");
        if cut > 0 {
            eventually("it loads", async || stack.running().await > 0).await;
        }
        drop(socket);
        eventually("it stops", async || stack.running().await == 0).await;
        assert_eq!(stack.count("SELECT count(*) FROM t").await, 0, "cut after {cut} bytes");
    }
    assert_eq!(load(&stack, "COPY t FROM STDIN", data).await.body["rows"], 100_000);
}
