//! Two tenants on one pool. `HEARTH_TEST_SECONDS=60 cargo test -p hearth-tests --test it fairness -- --nocapture` is the long run.
//!
//! What is compared was measured in turns within one run, so that whatever else the machine does meets both; the figures are printed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use hearth_tests::{Answer, Ground, Key, Served, knob, permille};
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

/// A run of so long is held to the aims themselves.
const LONG: Duration = Duration::from_secs(30);
/// How many are served is the pool's size over how long each sleeps, however fast the machine.
const POOL: u32 = 8;
const TICK: Duration = Duration::from_millis(5);

/// Two tenants and their pool.
struct Pair {
    served: Served,
    http: reqwest::Client,
    url: String,
    keys: [Key; 2],
    _ground: Ground,
}

impl Pair {
    /// `loud` and `quiet`, with more of each one's configuration.
    async fn with(pool: &str, more: [&str; 2]) -> Self {
        let ground = Ground::start(&[]).await;
        let keys = [Key::new(), Key::new()];
        let tenant = |(index, name): (usize, &str)| {
            let (entry, more) = (&keys[index].entry, more[index]);
            format!("[tenants.{name}]\ndatabases = [\"app\"]\nkeys = [{entry}]\n{more}\n")
        };
        let tenants = ["loud", "quiet"].into_iter().enumerate().map(tenant).collect::<Vec<_>>().concat();
        let config = format!(
            "[databases.app]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
             pool = {pool}\n{tenants}",
            ground.postgres.port
        );
        let served = Served::start(&ground, "broker", &config).await;
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let url = format!("{}/v1/db/app/query", served.url);
        Self { served, http, url, keys, _ground: ground }
    }

    async fn ask(&self, who: usize, sql: &str, timeout_ms: u64) -> Answer {
        let body = json!({"sql": sql}).to_string();
        let request = self.http.post(&self.url).bearer_auth(&self.keys[who].token).body(body);
        let sent = request.header("hearth-timeout-ms", timeout_ms.to_string()).send().await;
        Answer::read(sent.expect("is answered")).await
    }

    /// As many connections as there may be.
    async fn warm(&self, sql: &str) {
        for _ in 0..3 {
            join_all((0..2 * POOL).map(|_| self.ask(1, sql, 10_000))).await;
        }
    }

    async fn is_whole(&self) {
        for pool in self.served.pools().await {
            assert_eq!((&pool["state"], &pool["conserved"]), (&json!("ok"), &json!(true)), "{pool}");
        }
    }
}

