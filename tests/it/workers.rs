//! Workers: threads that share databases and caches, and nothing else.

use futures_util::future::join_all;
use hearth_tests::{Answer, Options, Stack};
use reqwest::Client;
use serde_json::{Value, json};

/// Callers with a connection each: as they come, the two workers get every other one.
struct Callers<'s> {
    stack: &'s Stack,
    all: Vec<Client>,
}

impl<'s> Callers<'s> {
    fn new(stack: &'s Stack, count: usize) -> Self {
        let client = || Client::builder().no_proxy().pool_max_idle_per_host(1).build().expect("an HTTP client");
        Self { stack, all: (0..count).map(|_| client()).collect() }
    }

    async fn ask(&self, caller: usize, path: &str, body: &Value) -> Answer {
        let request = self.all[caller].post(format!("{}{path}", self.stack.url)).bearer_auth(&self.stack.key);
        self.stack.send(request.header("Hearth-Lanes", "off").json(body)).await
    }
}

async fn two_workers() -> Stack {
    Stack::with(Options { server: "workers = 2".to_owned(), pool_max: 1, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_serves_the_callers_of_all_workers_in_turn_and_at_once() {
    let stack = two_workers().await;
    let callers = Callers::new(&stack, 4);
    let ask = async |caller: usize, number: usize| {
        let body = json!({"sql": "SELECT $1::int4 AS number, pg_backend_pid() AS pid", "params": [number]});
        let answer = callers.ask(caller, "/v1/db/app/query", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["rows"][0]["number"], json!(number), "{}", answer.text);
        answer.body["rows"][0]["pid"].clone()
    };
    let pid = ask(0, 0).await;
    for number in 1..40 {
        assert_eq!(ask(number % 4, number).await, pid, "there is one session, and it has not broken");
    }
    for _ in 0..50 {
        let pids = join_all((0..4).map(|caller| ask(caller, caller))).await;
        assert!(pids.iter().all(|other| *other == pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_to_redis_that_a_health_check_opened_becomes_a_workers() {
    let stack = two_workers().await;
    let admin = async |path: &str| stack.send(Client::new().get(format!("{}{path}", stack.admin_url))).await;
    let ended = async || {
        let text = admin("/metrics").await.text;
        let mut lines = text.lines().filter(|line| line.starts_with("hearth_connections_closed_total{"));
        let line = lines.find(|line| line.contains("\"main\"") && line.contains("\"lane_ended\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    assert_eq!(admin("/readyz").await.status, 200);
    assert!(ended().await < 1.0, "nobody else wants it yet");
    let (callers, turns) = (Callers::new(&stack, 4), 40);
    let take_turns = async |begun: usize| {
        for turn in begun..begun + turns {
            let answer = callers.ask(turn % 4, "/v1/redis/main", &json!(["INCR", "turns"])).await;
            assert_eq!(answer.body["result"], json!(turn + 1), "{}", answer.text);
        }
    };
    take_turns(0).await;
    let replaced = ended().await;
    assert!(replaced >= 1.0, "each was replaced");
    // Health checks use the new ones, whoever drives them.
    assert_eq!(admin("/readyz").await.status, 200);
    take_turns(turns).await;
    assert!((ended().await - replaced).abs() < f64::EPSILON, "and once only");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_how_each_worker_does() {
    let stack = two_workers().await;
    let callers = Callers::new(&stack, 4);
    let ask = async || {
        for caller in 0..4 {
            assert_eq!(callers.ask(caller, "/v1/redis/main", &json!(["PING"])).await.status, 200);
        }
    };
    let series = async |name: &str| {
        let text = stack.send(Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
        [0, 1].map(|worker| {
            let start = format!("hearth_{name}{{worker=\"{worker}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{start} in\n{text}"))
        })
    };
    ask().await;
    let connections = series("worker_connections").await;
    assert!(
        connections.iter().all(|count| (count - 2.0).abs() < f64::EPSILON),
        "each caller keeps its own: {connections:?}"
    );
    let before = series("worker_busy_seconds_total").await;
    ask().await;
    let after = series("worker_busy_seconds_total").await;
    assert!(before.iter().zip(after).all(|(before, after)| *before > 0.0 && after > *before), "{before:?} {after:?}");
}
