//! What is under way at a database while a reload replaces it or takes it away.

use std::time::Duration;

use hearth_tests::events::Events;
use hearth_tests::{Options, Stack, eventually};
use serde_json::json;

use super::reloaded;

/// The configuration without the database.
fn take_away(stack: &Stack) {
    let text = std::fs::read_to_string(&stack.config).expect("is there");
    let (head, rest) = text.split_once("[databases.app]").expect("there is one");
    let (_, tail) = rest.split_once("[caches.main]").expect("there is one");
    let without = format!("{head}[caches.main]{}", tail.replace("databases = [\"app\"]\n", ""));
    std::fs::write(&stack.config, without).expect("writes");
}

async fn listen(stack: &Stack) -> Events {
    let response = stack.get("/v1/db/app/listen/c").bearer_auth(&stack.key).send().await.expect("is answered");
    assert_eq!(response.status(), 200);
    let mut events = Events::new(response);
    events.expect("listening").await;
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_and_who_waits_is_served_by_a_database_taken_away() {
    let stack = Stack::with(Options { pool_max: 1, ..Options::default() }).await;
    let running = stack.query("SELECT pg_sleep(1), 1 AS n", json!([]));
    let waiting = async {
        eventually("one runs", async || stack.sleeping().await == 1).await;
        stack.query("SELECT 2 AS n", json!([])).await
    };
    let taken = async {
        let endpoint = &stack.broker.databases["app"].endpoints()[0];
        eventually("one waits", async || endpoint.status().waiting == 1).await;
        take_away(&stack);
        reloaded(&stack).await;
        stack.query("SELECT 3", json!([])).await
    };
    let (running, waiting, after) = tokio::join!(running, waiting, taken);
    assert_eq!((running.status, waiting.status), (200, 200), "{} {}", running.text, waiting.text);
    assert_eq!(waiting.first(), 2);
    after.assert_problem(404, "unknown_database", "not_applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_database_taken_away_goes_on_to_its_end() {
    let mut stack = Stack::start().await;
    let sql = "SELECT g, repeat('x', 1000) FROM generate_series(1, 50000) g";
    let ask = stack.request("/v1/db/app/query", &stack.key).header("accept", "application/x-ndjson");
    let mut response = ask.body(json!({"sql": sql}).to_string()).send().await.expect("is answered");
    let mut text = response.chunk().await.expect("goes on").expect("has begun").to_vec();
    take_away(&stack);
    reloaded(&stack).await;
    stack.broker = stack.live.now();
    // The pool is closed, but for the session that the stream has.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    eventually("the others are closed", async || stack.count(sessions).await == 1).await;
    while let Some(piece) = response.chunk().await.expect("goes on") {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8(text).expect("is text");
    assert!(text.trim_end().lines().last().is_some_and(|last| last.contains("\"row_count\":50000")), "was cut");
    eventually("and then this one", async || stack.count(sessions).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ears_are_told_to_listen_again_and_hear_the_new_database() {
    let stack = Stack::start().await;
    let mut events = listen(&stack).await;
    stack.edit("max = 4", "max = 3");
    reloaded(&stack).await;
    let error = events.expect("error").await;
    assert_eq!((&error["code"], &error["retryable"]), (&json!("draining"), &json!(true)), "{error}");
    assert!(error["detail"].as_str().is_some_and(|detail| detail.contains("`app` has changed")), "{error}");
    assert_eq!(events.next().await, None);
    let mut again = listen(&stack).await;
    // A reload that leaves the database alone leaves its ears alone.
    stack.edit("[tenants.other]", "[tenants.third]\n[tenants.other]");
    reloaded(&stack).await;
    stack.witness.execute("SELECT pg_notify('c', 'heard')", &[]).await.expect("the witness can notify");
    assert_eq!(again.payload().await, "heard");
    let usage = stack.send(stack.get("/v1/whoami").bearer_auth(&stack.key)).await.body["usage"].clone();
    assert_eq!(usage["listeners"], 1, "of two generations");
}

/// The switch-over: pause, another address, reload, resume.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_database_stays_paused_and_lets_go_of_who_waits_for_the_old_one() {
    let stack = Stack::start().await;
    stack.witness.batch_execute("CREATE DATABASE app2 OWNER app").await.expect("the owner may");
    let control = async |act: &str| {
        let url = format!("{}/admin/v1/databases/app/{act}", stack.admin_url);
        stack.send(reqwest::Client::new().post(url)).await
    };
    control("pause").await;
    let early = stack.query("SELECT 1", json!([]));
    let moved = async {
        // Nothing shows a caller that waits for a resume but the tenant's count.
        eventually("one waits", async || stack.live.now().tenants["acme"].in_flight() == 1).await;
        stack.edit("/app?", "/app2?");
        reloaded(&stack).await;
    };
    let (early, ()) = tokio::join!(early, moved);
    early.assert_problem(503, "draining", "not_applied");
    assert_eq!(early.body["retryable"], true);
    let late = stack.query("SELECT current_database()::text", json!([]));
    let resume = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(stack.live.now().databases["app"].is_paused());
        control("resume").await
    };
    let (late, _) = tokio::join!(late, resume);
    assert_eq!(late.first(), "app2", "{}", late.text);
}
