//! A streaming replica of a stack's PostgreSQL.

use std::process::Stdio;
use std::time::Duration;

use hearth_broker::cli::dev::machine::{free_port, program, signal};
use hearth_broker::cli::dev::postgres::PrivatePostgres;
use hearth_broker::cli::dev::scratch::Scratch;
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

use crate::eventually;

/// A replica that follows a primary until it is promoted.
pub struct Replica {
    child: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
    owner: tokio_postgres::Config,
}

impl Replica {
    /// Copies the primary and follows it.
    pub async fn of(primary: &PrivatePostgres, scratch: &Scratch) -> Self {
        let owner = primary.owner();
        let password = String::from_utf8(owner.get_password().expect("has one").to_vec()).expect("is text");
        let user = owner.get_user().expect("has one");
        let data = scratch.path().join("replica");
        let mut copy = scratch.command(&program("pg_basebackup").expect("is installed"));
        copy.arg("-D").arg(&data).args(["-R", "-X", "stream", "-c", "fast", "-h", "127.0.0.1", "-U", user]);
        copy.args(["-p", &primary.port.to_string()]).env("PGPASSWORD", password);
        let copied = Command::from(copy).output().await.expect("runs");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let port = free_port().expect("a port");
        let mut server = scratch.command(&program("postgres").expect("is installed"));
        server.arg("-D").arg(&data);
        let sockets = format!("unix_socket_directories={}", scratch.path().display());
        for setting in
            ["listen_addresses=127.0.0.1", &format!("port={port}"), &sockets, "fsync=off", "shared_buffers=32MB"]
        {
            server.arg("-c").arg(setting);
        }
        let log = std::fs::File::create(scratch.path().join("replica.log")).expect("a log");
        server.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = Command::from(server).spawn().expect("starts");
        scratch.guard(child.id().expect("runs")).expect("is guarded");
        let mut owner = owner;
        owner.port(port).dbname("app");
        let replica = Self { child, port, owner };
        eventually("the replica follows", async || replica.try_connect().await.is_some()).await;
        replica
    }

    async fn try_connect(&self) -> Option<Client> {
        let (client, connection) = self.owner.connect(NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// A connection as the cluster's owner, in the database `app`.
    pub async fn witness(&self) -> Client {
        self.try_connect().await.expect("connects")
    }

    /// Makes it the primary, and waits until it is.
    pub async fn promote(&self) {
        self.witness().await.execute("SELECT pg_promote(true, 60)", &[]).await.expect("is promoted");
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        signal(self.child.id().expect("runs"), "KILL");
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        ended.expect("it ends").expect("it is ours");
    }
}
