//! Rates over several windows, quotas of a day, time with databases, limits in shadow: as callers and operators see them.

use std::time::Duration;

use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};

async fn stack(limits: &str) -> Stack {
    Stack::with(Options { limits: limits.to_owned(), ..Options::default() }).await
}

async fn whoami(stack: &Stack) -> Value {
    stack.send(stack.get("/v1/whoami").bearer_auth(&stack.key)).await.body
}

async fn left(stack: &Stack, policy: &str) -> i64 {
    whoami(stack).await["policies"][policy]["remaining"].as_i64().expect("is told")
}

#[track_caller]
fn assert_refused(answer: &Answer, code: &str, policy: &str) {
    answer.assert_problem(429, code, "not_applied");
    assert_eq!(answer.body["violated_policies"], json!([policy]));
    assert_eq!(answer.body["retryable"], true);
    assert!(answer.header("ratelimit").contains(&format!("\"{policy}\";r=0;t=")), "{}", answer.header("ratelimit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_window_is_told_and_the_one_that_refuses_is_named() {
    let stack = stack("requests_per_second = 100, requests_per_minute = 4, requests_per_hour = 1000").await;
    for used in 1..=4 {
        let answer = stack.ok("SELECT 1").await;
        assert_eq!(
            answer.header("ratelimit-policy"),
            "\"requests\";q=100;w=1, \"requests-per-minute\";q=4;w=60, \"requests-per-hour\";q=1000;w=3600"
        );
        let told = answer.header("ratelimit");
        assert!(told.contains(&format!("\"requests-per-minute\";r={};t={}", 4 - used, 15 * used)), "{told}");
    }
    let refused = stack.query("SELECT 1", json!([])).await;
    assert_refused(&refused, "rate_limited", "requests-per-minute");
    let wait = refused.body["retry_after_ms"].as_u64().expect("is told");
    assert!((1_000..=25_000).contains(&wait), "one in 15 s, and some jitter: {wait}");
    assert_eq!(left(&stack, "requests-per-hour").await, 996, "a refusal costs no other window");
    let redis = stack.redis(json!(["GET", "x"])).await;
    assert_eq!(redis.status, 429, "one rate for all of a tenant's requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_requests_is_used_up_until_midnight_and_no_reload_begins_it_anew() {
    let stack = stack("requests_per_day = 2").await;
    stack.ok("SELECT 1").await;
    let last = stack.ok("SELECT 1").await;
    assert_eq!(last.header("ratelimit-policy"), "\"requests-per-day\";q=2;w=86400");
    assert!(last.header("ratelimit").starts_with("\"requests-per-day\";r=0;t="), "{}", last.header("ratelimit"));
    let refused = stack.query("SELECT 1", json!([])).await;
    assert_refused(&refused, "quota_exhausted", "requests-per-day");
    let seconds: u64 = refused.header("retry-after").parse().expect("a number");
    let midnight = whoami(&stack).await["policies"]["requests-per-day"]["reset_ms"].as_u64().expect("is told") / 1000;
    assert!((midnight..=midnight + 12).contains(&seconds), "{seconds} s, and midnight is in {midnight}");
    assert_eq!(stack.reload().await.status, 200);
    assert_eq!(stack.query("SELECT 1", json!([])).await.status, 429);
    stack.edit("requests_per_day = 2", "requests_per_day = 3");
    assert_eq!(stack.reload().await.status, 200);
    stack.ok("SELECT 1").await;
    assert_eq!(stack.query("SELECT 1", json!([])).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_bytes_are_charged_whichever_way_they_leave() {
    let stack = stack("rows_per_day = 1000, bytes_per_day = '1MiB'").await;
    let used = async |rows: i64, what: &str| {
        let told = format!("{what}: {rows} rows");
        eventually(&told, async || left(&stack, "rows-per-day").await == 1000 - rows).await;
    };
    let answer = stack.ok("SELECT g FROM generate_series(1, 100) g").await;
    used(100, "a buffered result").await;
    assert_eq!(left(&stack, "bytes-per-day").await, (1 << 20) - i64::try_from(answer.text.len()).expect("fits"));
    let batch = json!({"statements": [
        {"sql": "SELECT 1"}, {"sql": "SELECT g, ',\"row_count\":77' FROM generate_series(1, 9) g"}]});
    assert_eq!(stack.post("/v1/db/app/batch", &batch).await.status, 200);
    used(110, "a batch").await;
    let body = json!({"sql": "SELECT g FROM generate_series(1, 200) g"}).to_string();
    let streamed = stack.request("/v1/db/app/query", &stack.key).header("accept", "application/x-ndjson").body(body);
    assert_eq!(stack.send(streamed).await.status, 200);
    used(310, "a stream").await;
    let copied = stack.get(&stack.copy_path("COPY (SELECT generate_series(1, 300)) TO STDOUT")).bearer_auth(&stack.key);
    assert_eq!(stack.send(copied).await.status, 200);
    used(610, "a COPY out").await;
    stack.ok("CREATE TABLE t (i int)").await;
    let lines = "7\n".repeat(390);
    let loaded = stack.request(&stack.copy_path("COPY t FROM STDIN"), &stack.key).body(lines);
    assert_eq!(stack.send(loaded).await.body["rows"], 390);
    used(1000, "a COPY in").await;
    assert_refused(&stack.query("SELECT 1", json!([])).await, "quota_exhausted", "rows-per-day");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_with_a_database_is_charged_afterwards_and_a_statement_that_fails_is_charged_too() {
    // A second of it may be used at once.
    let stack = stack("database_ms_per_second = 100, database_ms_per_day = 100000").await;
    stack.ok("SELECT pg_sleep(0.7)").await;
    let after = left(&stack, "database-ms").await;
    assert!(after < 1000, "{after}");
    let redis = stack.redis(json!(["GET", "x"])).await;
    assert_eq!(redis.status, 200);
    let slow = stack.request("/v1/db/app/query", &stack.key).header("hearth-timeout-ms", "900");
    let slow = stack.send(slow.body(json!({"sql": "SELECT pg_sleep(10)"}).to_string())).await;
    assert_eq!(slow.code(), "statement_timeout");
    assert_refused(&stack.query("SELECT 1", json!([])).await, "rate_limited", "database-ms");
    let day = 100_000 - left(&stack, "database-ms-per-day").await;
    assert!((1_500..20_000).contains(&day), "both were charged to the day: {day}");
    eventually("the debt is paid", async || stack.query("SELECT 1", json!([])).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_shadow_is_told_and_refuses_nothing_until_it_is_enforced() {
    let limits = "requests_per_second = 1, burst = 1, in_flight = 50, shadow = [\"requests\"]";
    let stack = stack(limits).await;
    let first = stack.ok("SELECT 1").await;
    assert_eq!(first.header("hearth-shadow-refused"), "");
    assert_eq!(first.header("ratelimit-policy"), "\"in-flight\";q=50;qu=\"concurrent-requests\"");
    assert_eq!(first.header("ratelimit"), "");
    assert_eq!(stack.ok("SELECT 1").await.header("hearth-shadow-refused"), "requests");
    let redis = stack.redis(json!(["GET", "x"])).await;
    assert_eq!((redis.status, redis.header("hearth-shadow-refused")), (200, "requests"));
    assert_eq!(whoami(&stack).await["policies"]["requests"]["shadow"], true);
    let metrics = stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
    for line in [
        "hearth_limit_decisions_total{tenant=\"acme\",policy=\"requests\",outcome=\"allowed\"} 1",
        "hearth_limit_decisions_total{tenant=\"acme\",policy=\"requests\",outcome=\"shadow_refused\"} 2",
        "hearth_limit_decisions_total{tenant=\"acme\",policy=\"requests\",outcome=\"refused\"} 0",
        "hearth_limit_decisions_total{tenant=\"acme\",policy=\"in-flight\",outcome=\"allowed\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    stack.edit("shadow = [\"requests\"]", "shadow = false");
    assert_eq!(stack.reload().await.status, 200);
    assert_refused(&stack.query("SELECT 1", json!([])).await, "rate_limited", "requests");
    stack.edit("shadow = false", "shadow = true");
    assert_eq!(stack.reload().await.status, 200);
    assert_eq!(stack.ok("SELECT 1").await.header("ratelimit-policy"), "", "none is enforced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_has_at_most_the_rows_that_the_tenant_may_have() {
    let stack = stack("max_rows = 10").await;
    let rows = |count: u32| format!("SELECT generate_series(1, {count})");
    stack.ok(&rows(10)).await;
    let refused = stack.query(&rows(11), json!([])).await;
    refused.assert_problem(413, "result_too_large", "not_applied");
    assert!(refused.text.contains("10 rows"), "{}", refused.text);
    let lower = json!({"sql": rows(6), "max_rows": 5});
    assert_eq!(stack.post("/v1/db/app/query", &lower).await.status, 413, "the request's own ceiling is lower");
    let higher = json!({"sql": rows(11), "max_rows": 50});
    assert_eq!(stack.post("/v1/db/app/query", &higher).await.status, 413, "and cannot be higher");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_is_charged_for_what_ran() {
    let stack = stack("database_ms_per_day = 100000").await;
    let body = json!({"sql": "SELECT pg_sleep(5)"}).to_string();
    let asked =
        stack.request("/v1/db/app/query", &stack.key).timeout(Duration::from_millis(400)).body(body).send().await;
    assert!(asked.is_err(), "it has left");
    eventually("it is charged", async || (300..5_000).contains(&(100_000 - left(&stack, "database-ms-per-day").await)))
        .await;
}
