//! From a configuration to a [`Broker`]; and to the next one, which keeps of the last what has not changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::recipe::{CacheRecipe, DatabaseRecipe};
use super::{Broker, Directory};
use crate::base::hex::sha256_from_hex;
use crate::base::{BackendName, KeyId, TenantId};
use crate::config::{Config, ConfigError, DatabaseConfig, Fault, KeyConfig, Known, NamedStatement, TenantConfig};
use crate::control::Control;
use crate::identity::{Breaker, Certificates, Grant, Identity, Issuers, Key, Via};
use crate::observe::{Audit, Metrics};
use crate::pool::database::Surroundings;
use crate::pool::postgres::presence;
use crate::pool::server::Servers;
use crate::pool::shards::Shards;
use crate::pool::{Cache, Database};
use crate::query::Habits;
use crate::tenant::{Fleet, Tenant};
use crate::tls::ServerTls;

type Databases = BTreeMap<BackendName, (Arc<Database>, DatabaseRecipe)>;
type Caches = BTreeMap<BackendName, (Arc<Cache>, CacheRecipe)>;

impl Broker {
    /// Builds the broker; no connection is opened yet. Errors: addresses, secrets and certificates that do not work.
    pub fn new(config: &Config) -> Result<Arc<Self>, ConfigError> {
        build(config, None)
    }

    /// Builds the one that takes this one's place. What has not changed is the same in both: pools with their connections and
    /// what they know, counts of tenants, metrics, requests under way. Errors: as for a new one; this one is as it was.
    pub fn next(&self, config: &Config) -> Result<Arc<Self>, ConfigError> {
        build(config, Some(self))
    }
}

fn build(config: &Config, before: Option<&Broker>) -> Result<Arc<Broker>, ConfigError> {
    let metrics = before.map_or_else(Metrics::new, |before| before.metrics.clone());
    let servers: Arc<Servers> = before.map_or_else(Arc::default, |before| Arc::clone(&before.servers));
    let mark: Arc<str> = before.map_or_else(|| presence::new_mark().into(), |before| Arc::clone(&before.mark));
    let around = Surroundings {
        servers: &servers,
        mark: &mark,
        zone: config.server.zone.as_deref(),
        longest_statement: longest_deadline(config),
        max_waiting: config.server.max_waiting,
    };
    let mut faults = Vec::new();
    let mut keep = |path: String, message: String| faults.push(Fault { path, message });
    let databases = databases(config, before, &around, &metrics, &mut keep);
    let caches = caches(config, before, &metrics, &mut keep);
    let audit = audit(config, before, &metrics, &mut keep);
    let tls = tls(config, before, &mut keep);
    let control = control(config, before, &mut keep);
    let (databases, database_recipes) = unzip(databases);
    let (caches, cache_recipes) = unzip(caches);
    let fleet = fleet(config, before, &caches, &mark, &metrics);
    let tenants = tenants(config, before, &databases, &caches, fleet.as_ref(), &metrics);
    let old_issuers = before.map(|before| &before.issuers);
    let issuers = Issuers::new(&config.identity.jwt, &tenants, old_issuers, &metrics.auth, &mut keep);
    if !faults.is_empty() {
        return Err(ConfigError::Invalid(faults));
    }
    for tenant in tenants.values() {
        tenant.take_over();
    }
    let breaker = before.map_or_else(Arc::<Breaker>::default, |before| Arc::clone(&before.breaker));
    metrics.listener.expires(tls.as_ref().map_or(Duration::ZERO, |tls| tls.expires()));
    let mut broker = Broker {
        server: config.server.clone(),
        shards: shards(config, &databases),
        statements: statements(config),
        habits: habits(&databases, before, &metrics),
        keys: keys(config, &tenants, &breaker, before),
        issuers,
        certificates: Certificates::new(config.tenants.iter(), &tenants),
        breaker,
        breaker_limits: config.identity.breaker.clone(),
        audit,
        databases,
        readings: before.map_or_else(Arc::default, |before| Arc::clone(&before.readings)),
        caches,
        tenants,
        tls,
        fleet,
        directory: Arc::default(),
        control,
        known: Known::of(config),
        admin_key: config.server.admin_key_sha256.as_deref().map(hash),
        requests: before.map_or_else(TaskTracker::new, |before| before.requests.clone()),
        streams: before.map_or_else(TaskTracker::new, |before| before.streams.clone()),
        draining: before.map_or_else(CancellationToken::new, |before| before.draining.clone()),
        generation: before.map_or(1, |before| before.generation + 1),
        longest_deadline: around.longest_statement,
        outline: config.outline.clone(),
        database_recipes,
        cache_recipes,
        journal: Arc::clone(servers.journal()),
        metrics,
        servers,
        mark,
    };
    if broker.control.is_some() {
        broker.directory = directory(&broker, before);
    }
    Ok(Arc::new(broker))
}

