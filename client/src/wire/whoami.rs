//! What a key may do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer of `GET /v1/whoami`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Whoami {
    /// The tenant this key belongs to.
    pub tenant: String,
    /// The key's id (never its secret); of a token its issuer and subject, of a client certificate its name.
    pub key_id: String,
    /// How the caller is known: by a `key`, a `token` or a `certificate`.
    #[serde(default)]
    pub via: String,
    /// What the key may do: `sql:read`, `sql:write`, `redis`.
    pub scopes: Vec<String>,
    /// The databases the tenant may use.
    pub databases: Vec<String>,
    /// The caches the tenant may use.
    pub caches: Vec<String>,
    /// The named statements the key may run, by database.
    #[serde(default)]
    pub statements: BTreeMap<String, Vec<String>>,
    /// The tenant's limits; null means unlimited.
    pub limits: BTreeMap<String, Option<u64>>,
    /// What is in use now: `in_flight`, `listeners`.
    pub usage: BTreeMap<String, u64>,
    /// What is left of each rate and quota, by policy name.
    #[serde(default)]
    pub policies: BTreeMap<String, PolicyUsage>,
}

/// What is left of one of the tenant's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyUsage {
    /// In the limit's own unit: requests, rows, bytes, milliseconds.
    pub remaining: u64,
    /// When all of it is there again. Units: milliseconds.
    pub reset_ms: u64,
    /// It is counted and not enforced.
    pub shadow: bool,
}
