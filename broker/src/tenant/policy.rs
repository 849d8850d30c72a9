//! What one tenant may use, and how much: the configuration's words, resolved once.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;

use super::fleet::Fleet;
use super::limits::Limits;
use crate::base::{BackendName, TenantId};
use crate::config::{LimitsConfig, TenantConfig, policy, setting};
use crate::observe::{Metrics, RouteMetrics};
use crate::pool::{Account, Cache, Database};

/// One tenant.
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// The same, as the queues for connections know it.
    pub account: Arc<Account>,
    weight: u32,
    /// Its databases, each with the metrics of its requests there.
    pub databases: BTreeMap<BackendName, (Arc<Database>, RouteMetrics)>,
    /// Its caches, each with the metrics of its requests there.
    pub caches: BTreeMap<BackendName, (Arc<Cache>, RouteMetrics)>,
    /// Settings that a request may change for itself.
    settings: Vec<String>,
    /// Ceilings of each request.
    pub limits: LimitsConfig,
    /// The `RateLimit-Policy` header; `None` for an unlimited tenant.
    pub policy_header: Option<HeaderValue>,
    /// The same with the limit on event streams, for those.
    pub stream_policy_header: Option<HeaderValue>,
    /// What it has used of its limits.
    pub counted: Arc<Limits>,
    /// Whether its short reads may share sessions with others.
    pub lanes: bool,
}

impl Tenant {
    /// Resolves one tenant's configuration; names that are not there were refused before. What `before` has in flight and has used
    /// of its limits stays counted, under the new ones; in `fleet` they are shared.
    pub fn new(
        name: &str,
        config: &TenantConfig,
        databases: &BTreeMap<BackendName, Arc<Database>>,
        caches: &BTreeMap<BackendName, Arc<Cache>>,
        fleet: Option<&Arc<Fleet>>,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Self {
        let own = |names: &[String]| names.iter().map(|n| BackendName::new(n)).collect::<Vec<_>>();
        let limits = config.limits.clone();
        let id = TenantId::new(name);
        let counted = Limits::new(&id, &limits, fleet, metrics, before.map(|before| &*before.counted));
        let policies = policies(&limits);
        let listeners = listeners(&limits);
        let new = || Account::new(id.clone(), config.weight, limits.max_queued);
        Self {
            // One account for both: who waits already has the new weight too, once it is in force.
            account: before.map_or_else(new, |before| Arc::clone(&before.account)),
            weight: config.weight,
            databases: pick(&own(&config.databases), databases, name, metrics),
            caches: pick(&own(&config.caches), caches, name, metrics),
            settings: config.settings.clone(),
            policy_header: header(policies.iter()),
            stream_policy_header: header(policies.iter().chain(&listeners)),
            counted: Arc::new(counted),
            lanes: config.lanes,
            limits,
            id,
        }
    }

    /// It takes the place of the one before: those who wait have their turns by its weight.
    pub fn take_over(&self) {
        self.account.change(self.weight, self.limits.max_queued);
    }

    /// True if a request may change this PostgreSQL setting for itself.
    pub fn allows_setting(&self, name: &str) -> bool {
        setting::allows(&self.settings, name)
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        self.counted.in_flight.limit.count()
    }

    /// Event streams open now.
    pub fn listeners(&self) -> u32 {
        self.counted.listeners.limit.count()
    }
}

fn pick<T>(
    names: &[BackendName],
    all: &BTreeMap<BackendName, Arc<T>>,
    tenant: &str,
    metrics: &Metrics,
) -> BTreeMap<BackendName, (Arc<T>, RouteMetrics)> {
    let found = names.iter().filter_map(|name| all.get_key_value(name));
    found.map(|(name, it)| (name.clone(), (Arc::clone(it), metrics.route(tenant, name.as_str())))).collect()
}

/// Those that are enforced, as `RateLimit-Policy` tells them. Source: draft-ietf-httpapi-ratelimit-headers, structured-field lists.
fn policies(limits: &LimitsConfig) -> Vec<String> {
    const DAY: &str = ";w=86400";
    let all = [
        (policy::REQUESTS, limits.requests_per_second.map(u64::from), ";w=1"),
        (policy::REQUESTS_PER_MINUTE, limits.requests_per_minute.map(u64::from), ";w=60"),
        (policy::REQUESTS_PER_HOUR, limits.requests_per_hour.map(u64::from), ";w=3600"),
        (policy::DATABASE_MS, limits.database_ms_per_second.map(u64::from), ";qu=\"database-milliseconds\";w=1"),
        (policy::REQUESTS_PER_DAY, limits.requests_per_day, DAY),
        (policy::ROWS_PER_DAY, limits.rows_per_day, ";qu=\"rows\";w=86400"),
        (policy::BYTES_PER_DAY, limits.bytes_per_day, ";qu=\"content-bytes\";w=86400"),
        (policy::DATABASE_MS_PER_DAY, limits.database_ms_per_day, ";qu=\"database-milliseconds\";w=86400"),
        (policy::IN_FLIGHT, limits.in_flight.map(u64::from), ";qu=\"concurrent-requests\""),
    ];
    let enforced = all.into_iter().filter(|(name, ..)| !limits.shadow.covers(name));
    enforced.filter_map(|(name, limit, rest)| Some(format!("\"{name}\";q={}{rest}", limit?))).collect()
}

fn listeners(limits: &LimitsConfig) -> Option<String> {
    let name = policy::LISTENERS;
    (!limits.shadow.covers(name)).then(|| format!("\"{name}\";q={};qu=\"event-streams\"", limits.listeners))
}

fn header<'p>(policies: impl Iterator<Item = &'p String>) -> Option<HeaderValue> {
    let text = policies.map(String::as_str).collect::<Vec<_>>().join(", ");
    let value = || HeaderValue::from_str(&text).expect("numbers and words of our own are header text");
    (!text.is_empty()).then(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_allows_the_settings_it_lists_and_by_default_none() {
        let tenant = |settings: &[&str]| {
            let settings = settings.iter().map(|entry| (*entry).to_owned()).collect();
            let config = TenantConfig { settings, ..TenantConfig::default() };
            Tenant::new("acme", &config, &BTreeMap::new(), &BTreeMap::new(), None, &Metrics::new(), None)
        };
        let acme = tenant(&["app.*", "search_path"]);
        assert!(acme.allows_setting("App.user_id") && acme.allows_setting("SEARCH_PATH"));
        assert!(!acme.allows_setting("role") && !acme.allows_setting("app"));
        assert!(!tenant(&[]).allows_setting("search_path"));
    }
}
