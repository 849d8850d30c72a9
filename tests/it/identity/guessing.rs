//! Those who guess, and those who suffer from it or do not.

use std::net::IpAddr;

use hearth_broker::cli::key::NewKey;
use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::json;

/// From another address of this machine.
async fn whoami(stack: &Stack, from: &str, key: &str) -> Answer {
    let address: IpAddr = from.parse().expect("an address");
    let http = reqwest::Client::builder().no_proxy().local_address(address).build().expect("a client");
    stack.send(http.get(format!("{}/v1/whoami", stack.url)).bearer_auth(key)).await
}

fn wrong(key: &str) -> String {
    let (id, _) = key.split_once('.').expect("two halves");
    format!("{id}.{}", NewKey::random().secret)
}

fn options(breaker: &str) -> Options {
    Options { more: format!("[identity.breaker]\n{breaker}\n"), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_a_key_is_refused_and_its_owner_is_not() {
    let stack = Stack::with(options("failures = 5\nblock = \"2s\"\nwindow = \"10s\"")).await;
    for _ in 0..5 {
        whoami(&stack, "127.0.0.7", &wrong(&stack.key)).await.assert_problem(401, "unauthenticated", "not_applied");
    }
    for key in [wrong(&stack.key), stack.key.clone()] {
        let told = whoami(&stack, "127.0.0.7", &key).await;
        told.assert_problem(429, "rate_limited", "not_applied");
        assert_eq!(told.body["violated_policies"], json!(["failed-attempts"]));
        assert!(told.header("retry-after").parse::<u64>().is_ok_and(|seconds| (1..=3).contains(&seconds)));
        assert!(!told.text.contains(key.split_once('.').expect("two halves").1));
    }
    assert_eq!(whoami(&stack, "127.0.0.7", &stack.reader).await.status, 200, "another key from there");
    assert_eq!(whoami(&stack, "127.0.0.8", &stack.key).await.status, 200, "the owner, elsewhere");
    let redis = stack.send(stack.request("/v1/redis/main", &stack.key).body("[\"PING\"]")).await;
    assert_eq!(redis.status, 200);
    let metrics = stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
    for line in ["hearth_auth_failures_total{reason=\"invalid\"} 5", "hearth_auth_refused_total{by=\"credential\"} 2"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    eventually("it is over", async || whoami(&stack, "127.0.0.7", &stack.key).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_tries_many_is_refused_but_for_what_was_good_there() {
    let stack = Stack::with(options("address_failures = 20")).await;
    assert_eq!(whoami(&stack, "127.0.0.7", &stack.key).await.status, 200);
    for _ in 0..20 {
        assert_eq!(whoami(&stack, "127.0.0.7", &NewKey::random().token()).await.status, 401);
    }
    for key in [NewKey::random().token(), stack.other.clone(), "nonsense".to_owned()] {
        whoami(&stack, "127.0.0.7", &key).await.assert_problem(429, "rate_limited", "not_applied");
    }
    let bare = reqwest::Client::builder().local_address(IpAddr::from([127, 0, 0, 7])).build().expect("a client");
    let redis = bare.post(format!("{}/v1/redis/main", stack.url)).bearer_auth(&stack.redis_only).body("[\"PING\"]");
    let redis = stack.send(redis).await;
    assert_eq!(redis.status, 429, "{}", redis.text);
    assert!(redis.text.contains("ERR max requests limit exceeded") && !redis.header("retry-after").is_empty());
    assert_eq!(whoami(&stack, "127.0.0.7", &stack.key).await.status, 200, "it was good there");
    assert_eq!(whoami(&stack, "127.0.0.8", &stack.other).await.status, 200);
    // The state of a guesser outlives a reload.
    assert_eq!(stack.reload().await.status, 200);
    assert_eq!(whoami(&stack, "127.0.0.7", &stack.other).await.status, 429);
    assert_eq!(whoami(&stack, "127.0.0.7", &stack.key).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expired_or_missing_is_no_guess() {
    let stack = Stack::with(options("failures = 2\naddress_failures = 2")).await;
    for _ in 0..10 {
        stack.send(stack.get("/v1/whoami").bearer_auth(&stack.expired)).await.assert_problem(
            401,
            "unauthenticated",
            "not_applied",
        );
        stack.send(stack.get("/v1/whoami")).await.assert_problem(401, "unauthenticated", "not_applied");
    }
    assert_eq!(stack.send(stack.get("/v1/whoami").bearer_auth(&stack.other)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_interface_is_not_guessed_either() {
    let admin = NewKey::random();
    let server = format!("admin_key_sha256 = \"{}\"", admin.sha256);
    let stack = Stack::with(Options { server, ..options("failures = 3\nblock = \"2s\"") }).await;
    let ask = async |key: &str| {
        stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url)).bearer_auth(key)).await
    };
    for _ in 0..3 {
        assert_eq!(ask("guess").await.status, 401);
    }
    ask(&admin.secret).await.assert_problem(429, "rate_limited", "not_applied");
    assert_eq!(stack.query("SELECT 1", json!([])).await.status, 200, "callers have their own counts");
    eventually("it is over", async || ask(&admin.secret).await.status == 200).await;
}
