//! Redis servers beside a stack's own: one that sentinels watch, and a cluster.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use hearth_broker::cli::dev::machine::{free_port, program, signal};
use hearth_broker::cli::dev::scratch::Scratch;
use tokio::process::{Child, Command};

use crate::eventually;

/// One Redis process.
pub struct RedisServer {
    child: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl RedisServer {
    /// Starts one in a folder of its own, with more lines of configuration, and waits until it answers.
    pub async fn start(scratch: &Scratch, port: u16, lines: &str, args: &[&str]) -> Self {
        let folder = scratch.path().join(format!("redis-{port}"));
        std::fs::create_dir(&folder).expect("a folder");
        let file = folder.join("redis.conf");
        let base = format!("port {port}\nbind 127.0.0.1\ndir {}\nlogfile redis.log\n", folder.display());
        std::fs::write(&file, format!("{base}{lines}")).expect("a file");
        // Sentinels and nodes of a cluster write there what they know, under the account that scratch runs servers as.
        for (path, mode) in [(&folder, 0o777), (&file, 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        }
        let mut command = scratch.command(&program("redis-server").expect("is installed"));
        command.arg(&file).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = Command::from(command).spawn().expect("starts");
        scratch.guard(child.id().expect("runs")).expect("is guarded");
        let server = Self { child, port };
        eventually("Redis answers", async || server.ask(&["PING"]).await.contains("PONG")).await;
        server
    }

    /// Runs a command with `redis-cli`, and tells what it prints.
    pub async fn ask(&self, args: &[&str]) -> String {
        redis_cli(self.port, "", args).await
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        signal(self.child.id().expect("runs"), "KILL");
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), self.child.wait()).await;
        ended.expect("it ends").expect("it is ours");
    }
}

/// Runs a command with `redis-cli`, and tells what it prints.
pub async fn redis_cli(port: u16, password: &str, args: &[&str]) -> String {
    let mut command = Command::new(program("redis-cli").expect("is installed"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(args).env("REDISCLI_AUTH", password);
    if password.is_empty() {
        command.env_remove("REDISCLI_AUTH");
    }
    let output = command.output().await.expect("runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A server with a replica, and three sentinels who watch both.
pub struct Watched {
    /// The two; the first is the master at first.
    pub servers: [RedisServer; 2],
    /// The sentinels.
    pub sentinels: Vec<RedisServer>,
}

impl Watched {
    /// The name under which the sentinels know the master.
    pub const MASTER: &str = "hearth-master";

    /// Starts all five, and waits until the sentinels know each other and the replica follows.
    pub async fn start(scratch: &Scratch) -> Self {
        let port = || free_port().expect("a port");
        let plain = "save \"\"\nrepl-diskless-sync-delay 0\n";
        let master = RedisServer::start(scratch, port(), plain, &[]).await;
        let follow = format!("{plain}replicaof 127.0.0.1 {}\n", master.port);
        let replica = RedisServer::start(scratch, port(), &follow, &[]).await;
        eventually("the replica follows", async || {
            replica.ask(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let name = Self::MASTER;
        let lines = format!(
            "sentinel monitor {name} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n",
            master.port
        );
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(RedisServer::start(scratch, port(), &lines, &["--sentinel"]).await);
        }
        eventually("the sentinels know each other and the replica", async || {
            for sentinel in &sentinels {
                let told = sentinel.ask(&["INFO", "sentinel"]).await;
                if !told.contains("slaves=1,sentinels=3") {
                    return false;
                }
            }
            true
        })
        .await;
        Self { servers: [master, replica], sentinels }
    }

    /// The part of a configuration that names it.
    pub fn config(&self) -> String {
        let nodes: Vec<_> = self.sentinels.iter().map(|s| format!("\"redis://127.0.0.1:{}\"", s.port)).collect();
        format!("sentinel = {{ master = \"{}\", nodes = [{}] }}\n", Self::MASTER, nodes.join(", "))
    }
}

/// Three masters that share the slots.
pub struct RedisCluster {
    /// The masters.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts them, and waits until all are agreed.
    pub async fn start(scratch: &Scratch) -> Self {
        let lines = "save \"\"\ncluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 2000\ncluster-require-full-coverage no\n";
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(RedisServer::start(scratch, bus_port(), lines, &[]).await);
        }
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.push("--cluster-yes");
        let told = redis_cli(nodes[0].port, "", &create).await;
        assert!(told.contains("All 16384 slots covered"), "{told}");
        eventually("every node sees the whole cluster", async || {
            for node in &nodes {
                if !node.ask(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
                    return false;
                }
            }
            true
        })
        .await;
        Self { nodes }
    }

    /// The part of a configuration that names it: one node is enough.
    pub fn config(&self) -> String {
        format!("cluster = [\"redis://127.0.0.1:{}\"]\n", self.nodes[0].port)
    }
}

/// A free port whose bus port, ten thousand higher, is free too.
fn bus_port() -> u16 {
    loop {
        let port = free_port().expect("a port");
        if port <= 55_535 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}
