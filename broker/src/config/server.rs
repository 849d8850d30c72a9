//! `[server]`: the listeners and what every request is held to.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{TlsConfig, units};
use crate::base::{Cidr, worker};

/// A body holds a statement and its parameters; bulk data has its own endpoint. 4 MiB is four times what AWS' Data API takes.
const MAX_REQUEST_BYTES: u64 = 4 << 20;
/// Longer than any sensible statement timeout would make a rolling restart slow; platforms kill after 30 s by default.
const DRAIN_GRACE: Duration = Duration::from_secs(25);
/// A well-behaved client sends its headers in one packet; 10 s leaves room for a bad mobile link and bounds a slowloris.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a collection pause or a moment without radio; a reader that has gone holds a connection no longer than this.
const READER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than the minute for which load balancers keep connections to reuse them: whose side closes first decides who errs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// As the header timeout, and for the same reasons.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// About 12 KiB each when idle: 120 MiB.
const MAX_CONNECTIONS: u32 = 10_000;
/// Many functions share the address of one NAT gateway; a single machine that means no harm has a handful.
const MAX_CONNECTIONS_PER_ADDRESS: u32 = 2_000;
/// Functions that keep no connection open share a gateway's address too. A handshake costs about a third of a millisecond of processor
/// time: these are two thirds of a core.
const CONNECTIONS_PER_SECOND: u32 = 2_000;
/// Room for every queue of a large fleet; past it a refusal now is kinder than an answer too late.
const MAX_WAITING: u32 = 10_000;

/// Of threads; more serve nobody better.
pub(super) const MAX_WORKERS: u32 = 256;

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
    /// Longest wait for a new connection's first request headers, and for the rest of later ones once their first byte has come;
    /// past it the connection is closed. Unit: duration. Default: `10s`. Range: `100ms..=2m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// The longest that a connection may be open without a request; past it it is closed. Unit: duration. Default: `75s`.
    /// Range: `1s..=1h`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// The longest that a request's body may bring nothing, and how long it may bring less than 1 KiB a second; past it the
    /// answer is 408 `request_timeout`. For a COPY it is `reader_timeout`. Unit: duration. Default: `10s`.
    /// Range: `100ms..=2m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
    /// The longest that the reader of an answer may take no bytes; past it the answer is cut and its connections
    /// freed. Unit: duration. Default: `30s`. Range: `100ms..=10m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub reader_timeout: Duration,
    /// Longest wait for requests in flight after SIGTERM; past it they are cut. Unit: duration. Default: `25s`.
    /// Range: `0ms..=10m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub drain_grace: Duration,
    /// Most connections of clients; one more is closed at once. Default: 10000. Range: 1 to 1000000.
    pub max_connections: u32,
    /// Most connections from one address; one more is closed at once. IPv6 addresses count by their first 64 bits, trusted
    /// proxies not at all. Default: 2000. Range: 1 to 1000000.
    pub max_connections_per_address: u32,
    /// Most new connections a second from one address, on average; four times as many may come at once after a quiet time. One
    /// more is closed at once. Default: 2000. Range: 1 to 1000000.
    pub connections_per_second: u32,
    /// Load balancers and other proxies that are believed when they tell whom a request is from: blocks such as `10.0.0.0/8`,
    /// or addresses. Whoever is in one can claim any address. Default: none.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<Cidr>,
    /// How trusted proxies tell whom a request is from.
    pub proxies_tell: ProxiesTell,
    /// TLS. Without it the interface is served in clear.
    pub tls: Option<TlsConfig>,
    /// The broker's own availability zone, if servers have one: reads go to replicas of the same zone until those cost twice as
    /// much.
    pub zone: Option<String>,
    /// Threads that serve callers, each its own connections; a connection has one of them to its end. Default: as many as there are
    /// processors. Range: 1 to 256.
    pub workers: u32,
    /// Most requests of all tenants waiting for a connection of one database server. One more takes the place of the newest of the
    /// tenant with the longest queue, by weight; where that is its own, it is 503 `overloaded`. Default: 10000. Range: 1 to 1000000.
    pub max_waiting: u32,
}

/// How trusted proxies tell whom a request is from. One way alone is believed: a proxy that sets one header may pass the other on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxiesTell {
    /// In `X-Forwarded-For`, to which each proxy appends. The last address that is no trusted proxy's counts. The default.
    #[default]
    XForwardedFor,
    /// The same in `Forwarded` (RFC 7239).
    Forwarded,
    /// In the PROXY protocol, version 1 or 2, before anything else. A connection of anybody else is closed.
    ProxyProtocol,
}

/// As many as this process may use.
pub(super) fn processors() -> u32 {
    u32::try_from(worker::processors()).unwrap_or(MAX_WORKERS).min(MAX_WORKERS)
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8432)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8433)),
            admin_key_sha256: None,
            max_request_bytes: MAX_REQUEST_BYTES,
            header_timeout: HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            reader_timeout: READER_TIMEOUT,
            drain_grace: DRAIN_GRACE,
            max_connections: MAX_CONNECTIONS,
            max_connections_per_address: MAX_CONNECTIONS_PER_ADDRESS,
            connections_per_second: CONNECTIONS_PER_SECOND,
            trusted_proxies: Vec::new(),
            proxies_tell: ProxiesTell::default(),
            tls: None,
            zone: None,
            workers: processors(),
            max_waiting: MAX_WAITING,
        }
    }
}
