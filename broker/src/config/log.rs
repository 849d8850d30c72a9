//! `[log]`: what is written to standard error, and where the audit log goes.

use std::path::PathBuf;

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
    /// Where the audit log goes, a line of JSON for each request: `off`, `log` (among the other lines, at level info with the target
    /// `hearth::audit`), `stdout`, or a file's path, which is appended to and opened again at each reload. Default: `off`.
    #[schemars(with = "String")]
    pub audit: AuditTarget,
}

/// Where the audit log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum AuditTarget {
    /// Nowhere.
    #[default]
    Off,
    /// Among the other log lines.
    Log,
    /// To standard output.
    Stdout,
    /// To a file.
    File(PathBuf),
}

impl From<String> for AuditTarget {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" | "" => Self::Off,
            "log" => Self::Log,
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        }
    }
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
        Self { filter: "info".to_owned(), format: LogFormat::Json, audit: AuditTarget::Off }
    }
}
