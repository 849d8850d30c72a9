//! When stored keys were last used: noted by each request without a lock, and asked for now and then by whoever writes it down.

use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;

use super::Directory;
use crate::base::KeyId;
use crate::control::StoredKey;
use crate::identity::LastUsed;

/// Uses of keys that are gone and could not be written. Where nothing can ever be written, they must not fill the memory.
const MOST_LEFT: usize = 10_000;

/// One key's last use, and which use is written.
#[derive(Default)]
struct Use {
    last: LastUsed,
    written: LastUsed,
}

impl Use {
    fn unwritten(&self) -> Option<Timestamp> {
        self.last.at().filter(|last| self.written.at().is_none_or(|written| written < *last))
    }
}

/// The uses of a tenant's keys, in the order of the keys. Made with the first: an idle tenant has an empty pointer.
#[derive(Default)]
pub(super) struct Uses(OnceLock<Box<[Arc<Use>]>>);

impl Uses {
    /// The key at that place, of so many, was used now.
    pub fn note(&self, keys: usize, at: usize, now: Timestamp) {
        self.0.get_or_init(|| std::iter::repeat_with(Arc::default).take(keys).collect())[at].last.note(now);
    }

    /// The same uses for the keys that come in the place of others. A first use at this very moment may be lost; the next is noted.
    #[must_use]
    pub fn over(&self, before: &[StoredKey], after: &[StoredKey]) -> Self {
        let Some(uses) = self.0.get() else { return Self::default() };
        let of = |id: &KeyId| before.iter().position(|key| key.id == *id).map(|at| Arc::clone(&uses[at]));
        Self(OnceLock::from(after.iter().map(|key| of(&key.id).unwrap_or_default()).collect::<Box<[_]>>()))
    }

    /// Those that are not written.
    pub fn unwritten(&self, keys: &[StoredKey]) -> impl Iterator<Item = Unwritten> {
        let used = self.0.get().into_iter().flatten().zip(keys);
        used.filter_map(|(of, key)| Some(Unwritten { id: key.id.clone(), at: of.unwritten()?, of: Arc::clone(of) }))
    }
}

/// A use of a stored key that is not written yet.
#[derive(Clone)]
pub struct Unwritten {
    /// The key.
    pub id: KeyId,
    /// When it was used.
    pub at: Timestamp,
    of: Arc<Use>,
}

impl Unwritten {
    /// It is written now. A later use is another one.
    pub fn is_written(&self) {
        self.of.written.note(self.at);
    }
}

impl Directory {
    /// Every use that is not written, in the order of the keys. Looks at all tenants, which may take some milliseconds.
    pub fn unwritten(&self) -> Vec<Unwritten> {
        let mut all: Vec<Unwritten> = Vec::new();
        for record in self.tenants.values() {
            all.extend(record.uses.unwritten(&record.row.keys));
        }
        let mut left = self.left();
        left.retain(|left| left.of.unwritten().is_some());
        all.extend(left.iter().cloned());
        all.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        all
    }

    /// Keeps uses of keys that are gone.
    pub(super) fn leave(&self, uses: impl IntoIterator<Item = Unwritten>) {
        let mut left = self.left();
        let room = MOST_LEFT.saturating_sub(left.len());
        left.extend(uses.into_iter().take(room));
    }

    pub(super) fn left(&self) -> MutexGuard<'_, Vec<Unwritten>> {
        // Held for a moment and never over a panic of ours.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Record;
    use super::super::work::Work;
    use super::*;
    use crate::base::TenantId;
    use crate::broker::Broker;
    use crate::config::{Scope, TenantConfig, load_text};
    use crate::control::StoredTenant;
    use crate::identity::AuthError;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a moment")
    }

    fn row(ids: &[&str]) -> Arc<StoredTenant> {
        let key = |id: &&str| StoredKey {
            id: KeyId::new(id),
            sha256: [0; 32],
            scopes: Arc::from([Scope::Redis]),
            statements: None,
            not_before: Some(at(10)),
            expires: Some(at(1_000)),
        };
        let policy = Ok(Arc::new(TenantConfig::default()));
        let keys = ids.iter().map(key).collect();
        Arc::new(StoredTenant { name: TenantId::new("acme"), policy, keys, bad_keys: Box::default(), suspended: false })
    }

    /// Puts keys in force, in the place of those before.
    fn put(directory: &Directory, broker: &Broker, ids: &[&str]) {
        let old = directory.tenants.get("acme");
        let mut work = Work::new(broker);
        let record = Record::new(row(ids), Arc::default(), old.as_deref(), broker);
        work.replace(&TenantId::new("acme"), old.as_deref(), Some(record));
        work.finish(directory);
    }

    fn told(directory: &Directory) -> BTreeMap<String, i64> {
        directory.unwritten().iter().map(|unwritten| (unwritten.id.to_string(), unwritten.at.as_second())).collect()
    }

    #[tokio::test]
    async fn uses_outlive_the_change_of_their_tenant_and_keys_that_are_gone() {
        let broker = Broker::new(&load_text("", std::iter::empty()).expect("is good")).expect("is built");
        let directory = Directory::roomy();
        let uses = |id: &str, now| directory.key(id).expect("is in force").resolve(at(now), &broker).map(|_| ());
        put(&directory, &broker, &["b", "a"]);
        assert_eq!((uses("a", 9), uses("a", 1_000)), (Err(AuthError::NotYet), Err(AuthError::Expired)));
        assert!(directory.unwritten().is_empty(), "a refusal is no use");
        let early = directory.key("a").expect("is in force");
        assert_eq!((uses("a", 50), uses("b", 60)), (Ok(()), Ok(())));
        // `b` is revoked, `c` is new; a request that began before counts as well.
        put(&directory, &broker, &["a", "c"]);
        assert!(early.resolve(at(70), &broker).is_ok());
        assert_eq!(told(&directory), BTreeMap::from([("a".to_owned(), 70), ("b".to_owned(), 60)]));
        let seen = directory.unwritten();
        assert_eq!(uses("a", 80), Ok(()));
        seen.iter().for_each(Unwritten::is_written);
        assert_eq!(told(&directory), BTreeMap::from([("a".to_owned(), 80)]), "used since");
        assert!(directory.left().is_empty(), "it is written");
    }

    #[test]
    fn what_can_never_be_written_stays_within_bounds() {
        let directory = Directory::default();
        let of = Arc::new(Use::default());
        of.last.note(at(5));
        let one = Unwritten { id: KeyId::new("k"), at: at(5), of };
        directory.leave(std::iter::repeat_n(one, MOST_LEFT + 5));
        assert_eq!(directory.left().len(), MOST_LEFT);
    }
}
