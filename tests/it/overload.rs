//! Ten times more requests than the pool can serve. `HEARTH_TEST_SECONDS=60 cargo test -p hearth-tests --test it overload -- --nocapture`
//! is the long run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hearth_tests::{Answer, Ground, Key, Served, knob, permille};
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

/// Four leases that each sleep 20 ms serve 200 requests a second, however fast the machine.
const POOL: u32 = 4;
const OFFERED_PER_SECOND: u64 = 2_000;
const TICK: Duration = Duration::from_millis(10);
/// More at once, and the test itself would be what is overloaded.
const AT_ONCE: usize = 4_000;

#[derive(Default)]
struct Seen {
    codes: Mutex<BTreeMap<String, u64>>,
    rejections: Mutex<Vec<Duration>>,
    good: AtomicU64,
    left_out: AtomicUsize,
}

impl Seen {
    fn note(&self, answer: &Answer, took: Duration) {
        if answer.status == 200 {
            self.good.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert!([429, 503].contains(&answer.status), "{}", answer.text);
        let wait: u64 = answer.header("retry-after").parse().unwrap_or_else(|_| panic!("when? {}", answer.text));
        assert!(wait >= 1 && answer.body["retry_after_ms"].is_u64(), "{}", answer.text);
        assert_eq!((&answer.body["outcome"], &answer.body["retryable"]), (&json!("not_applied"), &json!(true)));
        *self.codes.lock().unwrap_or_else(PoisonError::into_inner).entry(answer.code().to_owned()).or_default() += 1;
        // One that waits for its turn until its own deadline is not rejected before.
        if answer.code() != "queue_deadline" {
            self.rejections.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_too_much_is_rejected_at_once_and_nothing_is_ill_afterwards() {
    let seconds = knob("HEARTH_TEST_SECONDS", 5);
    let ground = Ground::start(&[]).await;
    // One tenant is held by its own limit, one by the pool's queue.
    let [limited, free] = [Key::new(), Key::new()];
    let config = format!(
        "max_waiting = 40\n[databases.app]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
         pool = {{ min = 1, max = {POOL} }}\n[tenants.limited]\ndatabases = [\"app\"]\nkeys = [{}]\nlimits = {{ in_flight = 8 }}\n\
         [tenants.free]\ndatabases = [\"app\"]\nkeys = [{}]\n",
        ground.postgres.port, limited.entry, free.entry
    );
    let served = Served::start(&ground, "broker", &config).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let url = format!("{}/v1/db/app/query", served.url);
    let body = json!({"sql": "SELECT pg_sleep(0.02)"}).to_string();
    let ask = |key: &Key| {
        let request = http.post(&url).bearer_auth(&key.token).header("hearth-timeout-ms", "1000").body(body.clone());
        async move { Answer::read(request.send().await.expect("is answered")).await }
    };
    for _ in 0..20 {
        assert_eq!(ask(&free).await.status, 200);
    }
    let (seen, before) = (Seen::default(), served.memory());
    let mut most = before;
    let start = Instant::now();
    let mut ticks = interval(TICK);
    let mut running = FuturesUnordered::new();
    let mut offered = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        tokio::select! {
            _ = ticks.tick() => {
                let due = OFFERED_PER_SECOND * u64::try_from(start.elapsed().as_millis()).expect("fits") / 1000;
                while offered < due {
                    offered += 1;
                    if running.len() >= AT_ONCE {
                        seen.left_out.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let (asked, seen) = (ask(if offered % 2 == 0 { &limited } else { &free }), &seen);
                    running.push(async move {
                        let began = Instant::now();
                        let answer = asked.await;
                        seen.note(&answer, began.elapsed());
                    });
                }
                most = most.max(served.memory());
            }
            Some(()) = running.next() => {}
        }
    }
    let ended = Instant::now();
    drop(running);
    // The first caller after it.
    let recovered = loop {
        let began = Instant::now();
        let answer = ask(&limited).await;
        if answer.status == 200 && began.elapsed() < Duration::from_millis(200) {
            break ended.elapsed();
        }
        assert!(ended.elapsed() < Duration::from_secs(20), "it never recovers: {}", answer.text);
        sleep(Duration::from_millis(20)).await;
    };
    let mut rejections = seen.rejections.lock().unwrap_or_else(PoisonError::into_inner).clone();
    rejections.sort_unstable();
    let (good, after) = (seen.good.load(Ordering::Relaxed), served.memory());
    let codes = seen.codes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!(
        "{offered} offered in {seconds} s ({} left out), {good} served, rejected {codes:?}; rejections p50 {:.1} ms, p99 {:.1} ms; \
         memory {} → at most {} → {} KiB; recovered after {} ms",
        seen.left_out.load(Ordering::Relaxed),
        permille(&rejections, 500).as_secs_f64() * 1e3,
        permille(&rejections, 990).as_secs_f64() * 1e3,
        before / 1024,
        most / 1024,
        after / 1024,
        recovered.as_millis()
    );
    for code in ["too_many_in_flight", "overloaded"] {
        assert!(codes.get(code).is_some_and(|count| *count > 100), "{code}: {codes:?}");
    }
    // 200 a second is what the pool can; half of it on a machine that is busy with other things.
    assert!(good > seconds * 100, "{good} served in {seconds} s");
    for pool in served.pools().await {
        assert_eq!((&pool["state"], &pool["conserved"]), (&json!("ok"), &json!(true)), "{pool}");
    }
    for metric in
        ["hearth_endpoint_ejections_total", "hearth_breaker_trips_total", "hearth_conservation_failures_total"]
    {
        assert!(served.metric(metric).await < 0.5, "{metric}");
    }
    assert!(most < before + (256 << 20), "{most} bytes");
}