/// Stored tenants go over. Where nothing has changed that they rest on they are the same, however many there are.
fn directory(broker: &Broker, before: Option<&Broker>) -> Arc<Directory> {
    let Some(before) = before.filter(|before| before.control.is_some()) else { return Arc::new(Directory::roomy()) };
    let is_same = same(&broker.databases, &before.databases)
        && same(&broker.caches, &before.caches)
        && broker.known == before.known
        && broker.fleet.as_ref().map(Arc::as_ptr) == before.fleet.as_ref().map(Arc::as_ptr)
        && broker.tenants.keys().eq(before.tenants.keys())
        && broker.keys.len() == before.keys.len()
        && broker.keys.keys().all(|id| before.keys.contains_key(id));
    if is_same { Arc::clone(&before.directory) } else { Arc::new(before.directory.under(broker)) }
}

fn same<T>(one: &BTreeMap<BackendName, Arc<T>>, other: &BTreeMap<BackendName, Arc<T>>) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
}

fn control(config: &Config, before: Option<&Broker>, fault: &mut impl FnMut(String, String)) -> Option<Arc<Control>> {
    let made = Control::new(config.control.as_ref()?).map_err(|message| fault("control".to_owned(), message)).ok()?;
    let kept = before.and_then(|before| before.control.as_ref()).filter(|old| old.is_same(&made));
    Some(kept.map_or_else(|| Arc::new(made), Arc::clone))
}

/// Always read anew: a certificate is renewed in its place.
fn tls(config: &Config, before: Option<&Broker>, fault: &mut impl FnMut(String, String)) -> Option<Arc<ServerTls>> {
    let loaded = ServerTls::load(config.server.tls.as_ref()?, before.and_then(|before| before.tls.as_deref()));
    loaded.map(Arc::new).map_err(|message| fault("server.tls".to_owned(), message)).ok()
}

/// The longest that any request may last. The backstop in the server too; a stream sets its own.
fn longest_deadline(config: &Config) -> Duration {
    let stored = config.control.as_ref().map(|control| control.max_timeout);
    let longest = config.tenants.values().map(|t| t.limits.max_timeout).chain(stored).max();
    longest.unwrap_or(Duration::from_mins(1))
}

fn databases(
    config: &Config,
    before: Option<&Broker>,
    around: &Surroundings<'_>,
    metrics: &Metrics,
    fault: &mut impl FnMut(String, String),
) -> Databases {
    let mut made = BTreeMap::new();
    for (name, database) in &config.databases {
        let shards = database.shards.iter().map(|(shard, of)| (format!("{name}/{shard}"), database.shard(of)));
        for (name, config) in std::iter::once((name.clone(), database.clone())).chain(shards) {
            let id = BackendName::new(&name);
            let recipe = DatabaseRecipe::new(&config, around);
            if let Some(kept) = before.and_then(|before| before.kept_database(&id, &recipe)) {
                made.insert(id, kept);
                continue;
            }
            match Database::new(&id, &config, around, &metrics.pool(&name)) {
                Ok(database) => {
                    // An operator who holds the database holds it whatever stands in the file.
                    if before.and_then(|before| before.databases.get(&id)).is_some_and(|old| old.is_paused()) {
                        database.pause();
                    }
                    made.insert(id, (database, recipe));
                }
                Err(message) => fault(format!("databases.{name}"), message),
            }
        }
    }
    made
}

fn caches(
    config: &Config,
    before: Option<&Broker>,
    metrics: &Metrics,
    fault: &mut impl FnMut(String, String),
) -> Caches {
    let mut made = BTreeMap::new();
    for (name, cache) in &config.caches {
        let id = BackendName::new(name);
        let recipe = CacheRecipe::new(cache);
        if let Some(kept) = before.and_then(|before| before.kept_cache(&id, &recipe)) {
            made.insert(id, (kept, recipe));
            continue;
        }
        match Cache::new(id.clone(), cache, &metrics.pool(name)) {
            Ok(cache) => drop(made.insert(id, (cache, recipe))),
            Err(message) => fault(format!("caches.{name}"), message),
        }
    }
    made
}

impl Broker {
    /// The database and its recipe, where one made from `wanted` would be the same.
    fn kept_database(&self, name: &BackendName, wanted: &DatabaseRecipe) -> Option<(Arc<Database>, DatabaseRecipe)> {
        let (database, recipe) = (self.databases.get(name)?, self.database_recipes.get(name)?);
        // Its own recipe stays with it: the backstop it was made with is the one its sessions have.
        recipe.serves(wanted).then(|| (Arc::clone(database), recipe.clone()))
    }

    fn kept_cache(&self, name: &BackendName, wanted: &CacheRecipe) -> Option<Arc<Cache>> {
        (self.cache_recipes.get(name)? == wanted).then(|| self.caches.get(name).map(Arc::clone))?
    }
}

