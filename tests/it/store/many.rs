//! A hundred thousand tenants.

use std::time::Duration;

use hearth_tests::{Answer, Served};
use tokio::time::Instant;

use super::{World, number, soon};

const TENANTS: u32 = 100_000;
/// A debug build on a busy machine.
const START: Duration = Duration::from_secs(30);
/// The target is 200 MiB in a release build; a debug build holds the same.
const MEMORY: u64 = 250 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tenants_start_quickly_and_cost_little_while_they_are_idle() {
    let world = World::new().await;
    let few = world.broker("few").await;
    let base = few.memory();
    let sql = world.sql().await;
    let made = Instant::now();
    // A hundred different policies; the secret of each key is "secret-" and its number.
    for insert in [
        format!("INSERT INTO hearth.tenants (name) SELECT 'tenant-' || n FROM generate_series(1, {TENANTS}) n"),
        format!(
            "INSERT INTO hearth.policies SELECT 'tenant-' || n, jsonb_build_object('databases', '[\"app\"]'::jsonb, 'limits', \
                 jsonb_build_object('in_flight', 1 + n % 100)) FROM generate_series(1, {TENANTS}) n"
        ),
        format!(
            "INSERT INTO hearth.keys (id, tenant, sha256, scopes) SELECT 'hk_' || n || '_' || k, 'tenant-' || n, \
                 sha256(('secret-' || n)::bytea), '{{sql:read}}' FROM generate_series(1, {TENANTS}) n, generate_series(1, 2) k"
        ),
    ] {
        sql.batch_execute(&insert).await.expect("inserts");
    }
    eprintln!("inserted after {:?}", made.elapsed());
    let start = Instant::now();
    let broker = world.broker("many").await;
    let ready = start.elapsed();
    let memory = broker.memory().saturating_sub(base);
    eprintln!("{TENANTS} tenants: ready after {ready:?}, {} MiB more than without", memory >> 20);
    assert!(ready < START, "{ready:?}");
    assert!(memory < MEMORY, "{memory} bytes");
    assert_eq!(number(&broker, "hearth_control_tenants").await, i64::from(TENANTS));
    assert_eq!(number(&broker, "hearth_control_keys").await, i64::from(2 * TENANTS));
    // Idle tenants: no connection beyond the pool's, and no series.
    let text = broker.admin("/metrics").await.text;
    assert!(!text.contains("tenant=\"tenant-"), "no series");
    let sessions = sql.query_one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'", &[]).await;
    let sessions: i64 = sessions.expect("asks").get(0);
    assert!(sessions <= 12, "two brokers with a pool of four and a watch each, whatever the tenants: {sessions}");
    // Any of them is served, and a change of one is quick.
    for number in [1, 777, TENANTS] {
        let answer: Answer = world.query(&broker, &format!("hk_{number}_1.secret-{number}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let key = world.key("tenant-99999").await;
    let took = soon(&world, &broker, &key, 200).await;
    eprintln!("a new key among {} was in force after {took:?}", 2 * TENANTS);
    // All at once: the broker serves meanwhile.
    let whole = Instant::now();
    sql.batch_execute("UPDATE hearth.policies SET body = body || '{\"lanes\": false}'").await.expect("updates");
    let committed = Instant::now();
    let seq: i64 = sql.query_one("SELECT seq FROM hearth.revision", &[]).await.expect("asks").get(0);
    let mut slowest = Duration::ZERO;
    while number(&broker, "hearth_control_sequence").await < seq {
        let asked = Instant::now();
        assert_eq!(world.whoami(&broker, "hk_5_1.secret-5").await.status, 200);
        slowest = slowest.max(asked.elapsed());
        assert!(committed.elapsed() < 3 * START, "never in force");
    }
    eprintln!(
        "all changed: committed after {:?}, in force {:?} later, slowest answer meanwhile {slowest:?}",
        committed - whole,
        committed.elapsed()
    );
    eprintln!("{} MiB after that", broker.memory().saturating_sub(base) >> 20);
    reload_costs_little(&broker).await;
}

async fn reload_costs_little(broker: &Served) {
    let text = std::fs::read_to_string(broker.config()).expect("is there");
    for (old, new) in [("max = 4", "max = 4 "), ("max = 4", "max = 5")] {
        std::fs::write(broker.config(), text.replacen(old, new, 1)).expect("writes");
        let asked = Instant::now();
        assert_eq!(broker.admin("/admin/v1/reload").await.status, 200);
        eprintln!("a reload (`{new}`) took {:?}", asked.elapsed());
    }
    assert_eq!(number(broker, "hearth_control_tenants").await, i64::from(TENANTS));
}
