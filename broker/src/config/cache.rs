//! `[caches.NAME]`: one Redis server.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Secret, units};

/// One Redis server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct CacheConfig {
    /// `redis://host:port/db`, `rediss://…` for TLS, `redis+unix:///path`. A password belongs into `password`.
    pub url: String,
    /// The password of the user in `url` (or of the default user).
    pub password: Option<Secret>,
    /// Shared pipelined connections. Default: 2. Range: 1 to 64.
    #[serde(default = "default_lanes")]
    pub lanes: u32,
    /// Longest time to open one connection. Unit: duration. Default: `2s`. Range: `10ms..=1m`.
    #[serde(default = "default_connect_timeout", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
}

fn default_lanes() -> u32 {
    2
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(2)
}
