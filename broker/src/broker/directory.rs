//! Tenants of the control database, as this broker has them in force.
//!
//! A tenant is one [`Record`] with its keys: whoever finds a key has the policy that it was stored with. A change makes another
//! record and puts it in the place of the old one, for that tenant alone. What a tenant needs to be served (counters, a rate,
//! metrics) is made with its first request: an idle one is a name, its keys and a pointer to a policy that others have too.

mod uses;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;

pub use self::uses::Unwritten;
use self::uses::Uses;
use self::work::{Work, bad_keys, policy_of, without};
use super::Broker;
use super::sharded::Sharded;
use crate::base::{KeyId, TenantId};
use crate::config::{Fault, TenantConfig};
use crate::control::{Change, Snapshot, StoredTenant};
use crate::identity::error::TokenFault;
use crate::identity::key::in_time;
use crate::identity::{AuthError, Grant, Identity, Principal, Via};
use crate::observe::StoredCounts;
use crate::tenant::Tenant;

/// Two hundred of two hundred thousand keys in each.
const SHARDS: usize = 1024;

/// Tenants of the control database.
pub struct Directory {
    tenants: Sharded<TenantId, Arc<Record>>,
    keys: Sharded<KeyId, Arc<Record>>,
    troubles: Mutex<BTreeMap<TenantId, Trouble>>,
    /// Uses of keys that are not in force any more. Nobody asks for it while a request is served.
    left: Mutex<Vec<Unwritten>>,
}

/// One tenant in force.
pub struct Record {
    row: Arc<StoredTenant>,
    /// The row's, which is good here.
    policy: Arc<TenantConfig>,
    /// Made with the first request.
    tenant: OnceLock<Arc<Tenant>>,
    uses: Uses,
}

/// Why a stored tenant is not in force as it is stored.
#[derive(Clone)]
pub struct Trouble {
    /// What is wrong with its rows; empty: the file has a tenant of that name, which wins.
    pub faults: Vec<Fault>,
    /// It is in force, with the bad parts as they were before, or without them.
    pub is_in_force: bool,
    /// Its rows: another configuration may make them good.
    latest: Arc<StoredTenant>,
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
    /// Its place among the record's keys.
    at: usize,
    /// SHA-256 of its secret.
    pub sha256: [u8; 32],
}

impl StoredKeyFound {
    /// Whose it is, ready to be served. For one whose secret was right: the tenant is in use from here on, and the key was used
    /// now. Errors: its tenant is suspended; it is too early or too late.
    pub fn resolve(&self, now: Timestamp, broker: &Broker) -> Result<Principal, AuthError> {
        let row = &self.record.row;
        let key = &row.keys[self.at];
        if row.suspended {
            return Err(AuthError::Suspended);
        }
        in_time(key.not_before, key.expires, now)?;
        self.record.uses.note(row.keys.len(), self.at, now);
        let grant = Grant {
            tenant: Arc::clone(self.record.tenant(broker)),
            identity: Identity::new(Via::Key, key.id.as_str()),
            scopes: key.scopes.to_vec(),
            statements: key.statements.clone(),
            settings: BTreeMap::new(),
        };
        Ok(grant.into())
    }
}

impl Record {
    fn new(row: Arc<StoredTenant>, policy: Arc<TenantConfig>, before: Option<&Self>, broker: &Broker) -> Arc<Self> {
        let uses = before.map_or_else(Uses::default, |before| before.uses.over(&before.row.keys, &row.keys));
        let record = Self { row, policy, tenant: OnceLock::new(), uses };
        // What is in flight and used up stays counted. A first request at this very moment may be counted apart, once.
        if let Some(old) = before.and_then(|before| before.tenant.get()) {
            let made = record.made(broker, Some(old));
            made.take_over();
            let _ = record.tenant.set(Arc::new(made));
        }
        Arc::new(record)
    }

    fn tenant(&self, broker: &Broker) -> &Arc<Tenant> {
        self.tenant.get_or_init(|| Arc::new(self.made(broker, None)))
    }

    fn made(&self, broker: &Broker, before: Option<&Tenant>) -> Tenant {
        let Broker { databases, caches, fleet, metrics, .. } = broker;
        Tenant::new(self.row.name.as_str(), &self.policy, databases, caches, fleet.as_ref(), metrics, before)
    }
}

impl Default for Directory {
    /// Nothing stored, and hardly any memory.
    fn default() -> Self {
        Self::of(1)
    }
}

impl Directory {
    /// An empty one with room for many.
    pub fn roomy() -> Self {
        Self::of(SHARDS)
    }

