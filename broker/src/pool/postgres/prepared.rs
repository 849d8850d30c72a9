//! Prepared statements: what is known of one, a bounded cache on each session, and a pool-wide memory of what has been seen
//! before.
//!
//! A statement is kept prepared from its second sighting on, so that one-off texts do not push out the ones in use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio_postgres::types::Type;

use crate::encode::Columns;
use crate::encode::columns::{Field, Format};

/// Fingerprints remembered by one pool before the memory starts anew. At 8 bytes each: 64 KiB.
const SIGHTINGS: usize = 8_192;

/// Longer texts are not kept: they are written by programs, once. Unit: bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// What a statement takes and gives.
pub struct Shape {
    params: Vec<Type>,
    fields: Vec<Field>,
    /// Its columns, in every format asked for so far: eight at the most. The lock guards a look-up.
    layouts: Mutex<Vec<(Format, Arc<Columns>)>>,
}

impl Shape {
    /// The shape of a statement with these placeholders and these columns.
    pub fn new(params: Vec<Type>, fields: Vec<Field>) -> Self {
        Self { params, fields, layouts: Mutex::default() }
    }

    /// The result's columns, prepared for writing in `format`.
    pub fn columns(&self, format: Format) -> Arc<Columns> {
        let mut layouts = self.layouts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, columns)) = layouts.iter().find(|(known, _)| *known == format) {
            return Arc::clone(columns);
        }
        let columns = Arc::new(Columns::new(&self.fields, format));
        layouts.push((format, Arc::clone(&columns)));
        columns
    }

    /// The types of the placeholders, in order.
    pub fn params(&self) -> &[Type] {
        &self.params
    }

    /// The result's columns, in order; empty for a statement without a result.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// A statement prepared on one session.
pub struct Prepared {
    /// Its name there.
    pub name: String,
    /// What it takes and gives.
    pub shape: Shape,
}

/// The statements prepared on one session; the least recently used goes first.
pub struct PreparedCache<P> {
    entries: HashMap<String, Entry<P>>,
    capacity: usize,
    clock: u64,
}

struct Entry<P> {
    prepared: Arc<P>,
    used: u64,
}

impl<P> PreparedCache<P> {
    /// An empty cache for at most `capacity` statements.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, clock: 0 }
    }

    /// The statement under `key`, now the most recently used.
    pub fn get(&mut self, key: &str) -> Option<Arc<P>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(Arc::clone(&entry.prepared))
    }

    /// True if a statement under `key` would be kept.
    pub fn has_room_for(&self, key: &str) -> bool {
        self.capacity > 0 && key.len() <= MAX_TEXT_BYTES
    }

    /// Keeps `prepared` under `key`, and gives back what had to go.
    pub fn insert(&mut self, key: &str, prepared: Arc<P>) -> Vec<Arc<P>> {
        if !self.has_room_for(key) {
            return vec![prepared];
        }
        let mut gone: Vec<Arc<P>> = self.remove(key).into_iter().collect();
        while self.entries.len() >= self.capacity {
            // A scan over 200 entries, and only when a new statement meets a full cache.
            let Some(oldest) = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(key, _)| key.clone()) else {
                break;
            };
            gone.extend(self.remove(&oldest));
        }
        self.clock += 1;
        self.entries.insert(key.to_owned(), Entry { prepared, used: self.clock });
        gone
    }

    /// Takes one statement out.
    pub fn remove(&mut self, key: &str) -> Option<Arc<P>> {
        self.entries.remove(key).map(|entry| entry.prepared)
    }

    /// Takes all out.
    pub fn clear(&mut self) -> Vec<Arc<P>> {
        self.entries.drain().map(|(_, entry)| entry.prepared).collect()
    }
}

/// Which statements a pool has seen. Bounded: when full it starts anew, and a statement in use is soon seen again.
#[derive(Default)]
pub struct Sightings {
    seen: Mutex<std::collections::HashSet<u64>>,
}

impl Sightings {
    /// Notes a sighting of `key`; true when it is not the first. The lock guards one look-up.
    pub fn seen_before(&self, key: &str) -> bool {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let fingerprint = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.len() >= SIGHTINGS {
            seen.clear();
        }
        !seen.insert(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_counts_as_known_from_its_second_sighting() {
        let sightings = Sightings::default();
        assert!(!sightings.seen_before("select 1"));
        assert!(sightings.seen_before("select 1"));
        for n in 0..2 * SIGHTINGS {
            sightings.seen_before(&format!("select {n}"));
        }
        assert!(sightings.seen.lock().expect("not poisoned").len() <= SIGHTINGS);
    }

    #[test]
    fn what_has_to_go_is_given_back_so_that_it_can_be_closed() {
        let mut cache = PreparedCache::new(2);
        assert!(cache.insert("a", Arc::new(1)).is_empty());
        assert!(cache.insert("b", Arc::new(2)).is_empty());
        assert_eq!(cache.get("a").as_deref(), Some(&1));
        assert_eq!(cache.insert("c", Arc::new(3)), [Arc::new(2)], "the least recently used");
        assert_eq!(cache.insert("c", Arc::new(4)), [Arc::new(3)], "the one of the same text");
        assert_eq!(cache.insert(&"x".repeat(MAX_TEXT_BYTES + 1), Arc::new(5)), [Arc::new(5)], "a text too long");
        assert_eq!(cache.clear().len(), 2);
    }
}
