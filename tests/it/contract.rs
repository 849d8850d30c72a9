//! `POST /v1/db/{database}/query`, member by member.

use std::time::Duration;

use hearth_tests::{Options, Stack, eventually};
use serde_json::json;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_query_answers_as_the_contract_says() {
    let stack = Stack::start().await;
    let body = json!({"sql": "SELECT $1::int8 AS id, 'Ada' AS name, $2::text[] AS tags", "params": [42, ["x", "y"]]});

    let answer = stack.post("/v1/db/app/query", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(
        answer.body,
        json!({
            "columns": [{"name": "id", "type": "int8", "oid": 20}, {"name": "name", "type": "text", "oid": 25},
                {"name": "tags", "type": "text[]", "oid": 1009}],
            "rows": [{"id": "42", "name": "Ada", "tags": ["x", "y"]}],
            "row_count": 1, "command": "SELECT"
        })
    );
    for part in ["auth;dur=", "queue;dur=", "db;dur="] {
        assert!(answer.header("server-timing").contains(part), "{}", answer.header("server-timing"));
    }

    let mut arrays = body.clone();
    arrays["rows"] = json!("array");
    arrays["int8"] = json!("number");
    assert_eq!(stack.post("/v1/db/app/query", &arrays).await.body["rows"], json!([[42, "Ada", ["x", "y"]]]));

    let twice = json!({"sql": "SELECT 1 AS a, 2 AS a", "rows": "array"});
    assert_eq!(
        stack.post("/v1/db/app/query", &twice).await.body["rows"],
        json!([[1, 2]]),
        "arrays keep duplicate names"
    );

    let none = stack.query("CREATE TABLE t (id int4 PRIMARY KEY, v jsonb, b bytea)", json!([])).await;
    assert_eq!(none.body, json!({"columns": [], "rows": [], "row_count": 0, "command": "CREATE TABLE"}));
    let insert = stack
        .query("INSERT INTO t VALUES ($1, $2, $3), (2, NULL, NULL)", json!([1, {"a": [1]}, {"$bytes": "AP8="}]))
        .await;
    assert_eq!((&insert.body["row_count"], &insert.body["command"]), (&json!(2), &json!("INSERT")));
    let back = stack.query("SELECT v, b FROM t ORDER BY id", json!([])).await;
    assert_eq!(back.body["rows"], json!([{"v": {"a": [1]}, "b": "\\x00ff"}, {"v": null, "b": null}]));
    let text = stack.query("UPDATE t SET v = $1 WHERE id = 2 RETURNING v", json!(["a string"])).await;
    assert_eq!(text.first(), "a string", "a string is a JSON string where json is wanted");
    assert_eq!(stack.query("DELETE FROM t", json!([])).await.body["row_count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_can_be_named_by_the_request() {
    let stack = Stack::start().await;
    stack.ok("CREATE TYPE mood AS ENUM ('sad', 'happy')").await;
    let typed =
        |types: serde_json::Value| json!({"sql": "SELECT pg_typeof($1)::text AS t", "params": ["1"], "types": types});
    for (name, printed) in
        [("int8", "bigint"), ("text", "text"), ("numeric", "numeric"), ("varchar", "character varying")]
    {
        assert_eq!(stack.post("/v1/db/app/query", &typed(json!([name]))).await.first(), printed);
    }
    let mood = json!({"sql": "SELECT pg_typeof($1)::text AS t", "params": ["sad"], "types": ["mood"]});
    assert_eq!(stack.post("/v1/db/app/query", &mood).await.first(), "mood");
    let array = json!({"sql": "SELECT $1 AS t", "params": [[1, 2]], "types": ["int4[]"]});
    assert_eq!(stack.post("/v1/db/app/query", &array).await.first(), &json!([1, 2]));
    let inferred = json!({"sql": "SELECT $1::int4 + $2::int4 AS t", "params": [1, 2], "types": ["int4", null]});
    assert_eq!(stack.post("/v1/db/app/query", &inferred).await.first(), 3);
    let unknown = stack.post("/v1/db/app/query", &typed(json!(["no_such_type"]))).await;
    unknown.assert_problem(400, "invalid_request", "not_applied");
    assert!(unknown.text.contains("no_such_type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_is_enforced_by_the_server() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4)").await;
    // A function hides the write from every reader of SQL text.
    stack.ok("CREATE FUNCTION sneak() RETURNS int4 LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING id'").await;
    for sql in [
        "INSERT INTO t VALUES (1)",
        "SELECT sneak()",
        "WITH w AS (DELETE FROM t RETURNING 1) SELECT * FROM w",
        "CREATE TABLE u ()",
    ] {
        let answer = stack.post("/v1/db/app/query", &json!({"sql": sql, "read_only": true})).await;
        answer.assert_problem(403, "forbidden", "not_applied");
        assert_eq!(answer.body["sqlstate"], "25006", "{sql}");
        let by_key =
            stack.send(stack.request("/v1/db/app/query", &stack.reader).body(json!({"sql": sql}).to_string())).await;
        by_key.assert_problem(403, "forbidden", "not_applied");
    }
    for sql in [
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "COMMIT",
        "DO $$ BEGIN COMMIT; END $$",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    ] {
        // Whatever this is allowed to do, the next request of the same key is read only again.
        stack.send(stack.request("/v1/db/app/query", &stack.reader).body(json!({"sql": sql}).to_string())).await;
        let next = stack
            .send(stack.request("/v1/db/app/query", &stack.reader).body(json!({"sql": "SELECT sneak()"}).to_string()))
            .await;
        next.assert_problem(403, "forbidden", "not_applied");
    }
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    let read = stack.post("/v1/db/app/query", &json!({"sql": "SELECT count(*) AS n FROM t", "read_only": true})).await;
    assert_eq!((read.first(), &read.body["command"]), (&json!("0"), &json!("SELECT")));
    assert_eq!(stack.ok("SELECT sneak()").await.first(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_over_a_limit_says_what_became_of_the_write() {
    let stack = Stack::with(Options { limits: "max_result_bytes = \"64KiB\"".to_owned(), ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let read = stack.query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)", json!([])).await;
    read.assert_problem(413, "result_too_large", "not_applied");
    let write = stack
        .query("INSERT INTO t SELECT g FROM generate_series(1, 20000) g RETURNING id, repeat('x', 100)", json!([]))
        .await;
    write.assert_problem(413, "result_too_large", "applied");
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 20_000);
    let rows = |max| json!({"sql": "SELECT * FROM generate_series(1, 3)", "max_rows": max});
    stack.post("/v1/db/app/query", &rows(2)).await.assert_problem(413, "result_too_large", "not_applied");
    assert_eq!(stack.post("/v1/db/app/query", &rows(3)).await.body["row_count"], 3);
    eventually("the large read is cancelled", async || stack.running().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_cancels_in_the_database_and_a_late_request_never_starts() {
    let stack = Stack::with(Options { pool_max: 1, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let within = |ms: &str, sql: &str| {
        stack
            .request("/v1/db/app/query", &stack.key)
            .header("Hearth-Timeout-Ms", ms)
            .body(json!({"sql": sql}).to_string())
    };
    let slow = stack.send(within("200", "INSERT INTO t SELECT 1 FROM pg_sleep(30)")).await;
    slow.assert_problem(504, "statement_timeout", "not_applied");
    assert_eq!(stack.running().await, 0);
    // The only connection is busy: the second request's deadline passes in the queue.
    let (busy, queued) = tokio::join!(stack.send(within("1500", "SELECT pg_sleep(30)")), async {
        eventually("the first runs", async || stack.sleeping().await == 1).await;
        stack.send(within("100", "INSERT INTO t VALUES (1)")).await
    });
    busy.assert_problem(504, "statement_timeout", "not_applied");
    queued.assert_problem(503, "queue_deadline", "not_applied");
    assert_eq!(queued.body["retryable"], true);
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    stack.send(within("soon", "SELECT 1")).await.assert_problem(400, "invalid_request", "not_applied");
    assert_eq!(stack.ok("SELECT 1 AS n").await.first(), 1);
    let capped = Stack::with(Options {
        limits: "max_timeout = \"300ms\", default_timeout = \"300ms\"".to_owned(),
        ..Options::default()
    })
    .await;
    let request = capped.request("/v1/db/app/query", &capped.key).header("Hearth-Timeout-Ms", "60000");
    capped.send(request.body(json!({"sql": "SELECT pg_sleep(30)"}).to_string())).await.assert_problem(
        504,
        "statement_timeout",
        "not_applied",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_its_statement() {
    let stack = Stack::with(Options { pool_max: 1, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let body = json!({"sql": "INSERT INTO t SELECT 1 FROM pg_sleep(20)"}).to_string();
    let head = format!(
        "POST /v1/db/app/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        stack.key,
        body.len()
    );
    let mut socket = tokio::net::TcpStream::connect(stack.url.trim_start_matches("http://")).await.expect("connects");
    socket.write_all(head.as_bytes()).await.expect("sends");
    eventually("it runs", async || stack.sleeping().await == 1).await;
    let left = tokio::time::Instant::now();
    drop(socket);
    eventually("it is cancelled", async || stack.running().await == 0).await;
    assert!(left.elapsed() < Duration::from_secs(5), "far sooner than the statement would have ended");
    assert_eq!(stack.ok("SELECT count(*) AS n FROM t").await.first(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_pages_are_there_without_a_key() {
    let stack = Stack::start().await;
    for path in ["/healthz", "/readyz", "/openapi.json", "/problems/conflict"] {
        assert_eq!(stack.send(stack.get(path)).await.status, 200, "{path}");
    }
    let document = stack.send(stack.get("/openapi.json")).await.body;
    let paths: Vec<&String> = document["paths"].as_object().expect("has paths").keys().collect();
    let told = [
        "/v1/db/{database}/query",
        "/v1/db/{database}/listen/{channel}",
        "/v1/redis/{cache}",
        "/v1/redis/{cache}/pipeline",
        "/v1/redis/{cache}/multi-exec",
        "/v1/whoami",
        "/v1/db/{database}/batch",
        "/v1/db/{database}/statements/{name}",
        "/v1/db/{database}/copy",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/problems/{code}",
    ];
    for path in told {
        assert!(paths.iter().any(|known| *known == path), "{path} is not in {paths:?}");
    }
    assert_eq!(paths.len(), told.len());
    for code in document["components"]["schemas"]["ProblemCode"]["enum"].as_array().expect("a closed set") {
        let path = format!("/problems/{}", code.as_str().expect("is text"));
        if path != "/problems/other" {
            assert_eq!(stack.send(stack.get(&path)).await.status, 200, "{path}");
        }
    }
    stack.send(stack.get("/problems/nonsense")).await.assert_problem(404, "not_found", "not_applied");
    stack.send(stack.get("/nowhere")).await.assert_problem(404, "not_found", "not_applied");
    stack.send(stack.get("/v1/db/app/query")).await.assert_problem(405, "method_not_allowed", "not_applied");
    let echoed = stack.send(stack.get("/healthz").header("x-request-id", "mine-1")).await;
    assert_eq!(echoed.header("x-request-id"), "mine-1");
}
