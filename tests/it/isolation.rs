//! Whatever one request does to its session, in whatever way it came, no later one finds it: not on any connection of the pool,
//! not on the lanes. The database is the witness.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};

/// Everything of a session that a neighbour could notice. The first ten draws after `setseed(0.42)` are known beforehand.
const STATE: &str = "SELECT current_user::text AS u, session_user::text AS s, current_setting('search_path') AS path, \
    coalesce(nullif(current_setting('app.tenant', true), ''), 'none') AS tenant, \
    coalesce(nullif(current_setting('app.user_id', true), ''), 'none') AS owner, \
    (SELECT count(*)::int4 FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks, \
    (SELECT count(*)::int4 FROM pg_listening_channels()) AS channels, \
    (SELECT count(*)::int4 FROM pg_class WHERE relnamespace = pg_my_temp_schema()) AS tables, \
    (SELECT count(*)::int4 FROM pg_proc WHERE pronamespace = pg_my_temp_schema()) AS functions, \
    (SELECT count(*)::int4 FROM pg_type WHERE typnamespace = pg_my_temp_schema()) AS types, \
    (SELECT count(*)::int4 FROM pg_cursors WHERE is_holdable) AS cursors, \
    (SELECT count(*)::int4 FROM pg_prepared_statements WHERE from_sql) AS prepared, \
    (SELECT string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction%') AS changed, \
    current_setting('transaction_read_only') AS ro, to_regclass('mine')::text AS mine, \
    random() = ANY ($1::float8[]) AS seeded, pg_backend_pid()::int4 AS pid";
/// Free of effects, and yet never on a lane: the server calls it volatile.
const ON_A_LEASE: &str = ", pg_is_in_recovery() AS standby, pg_sleep(0.01)::text AS slept";

/// What a request may leave behind, or find behind.
const EFFECTS: [&str; 74] = [
    // Settings: reported ones, silent ones, custom ones; set, reset, and set by a function in every place for one.
    "SET search_path = pg_temp, public",
    "SET app.tenant = 'evil'",
    "SET LOCAL app.tenant = 'evil'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET statement_timeout = 1",
    "SET lock_timeout = '10min'",
    "SET default_transaction_read_only = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET client_encoding = 'LATIN1'",
    "SET DateStyle = 'German'",
    "SET client_min_messages = debug1",
    "SET row_security = off",
    "RESET ALL",
    "RESET statement_timeout",
    "SELECT set_config('app.tenant', 'evil', false)",
    "SELECT set_config('app.tenant', 'evil', true)",
    "SELECT * FROM set_config('app.tenant', 'evil', false)",
    "VALUES (set_config('app.tenant', 'evil', false))",
    "WITH w AS (SELECT set_config('app.tenant', 'evil', false)) SELECT * FROM w",
    "EXPLAIN ANALYZE SELECT set_config('app.tenant', 'evil', false)",
    "SELECT pg_catalog.set_config('app.tenant', 'evil', false)",
    "SELECT \"set_config\"('app.tenant', 'evil', false)",
    "SELECT set_config('search_path', 'pg_temp', false)",
    "SELECT set_config('role', 'plain', false)",
    "SELECT set_config('app.tenant', 'evil', false), 1 / 0",
    "SELECT sneak()",
    "SELECT u.evil FROM users u",
    "DO $$ BEGIN PERFORM set_config('app.tenant', 'evil', false); END $$",
    "DO $$ BEGIN SET app.tenant = 'evil'; COMMIT; END $$",
    "CALL sneaks()",
    // Who one is.
    "SET ROLE plain",
    "SET ROLE NONE",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION app",
    "RESET SESSION AUTHORIZATION",
    // Locks.
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(2)",
    "SELECT pg_advisory_lock(3), 1 / 0",
    "DO $$ BEGIN PERFORM pg_advisory_lock(4); END $$",
    // Things of the session's own schema.
    "CREATE TEMP TABLE mine (a int)",
    "CREATE TEMP TABLE mine (a int) ON COMMIT DROP",
    "CREATE TEMPORARY SEQUENCE mine",
    "CREATE TEMP VIEW mine AS SELECT 1 AS a",
    "SELECT 1 AS a INTO TEMP mine",
    "CREATE TABLE pg_temp.mine AS SELECT 1 AS id",
    "CREATE TABLE \"pg_temp\".mine (a int)",
    "CREATE FUNCTION pg_temp.mine() RETURNS int4 LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE pg_temp.mine AS (a int4)",
    "CREATE DOMAIN pg_temp.mine AS int4",
    "DO $$ BEGIN CREATE TEMP TABLE mine (a int); END $$",
    // Ears, prepared names, cursors.
    "LISTEN news",
    "NOTIFY news, 'from a neighbour'",
    "DO $$ BEGIN EXECUTE 'LISTEN news'; PERFORM pg_notify('news', 'from a neighbour'); END $$",
    "UNLISTEN *",
    "PREPARE mine AS SELECT 1",
    "DO $$ BEGIN EXECUTE 'PREPARE mine AS SELECT 1'; END $$",
    "EXECUTE mine",
    "DEALLOCATE mine",
    "DEALLOCATE ALL",
    "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE mine CURSOR FOR SELECT 1",
    "CLOSE ALL",
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
    // Sequences, chance, notices.
    "SELECT nextval('t_id_seq')",
    "SELECT setval('t_id_seq', 4711)",
    "SELECT setseed(0.42)",
    "DO $$ BEGIN RAISE NOTICE 'for your eyes only'; END $$",
    "SELECT whisper()",
    // Transactions of the session's own making.
    "SET TRANSACTION READ ONLY",
    "LOCK TABLE t",
    "SELECT pg_export_snapshot()",
];

