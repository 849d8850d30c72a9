//! What one tenant may use, and how much: the configuration's words, resolved once.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::inflight::InFlight;
use super::rate::Rate;
use crate::base::{BackendName, TenantId};
use crate::config::{LimitsConfig, TenantConfig, setting};
use crate::observe::{Metrics, RouteMetrics};
use crate::pool::{Account, Cache, Database};

/// One tenant.
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// The same, as the queues for connections know it.
    pub account: Arc<Account>,
    /// Its databases, each with the metrics of its requests there.
    pub databases: BTreeMap<BackendName, (Arc<Database>, RouteMetrics)>,
    /// Its caches, each with the metrics of its requests there.
    pub caches: BTreeMap<BackendName, (Arc<Cache>, RouteMetrics)>,
    /// Settings that a request may change for itself.
    settings: Vec<String>,
    /// Ceilings of each request.
    pub limits: LimitsConfig,
    /// The `RateLimit-Policy` header; `None` for an unlimited tenant.
    pub policy_header: Option<String>,
    pub(super) rate: Option<Arc<Rate>>,
    pub(super) in_flight: InFlight,
    pub(super) listeners: InFlight,
    /// Whether its short reads may share sessions with others.
    pub lanes: bool,
}

impl Tenant {
    /// Resolves one tenant's configuration; names that are not there were refused before.
    pub fn new(
        name: &str,
        config: &TenantConfig,
        databases: &BTreeMap<BackendName, Arc<Database>>,
        caches: &BTreeMap<BackendName, Arc<Cache>>,
        metrics: &Metrics,
    ) -> Self {
        let own = |names: &[String]| names.iter().map(|n| BackendName::new(n)).collect::<Vec<_>>();
        let limits = config.limits.clone();
        Self {
            account: Account::new(TenantId::new(name), config.weight, limits.max_queued),
            id: TenantId::new(name),
            databases: pick(&own(&config.databases), databases, name, metrics),
            caches: pick(&own(&config.caches), caches, name, metrics),
            settings: config.settings.clone(),
            policy_header: policy_header(&limits),
            rate: rate(&limits).map(|(per_second, burst)| Arc::new(Rate::new(per_second, burst))),
            in_flight: InFlight::new(limits.in_flight),
            listeners: InFlight::new(Some(limits.listeners)),
            lanes: config.lanes,
            limits,
        }
    }

    /// The same tenant under another configuration: what it has in flight and has used up of its rate stays counted.
    #[must_use]
    pub fn continuing(mut self, before: &Self) -> Self {
        self.in_flight = before.in_flight.under(self.in_flight.limit());
        self.listeners = before.listeners.under(self.listeners.limit());
        // One account for both: who waits already has the new weight too.
        before.account.change(self.account.weight(), self.account.max_queued());
        self.account = Arc::clone(&before.account);
        if let (Some((per_second, burst)), Some(old)) = (rate(&self.limits), &before.rate) {
            let same = old.is(per_second, burst);
            self.rate = Some(if same { Arc::clone(old) } else { Arc::new(old.under(per_second, burst)) });
        }
        self
    }

    /// True if a request may change this PostgreSQL setting for itself.
    pub fn allows_setting(&self, name: &str) -> bool {
        setting::allows(&self.settings, name)
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.count()
    }

    /// Event streams open now.
    pub fn listeners(&self) -> u32 {
        self.listeners.count()
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

/// Requests a second, and at once.
fn rate(limits: &LimitsConfig) -> Option<(NonZeroU32, NonZeroU32)> {
    let per_second = NonZeroU32::new(limits.requests_per_second?)?;
    Some((per_second, limits.burst.and_then(NonZeroU32::new).unwrap_or(per_second)))
}

/// Source: draft-ietf-httpapi-ratelimit-headers, structured-field lists.
fn policy_header(limits: &LimitsConfig) -> Option<String> {
    let rate = limits.requests_per_second.map(|q| format!("\"requests\";q={q};w=1"));
    let in_flight = limits.in_flight.map(|q| format!("\"in-flight\";q={q};qu=\"concurrent-requests\""));
    let parts: Vec<String> = rate.into_iter().chain(in_flight).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_allows_the_settings_it_lists_and_by_default_none() {
        let tenant = |settings: &[&str]| {
            let settings = settings.iter().map(|entry| (*entry).to_owned()).collect();
            let config = TenantConfig { settings, ..TenantConfig::default() };
            Tenant::new("acme", &config, &BTreeMap::new(), &BTreeMap::new(), &Metrics::new())
        };
        let acme = tenant(&["app.*", "search_path"]);
        assert!(acme.allows_setting("App.user_id") && acme.allows_setting("SEARCH_PATH"));
        assert!(!acme.allows_setting("role") && !acme.allows_setting("app"));
        assert!(!tenant(&[]).allows_setting("search_path"));
    }
}
