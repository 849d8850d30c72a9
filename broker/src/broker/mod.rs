//! The composition root: everything that handlers hold.
//!
//! A [`Broker`] never changes. `build` makes it from a configuration; [`Live`] holds the one that new requests get, and replaces
//! it on a reload by the next, which keeps what has not changed (`recipe`, `pools`). A request keeps the broker it began with.

mod build;
mod directory;
mod follow;
mod live;
mod pools;
mod recipe;
mod sharded;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::pools::Pools;
use self::recipe::{CacheRecipe, DatabaseRecipe};
use crate::base::{BackendName, KeyId, TenantId};
use crate::config::{BreakerConfig, Known, NamedStatement, Outline, ServerConfig};
use crate::control::Control;
use crate::identity::{AuthError, Breaker, Certificates, Issuers, Key};
use crate::observe::{Audit, Metrics};
use crate::pool::OWN_ACCOUNT;
use crate::pool::server::Servers;
use crate::pool::shards::Shards;
use crate::pool::{Cache, Database, Journal};
use crate::query::{Habits, Readings};
use crate::tenant::{Fleet, Tenant};
use crate::tls::ServerTls;

pub use directory::{Directory, StoredKeyFound, Trouble, Unwritten};
pub use live::{Live, ReloadError, Reloaded};

/// Everything that handlers hold.
pub struct Broker {
    /// What every request is held to.
    pub server: ServerConfig,
    /// Databases by name; of a sharded one every shard, as `database/shard`.
    pub databases: BTreeMap<BackendName, Arc<Database>>,
    /// The shards of the databases that have some.
    pub shards: BTreeMap<BackendName, Shards>,
    /// The named statements of each database.
    pub statements: BTreeMap<BackendName, BTreeMap<String, NamedStatement>>,
    /// What is known of each database's statements.
    pub habits: BTreeMap<BackendName, Arc<Habits>>,
    /// What the statements in use say of themselves.
    pub readings: Arc<Readings>,
    /// Caches by name.
    pub caches: BTreeMap<BackendName, Arc<Cache>>,
    /// The file's tenants by name.
    pub tenants: BTreeMap<TenantId, Arc<Tenant>>,
    /// What shares the tenants' limits with other brokers, if anything does.
    pub fleet: Option<Arc<Fleet>>,
    /// Issuers of tokens, and the tokens that are known.
    pub issuers: Issuers,
    /// Names in client certificates.
    pub certificates: Certificates,
    /// Stands before all of these.
    pub breaker: Arc<Breaker>,
    /// When it refuses.
    pub breaker_limits: BreakerConfig,
    /// The audit log, if there is one.
    pub audit: Option<Arc<Audit>>,
    /// The file's API keys by their public half.
    pub keys: HashMap<KeyId, Key>,
    /// Tenants and keys of the control database, which change while the broker does not. The file's come first.
    pub directory: Arc<Directory>,
    /// How to reach the control database, if there is one.
    pub control: Option<Arc<Control>>,
    /// What policies may name.
    pub known: Known,
    /// Every metric.
    pub metrics: Metrics,
    /// What happened to the pools lately, and what was decided about their sizes.
    pub journal: Arc<Journal>,
    /// TLS on the HTTP interface, if it is not served in clear.
    pub tls: Option<Arc<ServerTls>>,
    /// The admin interface's key as SHA-256.
    pub admin_key: Option<[u8; 32]>,
    /// Requests in flight; closed when the broker drains.
    pub requests: TaskTracker,
    /// Event streams. They end by themselves when the broker drains, and are not waited for as requests are.
    pub streams: TaskTracker,
    /// Cancelled when the broker begins to drain.
    pub draining: CancellationToken,
    /// 1 for the first, and one more for each that took the place of another.
    pub generation: u64,
    /// The longest that any request may last, streams left aside.
    longest_deadline: Duration,
    outline: Outline,
    database_recipes: BTreeMap<BackendName, DatabaseRecipe>,
    cache_recipes: BTreeMap<BackendName, CacheRecipe>,
    servers: Arc<Servers>,
    mark: Arc<str>,
}

impl Broker {
    /// Opens every pool's minimum. A backend that is down is logged, not fatal: it may come back.
    pub async fn warm(&self) {
        self.issuers.start();
        self.join();
        Pools::only(self, None).warm().await;
    }

    /// Begins to share limits with other brokers, once.
    fn join(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.start();
        }
    }

    /// A tenant of the file or of the control database by its name, for whoever was verified as its own. Errors: there is none in
    /// force, or it is suspended.
    pub fn tenant(&self, name: &str) -> Result<Arc<Tenant>, AuthError> {
        self.tenants.get(name).map_or_else(|| self.directory.tenant(name, self), |tenant| Ok(Arc::clone(tenant)))
    }

    /// A named statement of a database.
    pub fn statement(&self, database: &BackendName, name: &str) -> Option<&NamedStatement> {
        self.statements.get(database)?.get(name)
    }

    /// True from the moment the broker begins to drain.
    pub fn is_draining(&self) -> bool {
        self.requests.is_closed()
    }

    /// Closes the pools, once nothing uses them any more.
    pub async fn close(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.leave().await;
        }
        Pools::only(self, None).close().await;
    }

    /// Every metric as text, without what was configured once and is no more.
    pub fn metrics_text(&self) -> String {
        self.metrics.text_where(|labels| self.knows(labels.backend, labels.tenant, labels.endpoint))
    }

    fn knows(&self, backend: Option<&str>, tenant: Option<&str>, endpoint: Option<&str>) -> bool {
        let database = |name: &str| self.databases.get(name);
        let backend_is = backend.is_none_or(|name| database(name).is_some() || self.caches.contains_key(name));
        let tenant_is = tenant.is_none_or(|name| {
            let is_own = name == OWN_ACCOUNT;
            is_own
                || self.directory.may_use(name, backend)
                || self.tenants.get(name).is_some_and(|tenant| {
                    backend.is_none_or(|name| tenant.databases.contains_key(name) || tenant.caches.contains_key(name))
                })
        });
        let endpoint_is = match (backend.and_then(database), endpoint) {
            (Some(database), Some(address)) => database.endpoints().iter().any(|known| known.address() == address),
            _ => true,
        };
        backend_is && tenant_is && endpoint_is
    }
}
