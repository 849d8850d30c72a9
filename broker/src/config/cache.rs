//! `[caches.NAME]`: one Redis server, one that sentinels watch, or a cluster.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::server::processors;
use super::{Fault, Secret, rules, units};

/// One Redis server, one that sentinels watch, or a cluster: exactly one of `url`, `sentinel` and `cluster` says which.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct CacheConfig {
    /// One server: `redis://host:port/db`, `rediss://…` for TLS, `redis+unix:///path`. A password belongs into `password`.
    pub url: Option<String>,
    /// Sentinels to ask for the server that takes writes. A failover is followed.
    pub sentinel: Option<SentinelConfig>,
    /// A cluster: some of its nodes, as `redis://host:port` or `rediss://…`; they tell of the others. A pipeline is then run
    /// command by command, and a transaction needs all of its keys in one slot.
    pub cluster: Option<Vec<String>>,
    /// The user of every connection to the servers. Unset: the one in `url`, or the default user.
    pub username: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
    /// Shared pipelined connections a server. Default: as many as there are processors, and 2 at least. Range: 1 to 64.
    #[serde(default = "default_lanes")]
    pub lanes: u32,
    /// Most connections a server that are lent to one caller at a time, for transactions and for commands that wait; the
    /// latter may have three quarters of them. Default: 8. Range: 1 to 1000.
    #[serde(default = "default_leases")]
    pub leases: u32,
    /// Longest time to open one connection. Unit: duration. Default: `2s`. Range: `10ms..=1m`.
    #[serde(default = "default_connect_timeout", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
}

/// Sentinels, and whose address to ask them for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct SentinelConfig {
    /// The name under which they know the server.
    pub master: String,
    /// The sentinels, as `redis://host:26379`; with `rediss://…` they and the servers are spoken to over TLS.
    pub nodes: Vec<String>,
    /// The user of connections to the sentinels themselves. Unset: the default user.
    pub username: Option<String>,
    /// The password of that user. Unset: none.
    pub password: Option<Secret>,
    /// The database on the servers. Default: 0. Range: 0 to 10000.
    #[serde(default)]
    pub database: u32,
}

/// One for each worker, so that none waits for another's.
fn default_lanes() -> u32 {
    processors().clamp(2, 64)
}

fn default_leases() -> u32 {
    8
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(2)
}

/// Adds every fault of meaning.
pub(super) fn check(name: &str, cache: &CacheConfig, faults: &mut Vec<Fault>) {
    let path = |field: &str| format!("caches.{name}.{field}");
    let all = ["redis://", "rediss://", "redis+unix://"];
    match (&cache.url, &cache.sentinel, &cache.cluster) {
        (Some(url), None, None) => check_url(path("url"), url, &all, faults),
        (None, Some(sentinel), None) => {
            check_nodes(&path("sentinel.nodes"), &sentinel.nodes, faults);
            check_secret(path("sentinel.password"), sentinel.password.as_ref(), faults);
            rules::range(path("sentinel.database"), sentinel.database, 0..=10_000, faults);
            if sentinel.master.is_empty() {
                faults.push(Fault::new(path("sentinel.master"), "must name the server as the sentinels know it"));
            }
        }
        (None, None, Some(nodes)) => check_nodes(&path("cluster"), nodes, faults),
        _ => {
            let message = "say where Redis is by exactly one of `url`, `sentinel` and `cluster`";
            faults.push(Fault::new(path("url"), message));
        }
    }
    check_secret(path("password"), cache.password.as_ref(), faults);
    rules::range(path("lanes"), cache.lanes, 1..=64, faults);
    rules::range(path("leases"), cache.leases, 1..=1000, faults);
    rules::range(
        path("connect_timeout"),
        cache.connect_timeout,
        Duration::from_millis(10)..=Duration::from_mins(1),
        faults,
    );
}

fn check_nodes(path: &str, nodes: &[String], faults: &mut Vec<Fault>) {
    if nodes.is_empty() {
        faults.push(Fault::new(path, "must name at least one node"));
    }
    for (index, node) in nodes.iter().enumerate() {
        check_url(format!("{path}[{index}]"), node, &["redis://", "rediss://"], faults);
    }
    if nodes.iter().any(|node| node.starts_with("rediss://")) && nodes.iter().any(|node| node.starts_with("redis://")) {
        faults.push(Fault::new(path, "has some nodes with TLS and some without; all have it or none"));
    }
}

fn check_url(path: String, url: &str, schemes: &[&str], faults: &mut Vec<Fault>) {
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        faults.push(Fault::new(path, format!("must start with {}", schemes.join(" or "))));
    }
}

fn check_secret(path: String, secret: Option<&Secret>, faults: &mut Vec<Fault>) {
    if let Some(Err(message)) = secret.map(Secret::reveal) {
        faults.push(Fault::new(path, message));
    }
}
