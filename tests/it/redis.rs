//! The Redis surface, on a real Redis.

use hearth_tests::Stack;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_pipelines_answer_as_the_public_clients_expect() {
    let stack = Stack::start().await;
    assert_eq!(stack.redis(json!(["SET", "k", "v", "EX", 60])).await.body, json!({"result": "OK"}));
    assert_eq!(stack.redis(json!(["get", "k"])).await.body, json!({"result": "v"}));
    assert_eq!(stack.redis(json!(["GET", "missing"])).await.body, json!({"result": null}));
    assert_eq!(stack.redis(json!(["SET", "n", 1_180_591_620_717_411_303_424_f64])).await.status, 200);
    assert_eq!(stack.redis(json!(["SET", "flag", true])).await.status, 200);
    assert_eq!(stack.redis(json!(["GET", "flag"])).await.body["result"], "true");
    assert_eq!(stack.redis(json!(["RPUSH", "l", "a", "b"])).await.body["result"], 2);
    assert_eq!(stack.redis(json!(["LRANGE", "l", 0, -1])).await.body["result"], json!(["a", "b"]));

    let wrong = stack.redis(json!(["INCR", "l"])).await;
    assert_eq!(wrong.status, 400);
    assert_eq!(wrong.body["error"], "WRONGTYPE Operation against a key holding the wrong kind of value");

    let pipeline = json!([["SET", "a", "1"], ["INCR", "l"], ["SELECT", 3], ["INCR", "a"], ["PING"]]);
    let answer = stack.post("/v1/redis/main/pipeline", &pipeline).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let items = answer.body.as_array().expect("an array");
    assert_eq!(items[0], json!({"result": "OK"}));
    assert!(items[1]["error"].as_str().is_some_and(|error| error.starts_with("WRONGTYPE")));
    assert!(items[2]["error"].as_str().is_some_and(|error| error.contains("SELECT")));
    assert_eq!((&items[3], &items[4]), (&json!({"result": 2}), &json!({"result": "PONG"})));

    let base64 = |body: Value, path: &str| {
        stack.request(path, &stack.key).header("Upstash-Encoding", "base64").body(body.to_string())
    };
    let nested = stack.send(base64(json!(["LRANGE", "l", 0, -1]), "/v1/redis/main")).await;
    assert_eq!(nested.body["result"], json!(["YQ==", "Yg=="]));
    let items = stack.send(base64(json!([["SET", "a", "1"], ["PING"]]), "/v1/redis/main/pipeline")).await;
    assert_eq!(items.body, json!([{"result": "OK"}, {"result": "UE9ORw=="}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_gets_an_error_in_the_clients_shape() {
    let stack = Stack::start().await;
    for (path, body) in [
        ("/v1/redis/main", "{"),
        ("/v1/redis/main", "[]"),
        ("/v1/redis/main", "[[\"GET\",\"k\"]]"),
        ("/v1/redis/main", "[\"GET\",null]"),
        ("/v1/redis/main", "[\"SUBSCRIBE\",\"c\"]"),
        ("/v1/redis/main", "[\"NOSUCHCOMMAND\"]"),
        ("/v1/redis/main/pipeline", "[]"),
        ("/v1/redis/main/pipeline", "{\"a\":1}"),
    ] {
        let answer = stack.send(stack.request(path, &stack.key).body(body)).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.body["error"].as_str().is_some_and(|error| error.starts_with("ERR")), "{body}: {}", answer.text);
    }
    let mixed = stack.post("/v1/redis/main/pipeline", &json!([[], ["PING"]])).await;
    assert_eq!(mixed.status, 200);
    assert_eq!(mixed.body[1], json!({"result": "PONG"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_of_many_callers_never_mix() {
    let stack = Stack::start().await;
    let one = |caller: u32| {
        let stack = &stack;
        async move {
            for round in 0..20 {
                let value = format!("{caller}-{round}");
                let body =
                    json!([["SET", format!("k{caller}"), value], ["GET", format!("k{caller}")], ["ECHO", value]]);
                let answer = stack.post("/v1/redis/main/pipeline", &body).await;
                assert_eq!(answer.body, json!([{"result": "OK"}, {"result": value}, {"result": value}]));
            }
        }
    };
    futures_util::future::join_all((0..40).map(one)).await;
}
