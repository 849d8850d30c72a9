//! One caller: a mix of requests, each with a nonce that its answer must carry.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_tests::{Answer, Key, Seeded};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::ledger::Ledger;

/// What a request may take. Unit: milliseconds.
const DEADLINE_MS: u64 = 1_500;
/// An answer that has not come by then will not come: the broker hangs.
const HANGS: Duration = Duration::from_secs(30);
/// Rows of a stream.
const ROWS: u64 = 60;

/// A caller of one tenant.
pub struct Caller {
    tenant: &'static str,
    token: String,
    url: String,
    http: reqwest::Client,
    chance: Seeded,
    number: u64,
    calls: u64,
    /// What its key in Redis may hold: the last value acknowledged, and those sent since whose fate is not known.
    kept: Vec<String>,
}

impl Caller {
    /// The `number`th, its chance drawn from `seed`.
    pub fn new(tenant: &'static str, key: &Key, url: &str, seed: u64, number: u64) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let chance = Seeded::new(seed * 1_000 + number);
        let (token, url) = (key.token.clone(), url.to_owned());
        Self { tenant, token, url, http, chance, number, calls: 0, kept: Vec::new() }
    }

    /// Calls until told otherwise.
    pub async fn call_until(mut self, done: &AtomicBool, ledger: &Ledger) {
        while !done.load(Ordering::Acquire) {
            self.calls += 1;
            let nonce = format!("{}-{}-{}", self.tenant, self.number, self.calls);
            let went_well = match self.chance.below(100) {
                0..50 => self.read(&nonce, ledger).await,
                50..64 => self.write(&nonce, ledger).await,
                64..72 => self.batch(&nonce, ledger).await,
                72..78 => self.stream(&nonce, ledger).await,
                78..82 => self.slow(&nonce, ledger).await,
                82..86 => self.setting(&nonce, ledger).await,
                86..93 => self.set(&nonce, ledger).await,
                _ => self.get(ledger).await,
            };
            if !went_well {
                // As a client does it: not again at once.
                sleep(Duration::from_millis(1 + self.chance.below(20))).await;
            }
        }
    }

