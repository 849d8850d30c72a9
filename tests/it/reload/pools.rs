//! Which connections a reload keeps, and which it replaces.

use hearth_tests::{Options, Stack, eventually};
use serde_json::{Value, json};

use super::{is_there, metrics, reloaded};

const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name NOT LIKE '%watch%'";

async fn pid(stack: &Stack) -> Value {
    stack.ok("SELECT pg_backend_pid() AS pid").await.first().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_does_not_touch_keeps_its_sessions() {
    let stack = Stack::start().await;
    let (session, redis) = (pid(&stack).await, stack.redis(json!(["CLIENT", "ID"])).await.body["result"].clone());
    let more = format!(
        "[databases.second]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n[caches.main]",
        stack.postgres.port
    );
    stack.edit("[caches.main]", &more);
    stack.edit("databases = [\"app\"]", "databases = [\"app\", \"second\"]");
    let text = std::fs::read_to_string(&stack.config).expect("is there");
    std::fs::write(&stack.config, format!("{text}[databases.app.statements.one]\nsql = \"SELECT 1 AS n\"\n"))
        .expect("writes");
    let told = reloaded(&stack).await;
    assert_eq!(told.body["new_connections"], json!({"databases": ["second"], "caches": []}));
    assert!(is_there(&stack, &session).await, "it is kept");
    let named = stack.post("/v1/db/app/statements/one", &json!({})).await;
    assert_eq!(named.first(), 1, "{}", named.text);
    let second = stack.post("/v1/db/second/query", &json!({"sql": "SELECT 2 AS n"})).await;
    assert_eq!(second.first(), 2, "{}", second.text);
    // Three Redis connections at most: the two lanes as before, whichever of them answers.
    let ids = [stack.redis(json!(["CLIENT", "ID"])).await, stack.redis(json!(["CLIENT", "ID"])).await];
    assert!(ids.iter().any(|id| id.body["result"] == redis), "{redis} is not kept: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_read_again_and_the_old_sessions_go() {
    let mut stack = Stack::start().await;
    let secret = stack.scratch.path().join("password");
    std::fs::write(&secret, "hidden-password\n").expect("writes");
    stack.edit("password = \"hidden-password\"", &format!("password = {{ file = \"{}\" }}", secret.display()));
    let first = reloaded(&stack).await;
    assert_eq!(first.body["changes"]["changed"], json!(["databases.app.password"]));
    stack.broker = stack.live.now();
    let before = pid(&stack).await;
    stack.witness.batch_execute("ALTER ROLE app PASSWORD 'another-password'").await.expect("the owner may");
    std::fs::write(&secret, "another-password\n").expect("writes");
    let told = reloaded(&stack).await;
    assert_eq!(told.body["changes"]["changed"], json!(["databases.app.password"]), "the file itself has not changed");
    assert_eq!(told.body["new_connections"]["databases"], json!(["app"]));
    assert!(!told.text.contains("another-password"));
    stack.broker = stack.live.now();
    let after = pid(&stack).await;
    assert_ne!(before, after);
    eventually("the old session goes", async || !is_there(&stack, &before).await).await;
    assert_eq!(stack.reload().await.body["status"], "unchanged");
    assert!(is_there(&stack, &after).await, "and this one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_and_another_address_are_in_force_with_the_answer() {
    let stack = Stack::start().await;
    stack.witness.batch_execute("CREATE DATABASE app2 OWNER app").await.expect("the owner may");
    stack.edit("max = 4", "max = 2");
    reloaded(&stack).await;
    assert_eq!(stack.live.now().databases["app"].endpoints()[0].status().max, 2);
    stack.ok("SELECT 1").await;
    stack.edit("/app?", "/app2?");
    let told = reloaded(&stack).await;
    assert_eq!(told.body["changes"]["changed"], json!(["databases.app.url"]));
    assert_eq!(stack.ok("SELECT current_database()::text").await.first(), "app2");
}

/// The backstop in the server is as long as the longest deadline that anybody may ask for.
#[tokio::test(flavor = "multi_thread")]
async fn a_longer_deadline_holds_in_the_server_too_and_a_shorter_one_replaces_nothing() {
    let stack = Stack::with(Options {
        limits: "max_timeout = \"20s\", default_timeout = \"5s\"".to_owned(),
        ..Options::default()
    })
    .await;
    let backstop = async || stack.ok("SELECT current_setting('statement_timeout') AS t").await.first().clone();
    assert_eq!(backstop().await, "61s", "another tenant may ask for a minute");
    stack.edit("max_timeout = \"20s\"", "max_timeout = \"2m\"");
    assert_eq!(reloaded(&stack).await.body["new_connections"]["databases"], json!(["app"]));
    assert_eq!(backstop().await, "121s");
    let session = pid(&stack).await;
    stack.edit("max_timeout = \"2m\"", "max_timeout = \"30s\"");
    assert_eq!(reloaded(&stack).await.body["new_connections"]["databases"], json!([]));
    assert!(is_there(&stack, &session).await, "it is kept");
    assert_eq!(backstop().await, "121s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_taken_away_leaves_no_session_and_no_metric() {
    let mut stack = Stack::start().await;
    stack.ok("SELECT 1").await;
    assert!(metrics(&stack).await.contains("backend=\"app\""));
    let text = std::fs::read_to_string(&stack.config).expect("is there");
    let (head, rest) = text.split_once("[databases.app]").expect("there is one");
    let (_, tail) = rest.split_once("[caches.main]").expect("there is one");
    let without = format!("{head}[caches.main]{}", tail.replace("databases = [\"app\"]\n", ""));
    std::fs::write(&stack.config, without).expect("writes");
    reloaded(&stack).await;
    stack.broker = stack.live.now();
    stack.query("SELECT 1", json!([])).await.assert_problem(404, "unknown_database", "not_applied");
    eventually("its sessions go", async || stack.count(SESSIONS).await == 0).await;
    let watches = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hearth watch%'";
    eventually("and the watch over its server", async || stack.count(watches).await == 0).await;
    let left = metrics(&stack).await;
    assert!(!left.contains("\"app\"") && left.contains("backend=\"main\""), "{left}");
    std::fs::write(&stack.config, text).expect("writes");
    reloaded(&stack).await;
    stack.ok("SELECT 1").await;
    assert!(metrics(&stack).await.contains("backend=\"app\""));
    eventually("the server is watched again", async || stack.count(watches).await == 1).await;
}
