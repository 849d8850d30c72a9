//! What the statements in use say of themselves, read once. Bounded memory: when it is full it starts anew.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::reading::{Reading, read};

/// Texts remembered, and their bytes all together.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 4 << 20;
/// A longer text is read each time: programs write those, once.
const LONGEST_BYTES: usize = 8 * 1024;

/// Readings by text.
#[derive(Default)]
pub struct Readings {
    /// Locked for one look-up; for writing only where a text is new.
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    by_text: HashMap<Box<str>, Arc<Reading>>,
    bytes: usize,
}

impl Readings {
    /// The reading of a text.
    pub fn of(&self, sql: &str) -> Arc<Reading> {
        if sql.len() > LONGEST_BYTES {
            return Arc::new(read(sql));
        }
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).by_text.get(sql) {
            return Arc::clone(known);
        }
        let reading = Arc::new(read(sql));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.by_text.len() >= MOST || known.bytes + sql.len() > MOST_BYTES {
            *known = Known::default();
        }
        if known.by_text.insert(sql.into(), Arc::clone(&reading)).is_none() {
            known.bytes += sql.len();
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once_and_the_memory_is_bounded() {
        let readings = Readings::default();
        let first = readings.of("SELECT 1");
        assert!(Arc::ptr_eq(&first, &readings.of("SELECT 1")));
        assert_eq!((first.first.as_str(), readings.of("DELETE FROM t").first.as_str()), ("select", "delete"));
        for n in 0..2 * MOST {
            readings.of(&format!("SELECT {n}{}", " ".repeat(1500)));
        }
        let long = "x".repeat(LONGEST_BYTES + 1);
        assert!(!Arc::ptr_eq(&readings.of(&long), &readings.of(&long)));
        let known = readings.known.read().expect("not poisoned");
        assert!(known.by_text.len() <= MOST && known.bytes <= MOST_BYTES, "{}", known.bytes);
        assert_eq!(known.by_text.keys().map(|text| text.len()).sum::<usize>(), known.bytes);
    }
}
