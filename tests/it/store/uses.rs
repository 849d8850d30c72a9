//! When stored keys become good, and when they were last used.

use std::time::Duration;

use hearth_tests::eventually;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{SOON, World, soon};

/// Uses are noted to the second: after this the next one is a later one.
const SECOND: Duration = Duration::from_millis(1_100);

/// What brokers have written of a key. Unit: seconds since 1970.
async fn written(world: &World, key: &str) -> Option<i64> {
    let sql = "SELECT extract(epoch FROM last_used)::bigint FROM hearth.key_uses WHERE id = $1";
    let row = world.sql().await.query_opt(sql, &[&id(key)]).await.expect("asks");
    row.map(|row| row.get(0))
}

/// The number of the last change.
async fn seq(world: &World) -> i64 {
    world.sql().await.query_one("SELECT seq FROM hearth.revision", &[]).await.expect("asks").get(0)
}

fn id(key: &str) -> &str {
    key.split_once('.').expect("has two halves").0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_before_its_time_is_refused_and_then_let_in() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let good = world.tenant("acme").await;
    let body = json!({"not_before": "2098-01-01T00:00:00Z", "expires_in": "1d"});
    let never = world.admin(&broker, "POST", "/tenants/acme/keys", Some(body)).await;
    never.assert_problem(400, "invalid_request", "not_applied");
    assert_eq!(never.body["faults"][0]["path"], "not_before", "{}", never.text);
    let made =
        world.admin(&broker, "POST", "/tenants/acme/keys", Some(json!({"not_before": "2098-01-01T00:00:00Z"}))).await;
    assert_eq!((made.status, &made.body["state"]), (201, &json!("pending")), "{}", made.text);
    assert_eq!(made.body["not_before"], "2098-01-01T00:00:00Z");
    let key = made.body["key"].as_str().expect("is text").to_owned();
    // It is in force here: whoever has the secret is told why, and nobody else.
    let early = world.whoami(&broker, &key).await;
    early.assert_problem(401, "unauthenticated", "not_applied");
    assert!(early.text.contains("not valid yet"), "{}", early.text);
    let guessed = world.whoami(&broker, &format!("{}.wrong", id(&key))).await;
    assert!(guessed.status == 401 && !guessed.text.contains("not valid yet"), "{}", guessed.text);
    assert_eq!(world.whoami(&broker, &good).await.status, 200, "another key of the tenant");
    world.cli(&["key", "rotate", id(&key)]).await.fails("is pending");
    let update = "UPDATE hearth.keys SET not_before = now() - interval '1 second' WHERE id = $1";
    world.sql().await.execute(update, &[&id(&key)]).await.expect("the role may");
    soon(&world, &broker, &key, 200).await;
    let shown = world.admin(&broker, "GET", &format!("/tenants/acme/keys/{}", id(&key)), None).await;
    assert_eq!(shown.body["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_know_moments() {
    let world = World::new().await;
    world.tenant("acme").await;
    let later = ["--not-before", "2098-01-01T00:00:00Z"];
    let create = async |more: &[&str]| world.cli(&[&["key", "create"], more, &later].concat()).await;
    create(&["acme"]).await.says("from 2098-01-01T00:00:00Z on and never expires");
    create(&[]).await.says("not_before = \"2098-01-01T00:00:00Z\"");
    create(&["acme", "--expires-in", "1d"]).await.fails("not_before: must be before the key expires");
    create(&["--expires-in", "1d"]).await.fails("must be before the key expires");
    world.cli(&["key", "create", "acme", "--not-before", "soon"]).await.fails("is not a moment");
    world.cli(&["key", "list", "acme"]).await.says("pending");
    world.cli(&["key", "list", "acme"]).await.says("LAST USED");
    world.cli(&["key", "create", "--help"]).await.says("To rotate a key of the configuration file");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_write_what_they_saw_and_the_latest_stays() {
    let world = World::new().await;
    let (used, idle) = (world.tenant("acme").await, world.tenant("idle").await);
    let (mut one, mut two) = (world.broker("one").await, world.broker("two").await);
    assert_eq!(world.whoami(&one, &used).await.status, 200);
    sleep(SECOND).await;
    assert_eq!(world.whoami(&two, &used).await.status, 200);
    // Its tenant is another record by then; the use is not forgotten.
    world.cli(&["tenant", "update", "acme", "--set", "limits.in_flight=5"]).await.says("changed");
    eventually("it is in force", async || world.whoami(&two, &used).await.body["limits"]["in_flight"] == 5).await;
    let changed = seq(&world).await;
    two.stop().await;
    let latest = written(&world, &used).await.expect("the end of a broker writes it");
    one.stop().await;
    assert_eq!(written(&world, &used).await, Some(latest), "an earlier use takes nothing back");
    assert_eq!(written(&world, &idle).await, None);
    assert_eq!(seq(&world).await, changed, "a use is no change");
    let listed = world.cli(&["key", "list", "acme", "--json"]).await.json();
    assert!(listed["keys"][0]["last_used"].as_str().is_some_and(|at| at.starts_with("20")), "{listed}");
    one.restart(&world.ground).await;
    let shown = world.admin(&one, "GET", &format!("/tenants/acme/keys/{}", id(&used)), None).await;
    assert_eq!(shown.body["last_used"], listed["keys"][0]["last_used"]);
    let idle = world.admin(&one, "GET", "/tenants/idle/keys", None).await;
    assert_eq!(idle.body["keys"][0]["last_used"], Value::Null);
    // A later use is written over it.
    sleep(SECOND).await;
    assert_eq!(world.whoami(&one, &used).await.status, 200);
    one.stop().await;
    assert!(written(&world, &used).await > Some(latest));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_of_a_key_that_was_revoked_is_written_and_one_that_is_gone_is_left_out() {
    let world = World::new().await;
    let (revoked, gone, kept) = (world.tenant("a").await, world.tenant("b").await, world.tenant("c").await);
    let mut broker = world.broker("one").await;
    for key in [&revoked, &gone, &kept] {
        assert_eq!(world.whoami(&broker, key).await.status, 200);
    }
    world.cli(&["key", "revoke", id(&revoked)]).await.says("revoked");
    world.cli(&["tenant", "delete", "b", "--yes"]).await.says("deleted");
    soon(&world, &broker, &revoked, 401).await;
    soon(&world, &broker, &gone, 401).await;
    broker.stop().await;
    let known = [written(&world, &revoked).await, written(&world, &kept).await];
    assert!(known.iter().all(Option::is_some), "{known:?}: {}", broker.log());
    assert_eq!(written(&world, &gone).await, None);
    // With its tenant a key takes its use along.
    world.cli(&["tenant", "delete", "c", "--yes"]).await.says("deleted");
    assert_eq!(written(&world, &kept).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_uses_cannot_be_written_one_warning_says_so_and_all_else_goes_on() {
    let world = World::new().await;
    let key = world.tenant("acme").await;
    let owner = world.ground.postgres.admin("control").await.expect("connects");
    let mut broker = world.reading_broker().await;
    assert_eq!(world.query(&broker, &key).await.status, 200);
    broker.stop().await;
    let log = broker.log();
    assert_eq!(log.matches("when keys were last used is not written").count(), 1, "{log}");
    assert!(log.contains("stopped") && written(&world, &key).await.is_none(), "{log}");
    // With what the operations page says it can.
    owner.batch_execute("GRANT INSERT, UPDATE ON hearth.key_uses TO reader").await.expect("grants");
    broker.restart(&world.ground).await;
    assert_eq!(world.query(&broker, &key).await.status, 200);
    broker.stop().await;
    assert!(written(&world, &key).await.is_some(), "{}", broker.log());
    // A transaction of somebody else's that holds the row does not hold up the end.
    broker.restart(&world.ground).await;
    owner.batch_execute("BEGIN; SELECT FROM hearth.key_uses FOR UPDATE").await.expect("locks");
    assert_eq!(world.query(&broker, &key).await.status, 200);
    let start = Instant::now();
    broker.stop().await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(broker.log().contains("has not ended within 500ms"), "{}", broker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_schema_asks_for_no_grants() {
    let world = World::new().await;
    let key = world.tenant("acme").await;
    // As a schema of the first version is, with the roles that it had.
    let owner = world.ground.postgres.admin("control").await.expect("connects");
    let first = "DROP TABLE hearth.key_uses; ALTER TABLE hearth.keys DROP COLUMN not_before; \
                 DELETE FROM hearth.migrations WHERE version = 2; \
                 CREATE ROLE reader LOGIN PASSWORD 'reader-password'; CREATE ROLE \"Odd writer\"; \
                 GRANT USAGE ON SCHEMA hearth TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA hearth TO reader; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON hearth.keys TO \"Odd writer\"";
    owner.batch_execute(first).await.expect("is taken back");
    world.cli(&["tenant", "list"]).await.fails("is at version 1 and this version of hearth needs 2");
    world.cli(&["migrate"]).await.says("2 uses: applied");
    let may = async |role: &str, what: &str| -> bool {
        let sql = "SELECT has_table_privilege($1::text, 'hearth.key_uses', $2::text)";
        owner.query_one(sql, &[&role, &what]).await.expect("asks").get(0)
    };
    assert!(may("reader", "SELECT").await && !may("reader", "INSERT").await);
    assert!(may("Odd writer", "INSERT").await && may("Odd writer", "UPDATE").await);
    let broker = world.broker("one").await;
    assert_eq!(world.query(&broker, &key).await.status, 200, "keys of before are good");
}
