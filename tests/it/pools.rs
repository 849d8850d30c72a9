//! Pools that think: what an operator may do to them, how they grow, and what they leave to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hearth_broker::base::Deadline;
use hearth_broker::broker::Broker;
use hearth_broker::config::load_text;
use hearth_broker::pool::postgres::ask;
use hearth_broker::pool::{Database, Want};
use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

async fn control(stack: &Stack, act: &str) -> Answer {
    let url = format!("{}/admin/v1/databases/app/{act}", stack.admin_url);
    stack.send(reqwest::Client::new().post(url)).await
}

async fn pool(stack: &Stack) -> Value {
    let answer = stack.send(reqwest::Client::new().get(format!("{}/admin/v1/pools", stack.admin_url))).await;
    answer.body["pools"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_database_makes_its_callers_wait_and_loses_none() {
    let stack = Stack::start().await;
    assert_eq!(control(&stack, "pause").await.body["databases"][0], json!({"database": "app", "paused": true}));
    let hasty = stack.request("/v1/db/app/query", &stack.key).header("hearth-timeout-ms", "100");
    stack.send(hasty.body(json!({"sql": "SELECT 1"}).to_string())).await.assert_problem(
        503,
        "overloaded",
        "not_applied",
    );
    let waiting = join_all((0..20).map(|n| stack.query("SELECT $1::int4 AS n", json!([n]))));
    let resume = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(stack.running().await, 0, "nothing runs meanwhile");
        control(&stack, "resume").await
    };
    let (answers, resumed) = tokio::join!(waiting, resume);
    assert_eq!(resumed.body["databases"][0]["paused"], false);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, answer.first()), (200, &json!(n)), "{}", answer.text);
    }
    let url = format!("{}/admin/v1/databases/nobody/pause", stack.admin_url);
    let unknown = stack.send(reqwest::Client::new().post(url)).await;
    assert_eq!((unknown.status, unknown.code()), (404, "unknown_database"), "{}", unknown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_replaces_every_connection() {
    let stack = Stack::start().await;
    let pids = "SELECT pg_backend_pid()::int4 AS pid, pg_sleep(0.2)";
    let seen = |answers: Vec<Answer>| -> Vec<i64> {
        answers.iter().filter_map(|answer| answer.body["rows"][0]["pid"].as_i64()).collect()
    };
    let before = seen(join_all((0..4).map(|_| stack.query(pids, json!([])))).await);
    assert!(before.len() == 4);
    assert_eq!(control(&stack, "reconnect").await.status, 200);
    let after = seen(join_all((0..4).map(|_| stack.query(pids, json!([])))).await);
    assert!(after.len() == 4 && after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
}

/// Sign-ins under way are sessions without a state that the server lists; what the pool itself counts must agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_a_cold_pool_opens_two_at_a_time() {
    let stack = Stack::with(Options { pool_max: 16, ..Options::default() }).await;
    let endpoint = &stack.broker.databases["app"].endpoints()[0];
    let storm = join_all((0..2_000).map(|_| stack.query("SELECT pg_sleep(0.002)", json!([]))));
    let mut most = 0;
    let answers = {
        tokio::pin!(storm);
        loop {
            tokio::select! {
                answers = &mut storm => break answers,
                () = tokio::time::sleep(Duration::from_micros(200)) => most = most.max(endpoint.status().connecting),
            }
        }
    };
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!((1..=2).contains(&most), "{most} at once");
    let status = endpoint.status();
    assert!(status.open() > 2 && status.open() <= 16, "it grew, and not too far: {status:?}");
    eventually("all are accounted for", async || pool(&stack).await["conserved"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_at_once_and_found_again_at_once() {
    let mut stack = Stack::start().await;
    stack.ok("SELECT 1").await;
    stack.postgres.halt("INT").await.expect("stops");
    eventually("the breaker is open", async || {
        stack.query("SELECT 1", json!([])).await.assert_problem(503, "backend_down", "not_applied");
        pool(&stack).await["state"] == "open"
    })
    .await;
    let told = stack.query("SELECT 1", json!([])).await;
    told.assert_problem(503, "backend_down", "not_applied");
    assert!(told.headers.contains_key("retry-after"));
    stack.postgres.restart(&stack.scratch).await.expect("starts");
    let back = Instant::now();
    eventually("it is found again", async || stack.query("SELECT 1", json!([])).await.status == 200).await;
    println!("found again {} ms after it took connections", back.elapsed().as_millis());
    assert!(back.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_finds_its_shard_and_only_that() {
    let stack = Stack::start().await;
    stack.witness.batch_execute("CREATE DATABASE app2 OWNER app").await.expect("the owner may");
    // The same server under another database's name stands for another server.
    let more = format!(
        "[databases.sharded]\nurl = \"postgres://app@localhost:{0}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
         [databases.sharded.shards.two]\nurl = \"postgres://app@localhost:{0}/app2?sslmode=disable\"\n",
        stack.postgres.port
    );
    let config = format!("{more}[tenants.t]\ndatabases = [\"sharded\"]\n");
    let config = load_text(&config, std::iter::empty()).expect("the configuration is good");
    let broker = Broker::new(&config).expect("the broker is built");
    let shards = &broker.shards["sharded"];
    let names: std::collections::BTreeSet<String> =
        (0..100).map(|key| shards.of(&key.to_string()).name().to_string()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["sharded", "sharded/two"]);
    let plain = stack.request("/v1/db/app/query", &stack.key).header("hearth-shard-key", "42");
    let refused = stack.send(plain.body(json!({"sql": "SELECT 1"}).to_string())).await;
    refused.assert_problem(400, "invalid_request", "not_applied");
}

/// Three brokers, each of which would take sixty of the server's hundred.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_grow_together_leave_each_other_room() {
    let stack = Stack::start().await;
    let config = format!(
        "[databases.app]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
         pool = {{ min = 0, max = 60 }}\n",
        stack.postgres.port
    );
    let config = load_text(&config, std::iter::empty()).expect("the configuration is good");
    let brokers: Vec<_> = (0..3).map(|_| Broker::new(&config).expect("the broker is built")).collect();
    let call = |database: Arc<Database>, seconds: &'static str| async move {
        let mut lease = database
            .checkout(database.own_account(), Want::Write, Deadline::after(Duration::from_mins(1)))
            .await
            .expect("a lease");
        lease.begin();
        ask::command(&mut lease.session_mut().channel, seconds).await.expect("runs");
        lease.finish();
    };
    let storm = |broker: &Broker| {
        let database = Arc::clone(&broker.databases["app"]);
        join_all((0..600).map(move |_| call(Arc::clone(&database), "SELECT pg_sleep(0.05)")))
    };
    let most = AtomicI64::new(0);
    let done = AtomicBool::new(false);
    let watch = async {
        while !done.load(Ordering::Acquire) {
            most.fetch_max(
                stack.count("SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL").await,
                Ordering::AcqRel,
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let storms = async {
        join_all(brokers.iter().map(|broker| storm(broker))).await;
        done.store(true, Ordering::Release);
    };
    tokio::join!(watch, storms);
    let limits =
        || brokers.iter().map(|broker| broker.databases["app"].endpoints()[0].status().limit).collect::<Vec<_>>();
    let (together, most) = (limits(), most.load(Ordering::Acquire));
    println!("at most {most} of 97 sessions; limits {together:?}");
    assert!(most <= 97, "{most} sessions");
    let log = std::fs::read_to_string(stack.scratch.path().join("postgres.log")).expect("there is a log");
    assert!(!log.contains("too many clients") && !log.contains("remaining connection slots"), "{log}");

    brokers[0].close().await;
    for _ in 0..2 {
        // Demand makes them look; a look finds that one has gone.
        join_all(brokers[1..].iter().map(|broker| storm(broker))).await;
    }
    let apart = limits();
    assert!(apart[1] > together[1] || apart[1] == 60, "{together:?} then {apart:?}");
}
