//! What operators see, and what the broker does about what it sees: sessions that never come back, logins that are refused, sizes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hearth_broker::base::Deadline;
use hearth_broker::pool::postgres::ask;
use hearth_broker::pool::{Database, Want};
use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

async fn admin(stack: &Stack, path: &str) -> Answer {
    stack.send(reqwest::Client::new().get(format!("{}{path}", stack.admin_url))).await
}

async fn pool(stack: &Stack) -> Value {
    admin(stack, "/admin/v1/pools").await.body["pools"][0].clone()
}

async fn reconnect(stack: &Stack) {
    let url = format!("{}/admin/v1/databases/app/reconnect", stack.admin_url);
    assert_eq!(stack.send(reqwest::Client::new().post(url)).await.status, 200);
}

/// Events of a kind, the newest first.
async fn events(stack: &Stack, event: &str, reason: &str) -> Vec<Value> {
    let all = admin(stack, "/admin/v1/events").await.body["events"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|it| it["event"] == event && it["reason"] == reason).collect()
}

fn database(stack: &Stack) -> Arc<Database> {
    Arc::clone(&stack.broker.databases["app"])
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(1))
}

/// One is forgotten, another waits for a statement that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_given_back_is_told_then_closed_and_the_pool_is_whole_again() {
    let stack = Stack::with(Options { pool_max: 2, ..Options::default() }).await;
    let (database, start) = (database(&stack), Instant::now());
    let forgotten = database.checkout(database.own_account(), Want::Write, soon()).await.expect("a lease");
    let mut waiter = database.checkout(database.own_account(), Want::Write, soon()).await.expect("a lease");
    let pids = [&forgotten, &waiter].map(|lease| lease.session().observed.pid());
    std::mem::forget(forgotten);
    let waiting = tokio::spawn(async move {
        waiter.begin();
        ask::command(&mut waiter.session_mut().channel, "SELECT pg_sleep(600)").await
    });
    eventually("both are told", async || events(&stack, "leak", "deadline").await.len() == 2).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "not before twice the deadline");
    assert!(!waiting.is_finished(), "only told");
    assert!(pool(&stack).await["oldest_checkout"]["age_ms"].as_u64() >= Some(2_000));

    let ended = waiting.await.expect("does not panic");
    assert!(start.elapsed() >= Duration::from_secs(8), "{:?}", start.elapsed());
    ended.expect_err("its session was closed under it");
    let closed = events(&stack, "close", "leak_forced").await;
    let mut told: Vec<_> = closed.iter().map(|event| event["pid"].as_u64()).collect();
    let mut held = pids.map(|pid| Some(u64::from(pid))).to_vec();
    told.sort_unstable();
    held.sort_unstable();
    assert_eq!(told, held);
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({}, {})", pids[0], pids[1]);
    eventually("the server has ended both", async || stack.count(&there).await == 0).await;
    let text = admin(&stack, "/metrics").await.text;
    assert!(text.contains("hearth_leaks_total{backend=\"app\",endpoint=\"localhost:"), "{text}");

    let both =
        join_all((0..2).map(|_| stack.query("SELECT pg_backend_pid()::int4 AS pid, pg_sleep(0.3)", json!([])))).await;
    let new: std::collections::BTreeSet<_> = both.iter().map(|answer| answer.body["rows"][0]["pid"].as_i64()).collect();
    assert!(new.len() == 2 && !new.contains(&None), "two at once: {new:?}");
    eventually("all are accounted for", async || {
        let pool = pool(&stack).await;
        pool["conserved"] == true && pool["lent"] == 0 && pool["leaked"] == 1 && pool["open"] == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_late_is_lent_again() {
    let stack = Stack::with(Options { pool_max: 1, ..Options::default() }).await;
    let database = database(&stack);
    let late = database.checkout(database.own_account(), Want::Write, soon()).await.expect("a lease");
    let pid = late.session().observed.pid();
    eventually("it is told", async || events(&stack, "leak", "deadline").await.len() == 1).await;
    drop(late);
    assert_eq!(events(&stack, "recovered", "deadline").await[0]["pid"], pid);
    let rightly = database.checkout(database.own_account(), Want::Write, soon()).await.expect("a lease");
    assert_eq!(rightly.session().observed.pid(), pid);
    rightly.may_last_until(Deadline::after(Duration::from_mins(1)));
    sleep(Duration::from_millis(3_500)).await;
    drop(rightly);
    assert_eq!(events(&stack, "leak", "deadline").await.len(), 1, "a stream may last");
    assert_eq!(stack.ok("SELECT pg_backend_pid()::int4 AS pid").await.first(), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_checkout_is_named_and_its_statement_is_not() {
    let stack = Stack::start().await;
    let request = stack
        .request("/v1/db/app/query", &stack.key)
        .header("x-request-id", "the-slow-one")
        .body(json!({"sql": "SELECT pg_sleep(3) AS secret"}).to_string());
    let asked = tokio::spawn(request.send());
    eventually("it runs", async || stack.sleeping().await == 1).await;
    let oldest = pool(&stack).await["oldest_checkout"].clone();
    assert_eq!((&oldest["request"], &oldest["tenant"]), (&json!("the-slow-one"), &json!("acme")), "{oldest}");
    assert!(oldest["statement"].as_str().is_some_and(|fingerprint| fingerprint.len() == 16), "{oldest}");
    let pid = "SELECT pid::int8 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    assert_eq!(oldest["pid"], stack.count(pid).await);
    assert!(!oldest.to_string().contains("secret"));
    asked.await.expect("ends").expect("is answered");
    assert!(pool(&stack).await["oldest_checkout"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_not_hammered_and_a_right_one_is_found() {
    let stack = Stack::start().await;
    stack.ok("SELECT 1").await;
    let refused = || {
        let log = std::fs::read_to_string(stack.scratch.path().join("postgres.log")).expect("there is a log");
        log.matches("password authentication failed").count()
    };
    stack.witness.batch_execute("ALTER ROLE app PASSWORD 'another'").await.expect("the owner may");
    reconnect(&stack).await;
    eventually("the breaker is open", async || {
        stack.query("SELECT 1", json!([])).await.assert_problem(503, "backend_down", "not_applied");
        pool(&stack).await["breakers"]["login"]["state"] == "open"
    })
    .await;
    let (before, since) = (refused(), Instant::now());
    assert!((3..=5).contains(&before), "{before} tries");
    while since.elapsed() < Duration::from_secs(3) {
        let told = stack.query("SELECT 1", json!([])).await;
        told.assert_problem(503, "backend_down", "not_applied");
        let wait: u64 = told.header("retry-after").parse().expect("seconds");
        assert!((20..=45).contains(&wait), "{wait} s");
        for secret in ["password", "login", "28P01", "localhost"] {
            assert!(!told.text.contains(secret), "{}", told.text);
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(refused(), before, "nobody tries");
    assert_eq!(events(&stack, "error", "login").await[0]["sqlstate"], "28P01");
    assert_eq!(events(&stack, "breaker_open", "login").await.len(), 1);
    assert_eq!(pool(&stack).await["breakers"]["connect"]["state"], "closed", "the server is there");

    stack.witness.batch_execute("ALTER ROLE app PASSWORD 'hidden-password'").await.expect("the owner may");
    stack.query("SELECT 1", json!([])).await.assert_problem(503, "backend_down", "not_applied");
    reconnect(&stack).await;
    let since = Instant::now();
    eventually("it serves again", async || stack.query("SELECT 1", json!([])).await.status == 200).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(events(&stack, "breaker_close", "login").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_tells_why_it_has_its_size() {
    let stack = Stack::with(Options { pool_max: 2, ..Options::default() }).await;
    join_all((0..12).map(|_| stack.query("SELECT pg_sleep(0.2)", json!([])))).await;
    let decisions =
        admin(&stack, "/admin/v1/decisions").await.body["decisions"].as_array().cloned().unwrap_or_default();
    let of = |decided: &str| decisions.iter().find(|it| it["decided"] == decided).cloned().unwrap_or_default();
    let grown = decisions.iter().find(|it| it["decided"] == "open" && it["trigger"] == "demand").expect("it has grown");
    assert!(grown["inputs"]["waiting"].as_u64() > Some(0), "{grown}");
    let held = of("hold_at_limit");
    assert_eq!((&held["inputs"]["limit"], &held["inputs"]["ceiling"]), (&json!(2), &json!(2)), "{decisions:?}");
    assert!(held["inputs"]["urgent"].as_u64() > Some(0), "{held}");
    assert!(held["inputs"]["server"]["max_connections"].as_u64() > Some(0), "{held}");
    assert!(decisions.len() <= 20, "not one a request: {decisions:?}");

    assert!(!events(&stack, "open", "demand").await.is_empty());
    let table =
        reqwest::Client::new().get(format!("{}/admin/v1/pools", stack.admin_url)).header("accept", "text/plain");
    let table = stack.send(table).await.text;
    println!("{table}");
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(cells.len() == 2 && cells[0].len() == cells[1].len(), "{table}");
    assert_eq!((cells[0][0], cells[1][0], cells[1][3]), ("database", "app", "ok"));
}

/// The same fault a thousand times is a few events and a count.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_a_few_lines_and_a_count() {
    let mut stack = Stack::start().await;
    stack.ok("SELECT 1").await;
    stack.postgres.halt("INT").await.expect("stops");
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(12) {
        join_all((0..20).map(|_| stack.query("SELECT 1", json!([])))).await;
        sleep(Duration::from_millis(20)).await;
    }
    let errors = events(&stack, "error", "network").await;
    assert!((1..=12).contains(&errors.len()), "{errors:?}");
    assert!(!events(&stack, "breaker_open", "connect").await.is_empty());
    stack.postgres.restart(&stack.scratch).await.expect("starts");
    eventually("it serves again", async || stack.query("SELECT 1", json!([])).await.status == 200).await;
    eventually("it is told", async || !events(&stack, "breaker_close", "connect").await.is_empty()).await;
}
