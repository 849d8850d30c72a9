use super::*;
use crate::canned::{Server, Step, answer, ok};
use crate::wire::Outcome;

async fn started(steps: Vec<Step>) -> (Server, Redis) {
    let server = Server::start(steps).await;
    let redis = server.client().build().unwrap().redis("main");
    (server, redis)
}

fn first_line_and_body(request: &str) -> (&str, &str) {
    (request.lines().next().unwrap(), request.split_once("\r\n\r\n").unwrap().1)
}

#[tokio::test]
async fn commands_are_written_in_the_protocol_s_shape() {
    let (server, redis) = started(vec![ok(r#"{"result":"OK"}"#); 9]).await;
    let hour = Duration::from_hours(1);
    redis.get("k").await.unwrap();
    redis.set("k", "v").await.unwrap();
    redis.set("k", 7).await.unwrap();
    redis.set("k", json!({"a": [true]})).await.unwrap();
    redis.set_ex("k", "v", hour).await.unwrap();
    redis.del("k").await.unwrap_err();
    redis.incr("k").await.unwrap_err();
    redis.expire("k", hour).await.unwrap_err();
    redis.command(("ZADD", "z", 1.5, "m", true)).await.unwrap();
    let requests = server.requests().await;
    let seen: Vec<_> = requests.iter().map(|request| first_line_and_body(request)).collect();
    let line = "POST /v1/redis/main HTTP/1.1";
    assert_eq!(
        seen,
        [
            (line, r#"["GET","k"]"#),
            (line, r#"["SET","k","v"]"#),
            (line, r#"["SET","k",7]"#),
            (line, r#"["SET","k","{\"a\":[true]}"]"#),
            (line, r#"["SET","k","v","PX",3600000]"#),
            (line, r#"["DEL","k"]"#),
            (line, r#"["INCR","k"]"#),
            (line, r#"["PEXPIRE","k",3600000]"#),
            (line, r#"["ZADD","z",1.5,"m","true"]"#),
        ]
    );
}

#[tokio::test]
async fn replies_become_what_the_call_promises() {
    let replies = [r#""Ada""#, "null", r#""{\"id\":1}""#, "1", "8", "0", r#"["a",null,[1]]"#];
    let steps = replies.map(|reply| ok(&format!(r#"{{"result":{reply}}}"#)));
    let (_server, redis) = started(steps.into()).await;
    assert_eq!(redis.get("k").await.unwrap().as_deref(), Some("Ada"));
    assert_eq!(redis.get("k").await.unwrap(), None);
    assert_eq!(redis.get_json::<Value>("k").await.unwrap(), Some(json!({"id": 1})));
    assert!(redis.del("k").await.unwrap());
    assert_eq!(redis.incr("k").await.unwrap(), 8);
    assert!(!redis.expire("k", Duration::from_secs(1)).await.unwrap());
    assert_eq!(redis.command(["X"]).await.unwrap(), json!(["a", null, [1]]));
}

#[tokio::test]
async fn bytes_survive_json_as_base64() {
    let (server, redis) =
        started([r#""AP8Q""#, r#""OK""#, "null", r#""?""#].map(|reply| ok(&format!(r#"{{"result":{reply}}}"#))).into())
            .await;
    assert_eq!(redis.get_bytes("k").await.unwrap(), Some(vec![0, 255, 16]));
    assert_eq!(redis.get_bytes("k").await.unwrap(), Some(b"OK".to_vec()));
    assert_eq!(redis.get_bytes("k").await.unwrap(), None);
    assert!(redis.get_bytes("k").await.unwrap_err().to_string().contains("not base64"));
    assert!(server.requests().await.iter().all(|request| request.contains("upstash-encoding: base64\r\n")));
}

#[tokio::test]
async fn pipeline_gives_each_command_its_own_result() {
    let (server, redis) = started(vec![ok(r#"[{"result":"1"},{"error":"WRONGTYPE no"},{"result":2}]"#)]).await;
    let pipeline = redis.pipeline().get("a").set("b", 1).command(["LLEN", "c"]);
    let results = pipeline.send().await.unwrap();
    assert_eq!(results[0].as_ref().unwrap(), "1");
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.to_string(), "redis command failed: WRONGTYPE no");
    assert_eq!((error.outcome(), error.request_id()), (Outcome::NotApplied, Some("req-1")));
    assert_eq!(results[2].as_ref().unwrap(), 2);
    let requests = server.requests().await;
    let expected = ("POST /v1/redis/main/pipeline HTTP/1.1", r#"[["GET","a"],["SET","b",1],["LLEN","c"]]"#);
    assert_eq!(first_line_and_body(&requests[0]), expected);
}

#[tokio::test]
async fn atomic_pipeline_goes_to_multi_exec() {
    let (server, redis) = started(vec![ok(r#"[{"result":1}]"#)]).await;
    redis.pipeline().incr("a").atomic().send().await.unwrap();
    assert!(server.requests().await[0].starts_with("POST /v1/redis/main/multi-exec "));
}

#[tokio::test]
async fn reply_too_few_is_an_error() {
    let (_server, redis) = started(vec![ok("[]")]).await;
    assert!(redis.pipeline().incr("a").send().await.unwrap_err().to_string().contains("another number of replies"));
}

#[tokio::test]
async fn full_or_limited_broker_is_tried_again() {
    for status in [429, 503] {
        let refusal = answer(status, "retry-after: 0\r\n", r#"{"error":"ERR busy"}"#);
        let (server, redis) = started(vec![refusal, ok(r#"{"result":1}"#)]).await;
        assert_eq!(redis.incr("k").await.unwrap(), 1);
        assert_eq!(server.requests().await.len(), 2);
    }
}

#[tokio::test]
async fn lost_backend_is_not_tried_again() {
    let (server, redis) = started(vec![answer(502, "", r#"{"error":"ERR backend lost"}"#)]).await;
    let error = redis.incr("k").await.unwrap_err();
    assert_eq!((error.outcome(), error.status(), error.is_retryable()), (Outcome::Unknown, Some(502), false));
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn header_s_seconds_are_a_floor_the_deadline_refuses() {
    let (_server, redis) = started(vec![answer(503, "retry-after: 60\r\n", r#"{"error":"ERR draining"}"#)]).await;
    let error = redis.incr("k").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_mins(1)));
}

#[tokio::test]
async fn command_that_is_no_list_is_refused_before_it_is_sent() {
    let redis = Client::new("http://127.0.0.1:1", "key").unwrap().redis("main");
    for error in
        [redis.command("GET k").await.unwrap_err(), redis.pipeline().command("GET k").send().await.unwrap_err()]
    {
        assert!(error.to_string().starts_with("redis command is not a list"), "{error}");
    }
}

#[test]
fn effects_follow_the_command_s_name() {
    for (command, effect) in [
        (json!(["get", "k"]), Effect::None),
        (json!(["SET", "k", "v"]), Effect::AllOrNothing),
        (json!(["GETDEL", "k"]), Effect::AllOrNothing),
        (json!(["EVAL", "return 1", 0]), Effect::Piecemeal),
        (json!([1]), Effect::AllOrNothing),
    ] {
        assert_eq!(effect_of(&command), effect, "{command}");
    }
}
