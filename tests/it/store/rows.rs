//! Rows that people wrote by hand, good and bad, and the file beside them.

use hearth_tests::{Served, eventually};
use serde_json::json;

use super::{World, number, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_bad_row_stays_as_it_was_and_others_are_not_touched() {
    let world = World::new().await;
    let (bad, good) = (world.tenant("bad").await, world.tenant("good").await);
    let broker = world.broker("one").await;
    let sql = world.sql().await;
    let set = async |body: &str| {
        let update = "UPDATE hearth.policies SET body = $1::text::jsonb WHERE tenant = 'bad'";
        sql.execute(update, &[&body]).await.expect("the role may");
    };
    let troubles = async || world.admin(&broker, "GET", "/control", None).await.body["not_in_force"].clone();
    for (body, path) in [
        (r#"{"databases": ["app"], "limits": {"in_flight": -1}}"#, "limits.in_flight"),
        (r#"{"databases": ["nope"]}"#, "databases[0]"),
        (r#"{"database": ["app"]}"#, "database"),
    ] {
        set(body).await;
        eventually("it is told", async || troubles().await[0]["faults"][0]["path"] == path).await;
        assert_eq!(
            (&troubles().await[0]["tenant"], &troubles().await[0]["in_force"]),
            (&json!("bad"), &json!("in_part"))
        );
        assert_eq!((world.query(&broker, &bad).await.status, world.query(&broker, &good).await.status), (200, 200));
        assert_eq!(number(&broker, "hearth_control_faulty_tenants").await, 1);
    }
    let shown = world.admin(&broker, "GET", "/tenants/bad", None).await;
    assert_eq!((&shown.body["in_force"], &shown.body["faults"][0]["path"]), (&json!("in_part"), &json!("database")));
    assert!(broker.log().contains("the tenant `bad` of the control database has faults, what is bad stays as it was"));
    // Whoever is suspended is refused, whatever else is wrong; so is a key that was revoked, and a new one works.
    let second = world.key("bad").await;
    soon(&world, &broker, &second, 200).await;
    sql.execute("UPDATE hearth.keys SET revoked_at = now() WHERE id = $1", &[&second.split('.').next()])
        .await
        .expect("may");
    soon(&world, &broker, &second, 401).await;
    sql.execute("UPDATE hearth.tenants SET suspended_at = now() WHERE name = 'bad'", &[]).await.expect("the role may");
    soon(&world, &broker, &bad, 403).await;
    sql.execute("UPDATE hearth.tenants SET suspended_at = NULL WHERE name = 'bad'", &[]).await.expect("the role may");
    soon(&world, &broker, &bad, 200).await;
    // What is changed for the better is in force.
    set(r#"{"databases": ["app"], "limits": {"in_flight": 3}}"#).await;
    eventually("it is in force", async || {
        world.whoami(&broker, &bad).await.body["limits"]["in_flight"] == 3 && troubles().await == json!([])
    })
    .await;
    // A key that cannot be: the tenant stays as it was, with the keys that it had.
    sql.execute("UPDATE hearth.keys SET scopes = '{nonsense}' WHERE tenant = 'bad'", &[]).await.expect("the role may");
    eventually("it is told", async || troubles().await[0]["faults"][0]["message"].to_string().contains("nonsense"))
        .await;
    assert_eq!(world.query(&broker, &bad).await.status, 200);
    // A broker that starts now knows no good form of it.
    let fresh = world.broker("two").await;
    assert_eq!((world.whoami(&fresh, &bad).await.status, world.query(&fresh, &good).await.status), (401, 200));
    let told = world.admin(&fresh, "GET", "/tenants/bad", None).await;
    assert_eq!(told.body["in_force"], "in_part");
    set("{\"limits\": 5}").await;
    let fresh = world.broker("three").await;
    assert_eq!((world.whoami(&fresh, &bad).await.status, world.query(&fresh, &good).await.status), (401, 200));
    assert_eq!(world.admin(&fresh, "GET", "/tenants/bad", None).await.body["in_force"], "no");
    assert_eq!(world.query(&broker, &bad).await.status, 200, "it has the form before");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_by_hand_is_followed_too() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let key = world.tenant("acme").await;
    soon(&world, &broker, &key, 200).await;
    let sql = world.sql().await;
    // Rolled back: nothing was.
    sql.batch_execute("BEGIN; DELETE FROM hearth.tenants; ROLLBACK").await.expect("the role may");
    sql.batch_execute("UPDATE hearth.tenants SET name = 'renamed' WHERE name = 'acme'").await.expect("the role may");
    eventually("the new name", async || world.whoami(&broker, &key).await.body["tenant"] == "renamed").await;
    // Several at once, in one transaction: all or nothing, and the same key belongs to another.
    let more = "BEGIN; INSERT INTO hearth.tenants (name) VALUES ('next'); \
                INSERT INTO hearth.policies VALUES ('next', '{\"databases\": [\"app\"]}'); \
                UPDATE hearth.keys SET tenant = 'next' WHERE tenant = 'renamed'; DELETE FROM hearth.tenants WHERE name = 'renamed'; COMMIT";
    sql.batch_execute(more).await.expect("the role may");
    eventually("the key's new tenant", async || world.whoami(&broker, &key).await.body["tenant"] == "next").await;
    sql.batch_execute("TRUNCATE hearth.tenants CASCADE").await.expect("the role may");
    soon(&world, &broker, &key, 401).await;
    assert_eq!(number(&broker, "hearth_control_tenants").await, 0);
    let again = world.tenant("acme").await;
    soon(&world, &broker, &again, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_beside_it_is_reloaded_and_wins() {
    let world = World::new().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let broker = world.broker("one").await;
    soon(&world, &broker, &acme, 200).await;
    let before = std::fs::read_to_string(broker.config()).expect("is there");
    let reload = async |text: &str| {
        std::fs::write(broker.config(), text).expect("writes");
        let answer = broker.admin("/admin/v1/reload").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    // Nothing that stored tenants rest on: they are the very same.
    reload(&before.replacen("[databases.app]", "[log]\nfilter = \"info\"\n[databases.app]", 1)).await;
    assert_eq!(world.query(&broker, &acme).await.status, 200);
    // A name in both.
    reload(&format!("{before}\n[tenants.acme]\ndatabases = [\"app\"]\n")).await;
    assert_eq!((world.whoami(&broker, &acme).await.status, world.query(&broker, &other).await.status), (401, 200));
    let told = world.admin(&broker, "GET", "/tenants/acme", None).await;
    assert_eq!(told.body["in_force"], "from_file");
    assert_eq!(number(&broker, "hearth_control_shadowed_tenants").await, 1);
    // What is stored meanwhile is in force once the file has it no more.
    world.cli(&["tenant", "update", "acme", "--set", "limits.in_flight=9"]).await.says("changed");
    world.cli(&["tenant", "update", "other", "--set", "limits.in_flight=8"]).await.says("changed");
    eventually("the other's", async || world.whoami(&broker, &other).await.body["limits"]["in_flight"] == 8).await;
    reload(&before).await;
    assert_eq!(world.whoami(&broker, &acme).await.body["limits"]["in_flight"], 9);
    // Their database has another pool, or is gone: the tenant goes on without.
    reload(&before.replacen("max = 4", "max = 5", 1)).await;
    assert_eq!(world.query(&broker, &acme).await.status, 200);
    let (head, tail) = before.split_once("[databases.app]").expect("has one");
    let (_, tail) = tail.split_once("[caches.main]").expect("has one");
    reload(&format!("{head}[caches.main]{}", tail.replace("databases = [\"app\"]", ""))).await;
    world.query(&broker, &acme).await.assert_problem(404, "unknown_database", "not_applied");
    assert_eq!(number(&broker, "hearth_control_faulty_tenants").await, 2);
    reload(&before).await;
    assert_eq!(world.query(&broker, &acme).await.status, 200);
    assert_eq!(number(&broker, "hearth_control_faulty_tenants").await, 0);
    // Without the section they are gone, and with it they are back.
    let (_, without) = before.split_once("[databases.app]").expect("has one");
    let (server, _) = before.split_once("[control]").expect("has one");
    reload(&format!("{server}[databases.app]{without}")).await;
    assert_eq!(
        (world.whoami(&broker, &acme).await.status, world.whoami(&broker, &world.filed.token).await.status),
        (401, 200)
    );
    reload(&before).await;
    soon(&world, &broker, &acme, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_and_changes_at_once_lose_nothing() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let before = std::fs::read_to_string(broker.config()).expect("is there");
    let reloads = async {
        for round in 0..20 {
            let text = before.replacen("max = 4", if round % 2 == 0 { "max = 5" } else { "max = 4" }, 1);
            std::fs::write(broker.config(), text).expect("writes");
            assert_eq!(broker.admin("/admin/v1/reload").await.status, 200);
        }
    };
    let changes = async {
        let sql = world.sql().await;
        for round in 0..40 {
            let name = format!("t{round}");
            sql.execute("INSERT INTO hearth.tenants (name) VALUES ($1)", &[&name]).await.expect("inserts");
        }
    };
    tokio::join!(reloads, changes);
    eventually("all are in force", async || number(&broker, "hearth_control_tenants").await == 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_counts_on_and_who_asks_nothing_has_no_series() {
    let world = World::new().await;
    let key = world.tenant("acme").await;
    world.tenant("idle").await;
    let broker: Served = world.broker("one").await;
    let slow = {
        let body = json!({"sql": "SELECT pg_sleep(3)"}).to_string();
        let request = world.http.post(format!("{}/v1/db/app/query", broker.url)).bearer_auth(&key).body(body);
        tokio::spawn(async move { request.send().await.expect("is answered").status() })
    };
    eventually("it runs", async || world.whoami(&broker, &key).await.body["usage"]["in_flight"] == 1).await;
    world.admin(&broker, "PATCH", "/tenants/acme", Some(json!({"policy": {"limits": {"in_flight": 1}}}))).await;
    world.query(&broker, &key).await.assert_problem(429, "too_many_in_flight", "not_applied");
    let reloaded = std::fs::read_to_string(broker.config()).expect("is there").replacen("max = 4", "max = 6", 1);
    std::fs::write(broker.config(), reloaded).expect("writes");
    assert_eq!(broker.admin("/admin/v1/reload").await.status, 200);
    world.query(&broker, &key).await.assert_problem(429, "too_many_in_flight", "not_applied");
    assert_eq!(slow.await.expect("ends"), 200);
    assert_eq!(world.query(&broker, &key).await.status, 200);
    let text = broker.admin("/metrics").await.text;
    assert!(text.contains("tenant=\"acme\"") && !text.contains("tenant=\"idle\""), "idle");
}
