//! Log lines on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogConfig;
use crate::config::log::LogFormat;

/// Starts logging. Errors: text about a filter that does not parse.
pub fn start(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| format!("log.filter: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init(),
        LogFormat::Pretty => builder.compact().with_target(false).finish().try_init(),
    };
    started.map_err(|error| error.to_string())
}
