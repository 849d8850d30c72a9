//! `[fleet]`: brokers that share their tenants' limits.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Config, Fault, rules};

/// Brokers that share their tenants' limits through Redis. Without a `cache` each broker holds them for itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FleetConfig {
    /// The cache, by its name in `[caches]`, through which rates, quotas and `in_flight` are shared. Who may write its keys
    /// (`hearth:fleet:…`) can change limits: give it a section and a Redis user of its own, which no tenant lists. Unset: nothing
    /// is shared.
    pub cache: Option<String>,
    /// Which brokers share: those of one name. Default: `hearth`.
    pub name: String,
    /// How many brokers there are, until Redis has told for the first time: each takes so large a part of every limit.
    /// Default: 2. Range: 1 to 1000.
    pub brokers: u32,
}

impl Default for FleetConfig {
    fn default() -> Self {
        // Two: a broker that shares is not alone, and one that starts while Redis is away should rather give too little.
        Self { cache: None, name: "hearth".to_owned(), brokers: 2 }
    }
}

/// Adds every fault of meaning.
pub(super) fn check(config: &Config, faults: &mut Vec<Fault>) {
    let fleet = &config.fleet;
    rules::check_name("fleet.name", &fleet.name, faults);
    rules::range("fleet.brokers", fleet.brokers, 1..=1000, faults);
    if let Some(cache) = &fleet.cache
        && !config.caches.contains_key(cache)
    {
        faults.push(Fault::new("fleet.cache", format!("there is no `[caches.{cache}]`")));
    }
}
