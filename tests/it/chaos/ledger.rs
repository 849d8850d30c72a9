//! What was asked and what was answered, and whether the database agrees.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_tests::Answer;
use serde_json::Value;
use tokio_postgres::Client;

/// What a caller was told of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It happened.
    Applied,
    /// It did not.
    NotApplied,
    /// Nobody knows; all or nothing all the same.
    Unknown,
}

/// Everything that was said.
#[derive(Default)]
pub struct Ledger {
    requests: AtomicU64,
    good: AtomicU64,
    not_retryable: AtomicU64,
    /// Failures by what was asked, code and outcome.
    failures: Mutex<BTreeMap<String, u64>>,
    strange: Mutex<Vec<String>>,
    /// Nonce → rows, and what was told of them.
    writes: Mutex<HashMap<String, (i64, Fate)>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Of which went well.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// Failures that the caller may not send again.
    pub fn not_retryable(&self) -> u64 {
        self.not_retryable.load(Ordering::Relaxed)
    }

    /// Answers that should never have been.
    pub fn strange(&self) -> Vec<String> {
        held(&self.strange).clone()
    }

    /// How it stands.
    pub fn line(&self) -> String {
        format!("{} requests, {} went well", self.requests(), self.good())
    }

    /// The failures, a line a kind.
    pub fn failures(&self) -> String {
        let lines: Vec<_> = held(&self.failures).iter().map(|(what, count)| format!("{count:>8} {what}")).collect();
        lines.join("\n")
    }

    /// Notes an answer; hands it on where it went well.
    pub fn answered(&self, what: &str, answer: Option<Answer>) -> Option<Answer> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(answer) = answer else {
            // The broker does not die here: it answers every request. A stream may be cut, and has no other way to say so.
            self.failed(what, "cut", "", what != "stream");
            if what != "stream" {
                held(&self.strange).push(format!("{what}: no answer"));
            }
            return None;
        };
        if answer.status == 200 {
            self.good.fetch_add(1, Ordering::Relaxed);
            return Some(answer);
        }
        let redis = what == "redis";
        let outcome = answer.body["outcome"].as_str().unwrap_or_default();
        let code = if redis { answer.status.to_string() } else { answer.code().to_owned() };
        self.failed(what, &code, outcome, !redis && answer.body["retryable"] != true);
        let expected = if redis { answer.body["error"].is_string() } else { !outcome.is_empty() };
        if !expected || answer.status < 429 && !redis && answer.status != 409 {
            held(&self.strange).push(format!("{what}: {} {}", answer.status, answer.text));
        }
        None
    }

    /// A stream that began well and ended in an error, or without a word.
    pub fn broke_off(&self, last: Option<&Value>) {
        let error = last.and_then(|line| line.get("error"));
        let text = |name: &str| error.and_then(|error| error[name].as_str()).unwrap_or("cut").to_owned();
        self.good.fetch_sub(1, Ordering::Relaxed);
        self.failed("stream, midway", &text("code"), &text("outcome"), error.is_some_and(|e| e["retryable"] != true));
    }

    fn failed(&self, what: &str, code: &str, outcome: &str, final_: bool) {
        let again = if final_ { "not retryable" } else { "retryable" };
        *held(&self.failures).entry(format!("{what}: {code} {outcome}, {again}")).or_default() += 1;
        self.not_retryable.fetch_add(u64::from(final_), Ordering::Relaxed);
    }

    /// What was answered must be the caller's own.
    pub fn expect(&self, is_own: bool, nonce: &str, answer: &Answer) -> bool {
        if !is_own {
            held(&self.strange).push(format!("{nonce}: {}", answer.text));
        }
        is_own
    }

    /// So many rows of this nonce are on their way.
    pub fn wrote(&self, nonce: &str, rows: i64) {
        held(&self.writes).insert(nonce.to_owned(), (rows, Fate::Unknown));
    }

    /// What was told of them.
    pub fn settled(&self, nonce: &str, answer: Option<&Answer>) {
        let fate = match answer {
            Some(answer) if answer.status == 200 => Fate::Applied,
            Some(answer) if answer.body["outcome"] == "not_applied" => Fate::NotApplied,
            Some(answer) if answer.body["outcome"] == "applied" => Fate::Applied,
            _ => Fate::Unknown,
        };
        if let Some(write) = held(&self.writes).get_mut(nonce) {
            write.1 = fate;
        }
    }

    /// The database has what was told to be there, once, and nothing else. Answers how many writes met which fate.
    pub async fn check(&self, witness: &Client, tenant: &str) -> String {
        let sql = format!("SELECT nonce, count(*) FROM ledger_{tenant} GROUP BY nonce");
        let rows = witness.query(&sql, &[]).await.expect("the owner may ask");
        let mut there: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let prefix = format!("{tenant}-");
        let mut told: BTreeMap<&str, u64> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (nonce, (rows, fate)) in held(&self.writes).iter().filter(|(nonce, _)| nonce.starts_with(&prefix)) {
            let found = there.remove(nonce).unwrap_or(0);
            let (name, fits) = match fate {
                Fate::Applied => ("applied", found == *rows),
                Fate::NotApplied => ("not applied", found == 0),
                Fate::Unknown if found == 0 => ("unknown, and not there", true),
                Fate::Unknown => ("unknown, and there", found == *rows),
            };
            *told.entry(name).or_default() += 1;
            if !fits {
                wrong.push(format!("{nonce}: {found} of {rows} rows, told {fate:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(there.is_empty(), "nobody wrote these: {there:?}");
        format!("writes of {tenant}: {told:?}")
    }
}
