//! Several brokers with one limit. `HEARTH_TEST_SECONDS=30 cargo test -p hearth-tests --test it fleet -- --nocapture` is the long run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use hearth_broker::cli::dev::machine::signal;
use hearth_tests::redis::{RedisCluster, redis_cli};
use hearth_tests::{Answer, Ground, Key, Served, eventually, knob, permille};
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

const TICK: Duration = Duration::from_millis(10);

/// Brokers with one tenant, over one Redis.
struct Brokers {
    ground: Ground,
    all: Vec<Served>,
    key: Key,
    http: reqwest::Client,
}

impl Brokers {
    async fn start(count: usize, limits: &str) -> Self {
        let ground = Ground::start(&[]).await;
        let cache = own_cache(&ground);
        Self::over(ground, &cache, count, limits).await
    }

    async fn over(ground: Ground, cache: &str, count: usize, limits: &str) -> Self {
        let key = Key::new();
        let config = config(&ground, cache, &key, limits);
        let mut all = Vec::new();
        for name in &["one", "two", "three"][..count] {
            all.push(Served::start(&ground, name, &config).await);
        }
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let this = Self { ground, all, key, http };
        eventually("all know of each other", async || this.know(count).await).await;
        this
    }

    #[expect(clippy::cast_precision_loss, reason = "two or three")]
    async fn know(&self, count: usize) -> bool {
        let told = join_all(self.all.iter().map(|broker| broker.metric("hearth_fleet_brokers"))).await;
        told.iter().all(|known| (known - count as f64).abs() < 0.5)
    }

    /// Asks for something that is let in and then found malformed: it costs no database.
    async fn ask(&self, broker: usize) -> Answer {
        self.post(broker, "nothing".to_owned()).await
    }

    async fn sql(&self, broker: usize, sql: &str) -> Answer {
        self.post(broker, json!({"sql": sql}).to_string()).await
    }

    async fn post(&self, broker: usize, body: String) -> Answer {
        let request = self.http.post(format!("{}/v1/db/app/query", self.all[broker].url));
        Answer::read(request.bearer_auth(&self.key.token).body(body).send().await.expect("is answered")).await
    }

    /// Offers so much a second to each, and tells what was let in.
    async fn offer(&self, rates: &[u64], time: Duration) -> Seen {
        let seen = Seen::default();
        let mut offered = vec![0; rates.len()];
        let (start, mut ticks, mut running) = (Instant::now(), interval(TICK), FuturesUnordered::new());
        while start.elapsed() < time {
            tokio::select! {
                _ = ticks.tick() => {
                    let millis = u64::try_from(start.elapsed().as_millis()).expect("fits");
                    for (broker, rate) in rates.iter().enumerate() {
                        while offered[broker] < rate * millis / 1000 {
                            offered[broker] += 1;
                            let seen = &seen;
                            running.push(async move {
                                let began = Instant::now();
                                let answer = self.ask(broker).await;
                                seen.note(broker, &answer, began.elapsed());
                            });
                        }
                    }
                }
                Some(()) = running.next() => {}
            }
        }
        while running.next().await.is_some() {}
        drop(running);
        seen
    }

    async fn redis_pid(&self) -> u32 {
        let told = redis_cli(self.ground.redis.port, &self.ground.redis.password, &["INFO", "server"]).await;
        let line = told.lines().find_map(|line| line.strip_prefix("process_id:")).expect("is told");
        line.trim().parse().expect("a number")
    }

    /// Scripts that Redis has run.
    async fn scripts(&self) -> u64 {
        let told = redis_cli(self.ground.redis.port, &self.ground.redis.password, &["INFO", "commandstats"]).await;
        let line = told.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
        line.split(',').next().expect("a part").parse().expect("a number")
    }
}

fn own_cache(ground: &Ground) -> String {
    format!("url = \"redis://127.0.0.1:{}\"\npassword = \"{}\"\n", ground.redis.port, ground.redis.password)
}

fn config(ground: &Ground, cache: &str, key: &Key, limits: &str) -> String {
    format!(
        "[databases.app]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
         pool = {{ min = 1, max = 16 }}\n[caches.fleet]\n{cache}[fleet]\ncache = \"fleet\"\n\
         [tenants.acme]\ndatabases = [\"app\"]\nkeys = [{}]\nlimits = {{ {limits} }}\n",
        ground.postgres.port, key.entry
    )
}

