//! The control database goes away and comes back.

use hearth_tests::{Hearth, Served, eventually};

use super::{World, number, soon};

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_what_is_known_stays_in_force_and_then_changes_come_again() {
    let mut world = World::new().await;
    let key = world.tenant("acme").await;
    let broker = world.broker("one").await;
    assert_eq!(world.query(&broker, &key).await.status, 200);
    assert!(broker.metric("hearth_control_up").await > 0.5);
    world.ground.postgres.halt("INT").await.expect("ends");
    eventually("the broker notices", async || broker.metric("hearth_control_up").await < 0.5).await;
    assert_eq!(world.whoami(&broker, &key).await.status, 200);
    assert_eq!(world.whoami(&broker, &world.filed.token).await.status, 200);
    let written = world.admin(&broker, "POST", "/tenants", Some(serde_json::json!({"name": "other"}))).await;
    written.assert_problem(503, "backend_down", "not_applied");
    assert!(!written.text.contains("control-password") && !written.text.contains("localhost"), "{}", written.text);
    assert_eq!(number(&broker, "hearth_control_tenants").await, 1);
    world.ground.postgres.restart(&world.ground.scratch).await.expect("starts");
    eventually("it is read again", async || broker.metric("hearth_control_up").await > 0.5).await;
    let id = key.split('.').next().expect("has an id");
    world.cli(&["key", "revoke", id]).await.says("revoked");
    soon(&world, &broker, &key, 401).await;
    let log = broker.log();
    let outages = log.matches("the control database cannot be read").count();
    assert_eq!(outages, 1, "told once");
    assert!(!log.contains("control-password"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_killed_are_opened_again_and_nothing_is_missed() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let owner = world.ground.postgres.admin("postgres").await.expect("connects");
    for round in 0..5 {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hearth control'";
        owner.execute(kill, &[]).await.expect("the owner may");
        let key = world.tenant(&format!("t{round}")).await;
        soon(&world, &broker, &key, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_require_it_starts_with_the_file_and_has_the_rest_later() {
    let mut world = World::new().await;
    let key = world.tenant("acme").await;
    let app = world.config("");
    world.ground.postgres.halt("INT").await.expect("ends");
    // Required: it says why and ends.
    let file = world.ground.scratch.path().join("required.toml");
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    std::fs::write(&file, format!("{server}{app}")).expect("writes");
    let (status, errors) = Hearth::start(&["serve", "--config", &file.display().to_string()], &[]).ended().await;
    assert!(!status.success() && errors.contains("the control database cannot be reached"), "{errors}");
    // Not required: the file's tenants are served. Redis alone makes it ready.
    let config = app.replacen("[control]", "[control]\nrequired = false", 1);
    let broker = Served::start(&world.ground, "patient", &config).await;
    assert_eq!(world.whoami(&broker, &world.filed.token).await.status, 200);
    assert_eq!(world.whoami(&broker, &key).await.status, 401);
    assert!(broker.log().contains("the file's tenants alone are in force"));
    world.ground.postgres.restart(&world.ground.scratch).await.expect("starts");
    eventually("it is read", async || broker.metric("hearth_control_up").await > 0.5).await;
    soon(&world, &broker, &key, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_or_pooler_that_tells_nothing_is_looked_at() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let sql = world.sql().await;
    // The change is made without a word of it.
    sql.batch_execute("ALTER TABLE hearth.tenants DISABLE TRIGGER USER").await.expect("the owner may");
    let quiet = "INSERT INTO hearth.tenants (name) VALUES ('quiet'); UPDATE hearth.revision SET seq = seq + 1; \
                 INSERT INTO hearth.changes SELECT 'quiet', seq FROM hearth.revision";
    sql.batch_execute(quiet).await.expect("the owner may");
    eventually("it is found", async || number(&broker, "hearth_control_tenants").await == 1).await;
}
