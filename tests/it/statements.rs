//! Named statements, settings for one request, and what the server says beside a result.

use hearth_tests::{Options, Stack};
use serde_json::{Value, json};

const QUERY: &str = "/v1/db/app/query";

async fn stack() -> Stack {
    let more = r#"
        [databases.app.statements.get_user]
        sql = "SELECT id, name FROM users WHERE id = $1 AND ($2::text IS NULL OR name = $2)"
        params = ["id", "name"]
        read_only = true
        max_age = "10s"
        [databases.app.statements.add_user]
        sql = "INSERT INTO users (name) VALUES ($1) RETURNING id"
        params = ["name"]
    "#;
    let tenant = "settings = [\"app.*\", \"search_path\"]".to_owned();
    let stack = Stack::with(Options { more: more.to_owned(), tenant, ..Options::default() }).await;
    stack.ok("CREATE TABLE users (id int4 GENERATED ALWAYS AS IDENTITY, name text)").await;
    stack
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_statement_takes_its_parameters_by_name_or_by_position() {
    let stack = stack().await;
    let post = async |name: &str, body: Value| stack.post(&format!("/v1/db/app/statements/{name}"), &body).await;
    assert_eq!(post("add_user", json!({"params": {"name": "Ada"}})).await.first(), 1);
    assert_eq!(post("add_user", json!({"params": ["Grace"]})).await.first(), 2);
    let found = post("get_user", json!({"params": {"id": 2, "name": null}, "rows": "array"})).await;
    assert_eq!(found.body["rows"], json!([[2, "Grace"]]), "{}", found.text);
    for (name, body) in [
        ("get_user", json!({})),
        ("get_user", json!({"params": {"id": 1}})),
        ("get_user", json!({"params": {"id": 1, "name": "x", "more": 1}})),
        ("get_user", json!({"params": [1]})),
        ("get_user", json!({"params": "x"})),
        ("get_user", json!({"sql": "SELECT 1", "params": [1, null]})),
    ] {
        post(name, body).await.assert_problem(400, "invalid_request", "not_applied");
    }
    post("nobody", json!({})).await.assert_problem(404, "unknown_statement", "not_applied");
    let lines = stack.request("/v1/db/app/statements/get_user", &stack.key).header("accept", "application/x-ndjson");
    let lines = stack.send(lines.body(json!({"params": [1, null]}).to_string())).await;
    assert_eq!(lines.text.lines().nth(1), Some("{\"id\":1,\"name\":\"Ada\"}"));
    let dry = post("add_user", json!({"params": ["x"], "dry_run": true})).await;
    assert_eq!((dry.status, stack.count("SELECT count(*) FROM users").await), (200, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_answers_with_a_tag_and_says_when_nothing_has_changed() {
    let stack = stack().await;
    stack.ok("INSERT INTO users (name) VALUES ('Ada & co')").await;
    let get = |address: &str| stack.get(&format!("/v1/db/app/statements/{address}")).bearer_auth(&stack.key);
    let first = stack.send(get("get_user?id=1&name=Ada+%26%20co")).await;
    assert_eq!(first.body["rows"], json!([{"id": 1, "name": "Ada & co"}]), "{}", first.text);
    assert_eq!(first.header("cache-control"), "private, max-age=10");
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 30, "{tag}");
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let again = stack.send(get("get_user?id=1").header("if-none-match", known)).await;
        assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", tag.as_str()));
    }
    stack.ok("UPDATE users SET name = 'Bob'").await;
    let changed = stack.send(get("get_user?id=1").header("if-none-match", &tag)).await;
    assert_eq!((changed.status, changed.header("etag") == tag), (200, false));
    for address in ["get_user?id=1&id=2", "get_user?id=1&other=2", "get_user?id=%ff", "add_user?name=x"] {
        stack.send(get(address)).await.assert_problem(400, "invalid_request", "not_applied");
    }
    stack.send(get("get_user?id=x")).await.assert_problem(422, "statement_failed", "not_applied");
    assert_eq!(stack.send(get("get_user")).await.body["row_count"], 0, "a parameter that is not there is NULL");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_sees_its_own_rows_and_never_anothers() {
    const REQUESTS: usize = 10_000;
    const AT_ONCE: usize = 32;
    let stack = stack().await;
    stack.ok("CREATE TABLE note (owner text, body text)").await;
    stack.ok("INSERT INTO note SELECT 'user' || n % 2, 'note ' || n FROM generate_series(1, 20) n").await;
    stack.ok("ALTER TABLE note ENABLE ROW LEVEL SECURITY").await;
    stack.ok("ALTER TABLE note FORCE ROW LEVEL SECURITY").await;
    stack.ok("CREATE POLICY own ON note USING (owner = current_setting('app.user_id', true))").await;
    let ask = async |worker: usize| {
        for n in 0..REQUESTS / AT_ONCE {
            let user = format!("user{}", (worker + n) % 2);
            let mut body = json!({"sql": "SELECT DISTINCT owner FROM note", "settings": {"app.user_id": user}});
            // Every fourth is refused, every fifth has no setting: neither leaves anything behind.
            if n % 4 == 3 {
                body["sql"] = json!("SELECT 1 / 0 FROM note");
                assert_eq!(stack.post(QUERY, &body).await.status, 422);
            } else if n % 5 == 4 {
                let answer = stack.ok("SELECT count(*) AS n FROM note").await;
                assert_eq!(answer.first(), "0", "without a setting nobody's rows are seen");
            } else {
                let answer = stack.post(QUERY, &body).await;
                assert_eq!(answer.body["rows"], json!([{"owner": user}]), "{}", answer.text);
            }
        }
    };
    futures_util::future::join_all((0..AT_ONCE).map(ask)).await;
    let batch =
        json!({"settings": {"app.user_id": "user1"}, "statements": [{"sql": "SELECT count(*) AS n FROM note"}]});
    assert_eq!(stack.post("/v1/db/app/batch", &batch).await.body["results"][0]["rows"], json!([{"n": "10"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_needs_leave_and_ends_with_the_request() {
    let stack = stack().await;
    for name in ["role", "work_mem", "app", "session_authorization"] {
        let body = json!({"sql": "SELECT 1", "settings": {name: "x"}});
        stack.post(QUERY, &body).await.assert_problem(403, "forbidden", "not_applied");
    }
    stack.ok("CREATE SCHEMA one").await;
    stack.ok("CREATE SCHEMA two").await;
    stack.ok("CREATE TABLE one.t AS SELECT 1 AS n").await;
    stack.ok("CREATE TABLE two.t AS SELECT 'zwei' AS n").await;
    // The same text means another table, with another type, each time: also when it is prepared.
    for round in 0..4 {
        for (path, value) in [("one", json!(1)), ("two", json!("zwei"))] {
            let body = json!({"sql": "SELECT n FROM t", "settings": {"search_path": path}});
            let answer = stack.post(QUERY, &body).await;
            assert_eq!(answer.first(), &value, "round {round}: {}", answer.text);
        }
        let bare = stack.query("SELECT n FROM t", json!([])).await;
        assert_eq!(bare.body["sqlstate"], "42P01", "{}", bare.text);
    }
    let shown = stack.ok("SELECT current_setting('app.user_id', true) AS v").await;
    assert!(shown.first().is_null() || shown.first() == "", "{}", shown.text);
    for wrong in [json!({"app.x": "1", "APP.X": "2"}), (0..101).map(|n| (format!("app.s{n}"), json!("x"))).collect()] {
        let body = json!({"sql": "SELECT 1", "settings": wrong});
        stack.post(QUERY, &body).await.assert_problem(400, "invalid_request", "not_applied");
    }
    let odd = json!({"sql": "SELECT 1", "settings": {"app.x": "a\u{0}b"}});
    stack.post(QUERY, &odd).await.assert_problem(400, "invalid_request", "not_applied");
    let odd = json!({"sql": "SELECT current_setting('app.x') AS v", "settings": {"app.x": "it's; \"odd\" \\ $1"}});
    assert_eq!(stack.post(QUERY, &odd).await.first(), "it's; \"odd\" \\ $1");
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_come_with_the_result() {
    let stack = stack().await;
    let sql = "CREATE FUNCTION says(n int4) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN \
               FOR i IN 1..n LOOP RAISE NOTICE 'the % th', i USING HINT = 'none'; END LOOP; RETURN n; END $$";
    stack.ok(sql).await;
    let one = stack.ok("SELECT says(1)").await;
    let notice = json!([{"severity": "NOTICE", "sqlstate": "00000", "message": "the 1 th", "hint": "none"}]);
    assert_eq!(one.body["notices"], notice);
    let many = stack.ok("SELECT says(1000)").await;
    assert_eq!(many.body["notices"].as_array().map(Vec::len), Some(100));
    assert!(stack.ok("SELECT 1").await.body["notices"].is_null());
    let skipped = stack.ok("DROP TABLE IF EXISTS nothing_there").await;
    assert!(
        skipped.body["notices"][0]["message"].as_str().is_some_and(|text| text.contains("skipping")),
        "{}",
        skipped.text
    );
}
