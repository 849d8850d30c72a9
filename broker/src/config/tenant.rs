//! `[tenants.NAME]`: who may use what, and how much.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units;

/// Who may use what, and how much.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TenantConfig {
    /// Databases the tenant may use, by their names in `[databases]`.
    pub databases: Vec<String>,
    /// Caches the tenant may use, by their names in `[caches]`.
    pub caches: Vec<String>,
    /// PostgreSQL settings that a request may change for itself, in its `settings`: names (`search_path`), or all of a class
    /// (`app.*`). Settings that the text of values or the broker's work rests on are refused here (`datestyle`,
    /// `statement_timeout`, `transaction_…` and the like). Default: none.
    pub settings: Vec<String>,
    /// The tenant's part of a database's time while others wait for connections too: one of weight 3 gets three times as much as one
    /// of weight 1. Default: 1. Range: 1 to 1000.
    pub weight: u32,
    /// Whether short reads may share sessions with other callers' (`pool.lanes`). Default: true.
    pub lanes: bool,
    /// The tenant's API keys; `hearth key create` makes one.
    pub keys: Vec<KeyConfig>,
    /// Client certificates that identify the tenant, verified by the listener. With a key or a token, too, both must be of one
    /// tenant, and the key or the token says what may be done.
    pub certificates: Vec<CertificateConfig>,
    /// How much the tenant may ask for.
    pub limits: LimitsConfig,
}

impl Default for TenantConfig {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
            caches: Vec::new(),
            settings: Vec::new(),
            weight: 1,
            lanes: true,
            keys: Vec::new(),
            certificates: Vec::new(),
            limits: LimitsConfig::default(),
        }
    }
}

/// One API key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct KeyConfig {
    /// The public half, before the dot.
    pub id: String,
    /// SHA-256 of the secret half (after the dot), in hexadecimal.
    pub sha256: String,
    /// What the key may do. A key with `sql:read` alone has every statement run READ ONLY.
    pub scopes: Vec<Scope>,
    /// The only named statements the key may run; it may send no SQL of its own. What Redis commands it may run is for its
    /// scopes to say. Unset: every named statement, and any SQL.
    #[serde(default)]
    pub statements: Option<Vec<String>>,
    /// The moment after which the key is refused, for example `2027-01-01T00:00:00Z`. Default: never.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub expires: Option<Timestamp>,
    /// The moment before which the key is refused. Default: none.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub not_before: Option<Timestamp>,
}

/// A client certificate, by a name in it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct CertificateConfig {
    /// A subject alternative name of the certificate, exactly: a DNS name, or a URI such as `spiffe://corp/orders`.
    pub name: String,
    /// What its holder may do without a key or a token.
    pub scopes: Vec<Scope>,
    /// The only named statements that its holder may run; it may send no SQL of its own. Unset: every one, and any SQL.
    #[serde(default)]
    pub statements: Option<Vec<String>>,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// Statements that read, enforced by the server.
    #[serde(rename = "sql:read")]
    SqlRead,
    /// Any statement the login role may run.
    #[serde(rename = "sql:write")]
    SqlWrite,
    /// Redis commands.
    #[serde(rename = "redis")]
    Redis,
}

impl Scope {
    /// The scope as it stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SqlRead => "sql:read",
            Self::SqlWrite => "sql:write",
            Self::Redis => "redis",
        }
    }
}

/// Which limits only count.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Shadow {
    /// All of them, or none.
    All(bool),
    /// These policies.
    Some(Vec<String>),
}

impl Default for Shadow {
    fn default() -> Self {
        Self::All(false)
    }
}

impl Shadow {
    /// True if the policy of this name only counts.
    pub fn covers(&self, policy: &str) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Some(names) => names.iter().any(|name| name == policy),
        }
    }
}

/// The limits of a tenant by the names that stand in headers, problems, metrics and `shadow`.
pub mod policy {
    /// `requests_per_second` and `burst`.
    pub const REQUESTS: &str = "requests";
    /// `requests_per_minute`.
    pub const REQUESTS_PER_MINUTE: &str = "requests-per-minute";
    /// `requests_per_hour`.
    pub const REQUESTS_PER_HOUR: &str = "requests-per-hour";
    /// `in_flight`.
    pub const IN_FLIGHT: &str = "in-flight";
    /// `listeners`.
    pub const LISTENERS: &str = "listeners";
    /// `database_ms_per_second`.
    pub const DATABASE_MS: &str = "database-ms";
    /// `requests_per_day`.
    pub const REQUESTS_PER_DAY: &str = "requests-per-day";
    /// `rows_per_day`.
    pub const ROWS_PER_DAY: &str = "rows-per-day";
    /// `bytes_per_day`.
    pub const BYTES_PER_DAY: &str = "bytes-per-day";
    /// `database_ms_per_day`.
    pub const DATABASE_MS_PER_DAY: &str = "database-ms-per-day";
    /// All of them.
    pub const ALL: [&str; 10] = [
        REQUESTS,
        REQUESTS_PER_MINUTE,
        REQUESTS_PER_HOUR,
        IN_FLIGHT,
        LISTENERS,
        DATABASE_MS,
        REQUESTS_PER_DAY,
        ROWS_PER_DAY,
        BYTES_PER_DAY,
        DATABASE_MS_PER_DAY,
    ];
}

