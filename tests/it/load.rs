//! Many callers, few connections.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use hearth_tests::{Options, Stack};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_from_five_hundred_connections_need_eight_backends() {
    const CALLERS: usize = 500;
    const EACH: usize = 20;
    let stack = Stack::with(Options { pool_max: 8, ..Options::default() }).await;
    stack.ok("CREATE TABLE t AS SELECT g AS id, 'row ' || g AS name FROM generate_series(1, 1000) g").await;
    stack.ok("ALTER TABLE t ADD PRIMARY KEY (id)").await;
    let (done, most) = (AtomicBool::new(false), AtomicI64::new(0));
    let watch = async {
        while !done.load(Ordering::Acquire) {
            let backends = stack.count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name NOT LIKE '%watch%'").await;
            most.fetch_max(backends, Ordering::AcqRel);
        }
    };
    // A client of its own is a connection of its own. All before the first connects: while one is being made no other of this
    // task sends, and a connection that brings no headers for `header_timeout` is closed.
    let clients: Vec<_> =
        (0..CALLERS).map(|_| reqwest::Client::builder().no_proxy().build().expect("a client")).collect();
    let caller = |caller: usize| {
        let (stack, http) = (&stack, &clients[caller]);
        async move {
            for round in 0..EACH {
                let id = (caller * EACH + round) % 1000 + 1;
                let body = json!({"sql": "SELECT name FROM t WHERE id = $1", "params": [id]}).to_string();
                let request = http.post(format!("{}/v1/db/app/query", stack.url)).bearer_auth(&stack.key).body(body);
                let answer = stack.send(request).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert_eq!(answer.first(), &json!(format!("row {id}")), "never another's row");
            }
        }
    };
    let load = async {
        futures_util::future::join_all((0..CALLERS).map(caller)).await;
        done.store(true, Ordering::Release);
    };
    tokio::join!(watch, load);
    let most = most.load(Ordering::Acquire);
    println!("{} requests over {CALLERS} connections: at most {most} backends", CALLERS * EACH);
    assert!((1..=8).contains(&most), "{most} backends");
}
