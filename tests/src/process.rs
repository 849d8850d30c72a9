//! The `hearth` binary as a child process.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hearth_broker::cli::dev::machine::signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A cold machine makes a cluster in a few seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `hearth`.
pub struct Hearth {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Hearth {
    /// The binary that was built with this test.
    pub fn binary() -> PathBuf {
        let test = std::env::current_exe().expect("has a path");
        let folder = test.parent().and_then(std::path::Path::parent).expect("is in target/…/deps");
        let binary = folder.join("hearth");
        assert!(binary.is_file(), "{} is not built; run `cargo build -p hearth-broker`", binary.display());
        binary
    }

    /// Starts it. It is killed if the test ends without [`Hearth::stop`].
    pub fn start(args: &[&str], env: &[(&str, String)]) -> Self {
        let mut command = Command::new(Self::binary());
        command.args(args).envs(env.iter().map(|(k, v)| (*k, v.as_str())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("starts");
        let out = BufReader::new(child.stdout.take().expect("is piped"));
        Self { child, out }
    }

    /// The next line on standard output.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.out.read_line(&mut line)).await.expect("a line comes in time").expect("is text");
        line
    }

    /// The first line of `hearth dev --json`.
    pub async fn ready(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("is running")
    }

    /// Sends a signal, by name.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end: status, and what it wrote to standard error.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let mut errors = String::new();
        let mut pipe = self.child.stderr.take().expect("is piped");
        let end = async {
            pipe.read_to_string(&mut errors).await.expect("is text");
            self.child.wait().await.expect("ends")
        };
        let status = timeout(PATIENCE, end).await.expect("ends in time");
        (status, errors)
    }
}
