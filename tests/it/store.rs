//! Tenants and keys in a control database: made by commands and by the admin interface, in force in every broker at once, and
//! nobody else notices.

mod admin;
mod away;
mod commands;
mod many;
mod rotation;
mod rows;
mod tokens;
mod uses;

use std::time::Duration;

use hearth_tests::{Answer, Ground, Hearth, Key, Served};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

/// A change is in force within a second; the rest is for a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(4);

/// Servers, a control database with its schema, and a configuration that names it.
struct World {
    ground: Ground,
    /// A key of the file's tenant `filed`.
    filed: Key,
    http: reqwest::Client,
}

/// What a command has said.
struct Said {
    ok: bool,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        assert!(self.ok, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.out))
    }

    #[track_caller]
    fn fails(&self, told: &str) {
        assert!(!self.ok && self.err.contains(told), "`{told}` is not in: {}{}", self.out, self.err);
    }

    #[track_caller]
    fn says(&self, told: &str) {
        assert!(self.ok && self.out.contains(told), "`{told}` is not in: {}{}", self.out, self.err);
    }
}

impl World {
    /// Without a schema yet.
    async fn bare() -> Self {
        let ground = Ground::start(&[]).await;
        let owner = ground.postgres.admin("postgres").await.expect("connects");
        owner.batch_execute("CREATE ROLE control LOGIN PASSWORD 'control-password'").await.expect("makes the role");
        owner.batch_execute("CREATE DATABASE control OWNER control").await.expect("makes the database");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { ground, filed: Key::new(), http }
    }

    async fn new() -> Self {
        let world = Self::bare().await;
        world.cli(&["migrate"]).await.says("1 tenants: applied");
        world
    }

    fn url(&self) -> String {
        format!("postgres://control:control-password@localhost:{}/control?sslmode=disable", self.ground.postgres.port)
    }

    /// The configuration but for `[server]`; `more` stands at its end.
    fn config(&self, more: &str) -> String {
        let (port, redis) = (self.ground.postgres.port, &self.ground.redis);
        format!(
            "[control]\nurl = \"postgres://control@localhost:{port}/control?sslmode=disable\"\npassword = \"control-password\"\n\
             [databases.app]\nurl = \"postgres://app@localhost:{port}/app?sslmode=disable\"\npassword = \"hidden-password\"\n\
             pool = {{ min = 1, max = 4 }}\n[databases.app.statements.one]\nsql = \"SELECT 1 AS n\"\n\
             [caches.main]\nurl = \"redis://127.0.0.1:{}\"\npassword = \"{}\"\n\
             [tenants.filed]\ndatabases = [\"app\"]\nkeys = [{}]\n{more}",
            redis.port, redis.password, self.filed.entry
        )
    }

    async fn broker(&self, name: &str) -> Served {
        Served::start(&self.ground, name, &self.config("")).await
    }

    /// A broker whose role in the control database may only read its schema: `reader`.
    async fn reading_broker(&self) -> Served {
        let owner = self.ground.postgres.admin("control").await.expect("connects");
        let grants = "CREATE ROLE reader LOGIN PASSWORD 'reader-password'; GRANT USAGE ON SCHEMA hearth TO reader; \
                      GRANT SELECT ON ALL TABLES IN SCHEMA hearth TO reader";
        owner.batch_execute(grants).await.expect("grants");
        let config = self.config("").replacen("control@", "reader@", 1);
        Served::start(&self.ground, "reading", &config.replacen("control-password", "reader-password", 1)).await
    }

    /// Runs a command against the control database.
    async fn cli(&self, args: &[&str]) -> Said {
        self.run(args, &[("HEARTH_CONTROL_URL", self.url())]).await
    }

    async fn run(&self, args: &[&str], env: &[(&str, String)]) -> Said {
        let mut command = tokio::process::Command::new(Hearth::binary());
        command.args(args).envs(env.iter().map(|(name, value)| (*name, value.as_str())));
        let output = command.current_dir(self.ground.scratch.path()).kill_on_drop(true).output().await.expect("runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("is text");
        Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Makes a tenant that may use the database, with a key.
    async fn tenant(&self, name: &str) -> String {
        self.cli(&["tenant", "create", name, "--database", "app"]).await.says("made");
        self.key(name).await
    }

    async fn key(&self, tenant: &str) -> String {
        let made = self.cli(&["key", "create", tenant, "--json"]).await.json();
        made["key"].as_str().expect("is text").to_owned()
    }

    /// A connection as the role of the control database.
    async fn sql(&self) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.expect("the role signs in");
        tokio::spawn(connection);
        client
    }

    async fn query(&self, broker: &Served, key: &str) -> Answer {
        let body = json!({"sql": "SELECT 1 AS n"}).to_string();
        self.send(self.http.post(format!("{}/v1/db/app/query", broker.url)).bearer_auth(key).body(body)).await
    }

    async fn whoami(&self, broker: &Served, key: &str) -> Answer {
        self.send(self.http.get(format!("{}/v1/whoami", broker.url)).bearer_auth(key)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.expect("is answered")).await
    }

    /// Asks the admin interface.
    async fn admin(&self, broker: &Served, method: &str, path: &str, body: Option<Value>) -> Answer {
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, format!("{}/admin/v1{path}", broker.admin_url));
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        self.send(request).await
    }
}

/// Waits until a key has this answer, and tells how long that took.
#[track_caller]
fn soon<'w>(world: &'w World, broker: &'w Served, key: &'w str, status: u16) -> impl Future<Output = Duration> + 'w {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let answer = world.whoami(broker, key).await;
            if answer.status == status {
                return start.elapsed();
            }
            assert!(start.elapsed() < SOON, "{caller}: still {} and not {status}: {}", answer.status, answer.text);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A metric that counts, as the broker has it now.
async fn number(broker: &Served, name: &str) -> i64 {
    broker.metric(name).await.to_string().parse().expect("is whole")
}