fn unzip<T, R>(made: BTreeMap<BackendName, (T, R)>) -> (BTreeMap<BackendName, T>, BTreeMap<BackendName, R>) {
    made.into_iter().map(|(name, (it, recipe))| ((name.clone(), it), (name, recipe))).unzip()
}

/// Habits of what was kept are kept with it.
fn habits(
    databases: &BTreeMap<BackendName, Arc<Database>>,
    before: Option<&Broker>,
    metrics: &Metrics,
) -> BTreeMap<BackendName, Arc<Habits>> {
    let of = |(name, database): (&BackendName, &Arc<Database>)| {
        let old = before.filter(|before| before.databases.get(name).is_some_and(|old| Arc::ptr_eq(old, database)));
        let habits = old.and_then(|before| before.habits.get(name)).map(Arc::clone);
        (name.clone(), habits.unwrap_or_else(|| Arc::new(Habits::new(metrics.lanes(name.as_str())))))
    };
    databases.iter().map(of).collect()
}

fn tenants(
    config: &Config,
    before: Option<&Broker>,
    databases: &BTreeMap<BackendName, Arc<Database>>,
    caches: &BTreeMap<BackendName, Arc<Cache>>,
    fleet: Option<&Arc<Fleet>>,
    metrics: &Metrics,
) -> BTreeMap<TenantId, Arc<Tenant>> {
    let of = |(name, config): (&String, &TenantConfig)| {
        let old = before.and_then(|before| before.tenants.get(name.as_str())).map(|old| &**old);
        let tenant = Tenant::new(name, config, databases, caches, fleet, metrics, old);
        (tenant.id.clone(), Arc::new(tenant))
    };
    config.tenants.iter().map(of).collect()
}

/// The log goes on where it writes to the same place.
fn audit(
    config: &Config,
    before: Option<&Broker>,
    metrics: &Metrics,
    fault: &mut impl FnMut(String, String),
) -> Option<Arc<Audit>> {
    let target = &config.log.audit;
    if let Some(old) = before.and_then(|before| before.audit.as_ref()).filter(|old| old.is_at(target)) {
        old.reopen();
        return Some(Arc::clone(old));
    }
    Audit::new(target, metrics.auth.audit_dropped()).unwrap_or_else(|message| {
        fault("log.audit".to_owned(), message);
        None
    })
}

/// The fleet goes on where it is the same over the same connections.
fn fleet(
    config: &Config,
    before: Option<&Broker>,
    caches: &BTreeMap<BackendName, Arc<Cache>>,
    mark: &str,
    metrics: &Metrics,
) -> Option<Arc<Fleet>> {
    let cache = caches.get(config.fleet.cache.as_deref()?)?;
    let old = before.and_then(|before| before.fleet.as_ref()).filter(|fleet| fleet.serves(&config.fleet, cache));
    Some(old.map_or_else(|| Fleet::new(&config.fleet, cache, mark, metrics.fleet()), Arc::clone))
}

fn keys(
    config: &Config,
    tenants: &BTreeMap<TenantId, Arc<Tenant>>,
    breaker: &Breaker,
    before: Option<&Broker>,
) -> HashMap<KeyId, Key> {
    let mut keys = HashMap::new();
    for (name, tenant) in &config.tenants {
        for key in &tenant.keys {
            let mut made = resolve(key, &tenants[name.as_str()], breaker);
            if let Some(old) = before.and_then(|before| before.keys.get(key.id.as_str())) {
                made.last_used = Arc::clone(&old.last_used);
            }
            keys.insert(KeyId::new(&key.id), made);
        }
    }
    keys
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

fn statements(config: &Config) -> BTreeMap<BackendName, BTreeMap<String, NamedStatement>> {
    let of = |(name, database): (&String, &DatabaseConfig)| {
        let shards = database.shards.keys().map(|shard| format!("{name}/{shard}")).collect::<Vec<_>>();
        let names = std::iter::once(name.clone()).chain(shards);
        names.map(|name| (BackendName::new(&name), database.statements.clone())).collect::<Vec<_>>()
    };
    config.databases.iter().flat_map(of).collect()
}

fn resolve(key: &KeyConfig, tenant: &Arc<Tenant>, breaker: &Breaker) -> Key {
    let grant = Grant {
        tenant: Arc::clone(tenant),
        identity: Identity::new(Via::Key, &key.id),
        scopes: key.scopes.clone(),
        statements: key.statements.as_deref().map(Arc::from),
        settings: BTreeMap::new(),
    };
    Key {
        sha256: hash(&key.sha256),
        principal: grant.into(),
        not_before: key.not_before,
        expires: key.expires,
        last_used: Arc::default(),
        credential: breaker.key(&key.id),
    }
}

fn hash(text: &str) -> [u8; 32] {
    sha256_from_hex(text).expect("the configuration was validated")
}
