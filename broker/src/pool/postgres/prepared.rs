//! Prepared statements: a bounded cache on each session, and a pool-wide memory of what has been seen before.
//!
//! A statement is kept prepared from its second sighting on, so that one-off texts do not push out the ones in use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio_postgres::Statement;
use tokio_postgres::types::Type;

use crate::encode::Columns;
use crate::encode::columns::Format;

/// Fingerprints remembered by one pool before the memory starts anew. At 8 bytes each: 64 KiB.
const SIGHTINGS: usize = 8_192;

/// Longer texts are not kept: they are written by programs, once. Unit: bytes.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// A statement prepared on one session, with what the encoder needs to know of it.
pub struct Prepared {
    /// The driver's handle; dropping the last one closes the statement on the server.
    pub statement: Statement,
    /// Its columns, in every format asked for so far: eight at the most. The lock guards a look-up.
    layouts: Mutex<Vec<(Format, Arc<Columns>)>>,
}

impl Prepared {
    /// Wraps the driver's handle.
    pub fn new(statement: Statement) -> Self {
        Self { statement, layouts: Mutex::default() }
    }

    /// The result's columns, prepared for writing in `format`.
    pub fn columns(&self, format: Format) -> Arc<Columns> {
        let mut layouts = self.layouts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, columns)) = layouts.iter().find(|(known, _)| *known == format) {
            return Arc::clone(columns);
        }
        let columns = Arc::new(Columns::new(self.statement.columns(), format));
        layouts.push((format, Arc::clone(&columns)));
        columns
    }

    /// The types of the placeholders, in order.
    pub fn params(&self) -> &[Type] {
        self.statement.params()
    }
}

/// The statements prepared on one session; the least recently used goes first.
pub struct PreparedCache {
    entries: HashMap<String, Entry>,
    capacity: usize,
    clock: u64,
}

struct Entry {
    prepared: Arc<Prepared>,
    used: u64,
}

impl PreparedCache {
    /// An empty cache for at most `capacity` statements.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, clock: 0 }
    }

    /// The statement under `key`, now the most recently used.
    pub fn get(&mut self, key: &str) -> Option<Arc<Prepared>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(Arc::clone(&entry.prepared))
    }

    /// Keeps `prepared` under `key`, making room first.
    pub fn insert(&mut self, key: &str, prepared: Arc<Prepared>) {
        if self.capacity == 0 || key.len() > MAX_TEXT_BYTES {
            return;
        }
        while self.entries.len() >= self.capacity {
            // A scan over 200 entries, and only when a new statement meets a full cache.
            let Some(oldest) = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(key, _)| key.clone()) else {
                break;
            };
            self.entries.remove(&oldest);
        }
        self.clock += 1;
        self.entries.insert(key.to_owned(), Entry { prepared, used: self.clock });
    }

    /// Forgets one statement: its plan no longer fits.
    pub fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Forgets all: the schema has changed.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// How many statements are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when none is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
}
