//! LISTEN and NOTIFY over HTTP: what is sent is heard, by as many as like, over one connection, whatever happens to it.

use std::time::Duration;

use futures_util::future::join_all;
use hearth_broker::cli::dev::machine::signal;
use hearth_broker::pool::listen::HubStatus;
use hearth_tests::events::Events;
use hearth_tests::{Answer, Options, Stack, eventually};
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// A request to listen to a channel, every byte of its name escaped.
fn request(stack: &Stack, channel: &str) -> RequestBuilder {
    let escaped = channel.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    stack.get(&format!("/v1/db/app/listen/{escaped}")).bearer_auth(&stack.key)
}

/// Listens; answers once it is in force.
async fn listen(stack: &Stack, channel: &str) -> Events {
    let response = request(stack, channel).send().await.expect("the broker answers");
    assert!(response.status() == 200, "{}", Answer::read(response).await.text);
    let mut events = Events::new(response);
    assert_eq!(events.expect("listening").await, json!({"channel": channel}));
    events
}

async fn notify(stack: &Stack, channel: &str, payload: &str) {
    stack.witness.execute("SELECT pg_notify($1, $2)", &[&channel, &payload]).await.expect("the witness can notify");
}

fn status(stack: &Stack) -> HubStatus {
    stack.broker.databases.values().next().expect("there is one").listeners().status()
}

/// Backends of the broker's role that are there for listening.
async fn listening_backends(stack: &Stack) -> i64 {
    stack.count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND query LIKE '%LISTEN%'").await
}

async fn kill_listening(stack: &Stack) {
    let kill =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app' AND query LIKE '%LISTEN%'";
    assert_eq!(stack.count(kill).await, 1);
}

