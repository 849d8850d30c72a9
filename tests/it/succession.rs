//! The primary dies while many write and read: what was acknowledged stays, and nobody reads anything older than its token.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hearth_tests::{Answer, Options, Seeded, Stack};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const QUERY: &str = "/v1/db/app/query";
const WRITERS: u64 = 6;
const READERS: u64 = 8;

/// What the writers were told.
#[derive(Default)]
struct Told {
    /// Acknowledged, each with its token.
    written: Mutex<Vec<(String, String)>>,
    not_applied: Mutex<Vec<String>>,
    unknown: AtomicU64,
    /// When the first write after the promotion was acknowledged.
    promoted: Mutex<Option<Instant>>,
    back: Mutex<Option<Duration>>,
    reads: AtomicU64,
    by_replica: AtomicU64,
    /// Reads whose token was of a history that nobody can vouch for.
    cut_off: AtomicU64,
    done: AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(stack: &Stack, body: &Value, token: Option<&str>) -> Answer {
    let mut request = stack.request(QUERY, &stack.key).header("hearth-timeout-ms", "1000").body(body.to_string());
    if let Some(token) = token {
        request = request.header("hearth-consistency", token);
    }
    stack.send(request).await
}

async fn write(stack: &Stack, told: &Told, writer: u64) {
    let mut number = 0;
    while !told.done.load(Ordering::Acquire) {
        number += 1;
        let nonce = format!("{writer}-{number}");
        let since = *held(&told.promoted);
        let answer = ask(stack, &json!({"sql": "INSERT INTO t VALUES ($1)", "params": [nonce]}), None).await;
        if answer.status == 200 {
            if let Some(promoted) = since {
                held(&told.back).get_or_insert(promoted.elapsed());
            }
            held(&told.written).push((nonce, answer.header("hearth-consistency").to_owned()));
            continue;
        }
        assert!([409, 502, 503, 504].contains(&answer.status), "{}", answer.text);
        if answer.body["outcome"] == "not_applied" {
            held(&told.not_applied).push(nonce);
        } else {
            told.unknown.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn read(stack: &Stack, told: &Told, reader: u64) {
    let mut chance = Seeded::new(reader);
    while !told.done.load(Ordering::Acquire) {
        let known = {
            let written = held(&told.written);
            // Mostly what was written just now, which is what a replica may not have.
            let recent = written.len().saturating_sub(if chance.below(4) == 0 { usize::MAX } else { 5 });
            chance.one_of(&written[recent..]).cloned()
        };
        let Some((nonce, token)) = known else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        let sql = "SELECT $1::text AS nonce, count(*)::int4 AS n FROM t WHERE nonce = $1";
        let answer = ask(stack, &json!({"sql": sql, "params": [nonce], "read_only": true}), Some(&token)).await;
        match answer.status {
            200 => {
                let rows = json!([{"nonce": nonce, "n": 1}]);
                assert_eq!(answer.body["rows"], rows, "older than {token}: {}", answer.text);
                told.reads.fetch_add(1, Ordering::Relaxed);
                told.by_replica.fetch_add(u64::from(answer.header("hearth-served-by") == "replica"), Ordering::Relaxed);
            }
            409 => _ = told.cut_off.fetch_add(1, Ordering::Relaxed),
            _ => {
                answer.assert_problem(answer.status, answer.code(), "not_applied");
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_under_load_costs_no_acknowledged_write_and_no_reader_its_token() {
    let stack = Stack::with(Options { replica: true, pool_max: 8, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (nonce text PRIMARY KEY)").await;
    let owner = stack.replica.as_ref().expect("there is one").witness().await;
    let told = Told::default();
    let primary = stack.postgres.pid();
    let story = async {
        sleep(Duration::from_millis(1500)).await;
        hearth_broker::cli::dev::machine::signal(primary, "KILL");
        sleep(Duration::from_millis(500)).await;
        stack.replica.as_ref().expect("there is one").promote().await;
        *held(&told.promoted) = Some(Instant::now());
        // Nobody confirms writes any more.
        owner.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("the owner may");
        owner.batch_execute("SELECT pg_reload_conf()").await.expect("the owner may");
        let promoted = Instant::now();
        while held(&told.back).is_none() {
            assert!(promoted.elapsed() < Duration::from_secs(20), "no write after the promotion");
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(1500)).await;
        told.done.store(true, Ordering::Release);
    };
    tokio::join!(
        join_all((0..WRITERS).map(|writer| write(&stack, &told, writer))),
        join_all((0..READERS).map(|reader| read(&stack, &told, reader))),
        story
    );
    let back = held(&told.back).expect("a write went well");
    println!(
        "{} writes acknowledged, {} refused, {} unknown; {} reads with tokens, {} of them by the replica, {} cut off; \
         writes again {} ms after the promotion",
        held(&told.written).len(),
        held(&told.not_applied).len(),
        told.unknown.load(Ordering::Relaxed),
        told.reads.load(Ordering::Relaxed),
        told.by_replica.load(Ordering::Relaxed),
        told.cut_off.load(Ordering::Relaxed),
        back.as_millis()
    );
    let there = owner.query("SELECT nonce FROM t", &[]).await.expect("the owner may ask");
    let there: BTreeSet<String> = there.iter().map(|row| row.get(0)).collect();
    for (nonce, _) in &*held(&told.written) {
        assert!(there.contains(nonce), "{nonce} was acknowledged");
    }
    for nonce in &*held(&told.not_applied) {
        assert!(!there.contains(nonce), "{nonce} was said not to be applied");
    }
    assert!(told.reads.load(Ordering::Relaxed) > 100 && told.by_replica.load(Ordering::Relaxed) > 0);
    // 3 s is what is promised; a machine that is busy with other things is given more.
    assert!(back < Duration::from_secs(10), "{back:?}");
}
