//! `[server]`: the listeners and what every request is held to.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::units;

/// A body holds a statement and its parameters; bulk data has its own endpoint. 4 MiB is four times what AWS' Data API takes.
const MAX_REQUEST_BYTES: u64 = 4 << 20;
/// Longer than any sensible statement timeout would make a rolling restart slow; platforms kill after 30 s by default.
const DRAIN_GRACE: Duration = Duration::from_secs(25);
/// A well-behaved client sends its headers in one packet; 10 s leaves room for a bad mobile link and bounds a slowloris.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a collection pause or a moment without radio; a reader that has gone holds a connection no longer than this.
const READER_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for every queue of a large fleet; past it a refusal now is kinder than an answer too late.
const MAX_WAITING: u32 = 10_000;

/// The listeners and what every request is held to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerConfig {
    /// Address of the HTTP interface. HTTP/1.1 and HTTP/2 by prior knowledge. Default: `127.0.0.1:8432`.
    pub listen: SocketAddr,
    /// Address of the admin interface (metrics, pools). Keep it on loopback or a private network; off loopback
    /// `admin_key_sha256` must be set. Default: `127.0.0.1:8433`.
    pub admin_listen: SocketAddr,
    /// SHA-256 (hexadecimal) of the key the admin interface asks for as a bearer token. Unset: the admin interface
    /// answers without one, which is allowed on loopback only.
    pub admin_key_sha256: Option<String>,
    /// Largest request body, counted when it is no longer compressed; a larger one is 413 `request_too_large`. Unit: size.
    /// Default: `4MiB`. Range: `1KiB..=64MiB`.
    #[serde(deserialize_with = "units::bytes::deserialize")]
    #[schemars(with = "String")]
    pub max_request_bytes: u64,
    /// Longest wait for a connection's request headers; past it the connection is closed. Unit: duration.
    /// Default: `10s`. Range: `100ms..=2m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// The longest that the reader of a streamed answer may take no bytes; past it the stream is cut and its connection
    /// freed. Unit: duration. Default: `30s`. Range: `100ms..=10m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub reader_timeout: Duration,
    /// Longest wait for requests in flight after SIGTERM; past it they are cut. Unit: duration. Default: `25s`.
    /// Range: `0ms..=10m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub drain_grace: Duration,
    /// The broker's own availability zone, if servers have one: reads go to replicas of the same zone until those cost twice as
    /// much.
    pub zone: Option<String>,
    /// Most requests of all tenants waiting for a connection of one database server. One more takes the place of the newest of the
    /// tenant with the longest queue, by weight; where that is its own, it is 503 `overloaded`. Default: 10000. Range: 1 to 1000000.
    pub max_waiting: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8432)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8433)),
            admin_key_sha256: None,
            max_request_bytes: MAX_REQUEST_BYTES,
            header_timeout: HEADER_TIMEOUT,
            reader_timeout: READER_TIMEOUT,
            drain_grace: DRAIN_GRACE,
            zone: None,
            max_waiting: MAX_WAITING,
        }
    }
}