/// A subscriber that takes what its small buffer holds, and then nothing more.
async fn stalled(stack: &Stack, channel: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("is set");
    let address = stack.url.trim_start_matches("http://").parse().expect("is an address");
    let mut socket = socket.connect(address).await.expect("connects");
    let key = &stack.key;
    let head = format!("GET /v1/db/app/listen/{channel} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("sends");
    let mut first = String::new();
    while !first.contains("event: listening") {
        let mut piece = [0; 256];
        let count = socket.read(&mut piece).await.expect("is answered");
        first.push_str(std::str::from_utf8(&piece[..count]).expect("is text"));
    }
    socket
}

/// Notifications of 7 kB, numbered, in one transaction. 3,000 are far more than the sockets between hold.
async fn flood(stack: &Stack, channel: &str, numbers: std::ops::Range<i32>) {
    let sql = "SELECT pg_notify($1, g || ':' || repeat('x', 7000)) FROM generate_series($2::int4, $3::int4 - 1) g";
    stack.witness.execute(sql, &[&channel, &numbers.start, &numbers.end]).await.expect("the witness can notify");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_heard_in_order() {
    let stack = Stack::start().await;
    let mut events = listen(&stack, "orders").await;
    assert_eq!(events.header("content-type"), ["text/event-stream"]);
    assert_eq!(events.header("cache-control"), ["no-store"]);
    assert_eq!(events.header("x-accel-buffering"), ["no"]);
    assert_eq!(events.header("ratelimit-policy"), ["\"listeners\";q=1000;qu=\"event-streams\""]);
    assert!(events.header("server-timing")[0].contains("auth;dur="));

    notify(&stack, "orders", "first\nand \"more\" é").await;
    let pid = stack.count("SELECT pg_backend_pid()::int8").await;
    let heard = events.next().await.expect("goes on");
    assert_eq!(
        (&*heard.name, heard.data),
        ("", json!({"channel": "orders", "payload": "first\nand \"more\" é", "pid": pid}))
    );
    for number in 0..100 {
        notify(&stack, "orders", &number.to_string()).await;
    }
    for number in 0..100 {
        assert_eq!(events.payload().await, number.to_string());
    }
    // By the broker's own statement, whole transactions only.
    stack.ok("SELECT pg_notify('orders', g::text) FROM generate_series(1, 3) g").await;
    assert_eq!(stack.query("SELECT pg_notify('orders', 'never'), 1 / 0", json!([])).await.status, 422);
    stack.ok("SELECT pg_notify('orders', 'last')").await;
    for payload in ["1", "2", "3", "last"] {
        assert_eq!(events.payload().await, payload);
    }
    assert_eq!(
        stack.send(stack.get("/v1/whoami").bearer_auth(&stack.key)).await.body["usage"],
        json!({"in_flight": 0, "listeners": 1})
    );
    let metrics = stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
    assert!(metrics.contains("hearth_db_listeners{backend=\"app\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stands_as_it_is_given() {
    let stack = Stack::start().await;
    let long = "ä".repeat(31) + "x";
    let names = [
        "Orders",
        "orders",
        "two words",
        "a\"b\"",
        "x\"; SELECT 1; --",
        "a/b?c#d%e",
        "back\\slash",
        "日本",
        " ",
        &long,
    ];
    let mut all = Vec::new();
    for name in names {
        all.push(listen(&stack, name).await);
    }
    for name in names {
        notify(&stack, name, &format!("to {name}")).await;
    }
    for (name, events) in names.iter().zip(&mut all) {
        let heard = events.expect("").await;
        assert_eq!((&heard["channel"], &heard["payload"]), (&json!(name), &json!(format!("to {name}"))));
    }
    assert_eq!(listening_backends(&stack).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_subscribers_hear_over_one_connection() {
    const SUBSCRIBERS: usize = 1_000;
    let stack = Stack::start().await;
    let start = Instant::now();
    let mut all = join_all((0..SUBSCRIBERS).map(|_| listen(&stack, "news"))).await;
    let standing = start.elapsed();
    let pool = stack.broker.databases.values().next().expect("there is one").endpoints()[0].status();
    let backends = stack
        .count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name NOT LIKE '%watch%'")
        .await;
    assert_eq!(backends, i64::try_from(pool.open()).expect("is small") + 1, "{pool:?}");
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let (sent, payload) = (Instant::now(), round.to_string());
        let heard = all.iter_mut().map(|events| async {
            assert_eq!(events.payload().await, payload);
            sent.elapsed()
        });
        let (times, ()) = tokio::join!(join_all(heard), notify(&stack, "news", &payload));
        slowest = slowest.max(times.into_iter().max().expect("there are some"));
    }
    println!(
        "{SUBSCRIBERS} subscribers stood after {} ms; the slowest of 5 notifications came after {} ms",
        standing.as_millis(),
        slowest.as_millis()
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    drop(all);
    eventually("all are gone", async || status(&stack).subscribers == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_is_told_and_the_next_notification_is_heard() {
    let stack = Stack::start().await;
    let mut all = join_all((0..30).map(|n| listen(&stack, if n % 2 == 0 { "even" } else { "odd" }))).await;
    for round in 0..3 {
        kill_listening(&stack).await;
        let lost = Instant::now();
        for events in &mut all {
            assert_eq!(events.expect("reconnected").await, json!({}));
        }
        println!("heard again after {} ms", lost.elapsed().as_millis());
        for channel in ["even", "odd"] {
            notify(&stack, channel, &format!("{channel} {round}")).await;
        }
        for (n, events) in all.iter_mut().enumerate() {
            assert_eq!(events.payload().await, format!("{} {round}", if n % 2 == 0 { "even" } else { "odd" }));
        }
    }
    assert_eq!(listening_backends(&stack).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_stops_reading_is_told_and_dropped_and_holds_nobody_up() {
    let stack = Stack::start().await;
    let mut slow = stalled(&stack, "c").await;
    let mut fast = listen(&stack, "c").await;
    let start = Instant::now();
    // Fewer at once than a queue holds, so that the fast one is fast however busy the machine is.
    for numbers in (1..3_001).step_by(200).map(|first| first..first + 200) {
        flood(&stack, "c", numbers.clone()).await;
        for number in numbers {
            assert_eq!(fast.payload().await.split(':').next(), Some(&*number.to_string()));
        }
    }
    println!("3000 notifications of 7 kB were heard after {} ms", start.elapsed().as_millis());
    eventually("the slow one is dropped", async || status(&stack).subscribers == 1).await;
    let mut rest = String::new();
    let read = async {
        while !rest.ends_with("\r\n0\r\n\r\n") {
            let mut piece = [0; 4096];
            let count = slow.read(&mut piece).await.expect("goes on");
            assert!(count > 0, "cut before the end");
            rest.push_str(std::str::from_utf8(&piece[..count]).expect("is plain ASCII"));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("ends");
    let heard: Vec<&str> =
        rest.split("\"payload\":\"").skip(1).map(|rest| rest.split(':').next().expect("is there")).collect();
    println!("the slow one was told after {} of them", heard.len());
    for (index, number) in heard.iter().enumerate() {
        assert_eq!(*number, (index + 1).to_string(), "nothing is missing before the end");
    }
    let (_, error) = rest.split_once("event: error\ndata: ").expect("is told");
    assert!(error.contains("\"code\":\"reader_too_slow\"") && error.contains("\"outcome\":\"not_applied\""), "{error}");
    notify(&stack, "c", "still here").await;
    assert_eq!(fast.payload().await, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_one_transaction_is_heard_whole_by_all() {
    let stack = Stack::start().await;
    for (subscribers, burst) in [(100, 5_000), (1_000, 500)] {
        let mut all = join_all((0..subscribers).map(|_| listen(&stack, "rows"))).await;
        let start = Instant::now();
        let heard = all.iter_mut().map(|events| async {
            for number in 1..=burst {
                assert_eq!(events.payload().await, number.to_string());
            }
        });
        let notify = format!("SELECT pg_notify('rows', g::text) FROM generate_series(1, {burst}) g");
        let (_, sent) = tokio::join!(join_all(heard), stack.witness.batch_execute(&notify));
        sent.expect("the witness can notify");
        println!("{subscribers} heard {burst} notifications after {} ms", start.elapsed().as_millis());
        drop(all);
        eventually("all are gone", async || status(&stack).subscribers == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_told_who_has_left_and_the_connection_closed_a_little_later() {
    let stack = Stack::start().await;
    let (first, second, other) = (listen(&stack, "a").await, listen(&stack, "a").await, listen(&stack, "b").await);
    drop(first);
    eventually("one is gone", async || status(&stack).subscribers == 2).await;
    assert_eq!(status(&stack).channels.len(), 2);
    drop(second);
    eventually("nobody hears a", async || status(&stack).channels == ["b"]).await;
    let told = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND query = 'UNLISTEN \"a\";'";
    eventually("the server is told", async || stack.count(told).await == 1).await;
    drop(other);
    eventually("nobody hears anything", async || status(&stack).channels.is_empty()).await;
    let left = Instant::now();
    let again = listen(&stack, "a").await;
    assert_eq!(listening_backends(&stack).await, 1);
    drop(again);
    eventually("the connection is closed", async || listening_backends(&stack).await == 0).await;
    assert!(left.elapsed() > Duration::from_secs(8), "a little later: {:?}", left.elapsed());
    assert!(!status(&stack).running);
    let mut late = listen(&stack, "a").await;
    notify(&stack, "a", "heard").await;
    assert_eq!(late.payload().await, "heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_told_that_it_listens_hears_while_others_come_and_go() {
    let stack = Stack::start().await;
    let caller = |caller: usize| {
        let stack = &stack;
        async move {
            for round in 0..25 {
                let channel = format!("c{}", (caller + round) % 3);
                let mut events = listen(stack, &channel).await;
                let mine = format!("{caller} {round}");
                notify(stack, &channel, &mine).await;
                while events.payload().await != mine {}
            }
        }
    };
    join_all((0..8).map(caller)).await;
    assert_eq!(listening_backends(&stack).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_every_stream_and_does_not_wait_for_them() {
    let mut stack = Stack::with(Options { server: "drain_grace = \"1m\"".to_owned(), ..Options::default() }).await;
    let mut all = join_all((0..50).map(|_| listen(&stack, "a"))).await;
    let _stalled = stalled(&stack, "b").await;
    flood(&stack, "b", 1..3_001).await;
    eventually("one takes nothing more", async || status(&stack).subscribers == 50).await;
    let start = Instant::now();
    let told = join_all(all.iter_mut().map(|events| async {
        let problem = events.expect("error").await;
        assert_eq!((&problem["code"], &problem["outcome"]), (&json!("draining"), &json!("not_applied")));
        assert_eq!(events.next().await, None);
        start.elapsed()
    }));
    let (times, ()) = tokio::join!(told, stack.drain());
    println!(
        "told after {} ms, drained after {} ms",
        times.iter().max().expect("there are some").as_millis(),
        start.elapsed().as_millis()
    );
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_listen_is_told_why() {
    let limits = "listeners = 2, in_flight = 1".to_owned();
    let stack = Stack::with(Options { limits, ..Options::default() }).await;
    let send = |request: RequestBuilder| stack.send(request);
    for bad in ["a\0b", &"x".repeat(64), &"ä".repeat(32)] {
        send(request(&stack, bad)).await.assert_problem(400, "invalid_request", "not_applied");
    }
    send(stack.get("/v1/db/app/listen/%FF").bearer_auth(&stack.key)).await.assert_problem(
        400,
        "invalid_request",
        "not_applied",
    );
    send(request(&stack, "a").header("hearth-timeout-ms", "soon")).await.assert_problem(
        400,
        "invalid_request",
        "not_applied",
    );
    send(stack.get("/v1/db/app/listen/").bearer_auth(&stack.key)).await.assert_problem(404, "not_found", "not_applied");
    send(stack.get("/v1/db/app/listen/a")).await.assert_problem(401, "unauthenticated", "not_applied");
    let keyed = |key: &str, database: &str| stack.get(&format!("/v1/db/{database}/listen/a")).bearer_auth(key);
    send(keyed(&stack.redis_only, "app")).await.assert_problem(403, "forbidden", "not_applied");
    send(keyed(&stack.key, "nowhere")).await.assert_problem(404, "unknown_database", "not_applied");
    send(keyed(&stack.other, "app")).await.assert_problem(404, "unknown_database", "not_applied");
    send(stack.request("/v1/db/app/listen/a", &stack.key)).await.assert_problem(
        405,
        "method_not_allowed",
        "not_applied",
    );
    assert_eq!(listening_backends(&stack).await, 0);

    // Streams count as listeners, and not as requests in flight.
    let (first, _second) = (listen(&stack, "a").await, listen(&stack, "a").await);
    assert_eq!(stack.ok("SELECT 1 AS n").await.first(), 1);
    let third = send(request(&stack, "a")).await;
    third.assert_problem(429, "too_many_in_flight", "not_applied");
    assert_eq!(third.body["violated_policies"], json!(["listeners"]));
    drop(first);
    eventually("there is room again", async || request(&stack, "a").send().await.expect("is answered").status() == 200)
        .await;
    // A deadline that was met does not end the stream, and a key that may only read may listen.
    eventually("there is room again", async || status(&stack).subscribers < 2).await;
    let brief = stack.get("/v1/db/app/listen/a").bearer_auth(&stack.reader).header("hearth-timeout-ms", "2000").send();
    let mut brief = Events::new(brief.await.expect("is answered"));
    brief.expect("listening").await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    notify(&stack, "a", "late").await;
    assert_eq!(brief.payload().await, "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_told_to_newcomers_and_waited_for_by_the_others() {
    let mut stack = Stack::start().await;
    let mut events = listen(&stack, "a").await;
    stack.postgres.halt("INT").await.expect("it stops");
    for channel in ["a", "b"] {
        let answer = stack.send(request(&stack, channel)).await;
        answer.assert_problem(503, "backend_down", "not_applied");
        assert_eq!(answer.body["retryable"], true);
        assert!(!answer.text.contains("127.0.0.1"), "addresses stay inside: {}", answer.text);
    }
    assert_eq!(status(&stack), HubStatus { subscribers: 1, channels: vec![], running: true });
    stack.postgres.restart(&stack.scratch).await.expect("starts again");
    stack.witness = stack.postgres.admin("app").await.expect("connects");
    events.expect("reconnected").await;
    notify(&stack, "a", "heard").await;
    assert_eq!(events.payload().await, "heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_not_waited_for_past_the_deadline() {
    let stack = Stack::start().await;
    let file = std::fs::read_to_string(stack.postgres.data().join("postmaster.pid")).expect("is running");
    let pid = file.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
    // Connections are taken by the kernel, and nobody answers.
    signal(pid, "STOP");
    let late = stack.send(request(&stack, "a").header("hearth-timeout-ms", "300")).await;
    late.assert_problem(503, "queue_deadline", "not_applied");
    assert_eq!(status(&stack).subscribers, 0, "one who gave up is not subscribed");
    signal(pid, "CONT");
    let mut events = listen(&stack, "a").await;
    notify(&stack, "a", "heard").await;
    assert_eq!(events.payload().await, "heard");
}