/// How much a tenant may ask for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LimitsConfig {
    /// Requests a second, on average; over it 429 `rate_limited`. Unset: unlimited. Range: 1 to 1000000.
    pub requests_per_second: Option<u32>,
    /// Requests that may come at once after a quiet time. Default: `requests_per_second`. Range: 1 to 1000000.
    pub burst: Option<u32>,
    /// Requests a minute, on average, and at once after a quiet time; over it 429 `rate_limited`. Unset: unlimited.
    /// Range: 1 to 60000000.
    pub requests_per_minute: Option<u32>,
    /// Requests an hour, on average, and at once after a quiet time; over it 429 `rate_limited`. Unset: unlimited.
    /// Range: 1 to 1000000000.
    pub requests_per_hour: Option<u32>,
    /// Time of databases a second, on average: 500 is half of one session's time. It is charged when a statement has ended, so
    /// one may overdraw it; then 429 `rate_limited` until the debt is paid, at most a minute. Ten seconds of it may be used at
    /// once. Unset: unlimited. Unit: milliseconds. Range: 1 to 1000000.
    pub database_ms_per_second: Option<u32>,
    /// Requests a day (UTC); over it 429 `quota_exhausted` until midnight. Unset: unlimited. Range: 1 to 1000000000000.
    pub requests_per_day: Option<u64>,
    /// Rows of answers a day (UTC), those that a COPY moves included. It is charged when they have been sent; once it is used
    /// up, 429 `quota_exhausted` until midnight. Unset: unlimited. Range: 1 to 1000000000000.
    pub rows_per_day: Option<u64>,
    /// Bytes of answers a day (UTC), before compression, charged when they have been sent; once it is used up, 429
    /// `quota_exhausted` until midnight. Unset: unlimited. Unit: size. Range: 1 to 2^53.
    #[serde(deserialize_with = "units::bytes::deserialize_some")]
    #[schemars(with = "Option<String>")]
    pub bytes_per_day: Option<u64>,
    /// Time of databases a day (UTC), charged when a statement has ended; once it is used up, 429 `quota_exhausted` until
    /// midnight. Unset: unlimited. Unit: milliseconds. Range: 1 to 1000000000000.
    pub database_ms_per_day: Option<u64>,
    /// Limits that are counted and told (`Hearth-Shadow-Refused`, `hearth_limit_decisions_total`) and refuse nothing: `true` for
    /// all, or policies by their names: `["requests", "in-flight"]`. Default: `false`.
    #[schemars(with = "bool")]
    pub shadow: Shadow,
    /// Requests running or queueing at one time; over it 429 `too_many_in_flight`. Unset: unlimited. Range: 1 to 1000000.
    pub in_flight: Option<u32>,
    /// Most requests waiting for a connection of one database server; one more is 503 `overloaded`. Default: 5000.
    /// Range: 1 to 1000000.
    pub max_queued: u32,
    /// Most event streams (`/listen`) open at one time; over it 429 `too_many_in_flight`. A stream that stands counts here and
    /// not in `in_flight`. Default: 1000. Range: 1 to 1000000.
    pub listeners: u32,
    /// Deadline of a request that names none. Unit: duration. Default: `30s`. Range: `1ms..=` `max_timeout`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub default_timeout: Duration,
    /// The longest deadline a request may ask for; a longer one is cut to it. Unit: duration. Default: `60s`.
    /// Range: `1ms..=1h`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub max_timeout: Duration,
    /// The longest that a streamed result or a COPY may last, and its deadline where the request names none; a longer
    /// `Hearth-Timeout-Ms` is cut to it. Unit: duration. Default: `10m`. Range: `1s..=24h`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub stream_timeout: Duration,
    /// Largest buffered result; a larger one is 413 `result_too_large`. Unit: size. Default: `16MiB`.
    /// Range: `1KiB..=1GiB`.
    #[serde(deserialize_with = "units::bytes::deserialize")]
    #[schemars(with = "String")]
    pub max_result_bytes: u64,
    /// Most rows of one result; more is 413 `result_too_large`. A request's own `max_rows` may be lower. Unset: unlimited.
    /// Range: 1 to 1000000000.
    pub max_rows: Option<u64>,
    /// Most statements in one batch. Default: 100. Range: 1 to 10000.
    pub max_batch: u32,
    /// Most commands in one Redis pipeline. Default: 10000. Range: 1 to 100000.
    pub max_pipeline: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            requests_per_second: None,
            burst: None,
            requests_per_minute: None,
            requests_per_hour: None,
            database_ms_per_second: None,
            requests_per_day: None,
            rows_per_day: None,
            bytes_per_day: None,
            database_ms_per_day: None,
            shadow: Shadow::default(),
            in_flight: None,
            // Half of the room for all. What cannot be served before its deadline is refused whatever the bound.
            max_queued: 5000,
            // A stream costs a socket and some kilobytes: a thousand are no burden, and a loop that forgets to close them is found.
            listeners: 1000,
            default_timeout: Duration::from_secs(30),
            max_timeout: Duration::from_mins(1),
            // At 10 MB a second, 6 GB; an export that needs longer deserves a limit of its own.
            stream_timeout: Duration::from_mins(10),
            max_result_bytes: 16 << 20,
            max_rows: None,
            // A batch holds a connection, and its locks, for all its statements.
            max_batch: 100,
            // The published clients send at most 1,000 commands a batch.
            max_pipeline: 10_000,
        }
    }
}
