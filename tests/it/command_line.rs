//! The binary as a person and a platform use it.

use std::path::Path;
use std::process::Command;

use hearth_broker::cli::dev::machine::signal;
use hearth_tests::{Answer, Hearth, eventually};
use serde_json::{Value, json};

/// Process ids that a line of `ps` ties to `hearth dev`'s folder.
fn folder_of(pid: u32) -> String {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let ids = std::fs::read_to_string(children).expect("Linux lists children");
    let cwd = ids.split_whitespace().find_map(|id| std::fs::read_link(format!("/proc/{id}/cwd")).ok());
    cwd.expect("a child runs in the folder").display().to_string()
}

fn pids(folder: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(Path::new(folder).join("pids")).expect("lists its servers");
    text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

fn is_alive(pid: u32) -> bool {
    // A process that has ended and was not waited for still has an entry, but no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn nothing_is_left(folder: &str, pids: &[u32], told: &Value) {
    eventually("the folder is removed", async || !Path::new(folder).exists()).await;
    eventually("the servers have ended", async || !pids.iter().any(|pid| is_alive(*pid))).await;
    for url in ["url", "admin_url"] {
        let address = told[url].as_str().expect("is text").trim_start_matches("http://");
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{url} still listens");
    }
}

async fn post(told: &Value, path: &str, key: &str, body: &Value) -> Answer {
    let url = format!("{}{path}", told["url"].as_str().expect("is text"));
    let key = told[key].as_str().expect("is text");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    Answer::read(http.post(url).bearer_auth(key).body(body.to_string()).send().await.expect("is answered")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_serves_a_demo_and_leaves_nothing_behind() {
    let mut hearth = Hearth::start(&["dev", "--json", "--port", "0"], &[]);
    let told = hearth.ready().await;
    let folder = folder_of(hearth.pid());
    let servers = pids(&folder);
    assert_eq!(servers.len(), 2);
    let users = post(&told, "/v1/db/app/query", "key", &json!({"sql": "SELECT name FROM users ORDER BY id"})).await;
    assert_eq!(users.first(), "Ada", "{}", users.text);
    assert_eq!(
        post(&told, "/v1/db/app/query", "key", &json!({"sql": "CREATE TABLE mine ()"})).await.status,
        200,
        "it owns its database"
    );
    assert_eq!(post(&told, "/v1/redis/main", "key", &json!(["PING"])).await.body["result"], "PONG");
    let mut last = 200;
    for _ in 0..8 {
        last = post(&told, "/v1/db/app/query", "limited_key", &json!({"sql": "SELECT 1"})).await.status;
    }
    assert_eq!(last, 429, "5 requests a second");
    let (client, connection) =
        tokio_postgres::connect(told["database_url"].as_str().expect("is text"), tokio_postgres::NoTls)
            .await
            .expect("connects");
    tokio::spawn(connection);
    assert_eq!(client.query("SELECT 1 FROM users", &[]).await.expect("reads").len(), 3);
    drop(client);
    hearth.signal("INT");
    let (status, errors) = hearth.ended().await;
    assert!(status.success(), "{status}: {errors}");
    nothing_is_left(&folder, &servers, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_cleans_up_after_a_killed_server_and_after_its_own_kill() {
    for victim in ["postgres", "redis", "hearth"] {
        let mut hearth = Hearth::start(&["dev", "--json", "--port", "0"], &[]);
        let told = hearth.ready().await;
        let folder = folder_of(hearth.pid());
        let servers = pids(&folder);
        let named = |name: &str| {
            let is = |pid: &&u32| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
            };
            *servers.iter().find(is).expect("is one of them")
        };
        let shared_memory = shared_memory_of(&folder);
        match victim {
            "hearth" => hearth.signal("KILL"),
            name => signal(named(name), "KILL"),
        }
        let (status, errors) = hearth.ended().await;
        assert!(!status.success(), "{victim}");
        if victim != "hearth" {
            assert!(errors.to_lowercase().contains(victim), "says who died: {errors}");
        }
        nothing_is_left(&folder, &servers, &told).await;
        let segments = std::fs::read_to_string("/proc/sysvipc/shm").expect("Linux lists segments");
        assert!(
            !segments.lines().any(|line| line.split_whitespace().nth(1) == Some(&shared_memory)),
            "{victim}: segment {shared_memory}"
        );
    }
}

/// The id of PostgreSQL's shared memory segment: the last word of line 7 of `postmaster.pid`.
fn shared_memory_of(folder: &str) -> String {
    let text = std::fs::read_to_string(Path::new(folder).join("postgres/postmaster.pid")).expect("the server runs");
    text.lines().nth(6).and_then(|line| line.split_whitespace().last()).expect("line 7").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_drains_on_sigterm() {
    let mut dev = Hearth::start(&["dev", "--json", "--port", "0"], &[]);
    let told = dev.ready().await;
    let created = run(&["key", "create", "--scopes", "sql:read,sql:write"]);
    let token = created.lines().find(|line| line.trim().starts_with("hk_")).expect("prints the key").trim().to_owned();
    let entry = created.lines().find(|line| line.trim().starts_with("{ id")).expect("prints the entry").trim();
    let (rest, name) = told["database_url"].as_str().expect("is text").rsplit_once('/').expect("has a name");
    let (credentials, address) = rest.trim_start_matches("postgres://").split_once('@').expect("has credentials");
    let password = credentials.split_once(':').expect("has a password").1;
    let port = hearth_broker::cli::dev::machine::free_port().expect("a port");
    let folder = folder_of(dev.pid());
    let file = Path::new(&folder).join("hearth.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:0\"\n[databases.app]\nurl = \"postgres://app@{address}/{name}\"\n\
         password = {{ env = \"APP_PASSWORD\" }}\n[tenants.acme]\ndatabases = [\"app\"]\nkeys = [{entry}]\n"
    );
    std::fs::write(&file, text).expect("writes");
    let config = file.display().to_string();
    let env = [("APP_PASSWORD", password.to_owned()), ("HEARTH__SERVER__LISTEN", format!("127.0.0.1:{port}"))];
    let broker = Hearth::start(&["serve", "--config", &config], &env);
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://127.0.0.1:{port}");
    eventually("it is ready", async || http.get(format!("{url}/readyz")).send().await.is_ok_and(|r| r.status() == 200))
        .await;
    let query = |sql: &str| {
        http.post(format!("{url}/v1/db/app/query")).bearer_auth(&token).body(json!({"sql": sql}).to_string()).send()
    };
    let slow = tokio::spawn(query("SELECT 'finished' AS s FROM pg_sleep(1.5)"));
    eventually("it runs", async || {
        let answer = Answer::read(query("SELECT count(*)::int4 AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1.5)%' AND pid <> pg_backend_pid()").await.expect("is answered")).await;
        answer.first().as_i64().is_some_and(|n| n > 0)
    })
    .await;
    broker.signal("TERM");
    eventually("new requests are refused", async || {
        let answer = Answer::read(query("SELECT 1").await.expect("is answered, not cut")).await;
        answer.status == 503 && answer.code() == "draining"
    })
    .await;
    assert_eq!(http.get(format!("{url}/readyz")).send().await.expect("is answered").status(), 503);
    assert_eq!(Answer::read(slow.await.expect("ends").expect("is answered")).await.first(), "finished");
    let (status, errors) = broker.ended().await;
    assert!(status.success(), "{errors}");
    assert!(!errors.contains(&token) && !errors.contains(password), "no secret in the log: {errors}");
    dev.signal("TERM");
    assert!(dev.ended().await.0.success());
}

fn run(args: &[&str]) -> String {
    let output = Command::new(Hearth::binary()).args(args).output().expect("runs");
    String::from_utf8(output.stdout).expect("is text") + &String::from_utf8(output.stderr).expect("is text")
}

#[test]
fn check_tells_every_fault_with_its_path() {
    let folder = tempfile();
    let file = folder.join("hearth.toml");
    std::fs::write(
        &file,
        "[server]\nlisten = 5\n[databases.app]\nurl = \"mysql://x\"\n[tenants.a]\ndatabases = [\"b\"]\nkeyz = []\n",
    )
    .expect("writes");
    let told = run(&["check", "--config", &file.display().to_string()]);
    assert!(told.contains("server.listen") && told.contains("tenants.a.keyz"), "{told}");
    std::fs::write(&file, "[databases.app]\nurl = \"postgres://u@h/d\"\npassword = { env = \"NOT_SET_ANYWHERE\" }\n")
        .expect("writes");
    let told = run(&["check", "--config", &file.display().to_string()]);
    assert!(told.contains("databases.app.password") && told.contains("NOT_SET_ANYWHERE"), "{told}");
    std::fs::write(&file, "[databases.app]\nurl = \"postgres://u@h/d\"\n").expect("writes");
    assert!(run(&["check", "--config", &file.display().to_string()]).contains("is good"));
    std::fs::create_dir(folder.join("sql")).expect("makes a folder");
    std::fs::write(folder.join("sql/get_user.sql"), "-- params: id\nSELECT $1, $2\n").expect("writes");
    std::fs::write(&file, "[databases.app]\nurl = \"postgres://u@h/d\"\nstatements_dir = \"sql\"\n").expect("writes");
    let told = run(&["check", "--config", &file.display().to_string()]);
    assert!(told.contains("databases.app.statements.get_user.sql: has `$2`"), "beside the file: {told}");
    assert!(run(&["check", "--config", "/nowhere.toml"]).contains("/nowhere.toml"));
    std::fs::remove_dir_all(folder).expect("removes");
}

#[test]
fn the_shipped_example_configuration_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("is in the workspace");
    let file = root.join("infra/local/hearth.toml");
    let output = Command::new(Hearth::binary())
        .args(["check", "--config"])
        .arg(file)
        .env("APP_DB_PASSWORD", "x")
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn help_teaches() {
    for args in [&["--help"][..], &["serve", "--help"], &["dev", "--help"], &["key", "create", "--help"]] {
        assert!(run(args).len() > 300, "{args:?}");
    }
}

fn tempfile() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("hearth-check-{}", hearth_broker::cli::dev::machine::random_word()));
    std::fs::create_dir(&folder).expect("makes a folder");
    folder
}
