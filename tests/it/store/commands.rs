//! The commands, as a person and a script use them.

use futures_util::future::join_all;
use hearth_broker::control::migrate::MIGRATIONS;
use hearth_tests::Hearth;
use serde_json::json;

use super::{World, soon};

#[tokio::test(flavor = "multi_thread")]
async fn migrate_makes_the_schema_once_however_many_ask_at_once() {
    let world = World::bare().await;
    world.cli(&["migrate", "status"]).await.says("not yet");
    world.cli(&["migrate", "--dry-run"]).await.says("1 tenants: would be applied");
    world.cli(&["migrate", "status", "--json"]).await.says("\"applied_at\":null");
    world.cli(&["tenant", "list"]).await.fails("run `hearth migrate`");
    // A broker says what is missing and does not start.
    let config = world.ground.scratch.path().join("early.toml");
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    std::fs::write(&config, format!("{server}{}", world.config(""))).expect("writes");
    let (status, errors) = Hearth::start(&["serve", "--config", &config.display().to_string()], &[]).ended().await;
    assert!(!status.success() && errors.contains("run `hearth migrate`"), "{errors}");
    let said = join_all((0..6).map(|_| world.cli(&["migrate", "--json"]))).await;
    let applied: usize = said.iter().map(|said| said.json()["applied"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(applied, MIGRATIONS.len(), "one of six did it");
    world.cli(&["migrate"]).await.says("up to date");
    let status = world.cli(&["migrate", "status"]).await;
    assert!(status.ok && !status.out.contains("not yet"), "{}", status.out);
    // A step that is not the one that was released is found.
    world.sql().await.batch_execute("UPDATE hearth.migrations SET sha256 = 'x'").await.expect("the role may");
    world.cli(&["migrate"]).await.fails("is not the one of this version");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_only_reads_its_schema_serves_a_broker() {
    let world = World::new().await;
    let key = world.tenant("acme").await;
    let broker = world.reading_broker().await;
    assert_eq!(world.query(&broker, &key).await.status, 200);
    let refused = world.admin(&broker, "POST", "/tenants", Some(json!({"name": "other"}))).await;
    refused.assert_problem(502, "backend_lost", "not_applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_made_changed_and_taken_away_and_two_brokers_follow() {
    let world = World::new().await;
    let (one, two) = (world.broker("one").await, world.broker("two").await);
    let brokers = [&one, &two];
    // From nothing to a key that works everywhere.
    let said = world.cli(&["tenant", "create", "acme", "--database", "app", "--set", "limits.in_flight=50"]).await;
    said.says("acme: made");
    world.cli(&["tenant", "create", "acme"]).await.fails("there is a tenant `acme` already");
    world.cli(&["tenant", "create", "a b"]).await.fails("name: is 1 to 63 letters");
    let key = world.key("acme").await;
    for broker in brokers {
        let took = soon(&world, broker, &key, 200).await;
        eprintln!("a new key was in force after {took:?}");
        assert_eq!(world.query(broker, &key).await.first(), 1);
        assert_eq!(world.whoami(broker, &key).await.body["limits"]["in_flight"], 50);
    }
    // Changed.
    let version = world.cli(&["tenant", "show", "acme", "--json"]).await.json()["version"].to_string();
    world
        .cli(&["tenant", "update", "acme", "--set", "limits.in_flight=7", "--if-version", &version])
        .await
        .says("changed");
    world
        .cli(&["tenant", "update", "acme", "--set", "lanes=false", "--if-version", &version])
        .await
        .fails("somebody else has changed it");
    world.cli(&["tenant", "update", "acme"]).await.fails("nothing to change");
    for broker in brokers {
        hearth_tests::eventually("the limit is in force", async || {
            world.whoami(broker, &key).await.body["limits"]["in_flight"] == 7
        })
        .await;
    }
    world.cli(&["tenant", "update", "acme", "--unset", "limits.in_flight"]).await.says("changed");
    let shown = world.cli(&["tenant", "show", "acme", "--json"]).await.json();
    assert_eq!(shown["policy"], json!({"databases": ["app"], "limits": {}}));
    assert_eq!(shown["keys"][0]["state"], "active");
    assert!(!shown.to_string().contains(key.split_once('.').expect("has two halves").1), "no secret");
    world.cli(&["tenant", "show", "acme"]).await.says("state    active");
    // What is not good is refused with its field, before anything is stored.
    world
        .cli(&["tenant", "update", "acme", "--set", "limits.in_flight=0"])
        .await
        .fails("limits.in_flight: must be between 1");
    world.cli(&["tenant", "update", "acme", "--set", "limits.brust=1"]).await.fails("limits.brust: is no known field");
    // With a configuration at hand, names are checked too.
    let file = one.config().display().to_string();
    let checked = world.run(&["tenant", "update", "acme", "--database", "nope", "--config", &file], &[]).await;
    checked.fails("databases[0]: there is no `[databases.nope]`");
    world
        .run(&["tenant", "create", "filed", "--config", &file], &[])
        .await
        .fails("the configuration file has a tenant `filed`");
    // Suspended and resumed.
    world.cli(&["tenant", "suspend", "acme"]).await.says("suspended");
    for broker in brokers {
        soon(&world, broker, &key, 403).await;
        world.query(broker, &key).await.assert_problem(403, "forbidden", "not_applied");
        assert_eq!(world.query(broker, &world.filed.token).await.status, 200, "another tenant");
    }
    world.cli(&["tenant", "list"]).await.says("suspended");
    world.cli(&["tenant", "resume", "acme"]).await.says("resumed");
    for broker in brokers {
        soon(&world, broker, &key, 200).await;
    }
    // Gone.
    world.cli(&["tenant", "show", "acmee"]).await.fails("did you mean `acme`?");
    world.cli(&["tenant", "delete", "acme"]).await.fails("say `--yes`");
    world.cli(&["tenant", "delete", "acme", "--yes"]).await.says("deleted");
    world.cli(&["tenant", "delete", "never-was", "--yes"]).await.fails("there is no tenant `never-was`");
    for broker in brokers {
        soon(&world, broker, &key, 401).await;
        assert_eq!(world.query(broker, &world.filed.token).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_rotated_and_revoked() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    world.tenant("acme").await;
    let made =
        world.cli(&["key", "create", "acme", "--scopes", "sql:read", "--expires-in", "90d", "--json"]).await.json();
    let (key, id) = (made["key"].as_str().expect("is text"), made["id"].as_str().expect("is text"));
    soon(&world, &broker, key, 200).await;
    assert_eq!(world.whoami(&broker, key).await.body["scopes"], json!(["sql:read"]));
    let stored: i64 = world
        .sql()
        .await
        .query_one(
            "SELECT count(*) FROM hearth.keys WHERE keys::text LIKE '%' || $1 || '%'",
            &[&key.split_once('.').expect("has two halves").1],
        )
        .await
        .expect("asks")
        .get(0);
    assert_eq!(stored, 0, "the secret is stored nowhere");
    world.cli(&["key", "list", "acme"]).await.says(id);
    world.cli(&["key", "list", "acne"]).await.fails("did you mean `acme`?");
    world.cli(&["key", "create", "nobody"]).await.fails("there is no tenant `nobody`");
    world.cli(&["key", "revoke", "hk_none"]).await.fails("no key `hk_none`");
    let file = broker.config().display().to_string();
    let with_file = async |args: &[&str]| world.run(&[args, &["--config", &file]].concat(), &[]).await;
    with_file(&["key", "create", "acme", "--statements", "two"])
        .await
        .fails("no database of the tenant declares a statement `two`");
    with_file(&["key", "create", "acme", "--statements", "one"]).await.says("shown only now");
    with_file(&["tenant", "update", "acme", "--set", "databases=[]"]).await.fails("declares a statement `one`");
    // Rotated: both work, and the new one lives as long as the old one did.
    let rotated = world.cli(&["key", "rotate", id, "--json"]).await.json();
    let new = rotated["key"].as_str().expect("is text");
    soon(&world, &broker, new, 200).await;
    assert_eq!(world.whoami(&broker, key).await.status, 200, "the overlap");
    assert_eq!((&rotated["scopes"], &rotated["replaces"]), (&made["scopes"], &made["id"]));
    let life = "SELECT extract(epoch FROM expires - created_at)::bigint / 86400 FROM hearth.keys WHERE id = $1";
    let days = world.sql().await.query_one(life, &[&rotated["id"].as_str()]).await.expect("asks").get::<_, i64>(0);
    assert!((89..=90).contains(&days), "{days}");
    world.cli(&["key", "rotate", id]).await.fails("has been rotated already");
    world.cli(&["key", "rotate", "hk_none"]).await.fails("no key `hk_none`");
    // Without an overlap the old one has ended.
    let next = world
        .cli(&["key", "rotate", rotated["id"].as_str().expect("is text"), "--overlap", "0s", "--json"])
        .await
        .json();
    soon(&world, &broker, next["key"].as_str().expect("is text"), 200).await;
    soon(&world, &broker, new, 401).await;
    world.cli(&["key", "revoke", key]).await.says("revoked");
    let took = soon(&world, &broker, key, 401).await;
    eprintln!("a revoked key was refused after {took:?}");
    world.cli(&["key", "revoke", key]).await.says("revoked");
    world.cli(&["key", "rotate", id]).await.fails("is revoked; make a new one");
    let listed = world.cli(&["key", "list", "acme", "--json"]).await.json();
    let states: Vec<&str> =
        listed["keys"].as_array().expect("a list").iter().filter_map(|key| key["state"].as_str()).collect();
    assert_eq!(states.iter().filter(|state| **state == "active").count(), 3, "{states:?}");
    assert!(states.contains(&"revoked") && states.contains(&"expired"), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_database_keys_are_for_the_file_and_the_rest_says_what_is_missing() {
    let world = World::bare().await;
    world.run(&["key", "create", "--scopes", "sql:read"], &[]).await.says("sha256 = \"");
    world.run(&["key", "create", "--admin"], &[]).await.says("admin_key_sha256");
    world.run(&["key", "create", "--expires-in", "soon"], &[]).await.fails("is not a duration");
    world.run(&["tenant", "list"], &[]).await.fails("hearth.toml");
    std::fs::write(world.ground.scratch.path().join("hearth.toml"), "[databases.app]\nurl = \"postgres://u@h/d\"\n")
        .expect("writes");
    world.run(&["tenant", "list"], &[]).await.fails("no control database is configured");
    let nowhere = [("HEARTH_CONTROL_URL", "postgres://u@127.0.0.1:1/d".to_owned())];
    world.run(&["tenant", "list"], &nowhere).await.fails("cannot be reached");
    let wrong = [("HEARTH_CONTROL_URL", world.url().replace("control-password", "planted-secret"))];
    let said = world.run(&["migrate"], &wrong).await;
    said.fails("password authentication failed");
    assert!(!said.err.contains("planted-secret"), "{}", said.err);
    for help in [&["tenant", "create", "--help"][..], &["key", "rotate", "--help"], &["migrate", "--help"]] {
        world.run(help, &[]).await.says("Examples:");
    }
}
