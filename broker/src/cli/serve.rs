//! `hearth serve`: the broker, until it is told to stop.

use std::error::Error;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArgs, files};
use crate::base::Workers;
use crate::broker::Live;
use crate::config::{Config, ConfigError, load_env_text, load_file};
use crate::observe::telemetry;
use crate::server::{Listeners, serve};

/// Connections to servers, and what a process has open anyway.
const OTHER_FILES: u64 = 200;

/// Runs the broker until SIGTERM or Ctrl-C. SIGHUP reloads its configuration.
pub fn run(args: &ConfigArgs) -> Result<(), Box<dyn Error>> {
    let config = load(args)?;
    telemetry::start(&config.log)?;
    leave_no_core();
    let (wanted, files) = (config.server.max_connections, files::raise_limit());
    if let Some(files) = files.filter(|files| *files < u64::from(wanted) + OTHER_FILES) {
        tracing::warn!(files, wanted, "only {files} files may be open: too few for server.max_connections = {wanted}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stop, hangups) = (stop_signal()?, signal(SignalKind::hangup())?);
        let source = args.clone();
        let live = Live::new(&config, move || load(&source))?;
        live.follow_control().await?;
        tokio::spawn(reload_on(hangups, live.clone()));
        let listeners = Listeners::bind(config.server.listen, config.server.admin_listen).await?;
        let (data, admin) = listeners.addresses()?;
        // Beside serving: a backend that is slow to answer must not keep callers of the others waiting.
        let warming = live.clone();
        tokio::spawn(async move { warming.warm().await });
        let workers = Workers::start(config.server.workers as usize)?;
        tracing::info!(server.address = %data, admin.address = %admin, "listening on {data}, admin on {admin}");
        serve(live, listeners, workers, stop).await;
        Ok(())
    })
}

/// What requests carry is in memory: a core would write it to a disk.
fn leave_no_core() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(error = %error, "the limit on cores could not be set: {error}");
    }
}

/// The file; or, where that is not there, `HEARTH_CONFIG_TOML`.
pub fn load(args: &ConfigArgs) -> Result<Config, ConfigError> {
    match load_file(&args.config) {
        Err(ConfigError::Unreadable { path, source }) => {
            load_env_text().unwrap_or(Err(ConfigError::Unreadable { path, source }))
        }
        loaded => loaded,
    }
}

/// Reloads at each signal. What comes of it stands in the log.
async fn reload_on(mut signals: Signal, live: Live) {
    while signals.recv().await.is_some() {
        // Told where it is known.
        let _ = live.reload().await;
    }
}

/// Resolves at SIGTERM or Ctrl-C. The handlers are in place when this returns.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
