//! A real `hearth serve` whose database is out of reach: all that a test of the listener needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hearth_broker::cli::dev::machine::free_port;
use hearth_broker::cli::dev::scratch::Scratch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::{Answer, Hearth, Key, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// The broker, and how to reach it. Gone with its [`Scratch`] at the latest.
pub struct Bare {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    http: reqwest::Client,
    /// Where callers connect.
    pub address: SocketAddr,
    /// The admin address.
    pub admin_url: String,
    /// A key with every scope.
    pub key: String,
}

impl Bare {
    /// Starts one with this in its `[server]` section.
    pub async fn start(scratch: &Scratch, name: &str, server: &str) -> Self {
        let [port, admin] = [(); 2].map(|()| free_port().expect("a port"));
        let key = Key::new();
        let text = format!(
            "[server]\nlisten = \"0.0.0.0:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n{server}\n\
             [databases.app]\nurl = \"postgres://app@127.0.0.1:1/app?sslmode=disable\"\npool = {{ min = 0 }}\n\
             [tenants.acme]\ndatabases = [\"app\"]\nkeys = [{}]\n",
            key.entry
        );
        let [config, log] = ["toml", "log"].map(|end| scratch.path().join(format!("{name}.{end}")));
        std::fs::write(&config, text).expect("writes");
        let out = std::fs::OpenOptions::new().append(true).create(true).open(&log).expect("a log");
        let mut command = Command::new(Hearth::binary());
        command.args(["serve", "--config"]).arg(&config).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out);
        let child = command.spawn().expect("starts");
        scratch.guard(child.id().expect("runs")).expect("is guarded");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let (address, admin_url) = (SocketAddr::from(([127, 0, 0, 1], port)), format!("http://127.0.0.1:{admin}"));
        let bare = Self { child, config, log, http, address, admin_url, key: key.token };
        eventually("the broker listens", async || bare.asked("/healthz").await).await;
        bare
    }

    async fn asked(&self, path: &str) -> bool {
        self.http.get(format!("{}{path}", self.admin_url)).send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Changes a part of the configuration file, which must be in it.
    #[track_caller]
    pub fn edit(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.config).expect("is there");
        assert!(text.contains(old), "`{old}` is not in {text}");
        std::fs::write(&self.config, text.replacen(old, new, 1)).expect("writes");
    }

    /// Asks it to reload its configuration.
    pub async fn reload(&self) -> Answer {
        let request = self.http.post(format!("{}/admin/v1/reload", self.admin_url));
        Answer::read(request.send().await.expect("is answered")).await
    }

    /// The sum of a metric over the lines that hold all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.http.get(format!("{}/metrics", self.admin_url)).send().await.expect("is answered").text().await;
        let text = text.expect("is text");
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = text.lines().filter(of_name).filter(|line| labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("there is a log")
    }

    /// Resident memory. Unit: MiB.
    pub fn resident(&self) -> f64 {
        let pid = self.child.id().expect("is running");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("is there");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    /// A request as text, with the key.
    pub fn get(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n", self.key)
    }

    /// Connects in clear.
    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// Sends raw bytes on a connection of their own, and reads until the broker closes it or is silent for two seconds.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = self.dial().await;
        // What cannot be sent any more was answered before.
        let _ = socket.write_all(bytes).await;
        until_silent(&mut socket).await
    }

    /// Calls as a neighbour does, again and again until `done` and once more after: how long each call took, sorted.
    pub async fn neighbour(&self, done: impl Future<Output = ()>) -> Vec<Duration> {
        let (mut socket, mut took) = (self.dial().await, Vec::new());
        let calls = async {
            loop {
                took.push(self.called(&mut socket).await);
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = calls => {}
            () = done => {}
        }
        // The one before may not have read its answer.
        took.push(self.called(&mut self.dial().await).await);
        took.sort_unstable();
        took
    }

    /// One call of a neighbour's.
    async fn called(&self, socket: &mut TcpStream) -> Duration {
        let start = Instant::now();
        socket.write_all(self.get("/v1/whoami").as_bytes()).await.expect("is taken");
        let head = read_answer(socket).await.expect("a neighbour is answered");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        start.elapsed()
    }
}

/// Reads what comes until the end, or until nothing comes for two seconds.
pub async fn until_silent(socket: &mut (impl AsyncReadExt + Unpin)) -> String {
    let (mut all, mut some) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(Ok(count @ 1..)) = timeout(Duration::from_secs(2), socket.read(&mut some)).await {
        all.extend_from_slice(&some[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads one answer of HTTP/1.1 with a length; `None`: the connection has ended.
pub async fn read_answer(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut all = Vec::new();
    let read = async {
        while !is_whole(&all) {
            match socket.read_buf(&mut all).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        Some(String::from_utf8_lossy(&all).into_owned())
    };
    timeout(PATIENCE, read).await.expect("is answered or ends")
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
