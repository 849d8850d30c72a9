//! Shared sessions for short reads: used when they should be, left when they should not, and nobody notices but the clock.

use hearth_tests::{Options, Stack, eventually};
use serde_json::json;

/// Room for two lanes.
async fn stack() -> Stack {
    let stack = Stack::with(Options { pool_max: 8, ..Options::default() }).await;
    stack.ok("CREATE TABLE t AS SELECT g AS id, 'row ' || g AS name FROM generate_series(1, 1000) g").await;
    stack.ok("ALTER TABLE t ADD PRIMARY KEY (id)").await;
    stack
}

/// The settings of the session that runs it tell a lane from a lease.
const WHERE: &str = "SELECT current_setting('statement_timeout') AS w, id FROM t WHERE id = $1";

async fn is_laned(stack: &Stack) -> bool {
    stack.query(WHERE, json!([1])).await.body["rows"][0]["w"] == "50ms"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_fast_and_harmless_is_promoted() {
    let stack = stack().await;
    assert!(!is_laned(&stack).await, "nobody begins there");
    eventually("it is promoted", async || is_laned(&stack).await).await;
    let same = "SELECT id, name FROM t WHERE id = $1";
    let first = stack.query(same, json!([7])).await.body;
    for _ in 0..20 {
        assert_eq!(stack.query(same, json!([7])).await.body, first, "the same answer from both");
    }
    let error = "SELECT 1 / (id - id) FROM t WHERE id = $1";
    for _ in 0..6 {
        stack.query(error, json!([1])).await.assert_problem(422, "statement_failed", "not_applied");
    }
    // A lane is READ ONLY whoever asks, so what must be read only may use it; who wants no neighbours says so.
    let read_only = "SELECT current_setting('transaction_read_only') AS r, current_setting('statement_timeout') AS w, id \
                     FROM t WHERE id = $1";
    let body = json!({"sql": read_only, "params": [1], "read_only": true});
    eventually("it is promoted", async || {
        let row = stack.post("/v1/db/app/query", &body).await.body["rows"][0].clone();
        assert_eq!(row["r"], "on", "{row}");
        row["w"] == "50ms"
    })
    .await;
    let alone = async |lanes: &'static str| {
        let request = stack.request("/v1/db/app/query", &stack.key).header("hearth-lanes", lanes);
        stack.send(request.body(json!({"sql": WHERE, "params": [1]}).to_string())).await
    };
    assert_ne!(alone("off").await.body["rows"][0]["w"], "50ms");
    assert_eq!(alone("on").await.body["rows"][0]["w"], "50ms");
    alone("maybe").await.assert_problem(400, "invalid_request", "not_applied");
    // A changed schema retires the lanes; others are opened.
    stack.ok("ALTER TABLE t ADD COLUMN more int4 DEFAULT 5").await;
    assert_eq!(
        stack.query("SELECT * FROM t WHERE id = $1", json!([3])).await.body["rows"],
        json!([{"id": 3, "name": "row 3", "more": 5}])
    );
    eventually("it is promoted again", async || is_laned(&stack).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_statement_leaves_the_lane_and_is_answered_all_the_same() {
    let stack = stack().await;
    let sleep = "SELECT pg_sleep($1::float8), current_setting('statement_timeout') AS w";
    eventually("it is promoted", async || stack.query(sleep, json!([0])).await.body["rows"][0]["w"] == "50ms").await;
    let slow = stack.query(sleep, json!([0.3])).await;
    assert_eq!(slow.status, 200, "{}", slow.text);
    assert_ne!(slow.body["rows"][0]["w"], "50ms", "it ran again on a lease");
    assert_ne!(stack.query(sleep, json!([0])).await.body["rows"][0]["w"], "50ms", "and stays there for a while");
    // A lock held by another: over the lane's budget, so it waits on a lease.
    let locked = "SELECT count(*)::int4 AS n, current_setting('statement_timeout') AS w FROM t WHERE id < $1";
    eventually("it is promoted", async || stack.query(locked, json!([5])).await.body["rows"][0]["w"] == "50ms").await;
    stack.witness.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("locks");
    let waiting = stack.query(locked, json!([5]));
    let (answer, ()) = tokio::join!(waiting, async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event_type = 'Lock'";
        eventually("it waits", async || stack.count(waits).await > 0).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        stack.witness.batch_execute("COMMIT").await.expect("unlocks");
    });
    assert_eq!((answer.status, &answer.body["rows"][0]["n"]), (200, &json!(4)), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_leave_and_lanes_that_die_disturb_nobody() {
    let stack = stack().await;
    eventually("it is promoted", async || is_laned(&stack).await).await;
    let caller = |caller: usize| {
        let stack = &stack;
        async move {
            for round in 0..60 {
                let id = (caller * 60 + round) % 1000 + 1;
                let body = json!({"sql": "SELECT id, name FROM t WHERE id = $1", "params": [id]}).to_string();
                let request = stack.request("/v1/db/app/query", &stack.key).body(body);
                if round % 7 == 3 {
                    // Leaves in the middle.
                    let _ = tokio::time::timeout(std::time::Duration::from_micros(400), request.send()).await;
                    continue;
                }
                let answer = stack.send(request).await;
                if answer.status == 200 {
                    assert_eq!(
                        answer.body["rows"],
                        json!([{"id": id, "name": format!("row {id}")}]),
                        "{}",
                        answer.text
                    );
                } else {
                    // Killed on the lane, on a lease, and on another lease: told as what it is, and safe to send again.
                    answer.assert_problem(502, "backend_lost", "not_applied");
                    assert_eq!(answer.body["retryable"], true);
                }
            }
        }
    };
    let killer = async {
        for _ in 0..5 {
            stack.count("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'").await;
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    };
    tokio::join!(futures_util::future::join_all((0..40).map(caller)), killer);
    assert!(
        stack
            .count(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name NOT LIKE '%watch%'"
            )
            .await
            <= 8
    );
    eventually("lanes are open again", async || is_laned(&stack).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_harmless_statements_use_lanes() {
    let stack = stack().await;
    stack
        .ok("CREATE FUNCTION mine() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('statement_timeout') $$")
        .await;
    for sql in [
        "SELECT mine() AS w",
        "INSERT INTO t VALUES (0) ON CONFLICT (id) DO UPDATE SET name = '' RETURNING current_setting('statement_timeout') AS w",
        "SELECT set_config('a.b', '1', false), current_setting('statement_timeout') AS w",
    ] {
        for _ in 0..10 {
            let answer = stack.ok(sql).await;
            assert_ne!(answer.body["rows"][0]["w"], "50ms", "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_leave_a_slow_statement_do_not_pile_up_before_a_neighbour() {
    let stack = stack().await;
    let sleep = "SELECT pg_sleep($1::float8), current_setting('statement_timeout') AS w";
    eventually("both are promoted", async || {
        stack.query(sleep, json!([0])).await.body["rows"][0]["w"] == "50ms" && is_laned(&stack).await
    })
    .await;
    let body = json!({"sql": sleep, "params": [0.045]}).to_string();
    let leave =
        || stack.request("/v1/db/app/query", &stack.key).header("Hearth-Timeout-Ms", "5").body(body.clone()).send();
    let started = tokio::time::Instant::now();
    futures_util::future::join_all((0..300).map(|_| leave())).await;
    let neighbour = stack.query(WHERE, json!([1])).await;
    assert_eq!(neighbour.status, 200, "{}", neighbour.text);
    // 300 of them in line would take 13.5 s one after the other.
    assert!(started.elapsed() < std::time::Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_feature_is_the_callers_news_and_leaves_the_lane_alone() {
    let stack = stack().await;
    let part = "SELECT date_part($1, current_time) IS NULL AS n, pg_backend_pid() AS p, current_setting('statement_timeout') AS w";
    eventually("it is promoted", async || stack.query(part, json!(["hour"])).await.body["rows"][0]["w"] == "50ms")
        .await;
    for _ in 0..5 {
        let refused = stack.query(part, json!(["day"])).await;
        refused.assert_problem(422, "statement_failed", "not_applied");
        assert_eq!(refused.body["sqlstate"], "0A000");
    }
    assert_eq!(stack.query(part, json!(["hour"])).await.body["rows"][0]["w"], "50ms", "still on a lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_nobody_uses_make_room_for_those_who_wait() {
    let stack = stack().await;
    eventually("a lane is open", async || is_laned(&stack).await).await;
    // More than there is room for beside a lane.
    let sleepers = futures_util::future::join_all((0..9).map(|_| stack.query("SELECT pg_sleep(20)", json!([]))));
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'PgSleep'";
    tokio::select! {
        _ = sleepers => panic!("somebody waited for a sleeper's end"),
        () = eventually("all sessions sleep", async || stack.count(asleep).await == 8) => {}
    }
    // The sleepers have left. Whoever comes next has lanes again.
    eventually("a lane is open", async || is_laned(&stack).await).await;
}