    async fn send(&self, path: &str, body: &Value, accept: Option<&str>) -> Option<Answer> {
        let mut request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token);
        request = request.header("hearth-timeout-ms", DEADLINE_MS).body(body.to_string());
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let answer = async { Answer::whole(request.send().await.ok()?).await };
        timeout(HANGS, answer).await.expect("the broker hangs")
    }

    async fn query(&self, body: Value, ledger: &Ledger) -> Option<Answer> {
        let answer = self.send(&format!("/v1/db/{}/query", self.tenant), &body, None).await;
        ledger.answered("query", answer)
    }

    /// A short read by key: on a lane, when there is one.
    async fn read(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let id = self.chance.below(1000) + 1;
        let read_only = self.chance.below(8) == 0;
        let sql = format!("SELECT $1::text AS nonce, name FROM rows_{} WHERE id = $2", self.tenant);
        let body = json!({"sql": sql, "params": [nonce, id], "read_only": read_only});
        let Some(answer) = self.query(body, ledger).await else { return false };
        let mine = json!([{"nonce": nonce, "name": format!("{} row {id}", self.tenant)}]);
        ledger.expect(answer.body["rows"] == mine, nonce, &answer)
    }

    async fn write(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let sql = format!("INSERT INTO ledger_{} VALUES ($1) RETURNING nonce", self.tenant);
        ledger.wrote(nonce, 1);
        let body = json!({"sql": sql, "params": [nonce]});
        let answer = self.send(&format!("/v1/db/{}/query", self.tenant), &body, None).await;
        ledger.settled(nonce, answer.as_ref());
        let Some(answer) = ledger.answered("write", answer) else { return false };
        ledger.expect(answer.first() == nonce, nonce, &answer)
    }

    /// Two writes and a read between them, all or nothing.
    async fn batch(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let insert = json!({"sql": format!("INSERT INTO ledger_{} VALUES ($1)", self.tenant), "params": [nonce]});
        let read =
            format!("SELECT $1::text AS nonce, count(*)::int4 AS n FROM ledger_{} WHERE nonce = $1", self.tenant);
        let body = json!({"statements": [insert, {"sql": read, "params": [nonce]}, insert]});
        ledger.wrote(nonce, 2);
        let answer = self.send(&format!("/v1/db/{}/batch", self.tenant), &body, None).await;
        ledger.settled(nonce, answer.as_ref());
        let Some(answer) = ledger.answered("batch", answer) else { return false };
        let mine = answer.body["results"][1]["rows"] == json!([{"nonce": nonce, "n": 1}]);
        ledger.expect(mine, nonce, &answer)
    }

    /// Every line is its own, and one that is cut does not look whole.
    async fn stream(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let sql = "SELECT $1::text AS nonce, g AS n, repeat('x', 300) AS x FROM generate_series(1, $2::int4) g";
        let body = json!({"sql": sql, "params": [nonce, ROWS]});
        let answer = self.send(&format!("/v1/db/{}/query", self.tenant), &body, Some("application/x-ndjson")).await;
        let Some(answer) = ledger.answered("stream", answer) else { return false };
        let lines: Vec<Value> = answer.text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let rows: Vec<&Value> = lines.iter().filter(|line| line.get("n").is_some()).collect();
        let mine = rows.iter().zip(1_u64..).all(|(row, n)| row["nonce"] == nonce && row["n"] == n);
        let whole = lines.last().is_some_and(|line| line["row_count"] == ROWS);
        if !ledger.expect(mine && (!whole || rows.len() as u64 == ROWS), nonce, &answer) {
            return false;
        }
        if !whole {
            ledger.broke_off(lines.last());
        }
        whole
    }

    /// Longer than a lane's budget, and long enough to be hit.
    async fn slow(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let body = json!({"sql": "SELECT $1::text AS nonce, pg_sleep(0.06)::text AS s", "params": [nonce]});
        let Some(answer) = self.query(body, ledger).await else { return false };
        ledger.expect(answer.body["rows"][0]["nonce"] == nonce, nonce, &answer)
    }

    /// A setting of its own, gone with its request; and one that is not gone by itself.
    async fn setting(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let look = "SELECT $1::text AS nonce, coalesce(current_setting('app.own', true), '') AS own, \
            coalesce(current_setting('app.left', true), '') AS left";
        let leave = format!("{look}, set_config('app.left', $1, false) AS leaves");
        let (sql, settings) = match self.chance.below(3) {
            0 => (look, json!({"app.own": nonce})),
            1 => (leave.as_str(), json!(null)),
            _ => (look, json!(null)),
        };
        let own = if settings.is_null() { "" } else { nonce };
        let mut body = json!({"sql": sql, "params": [nonce]});
        if !settings.is_null() {
            body["settings"] = settings.clone();
        }
        let Some(answer) = self.query(body, ledger).await else { return false };
        let row = &answer.body["rows"][0];
        ledger.expect(row["nonce"] == nonce && row["own"] == own && row["left"] == "", nonce, &answer)
    }

    async fn set(&mut self, nonce: &str, ledger: &Ledger) -> bool {
        let command = json!(["SET", self.key(), nonce]);
        let answer = self.send("/v1/redis/main", &command, None).await;
        self.kept.push(nonce.to_owned());
        let Some(answer) = ledger.answered("redis", answer) else { return false };
        self.kept = vec![nonce.to_owned()];
        ledger.expect(answer.body["result"] == "OK", nonce, &answer)
    }

    /// Its own value, or none after a restart of a server that keeps nothing.
    async fn get(&mut self, ledger: &Ledger) -> bool {
        let answer = self.send("/v1/redis/main", &json!(["GET", self.key()]), None).await;
        let Some(answer) = ledger.answered("redis", answer) else { return false };
        let value = &answer.body["result"];
        let mine = value.is_null() || value.as_str().is_some_and(|value| self.kept.iter().any(|kept| kept == value));
        ledger.expect(mine, &self.key(), &answer)
    }

    fn key(&self) -> String {
        format!("{}:{}", self.tenant, self.number)
    }
}