/// What is refused in every way: it would open or end a transaction, or read what a neighbour did.
const REFUSED: [&str; 12] = [
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT a",
    "RELEASE a",
    "PREPARE TRANSACTION 'a'",
    "/* a */ begin isolation level serializable",
    "SELECT currval('t_id_seq')",
    "SELECT pg_catalog.lastval()",
];

/// How a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Query,
    ReadOnly,
    Settings,
    DryRun,
    Lines,
    Csv,
    Batch,
    DryBatch,
    OneByOne,
    CopyOut,
    Named,
    NamedDry,
    NamedLines,
}

impl Way {
    fn request(self, stack: &Stack, index: usize, sql: &str) -> reqwest::RequestBuilder {
        let (named, statements) = (format!("/v1/db/app/statements/effect_{index}"), json!([{"sql": sql}]));
        let (path, body): (&str, Value) = match self {
            Self::Query | Self::Lines | Self::Csv => ("/v1/db/app/query", json!({"sql": sql})),
            Self::ReadOnly => ("/v1/db/app/query", json!({"sql": sql, "read_only": true})),
            Self::Settings => ("/v1/db/app/query", json!({"sql": sql, "settings": {"app.user_id": "7"}})),
            Self::DryRun => ("/v1/db/app/query", json!({"sql": sql, "dry_run": true})),
            Self::Batch => ("/v1/db/app/batch", json!({"statements": [{"sql": "SELECT 1"}, {"sql": sql}]})),
            Self::DryBatch => ("/v1/db/app/batch", json!({"statements": statements, "dry_run": true})),
            Self::OneByOne => ("/v1/db/app/batch", json!({"statements": statements, "transaction": null})),
            Self::CopyOut => {
                let path = stack.copy_path(&format!("COPY ({sql}) TO STDOUT"));
                return stack.get(&path).bearer_auth(&stack.key);
            }
            Self::Named | Self::NamedLines => (&named, json!({})),
            Self::NamedDry => (&named, json!({"dry_run": true})),
        };
        let request = stack.request(path, &stack.key).body(body.to_string());
        match self {
            Self::Lines | Self::NamedLines => request.header("accept", "application/x-ndjson"),
            Self::Csv => request.header("accept", "text/csv"),
            _ => request,
        }
    }
}

/// A stack whose sessions are known clean, and how a clean one looks.
struct Watched {
    stack: Stack,
    seeded: Value,
    lease: Value,
    lane: Value,
    /// Looks that should have been taken on a lane, and were not.
    misses: usize,
    /// Looks that were taken on a lane.
    on_lanes: usize,
}

impl Watched {
    /// Three sessions to lend and one lane; `prepare` is done by the owner of the cluster before they are opened.
    async fn with(prepare: &str) -> Self {
        let named =
            |(index, sql): (usize, &&str)| format!("[databases.app.statements.effect_{index}]\nsql = {}\n", json!(sql));
        let more: String = EFFECTS.iter().chain(&REFUSED).enumerate().map(named).collect();
        let tenant = "settings = [\"app.user_id\"]".to_owned();
        let stack = Stack::with(Options { pool_max: 4, tenant, more, ..Options::default() }).await;
        stack.witness.batch_execute(OBJECTS).await.expect("the owner may");
        stack.witness.batch_execute(prepare).await.expect("the owner may");
        let control = format!("{}/admin/v1/databases/app/reconnect", stack.admin_url);
        assert_eq!(stack.send(reqwest::Client::new().post(control)).await.status, 200);
        stack.witness.batch_execute("SELECT setseed(0.42)").await.expect("the owner may");
        let drawn = "SELECT array_agg(random()) FROM generate_series(1, 10)";
        let drawn: Vec<f64> = stack.witness.query_one(drawn, &[]).await.expect("the owner may").get(0);
        let nobody = json!(null);
        let mut watched =
            Self { stack, seeded: json!(drawn), lease: nobody.clone(), lane: nobody, misses: 0, on_lanes: 0 };
        watched.lease = watched.look(&format!("{STATE}{ON_A_LEASE}")).await.0;
        for _ in 0..1_000 {
            let (seen, _) = watched.look(STATE).await;
            if seen["changed"].as_str().is_some_and(|changed| changed.contains("statement_timeout=50")) {
                watched.lane = seen;
                break;
            }
        }
        assert!(watched.lane.is_object(), "no lane opens");
        watched
    }

