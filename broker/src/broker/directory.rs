//! Tenants of the control database, as this broker has them in force.
//!
//! A tenant is one [`Record`] with its keys: whoever finds a key has the policy that it was stored with. A change makes another
//! record and puts it in the place of the old one, for that tenant alone. What a tenant needs to be served (counters, a rate,
//! metrics) is made with its first request: an idle one is a name, its keys and a pointer to a policy that others have too.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::sharded::Sharded;
use super::{Broker, Key};
use crate::base::{KeyId, TenantId};
use crate::config::{Fault, TenantConfig, policy_faults, statement_faults};
use crate::control::{Change, Snapshot, StoredTenant};
use crate::observe::StoredCounts;
use crate::tenant::Tenant;

/// Two hundred of two hundred thousand keys in each.
const SHARDS: usize = 1024;
/// Troubles that one reading tells in the log.
const MOST_TOLD: usize = 50;

/// Tenants of the control database.
pub struct Directory {
    tenants: Sharded<TenantId, Arc<Record>>,
    keys: Sharded<KeyId, Arc<Record>>,
    troubles: Mutex<BTreeMap<TenantId, Trouble>>,
}

/// One tenant in force.
pub struct Record {
    row: Arc<StoredTenant>,
    /// Made with the first request.
    tenant: OnceLock<Arc<Tenant>>,
}

/// Why a stored tenant is not in force as it is stored.
#[derive(Clone)]
pub struct Trouble {
    /// What is wrong with its rows; empty: the file has a tenant of that name, which wins.
    pub faults: Vec<Fault>,
    /// It is in force as it was before.
    pub has_last_good: bool,
    /// Its rows, where they could be read: another configuration may make them good.
    latest: Option<Arc<StoredTenant>>,
}

impl Trouble {
    /// The file has a tenant of that name.
    pub fn is_shadowed(&self) -> bool {
        self.faults.is_empty()
    }
}

/// A stored key that was found, whose secret is not checked yet.
pub struct StoredKeyFound {
    record: Arc<Record>,
    /// SHA-256 of its secret.
    pub sha256: [u8; 32],
}

impl StoredKeyFound {
    /// The key, with its tenant ready to be served. For one whose secret was right: the tenant is in use from here on.
    pub fn resolve(&self, id: &str, broker: &Broker) -> Option<(KeyId, Key)> {
        let key = self.record.row.key(id)?;
        let resolved = Key {
            sha256: key.sha256,
            tenant: Arc::clone(self.record.tenant(broker)),
            scopes: Arc::clone(&key.scopes),
            statements: key.statements.clone(),
            expires: key.expires,
        };
        Some((key.id.clone(), resolved))
    }

    /// True while its tenant is suspended.
    pub fn is_suspended(&self) -> bool {
        self.record.row.suspended
    }
}

impl Record {
    fn new(row: Arc<StoredTenant>, before: Option<&Self>, broker: &Broker) -> Arc<Self> {
        let record = Self { row, tenant: OnceLock::new() };
        // What is in flight and used up stays counted. A first request at this very moment may be counted apart, once.
        if let Some(old) = before.and_then(|before| before.tenant.get()) {
            let _ = record.tenant.set(Arc::new(record.made(broker).continuing(old)));
        }
        Arc::new(record)
    }

    fn tenant(&self, broker: &Broker) -> &Arc<Tenant> {
        self.tenant.get_or_init(|| Arc::new(self.made(broker)))
    }

    fn made(&self, broker: &Broker) -> Tenant {
        let Broker { databases, caches, metrics, .. } = broker;
        Tenant::new(self.row.name.as_str(), &self.row.policy, databases, caches, metrics)
    }
}

/// Changes on their way into the maps, which are written once at the end.
struct Work<'b> {
    /// The broker that the directory is part of.
    broker: &'b Broker,
    tenants: Vec<(TenantId, Option<Arc<Record>>)>,
    keys: Vec<(KeyId, Option<Arc<Record>>)>,
    /// Policies that were checked already: most tenants have one of a few. Each is held, so that its address stays its own.
    checked: HashMap<*const TenantConfig, (Arc<TenantConfig>, Vec<Fault>)>,
    told: usize,
}

