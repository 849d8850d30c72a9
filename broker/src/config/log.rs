//! `[log]`: what is written to standard error.

use schemars::JsonSchema;
use serde::Deserialize;

/// What is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LogConfig {
    /// Which events: a level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as
    /// `info,hearth_broker::pool=debug`. Default: `info`.
    pub filter: String,
    /// `json` for machines, `pretty` for people. Default: `json`.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For reading at a terminal.
    Pretty,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Json }
    }
}