fn sleeping(time: Duration) -> String {
    format!("SELECT pg_sleep({})", time.as_secs_f64())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Offers `per_second` requests for so long, whatever becomes of them.
async fn offer(per_second: u64, time: Duration, ask: impl AsyncFn(u64)) {
    let (start, mut ticks) = (Instant::now(), interval(TICK));
    let (mut running, mut offered) = (FuturesUnordered::new(), 0);
    while start.elapsed() < time {
        tokio::select! {
            _ = ticks.tick() => {
                let due = per_second * u64::try_from(start.elapsed().as_millis()).expect("fits") / 1000;
                while offered < due {
                    offered += 1;
                    running.push(ask(offered));
                }
            }
            Some(()) = running.next() => {}
        }
    }
    while running.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_offers_twenty_times_its_share_does_not_slow_another() {
    const ROUNDS: u32 = 3;
    /// Between 60 and 140 ms: as statements are, no two alike.
    const SQL: &str = "SELECT pg_sleep(0.06 + 0.08 * random())";
    const HELD_MS: u64 = 100;
    let phase = Duration::from_secs(knob("HEARTH_TEST_SECONDS", 15)) / (2 * ROUNDS);
    let pair = Pair::with(&format!("{{ min = {POOL}, max = {POOL} }}"), ["", ""]).await;
    pair.warm(SQL).await;
    let share = u64::from(POOL) * 1000 / HELD_MS / 2;
    let (times, codes) = (Mutex::new([Vec::new(), Vec::new()]), Mutex::new(BTreeMap::<String, u64>::new()));
    let quietly = async |crowded: usize| {
        // Half of its share, no two at the same distance.
        offer(share / 2, phase, async |number| {
            sleep(Duration::from_micros(number * 7_919 % 47_000)).await;
            let began = Instant::now();
            let answer = pair.ask(1, SQL, 5_000).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            times.lock().unwrap_or_else(PoisonError::into_inner)[crowded].push(began.elapsed());
        })
        .await;
    };
    let loudly = async |time: Duration| {
        offer(20 * share, time, async |_| {
            let answer = pair.ask(0, SQL, 1_000).await;
            let code = if answer.status == 200 { "ok" } else { answer.code() };
            assert!(["ok", "overloaded", "queue_deadline", "statement_timeout"].contains(&code), "{}", answer.text);
            *codes.lock().unwrap_or_else(PoisonError::into_inner).entry(code.to_owned()).or_default() += 1;
        })
        .await;
    };
    for _ in 0..ROUNDS {
        quietly(0).await;
        // The crowd is there before, and to the end.
        let crowd = loudly(phase + Duration::from_millis(600));
        tokio::join!(crowd, async {
            sleep(Duration::from_millis(400)).await;
            quietly(1).await;
        });
    }
    let (mut times, codes) = (times.into_inner().expect("whole"), codes.into_inner().expect("whole"));
    for times in &mut times {
        times.sort_unstable();
    }
    let [alone, crowded] = &times;
    let at = |times: &[Duration], at| permille(times, at);
    let ratio = |of: usize| ms(at(crowded, of)) / ms(at(alone, of));
    println!(
        "quiet alone: {} served, p50 {:.1} ms, p99 {:.1} ms; beside 20 × its share: {} served, p50 {:.1} ms, p99 {:.1} ms; ratio p50 {:.2}, p95 {:.2}, p99 {:.2}; loud {codes:?}",
        alone.len(),
        ms(at(alone, 500)),
        ms(at(alone, 990)),
        crowded.len(),
        ms(at(crowded, 500)),
        ms(at(crowded, 990)),
        ratio(500),
        ratio(950),
        ratio(990)
    );
    let refused: u64 = codes.iter().filter(|(code, _)| *code != "ok").map(|(_, count)| count).sum();
    assert!(refused > codes["ok"], "the crowd was no crowd: {codes:?}");
    let waited_in_vain: u64 =
        codes.iter().filter(|(code, _)| *code != "ok" && *code != "overloaded").map(|(_, count)| count).sum();
    assert!(codes["overloaded"] > 10 * waited_in_vain, "they were not told early: {codes:?}");
    // 1.5 is the aim, and without turns it would be 20. A short run on a machine that is busy with other things adds its own.
    assert!(ratio(500) < 2.0 && ratio(950) < 2.5, "p50 × {:.2}, p95 × {:.2}", ratio(500), ratio(950));
    assert!(pair.served.metric("hearth_queue_shed_total").await > 0.5);
    pair.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_both_want_everything_get_it_by_weight() {
    let time = Duration::from_secs(knob("HEARTH_TEST_SECONDS", 5));
    let pair = Pair::with(&format!("{{ min = {POOL}, max = {POOL} }}"), ["weight = 1", "weight = 3"]).await;
    let sql = sleeping(Duration::from_millis(10));
    pair.warm(&sql).await;
    let (served, is_over) = ([AtomicU64::new(0), AtomicU64::new(0)], AtomicBool::new(false));
    let caller = async |who: usize| {
        while !is_over.load(Ordering::Relaxed) {
            let answer = pair.ask(who, &sql, 20_000).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            served[who].fetch_add(1, Ordering::Relaxed);
        }
    };
    let counts = || served.each_ref().map(|served| served.load(Ordering::Relaxed));
    let clock = async {
        // Until both have filled their queues.
        sleep(Duration::from_millis(500)).await;
        let before = counts();
        sleep(time).await;
        is_over.store(true, Ordering::Relaxed);
        let after = counts();
        [after[0] - before[0], after[1] - before[1]]
    };
    let callers = join_all((0..48).map(|index| caller(index % 2)));
    let ([light, heavy], _) = tokio::join!(clock, callers);
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let ratio = heavy as f64 / light as f64;
    println!("weights 1 and 3: {light} and {heavy} served in {} s, {ratio:.3}", time.as_secs());
    // Within a tenth is the aim, which the long run is held to.
    let aim = if time >= LONG { 2.7..3.3 } else { 2.4..3.6 };
    assert!(aim.contains(&ratio), "{ratio:.3}");
    pair.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_statements_of_one_are_paid_for_in_its_own_time() {
    let time = Duration::from_secs(knob("HEARTH_TEST_SECONDS", 6));
    let pair = Pair::with("{ min = 4, max = 4 }", ["", ""]).await;
    let (slow, fast) = (sleeping(Duration::from_millis(200)), sleeping(Duration::from_millis(10)));
    pair.warm(&fast).await;
    let (served, is_over) = ([AtomicU64::new(0), AtomicU64::new(0)], AtomicBool::new(false));
    let caller = async |who: usize| {
        while !is_over.load(Ordering::Relaxed) {
            let answer = pair.ask(who, [&slow, &fast][who], 20_000).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            served[who].fetch_add(1, Ordering::Relaxed);
        }
    };
    let clock = async {
        sleep(Duration::from_secs(1)).await;
        let before = served.each_ref().map(|served| served.load(Ordering::Relaxed));
        sleep(time).await;
        is_over.store(true, Ordering::Relaxed);
        let after = served.each_ref().map(|served| served.load(Ordering::Relaxed));
        [after[0] - before[0], after[1] - before[1]]
    };
    let ([slow, fast], _) = tokio::join!(clock, join_all((0..32).map(|index| caller(index % 2))));
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let ratio = fast as f64 * 10.0 / (slow as f64 * 200.0);
    println!("slow and fast statements: {slow} of 200 ms and {fast} of 10 ms, database time 1 to {ratio:.2}");
    // Turn by turn it would be 1 to 0.05. What a statement costs beside its sleep is the fast one's loss.
    assert!(ratio > 0.4 && ratio < 1.4, "{ratio:.2}");
    pair.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_the_lanes_leaves_places_for_another() {
    let time = Duration::from_secs(knob("HEARTH_TEST_SECONDS", 4));
    let pair = Pair::with(&format!("{{ min = {POOL}, max = {POOL} }}"), ["", ""]).await;
    let sql = "SELECT g FROM generate_series(1, 3) g";
    for _ in 0..20 {
        assert_eq!(pair.ask(1, sql, 5_000).await.status, 200);
    }
    let (times, is_over) = (Mutex::new([Vec::new(), Vec::new()]), AtomicBool::new(false));
    let caller = async |who: usize, pause: Duration| {
        while !is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answer = pair.ask(who, sql, 30_000).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            times.lock().unwrap_or_else(PoisonError::into_inner)[who].push(began.elapsed());
            sleep(pause).await;
        }
    };
    let clock = async {
        sleep(time).await;
        is_over.store(true, Ordering::Relaxed);
    };
    let crowd = join_all((0..200).map(|_| caller(0, Duration::ZERO)));
    tokio::join!(clock, crowd, caller(1, Duration::from_millis(2)));
    let mut times = times.into_inner().expect("whole");
    for times in &mut times {
        times.sort_unstable();
    }
    let [loud, quiet] = &times;
    let on_lanes = pair.served.metric("hearth_lane_statements_total").await;
    println!(
        "on lanes: loud {} served, p50 {:.1} ms, p99 {:.1} ms; quiet {} served, p50 {:.1} ms, p99 {:.1} ms; {on_lanes} on lanes",
        loud.len(),
        ms(permille(loud, 500)),
        ms(permille(loud, 990)),
        quiet.len(),
        ms(permille(quiet, 500)),
        ms(permille(quiet, 990))
    );
    assert!(on_lanes > 0.5, "{on_lanes}");
    // Nearly all of either's time is the processor's, which both share: the quiet one must not be pushed out, and no more.
    assert!(permille(quiet, 500) <= 2 * permille(loud, 500), "the quiet one waits for longer than the crowd");
    pair.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_weights_and_bounds_of_those_who_wait() {
    let pair = Pair::with("{ min = 1, max = 1 }", ["limits = { max_queued = 3 }", ""]).await;
    let sql = sleeping(Duration::from_millis(150));
    let asked = join_all((0..8).map(|_| pair.ask(0, &sql, 10_000))).await;
    let refused = asked.iter().filter(|answer| answer.status == 503).collect::<Vec<_>>();
    assert!((3..=4).contains(&refused.len()), "one runs, three wait: {} refused", refused.len());
    assert!(refused.iter().all(|answer| answer.code() == "overloaded" && !answer.header("retry-after").is_empty()));
    let config = std::fs::read_to_string(pair.served.config()).expect("is there");
    std::fs::write(pair.served.config(), config.replace("max_queued = 3", "max_queued = 30")).expect("writes");
    assert_eq!(pair.served.admin("/admin/v1/reload").await.status, 200);
    let asked = join_all((0..8).map(|_| pair.ask(0, &sql, 10_000))).await;
    assert!(asked.iter().all(|answer| answer.status == 200));
    pair.is_whole().await;
}
