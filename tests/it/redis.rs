//! The Redis surface, on a real Redis.

use hearth_broker::cli::dev::machine::free_port;
use hearth_broker::cli::dev::scratch::Scratch;
use hearth_tests::redis::{RedisCluster, RedisServer, Watched, redis_cli};
use hearth_tests::{Answer, Options, Stack, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

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

/// What `CLIENT LIST` says of clients that wait in a blocking command.
async fn blocked(stack: &Stack) -> usize {
    let told = redis_cli(stack.redis.port, &stack.redis.password, &["INFO", "clients"]).await;
    let count = told.lines().find_map(|line| line.trim().strip_prefix("blocked_clients:"));
    count.and_then(|count| count.parse().ok()).expect("Redis tells it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_runs_whole_and_alone_or_not_at_all() {
    let stack = Stack::start().await;
    let exec = async |body: Value| stack.post("/v1/redis/main/multi-exec", &body).await;
    let answer = exec(json!([["SET", "k", "v"], ["INCR", "k"], ["GET", "k"], ["MGET", "k", "none"]])).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body[0], json!({"result": "OK"}));
    assert!(answer.body[1]["error"].as_str().is_some_and(|error| error.starts_with("ERR value is not an integer")));
    assert_eq!((&answer.body[2], &answer.body[3]), (&json!({"result": "v"}), &json!({"result": ["v", null]})));

    for (body, told) in [
        (json!([["SET", "k", "new"], ["SET", "k"]]), "wrong number of arguments"),
        (json!([["SET", "k", "new"], ["NOSUCHCOMMAND"]]), "unknown command"),
        (json!([["SET", "k", "new"], ["MULTI"]]), "MULTI"),
        (json!([["SET", "k", "new"], ["BLPOP", "q", 0]]), "BLPOP"),
    ] {
        let answer = exec(body).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        let error = answer.body["error"].as_str().expect("an error");
        assert!(error.starts_with("EXECABORT") && error.contains(told), "{error}");
    }
    assert_eq!(stack.redis(json!(["GET", "k"])).await.body["result"], "v", "nothing of those ran");
    assert_eq!(exec(json!([])).await.status, 400);
    let base64 = stack.request("/v1/redis/main/multi-exec", &stack.key).header("Upstash-Encoding", "base64");
    let answer = stack.send(base64.body(json!([["SET", "k", "v"], ["GET", "k"]]).to_string())).await;
    assert_eq!(answer.body, json!([{"result": "OK"}, {"result": "dg=="}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_many_callers_never_mix_and_lanes_go_on_beside_them() {
    let stack = Stack::start().await;
    let one = |caller: u32| {
        let stack = &stack;
        async move {
            for round in 0..10 {
                let tag = format!("{caller}-{round}");
                let body = json!([["SET", "shared", tag], ["INCR", "count"], ["GET", "shared"], ["ECHO", tag]]);
                let answer = stack.post("/v1/redis/main/multi-exec", &body).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert_eq!((&answer.body[2]["result"], &answer.body[3]["result"]), (&json!(tag), &json!(tag)));
                let beside = stack.redis(json!(["ECHO", tag])).await;
                assert_eq!(beside.body, json!({"result": tag}));
            }
        }
    };
    futures_util::future::join_all((0..40).map(one)).await;
    assert_eq!(stack.redis(json!(["GET", "count"])).await.body["result"], "400");
    let status = &stack.broker.caches.values().next().expect("one").status()[0];
    assert!(status.idle <= 8 && status.lent == 0 && status.waiting == 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_has_its_own_connection_and_ends_before_the_deadline() {
    let stack = Stack::start().await;
    let start = Instant::now();
    let request = stack.request("/v1/redis/main", &stack.key).header("Hearth-Timeout-Ms", "3000");
    let waited = stack.send(request.body(json!(["BLPOP", "q", 0]).to_string())).await;
    assert_eq!((waited.status, &waited.body), (200, &json!({"result": null})), "{}", waited.text);
    assert!(start.elapsed() >= std::time::Duration::from_millis(2500), "{:?}", start.elapsed());
    assert_eq!(blocked(&stack).await, 0);

    let asked = stack.redis(json!(["BLPOP", "q", "0.05"]));
    assert_eq!(asked.await.body, json!({"result": null}), "its own time is the shorter");

    let waiting = stack.redis(json!(["BLMOVE", "from", "to", "LEFT", "RIGHT", 0]));
    let sending = async {
        eventually("it waits", async || blocked(&stack).await == 1).await;
        assert_eq!(stack.redis(json!(["RPUSH", "from", "x"])).await.body["result"], 1);
    };
    assert_eq!(tokio::join!(waiting, sending).0.body, json!({"result": "x"}));
    let reading = stack.redis(json!(["XREAD", "BLOCK", 0, "STREAMS", "s", "$"]));
    let sending = async {
        eventually("it waits", async || blocked(&stack).await == 1).await;
        assert_eq!(stack.redis(json!(["XADD", "s", "1-1", "f", "v"])).await.body["result"], "1-1");
    };
    let read = tokio::join!(reading, sending).0;
    assert_eq!(read.body, json!({"result": [["s", [["1-1", ["f", "v"]]]]]}));

    let among = stack.post("/v1/redis/main/pipeline", &json!([["PING"], ["BLPOP", "q", 0]])).await;
    assert_eq!(among.body[0], json!({"result": "PONG"}));
    assert!(among.body[1]["error"].as_str().is_some_and(|error| error.contains("BLPOP")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_while_it_waits_takes_nothing_from_the_next() {
    let stack = Stack::start().await;
    for _ in 0..5 {
        let request = stack.request("/v1/redis/main", &stack.key).body(json!(["BLPOP", "q", 0]).to_string());
        let waiting = tokio::spawn(request.send());
        eventually("it waits", async || blocked(&stack).await == 1).await;
        waiting.abort();
        eventually("Redis waits no more", async || blocked(&stack).await == 0).await;
        assert_eq!(stack.redis(json!(["RPUSH", "q", "x"])).await.body["result"], 1);
        assert_eq!(stack.redis(json!(["LPOP", "q"])).await.body["result"], "x");
    }
    let text = stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
    let endpoint = format!("backend=\"main\",endpoint=\"127.0.0.1:{}\"", stack.redis.port);
    for line in [
        format!("hearth_connections_closed_total{{{endpoint},reason=\"tainted\"}} 5"),
        format!("hearth_connections{{{endpoint},state=\"lent\"}} 0"),
        format!("hearth_endpoint_state{{{endpoint},state=\"ok\"}} 1"),
    ] {
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_leaves_room_for_transactions() {
    let stack = Stack::start().await;
    let waiting = (0..20).map(|_| {
        let request = stack.request("/v1/redis/main", &stack.key).header("Hearth-Timeout-Ms", "3000");
        tokio::spawn(request.body(json!(["BLPOP", "q", 0]).to_string()).send())
    });
    let waiting: Vec<_> = waiting.collect();
    eventually("six of eight wait", async || blocked(&stack).await == 6).await;
    let exec = stack.post("/v1/redis/main/multi-exec", &json!([["SET", "k", "v"], ["GET", "k"]])).await;
    assert_eq!(exec.body, json!([{"result": "OK"}, {"result": "v"}]));
    assert_eq!(blocked(&stack).await, 6);
    for waiting in waiting {
        waiting.abort();
    }
    eventually("Redis waits no more", async || blocked(&stack).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_may_stand_in_the_path() {
    let stack = Stack::start().await;
    let get = async |path: &str| stack.send(stack.get(&format!("/v1/redis/main{path}")).bearer_auth(&stack.key)).await;
    assert_eq!(get("/set/k/v?EX=60").await.body, json!({"result": "OK"}));
    assert_eq!(get("/get/k").await.body, json!({"result": "v"}));
    assert!(get("/TTL/k").await.body["result"].as_i64().is_some_and(|ttl| (1..=60).contains(&ttl)));
    assert_eq!(get("/set/a%2Fb/c%20d/?NX").await.body, json!({"result": "OK"}));
    assert_eq!(get("/get/a%2Fb").await.body, json!({"result": "c d"}));
    assert_eq!(get("/incr/k").await.status, 400);
    assert_eq!(get("/select/1").await.status, 400);
    let body = stack.request("/v1/redis/main/set/big?EX=60", &stack.key).body("{\"any\": \"bytes\u{e9}\"}");
    assert_eq!(stack.send(body).await.body, json!({"result": "OK"}));
    assert_eq!(get("/get/big").await.body, json!({"result": "{\"any\": \"bytes\u{e9}\"}"}));
    let base64 = stack.get("/v1/redis/main/get/k").bearer_auth(&stack.key).header("Upstash-Encoding", "base64");
    assert_eq!(stack.send(base64).await.body, json!({"result": "dg=="}));
    assert_eq!(stack.send(stack.get("/v1/redis/main/get/k")).await.status, 401);
    let pipeline = stack.get("/v1/redis/main/pipeline").bearer_auth(&stack.key);
    assert_eq!(stack.send(pipeline).await.status, 405, "a pipeline is posted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_told_at_once_and_found_at_once() {
    let mut stack = Stack::start().await;
    assert_eq!(stack.redis(json!(["SET", "k", "v"])).await.status, 200);
    // A slow command and a refusal are no sickness.
    for _ in 0..10 {
        let request = stack.request("/v1/redis/main", &stack.key).header("Hearth-Timeout-Ms", "20");
        assert_eq!(stack.send(request.body(json!(["DEBUG", "SLEEP", 1]).to_string())).await.status, 400);
        assert_eq!(stack.redis(json!(["INCR", "k"])).await.status, 400);
    }
    assert_eq!(stack.redis(json!(["GET", "k"])).await.status, 200);
    stack.redis.halt().await;
    let mut last = stack.redis(json!(["GET", "k"])).await;
    for _ in 0..12 {
        last = stack.redis(json!(["GET", "k"])).await;
        assert_eq!(last.status, 503, "{}", last.text);
    }
    assert!(!last.header("retry-after").is_empty(), "{:?}", last.headers);
    assert!(last.text.contains("several times in a row"), "the breaker is open: {}", last.text);
    let exec = stack.post("/v1/redis/main/multi-exec", &json!([["PING"]])).await;
    assert_eq!(exec.status, 503, "{}", exec.text);
    // Past its first pause it would let one caller in; nobody needs to be that one.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    stack.redis.restart(&stack.scratch).await.expect("starts again");
    let back = Instant::now();
    eventually("it is found", async || stack.redis(json!(["SET", "k", "w"])).await.status == 200).await;
    assert!(back.elapsed() < std::time::Duration::from_secs(2), "{:?}", back.elapsed());
    assert_eq!(stack.redis(json!(["GET", "k"])).await.body["result"], "w");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_is_thrown_away_as_it_comes() {
    let limits = "max_result_bytes = \"64KiB\"".to_owned();
    let stack = Stack::with(Options { limits, ..Options::default() }).await;
    let filled = stack.redis(json!([
        "EVAL",
        "for i = 1, 20000 do redis.call('RPUSH', 'l', string.rep('x', 50)) end return 1",
        0
    ]));
    assert_eq!(filled.await.body["result"], 1);
    let beside = (0..20).map(|n| stack.redis(json!(["ECHO", n.to_string()])));
    let (long, beside) =
        tokio::join!(stack.redis(json!(["LRANGE", "l", 0, -1])), futures_util::future::join_all(beside));
    assert_eq!(long.status, 413, "{}", long.text);
    for (n, answer) in beside.into_iter().enumerate() {
        assert_eq!(answer.body["result"], n.to_string());
    }
    assert_eq!(stack.redis(json!(["LLEN", "l"])).await.body["result"], 20_000);
}

/// A stack whose tenant `other` has the cache `far`, configured by `config`.
async fn with_far(config: &str) -> Stack {
    let more = format!("caches = [\"far\"]\n[caches.far]\n{config}connect_timeout = \"1s\"\n");
    Stack::with(Options { more, ..Options::default() }).await
}

async fn far(stack: &Stack, path: &str, body: Value) -> Answer {
    stack.send(stack.request(&format!("/v1/redis/far{path}"), &stack.other).body(body.to_string())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_address_signs_in() {
    let scratch = Scratch::new("hearth-redis").expect("a scratch folder");
    let socket = scratch.path().join("redis.sock");
    let lines = format!(
        "save \"\"\nunixsocket {}\nunixsocketperm 777\nuser app on >secret ~app:* +@all -ping\nuser default on nopass ~* +@all\n",
        socket.display()
    );
    let server = RedisServer::start(&scratch, free_port().expect("a port"), &lines, &[]).await;
    let (port, socket) = (server.port, socket.display());
    for (config, db, may) in [
        (format!("url = \"redis://127.0.0.1:{port}/3\"\n"), "3", true),
        (format!("url = \"redis+unix://{socket}?db=2\"\n"), "2", true),
        (format!("url = \"redis://app@127.0.0.1:{port}/1\"\npassword = \"secret\"\n"), "1", false),
        (format!("url = \"redis://127.0.0.1:{port}\"\nusername = \"app\"\npassword = \"secret\"\n"), "0", false),
    ] {
        let stack = with_far(&config).await;
        assert_eq!(far(&stack, "", json!(["SET", "app:k", db])).await.body["result"], "OK", "{config}");
        assert_eq!(server.ask(&["-n", db, "GET", "app:k"]).await, db, "{config}");
        let exec = far(&stack, "/multi-exec", json!([["GET", "app:k"]])).await;
        assert_eq!(exec.body, json!([{"result": db}]), "{config}");
        assert_eq!(far(&stack, "", json!(["SET", "other", "v"])).await.status == 200, may, "{config}");
    }
    let stack = with_far(&format!("url = \"redis://app@127.0.0.1:{port}\"\npassword = \"wrong\"\n")).await;
    assert_eq!(far(&stack, "", json!(["GET", "app:k"])).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_sentinels_is_followed() {
    let scratch = Scratch::new("hearth-sentinel").expect("a scratch folder");
    let mut watched = Watched::start(&scratch).await;
    let stack = with_far(&watched.config()).await;
    assert_eq!(far(&stack, "", json!(["SET", "k", "1"])).await.body["result"], "OK");
    let exec = far(&stack, "/multi-exec", json!([["INCR", "k"], ["GET", "k"]])).await;
    assert_eq!(exec.body, json!([{"result": 2}, {"result": "2"}]));
    eventually("the replica has it", async || watched.servers[1].ask(&["GET", "k"]).await == "2").await;

    // Demoted behind the broker's back, with every connection still open: the refusal makes it ask again.
    let told = watched.sentinels[0].ask(&["SENTINEL", "FAILOVER", Watched::MASTER]).await;
    assert_eq!(told, "OK");
    eventually("the replica is promoted", async || watched.servers[1].ask(&["ROLE"]).await.starts_with("master")).await;
    eventually("writes go there", async || {
        far(&stack, "", json!(["SET", "k", "3"])).await.status == 200
            && watched.servers[1].ask(&["GET", "k"]).await == "3"
    })
    .await;
    let exec = far(&stack, "/multi-exec", json!([["INCR", "k"]])).await;
    assert_eq!(exec.body, json!([{"result": 4}]), "{}", exec.text);

    // And back, since the second dies.
    eventually("the first follows, and the sentinels know", async || {
        let link = watched.servers[0].ask(&["INFO", "replication"]).await.contains("master_link_status:up");
        link && watched.sentinels[0].ask(&["INFO", "sentinel"]).await.contains("status=ok")
    })
    .await;
    watched.servers[1].kill().await;
    eventually("writes succeed again", async || far(&stack, "", json!(["SET", "k", "5"])).await.status == 200).await;
    assert_eq!(watched.servers[0].ask(&["GET", "k"]).await, "5");
    let exec = far(&stack, "/multi-exec", json!([["INCR", "k"]])).await;
    assert_eq!(exec.body, json!([{"result": 6}]), "{}", exec.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_answers_as_one() {
    let scratch = Scratch::new("hearth-cluster").expect("a scratch folder");
    let mut cluster = RedisCluster::start(&scratch).await;
    let stack = with_far(&cluster.config()).await;
    for n in 0..50 {
        assert_eq!(far(&stack, "", json!(["SET", format!("k{n}"), n])).await.body["result"], "OK");
    }
    let mut on_nodes = 0;
    for node in &cluster.nodes {
        let size = node.ask(&["DBSIZE"]).await.parse::<u32>().expect("a number");
        assert!(size > 0, "the keys are spread");
        on_nodes += size;
    }
    assert_eq!(on_nodes, 50);
    let pipeline: Vec<Value> = (0..50).map(|n| json!(["GET", format!("k{n}")])).collect();
    let answer = far(&stack, "/pipeline", json!(pipeline)).await;
    let wanted: Vec<Value> = (0..50).map(|n| json!({"result": n.to_string()})).collect();
    assert_eq!(answer.body, json!(wanted));

    for n in 0..6 {
        let key = format!("{{t{n}}}:a");
        let exec =
            far(&stack, "/multi-exec", json!([["SET", key, n], ["INCR", key], ["GET", format!("{{t{n}}}:b")]])).await;
        assert_eq!(exec.body, json!([{"result": "OK"}, {"result": n + 1}, {"result": null}]), "{}", exec.text);
        let blocked = far(&stack, "", json!(["BLPOP", format!("{{t{n}}}:q"), "0.01"])).await;
        assert_eq!((blocked.status, &blocked.body["result"]), (200, &Value::Null), "{}", blocked.text);
    }
    let crossed = far(&stack, "/multi-exec", json!([["SET", "k1", "x"], ["SET", "k2", "x"], ["SET", "k3", "x"]])).await;
    assert_eq!(crossed.status, 400, "{}", crossed.text);
    assert!(crossed.body["error"].as_str().is_some_and(|error| error.contains("CROSSSLOT")), "{}", crossed.text);
    assert_eq!(far(&stack, "", json!(["GET", "k1"])).await.body["result"], "1", "nothing of it ran");
    let crossed = far(&stack, "", json!(["SINTER", "k1", "k2", "k3"])).await;
    assert!(crossed.status == 400 && crossed.text.contains("CROSSSLOT"), "{}", crossed.text);

    // A slot moves; the first command to meet that is sent on.
    let slot = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", "empty"]).await;
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        ids.push(node.ask(&["CLUSTER", "MYID"]).await);
    }
    assert_eq!(far(&stack, "", json!(["GET", "empty"])).await.body["result"], Value::Null);
    let owner = far(&stack, "/multi-exec", json!([["GET", "empty"]])).await;
    assert_eq!(owner.status, 200);
    let mut owner = 0;
    for (index, node) in cluster.nodes.iter().enumerate() {
        if !node.ask(&["GET", "empty"]).await.contains("MOVED") {
            owner = index;
        }
    }
    let to = (owner + 1) % 3;
    for node in [to, owner, (owner + 2) % 3] {
        assert_eq!(cluster.nodes[node].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]).await, "OK");
    }
    assert_eq!(far(&stack, "", json!(["SET", "empty", "1"])).await.body["result"], "OK");
    let exec = far(&stack, "/multi-exec", json!([["INCR", "empty"]])).await;
    assert_eq!(exec.body, json!([{"result": 2}]), "{}", exec.text);
    assert_eq!(cluster.nodes[to].ask(&["GET", "empty"]).await, "2");

    // A node dies: its keys are away, and told so; the others' are there.
    cluster.nodes[2].kill().await;
    let mut statuses = Vec::new();
    for n in 0..50 {
        let request = stack.request("/v1/redis/far", &stack.other).header("Hearth-Timeout-Ms", "3000");
        statuses.push(stack.send(request.body(json!(["GET", format!("k{n}")]).to_string())).await.status);
    }
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 502, 503].contains(status)), "{statuses:?}");
    assert!(statuses.iter().any(|status| *status != 200), "{statuses:?}");
}
