//! A value that must not be printed, and where it comes from.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

/// A secret: text in the file, `{ env = "NAME" }` or `{ file = "/path" }` (a trailing newline is dropped).
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Secret {
    /// Taken from an environment variable.
    Env {
        /// The variable's name.
        env: String,
    },
    /// Taken from a file.
    File {
        /// The file's path.
        file: String,
    },
    /// Written in the configuration itself.
    Text(String),
}

impl Secret {
    /// Fetches the secret. Errors: text that names the source, never the value.
    pub fn reveal(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Env { env } => std::env::var(env).map_err(|_| format!("the environment variable `{env}` is not set")),
            Self::File { file } => std::fs::read_to_string(file)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("cannot read the secret file `{file}`: {error}")),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { env } => write!(f, "Secret(env {env})"),
            Self::File { file } => write!(f, "Secret(file {file})"),
            Self::Text(_) => f.write_str("Secret(***)"),
        }
    }
}
