//! What an operator may choose: one tree, from a TOML file and then from the environment.

pub mod cache;
pub mod control;
pub mod database;
pub mod document;
pub mod fleet;
mod folder;
pub mod identity;
pub mod load;
pub mod log;
pub mod outline;
mod placeholders;
mod rules;
pub mod secret;
pub mod server;
pub mod setting;
pub mod statement;
mod stored;
pub mod tenant;
pub mod tls;
pub mod units;
pub mod url;
mod validate;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

pub use cache::{CacheConfig, SentinelConfig};
pub use control::ControlConfig;
pub use database::{DatabaseConfig, ForecastMode, PoolConfig, ReplicaConfig};
pub use fleet::FleetConfig;
pub use identity::{BreakerConfig, IdentityConfig, JwtAlgorithm, JwtConfig};
use load::read_section;
pub use load::{load_env_text, load_file, load_text};
pub use log::{AuditTarget, LogConfig};
pub use outline::{Changes, Outline};
pub use secret::Secret;
pub use server::{ProxiesTell, ServerConfig};
pub use statement::NamedStatement;
pub use stored::{Known, is_name, policy_faults, read_policy, statement_faults};
pub use tenant::{CertificateConfig, KeyConfig, LimitsConfig, Scope, Shadow, TenantConfig, policy};
pub use tls::{ClientCertificates, TlsConfig, TlsVersion};
pub use url::{DatabaseUrl, TlsMode, database_url};

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The listeners and what every request is held to.
    pub server: ServerConfig,
    /// Log level and format.
    pub log: LogConfig,
    /// PostgreSQL databases by name; the name stands in `/v1/db/{database}`.
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// Redis servers by name; the name stands in `/v1/redis/{cache}`.
    pub caches: BTreeMap<String, CacheConfig>,
    /// Brokers that share limits.
    pub fleet: FleetConfig,
    /// Who may use what, and how much.
    pub tenants: BTreeMap<String, TenantConfig>,
    /// Who is let in besides holders of API keys, and what becomes of those who guess.
    pub identity: IdentityConfig,
    /// Where tenants and keys stand that are not in the file.
    pub control: Option<ControlConfig>,
    /// What was written where, to tell this configuration from another one.
    #[serde(skip)]
    pub outline: Outline,
}

/// One thing wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The field's path: `databases.app.pool.max`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Fault {
    /// A fault at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        /// The file as it was named.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file was read and is wrong, in all these places.
    #[error("the configuration has {} fault(s):{}", .0.len(), list(.0))]
    Invalid(Vec<Fault>),
}

fn list(faults: &[Fault]) -> String {
    faults.iter().flat_map(|fault| ["\n  ".to_owned(), fault.to_string()]).collect()
}
