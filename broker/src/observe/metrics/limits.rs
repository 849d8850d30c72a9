//! What limits decide, and how brokers share them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Counters, family};
use crate::base::TenantId;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    tenant: String,
    policy: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AskLabels {
    result: &'static str,
}

/// The families of limits.
#[derive(Clone)]
pub(super) struct Limits {
    decisions: Counters<DecisionLabels>,
    fleet: FleetMetrics,
}

impl Limits {
    pub(super) fn register(r: &mut Registry) -> Self {
        let decisions = "Requests that a tenant's limit has allowed, refused, or would have refused (shadow_refused)";
        Self {
            decisions: family(r, "limit_decisions", decisions),
            fleet: FleetMetrics {
                brokers: family(r, "fleet_brokers", "Live brokers that share limits, as last told by Redis"),
                reachable: family(
                    r,
                    "fleet_reachable",
                    "1 while limits are shared, 0 while each broker keeps to its part",
                ),
                awake: family(r, "fleet_active_limits", "Shared limits in use now, which leases are fetched for"),
                asks: family(r, "fleet_asks", "Leases asked of Redis: ok, late (it did nothing), failed"),
            },
        }
    }

    pub(super) fn of(&self, tenant: &TenantId, policy: &'static str) -> LimitMetrics {
        LimitMetrics { family: self.decisions.clone(), tenant: tenant.clone(), policy, counters: OnceLock::new() }
    }

    pub(super) fn fleet(&self) -> FleetMetrics {
        self.fleet.clone()
    }
}

/// The decisions of one limit of one tenant. They stand in a scrape from the first one on: most of many tenants are idle.
pub struct LimitMetrics {
    family: Counters<DecisionLabels>,
    tenant: TenantId,
    policy: &'static str,
    counters: OnceLock<[Counter<u64, AtomicU64>; 3]>,
}

impl LimitMetrics {
    fn counters(&self) -> &[Counter<u64, AtomicU64>; 3] {
        self.counters.get_or_init(|| {
            ["allowed", "refused", "shadow_refused"].map(|outcome| {
                let labels = DecisionLabels { tenant: self.tenant.to_string(), policy: self.policy, outcome };
                self.family.get_or_create_owned(&labels)
            })
        })
    }

    /// The limit had room.
    pub fn allowed(&self) {
        self.counters()[0].inc();
    }

    /// The limit refused.
    pub fn refused(&self) {
        self.counters()[1].inc();
    }

    /// The limit would have refused, were it enforced.
    pub fn shadow_refused(&self) {
        self.counters()[2].inc();
    }
}

/// How brokers share limits.
#[derive(Clone)]
pub struct FleetMetrics {
    /// Live brokers.
    pub brokers: Gauge<i64, AtomicI64>,
    /// Whether Redis answers.
    pub reachable: Gauge<i64, AtomicI64>,
    /// Shared limits in use.
    pub awake: Gauge<i64, AtomicI64>,
    asks: Counters<AskLabels>,
}

impl FleetMetrics {
    /// Counts leases that were asked for.
    pub fn asked(&self, result: &'static str, count: u64) {
        self.asks.get_or_create(&AskLabels { result }).inc_by(count);
    }
}
