//! Several statements in one transaction and one round trip.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_tests::{Answer, Options, Stack};
use serde_json::{Value, json};

const BATCH: &str = "/v1/db/app/batch";

async fn batch(stack: &Stack, statements: Value) -> Answer {
    stack.post(BATCH, &json!({"statements": statements})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_statements_cost_one_round_trip() {
    let stack = Stack::with(Options { pool_max: 1, proxy: true, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4 PRIMARY KEY, n int4)").await;
    stack.ok("INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) n").await;
    let statements: Vec<Value> = (1..=10)
        .map(|id| match id % 2 {
            0 => json!({"sql": "SELECT n FROM t WHERE id = $1", "params": [id]}),
            _ => json!({"sql": "UPDATE t SET n = n + 1 WHERE id = $1", "params": [id]}),
        })
        .collect();
    let proxy = stack.proxy.as_ref().expect("asked for");
    let mut turns = Vec::new();
    for _ in 0..4 {
        let before = proxy.turns();
        let answer = batch(&stack, json!(statements)).await;
        assert_eq!(
            (answer.status, answer.body["results"].as_array().map(Vec::len)),
            (200, Some(10)),
            "{}",
            answer.text
        );
        turns.push(proxy.turns() - before);
    }
    // The first sightings prepare; from then on everything is in one write.
    assert_eq!(turns[2..], [1, 1], "{turns:?}");
    assert!(turns.iter().all(|turns| *turns <= 2), "{turns:?}");
    let one = json!({"statements": statements, "transaction": {"isolation": "serializable", "read_only": false}});
    let before = proxy.turns();
    assert_eq!(stack.post(BATCH, &one).await.status, 200);
    assert_eq!(proxy.turns() - before, 1, "also with an isolation level");
    let read_only = json!({"sql": "SELECT n FROM t WHERE id = $1", "params": [2], "read_only": true});
    let before = proxy.turns();
    assert_eq!(stack.post("/v1/db/app/query", &read_only).await.status, 200);
    assert_eq!(proxy.turns() - before, 1, "READ ONLY is one round trip too");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_or_nothing_and_the_problem_says_which() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4 PRIMARY KEY)").await;
    let insert = |id: i32| json!({"sql": "INSERT INTO t VALUES ($1)", "params": [id]});
    let twice = batch(&stack, json!([insert(1), insert(2), insert(1), insert(3)])).await;
    twice.assert_problem(409, "conflict", "not_applied");
    assert_eq!((&twice.body["statement"], &twice.body["sqlstate"]), (&json!(2), &json!("23505")));
    let syntax = batch(&stack, json!([insert(1), {"sql": "SELEC 1"}])).await;
    syntax.assert_problem(422, "statement_failed", "not_applied");
    assert_eq!(syntax.body["statement"], 1);
    let bad = batch(&stack, json!([insert(1), {"sql": "INSERT INTO t VALUES ($1)", "params": []}])).await;
    bad.assert_problem(400, "invalid_request", "not_applied");
    assert_eq!(bad.body["statement"], 1);
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    let good = batch(&stack, json!([insert(1), {"sql": "SELECT id FROM t"}])).await;
    assert_eq!(good.body["attempts"], 1);
    assert_eq!(good.body["results"][0], json!({"columns": [], "rows": [], "row_count": 1, "command": "INSERT"}));
    assert_eq!(good.body["results"][1]["rows"], json!([{"id": 1}]));
    // A deferred constraint refuses at the end, when no statement is to blame.
    stack.ok("CREATE TABLE c (id int4 REFERENCES t DEFERRABLE INITIALLY DEFERRED)").await;
    let deferred = batch(&stack, json!([{"sql": "INSERT INTO c VALUES (9)"}, {"sql": "SELECT 1"}])).await;
    deferred.assert_problem(409, "conflict", "not_applied");
    assert_eq!(stack.count("SELECT count(*) FROM c").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_transactions_is_refused_before_anything_runs() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4)").await;
    for sql in
        ["COMMIT", "/* x */ rollback", "END", "SAVEPOINT a", "BEGIN", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'"]
    {
        for transaction in [json!({}), Value::Null] {
            let body =
                json!({"statements": [{"sql": "INSERT INTO t VALUES (1)"}, {"sql": sql}], "transaction": transaction});
            let answer = stack.post(BATCH, &body).await;
            answer.assert_problem(400, "invalid_request", "not_applied");
            assert_eq!(answer.body["statement"], 1, "{sql}");
        }
    }
    // Code that commits cannot: it runs in the batch's transaction.
    stack.ok("CREATE PROCEDURE sly() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (2); COMMIT; END'").await;
    let sly = batch(&stack, json!([{"sql": "INSERT INTO t VALUES (1)"}, {"sql": "CALL sly()"}])).await;
    sly.assert_problem(422, "statement_failed", "not_applied");
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    // More than the protocol can count: refused, and nothing breaks.
    let nulls: Vec<Value> = vec![Value::Null; 70_000];
    let many = json!([{"sql": "SELECT $1", "params": nulls, "types": nulls}]);
    batch(&stack, many).await.assert_problem(400, "invalid_request", "not_applied");
    let settings: serde_json::Map<String, Value> = (0..101).map(|n| (format!("app.s{n}"), json!("x"))).collect();
    let many = stack.post(BATCH, &json!({"statements": [{"sql": "SELECT 1"}], "settings": settings})).await;
    assert!([400, 403].contains(&many.status), "{}", many.text);
    batch(&stack, json!([])).await.assert_problem(400, "invalid_request", "not_applied");
    let many: Vec<Value> = (0..101).map(|_| json!({"sql": "SELECT 1"})).collect();
    batch(&stack, json!(many)).await.assert_problem(400, "invalid_request", "not_applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_are_not_as_expected_roll_back() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4)").await;
    stack.ok("INSERT INTO t VALUES (1), (2), (3)").await;
    let delete = |more: Value| {
        let mut statement = json!({"sql": "DELETE FROM t WHERE id > $1", "params": [1]});
        statement.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!([{"sql": "INSERT INTO t VALUES (0)"}, statement])
    };
    for wrong in [json!({"expect_rows": 1}), json!({"expect_rows": 3}), json!({"max_affected": 1})] {
        let answer = batch(&stack, delete(wrong)).await;
        answer.assert_problem(409, "expectation_failed", "not_applied");
        assert_eq!(answer.body["statement"], 1);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains('2')), "{}", answer.text);
    }
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 3);
    let right = batch(&stack, delete(json!({"expect_rows": 2, "max_affected": 2}))).await;
    assert_eq!((right.status, stack.count("SELECT count(*) FROM t").await), (200, 2), "{}", right.text);
    let one = json!({"sql": "UPDATE t SET id = 9", "max_affected": 1});
    stack.post("/v1/db/app/query", &one).await.assert_problem(409, "expectation_failed", "not_applied");
    let hidden = json!({"sql": "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1", "max_affected": 1});
    stack.post("/v1/db/app/query", &hidden).await.assert_problem(400, "invalid_request", "not_applied");
    assert_eq!(stack.count("SELECT count(*) FROM t WHERE id = 9").await, 0);
    let dry = json!({"sql": "DELETE FROM t RETURNING id", "dry_run": true});
    assert_eq!(stack.post("/v1/db/app/query", &dry).await.body["row_count"], 2);
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 2);
    stack.ok("CREATE TABLE p (id int4 PRIMARY KEY)").await;
    stack.ok("CREATE TABLE c (id int4 REFERENCES p DEFERRABLE INITIALLY DEFERRED)").await;
    let dry = json!({"sql": "INSERT INTO c VALUES (1)", "dry_run": true});
    stack.post("/v1/db/app/query", &dry).await.assert_problem(409, "conflict", "not_applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_takes_an_earlier_result() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE o (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data jsonb, at timestamptz DEFAULT now())").await;
    stack.ok("CREATE TABLE l (o int8 REFERENCES o, n int4)").await;
    let answer = batch(
        &stack,
        json!([
            {"sql": "INSERT INTO o (data) VALUES ($1), ($2) RETURNING id, data, at", "params": [{"a": [1, "x"]}, {"$ref": "a"}]},
            {"sql": "INSERT INTO l VALUES ($1, 1), ($2, 2)", "params": [{"$ref": "0.rows[0].id"}, {"$ref": "0.rows[1].id"}]},
            {"sql": "SELECT count(*)::int4 AS n FROM o WHERE id = ANY ($1)", "params": [{"$ref": "0.rows[*].id"}]},
            {"sql": "SELECT $1::int4 AS rows, $2::jsonb = data AS same, $3 = at AS then FROM o WHERE id = $4",
             "params": [{"$ref": "1.row_count"}, {"$ref": "0.rows[0].data"}, {"$ref": "0.rows[0].at"}, {"$ref": "0.rows[0].id"}]},
        ]),
    )
    .await;
    // `{"$ref": "a"}` is no reference: refused, not stored.
    answer.assert_problem(400, "invalid_request", "not_applied");
    let answer = batch(
        &stack,
        json!([
            {"sql": "INSERT INTO o (data) VALUES ($1), ($2) RETURNING id, data, at", "params": [{"a": [1, "x"]}, {"$ref": "a", "b": 1}]},
            {"sql": "INSERT INTO l VALUES ($1, 1), ($2, 2)", "params": [{"$ref": "0.rows[0].id"}, {"$ref": "0.rows[1].id"}]},
            {"sql": "SELECT count(*)::int4 AS n FROM o WHERE id = ANY ($1)", "params": [{"$ref": "0.rows[*].id"}]},
            {"sql": "SELECT $1::int4 AS rows, $2::jsonb = data AS same, $3 = at AS then FROM o WHERE id = $4",
             "params": [{"$ref": "1.row_count"}, {"$ref": "0.rows[0].data"}, {"$ref": "0.rows[0].at"}, {"$ref": "0.rows[0].id"}]},
        ]),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["results"][2]["rows"], json!([{"n": 2}]));
    assert_eq!(answer.body["results"][3]["rows"], json!([{"rows": 2, "same": true, "then": true}]));
    for (path, index) in [("0.rows[7].id", 1), ("0.rows[0].nope", 1), ("1.rows[0].id", 1), ("nonsense", 1)] {
        let statements = json!([{"sql": "INSERT INTO o DEFAULT VALUES RETURNING id"}, {"sql": "SELECT $1::int8", "params": [{"$ref": path}]}]);
        let answer = batch(&stack, statements).await;
        answer.assert_problem(400, "invalid_request", "not_applied");
        assert!(answer.body["statement"].is_null() || answer.body["statement"] == index, "{}", answer.text);
    }
    assert_eq!(stack.count("SELECT count(*) FROM o").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_transaction_each_stands_alone_up_to_the_first_error() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4 PRIMARY KEY)").await;
    let body = json!({"transaction": null, "statements": [
        {"sql": "INSERT INTO t VALUES (1) RETURNING id"},
        {"sql": "INSERT INTO t VALUES ($1::int4 + 1)", "params": [{"$ref": "0.rows[0].id"}]},
        {"sql": "INSERT INTO t VALUES (1)"},
        {"sql": "INSERT INTO t VALUES (3)"}]});
    let answer = stack.post(BATCH, &body).await;
    answer.assert_problem(409, "conflict", "not_applied");
    assert_eq!((&answer.body["statement"], &answer.body["retryable"]), (&json!(2), &json!(false)));
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 2);
    let fine =
        json!({"transaction": null, "statements": [{"sql": "VACUUM t"}, {"sql": "SELECT count(*) AS n FROM t"}]});
    let fine = stack.post(BATCH, &fine).await;
    assert_eq!((fine.status, &fine.body["results"][1]["rows"]), (200, &json!([{"n": "2"}])), "{}", fine.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_in_a_batch_is_there_for_the_next_statement() {
    let stack = Stack::start().await;
    for round in 0..3 {
        let answer = batch(
            &stack,
            json!([
                {"sql": "CREATE TABLE fresh (id int4, name text)"},
                {"sql": "INSERT INTO fresh VALUES ($1, $2)", "params": [1, "a"]},
                {"sql": "ALTER TABLE fresh ALTER id TYPE text"},
                {"sql": "SELECT * FROM fresh"},
                {"sql": "DROP TABLE fresh"},
            ]),
        )
        .await;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text);
        assert_eq!(answer.body["results"][3]["rows"], json!([{"id": "1", "name": "a"}]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_is_as_the_request_says() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let show = json!([{"sql": "SELECT current_setting('transaction_isolation') AS i, current_setting('transaction_read_only') AS r, current_setting('transaction_deferrable') AS d"}]);
    for (transaction, wanted) in [
        (json!({}), ["read committed", "off", "off"]),
        (json!({"isolation": "repeatable_read"}), ["repeatable read", "off", "off"]),
        (json!({"isolation": "serializable", "read_only": true, "deferrable": true}), ["serializable", "on", "on"]),
    ] {
        let answer = stack.post(BATCH, &json!({"statements": show, "transaction": transaction})).await;
        let row = &answer.body["results"][0]["rows"][0];
        assert_eq!(row, &json!({"i": wanted[0], "r": wanted[1], "d": wanted[2]}), "{}", answer.text);
    }
    let write = json!({"statements": [{"sql": "SELECT 1"}, {"sql": "INSERT INTO t VALUES (1)"}]});
    let mut read_only = write.clone();
    read_only["transaction"] = json!({"read_only": true});
    let refused = stack.post(BATCH, &read_only).await;
    refused.assert_problem(403, "forbidden", "not_applied");
    assert_eq!((&refused.body["statement"], &refused.body["sqlstate"]), (&json!(1), &json!("25006")));
    let reader = stack.send(stack.request(BATCH, &stack.reader).body(write.to_string())).await;
    reader.assert_problem(403, "forbidden", "not_applied");
    // What a reader may not do, it may not do by changing the transaction either.
    for sly in [
        json!([{"sql": "RESET transaction_read_only"}, {"sql": "INSERT INTO t VALUES (1)"}]),
        json!([{"sql": "DO $$ BEGIN RESET transaction_read_only; INSERT INTO t VALUES (1); END $$"}]),
        json!([{"sql": "SET TRANSACTION READ WRITE"}, {"sql": "INSERT INTO t VALUES (1)"}]),
        json!([{"sql": "SET transaction_read_only = off"}, {"sql": "INSERT INTO t VALUES (1)"}]),
        json!([{"sql": "DO $$ BEGIN SET TRANSACTION READ WRITE; INSERT INTO t VALUES (1); END $$"}]),
        json!([{"sql": "SELECT set_config('transaction_read_only', 'off', false)"}, {"sql": "INSERT INTO t VALUES (1)"}]),
    ] {
        let sly = stack.send(stack.request(BATCH, &stack.reader).body(json!({"statements": sly}).to_string())).await;
        assert!([400, 403, 422].contains(&sly.status), "{}", sly.text);
        assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
    }
    for wrong in [json!({"isolation": "none"}), json!({"isolate": "serializable"}), json!(7)] {
        let answer = stack.post(BATCH, &json!({"statements": show, "transaction": wrong})).await;
        answer.assert_problem(400, "invalid_request", "not_applied");
    }
    let late = json!({"statements": [{"sql": "INSERT INTO t VALUES (1)"}, {"sql": "SELECT pg_sleep(20)"}, {"sql": "SELECT 1"}]});
    let request = stack.request(BATCH, &stack.key).header("hearth-timeout-ms", "300").body(late.to_string());
    stack.send(request).await.assert_problem(504, "statement_timeout", "not_applied");
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_over_the_limit_says_that_the_batch_has_happened() {
    let stack = Stack::with(Options { limits: "max_result_bytes = \"4KiB\"".to_owned(), ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let large = json!([{"sql": "INSERT INTO t VALUES (1)"}, {"sql": "SELECT repeat('x', 3000)"}, {"sql": "SELECT repeat('x', 3000)"}]);
    let answer = batch(&stack, large).await;
    answer.assert_problem(413, "result_too_large", "applied");
    assert_eq!(answer.body["statement"], 2);
    assert_eq!(stack.count("SELECT count(*) FROM t").await, 1);
    let reads = json!([{"sql": "SELECT repeat('x', 9000000)"}]);
    batch(&stack, reads).await.assert_problem(413, "result_too_large", "not_applied");
    assert_eq!(stack.ok("SELECT 1 AS n").await.first(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_conflict_both_succeed_and_one_ran_again() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4 PRIMARY KEY, n int4)").await;
    stack.ok("INSERT INTO t VALUES (1, 1), (2, 1)").await;
    // Each reads both rows and changes one: whichever commits second has read what the first has changed.
    let skew = |id: i32| {
        json!({"transaction": {"isolation": "serializable"}, "statements": [
            {"sql": "SELECT sum(n) AS n FROM t"},
            {"sql": "SELECT pg_sleep(0.3)"},
            {"sql": "UPDATE t SET n = n - 1 WHERE id = $1 AND (SELECT sum(n) FROM t) > 1", "params": [id]}]})
    };
    let (one, two) = (skew(1), skew(2));
    let (one, two) = tokio::join!(stack.post(BATCH, &one), stack.post(BATCH, &two));
    assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text, two.text);
    let mut attempts = [&one, &two].map(|answer| answer.body["attempts"].as_u64().expect("a count"));
    attempts.sort_unstable();
    assert_eq!(attempts[0], 1);
    assert!(attempts[1] > 1, "{attempts:?}");
    assert_eq!(stack.count("SELECT sum(n) FROM t").await, 1, "as if one after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_conserved_while_connections_are_killed() {
    const TRANSFERS: u64 = 1_000;
    const WORKERS: u64 = 8;
    let stack = Arc::new(Stack::with(Options { pool_max: 6, ..Options::default() }).await);
    stack.ok("CREATE TABLE account (id int4 PRIMARY KEY, balance int8 CHECK (balance >= 0))").await;
    stack.ok("CREATE TABLE done (id int8 PRIMARY KEY)").await;
    stack.ok("INSERT INTO account SELECT n, 1000 FROM generate_series(0, 9) n").await;
    let over = Arc::new(AtomicBool::new(false));
    let killer = tokio::spawn({
        let (stack, over) = (Arc::clone(&stack), Arc::clone(&over));
        async move {
            let mut killed = 0;
            while !over.load(Ordering::Relaxed) {
                killed += stack
                    .count("SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1) k")
                    .await;
                tokio::time::sleep(std::time::Duration::from_millis(15)).await;
            }
            killed
        }
    });
    let workers = (0..WORKERS).map(|worker| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move {
            let (mut acknowledged, mut refused, mut state) = (Vec::new(), Vec::new(), worker + 1);
            for n in 0..TRANSFERS / WORKERS {
                // A small generator of our own keeps the run the same each time.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (from, to, amount) = ((state >> 33) % 10, (state >> 40) % 10, (state >> 50) % 50);
                let id = worker * TRANSFERS + n;
                let body = json!({"transaction": {"isolation": "serializable"}, "statements": [
                    {"sql": "UPDATE account SET balance = balance - $1 WHERE id = $2", "params": [amount, from], "expect_rows": 1},
                    {"sql": "UPDATE account SET balance = balance + $1 WHERE id = $2", "params": [amount, to], "expect_rows": 1},
                    {"sql": "INSERT INTO done VALUES ($1)", "params": [id]}]});
                let answer = stack.post(BATCH, &body).await;
                match (answer.status, answer.body["outcome"].as_str()) {
                    (200, _) => acknowledged.push(id),
                    (_, Some("not_applied")) => refused.push(id),
                    (502, Some("unknown")) => {}
                    _ => panic!("{}", answer.text),
                }
            }
            (acknowledged, refused)
        })
    });
    let (mut acknowledged, mut refused) = (HashSet::new(), HashSet::new());
    for worker in workers.collect::<Vec<_>>() {
        let (done, not) = worker.await.expect("the worker ends");
        acknowledged.extend(done);
        refused.extend(not);
    }
    over.store(true, Ordering::Relaxed);
    let kills = killer.await.expect("the killer ends");
    assert_eq!(stack.count("SELECT sum(balance)::int8 FROM account").await, 10_000);
    let rows = stack.witness.query("SELECT id FROM done", &[]).await.expect("reads");
    let done: HashSet<u64> = rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()).collect();
    assert!(acknowledged.is_subset(&done), "an acknowledged transfer is lost");
    assert!(refused.is_disjoint(&done), "a transfer called not applied has happened");
    assert!(kills > 0);
    assert!(acknowledged.len() > 500, "{} of {TRANSFERS} went through, {kills} killed", acknowledged.len());
}
