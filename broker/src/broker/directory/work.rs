//! What changes on its way into the directory: what is good of it, and what stays as it was.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Broker, Directory, Record, Unwritten};
use crate::base::{KeyId, TenantId};
use crate::config::{Fault, TenantConfig, policy_faults, statement_faults};
use crate::control::StoredTenant;

/// Troubles that one reading tells in the log.
const MOST_TOLD: usize = 50;

/// Changes on their way into the maps, which are written once at the end.
pub(super) struct Work<'b> {
    /// The broker that the directory is part of.
    pub broker: &'b Broker,
    tenants: Vec<(TenantId, Option<Arc<Record>>)>,
    /// Keys that their tenants have no more. Another tenant may have them now.
    gone_keys: Vec<KeyId>,
    keys: Vec<(KeyId, Arc<Record>)>,
    /// The last uses of keys that are gone: whoever revokes one may want to know.
    left: Vec<Unwritten>,
    /// Policies that were checked already: most tenants have one of a few. Each is held, so that its address stays its own.
    checked: HashMap<*const TenantConfig, (Arc<TenantConfig>, Vec<Fault>)>,
    told: usize,
}

impl<'b> Work<'b> {
    pub fn new(broker: &'b Broker) -> Self {
        let (tenants, gone_keys, keys) = (Vec::new(), Vec::new(), Vec::new());
        Self { broker, tenants, gone_keys, keys, left: Vec::new(), checked: HashMap::new(), told: 0 }
    }

    /// Another record in the place of an old one. Keys that the new one has not are taken away.
    pub fn replace(&mut self, name: &TenantId, old: Option<&Record>, new: Option<Arc<Record>>) {
        let is_gone = |id: &KeyId| new.as_ref().is_none_or(|new| new.row.key(id.as_str()).is_none());
        if let Some(old) = old {
            self.gone_keys.extend(old.row.keys.iter().map(|key| &key.id).filter(|id| is_gone(id)).cloned());
            self.left.extend(old.uses.unwritten(&old.row.keys).filter(|unwritten| is_gone(&unwritten.id)));
        }
        if let Some(new) = &new {
            self.keys.extend(new.row.keys.iter().map(|key| (key.id.clone(), Arc::clone(new))));
        }
        self.tenants.push((name.clone(), new));
    }

    /// Every fault of a policy under what there is here.
    pub fn policy_faults(&mut self, policy: &Arc<TenantConfig>) -> Vec<Fault> {
        let known = &self.broker.known;
        let check = || (Arc::clone(policy), policy_faults(policy, known));
        self.checked.entry(Arc::as_ptr(policy)).or_insert_with(check).1.clone()
    }

    /// Tells the first few; metrics and the admin interface have them all.
    pub fn tell(&mut self, tell: impl FnOnce()) {
        self.told += 1;
        match self.told.cmp(&MOST_TOLD) {
            Ordering::Less => tell(),
            Ordering::Equal => {
                tracing::error!("there is more trouble with stored tenants; `GET /admin/v1/control` has it all");
            }
            Ordering::Greater => {}
        }
    }

    pub fn finish(self, directory: &Directory) {
        directory.tenants.apply(self.tenants);
        let gone = self.gone_keys.into_iter().map(|id| (id, None));
        directory.leave(self.left);
        directory.keys.apply(gone.chain(self.keys.into_iter().map(|(id, record)| (id, Some(record)))));
    }
}

/// The policy to be in force: the row's, where it is good here, else the one before.
pub(super) fn policy_of(
    row: &StoredTenant,
    old: Option<&Record>,
    work: &mut Work<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Arc<TenantConfig>> {
    match &row.policy {
        Err(found) => faults.extend(found.iter().cloned()),
        Ok(policy) => {
            faults.extend(work.policy_faults(policy));
            if faults.is_empty() {
                return Some(Arc::clone(policy));
            }
        }
    }
    old.map(|old| Arc::clone(&old.policy))
}

/// Keys that are no good here.
pub(super) fn bad_keys(
    row: &StoredTenant,
    policy: &TenantConfig,
    work: &Work<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<KeyId> {
    faults.extend(row.bad_keys.iter().map(|(_, fault)| fault.clone()));
    let mut bad: Vec<KeyId> = row.bad_keys.iter().map(|(id, _)| id.clone()).collect();
    for key in &row.keys {
        let Some(names) = &key.statements else { continue };
        let found = statement_faults(names, &key.scopes, policy, &work.broker.known);
        if !found.is_empty() {
            bad.push(key.id.clone());
        }
        let found = found.into_iter();
        faults.extend(found.map(|fault| Fault::new(format!("keys[{}].{}", key.id, fault.path), fault.message)));
    }
    bad
}

/// The row with what was good before in the place of what is bad.
pub(super) fn without(
    row: &StoredTenant,
    policy: &Arc<TenantConfig>,
    bad: &[KeyId],
    old: Option<&Record>,
) -> StoredTenant {
    let good = row.keys.iter().filter(|key| !bad.contains(&key.id)).cloned();
    let before = bad.iter().filter_map(|id| old?.row.key(id.as_str()).cloned());
    let keys = good.chain(before).collect();
    let (name, suspended) = (row.name.clone(), row.suspended);
    StoredTenant { name, policy: Ok(Arc::clone(policy)), keys, bad_keys: Box::default(), suspended }
}
