//! A private Redis on a free loopback port.

use std::error::Error;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::machine::{free_port, program, random_word, signal};
use super::scratch::Scratch;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A private Redis.
pub struct PrivateRedis {
    child: Child,
    pid: u32,
    command: Command,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Its default user's password.
    pub password: String,
}

impl PrivateRedis {
    /// Starts a Redis that keeps nothing. Errors: no server program, or that it did not answer.
    pub async fn start(scratch: &Scratch) -> Result<Self, Box<dyn Error>> {
        let (port, password) = (free_port()?, random_word());
        let folder = scratch.path().display();
        let file = scratch.path().join("redis.conf");
        // The password stands in a file: arguments can be read by every account on the machine.
        let lines = format!(
            "port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave \"\"\nappendonly no\ndir {folder}\nlogfile \"\"\n"
        );
        std::fs::write(&file, lines)?;
        let mut command = scratch.command(&program("redis-server")?);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut command = Command::from(command);
        let child = command.spawn()?;
        let pid = child.id().ok_or("Redis ended at once")?;
        scratch.guard(pid)?;
        let mut server = Self { child, pid, command, port, password };
        server.ready().await?;
        Ok(server)
    }

    /// The address, with the password.
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/0", self.password, self.port)
    }

    /// Resolves when the server has ended by itself.
    pub async fn died(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Stops the server and waits for its end.
    pub async fn halt(&mut self) {
        signal(self.pid, "TERM");
        let _ = timeout(STOP_TIMEOUT, self.child.wait()).await;
    }

    /// Starts a halted server again on the same port.
    pub async fn restart(&mut self, scratch: &Scratch) -> Result<(), Box<dyn Error>> {
        self.child = self.command.spawn()?;
        self.pid = self.child.id().ok_or("Redis ended at once")?;
        scratch.guard(self.pid)?;
        self.ready().await
    }

    /// Stops the server for good.
    pub async fn stop(mut self) {
        self.halt().await;
    }

    async fn ready(&mut self) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        let client = redis::Client::open(self.url())?;
        loop {
            match client.get_multiplexed_async_connection().await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > START_TIMEOUT => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("Redis did not start ({status})").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