    /// How the session that answers looks, and which one it is.
    async fn look(&self, sql: &str) -> (Value, i64) {
        let answer = self.stack.query(sql, json!([self.seeded])).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.body.get("notices").is_none(), "nobody else's notices: {}", answer.text);
        let mut seen = answer.body["rows"][0].clone();
        let pid = seen.as_object_mut().and_then(|seen| seen.remove("pid")).and_then(|pid| pid.as_i64());
        (seen, pid.expect("says which"))
    }

    /// Looks at the lane, and at every session there is until each has been seen, or is gone.
    async fn all_are_clean(&mut self, after: &str) {
        // A text that a busy machine has made slow stays off the lanes for long; another one of the same meaning does not.
        let text = format!("{STATE} -- {}", self.misses / 8);
        let (seen, _) = self.look(&text).await;
        self.misses += usize::from(seen["changed"] != self.lane["changed"]);
        if seen["changed"] == self.lane["changed"] {
            assert_eq!(seen, self.lane, "on the lane, after {after}");
            self.on_lanes += 1;
        }
        let sessions =
            "SELECT pid::int8 FROM pg_stat_activity WHERE usename = 'app' AND application_name NOT LIKE '%watch%'";
        let sql = format!("{STATE}{ON_A_LEASE}");
        let (mut leases, mut lanes) = (BTreeSet::new(), self.lanes());
        for round in 0.. {
            assert!(round < 500, "a session is never lent again, after {after}");
            for (seen, pid) in join_all((0..3).map(|_| self.look(&sql))).await {
                assert_eq!(seen, self.lease, "after {after}");
                leases.insert(pid);
            }
            let there = self.stack.witness.query(sessions, &[]).await.expect("the owner may ask");
            let there: BTreeSet<i64> = there.iter().map(|row| row.get(0)).collect();
            if self.lanes() != lanes {
                // A lease may have become a lane.
                (leases, lanes) = (BTreeSet::new(), self.lanes());
            } else if there.len() - lanes <= leases.intersection(&there).count() {
                return;
            }
        }
    }

    fn lanes(&self) -> usize {
        self.stack.broker.databases["app"].endpoints()[0].status().lanes
    }

    /// The database itself: nobody of the broker's holds anything.
    async fn the_witness_agrees(&self, after: &str) {
        for what in [
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in%'",
            "SELECT count(*) FROM pg_prepared_xacts",
        ] {
            eventually(&format!("nothing is left after {after}: {what}"), async || self.stack.count(what).await == 0)
                .await;
        }
    }

    /// Does it, in its way; answers how it went.
    async fn provoke(&self, way: Way, index: usize, sql: &str) -> Answer {
        self.stack.send(way.request(&self.stack, index, sql)).await
    }
}

const OBJECTS: &str = "CREATE ROLE plain; GRANT plain TO app; SET ROLE app; \
    CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE users AS SELECT 1 AS id; \
    GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; \
    CREATE FUNCTION sneak() RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
      PERFORM set_config('app.tenant', 'evil', false); PERFORM pg_advisory_lock(9); SET TimeZone = 'Asia/Tokyo'; \
      EXECUTE 'CREATE TEMP TABLE IF NOT EXISTS mine (a int)'; EXECUTE 'LISTEN secrets'; RETURN 'done'; END $$; \
    CREATE PROCEDURE sneaks() LANGUAGE plpgsql AS $$ BEGIN PERFORM sneak(); COMMIT; PERFORM sneak(); END $$; \
    CREATE FUNCTION evil(u users) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', 'evil', false) $$; \
    CREATE FUNCTION whisper() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'psst'; RETURN 1; END $$; \
    CREATE FUNCTION last() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN lastval()::text; \
      EXCEPTION WHEN OTHERS THEN RETURN 'none'; END $$; RESET ROLE";

