//! The hazards of a connection that many share, one test each; those that `lanes` tells already are not told again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hearth_broker::cli::key::NewKey;
use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

const QUERY: &str = "/v1/db/app/query";
/// The setting tells a lane from a lease.
const WHERE: &str = "current_setting('statement_timeout') AS w";
const ON_A_LANE: &str = "50ms";

/// Room for one lane, and three leases beside it.
async fn stack() -> Stack {
    let stack = Stack::with(Options { pool_max: 4, ..Options::default() }).await;
    stack.ok("CREATE TABLE t AS SELECT g AS id, 'row ' || g AS name FROM generate_series(1, 1000) g").await;
    stack.ok("ALTER TABLE t ADD PRIMARY KEY (id)").await;
    stack
}

fn is_laned(answer: &Answer) -> bool {
    answer.body["rows"][0]["w"] == ON_A_LANE
}

async fn promote(stack: &Stack, sql: &str, params: &Value) {
    eventually("it is promoted", async || is_laned(&stack.query(sql, params.clone()).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_neighbour_has_a_transaction_of_its_own_and_an_error_hits_its_caller_alone() {
    let stack = stack().await;
    // The time of the transaction: neighbours in one implicit transaction would have the same.
    let good = format!("SELECT id, {WHERE}, now()::text AS began, pg_backend_pid() AS p FROM t WHERE id = $1");
    let bad = format!("SELECT 1 / (id - id) AS n, {WHERE} FROM t WHERE id = $1 AND length(name) > $2");
    promote(&stack, &good, &json!([1])).await;
    for _ in 0..6 {
        stack.query(&bad, json!([1, 100])).await;
    }
    let (mut began, mut laned) = (BTreeMap::<_, BTreeSet<String>>::new(), 0);
    for _ in 0..10 {
        let answers = join_all((1..=60).map(|id| {
            let (stack, good, bad) = (&stack, &good, &bad);
            async move {
                if id % 3 == 0 {
                    let failed = stack.query(bad, json!([id, 1])).await;
                    failed.assert_problem(422, "statement_failed", "not_applied");
                    assert_eq!(failed.body["sqlstate"], "22012", "its own error: {}", failed.text);
                    return None;
                }
                let answer = stack.query(good, json!([id])).await;
                assert_eq!((answer.status, &answer.body["rows"][0]["id"]), (200, &json!(id)), "{}", answer.text);
                Some(answer)
            }
        }))
        .await;
        for answer in answers.into_iter().flatten().filter(is_laned) {
            laned += 1;
            let row = &answer.body["rows"][0];
            let time = row["began"].as_str().expect("a time").to_owned();
            assert!(began.entry(row["p"].to_string()).or_default().insert(time), "two in one: {}", answer.text);
        }
    }
    assert!(laned > 50, "{laned} on a lane");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in%'";
    eventually("no transaction is left open", async || stack.count(open).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_counts_from_a_statements_own_start_and_not_from_its_place_in_line() {
    let stack = stack().await;
    let sleep = format!("SELECT pg_sleep($1::float8)::text AS s, {WHERE}, pg_backend_pid() AS p");
    promote(&stack, &sleep, &json!([0])).await;
    let start = Instant::now();
    // In line on one lane they take longer than the budget of one; over the lane's depth they take leases.
    let answers = join_all((0..24).map(|_| stack.query(&sleep, json!([0.004])))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let laned = answers.iter().filter(|answer| is_laned(answer)).count();
    println!("{laned} of 24 one after the other on a lane, {} ms", start.elapsed().as_millis());
    assert!(laned > 13, "{laned} of 4 ms each are over the 50 ms of one");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_callers_than_a_lane_is_deep_take_leases() {
    let stack = stack().await;
    let sleep = format!("SELECT pg_sleep($1::float8)::text AS s, {WHERE}");
    promote(&stack, &sleep, &json!([0])).await;
    let answers = join_all((0..200).map(|_| stack.query(&sleep, json!([0.003])))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let laned = answers.iter().filter(|answer| is_laned(answer)).count();
    assert!((1..200).contains(&laned), "{laned} of 200 on a lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_does_not_read_holds_up_nobody() {
    let stack = stack().await;
    let neighbour = format!("SELECT id, {WHERE} FROM t WHERE id = $1");
    let large = format!("SELECT repeat('x', $1::int4) AS x, {WHERE}");
    promote(&stack, &neighbour, &json!([1])).await;
    promote(&stack, &large, &json!([1])).await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket =
            tokio::net::TcpStream::connect(stack.url.trim_start_matches("http://")).await.expect("connects");
        let body = json!({"sql": large, "params": [900_000]}).to_string();
        let head = format!(
            "POST {QUERY} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
            stack.key,
            body.len()
        );
        socket.write_all(head.as_bytes()).await.expect("writes");
        sockets.push(socket);
    }
    for id in 1..=50 {
        let answer = tokio::time::timeout(Duration::from_secs(5), stack.query(&neighbour, json!([id]))).await;
        assert_eq!(answer.expect("nobody waits for them").body["rows"][0]["id"], id);
    }
    assert_eq!(stack.running().await, 0, "their results do not wait in the server");
    let again = stack.query(&large, json!([1])).await;
    assert!(!is_laned(&again), "what was large once takes a lease for a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_cut_short_leaves_its_neighbours_their_own_rows() {
    let stack = stack().await;
    let sql = format!("SELECT id, {WHERE} FROM t WHERE id BETWEEN $1 AND $2 ORDER BY id");
    promote(&stack, &sql, &json!([1, 2])).await;
    let (mut cut, mut laned) = (0, 0);
    for round in 0..20 {
        let calls = (1..=20).map(|id| {
            // Some are allowed fewer rows than there are.
            let most = if (id + round) % 4 == 0 { json!(1) } else { json!(null) };
            let body = json!({"sql": sql, "params": [id, id + 2], "max_rows": most});
            let stack = &stack;
            async move { (id, most.is_null(), stack.post(QUERY, &body).await) }
        });
        for (id, whole, answer) in join_all(calls).await {
            if whole {
                let ids: Vec<_> = answer.body["rows"].as_array().into_iter().flatten().map(|row| &row["id"]).collect();
                assert_eq!(ids, [&json!(id), &json!(id + 1), &json!(id + 2)], "{}", answer.text);
                laned += usize::from(is_laned(&answer));
            } else {
                answer.assert_problem(413, "result_too_large", "not_applied");
                cut += 1;
            }
        }
    }
    assert!(cut > 0 && laned > 0, "{cut} cut, {laned} on a lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_others_prepare_or_deallocate_are_not_the_lanes() {
    let stack = stack().await;
    let sql = format!("SELECT id, name, {WHERE} FROM t WHERE id = $1");
    promote(&stack, &sql, &json!([1])).await;
    let done = AtomicBool::new(false);
    let spoil = async {
        while !done.load(Ordering::Acquire) {
            for sql in [
                "DEALLOCATE ALL",
                "DISCARD ALL",
                "DISCARD PLANS",
                "PREPARE l0 AS SELECT 'another''s' AS name",
                "DO $$ DECLARE n text; BEGIN FOR n IN SELECT name FROM pg_prepared_statements LOOP \
                   EXECUTE 'DEALLOCATE ' || quote_ident(n); END LOOP; END $$",
            ] {
                stack.query(sql, json!([])).await;
            }
        }
    };
    let read = async {
        let mut laned = 0;
        for id in 1..=300 {
            let answer = stack.query(&sql, json!([id])).await;
            assert_eq!(answer.body["rows"][0]["name"], format!("row {id}"), "{}", answer.text);
            laned += usize::from(is_laned(&answer));
        }
        done.store(true, Ordering::Release);
        laned
    };
    let (laned, ()) = tokio::join!(read, spoil);
    assert!(laned > 0, "none on a lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_remembers_is_asked_and_told_on_leases_only() {
    let stack = stack().await;
    stack.ok("CREATE TABLE p (id int4 PRIMARY KEY)").await;
    stack.ok("CREATE TABLE c (id int4 REFERENCES p DEFERRABLE INITIALLY DEFERRED)").await;
    stack.ok("CREATE SEQUENCE s").await;
    stack.ok("CREATE FUNCTION own() RETURNS int4 LANGUAGE sql STABLE AS 'SELECT 1'").await;
    for sql in [
        "SELECT pg_try_advisory_lock(1), {w}",
        "SELECT pg_try_advisory_xact_lock(1), {w}",
        "SELECT set_config('app.x', '1', true), {w}",
        "SELECT nextval('s'), {w}",
        "SELECT own(), {w}",
        "SELECT pg_notify('a', 'b'), {w}",
        "SELECT setseed(0.1), {w}",
        "SELECT pg_cancel_backend(0), {w}",
        "SELECT id, {w} FROM t WHERE id = 1 FOR UPDATE",
        "SELECT id, {w} FROM t WHERE id = 1 FOR KEY SHARE",
        "WITH x AS (DELETE FROM t WHERE id = 0 RETURNING id) SELECT {w}",
        "WITH x AS (UPDATE t SET name = name WHERE id = 1 RETURNING id) SELECT {w} FROM x",
        "INSERT INTO t VALUES (5000, '') ON CONFLICT (id) DO UPDATE SET name = '' RETURNING {w}",
        "SELECT query_to_xml('SELECT 1', true, true, ''), {w}",
        "SELECT lo_creat(-1), {w}",
        "SHOW statement_timeout",
        "FETCH 1 FROM nobody",
    ] {
        let sql = sql.replace("{w}", WHERE);
        for run in 0..8 {
            let answer = stack.query(&sql, json!([])).await;
            let laned = is_laned(&answer);
            assert!(!laned, "run {run} of {sql}: {}", answer.text);
        }
    }
    for _ in 0..8 {
        // Its refusal comes after its last row.
        stack.query("INSERT INTO c VALUES (7) RETURNING id", json!([])).await.assert_problem(
            409,
            "conflict",
            "not_applied",
        );
    }
    assert_eq!(stack.count("SELECT count(*) FROM c").await, 0);
}

/// What a view hides from the reading of a statement, the lane's server refuses, and a lease does.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_writes_unseen_is_done_once_and_not_on_a_lane() {
    let stack = stack().await;
    stack.ok("CREATE TABLE log (n int4)").await;
    stack.ok("CREATE FUNCTION note() RETURNS int4 LANGUAGE sql AS 'INSERT INTO log VALUES (1) RETURNING n'").await;
    stack.ok("CREATE VIEW seen AS SELECT note() AS n").await;
    for run in 1..=20 {
        let answer = stack.ok(&format!("SELECT n, {WHERE} FROM seen")).await;
        assert!(!is_laned(&answer), "{}", answer.text);
        assert_eq!(stack.count("SELECT count(*) FROM log").await, run, "each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_different_roles_share_no_lane() {
    let key = NewKey::random();
    let more = format!(
        "[databases.rival]\nurl = \"postgres://rival@localhost:{{port}}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
         pool = {{ min = 0, max = 4 }}\n[tenants.rival]\ndatabases = [\"rival\"]\n\
         keys = [{{ id = \"{}\", sha256 = \"{}\", scopes = [\"sql:read\", \"sql:write\"] }}]\n",
        key.id, key.sha256
    );
    let stack = Stack::with(Options { pool_max: 4, more, ..Options::default() }).await;
    stack.witness.batch_execute("CREATE ROLE rival LOGIN PASSWORD 'hidden-password'").await.expect("the owner may");
    let keys = [stack.key.clone(), key.token()];
    let stack = &stack;
    let sql = format!("SELECT current_user::text AS u, $1::text AS nonce, {WHERE}, pg_backend_pid() AS p");
    let ask = |role: &'static str, key: String, nonce: String| {
        let body = json!({"sql": sql, "params": [nonce]}).to_string();
        stack.send(stack.request(&format!("/v1/db/{role}/query"), &key).body(body))
    };
    let mut pids: BTreeMap<String, String> = BTreeMap::new();
    let mut laned = 0;
    for round in 0..40 {
        let calls = (0..20).map(|n| {
            let index = n % 2;
            let (role, nonce) = (["app", "rival"][index], format!("{round}-{n}"));
            let asked = ask(role, keys[index].clone(), nonce.clone());
            async move { (role, nonce, asked.await) }
        });
        for (role, nonce, answer) in join_all(calls).await {
            let row = &answer.body["rows"][0];
            assert_eq!((&row["u"], &row["nonce"]), (&json!(role), &json!(nonce)), "{}", answer.text);
            let owner = pids.entry(row["p"].to_string()).or_insert_with(|| role.to_owned()).clone();
            assert_eq!(owner, role, "one backend, one role");
            laned += usize::from(is_laned(&answer));
        }
    }
    assert!(laned > 100, "{laned} on lanes");
}
