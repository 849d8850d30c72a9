//! `hearth serve`: the broker, until it is told to stop.

use std::error::Error;
use std::sync::Arc;

use super::ConfigArgs;
use crate::broker::Broker;
use crate::config::{Config, ConfigError, load_env_text, load_file};
use crate::observe::telemetry;
use crate::server::{Listeners, serve};

/// Runs the broker until SIGTERM or Ctrl-C.
pub fn run(args: &ConfigArgs) -> Result<(), Box<dyn Error>> {
    let config = load(args)?;
    telemetry::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        let broker = Broker::new(&config)?;
        let listeners = Listeners::bind(config.server.listen, config.server.admin_listen).await?;
        let (data, admin) = listeners.addresses()?;
        // Beside serving: a backend that is slow to answer must not keep callers of the others waiting.
        let warming = Arc::clone(&broker);
        tokio::spawn(async move { warming.warm().await });
        tracing::info!(server.address = %data, admin.address = %admin, "listening on {data}, admin on {admin}");
        serve(broker, listeners, stop).await;
        Ok(())
    })
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

/// Resolves at SIGTERM or Ctrl-C. The handlers are in place when this returns.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
