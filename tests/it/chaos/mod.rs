//! Everything goes wrong at once, on a schedule that comes out the same for the same seed, while callers of two tenants check each
//! answer. The short run is part of the suite; `bin/chaos` is the long one.
//!
//! `HEARTH_CHAOS_SEED`, `HEARTH_CHAOS_SECONDS`, `HEARTH_CHAOS_CALLERS`; `HEARTH_CHAOS_REQUESTS`: not before so many were sent.

mod caller;
mod ledger;
mod monkey;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hearth_tests::proxy::Proxy;
use hearth_tests::{Ground, Key, Seeded, Served, eventually, knob};
use tokio::time::{Instant, sleep};

use caller::Caller;
use ledger::Ledger;

/// Connections of each tenant's pool.
const POOL: u32 = 8;
/// Each is a login role, a database, a cache, and a table of its own.
const TENANTS: [&str; 2] = ["app", "rival"];

/// What is broken, and what breaks it.
struct World {
    ground: Ground,
    served: Served,
    postgres: Proxy,
    redis: Proxy,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_no_answer_is_anothers_and_no_acknowledged_write_is_lost() {
    let (seed, seconds) = (knob("HEARTH_CHAOS_SEED", 4), knob("HEARTH_CHAOS_SECONDS", 15));
    let (callers, requests) = (knob("HEARTH_CHAOS_CALLERS", 24), knob("HEARTH_CHAOS_REQUESTS", 0));
    let keys = TENANTS.map(|_| Key::new());
    let mut world = world(&keys).await;
    let (ledger, done, start) = (Ledger::default(), AtomicBool::new(false), Instant::now());
    let url = world.served.url.clone();
    let calling = join_all((0..callers).map(|number| {
        let tenant = usize::try_from(number % 2).expect("one of two");
        let caller = Caller::new(TENANTS[tenant], &keys[tenant], &url, seed, number);
        caller.call_until(&done, &ledger)
    }));
    let breaking = async {
        let mut chance = Seeded::new(seed);
        let mut told = monkey::Told::default();
        let progress = AtomicU64::new(0);
        while start.elapsed() < Duration::from_secs(seconds) || ledger.requests() < requests {
            monkey::act(&mut world, &mut chance, &mut told).await;
            if start.elapsed().as_secs() / 60 > progress.load(Ordering::Relaxed) {
                progress.fetch_add(1, Ordering::Relaxed);
                println!("{} s: {}", start.elapsed().as_secs(), ledger.line());
            }
        }
        monkey::heal(&world).await;
        // Everybody finds the way back before the last calls.
        sleep(Duration::from_secs(1)).await;
        done.store(true, Ordering::Release);
        told
    };
    let ((), told) = tokio::join!(async { calling.await.into_iter().collect() }, breaking);
    let elapsed = start.elapsed();
    println!("seed {seed}, {} s, {callers} callers: {}", elapsed.as_secs(), ledger.line());
    println!("{told}");
    println!("{}", ledger.failures());

    let witness = world.ground.witness().await;
    for tenant in TENANTS {
        println!("{}", ledger.check(&witness, tenant).await);
    }
    assert_eq!(ledger.strange(), Vec::<String>::new(), "answers that were another's, or none of ours");
    let (lost, killed) = (ledger.not_retryable(), told.killed());
    println!("{lost} failures that may not be sent again ÷ {killed} connections killed");
    assert!(lost <= killed, "{lost} of {killed}");
    assert!(ledger.requests() > 100 * seconds && ledger.good() * 2 > ledger.requests(), "{}", ledger.line());
    nothing_strays(&world).await;
}

async fn world(keys: &[Key; 2]) -> World {
    // A commit counts as one only where the server has written it down: private servers are told not to wait for that.
    let ground = Ground::start(&["max_connections=60", "synchronous_commit=on"]).await;
    let (postgres, redis) = (Proxy::start(ground.postgres.port).await, Proxy::start(ground.redis.port).await);
    let witness = ground.witness().await;
    witness.batch_execute("CREATE ROLE rival LOGIN PASSWORD 'hidden-password'").await.expect("the owner may");
    let mut config = format!(
        "[caches.main]\nurl = \"redis://127.0.0.1:{}\"\npassword = \"{}\"\n",
        redis.port, ground.redis.password
    );
    for (tenant, key) in TENANTS.into_iter().zip(keys) {
        let sql = format!(
            "CREATE TABLE rows_{tenant} AS SELECT g AS id, '{tenant} row ' || g AS name FROM generate_series(1, 1000) g; \
             ALTER TABLE rows_{tenant} ADD PRIMARY KEY (id); ALTER TABLE rows_{tenant} OWNER TO {tenant}; \
             CREATE TABLE ledger_{tenant} (nonce text NOT NULL); CREATE INDEX ON ledger_{tenant} (nonce); \
             ALTER TABLE ledger_{tenant} OWNER TO {tenant}"
        );
        witness.batch_execute(&sql).await.expect("the owner may");
        let _ = writeln!(
            config,
            "[databases.{tenant}]\nurl = \"postgres://{tenant}@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
             pool = {{ min = 1, max = {POOL} }}\n[tenants.{tenant}]\ndatabases = [\"{tenant}\"]\ncaches = [\"main\"]\n\
             keys = [{}]\nsettings = [\"app.*\"]",
            postgres.port, key.entry
        );
    }
    let served = Served::start(&ground, "broker", &config).await;
    World { ground, served, postgres, redis }
}

/// Every session is accounted for, at every look, here and on the server.
async fn nothing_strays(world: &World) {
    let served = &world.served;
    assert!(served.metric("hearth_conservation_failures_total").await < 0.5, "{}", served.log());
    assert!(served.metric("hearth_leaks_total").await < 0.5, "{}", served.log());
    eventually("every pool adds up", async || served.pools().await.iter().all(|pool| pool["conserved"] == true)).await;
    let witness = world.ground.witness().await;
    let count = async |sql: &str| witness.query_one(sql, &[]).await.expect("the owner may ask").get::<_, i64>(0);
    let ours = "FROM pg_stat_activity WHERE usename IN ('app', 'rival')";
    eventually("nobody runs or holds anything", async || {
        count(&format!("SELECT count(*) {ours} AND state <> 'idle' AND query NOT LIKE '%pg_stat_activity%'")).await == 0
            && count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await == 0
    })
    .await;
    eventually("the server has the sessions that the broker knows, and no more", async || {
        let known: u64 = served.pools().await.iter().filter_map(|pool| pool["open"].as_u64()).sum();
        let there = count(&format!("SELECT count(*) {ours} AND application_name NOT LIKE '%watch%'")).await;
        u64::try_from(there).expect("a count") == known
    })
    .await;
}
