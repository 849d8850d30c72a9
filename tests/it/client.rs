//! The client crate against a real broker.

use std::time::Duration;

use hearth_client::wire::{Outcome, ProblemCode};
use hearth_client::{Client, Error};
use hearth_tests::{Options, Stack};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: i64,
    name: String,
    tags: Vec<String>,
    extra: Option<serde_json::Value>,
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_as_they_went_in() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE users (id int8 PRIMARY KEY, name text UNIQUE, tags text[], extra jsonb, blob bytea)").await;
    let client = Client::new(&stack.url, &stack.key).expect("is built");
    let db = client.db("app");
    let large = 9_007_199_254_740_993_i64;
    let insert = "INSERT INTO users VALUES ($1, $2, $3, $4, $5)";
    let count = db
        .query(insert)
        .bind(large)
        .bind("Ada")
        .bind(["x", "y"])
        .bind(json!({"k": [1]}))
        .bind_bytes(&[0, 255])
        .execute()
        .await;
    assert_eq!(count.expect("inserts"), 1);
    let all: Vec<User> = db.query("SELECT id, name, tags, extra FROM users").fetch_all().await.expect("reads");
    let ada =
        User { id: large, name: "Ada".into(), tags: vec!["x".into(), "y".into()], extra: Some(json!({"k": [1]})) };
    assert_eq!(all, [ada]);
    let none: Option<User> = db
        .query("SELECT id, name, tags, extra FROM users WHERE id = $1")
        .bind(1)
        .fetch_optional()
        .await
        .expect("reads");
    assert_eq!(none, None);
    let tuple: (i64, String) = db.query("SELECT id, name FROM users").as_arrays().fetch_one().await.expect("reads");
    assert_eq!(tuple, (large, "Ada".to_owned()));
    let bytes: String = db.query("SELECT blob FROM users").read_only().fetch_scalar().await.expect("reads");
    assert_eq!(bytes, "\\x00ff");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_tell_what_to_do() {
    let stack =
        Stack::with(Options { limits: "requests_per_second = 20, burst = 20".to_owned(), ..Options::default() }).await;
    let client = Client::new(&stack.url, &stack.key).expect("is built");
    let db = client.db("app");
    db.query("CREATE TABLE t (id int4 PRIMARY KEY)").execute().await.expect("creates");
    db.query("INSERT INTO t VALUES (1)").execute().await.expect("inserts");
    let twice = db.query("INSERT INTO t VALUES (1)").execute().await.expect_err("stands already");
    assert_eq!((twice.code(), twice.sqlstate()), (Some(ProblemCode::Conflict), Some("23505")));
    assert_eq!((twice.outcome(), twice.is_retryable()), (Outcome::NotApplied, false));
    assert!(twice.request_id().is_some());
    let slow = client
        .with_timeout(Duration::from_millis(300))
        .db("app")
        .query("SELECT pg_sleep(30)")
        .execute()
        .await
        .expect_err("too slow");
    assert!(slow.is_timeout(), "{slow:?}");
    let wrong: Result<Vec<User>, Error> = db.query("SELECT 1 AS n").fetch_all().await;
    assert!(wrong.is_err());
    // Over the rate: retried inside the deadline until it is let in.
    for _ in 0..40 {
        db.query("SELECT 1").execute().await.expect("is let in, if later");
    }
    let refused = Client::new(&stack.url, "hk_no.key")
        .expect("is built")
        .db("app")
        .query("SELECT 1")
        .execute()
        .await
        .expect_err("no such key");
    assert_eq!(refused.code(), Some(ProblemCode::Unauthenticated));
    assert!(!format!("{client:?}").contains(&stack.key), "the key is not in Debug");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_through_the_client() {
    let stack = Stack::start().await;
    let client = Client::new(&stack.url, &stack.key).expect("is built");
    let redis = client.redis("main");
    redis.set("k", "v").await.expect("sets");
    assert_eq!(redis.get("k").await.expect("gets"), Some("v".to_owned()));
    assert_eq!(redis.get("missing").await.expect("gets"), None);
    redis.set_ex("short", "x", Duration::from_mins(1)).await.expect("sets");
    let ttl = redis.command(["PTTL", "short"]).await.expect("asks");
    assert!(ttl.as_i64().is_some_and(|ms| (1..=60_000).contains(&ms)), "{ttl}");
    assert_eq!(redis.get_bytes("k").await.expect("gets"), Some(b"v".to_vec()));
    let answers = redis.pipeline().incr("n").incr("k").get("k").send().await.expect("sends");
    assert_eq!(answers[0].as_ref().expect("counts"), &json!(1));
    assert!(answers[1].as_ref().is_err_and(|error| error.to_string().contains("not an integer")), "{:?}", answers[1]);
    assert_eq!(answers[2].as_ref().expect("gets"), &json!("v"));
    assert!(redis.del("k").await.expect("deletes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_is_found_again() {
    let mut stack = Stack::start().await;
    let client = Client::new(&stack.url, &stack.key).expect("is built");
    assert_eq!(client.db("app").query("SELECT 1 AS n").fetch_scalar::<i64>().await.expect("reads"), 1);
    stack.postgres.halt("INT").await.expect("stops");
    let reading = tokio::spawn(async move { client.db("app").query("SELECT 2 AS n").fetch_scalar::<i64>().await });
    stack.postgres.restart(&stack.scratch).await.expect("starts again");
    let answer = reading.await.expect("ends");
    assert!(
        answer.as_ref().is_ok_and(|n| *n == 2) || answer.is_err_and(|e| e.is_retryable()),
        "retried, or says that it may be"
    );
}