#[derive(Default)]
struct Seen {
    admitted: AtomicU64,
    by_broker: Mutex<BTreeMap<usize, u64>>,
    times: Mutex<Vec<Duration>>,
}

impl Seen {
    fn note(&self, broker: usize, answer: &Answer, took: Duration) {
        assert!([400, 429].contains(&answer.status), "{}", answer.text);
        if answer.status == 400 {
            self.admitted.fetch_add(1, Ordering::Relaxed);
            *self.by_broker.lock().unwrap_or_else(PoisonError::into_inner).entry(broker).or_default() += 1;
        }
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }

    fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    fn p99(&self) -> Duration {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_unstable();
        permille(&times, 990)
    }

    /// Tells the figures, and holds what was let in to `rate` a second within so many percent; in a short run twice as many, since a
    /// machine that stands still for a tenth of a second shows there.
    #[track_caller]
    fn assert_rate(&self, what: &str, rate: u64, seconds: u64, percent: u64) {
        let (admitted, wanted) = (self.admitted(), rate * seconds);
        eprintln!(
            "{what}: {admitted} in {seconds} s, {wanted} wanted ({:+.1} %), by broker {:?}, p99 {:.1} ms",
            off_by(admitted, wanted),
            self.by_broker.lock().unwrap_or_else(PoisonError::into_inner),
            self.p99().as_secs_f64() * 1e3
        );
        let percent = if seconds < 30 { 2 * percent } else { percent };
        assert!(admitted.abs_diff(wanted) * 100 <= wanted * percent, "{what}: {admitted}, and not {wanted}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test")]
fn off_by(of: u64, wanted: u64) -> f64 {
    of as f64 * 100.0 / wanted as f64 - 100.0
}

/// The first seconds use up the burst.
const WARM_UP: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_share_one_rate_however_the_load_is_spread() {
    let seconds = knob("HEARTH_TEST_SECONDS", 6);
    let brokers = Brokers::start(3, "requests_per_second = 300, burst = 300").await;
    for (what, rates) in [("500/200/50", [500, 200, 50]), ("750/0/0", [750, 0, 0]), ("120/90/90", [120, 90, 90])] {
        brokers.offer(&rates, WARM_UP).await;
        brokers.offer(&rates, Duration::from_secs(seconds)).await.assert_rate(what, 300, seconds, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_keeps_to_its_part_and_nobody_waits_and_with_it_they_share_again() {
    let seconds = knob("HEARTH_TEST_SECONDS", 6);
    let brokers = Brokers::start(3, "requests_per_second = 300, burst = 300").await;
    let (rates, time) = ([400, 200, 150], Duration::from_secs(seconds));
    brokers.offer(&rates, WARM_UP).await;
    let before = brokers.offer(&rates, time).await;
    before.assert_rate("with Redis", 300, seconds, 5);
    let pid = brokers.redis_pid().await;
    signal(pid, "STOP");
    let during = brokers.offer(&rates, time).await;
    signal(pid, "CONT");
    during.assert_rate("Redis hangs", 300, seconds, 10);
    // Whoever waited for Redis would have waited until it was given up.
    let most = before.p99() * 2 + Duration::from_millis(40);
    assert!(during.p99() < most, "{:?}, and {:?} before", during.p99(), before.p99());
    let shared = async || brokers.all[0].metric("hearth_fleet_reachable").await > 0.5;
    eventually("limits are shared again", shared).await;
    brokers.offer(&rates, Duration::from_secs(2)).await;
    brokers.offer(&rates, time).await.assert_rate("Redis is back", 300, seconds, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_dies_and_comes_back_empty_is_shared_again() {
    let mut brokers = Brokers::start(2, "requests_per_second = 200, burst = 200").await;
    let (rates, time) = ([200, 200], Duration::from_secs(3));
    brokers.offer(&rates, WARM_UP).await;
    brokers.ground.redis.halt().await;
    brokers.offer(&rates, time).await.assert_rate("Redis is dead", 200, 3, 10);
    brokers.ground.redis.restart(&brokers.ground.scratch).await.expect("starts");
    eventually("limits are shared again", async || brokers.all[0].metric("hearth_fleet_reachable").await > 0.5).await;
    // It has forgotten that the burst was used.
    brokers.offer(&rates, WARM_UP).await;
    brokers.offer(&rates, time).await.assert_rate("Redis is new", 200, 3, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_will_do() {
    let ground = Ground::start(&[]).await;
    let cluster = RedisCluster::start(&ground.scratch).await;
    let limits = "requests_per_second = 200, requests_per_minute = 60000, in_flight = 1000, requests_per_day = 1000000";
    let brokers = Brokers::over(ground, &cluster.config(), 2, limits).await;
    let rates = [300, 100];
    brokers.offer(&rates, WARM_UP).await;
    brokers.offer(&rates, Duration::from_secs(3)).await.assert_rate("a cluster", 200, 3, 8);
    assert!(brokers.all[0].metric("hearth_fleet_reachable").await > 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_changed_left_and_joined_by_reloads() {
    let limits = "requests_per_second = 300, burst = 300, requests_per_day = 100000";
    let brokers = Brokers::start(2, limits).await;
    let edit = async |broker: usize, old: &str, new: &str| {
        let text = std::fs::read_to_string(brokers.all[broker].config()).expect("is there");
        assert!(text.contains(old), "`{old}` is not in {text}");
        std::fs::write(brokers.all[broker].config(), text.replacen(old, new, 1)).expect("writes");
        let told = brokers.all[broker].admin("/admin/v1/reload").await;
        assert_eq!(told.status, 200, "{}", told.text);
    };
    let rates = [150, 250];
    brokers.offer(&rates, WARM_UP).await.admitted();
    for broker in [0, 1] {
        edit(broker, "requests_per_second = 300, burst = 300", "requests_per_second = 100, burst = 50").await;
    }
    // The burst, and as much on credit after the pause, as decision 0017 has it.
    brokers.offer(&rates, Duration::from_secs(4)).await.assert_rate("under a new limit", 100, 4, 17);
    brokers.offer(&rates, Duration::from_secs(4)).await.assert_rate("and then", 100, 4, 6);
    let told = brokers.http.get(format!("{}/v1/whoami", brokers.all[0].url)).bearer_auth(&brokers.key.token);
    let told = Answer::read(told.send().await.expect("is answered")).await;
    let left = told.body["policies"]["requests-per-day"]["remaining"].as_u64().expect("is told");
    assert!(left < 100_000 - 1_500, "the day goes on: {left}");
    edit(0, "cache = \"fleet\"\n", "").await;
    eventually("the other knows that it has left", async || {
        (brokers.all[1].metric("hearth_fleet_brokers").await - 1.0).abs() < 0.5
    })
    .await;
    let alone = brokers.offer(&rates, Duration::from_secs(4)).await;
    assert!((750..=960).contains(&alone.admitted()), "each has the limit for itself: {}", alone.admitted());
    edit(0, "[fleet]\n", "[fleet]\ncache = \"fleet\"\n").await;
    eventually("they know of each other again", async || brokers.know(2).await).await;
    brokers.offer(&rates, WARM_UP).await;
    brokers.offer(&rates, Duration::from_secs(4)).await.assert_rate("together again", 100, 4, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_a_broker_that_is_killed_goes_to_the_others() {
    let mut brokers = Brokers::start(3, "requests_per_second = 300, burst = 300").await;
    brokers.offer(&[300, 300, 300], WARM_UP).await;
    brokers.all[2].kill().await;
    // Tokens are nobody's before they are leased, so that nothing is lost but its lease.
    brokers.offer(&[300, 300], Duration::from_secs(4)).await.assert_rate("two of three", 300, 4, 6);
    eventually("it counts no more", async || {
        let known = [0, 1].map(|broker| brokers.all[broker].metric("hearth_fleet_brokers"));
        join_all(known).await.iter().all(|known| (known - 2.0).abs() < 0.5)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_share_what_may_be_in_flight_and_inherit_it() {
    let mut brokers = Brokers::start(2, "in_flight = 12").await;
    let witness = brokers.ground.witness().await;
    let running = async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
        witness.query_one(count, &[]).await.expect("the owner may ask").get::<_, i64>(0)
    };
    let fill = async |brokers: &Brokers, broker: usize, seconds: f64| {
        // More than there is room for, again and again: what is refused wants in too.
        let sql = format!("SELECT pg_sleep({seconds})");
        let asked = (0..16).map(async |index: u64| {
            sleep(Duration::from_millis(index * 40)).await;
            brokers.sql(broker, &sql).await.status
        });
        let told = join_all(asked).await;
        assert!(told.iter().all(|status| [200, 429].contains(status)), "{told:?}");
        told.iter().filter(|status| **status == 200).count()
    };
    // One alone may have all of it.
    fill(&brokers, 0, 0.1).await;
    let (alone, most) = tokio::join!(fill(&brokers, 0, 1.5), async {
        sleep(Duration::from_secs(1)).await;
        running().await
    });
    assert!(alone >= 12 && (10..=12).contains(&most), "the whole limit, and no more: {alone} and {most}");
    // Both at once have it together.
    let both = async {
        let mut most = 0;
        for _ in 0..40 {
            most = most.max(running().await);
            sleep(Duration::from_millis(50)).await;
        }
        most
    };
    for _ in 0..3 {
        tokio::join!(fill(&brokers, 0, 0.2), fill(&brokers, 1, 0.2));
    }
    let (one, two, most) = tokio::join!(fill(&brokers, 0, 1.2), fill(&brokers, 1, 1.2), both);
    println!("{one} and {two} of 12 ran, at most {most} at once");
    assert!(most <= 12, "{most} ran at once");
    assert!(one >= 3 && two >= 3, "neither is left with nothing: {one} and {two}");
    // What one held when it died is the other's within the time to live of a share.
    let held = fill(&brokers, 1, 3.0);
    let kill = async {
        sleep(Duration::from_millis(900)).await;
    };
    tokio::select! { _ = held => {}, () = kill => {} }
    brokers.all[1].kill().await;
    eventually("the other has all", async || fill(&brokers, 0, 0.7).await >= 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_at_rest_costs_redis_nothing() {
    let brokers = Brokers::start(2, "requests_per_second = 100, in_flight = 10, requests_per_day = 1000").await;
    for _ in 0..20 {
        assert_eq!(brokers.ask(0).await.status, 400);
    }
    let active = async || {
        let of = [0, 1].map(|broker| brokers.all[broker].metric("hearth_fleet_active_limits"));
        join_all(of).await.iter().sum::<f64>()
    };
    eventually("it is awake", async || active().await > 0.5).await;
    eventually("it rests", async || active().await < 0.5).await;
    let before = brokers.scripts().await;
    sleep(Duration::from_secs(3)).await;
    let scripts = brokers.scripts().await - before;
    assert!((2..=10).contains(&scripts), "{scripts} in three seconds, and two brokers' heartbeats are six");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_used_up_by_all_together() {
    let brokers = Brokers::start(2, "requests_per_day = 40").await;
    for _ in 0..30 {
        assert_eq!(brokers.ask(0).await.status, 400);
    }
    // The first request wakes the count, which is heard a moment later.
    let mut admitted = 30 + u64::from(brokers.ask(1).await.status == 400);
    eventually("the second hears of it", async || {
        let asked = brokers.http.get(format!("{}/v1/whoami", brokers.all[1].url)).bearer_auth(&brokers.key.token);
        let told = Answer::read(asked.send().await.expect("is answered")).await;
        told.body["policies"]["requests-per-day"]["remaining"] == 9
    })
    .await;
    for _ in 0..30 {
        admitted += u64::from(brokers.ask(1).await.status == 400);
    }
    assert_eq!(admitted, 40);
    eventually("the first hears of it", async || brokers.ask(0).await.code() == "quota_exhausted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_starts_without_redis_serves_its_part_at_once() {
    let ground = Ground::start(&[]).await;
    let (key, limits) = (Key::new(), "requests_per_second = 20, burst = 40, in_flight = 8");
    let told = redis_cli(ground.redis.port, &ground.redis.password, &["INFO", "server"]).await;
    let pid = told
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"))
        .expect("is told")
        .trim()
        .parse()
        .expect("a number");
    signal(pid, "STOP");
    let config = config(&ground, &own_cache(&ground), &key, limits);
    let broker = Served::start(&ground, "one", &config).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let brokers = Brokers { ground, all: vec![broker], key, http };
    let first = Instant::now();
    assert_eq!(brokers.sql(0, "SELECT 1").await.status, 200);
    assert!(first.elapsed() < Duration::from_secs(2), "{:?}", first.elapsed());
    let seen = brokers.offer(&[200], Duration::from_secs(3)).await;
    signal(pid, "CONT");
    // One of two brokers, as configured: half of the burst, and half of three seconds.
    let admitted = seen.admitted();
    assert!((40..=53).contains(&admitted), "{admitted} were let in");
}
