//! The admin interface: every route, its problems, and that an answer comes when the change is in force.

use serde_json::{Value, json};

use super::{World, soon};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_write_means_that_it_is_in_force() {
    let world = World::new().await;
    let (broker, other) = (world.broker("one").await, world.broker("two").await);
    let policy = json!({"databases": ["app"], "limits": {"in_flight": 5}});
    let made = world.admin(&broker, "POST", "/tenants", Some(json!({"name": "acme", "policy": policy}))).await;
    assert_eq!((made.status, made.header("location")), (201, "/admin/v1/tenants/acme"), "{}", made.text);
    assert_eq!((&made.body["policy"], &made.body["in_force"]), (&policy, &json!("as_stored")));
    let key = world
        .admin(&broker, "POST", "/tenants/acme/keys", Some(json!({"scopes": ["sql:read"], "expires_in": "30d"})))
        .await;
    assert_eq!((key.status, key.header("cache-control")), (201, "no-store"), "{}", key.text);
    let token = key.body["key"].as_str().expect("is text").to_owned();
    // At once, without waiting.
    assert_eq!(world.query(&broker, &token).await.status, 200);
    soon(&world, &other, &token, 200).await;
    let told =
        world.admin(&broker, "PATCH", "/tenants/acme", Some(json!({"policy": {"limits": {"in_flight": 6}}}))).await;
    assert_eq!((told.status, &told.body["policy"]["limits"]["in_flight"]), (200, &json!(6)));
    assert_eq!(world.whoami(&broker, &token).await.body["limits"]["in_flight"], 6);
    world.admin(&broker, "PATCH", "/tenants/acme", Some(json!({"suspended": true}))).await;
    world.query(&broker, &token).await.assert_problem(403, "forbidden", "not_applied");
    let resumed = world.admin(&broker, "PATCH", "/tenants/acme", Some(json!({"suspended": false}))).await;
    assert_eq!((resumed.status, &resumed.body["suspended"]), (200, &json!(false)));
    assert_eq!(world.query(&broker, &token).await.status, 200);
    // Rotated and revoked.
    let id = key.body["id"].as_str().expect("is text");
    let rotated =
        world.admin(&broker, "POST", &format!("/tenants/acme/keys/{id}/rotate"), Some(json!({"overlap": "1h"}))).await;
    assert_eq!((rotated.status, &rotated.body["replaced"]["id"]), (201, &json!(id)), "{}", rotated.text);
    let next = rotated.body["key"].as_str().expect("is text");
    assert_eq!((world.query(&broker, next).await.status, world.query(&broker, &token).await.status), (200, 200));
    let again = world.admin(&broker, "POST", &format!("/tenants/acme/keys/{id}/rotate"), None).await;
    again.assert_problem(409, "conflict", "not_applied");
    for _ in 0..2 {
        assert_eq!(
            world.admin(&broker, "DELETE", &format!("/tenants/acme/keys/{id}"), None).await.status,
            204,
            "idempotent"
        );
        world.query(&broker, &token).await.assert_problem(401, "unauthenticated", "not_applied");
    }
    let listed = world.admin(&broker, "GET", "/tenants/acme/keys", None).await;
    assert_eq!(listed.body["keys"].as_array().map(Vec::len), Some(2));
    assert!(!listed.text.contains(next.split_once('.').expect("has two halves").1), "no secret");
    let one = world.admin(&broker, "GET", &format!("/tenants/acme/keys/{id}"), None).await;
    assert_eq!(one.body["state"], "revoked");
    world.admin(&broker, "GET", "/tenants/acme/keys/nope", None).await.assert_problem(
        404,
        "unknown_key",
        "not_applied",
    );
    world.admin(&broker, "DELETE", "/tenants/acme/keys/nope", None).await.assert_problem(
        404,
        "unknown_key",
        "not_applied",
    );
    for _ in 0..2 {
        assert_eq!(world.admin(&broker, "DELETE", "/tenants/acme", None).await.status, 204, "idempotent");
        world.query(&broker, next).await.assert_problem(401, "unauthenticated", "not_applied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_and_nothing_is_stored() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    let post = async |path: &str, body: Value| world.admin(&broker, "POST", path, Some(body)).await;
    for (body, told) in [
        (json!({"name": "x", "policy": {"databases": ["nope"]}}), "databases[0]"),
        (json!({"name": "x", "policy": {"limits": {"max_timeout": "10m"}}}), "limits.max_timeout"),
        (json!({"name": "x", "policy": {"keys": []}}), "keys"),
        (json!({"name": "x", "policy": []}), ""),
        (json!({"name": "x/../y"}), "name"),
    ] {
        let answer = post("/tenants", body).await;
        answer.assert_problem(400, "invalid_request", "not_applied");
        assert_eq!(answer.body["faults"][0]["path"], told, "{}", answer.text);
    }
    post("/tenants", json!({"nom": "x"})).await.assert_problem(400, "invalid_request", "not_applied");
    post("/tenants", json!([])).await.assert_problem(400, "invalid_request", "not_applied");
    post("/tenants", json!({"name": "filed"})).await.assert_problem(409, "conflict", "not_applied");
    assert_eq!(post("/tenants", json!({"name": "acme"})).await.status, 201);
    post("/tenants", json!({"name": "acme"})).await.assert_problem(409, "conflict", "not_applied");
    post("/tenants/acmee/keys", json!({})).await.assert_problem(404, "unknown_tenant", "not_applied");
    let scope = post("/tenants/acme/keys", json!({"scopes": ["sql:all"]})).await;
    assert_eq!((scope.status, &scope.body["faults"][0]["path"]), (400, &json!("scopes[0]")), "{}", scope.text);
    post("/tenants/acme/keys", json!({"expires_in": "soon"})).await.assert_problem(
        400,
        "invalid_request",
        "not_applied",
    );
    let unknown = world.admin(&broker, "GET", "/tenants/acmee", None).await;
    unknown.assert_problem(404, "unknown_tenant", "not_applied");
    assert!(unknown.text.contains("did you mean `acme`?"), "{}", unknown.text);
    world.admin(&broker, "DELETE", "/tenants/never-was", None).await.assert_problem(
        404,
        "unknown_tenant",
        "not_applied",
    );
    world.admin(&broker, "PATCH", "/tenants/never-was", Some(json!({}))).await.assert_problem(
        404,
        "unknown_tenant",
        "not_applied",
    );
    world.admin(&broker, "PUT", "/tenants/acme", None).await.assert_problem(405, "method_not_allowed", "not_applied");
    let counted = world.admin(&broker, "GET", "/tenants", None).await;
    assert_eq!(counted.body["tenants"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_what_somebody_else_has_changed_is_refused() {
    let world = World::new().await;
    let broker = world.broker("one").await;
    world.admin(&broker, "POST", "/tenants", Some(json!({"name": "acme"}))).await;
    let seen = world.admin(&broker, "GET", "/tenants/acme", None).await;
    let tag = seen.header("etag").to_owned();
    let patch = async |tag: &str, limit: u32| {
        let request = world.http.patch(format!("{}/admin/v1/tenants/acme", broker.admin_url)).header("if-match", tag);
        world.send(request.body(json!({"policy": {"limits": {"in_flight": limit}}}).to_string())).await
    };
    // Many at once with the same tag: one wins.
    let answers = futures_util::future::join_all((1..=6).map(|limit| patch(&tag, limit))).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1);
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        lost.assert_problem(412, "precondition_failed", "not_applied");
    }
    let winner = answers.iter().find(|answer| answer.status == 200).expect("one won");
    assert_eq!(patch(winner.header("etag"), 9).await.status, 200);
    assert_eq!(patch("*", 10).await.status, 200);
    patch("nonsense", 10).await.assert_problem(400, "invalid_request", "not_applied");
    let same = patch("*", 10).await;
    let again = patch("*", 10).await;
    assert_eq!(same.header("etag"), again.header("etag"), "what changes nothing is no change");
    let request = world.http.get(format!("{}/admin/v1/tenants/acme", broker.admin_url));
    assert_eq!(world.send(request.header("if-none-match", again.header("etag"))).await.status, 304);
    let stale = world.http.delete(format!("{}/admin/v1/tenants/acme", broker.admin_url)).header("if-match", &tag);
    world.send(stale).await.assert_problem(412, "precondition_failed", "not_applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_in_pages() {
    let world = World::new().await;
    let sql = world.sql().await;
    sql.batch_execute(
        "INSERT INTO hearth.tenants (name) SELECT 't' || lpad(n::text, 3, '0') FROM generate_series(1, 25) n",
    )
    .await
    .expect("inserts");
    let broker = world.broker("one").await;
    let (mut path, mut seen) = ("/tenants?limit=10".to_owned(), Vec::new());
    loop {
        let page = world.admin(&broker, "GET", &path, None).await;
        let names = page.body["tenants"].as_array().expect("a list").iter().map(|tenant| tenant["name"].to_string());
        seen.extend(names);
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/tenants?limit=10&cursor={next}");
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());
    for bad in ["limit=0", "limit=1001", "limit=x", "cursor=%00", "page=2"] {
        let answer = world.admin(&broker, "GET", &format!("/tenants?{bad}"), None).await;
        answer.assert_problem(400, "invalid_request", "not_applied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_may_and_without_a_control_database_nobody_can() {
    let world = World::new().await;
    let admin = hearth_broker::cli::key::NewKey::random();
    let guarded =
        world.config("").replacen("[control]", &format!("admin_key_sha256 = \"{}\"\n[control]", admin.sha256), 1);
    let broker = hearth_tests::Served::start(&world.ground, "guarded", &guarded).await;
    world.admin(&broker, "GET", "/tenants", None).await.assert_problem(401, "unauthenticated", "not_applied");
    let body = Some(json!({"name": "acme"}));
    world.admin(&broker, "POST", "/tenants", body.clone()).await.assert_problem(401, "unauthenticated", "not_applied");
    let asked = world.http.get(format!("{}/admin/v1/tenants", broker.admin_url)).bearer_auth(&admin.secret);
    assert_eq!(world.send(asked).await.status, 200);
    let config = world.config("");
    let (_, without) = config.split_once("[databases.app]").expect("has one");
    let alone = hearth_tests::Served::start(&world.ground, "alone", &format!("[databases.app]{without}")).await;
    world.admin(&alone, "POST", "/tenants", body).await.assert_problem(404, "not_found", "not_applied");
    assert_eq!(world.admin(&alone, "GET", "/control", None).await.body["configured"], false);
}
