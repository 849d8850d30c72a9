//! Nothing one request does is seen by the next, and no cancellation hits anybody else.

use std::time::Duration;

use hearth_tests::{Options, Stack};
use serde_json::json;

/// Everything of a session that a neighbour could notice, as one row of texts.
const STATE: &str = "SELECT current_user::text AS u, session_user::text AS s, current_setting('search_path') AS path, \
    coalesce(nullif(current_setting('app.tenant', true), ''), 'none') AS tenant, current_setting('TimeZone') AS zone, \
    current_setting('statement_timeout') AS timeout, current_setting('default_transaction_read_only') AS ro, \
    (SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks, \
    (SELECT count(*)::text FROM pg_listening_channels()) AS channels, \
    (SELECT count(*)::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()) AS temp, \
    (SELECT count(*)::text FROM pg_cursors WHERE is_holdable) AS cursors, \
    (SELECT count(*)::text FROM pg_prepared_statements WHERE from_sql) AS prepared, \
    (SELECT string_agg(name, ',') FROM pg_settings WHERE source = 'session') AS changed";

async fn single() -> Stack {
    Stack::with(Options { pool_max: 1, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_one_request_does_is_seen_by_the_next() {
    let stack = single().await;
    stack.witness.batch_execute("CREATE ROLE plain; GRANT plain TO app").await.expect("makes a role");
    stack.ok("CREATE TABLE t (id serial PRIMARY KEY)").await;
    stack
        .ok("CREATE FUNCTION sneak() RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM set_config('app.tenant', 'evil', false); PERFORM pg_advisory_lock(9); \
             EXECUTE 'CREATE TEMP TABLE IF NOT EXISTS hidden (a int)'; EXECUTE 'LISTEN secrets'; RETURN 'done'; END $$")
        .await;
    stack.ok("CREATE TABLE users AS SELECT 1 AS id").await;
    stack
        .ok("CREATE FUNCTION evil(u users) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN set_config('app.tenant', 'evil', false); END $$")
        .await;
    stack.ok("CREATE FUNCTION pg_bac\u{212a}end_pid() RETURNS text LANGUAGE sql AS 'SELECT sneak()'").await;
    let clean = stack.ok(STATE).await.body["rows"].clone();
    for sql in [
        "SELECT u.evil FROM users u",
        "SELECT (u).\"evil\" FROM public.users u",
        "SELECT pg_bac\u{212a}end_pid()",
        "SELECT E'a' -- c\n'\\'', set_config('app.tenant','evil',false), ''''",
        "SET search_path = pg_temp, public",
        "SET app.tenant = 'evil'",
        "SELECT set_config('app.tenant', 'evil', false)",
        "SELECT sneak()",
        "SET ROLE plain",
        "SET SESSION AUTHORIZATION app",
        "SET TimeZone = 'Asia/Tokyo'",
        "SET statement_timeout = 1",
        "SET default_transaction_read_only = on",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(2)",
        "CREATE TEMP TABLE mine (a int)",
        "CREATE TEMPORARY SEQUENCE counter",
        "SELECT 1 AS a INTO TEMP another",
        "LISTEN news",
        "PREPARE mine AS SELECT 1",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "RESET ALL",
        "SELECT nextval('t_id_seq')",
        "DO $$ BEGIN PERFORM set_config('app.tenant', 'evil', false); END $$",
        "SELECT pg_advisory_lock(3), 1 / 0",
        "SET client_encoding = 'LATIN1'",
        "SET DateStyle = 'German'",
        "; SET app.tenant = 'evil'",
        ";SET ROLE plain",
        "CREATE TABLE \"pg_temp\".users AS SELECT 1 AS id",
        "SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''app.tenant'', ''evil'', false))')",
        "SELECT query_to_xml('SELECT set_config(''app.tenant'', ''evil'', false)', true, true, '')",
        "SELECT E'a'\n'\\'', set_config('app.tenant', 'evil', false) --'",
    ] {
        let answer = stack.query(sql, json!([])).await;
        let seen = stack.ok(STATE).await;
        assert_eq!(seen.body["rows"], clean, "after {sql} ({})", answer.text);
    }
    let dates = stack.ok("SELECT '2026-01-02'::date AS d, 'é' AS e").await;
    assert_eq!(dates.body["rows"], json!([{"d": "2026-01-02", "e": "é"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_keeps_the_connection_and_its_statements() {
    let stack = single().await;
    let pid = stack.ok("SELECT pg_backend_pid() AS p").await.first().clone();
    for _ in 0..3 {
        stack.ok("SELECT set_config('app.tenant', 'x', false)").await;
        stack.query("SELECT 1 / 0", json!([])).await;
    }
    assert_eq!(stack.ok("SELECT pg_backend_pid() AS p").await.first(), &pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_does_not_break_prepared_statements() {
    let stack = single().await;
    stack.ok("CREATE TYPE pair AS (a int4)").await;
    stack.ok("CREATE TABLE t (id int4, p pair)").await;
    stack.ok("INSERT INTO t VALUES (1, ROW(2))").await;
    for _ in 0..4 {
        assert_eq!(stack.ok("SELECT * FROM t").await.body["rows"], json!([{"id": 1, "p": {"a": 2}}]));
    }
    // Behind the broker's back.
    stack
        .witness
        .batch_execute("ALTER TABLE t ADD COLUMN name text DEFAULT 'new'; ALTER TYPE pair ADD ATTRIBUTE b text")
        .await
        .expect("alters");
    assert_eq!(
        stack.ok("SELECT * FROM t").await.body["rows"],
        json!([{"id": 1, "p": {"a": 2, "b": null}, "name": "new"}])
    );
    stack.ok("ALTER TABLE t ALTER COLUMN id TYPE int8").await;
    assert_eq!(stack.ok("SELECT * FROM t").await.body["rows"][0]["id"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prepared_cache_is_bounded() {
    let stack = Stack::with(Options {
        pool_max: 1,
        more: "[databases.small]\nurl = \"postgres://app@127.0.0.1:1/app\"\n".to_owned(),
        ..Options::default()
    })
    .await;
    for round in 0..2 {
        for n in 0..260 {
            assert_eq!(stack.ok(&format!("SELECT {n} AS n")).await.first(), n, "round {round}");
        }
    }
    let kept = stack.ok("SELECT count(*)::int4 AS n FROM pg_prepared_statements").await;
    assert!(kept.first().as_i64().is_some_and(|n| n <= 210), "{}", kept.text);
}

/// A small generator with a fixed seed (Knuth's MMIX constants): the same moments in every run.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below_us: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((self.0 >> 33) % below_us)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_at_any_moment_leaves_the_next_borrower_a_clean_session() {
    let stack = single().await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let clean = stack.ok(STATE).await.body["rows"].clone();
    let mut moments = Moments(7);
    for round in 0..150 {
        // Dirty from its first moment to its last, and long enough to be hit anywhere.
        let body = json!({
            "sql": "SELECT set_config('app.tenant', 'evil', false), pg_advisory_lock($1), pg_sleep(0.02), set_config('search_path', 'x', false)",
            "params": [round], "read_only": round % 3 == 0
        });
        let request = stack.request("/v1/db/app/query", &stack.key).body(body.to_string());
        // A dropped request closes its connection, which cancels.
        let _ = tokio::time::timeout(moments.next(30_000), request.send()).await;
        let nonce = format!("{round}-{:?}", moments.next(1 << 30));
        let mine = stack.query("SELECT $1::text AS nonce", json!([nonce])).await;
        assert_eq!((mine.status, mine.first()), (200, &json!(nonce)), "round {round}: {}", mine.text);
        let seen = stack.ok(STATE).await;
        assert_eq!(seen.body["rows"], clean, "round {round}");
    }
    let status = stack.broker.databases["app"].endpoints()[0].status();
    assert!(status.open() <= 1, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_the_driver_cannot_be_swapped_for_another() {
    let stack = single().await;
    stack.ok("CREATE TYPE mood AS ENUM ('sad')").await;
    stack.ok("CREATE TABLE m (x mood)").await;
    stack.ok("CREATE TABLE victim (id int4)").await;
    let swap = "EXECUTE 'DEALLOCATE ' || name; EXECUTE 'PREPARE ' || name || '(oid) AS WITH w AS (INSERT INTO victim VALUES (1) RETURNING 1) \
        SELECT typname, typtype, typelem, rngsubtype, typbasetype, nspname, typrelid FROM w, pg_type t LEFT JOIN pg_range r ON true \
        JOIN pg_namespace n ON true WHERE t.oid = $1'";
    let every = format!(
        "DECLARE name text; BEGIN FOR name IN SELECT p.name FROM pg_prepared_statements p WHERE NOT from_sql LOOP {swap}; END LOOP;"
    );
    stack.ok(&format!("CREATE FUNCTION swap() RETURNS int4 LANGUAGE plpgsql AS $f$ {every} RETURN 1; END $f$")).await;
    let as_reader = |sql: String| {
        stack.send(stack.request("/v1/db/app/query", &stack.reader).body(json!({"sql": sql}).to_string()))
    };
    for attack in [format!("DO $d$ {every} END $d$"), "SELECT swap()".to_owned()] {
        for _ in 0..3 {
            assert_eq!(as_reader("SELECT x FROM m".to_owned()).await.status, 200);
        }
        as_reader(attack.clone()).await;
        stack.ok("CREATE TYPE another AS ENUM ('a')").await;
        for sql in ["SELECT x FROM m", "SELECT 'a'::another AS a", "SELECT 1 AS n"] {
            assert_eq!(as_reader(sql.to_owned()).await.status, 200, "{sql} after {attack}");
        }
        assert_eq!(
            stack.count("SELECT count(*) FROM victim").await,
            0,
            "a key that may only read has written: {attack}"
        );
        stack.ok("DROP TYPE another").await;
    }
}
