//! A primary and a replica: who serves what, how new it is, and what happens when the primary dies.

use std::time::Duration;

use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

const QUERY: &str = "/v1/db/app/query";
const CONSISTENCY: &str = "hearth-consistency";
const SERVED_BY: &str = "hearth-served-by";

async fn stack() -> Stack {
    let stack = Stack::with(Options { replica: true, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4 PRIMARY KEY)").await;
    stack
}

async fn write(stack: &Stack, id: i32) -> Answer {
    stack.query("INSERT INTO t VALUES ($1)", json!([id])).await
}

/// Reads, from a replica where there is one that is new enough.
async fn read(stack: &Stack, sql: &str, params: Value, token: Option<&str>) -> Answer {
    let body = json!({"sql": sql, "params": params, "read_only": true}).to_string();
    let request = stack.request(QUERY, &stack.key).body(body);
    stack.send(if let Some(token) = token { request.header(CONSISTENCY, token) } else { request }).await
}

async fn count(stack: &Stack, id: i32, token: &str) -> Answer {
    read(stack, "SELECT count(*)::int4 AS n FROM t WHERE id = $1", json!([id]), Some(token)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_a_token_reads_what_was_written() {
    let stack = stack().await;
    eventually("a replica serves", async || {
        read(&stack, "SELECT 1", json!([]), None).await.header(SERVED_BY) == "replica"
    })
    .await;
    let mut by_replica = 0;
    for id in 0..200 {
        let written = write(&stack, id).await;
        assert_eq!((written.status, written.header(SERVED_BY)), (200, "primary"), "{}", written.text);
        let seen = count(&stack, id, written.header(CONSISTENCY)).await;
        assert_eq!((seen.status, seen.first()), (200, &json!(1)), "{id} at once: {}", seen.text);
        by_replica += i32::from(seen.header(SERVED_BY) == "replica");
    }
    println!("{by_replica} of 200 reads were served by the replica at once");

    // A replica that stands still is left alone by who has written since, and serves the others.
    let replica = stack.replica.as_ref().expect("there is one").witness().await;
    replica.execute("SELECT pg_wal_replay_pause()", &[]).await.expect("stands still");
    let written = write(&stack, 1000).await;
    let seen = count(&stack, 1000, written.header(CONSISTENCY)).await;
    assert_eq!((seen.header(SERVED_BY), seen.first()), ("primary", &json!(1)), "{}", seen.text);
    let old = read(&stack, "SELECT count(*)::int4 AS n FROM t WHERE id = 1000", json!([]), None).await;
    assert_eq!((old.header(SERVED_BY), old.first()), ("replica", &json!(0)), "{}", old.text);
    replica.execute("SELECT pg_wal_replay_resume()", &[]).await.expect("goes on");
    let token = written.header(CONSISTENCY);
    eventually("the replica has caught up", async || {
        let seen = count(&stack, 1000, token).await;
        assert_eq!(seen.first(), &json!(1), "never older: {}", seen.text);
        seen.header(SERVED_BY) == "replica"
    })
    .await;

    read(&stack, "SELECT 1", json!([]), Some("v1.nonsense")).await.assert_problem(
        400,
        "invalid_request",
        "not_applied",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_takes_the_writes_and_has_them_all() {
    let mut stack = stack().await;
    let mut acknowledged = Vec::new();
    let mut token = String::new();
    for id in 0..50 {
        let written = write(&stack, id).await;
        assert_eq!(written.status, 200, "{}", written.text);
        written.header(CONSISTENCY).clone_into(&mut token);
        acknowledged.push(id);
    }
    stack.postgres.halt("KILL").await.expect("it dies");
    let away = stack
        .send(
            stack
                .request(QUERY, &stack.key)
                .header("hearth-timeout-ms", "300")
                .body(json!({"sql": "INSERT INTO t VALUES (900)"}).to_string()),
        )
        .await;
    assert!([502, 503, 504].contains(&away.status), "nobody takes writes: {}", away.text);
    let read_meanwhile = read(&stack, "SELECT count(*)::int4 AS n FROM t", json!([]), None).await;
    assert_eq!((read_meanwhile.status, read_meanwhile.header(SERVED_BY)), (200, "replica"), "{}", read_meanwhile.text);

    stack.replica.as_ref().expect("there is one").promote().await;
    let promoted = Instant::now();
    // Nobody confirms writes any more.
    let owner = stack.replica.as_ref().expect("there is one").witness().await;
    owner.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("the owner may");
    owner.batch_execute("SELECT pg_reload_conf()").await.expect("the owner may");
    let mut id = 1000;
    let took = loop {
        id += 1;
        let written = write(&stack, id).await;
        if written.status == 200 {
            acknowledged.push(id);
            break promoted.elapsed();
        }
        assert!(promoted.elapsed() < Duration::from_secs(20), "{}", written.text);
    };
    println!("writes succeed {} ms after the promotion", took.as_millis());
    let seen = read(&stack, "SELECT id FROM t ORDER BY id", json!([]), Some(&token)).await;
    let rows = seen.body["rows"].as_array().unwrap_or_else(|| panic!("{}", seen.text));
    let there: Vec<i64> = rows.iter().filter_map(|row| row["id"].as_i64()).collect();
    for id in acknowledged {
        assert!(there.contains(&i64::from(id)), "{id} was acknowledged: {there:?}");
    }

    // The old primary comes back and does not know that it was replaced.
    let (postgres, scratch) = (&mut stack.postgres, &stack.scratch);
    postgres.restart(scratch).await.expect("starts again");
    eventually("the broker has seen two that say they are primaries", async || {
        let pools = stack.send(reqwest::Client::new().get(format!("{}/admin/v1/pools", stack.admin_url))).await;
        let pools = pools.body["pools"].as_array().cloned().unwrap_or_default();
        pools.iter().filter(|pool| pool["role"] == "primary").count() == 2
    })
    .await;
    for id in 2000..2020 {
        let written = write(&stack, id).await;
        assert_eq!(written.status, 200, "{}", written.text);
        let there: i64 =
            owner.query_one("SELECT count(*) FROM t WHERE id = $1", &[&id]).await.expect("the owner may ask").get(0);
        assert_eq!(there, 1, "{id} was written where it belongs");
    }
}
