//! A private PostgreSQL on a free loopback port.

use std::error::Error;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::machine::{free_port, program, random_word, signal};
use super::scratch::Scratch;

/// A cold machine takes a few seconds; a broken one should not take minutes to say so.
const START_TIMEOUT: Duration = Duration::from_mins(1);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The role that owns the cluster.
const ADMIN: &str = "hearth_admin";

/// A private PostgreSQL.
pub struct PrivatePostgres {
    child: Child,
    pid: u32,
    /// Its port on 127.0.0.1.
    pub port: u16,
    password: String,
    data: std::path::PathBuf,
    /// How it was started, to start it again.
    command: Command,
}

impl PrivatePostgres {
    /// Makes a cluster in the scratch folder and starts it. Errors: no server program, or what the server said.
    pub async fn start(scratch: &Scratch) -> Result<Self, Box<dyn Error>> {
        Self::start_with(scratch, &[]).await
    }

    /// The same with more settings, each as `name=value`.
    pub async fn start_with(scratch: &Scratch, settings: &[&str]) -> Result<Self, Box<dyn Error>> {
        let password = random_word();
        let data = scratch.path().join("postgres");
        init(scratch, &data, &password).await?;
        let port = free_port()?;
        let mut command = scratch.command(&program("postgres")?);
        command.arg("-D").arg(&data);
        // Fast and small: what is here is thrown away. Sockets stay in the folder, so that nothing else finds them.
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", scratch.path().display()),
            "fsync=off".to_owned(),
            "synchronous_commit=off".to_owned(),
            "full_page_writes=off".to_owned(),
            "max_connections=100".to_owned(),
            "shared_buffers=32MB".to_owned(),
            "log_min_messages=fatal".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        // The last one of a name counts.
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let log = std::fs::OpenOptions::new().append(true).create(true).open(scratch.path().join("postgres.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut command = Command::from(command);
        let child = command.spawn()?;
        let pid = child.id().ok_or("PostgreSQL ended at once")?;
        scratch.guard(pid)?;
        let mut server = Self { child, pid, port, password, data, command };
        server.ready().await.map_err(|error| with_log(scratch, error.as_ref()))?;
        Ok(server)
    }

    /// How the cluster's owner signs in, but for port and database.
    pub fn owner(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").user(ADMIN).password(&self.password);
        config
    }

    /// A connection as the cluster's owner.
    pub async fn admin(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.owner().port(self.port).dbname(database).connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Resolves when the server has ended by itself.
    pub async fn died(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Stops the server and waits for its end; `signal_name` says how: `INT` fast, `QUIT` at once, `KILL`.
    pub async fn halt(&mut self, signal_name: &str) -> Option<ExitStatus> {
        signal(self.pid, signal_name);
        timeout(STOP_TIMEOUT, self.child.wait()).await.ok()?.ok()
    }

    /// Starts a halted server again on the same port. After a kill it waits for the old server's children: they hold its
    /// shared memory until they notice.
    pub async fn restart(&mut self, scratch: &Scratch) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        loop {
            self.child = self.command.spawn()?;
            self.pid = self.child.id().ok_or("PostgreSQL ended at once")?;
            scratch.guard(self.pid)?;
            match self.ready().await {
                Err(_) if start.elapsed() < START_TIMEOUT => sleep(Duration::from_millis(100)).await,
                ended => return ended,
            }
        }
    }

    /// Stops the server for good.
    pub async fn stop(mut self) {
        let _ = self.halt("INT").await;
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The cluster's folder.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }

    async fn ready(&mut self) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        loop {
            match self.admin("postgres").await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > START_TIMEOUT => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("PostgreSQL did not start ({status})").into());
            }
            sleep(Duration::from_millis(30)).await;
        }
    }
}

async fn init(scratch: &Scratch, data: &std::path::Path, password: &str) -> Result<(), Box<dyn Error>> {
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, password)?;
    let mut command = scratch.command(&program("initdb")?);
    command.arg("-D").arg(data).args(["-U", ADMIN, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync"]);
    command.arg(format!("--pwfile={}", secret.display()));
    let output = Command::from(command).output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

fn with_log(scratch: &Scratch, error: &dyn Error) -> Box<dyn Error> {
    let log = std::fs::read_to_string(scratch.path().join("postgres.log")).unwrap_or_default();
    let last: Vec<&str> = log.lines().rev().take(5).collect();
    format!("{error}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")).into()
}
