//! How many sessions an endpoint has: what its makers said, what it may have of the server, what is worth keeping.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::decision::{Trigger, Verdict};
use super::demand::Demand;
use super::endpoint::Endpoint;
use super::foresight::Foresight;
use super::health::Health;
use super::lane::Lanes;
use super::ledger::Ledger;
use super::load::Load;
use super::opener::Opening;
use super::postgres::connect::Connector;
use super::queue::{Account, Queue};
use super::registry::Registry;
use super::server::{Role, Server};
use super::service_time::ServiceTime;
use super::share::Claim;
use crate::base::BackendName;
use crate::config::PoolConfig;
use crate::observe::PoolMetrics;

/// deadpool counts a session for as long as anybody has it, closed or not: so much room is for those that were closed under holders
/// who never let go of them. How many there may really be is the limit's business.
const UNRETURNED: usize = 64;

/// What an endpoint is made of.
pub struct Parts {
    /// The database it serves.
    pub backend: BackendName,
    /// What opens its sessions.
    pub connector: Arc<Connector>,
    /// The server it is on.
    pub server: Arc<Server>,
    /// Its zone.
    pub zone: Option<String>,
    /// Its sizes.
    pub config: PoolConfig,
    /// Most callers waiting.
    pub max_waiting: u32,
    /// The database's.
    pub schema_epoch: Arc<AtomicU64>,
    /// The database's.
    pub metrics: PoolMetrics,
}

impl Endpoint {
    /// An endpoint without a session yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { backend, connector, server, zone, config, max_waiting, schema_epoch, metrics } = parts;
        let now = Instant::now();
        Arc::new(Self {
            backend,
            address: connector.address().into(),
            zone,
            server,
            idle: Queue::new(2 * config.max as usize + UNRETURNED),
            own_account: Account::own(),
            ledger: Arc::new(Ledger::default()),
            registry: Registry::default(),
            lanes: Lanes::new(config.lanes.min(config.max / 4) as usize),
            opening: Opening::new(),
            demand: Demand::new(now),
            foresight: Foresight::new(config.forecast, now),
            service: ServiceTime::default(),
            load: Load::new(now),
            limit: AtomicUsize::new(config.max as usize),
            max_waiting,
            schema_epoch,
            generation: AtomicU64::new(0),
            cleaning: TaskTracker::new(),
            metrics: metrics.endpoint(&connector.address()),
            retired_last: Mutex::new(now),
            conserved: AtomicBool::new(true),
            health: Health::default(),
            connector,
            config,
        })
    }

    /// What it asks of the server's room.
    pub(super) fn claim(&self) -> Claim {
        let demand = self.demand.peak(Instant::now()).max(self.in_use());
        Claim { floor: (self.config.min as usize).max(1), demand, ceiling: self.config.max as usize }
    }

    /// It may have so many from now on. What is open beyond goes when it comes back.
    pub(super) fn set_limit(&self, limit: usize, trigger: Trigger) {
        let limit = limit.min(self.config.max as usize);
        let before = self.limit.swap(limit, Ordering::AcqRel);
        if before != limit {
            self.decide(trigger, Verdict::Limit { before });
        }
    }

    /// What is worth keeping open: what was wanted lately, what is foreseen, and the minimum.
    pub(super) fn keep(&self) -> usize {
        self.demand.peak(Instant::now()).max(self.warm())
    }

    /// What is opened without anybody asking.
    pub(super) fn warm(&self) -> usize {
        (self.config.min as usize).max(self.foresight.wanted())
    }

    /// One step of the sweep: demand that lasts is demand, and the server's room is divided anew.
    pub(super) fn plan(&self) {
        self.demand.note(Instant::now(), self.in_use());
        self.server.share();
    }

    /// True where it follows another server, as far as is known.
    pub fn is_replica(&self) -> bool {
        self.server.standing().was == Role::Replica
    }
}
