//! Who is let in, to what, and how often.

use hearth_broker::cli::key::NewKey;
use hearth_tests::{Options, Stack, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn bad_keys_and_foreign_names_are_refused() {
    let stack = Stack::start().await;
    let body = json!({"sql": "SELECT 1"}).to_string();
    let path = "/v1/db/app/query";
    let (id, secret) = stack.key.split_once('.').expect("two halves");
    let cut = format!("{id}.{}", &secret[1..]);
    for key in ["nonsense", "hk_none.secret", &cut, &stack.expired, ""] {
        let answer = stack.send(stack.request(path, key).body(body.clone())).await;
        answer.assert_problem(401, "unauthenticated", "not_applied");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let expired = stack.send(stack.request(path, &stack.expired).body(body.clone())).await;
    assert!(expired.text.contains("expired"), "{}", expired.text);
    let basic = stack.get("/v1/whoami").header("authorization", "Basic abc");
    stack.send(basic).await.assert_problem(401, "unauthenticated", "not_applied");
    stack.send(stack.get("/v1/whoami")).await.assert_problem(401, "unauthenticated", "not_applied");

    stack.send(stack.request(path, &stack.redis_only).body(body.clone())).await.assert_problem(
        403,
        "forbidden",
        "not_applied",
    );
    stack.send(stack.request(path, &stack.other).body(body.clone())).await.assert_problem(
        404,
        "unknown_database",
        "not_applied",
    );
    let unknown = stack.request("/v1/db/nothing/query", &stack.key).body(body);
    stack.send(unknown).await.assert_problem(404, "unknown_database", "not_applied");

    let redis = json!(["GET", "x"]).to_string();
    for (key, status, word) in [(&stack.reader, 403, "NOPERM"), (&stack.other, 404, "ERR"), (&cut, 401, "WRONGPASS")] {
        let answer = stack.send(stack.request("/v1/redis/main", key).body(redis.clone())).await;
        assert_eq!(answer.status, status);
        assert!(answer.body["error"].as_str().is_some_and(|error| error.starts_with(word)), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_tells_rights_limits_and_usage() {
    let stack =
        Stack::with(Options { limits: "requests_per_second = 50, in_flight = 7".to_owned(), ..Options::default() })
            .await;
    let answer = stack.send(stack.get("/v1/whoami").bearer_auth(&stack.reader)).await;
    assert_eq!(answer.body["tenant"], "acme");
    assert_eq!(answer.body["scopes"], json!(["sql:read"]));
    assert_eq!((&answer.body["databases"], &answer.body["caches"]), (&json!(["app"]), &json!(["main"])));
    assert_eq!(
        (&answer.body["limits"]["requests_per_second"], &answer.body["limits"]["in_flight"]),
        (&json!(50), &json!(7))
    );
    assert_eq!(answer.body["usage"]["in_flight"], 0);
    assert!(!answer.text.contains(stack.reader.split_once('.').expect("two halves").1), "no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_tells_which_named_statements_a_key_may_run() {
    let held = NewKey::random();
    let more = format!(
        "[databases.app.statements]\nadd = {{ sql = \"SELECT 1\" }}\nget_user = {{ sql = \"SELECT 2\" }}\n\
         [tenants.held]\ndatabases = [\"app\"]\nkeys = [{{ id = \"{}\", sha256 = \"{}\", scopes = [\"sql:read\"], statements = [\"get_user\"] }}]\n",
        held.id, held.sha256
    );
    let stack = Stack::with(Options { more, ..Options::default() }).await;
    let held = held.token();
    for (key, told) in [
        (&stack.key, json!({"app": ["add", "get_user"]})),
        (&held, json!({"app": ["get_user"]})),
        (&stack.redis_only, json!({})),
        (&stack.other, json!({})),
    ] {
        let answer = stack.send(stack.get("/v1/whoami").bearer_auth(key)).await;
        assert_eq!(answer.body["statements"], told, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_held_and_told_in_headers() {
    let limits = "requests_per_second = 1, burst = 3, in_flight = 50".to_owned();
    let stack = Stack::with(Options { limits, ..Options::default() }).await;
    for left in (0..3).rev() {
        let answer = stack.ok("SELECT 1").await;
        assert_eq!(
            answer.header("ratelimit-policy"),
            "\"requests\";q=1;w=1, \"in-flight\";q=50;qu=\"concurrent-requests\""
        );
        assert!(
            answer.header("ratelimit").starts_with(&format!("\"requests\";r={left};t=")),
            "{}",
            answer.header("ratelimit")
        );
    }
    let refused = stack.query("SELECT 1", json!([])).await;
    refused.assert_problem(429, "rate_limited", "not_applied");
    assert_eq!(refused.body["violated_policies"], json!(["requests"]));
    assert_eq!(refused.body["retryable"], true);
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| (1..=3).contains(&seconds)));
    let redis = stack.redis(json!(["GET", "x"])).await;
    assert_eq!(redis.status, 429, "one rate for all of a tenant's requests");
    assert!(!redis.header("retry-after").is_empty());
    eventually("the rate comes back", async || stack.query("SELECT 1", json!([])).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_bounded_and_come_back() {
    let stack = Stack::with(Options { limits: "in_flight = 2".to_owned(), ..Options::default() }).await;
    let slow = || stack.query("SELECT pg_sleep(1)", json!([]));
    let (a, b, refused) = tokio::join!(slow(), slow(), async {
        eventually("two run", async || stack.sleeping().await == 2).await;
        stack.query("SELECT 1", json!([])).await
    });
    refused.assert_problem(429, "too_many_in_flight", "not_applied");
    assert_eq!(refused.body["violated_policies"], json!(["in-flight"]));
    assert_eq!((a.status, b.status), (200, 200));
    stack.ok("SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_interface_wants_its_own_key_and_tells_the_indicators() {
    let key = NewKey::random();
    let server = format!("admin_key_sha256 = \"{}\"", key.sha256);
    let stack = Stack::with(Options { server, ..Options::default() }).await;
    stack.ok("SELECT 1").await;
    stack.query("SELECT nonsense", json!([])).await;
    let metrics = |token: String| {
        let request = reqwest::Client::new().get(format!("{}/metrics", stack.admin_url)).bearer_auth(token);
        stack.send(request)
    };
    assert_eq!(metrics(stack.key.clone()).await.status, 401);
    let text = metrics(key.secret.clone()).await.text;
    for line in [
        "hearth_requests_total{backend=\"app\",tenant=\"acme\",code=\"ok\"} 1",
        "hearth_requests_total{backend=\"app\",tenant=\"acme\",code=\"statement_failed\"} 1",
        "hearth_active_connections{backend=\"app\",tenant=\"acme\"} 0",
        "hearth_connection_wait_seconds_count{backend=\"app\",tenant=\"acme\"} 2",
        "hearth_connections_max{backend=\"app\",endpoint=",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert_eq!(stack.send(stack.get("/metrics")).await.status, 404, "not on the data listener");
    let closed = [
        ("GET", "/metrics"),
        ("GET", "/admin/v1/pools"),
        ("GET", "/admin/v1/events"),
        ("GET", "/admin/v1/decisions"),
        ("POST", "/admin/v1/reload"),
        ("POST", "/admin/v1/databases/app/pause"),
        ("POST", "/admin/v1/databases/app/resume"),
        ("POST", "/admin/v1/databases/app/reconnect"),
    ];
    for (method, path) in closed {
        let method = method.parse().expect("a method");
        let asked = reqwest::Client::new().request(method, format!("{}{path}", stack.admin_url));
        stack.send(asked.bearer_auth(&stack.key)).await.assert_problem(401, "unauthenticated", "not_applied");
    }
    stack.ok("SELECT 1").await;
    assert_eq!(stack.live.now().generation, 1, "nothing was done");
}
