//! The audit log: who did what, with what outcome, and no value.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use hearth_broker::query::fingerprint::fingerprint;
use hearth_tests::{Options, Stack, eventually};
use serde_json::{Value, json};

struct Log(PathBuf);

impl Log {
    /// A place for it, in a folder of its own.
    fn new() -> Self {
        let name = format!("hearth-audit-{}-{}.log", std::process::id(), hearth_broker::cli::key::NewKey::random().id);
        Self(std::env::temp_dir().join(name))
    }

    fn config(&self) -> String {
        format!("[log]\naudit = \"{}\"\n", self.0.display())
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// The line of a request, once it is there.
    async fn of(&self, id: &str) -> Value {
        let find = || self.lines().into_iter().find(|line| line["request_id"] == id);
        eventually("the line is written", async || find().is_some()).await;
        find().expect("is there")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Not there where nothing was told.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn hex(sql: &str) -> String {
    format!("{:016x}", fingerprint(sql))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_leaves_who_what_and_with_what_outcome() {
    let log = Log::new();
    let named = "[databases.app.statements.get_user]\nsql = \"SELECT $1::text\"\nparams = [\"id\"]\nread_only = true\n";
    let stack = Stack::with(Options { more: log.config() + named, ..Options::default() }).await;
    stack.ok("CREATE TABLE t (id int)").await;
    let id = stack.key.split_once('.').expect("two halves").0;
    let send = async |path: &str, body: Value, request: &str| {
        stack.send(stack.request(path, &stack.key).header("x-request-id", request).body(body.to_string())).await
    };
    send(
        "/v1/db/app/query",
        json!({"sql": "SELECT 'planted-literal', g FROM generate_series(1, $1::int) g", "params": [3]}),
        "r-query",
    )
    .await;
    let line = log.of("r-query").await;
    assert_eq!(line["statements"], json!([hex("select 'other', g from generate_series(7, $1::int) g")]));
    assert_eq!((&line["tenant"], &line["identity"], &line["via"]), (&json!("acme"), &json!(id), &json!("key")));
    assert_eq!((&line["action"], &line["backend"], &line["outcome"]), (&json!("query"), &json!("app"), &json!("ok")));
    assert_eq!((&line["rows"], &line["address"]), (&json!(3), &json!("127.0.0.1")));
    assert!(
        line["duration_us"].as_u64().is_some_and(|us| us > 0)
            && line["time"].as_str().is_some_and(|t| t.starts_with("20"))
    );

    send("/v1/db/app/query", json!({"sql": "SELECT * FROM nothing"}), "r-bad").await;
    assert_eq!(log.of("r-bad").await["outcome"], "statement_failed");
    let two = json!({"statements": [{"sql": "INSERT INTO t VALUES (1), (2)"}, {"sql": "SELECT id FROM t"}]});
    send("/v1/db/app/batch", two, "r-batch").await;
    let line = log.of("r-batch").await;
    assert_eq!((&line["action"], &line["rows"]), (&json!("batch"), &json!(4)));
    assert_eq!(line["statements"], json!([hex("INSERT INTO t VALUES (8), (9)"), hex("SELECT id FROM t")]));
    send("/v1/db/app/statements/get_user", json!({"params": ["planted-param"]}), "r-named").await;
    let line = log.of("r-named").await;
    assert_eq!((&line["action"], &line["named"], &line["rows"]), (&json!("statement"), &json!("get_user"), &json!(1)));
    let copy = stack.request(&stack.copy_path("COPY t FROM STDIN"), &stack.key).header("x-request-id", "r-copy");
    stack.send(copy.body("7\n8\n9\n")).await;
    let line = log.of("r-copy").await;
    assert_eq!((&line["action"], &line["rows"]), (&json!("copy_in"), &json!(3)));
    let out = stack.get(&stack.copy_path("COPY t TO STDOUT")).bearer_auth(&stack.key).header("x-request-id", "r-out");
    stack.send(out).await;
    assert_eq!(log.of("r-out").await["action"], "copy_out");
    let stream = stack
        .request("/v1/db/app/query", &stack.key)
        .header("accept", "application/x-ndjson")
        .header("x-request-id", "r-late");
    stack.send(stream.body(json!({"sql": "SELECT 1 / (5000 - g) FROM generate_series(1, 5000) g"}).to_string())).await;
    assert_eq!(log.of("r-late").await["outcome"], "statement_failed", "told when the stream is over");

    send("/v1/redis/main", json!(["SET", "planted-key", "planted-value"]), "r-set").await;
    let line = log.of("r-set").await;
    assert_eq!(
        (&line["action"], &line["commands"], &line["backend"]),
        (&json!("redis"), &json!(["SET"]), &json!("main"))
    );
    send("/v1/redis/main/pipeline", json!([["get", "planted-key"], ["INCR", "planted-key"]]), "r-pipe").await;
    assert_eq!(log.of("r-pipe").await["commands"], json!(["GET", "INCR"]));
    send("/v1/redis/main/multi-exec", json!([["GET", "planted-key"]]), "r-multi").await;
    assert_eq!(log.of("r-multi").await["action"], "redis_transaction");
    let denied =
        stack.request("/v1/redis/main", &stack.reader).header("x-request-id", "r-denied").body("[\"GET\",\"k\"]");
    stack.send(denied).await;
    assert_eq!(log.of("r-denied").await["outcome"], "forbidden");
    let text = std::fs::read_to_string(&log.0).expect("is there");
    assert!(!text.contains("planted"), "{text}");
    let secret = stack.key.split_once('.').expect("two halves").1;
    assert!(!text.contains(secret) && !text.contains("hidden-password"));
    let mode = std::fs::metadata(&log.0).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for nobody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_and_who_was_not_let_in_are_told() {
    let log = Log::new();
    let more = log.config() + "[identity.breaker]\nfailures = 3\n";
    let stack = Stack::with(Options { more, ..Options::default() }).await;
    let slow = stack.request("/v1/db/app/query", &stack.key).header("x-request-id", "r-left");
    let slow = slow.body(json!({"sql": "SELECT pg_sleep(20)"}).to_string());
    let caller = tokio::spawn(slow.send());
    eventually("it runs", async || stack.sleeping().await == 1).await;
    caller.abort();
    assert_eq!(log.of("r-left").await["outcome"], "cancelled");
    let (id, secret) = stack.other.split_once('.').expect("two halves");
    for n in 0..6 {
        let ask =
            stack.get("/v1/whoami").bearer_auth(format!("{id}.planted-guess")).header("x-request-id", format!("r-{n}"));
        stack.send(ask).await;
    }
    let line = log.of("r-2").await;
    assert_eq!(
        (&line["outcome"], &line["reason"], &line["claimed"]),
        (&json!("unauthenticated"), &json!("invalid"), &json!(id))
    );
    assert_eq!(line["tenant"], Value::Null, "nobody was proven to be anybody");
    let unknown = stack.get("/v1/whoami").bearer_auth("planted-id.planted-secret").header("x-request-id", "r-unknown");
    stack.send(unknown).await;
    assert_eq!(log.of("r-unknown").await["claimed"], Value::Null, "what is no id may be anything");
    let lines = log.lines();
    assert_eq!(lines.iter().filter(|line| line["outcome"] == "blocked").count(), 1, "once for each block");
    assert!(!lines.iter().any(|line| line["request_id"] == "r-4"), "what the block refuses is only counted");
    let text = std::fs::read_to_string(&log.0).expect("is there");
    assert!(!text.contains("planted") && !text.contains(secret), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_is_told_and_a_reload_by_its_changes() {
    let log = Log::new();
    let stack = Stack::with(Options { more: log.config(), ..Options::default() }).await;
    let post = async |path: &str, id: &str| {
        let request = reqwest::Client::new().post(format!("{}{path}", stack.admin_url)).header("x-request-id", id);
        stack.send(request).await
    };
    post("/admin/v1/databases/app/pause", "a-pause").await;
    post("/admin/v1/databases/none/resume", "a-none").await;
    post("/admin/v1/databases/app/resume", "a-resume").await;
    let line = log.of("a-pause").await;
    assert_eq!(
        (&line["action"], &line["path"], &line["outcome"]),
        (&json!("admin"), &json!("/admin/v1/databases/app/pause"), &json!("ok"))
    );
    assert_eq!(log.of("a-none").await["outcome"], "refused");
    let (id, _) = stack.other.split_once('.').expect("two halves");
    let text = std::fs::read_to_string(&stack.config).expect("is there");
    let (kept, rest) = text.split_once("[tenants.other]").expect("there is one");
    let rest = rest.split_once("[log]").expect("there is one").1;
    std::fs::write(&stack.config, format!("{kept}[log]{rest}")).expect("writes");
    post("/admin/v1/reload", "a-reload").await;
    assert_eq!(log.of("a-reload").await["path"], "/admin/v1/reload");
    let reload = || log.lines().into_iter().find(|line| line["action"] == "reload");
    eventually("the reload is told", async || reload().is_some()).await;
    let changes = reload().expect("is there")["changes"].to_string();
    assert!(changes.contains(&format!("-tenants.other.keys[{id}].sha256")), "{changes}");
    let reads = log.lines().iter().filter(|line| line["path"] == "/metrics").count();
    assert_eq!(reads, 0, "what they look at is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_moves_and_ends_with_a_reload() {
    let (log, moved) = (Log::new(), Log::new());
    let stack = Stack::with(Options { more: log.config(), ..Options::default() }).await;
    stack.ok("SELECT 1").await;
    eventually("it is written", async || log.lines().len() == 1).await;
    // As logrotate does it: the file is moved, and a reload opens a new one.
    std::fs::rename(&log.0, &moved.0).expect("moves");
    assert_eq!(stack.reload().await.status, 200);
    stack.ok("SELECT 2").await;
    eventually("a new file has it", async || log.lines().iter().any(|line| line["action"] == "query")).await;
    assert!(!moved.lines().is_empty());
    stack.edit(&log.config(), "[log]\naudit = \"off\"\n");
    assert_eq!(stack.reload().await.status, 200);
    let queries = |log: &Log| log.lines().iter().filter(|line| line["action"] == "query").count();
    let before = queries(&log);
    stack.ok("SELECT 3").await;
    // Whatever was on its way is written before the next one.
    stack.edit("[log]\naudit = \"off\"\n", &log.config());
    assert_eq!(stack.reload().await.status, 200);
    stack.ok("SELECT 4").await;
    eventually("the next is written", async || queries(&log) > before).await;
    assert_eq!(queries(&log), before + 1, "the third was told to nobody");
    stack.edit(&log.config(), "[log]\naudit = \"/nowhere/at/all/audit.log\"\n");
    let told = stack.reload().await;
    assert_eq!((told.status, &told.body["faults"][0]["path"]), (400, &json!("log.audit")), "{}", told.text);
}