    fn of(shards: usize) -> Self {
        let (tenants, keys) = (Sharded::new(shards), Sharded::new(shards));
        Self { tenants, keys, troubles: Mutex::default(), left: Mutex::default() }
    }

    /// A key by its public half.
    pub fn key(&self, id: &str) -> Option<StoredKeyFound> {
        let record = self.keys.get(id)?;
        let at = record.row.keys.iter().position(|key| key.id.as_str() == id)?;
        let sha256 = record.row.keys[at].sha256;
        Some(StoredKeyFound { record, at, sha256 })
    }

    /// True if a tenant in force may use a database or a cache; without one, if there is the tenant.
    pub fn may_use(&self, tenant: &str, backend: Option<&str>) -> bool {
        let Some(record) = self.tenants.get(tenant) else { return false };
        let policy = &record.policy;
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

    /// A tenant in force by its name, ready to be served, for whoever was verified as its own. Errors: there is none, or it is
    /// suspended.
    pub fn tenant(&self, name: &str, broker: &Broker) -> Result<Arc<Tenant>, AuthError> {
        let record = self.tenants.get(name).ok_or(TokenFault::Tenant)?;
        if record.row.suspended { Err(AuthError::Suspended) } else { Ok(Arc::clone(record.tenant(broker))) }
    }

    /// Puts what has changed in force. `broker` is the one that this directory is part of. One at a time.
    pub fn apply(&self, snapshot: Snapshot, broker: &Broker) {
        let mut work = Work::new(broker);
        if snapshot.is_whole {
            self.forget_others(&snapshot.changes, &mut work);
        }
        for Change { name, row } in snapshot.changes {
            let old = self.tenants.get(name.as_str());
            let Some(row) = row else {
                self.locked().remove(&name);
                work.replace(&name, old.as_deref(), None);
                continue;
            };
            // Read again and not changed: nothing is made anew.
            let is_same =
                old.as_ref().is_some_and(|old| old.row.is_same(&row)) && self.trouble(name.as_str()).is_none();
            if !is_same {
                self.take(Arc::new(row), old.as_deref(), &mut work);
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
            // What was no good may be good by now, and the other way round.
            let trouble = troubles.remove(&record.row.name);
            let row = trouble.map_or_else(|| Arc::clone(&record.row), |trouble| trouble.latest);
            next.take(row, Some(&*record), &mut work);
        }
        for trouble in troubles.into_values() {
            next.take(trouble.latest, None, &mut work);
        }
        work.finish(&next);
        // Here too they stay: the next broker may come to nothing, and what is written twice is the same.
        next.leave(self.left().iter().cloned());
        next
    }

    /// One tenant as it is stored now. Bad parts stay as they were: the policy, and each key by itself. So a key that was revoked
    /// and a tenant that was suspended are refused, whatever else is wrong.
    fn take(&self, row: Arc<StoredTenant>, old: Option<&Record>, work: &mut Work<'_>) {
        let name = row.name.clone();
        let broker = work.broker;
        if broker.tenants.contains_key(name.as_str()) {
            work.tell(|| {
                tracing::warn!(tenant.id = %name, "the tenant `{name}` stands in the file and in the control database: the file's is in force");
            });
            work.replace(&name, old, None);
            self.locked().insert(name, Trouble { faults: Vec::new(), is_in_force: false, latest: row });
            return;
        }
        let mut faults = Vec::new();
        let Some(policy) = policy_of(&row, old, work, &mut faults) else {
            work.replace(&name, old, None);
            return self.note(row, faults, false, work);
        };
        let bad = bad_keys(&row, &policy, work, &mut faults);
        for key in row.keys.iter().filter(|key| broker.keys.contains_key(key.id.as_str())) {
            work.tell(|| {
                tracing::warn!(tenant.id = %name, "the key `{}` stands in the file and in the control database: the file's is in force", key.id);
            });
        }
        if faults.is_empty() {
            self.locked().remove(&name);
            work.replace(&name, old, Some(Record::new(row, policy, old, broker)));
            return;
        }
        let good = Arc::new(without(&row, &policy, &bad, old));
        work.replace(&name, old, Some(Record::new(good, policy, old, broker)));
        self.note(row, faults, true, work);
    }

    /// Notes and tells what is wrong with a tenant.
    fn note(&self, latest: Arc<StoredTenant>, faults: Vec<Fault>, is_in_force: bool, work: &mut Work<'_>) {
        let name = latest.name.clone();
        work.tell(|| {
            let told = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let then = if is_in_force { "what is bad stays as it was" } else { "it is not in force" };
            tracing::error!(tenant.id = %name, "the tenant `{name}` of the control database has faults, {then}: {told}");
        });
        self.locked().insert(name, Trouble { faults, is_in_force, latest });
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
