//! `[databases.NAME]`: one PostgreSQL database and its pool.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::server::processors;
use super::{NamedStatement, Secret, units};

/// One PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct DatabaseConfig {
    /// `postgres://user@host:port/database`. Parameters: `sslmode` (`disable`, `prefer`, `require`, `verify-full`; both last
    /// verify certificate and host name), `sslrootcert` (a PEM file; default: the system's roots), `application_name`,
    /// `connect_timeout`. A password belongs into `password`.
    pub url: String,
    /// The login role's password.
    pub password: Option<Secret>,
    /// The server's availability zone; with `server.zone`, reads prefer servers of the broker's own.
    pub zone: Option<String>,
    /// Other servers of the same database: streaming replicas, each a URL or `{ url = "…", zone = "…" }`. Which of all is the
    /// primary is asked of the servers, so a failover needs no change here. What is `read_only` may be served by a replica.
    /// They take the same `password` and `pool`; the pool's sizes hold for each server. At most 15.
    #[serde(default)]
    pub replicas: Vec<ReplicaConfig>,
    /// A replica further behind is not read from. Unit: duration. Default: `10s`. Range: `0ms..=1h`.
    #[serde(default = "default_max_lag", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub max_lag: Duration,
    /// Further databases of the same kind, by name, over which a request's `Hearth-Shard-Key` is spread; this one is the shard
    /// `main`. With any, every request must have a key, and the same key always finds the same shard while their names stay.
    #[serde(default)]
    pub shards: BTreeMap<String, ShardConfig>,
    /// How many connections.
    #[serde(default)]
    pub pool: PoolConfig,
    /// Statements that callers run by name: `POST /v1/db/{database}/statements/{name}`. A name is 1 to 63 letters, digits,
    /// `_` or `-`.
    #[serde(default)]
    pub statements: BTreeMap<String, NamedStatement>,
    /// A folder of `NAME.sql` files, one statement each, as if they stood under `statements`. Comment lines at the top of
    /// a file may say `-- params: id, since`, `-- read_only: true`, `-- max_age: 10s` and `-- description: …`; they are not
    /// sent to the server. Relative to the configuration file's folder (without a file: the working directory); folders
    /// inside it and names that begin with a dot are passed over. Read once, when the configuration is.
    pub statements_dir: Option<String>,
}

fn default_max_lag() -> Duration {
    Duration::from_secs(10)
}

/// A replica: its URL, or its URL and its zone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ReplicaConfig {
    /// Its URL.
    Url(String),
    /// Its URL and where it is.
    Placed(PlacedReplica),
}

/// A replica, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacedReplica {
    /// As the database's `url`.
    pub url: String,
    /// Its availability zone.
    pub zone: Option<String>,
}

impl ReplicaConfig {
    /// Its URL.
    pub fn url(&self) -> &str {
        match self {
            Self::Url(url) => url,
            Self::Placed(placed) => &placed.url,
        }
    }

    /// Its zone.
    pub fn zone(&self) -> Option<&str> {
        match self {
            Self::Url(_) => None,
            Self::Placed(placed) => placed.zone.as_deref(),
        }
    }
}

/// One more database that requests are spread over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct ShardConfig {
    /// As the database's `url`.
    pub url: String,
    /// The login role's password; without one the database's.
    pub password: Option<Secret>,
    /// As the database's `zone`.
    pub zone: Option<String>,
    /// As the database's `replicas`.
    #[serde(default)]
    pub replicas: Vec<ReplicaConfig>,
}

impl DatabaseConfig {
    /// The shard as a database of its own.
    #[must_use]
    pub fn shard(&self, shard: &ShardConfig) -> Self {
        Self {
            url: shard.url.clone(),
            password: shard.password.clone().or_else(|| self.password.clone()),
            zone: shard.zone.clone(),
            replicas: shard.replicas.clone(),
            shards: BTreeMap::new(),
            ..self.clone()
        }
    }
}

/// How many connections, and how long they live.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PoolConfig {
    /// Connections opened at start and kept. Default: 1. Range: 0 to `max`.
    pub min: u32,
    /// Most connections at any time, whatever the load; one more is open while anyone listens (`/listen`). Default: 16.
    /// Range: 1 to 1000.
    pub max: u32,
    /// Most sessions shared by many callers' short reads, among the `max`: statements that can have no effect and were fast and
    /// small before. There are two, and more only while that carries more; at most a quarter of `max`. 0 switches them off.
    /// Default: as many as there are processors, and 2 at least. Range: 0 to 16.
    pub lanes: u32,
    /// Whether demand that is foreseen opens connections ahead of it, within `max` and the server's room. Default: `shadow`.
    pub forecast: ForecastMode,
    /// Longest time to open one connection, sign-in included. Unit: duration. Default: `5s`. Range: `10ms..=1m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// About how long a connection is used. They are replaced one at a time, at most one in each `max_lifetime` ÷ their number, so that
    /// those opened together do not go together. Unit: duration. Default: `30m`. Range: `1s..=7d`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub max_lifetime: Duration,
    /// Most prepared statements kept on one connection; the least recently used goes first. Default: 200.
    /// Range: 0 (never prepare for later) to 10000.
    pub prepared_statements: u32,
}

/// What is done with forecasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForecastMode {
    /// They are made, scored and shown in metrics, and open nothing.
    #[default]
    Shadow,
    /// A model that beats the simplest one by a tenth opens connections ahead; what it opened goes once nobody wants it.
    Add,
    /// None are made.
    Off,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            min: 1,
            max: 16,
            // One for each worker, where that carries more. Two are faster than one on every machine measured.
            lanes: processors().clamp(2, 16),
            forecast: ForecastMode::default(),
            connect_timeout: Duration::from_secs(5),
            max_lifetime: Duration::from_mins(30),
            // A prepared statement costs the server about 12.5 kB: 200 on each of 16 connections are 40 MB.
            prepared_statements: 200,
        }
    }
}
