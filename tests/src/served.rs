//! A real `hearth serve`: memory, signals and a sudden death of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hearth_broker::cli::dev::machine::{free_port, signal};
use hearth_broker::cli::key::NewKey;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{Answer, Ground, Hearth, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker in a process of its own, gone with its [`Ground`] at the latest.
pub struct Served {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    http: reqwest::Client,
    /// Its address.
    pub url: String,
    /// Its admin address.
    pub admin_url: String,
}

impl Served {
    /// Starts `hearth serve` with this configuration, to which the `[server]` section is added; waits until it is ready.
    pub async fn start(ground: &Ground, name: &str, config: &str) -> Self {
        let ports = [(); 2].map(|()| free_port().expect("a port"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\n{config}",
            ports[0], ports[1]
        );
        let [config, log] = ["toml", "log"].map(|end| ground.scratch.path().join(format!("{name}.{end}")));
        std::fs::write(&config, text).expect("writes");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let (url, admin_url) = (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
        let child = spawn(ground, &config, &log);
        let served = Self { child, config, log, http, url, admin_url };
        served.ready().await;
        served
    }

    /// Starts it again after [`Served::kill`] or [`Served::stop`], on the same ports.
    pub async fn restart(&mut self, ground: &Ground) {
        self.child = spawn(ground, &self.config, &self.log);
        self.ready().await;
    }

    /// Ends it without a word.
    pub async fn kill(&mut self) {
        signal(self.pid(), "KILL");
        timeout(PATIENCE, self.child.wait()).await.expect("ends in time").expect("is ours");
    }

    /// Ends it as an operator does, and waits for its end.
    pub async fn stop(&mut self) {
        signal(self.pid(), "TERM");
        timeout(PATIENCE, self.child.wait()).await.expect("ends in time").expect("is ours");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("is running")
    }

    /// Its configuration file.
    pub fn config(&self) -> &std::path::Path {
        &self.config
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("there is a log")
    }

    /// Memory that is its own at this moment. Unit: bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("is there");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Posts to the admin listener, or reads from it without a body.
    pub async fn admin(&self, path: &str) -> Answer {
        let request = if path.contains("/databases/") || path.ends_with("/reload") {
            self.http.post(format!("{}{path}", self.admin_url))
        } else {
            self.http.get(format!("{}{path}", self.admin_url))
        };
        Answer::read(request.send().await.expect("is answered")).await
    }

    /// Every pool as the admin interface shows it.
    pub async fn pools(&self) -> Vec<Value> {
        self.admin("/admin/v1/pools").await.body["pools"].as_array().cloned().unwrap_or_default()
    }

    /// The sum of a metric over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        text.lines().filter(of_name).filter_map(value).sum()
    }

    async fn ready(&self) {
        eventually("the broker is ready", async || {
            let asked = self.http.get(format!("{}/readyz", self.url)).send().await;
            asked.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }
}

fn spawn(ground: &Ground, config: &std::path::Path, log: &std::path::Path) -> Child {
    let log = std::fs::OpenOptions::new().append(true).create(true).open(log).expect("a log");
    let mut command = Command::new(Hearth::binary());
    command.args(["serve", "--config"]).arg(config).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("starts");
    ground.scratch.guard(child.id().expect("runs")).expect("is guarded");
    child
}

/// A key, and its entry in a configuration.
pub struct Key {
    /// As a caller sends it.
    pub token: String,
    /// As the configuration has it: every scope.
    pub entry: String,
}

impl Key {
    /// A new one.
    pub fn new() -> Self {
        let key = NewKey::random();
        let entry = format!(
            "{{ id = \"{}\", sha256 = \"{}\", scopes = [\"sql:read\", \"sql:write\", \"redis\"] }}",
            key.id, key.sha256
        );
        Self { token: key.token(), entry }
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::new()
    }
}