/// Does everything in these ways; answers what came of it.
async fn through(ways: &[Way]) -> String {
    let mut watched = Watched::with("").await;
    let (mut tried, mut went_well) = (0, 0);
    for way in ways {
        for (index, sql) in EFFECTS.iter().enumerate() {
            if *way == Way::CopyOut && !["SELECT", "VALUES", "WITH"].iter().any(|word| sql.starts_with(word)) {
                continue;
            }
            let after = format!("{sql} by {way:?}");
            let answer = watched.provoke(*way, index, sql).await;
            assert!([200, 400, 403, 409, 422].contains(&answer.status), "{after}: {}", answer.text);
            tried += 1;
            went_well += usize::from(answer.status == 200);
            watched.all_are_clean(&after).await;
            if sql.contains("_seq'") {
                // A function of the tenant's own may ask for the last value, and finds none.
                for last in join_all((0..3).map(|_| watched.stack.ok("SELECT last(), pg_sleep(0.01)"))).await {
                    assert_eq!(last.first(), "none", "{after}");
                }
            }
        }
        watched.the_witness_agrees(&format!("{way:?}")).await;
        for (index, sql) in REFUSED.iter().enumerate() {
            // A COPY of another kind is no COPY to the server either.
            if *way != Way::CopyOut || sql.starts_with("SELECT") {
                let refused = watched.provoke(*way, EFFECTS.len() + index, sql).await;
                refused.assert_problem(400, "invalid_request", "not_applied");
            }
        }
        watched.all_are_clean(&format!("what is refused by {way:?}")).await;
    }
    assert!(went_well * 2 > tried || ways.contains(&Way::ReadOnly), "{went_well} of {tried}");
    assert!(watched.on_lanes * 4 > tried, "{} of {tried}", watched.on_lanes);
    format!("{tried} effects, {went_well} of them done; {} looks at a lane", watched.on_lanes)
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_leave_nothing_behind() {
    println!("{}", Box::pin(through(&[Way::Query, Way::ReadOnly, Way::Settings, Way::DryRun])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_copies_leave_nothing_behind() {
    println!("{}", Box::pin(through(&[Way::Lines, Way::Csv, Way::CopyOut])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_leave_nothing_behind() {
    println!("{}", Box::pin(through(&[Way::Batch, Way::DryBatch, Way::OneByOne])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_leave_nothing_behind() {
    println!("{}", Box::pin(through(&[Way::Named, Way::NamedDry, Way::NamedLines])).await);
}

/// A login role may have settings and a role of its own, and each session begins with them: `RESET` means those.
#[tokio::test(flavor = "multi_thread")]
async fn a_roles_own_settings_are_what_a_clean_session_has() {
    let own = "CREATE ROLE own; GRANT own TO app; GRANT USAGE, CREATE ON SCHEMA public TO own; ALTER ROLE app SET role = 'own'; \
        ALTER ROLE app SET app.tenant = 'own'; ALTER ROLE app SET search_path = 'public', 'pg_catalog'; \
        ALTER ROLE app SET TimeZone = 'UTC'";
    let mut watched = Watched::with(own).await;
    assert_eq!((&watched.lease["u"], &watched.lease["tenant"]), (&json!("own"), &json!("own")), "{}", watched.lease);
    for way in [Way::Query, Way::Lines, Way::Batch, Way::DryRun] {
        for sql in [
            "SET ROLE NONE",
            "SET ROLE app",
            "RESET ROLE",
            "SET ROLE plain",
            "SET SESSION AUTHORIZATION app",
            "SET SESSION AUTHORIZATION DEFAULT",
            "RESET SESSION AUTHORIZATION",
            "RESET ALL",
            "SET app.tenant = 'evil'",
            "RESET app.tenant",
            "SET search_path TO DEFAULT",
            "SET TimeZone = 'Asia/Tokyo'",
            "DISCARD ALL",
            "DO $$ BEGIN SET ROLE NONE; END $$",
            "SELECT set_config('role', 'none', false)",
            "CREATE TEMP TABLE mine (a int)",
        ] {
            watched.provoke(way, 0, sql).await;
            watched.all_are_clean(&format!("{sql} by {way:?}")).await;
        }
    }
}

/// A login role that may be anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_is_itself_again_for_the_next() {
    let mut watched = Watched::with("ALTER ROLE app SUPERUSER").await;
    for way in [Way::Query, Way::Csv, Way::Batch, Way::DryRun] {
        for sql in [
            "SET SESSION AUTHORIZATION plain",
            "SET ROLE plain",
            "SET LOCAL SESSION AUTHORIZATION plain",
            "DO $$ BEGIN SET SESSION AUTHORIZATION plain; SET ROLE plain; END $$",
            "SELECT set_config('session_authorization', 'plain', false)",
            "SET session_replication_role = replica",
            "SET log_statement = 'all'",
        ] {
            watched.provoke(way, 0, sql).await;
            watched.all_are_clean(&format!("{sql} by {way:?}")).await;
        }
    }
}