impl<'b> Work<'b> {
    fn new(broker: &'b Broker) -> Self {
        Self { broker, tenants: Vec::new(), keys: Vec::new(), checked: HashMap::new(), told: 0 }
    }

    /// Another record in the place of an old one. Keys that the new one has not are taken away.
    fn replace(&mut self, name: &TenantId, old: Option<&Record>, new: Option<Arc<Record>>) {
        for key in old.iter().flat_map(|old| &old.row.keys) {
            if new.as_ref().is_none_or(|new| new.row.key(key.id.as_str()).is_none()) {
                self.keys.push((key.id.clone(), None));
            }
        }
        for key in new.iter().flat_map(|new| &new.row.keys) {
            self.keys.push((key.id.clone(), new.clone()));
        }
        self.tenants.push((name.clone(), new));
    }

    /// Every fault of a tenant's rows under what there is here.
    fn faults(&mut self, row: &StoredTenant) -> Vec<Fault> {
        let known = &self.broker.known;
        let check = || (Arc::clone(&row.policy), policy_faults(&row.policy, known));
        let mut faults = self.checked.entry(Arc::as_ptr(&row.policy)).or_insert_with(check).1.clone();
        for key in &row.keys {
            let Some(names) = &key.statements else { continue };
            let found = statement_faults(names, &key.scopes, &row.policy, known).into_iter();
            faults.extend(found.map(|fault| Fault::new(format!("keys[{}].{}", key.id, fault.path), fault.message)));
        }
        faults
    }

    /// Tells the first few; metrics and the admin interface have them all.
    fn tell(&mut self, tell: impl FnOnce()) {
        self.told += 1;
        match self.told.cmp(&MOST_TOLD) {
            Ordering::Less => tell(),
            Ordering::Equal => {
                tracing::error!("there is more trouble with stored tenants; `GET /admin/v1/control` has it all")
            }
            Ordering::Greater => {}
        }
    }

    fn finish(self, directory: &Directory) {
        directory.tenants.apply(self.tenants);
        directory.keys.apply(self.keys);
    }
}

impl Default for Directory {
    /// Nothing stored, and hardly any memory.
    fn default() -> Self {
        Self { tenants: Sharded::new(1), keys: Sharded::new(1), troubles: Mutex::default() }
    }
}

impl Directory {
    /// An empty one with room for many.
    pub fn roomy() -> Self {
        Self { tenants: Sharded::new(SHARDS), keys: Sharded::new(SHARDS), troubles: Mutex::default() }
    }

    /// A key by its public half.
    pub fn key(&self, id: &str) -> Option<StoredKeyFound> {
        let record = self.keys.get(id)?;
        let sha256 = record.row.key(id)?.sha256;
        Some(StoredKeyFound { record, sha256 })
    }

    /// True if a tenant in force may use a database or a cache; without one, if there is the tenant.
    pub fn may_use(&self, tenant: &str, backend: Option<&str>) -> bool {
        let Some(record) = self.tenants.get(tenant) else { return false };
        let policy = &record.row.policy;
        backend.is_none_or(|name| policy.databases.iter().chain(&policy.caches).any(|own| own == name))
    }

    /// Tenants that are not in force as they are stored.
    pub fn troubles(&self) -> BTreeMap<TenantId, Trouble> {
        self.locked().clone()
    }

    /// The same of one tenant.
    pub fn trouble(&self, name: &str) -> Option<Trouble> {
        self.locked().get(name).cloned()
    }

    /// How many of what there are.
    pub fn counts(&self) -> StoredCounts {
        let troubles = self.locked();
        let shadowed = troubles.values().filter(|trouble| trouble.is_shadowed()).count();
        let faulty = troubles.len() - shadowed;
        StoredCounts { tenants: self.tenants.len(), keys: self.keys.len(), faulty, shadowed }
    }

    /// A tenant in force by its name, ready to be served; `None` also while it is suspended.
    pub fn tenant(&self, name: &str, broker: &Broker) -> Option<Arc<Tenant>> {
        let record = self.tenants.get(name).filter(|record| !record.row.suspended)?;
        Some(Arc::clone(record.tenant(broker)))
    }

