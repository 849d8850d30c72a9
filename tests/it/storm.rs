//! Three brokers, one server with few connections, and one of them dies under load.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hearth_tests::{Answer, Ground, Key, Served, eventually};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Of which three are for superusers alone.
const MAX_CONNECTIONS: i64 = 40;
const CALLERS: usize = 60;
/// Connects of one pool at once.
const GATE: u64 = 2;

fn number(pool: &serde_json::Value, name: &str) -> u64 {
    pool[name].as_u64().unwrap_or_else(|| panic!("{name} in {pool}"))
}

async fn limit(served: &Served) -> u64 {
    number(&served.pools().await[0], "limit")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_leaves_its_room_to_the_others_and_gets_it_back() {
    let ground =
        Ground::start(&[&format!("max_connections={MAX_CONNECTIONS}"), "superuser_reserved_connections=3"]).await;
    let witness = ground.witness().await;
    let key = Key::new();
    let config = format!(
        "[databases.app]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
         pool = {{ min = 1, max = 60 }}\n[tenants.acme]\ndatabases = [\"app\"]\nkeys = [{}]\n",
        ground.postgres.port, key.entry
    );
    let mut brokers = join_all(["one", "two", "three"].map(|name| Served::start(&ground, name, &config))).await;
    let mut victim = brokers.remove(0);
    let (done, most, at_once) = (AtomicBool::new(false), AtomicI64::new(0), AtomicU64::new(0));
    let served: [AtomicU64; 3] = Default::default();
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let body = json!({"sql": "SELECT pg_sleep(0.03)"}).to_string();
    let urls: Vec<String> = [&victim, &brokers[0], &brokers[1]].map(|broker| broker.url.clone()).into();
    let caller = |index: usize| {
        let (http, key, body, url, served, done) = (&http, &key, &body, &urls[index], &served[index], &done);
        async move {
            while !done.load(Ordering::Acquire) {
                let request = http.post(format!("{url}/v1/db/app/query")).bearer_auth(&key.token).body(body.clone());
                match request.send().await {
                    Ok(response) => {
                        let answer = Answer::whole(response).await;
                        let Some(answer) = answer else { continue };
                        assert!(answer.status == 200 || index == 0, "a survivor's caller: {}", answer.text);
                        served.fetch_add(u64::from(answer.status == 200), Ordering::AcqRel);
                    }
                    // The dead one answers nobody.
                    Err(error) => {
                        assert!(index == 0, "{error}");
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
    };
    let watch = async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        while !done.load(Ordering::Acquire) {
            let now: i64 = witness.query_one(count, &[]).await.expect("the owner has room").get(0);
            most.fetch_max(now, Ordering::AcqRel);
            for broker in &brokers {
                at_once.fetch_max(number(&broker.pools().await[0], "connecting"), Ordering::AcqRel);
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let story = async {
        eventually("all serve", async || served.iter().all(|count| count.load(Ordering::Acquire) > 50)).await;
        sleep(Duration::from_millis(1500)).await;
        let together = limit(&brokers[0]).await + limit(&brokers[1]).await;
        victim.kill().await;
        let killed = Instant::now();
        eventually("the survivors take over the room", async || {
            limit(&brokers[0]).await + limit(&brokers[1]).await > together + 4
        })
        .await;
        let apart = limit(&brokers[0]).await + limit(&brokers[1]).await;
        println!("the survivors' limits: {together}, then {apart} after {} ms", killed.elapsed().as_millis());
        sleep(Duration::from_millis(500)).await;
        let before = served[0].load(Ordering::Acquire);
        let back = Instant::now();
        victim.restart(&ground).await;
        eventually("it serves again", async || served[0].load(Ordering::Acquire) > before + 50).await;
        println!("50 answers of the one that came back, {} ms after its start", back.elapsed().as_millis());
        eventually("it has room again", async || limit(&victim).await >= 3).await;
        done.store(true, Ordering::Release);
    };
    let load = join_all((0..3 * CALLERS).map(|n| caller(n % 3)));
    tokio::join!(load, watch, story);
    let (most, at_once) = (most.load(Ordering::Acquire), at_once.load(Ordering::Acquire));
    println!(
        "at most {most} sessions of {MAX_CONNECTIONS}, the witness's own included; at most {at_once} connects of a pool at once; \
         served {:?}",
        served.each_ref().map(|count| count.load(Ordering::Acquire))
    );
    // What is kept for superusers was the witness's alone.
    assert!(most <= MAX_CONNECTIONS - 3 + 1, "{most} sessions");
    assert!(at_once <= GATE, "{at_once} at once");
    let log = ground.log();
    assert!(!log.contains("too many clients") && !log.contains("remaining connection slots"), "{log}");
}
