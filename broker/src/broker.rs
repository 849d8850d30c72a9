//! The composition root: from a configuration to everything that handlers hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::hex::sha256_from_hex;
use crate::base::{BackendName, Deadline, KeyId};
use crate::config::{Config, ConfigError, DatabaseConfig, Fault, KeyConfig, NamedStatement, Scope, ServerConfig};
use crate::observe::Metrics;
use crate::pool::database::Surroundings;
use crate::pool::postgres::presence;
use crate::pool::server::Servers;
use crate::pool::shards::Shards;
use crate::pool::{Cache, Database, Journal};
use crate::query::{Habits, Readings};
use crate::tenant::Tenant;

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
    pub habits: BTreeMap<BackendName, Habits>,
    /// What the statements in use say of themselves.
    pub readings: Readings,
    /// Caches by name.
    pub caches: BTreeMap<BackendName, Arc<Cache>>,
    /// API keys by their public half.
    pub keys: HashMap<KeyId, Key>,
    /// Every metric.
    pub metrics: Metrics,
    /// What happened to the pools lately, and what was decided about their sizes.
    pub journal: Arc<Journal>,
    /// The admin interface's key as SHA-256.
    pub admin_key: Option<[u8; 32]>,
    /// Requests in flight; closed when the broker drains.
    pub requests: TaskTracker,
    /// Event streams. They end by themselves when the broker drains, and are not waited for as requests are.
    pub streams: TaskTracker,
    /// Cancelled when the broker begins to drain.
    pub draining: CancellationToken,
}

/// One API key, resolved.
pub struct Key {
    /// SHA-256 of the secret half.
    pub sha256: [u8; 32],
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// What it may do.
    pub scopes: Arc<[Scope]>,
    /// The only named statements it may run; `None`: all, and any SQL.
    pub statements: Option<Arc<[String]>>,
    /// After which it is refused.
    pub expires: Option<Timestamp>,
}

impl Broker {
    /// Builds the broker; no connection is opened yet. Errors: addresses, secrets and certificates that do not work.
    pub fn new(config: &Config) -> Result<Arc<Self>, ConfigError> {
        let metrics = Metrics::new();
        let mut faults = Vec::new();
        let mut keep = |path: String, message: String| faults.push(Fault { path, message });
        let servers = Servers::default();
        let databases = databases(config, &metrics, &servers, &mut keep);
        let caches = caches(config, &metrics, &mut keep);
        if !faults.is_empty() {
            return Err(ConfigError::Invalid(faults));
        }
        let mut keys = HashMap::new();
        for (name, tenant) in &config.tenants {
            let resolved = Arc::new(Tenant::new(name, tenant, &databases, &caches, &metrics));
            for key in &tenant.keys {
                keys.insert(KeyId::new(&key.id), resolve(key, &resolved));
            }
        }
        Ok(Arc::new(Self {
            server: config.server.clone(),
            shards: shards(config, &databases),
            statements: statements(config),
            habits: databases.keys().map(|name| (name.clone(), Habits::new(metrics.lanes(name.as_str())))).collect(),
            databases,
            readings: Readings::default(),
            caches,
            keys,
            metrics,
            journal: Arc::clone(servers.journal()),
            admin_key: config.server.admin_key_sha256.as_deref().map(hash),
            requests: TaskTracker::new(),
            streams: TaskTracker::new(),
            draining: CancellationToken::new(),
        }))
    }

    /// Opens every pool's minimum. A backend that is down is logged, not fatal: it may come back.
    pub async fn warm(&self) {
        let deadline = Deadline::after(Duration::from_secs(10));
        for database in self.databases.values() {
            if let Err(error) = database.warm(deadline).await {
                tracing::warn!(backend.name = %database.name(), error = %chain(&error), "`{}` is not reachable yet", database.name());
            }
        }
        for cache in self.caches.values() {
            if let Err(error) = cache.ping(deadline).await {
                tracing::warn!(backend.name = %cache.name(), error = %chain(&error), "`{}` is not reachable yet", cache.name());
            }
        }
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
        let deadline = Deadline::after(Duration::from_secs(5));
        for database in self.databases.values() {
            database.close(deadline).await;
        }
        for cache in self.caches.values() {
            cache.close();
        }
    }
}

fn databases(
    config: &Config,
    metrics: &Metrics,
    servers: &Servers,
    fault: &mut impl FnMut(String, String),
) -> BTreeMap<BackendName, Arc<Database>> {
    // The backstop in the server is the longest deadline that any tenant of the broker may ask for. A stream sets its own.
    let longest = config.tenants.values().map(|t| t.limits.max_timeout).max().unwrap_or(Duration::from_mins(1));
    let around = Surroundings {
        servers,
        mark: &presence::new_mark(),
        zone: config.server.zone.as_deref(),
        longest_statement: longest,
        max_waiting: config.server.max_waiting,
    };
    let mut made = BTreeMap::new();
    for (name, database) in &config.databases {
        let shards = database.shards.iter().map(|(shard, of)| (format!("{name}/{shard}"), database.shard(of)));
        for (name, config) in std::iter::once((name.clone(), database.clone())).chain(shards) {
            let id = BackendName::new(&name);
            match Database::new(&id, &config, &around, &metrics.pool(&name)) {
                Ok(database) => drop(made.insert(id, database)),
                Err(message) => fault(format!("databases.{name}"), message),
            }
        }
    }
    made
}

fn shards(config: &Config, databases: &BTreeMap<BackendName, Arc<Database>>) -> BTreeMap<BackendName, Shards> {
    let sharded = config.databases.iter().filter(|(_, database)| !database.shards.is_empty());
    sharded
        .map(|(name, database)| {
            let main = std::iter::once((Shards::MAIN.to_owned(), BackendName::new(name)));
            let more =
                database.shards.keys().map(|shard| (shard.clone(), BackendName::new(&format!("{name}/{shard}"))));
            let all = main.chain(more).map(|(shard, id)| (shard, Arc::clone(&databases[&id])));
            (BackendName::new(name), Shards::new(all.collect()))
        })
        .collect()
}

fn caches(
    config: &Config,
    metrics: &Metrics,
    fault: &mut impl FnMut(String, String),
) -> BTreeMap<BackendName, Arc<Cache>> {
    let mut made = BTreeMap::new();
    for (name, cache) in &config.caches {
        let id = BackendName::new(name);
        match Cache::new(id.clone(), cache, &metrics.pool(name)) {
            Ok(cache) => drop(made.insert(id, cache)),
            Err(message) => fault(format!("caches.{name}"), message),
        }
    }
    made
}

fn statements(config: &Config) -> BTreeMap<BackendName, BTreeMap<String, NamedStatement>> {
    let of = |(name, database): (&String, &DatabaseConfig)| {
        let shards = database.shards.keys().map(|shard| format!("{name}/{shard}")).collect::<Vec<_>>();
        let names = std::iter::once(name.clone()).chain(shards);
        names.map(|name| (BackendName::new(&name), database.statements.clone())).collect::<Vec<_>>()
    };
    config.databases.iter().flat_map(of).collect()
}

fn resolve(key: &KeyConfig, tenant: &Arc<Tenant>) -> Key {
    Key {
        sha256: hash(&key.sha256),
        tenant: Arc::clone(tenant),
        scopes: key.scopes.as_slice().into(),
        statements: key.statements.as_deref().map(Arc::from),
        expires: key.expires,
    }
}

fn hash(text: &str) -> [u8; 32] {
    sha256_from_hex(text).expect("the configuration was validated")
}

/// An error with all its causes, for one log line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