    /// Puts what has changed in force. `broker` is the one that this directory is part of. One at a time.
    pub fn apply(&self, snapshot: Snapshot, broker: &Broker) {
        let mut work = Work::new(broker);
        if snapshot.is_whole {
            self.forget_others(&snapshot.changes, &mut work);
        }
        for Change { name, row } in snapshot.changes {
            let old = self.tenants.get(name.as_str());
            match row {
                None => {
                    self.locked().remove(&name);
                    work.replace(&name, old.as_deref(), None);
                }
                Some(Ok(row)) => {
                    // Read again and not changed: nothing is made anew.
                    let is_same =
                        old.as_ref().is_some_and(|old| old.row.is_same(&row)) && self.trouble(name.as_str()).is_none();
                    if !is_same {
                        self.take(Arc::new(row), old.as_deref(), &mut work);
                    }
                }
                Some(Err(faults)) => self.keep(&name, faults, None, old.is_some(), &mut work),
            }
        }
        work.finish(self);
    }

    /// The same tenants under another configuration: in another directory, for the broker that will take this one's place.
    /// `broker` is that one.
    #[must_use]
    pub fn under(&self, broker: &Broker) -> Self {
        let next = Self::roomy();
        let mut work = Work::new(broker);
        let mut troubles = self.troubles();
        for record in self.tenants.values() {
            let name = &record.row.name;
            // It goes on as it is, where what is stored is no good; without what the configuration has taken away.
            work.replace(name, None, Some(Record::new(Arc::clone(&record.row), Some(&*record), broker)));
            match troubles.remove(name) {
                None => next.take(Arc::clone(&record.row), Some(&*record), &mut work),
                // What was no good may be good by now.
                Some(Trouble { latest: Some(row), .. }) => next.take(row, Some(&*record), &mut work),
                Some(Trouble { faults, latest: None, .. }) => next.keep(name, faults, None, true, &mut work),
            }
        }
        for (name, trouble) in troubles {
            match trouble.latest {
                Some(row) => next.take(row, None, &mut work),
                None => next.keep(&name, trouble.faults, None, false, &mut work),
            }
        }
        work.finish(&next);
        next
    }

    /// One tenant as it is stored now, if it is good here.
    fn take(&self, row: Arc<StoredTenant>, old: Option<&Record>, work: &mut Work<'_>) {
        let name = row.name.clone();
        let broker = work.broker;
        if broker.tenants.contains_key(name.as_str()) {
            work.tell(|| {
                tracing::warn!(tenant.id = %name, "the tenant `{name}` stands in the file and in the control database: the file's is in force");
            });
            work.replace(&name, old, None);
            self.locked().insert(name, Trouble { faults: Vec::new(), has_last_good: false, latest: Some(row) });
            return;
        }
        let faults = work.faults(&row);
        if !faults.is_empty() {
            return self.keep(&name, faults, Some(row), old.is_some(), work);
        }
        for key in row.keys.iter().filter(|key| broker.keys.contains_key(key.id.as_str())) {
            work.tell(|| {
                tracing::warn!(tenant.id = %name, "the key `{}` stands in the file and in the control database: the file's is in force", key.id);
            });
        }
        self.locked().remove(&name);
        work.replace(&name, old, Some(Record::new(row, old, broker)));
    }

    /// A tenant whose rows are no good stays as it is.
    fn keep(
        &self,
        name: &TenantId,
        faults: Vec<Fault>,
        latest: Option<Arc<StoredTenant>>,
        has_last_good: bool,
        work: &mut Work<'_>,
    ) {
        work.tell(|| {
            let told = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let then = if has_last_good { "it stays as it was" } else { "it is not in force" };
            tracing::error!(tenant.id = %name, "the tenant `{name}` of the control database cannot be used, {then}: {told}");
        });
        self.locked().insert(name.clone(), Trouble { faults, has_last_good, latest });
    }

    /// Takes away what a whole snapshot has not.
    fn forget_others(&self, changes: &[Change], work: &mut Work<'_>) {
        let known: HashSet<&str> = changes.iter().map(|change| change.name.as_str()).collect();
        for record in self.tenants.values() {
            if !known.contains(record.row.name.as_str()) {
                work.replace(&record.row.name, Some(&record), None);
            }
        }
        self.locked().retain(|name, _| known.contains(name.as_str()));
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<TenantId, Trouble>> {
        // Held for a moment and never over a panic of ours.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
