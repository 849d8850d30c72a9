//! A new configuration takes over while requests run: what changed is in force at once, what did not is not touched, and nobody
//! notices.

mod moving;
mod pools;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hearth_broker::cli::dev::machine::free_port;
use hearth_broker::cli::key::NewKey;
use hearth_tests::{Answer, Hearth, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

async fn reloaded(stack: &Stack) -> Answer {
    let answer = stack.reload().await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("reloaded")), "{}", answer.text);
    answer
}

async fn metrics(stack: &Stack) -> String {
    stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text
}

fn limits(text: &str) -> Options {
    Options { limits: text.to_owned(), ..Options::default() }
}

/// A pool has several sessions and any of them may answer: the server is asked whether this one is there.
async fn is_there(stack: &Stack, pid: &Value) -> bool {
    stack.count(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).await == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_force_with_the_answer() {
    let stack = Stack::with(limits("requests_per_second = 1000, burst = 1000")).await;
    stack.ok("SELECT 1").await;
    stack.edit("requests_per_second = 1000, burst = 1000", "requests_per_second = 1, burst = 1");
    let asked = Instant::now();
    let told = reloaded(&stack).await;
    assert_eq!(
        told.body["changes"],
        json!({"added": [], "removed": [], "changed": ["tenants.acme.limits.burst", "tenants.acme.limits.requests_per_second"]})
    );
    assert_eq!(told.body["new_connections"], json!({"databases": [], "caches": []}));
    let took = asked.elapsed();
    let five = async || join_all((0..5).map(|_| stack.query("SELECT 1", json!([])))).await;
    let refused = five().await.into_iter().rfind(|answer| answer.status != 200).expect("one a second is fewer");
    refused.assert_problem(429, "rate_limited", "not_applied");
    assert!(took < Duration::from_secs(1), "{took:?}");
    stack.edit("requests_per_second = 1, burst = 1", "requests_per_second = 1000");
    reloaded(&stack).await;
    assert!(five().await.iter().all(|answer| answer.status == 200));
    assert_eq!(stack.reload().await.body["status"], "unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_counts_under_the_new_limit() {
    let stack = Stack::with(limits("in_flight = 10")).await;
    let held = join_all((0..2).map(|_| stack.query("SELECT pg_sleep(1)", json!([]))));
    let change = async {
        eventually("both run", async || stack.sleeping().await == 2).await;
        stack.edit("in_flight = 10", "in_flight = 2");
        reloaded(&stack).await;
        stack.query("SELECT 1", json!([])).await.assert_problem(429, "too_many_in_flight", "not_applied");
        stack.edit("in_flight = 2", "in_flight = 3");
        reloaded(&stack).await;
        stack.ok("SELECT 1").await;
    };
    let (answers, ()) = tokio::join!(held, change);
    assert!(answers.iter().all(|answer| answer.status == 200));
    let usage = stack.send(stack.get("/v1/whoami").bearer_auth(&stack.key)).await.body["usage"].clone();
    assert_eq!(usage["in_flight"], 0, "neither lost nor doubled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_every_fault_is_told() {
    let stack = Stack::with(limits("in_flight = 10")).await;
    let before = stack.ok("SELECT pg_backend_pid()").await;
    let good = std::fs::read_to_string(&stack.config).expect("is there");
    stack.edit("in_flight = 10", "in_flight = 0, brust = 1");
    stack.edit("pool = { min = 1", "pool = { min = \"secret-text\"");
    let told = stack.reload().await;
    told.assert_problem(400, "invalid_request", "not_applied");
    let faults: Vec<&str> = told.body["faults"].as_array().expect("a list").iter().map(path).collect();
    assert_eq!(faults, ["databases.app.pool.min", "tenants.acme.limits.brust"], "{}", told.text);
    assert!(!told.text.contains("hidden-password"), "{}", told.text);
    std::fs::write(&stack.config, good.replace("in_flight = 10", "in_flight = 0")).expect("writes");
    assert_eq!(path(&stack.reload().await.body["faults"][0]), "tenants.acme.limits.in_flight");
    // What only shows when the broker is built.
    std::fs::write(&stack.config, good.replace("sslmode=disable", "sslmode=verify-full&sslrootcert=/nowhere"))
        .expect("writes");
    assert_eq!(path(&stack.reload().await.body["faults"][0]), "databases.app");
    std::fs::remove_file(&stack.config).expect("was there");
    stack.reload().await.assert_problem(400, "invalid_request", "not_applied");
    assert!(metrics(&stack).await.contains("hearth_config_reload_success 0"));
    assert!(is_there(&stack, before.first()).await, "the session is kept");
    assert_eq!(stack.live.now().generation, 1);
    std::fs::write(&stack.config, good).expect("writes");
    assert_eq!(stack.reload().await.status, 200);
    let text = metrics(&stack).await;
    assert!(
        text.contains("hearth_config_reload_success 1") && text.contains("hearth_config_reload_timestamp_seconds 1")
    );
}

fn path(fault: &Value) -> &str {
    fault["path"].as_str().expect("has a path")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_is_refused_and_a_new_one_let_in() {
    let stack = Stack::start().await;
    let new = NewKey::random();
    stack.send(stack.request("/v1/redis/main", &stack.other).body("[\"PING\"]")).await;
    assert_eq!(stack.send(stack.get("/v1/whoami").bearer_auth(&stack.other)).await.status, 200);
    let text = std::fs::read_to_string(&stack.config).expect("is there");
    let (kept, _) = text.split_once("[tenants.other]").expect("there is one");
    let more = format!(
        "[tenants.newcomer]\ndatabases = [\"app\"]\nkeys = [{{ id = \"{}\", sha256 = \"{}\", scopes = [\"sql:read\"] }}]\n",
        new.id, new.sha256
    );
    std::fs::write(&stack.config, format!("{kept}{more}")).expect("writes");
    let told = reloaded(&stack).await;
    let paths = told.body["changes"].to_string();
    assert!(paths.contains("tenants.newcomer.databases") && !paths.contains(&new.sha256), "{paths}");
    let gone = stack.send(stack.get("/v1/whoami").bearer_auth(&stack.other)).await;
    gone.assert_problem(401, "unauthenticated", "not_applied");
    let ask = stack.request("/v1/db/app/query", &new.token()).body(json!({"sql": "SELECT 7 AS n"}).to_string());
    assert_eq!(stack.send(ask).await.first(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_told_until_it_is_taken_back() {
    let stack = Stack::start().await;
    stack.edit("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"\nheader_timeout = \"5s\"");
    stack.edit("[server]", "[server]\nworkers = 7");
    stack.edit("[databases.app]", "[log]\nfilter = \"debug\"\n[databases.app]");
    let all = json!(["log.filter", "server.listen", "server.workers"]);
    assert_eq!(reloaded(&stack).await.body["needs_restart"], all);
    assert_eq!(stack.reload().await.body["needs_restart"], all, "it still does");
    stack.edit("listen = \"127.0.0.1:1\"\nheader_timeout = \"5s\"", "listen = \"127.0.0.1:0\"");
    stack.edit("workers = 7\n", "");
    assert_eq!(reloaded(&stack).await.body["needs_restart"], json!(["log.filter"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_at_once_come_one_after_the_other_and_none_while_draining() {
    let mut stack = Stack::start().await;
    stack.edit(
        "[caches.main]",
        "[databases.more]\nurl = \"postgres://app@localhost:1/app\"\npool = { min = 0 }\n[caches.main]",
    );
    let mut seen: Vec<_> = join_all((0..5).map(|_| stack.reload())).await.iter().map(generation).collect();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5, 6]);
    let live = stack.live.clone();
    let (slow, late) = (stack.request("/v1/db/app/query", &stack.key), stack.admin_url.clone());
    let slow = tokio::spawn(slow.body(json!({"sql": "SELECT pg_sleep(2)"}).to_string()).send());
    eventually("it runs", async || stack.sleeping().await == 1).await;
    let asked = async {
        eventually("it drains", async || live.now().is_draining()).await;
        Answer::read(reqwest::Client::new().post(format!("{late}/admin/v1/reload")).send().await.expect("answers"))
            .await
    };
    let (refused, ()) = tokio::join!(asked, stack.drain());
    refused.assert_problem(503, "draining", "not_applied");
    assert_eq!(slow.await.expect("runs").expect("is answered").status(), 200);
    assert_eq!(live.now().generation, 6);
}

fn generation(answer: &Answer) -> u64 {
    answer.body["generation"].as_u64().expect("a number")
}

/// Every kind of change, over and over, under traffic that never stops: no request fails, and none gets another's row.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_traffic_fail_no_request() {
    const RELOADS: u64 = 100;
    let mut stack = Stack::with(limits("in_flight = 1000")).await;
    stack.ok("CREATE TABLE t AS SELECT g AS id, g * 7 AS n FROM generate_series(1, 1000) g").await;
    stack.ok("ALTER TABLE t ADD PRIMARY KEY (id)").await;
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let original = std::fs::read_to_string(&stack.config).expect("is there");
    let mut slowest = Duration::ZERO;
    let traffic = join_all((0..24).map(|caller| traffic(&stack, caller, &done, &asked)));
    let change = async {
        let begun = Instant::now();
        for round in 0..RELOADS {
            std::fs::write(&stack.config, changed(&original, round)).expect("writes");
            let asked = Instant::now();
            let told = stack.reload().await;
            assert_eq!(told.status, 200, "{}", told.text);
            slowest = slowest.max(asked.elapsed());
            // Ten a second, as far as the machine can.
            tokio::time::sleep_until(begun + Duration::from_millis(100 * (round + 1))).await;
        }
        done.store(true, Ordering::Release);
        begun.elapsed()
    };
    let (_, took) = tokio::join!(traffic, change);
    let asked = asked.load(Ordering::Acquire);
    println!("{RELOADS} reloads in {took:?} (the slowest {slowest:?}) under {asked} requests: none failed");
    assert!(asked > 1_000, "{asked} requests are no traffic");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    stack.broker = stack.live.now();
    assert_eq!(stack.broker.generation, RELOADS + 1);
    eventually("replaced pools are closed", async || {
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name NOT LIKE '%watch%'";
        let endpoint = stack.broker.databases["app"].endpoints()[0].status();
        stack.count(sessions).await == i64::try_from(endpoint.open()).expect("few")
    })
    .await;
    eventually("and all is accounted for", async || stack.broker.databases["app"].endpoints()[0].is_conserved()).await;
}

/// The file of one round: limits change each time, statements and caches often, the pool itself every fifth time.
fn changed(original: &str, round: u64) -> String {
    let mut text = original.replace("in_flight = 1000", &format!("in_flight = {}", 500 + round));
    if round.is_multiple_of(5) {
        text = text.replace("max = 4", &format!("max = {}", 4 + round % 3));
    }
    if round.is_multiple_of(3) {
        let named = format!("[databases.app.statements.s{round}]\nsql = \"SELECT 1\"\n");
        text.push_str(&named);
    }
    if round.is_multiple_of(7) {
        text = text.replace("[caches.main]\n", "[caches.main]\nlanes = 3\n");
    }
    text
}

async fn traffic(stack: &Stack, caller: u64, done: &AtomicBool, asked: &AtomicU64) {
    for round in (caller..).step_by(24).take_while(|_| !done.load(Ordering::Acquire)) {
        let id = round % 1000 + 1;
        let answer = match round % 4 {
            0 => stack.query("SELECT n, $2::int8 AS nonce FROM t WHERE id = $1 FOR SHARE", json!([id, round])).await,
            1 => stack.redis(json!(["ECHO", round.to_string()])).await,
            _ => stack.query("SELECT n, $2::int8 AS nonce FROM t WHERE id = $1", json!([id, round])).await,
        };
        assert_eq!(answer.status, 200, "{}", answer.text);
        if round % 4 == 1 {
            assert_eq!(answer.body["result"], round.to_string());
        } else {
            let row = &answer.body["rows"][0];
            assert_eq!((&row["n"], &row["nonce"]), (&json!(id * 7), &json!(round.to_string())), "{}", answer.text);
        }
        asked.fetch_add(1, Ordering::AcqRel);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_a_real_process() {
    let stack = Stack::start().await;
    let (data, admin) = (free_port().expect("a port"), free_port().expect("a port"));
    stack.edit("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{data}\""));
    stack.edit("admin_listen = \"127.0.0.1:0\"", &format!("admin_listen = \"127.0.0.1:{admin}\""));
    let broker = Hearth::start(&["serve", "--config", &stack.config.display().to_string()], &[]);
    let ask = async |key: &str| {
        let url = format!("http://127.0.0.1:{data}/v1/whoami");
        reqwest::Client::new().get(url).bearer_auth(key).send().await.ok().map(|answer| answer.status().as_u16())
    };
    eventually("it serves", async || ask(&stack.other).await == Some(200)).await;
    let text = std::fs::read_to_string(&stack.config).expect("is there");
    std::fs::write(&stack.config, format!("{text}\n[tenants.other.limits]\nin_flight = \"none\"\n")).expect("writes");
    broker.signal("HUP");
    let read_metrics = async || {
        let url = format!("http://127.0.0.1:{admin}/metrics");
        reqwest::Client::new().get(url).send().await.expect("answers").text().await.expect("is text")
    };
    eventually("the bad file is reported", async || read_metrics().await.contains("reload_success 0")).await;
    assert_eq!(ask(&stack.other).await, Some(200), "and has changed nothing");
    let (kept, _) = text.split_once("[tenants.other]").expect("there is one");
    std::fs::write(&stack.config, kept).expect("writes");
    broker.signal("HUP");
    eventually("the key is gone", async || ask(&stack.other).await == Some(401)).await;
    assert_eq!(ask(&stack.key).await, Some(200));
    broker.signal("TERM");
    let (status, errors) = broker.ended().await;
    assert!(status.success(), "{errors}");
    assert!(errors.contains("tenants.other.limits.in_flight") && errors.contains("the configuration was reloaded"));
    assert!(!errors.contains("hidden-password"), "{errors}");
}
