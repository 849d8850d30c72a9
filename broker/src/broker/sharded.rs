//! A map for many readers and few writers: in pieces, each replaced whole.
//!
//! Two hundred thousand keys in one map behind one pointer would be copied for each key that changes; in a thousand pieces
//! two hundred are, in some microseconds. A reader takes one pointer and looks into one small map: no lock, and nothing that
//! grows. A persistent tree (`imbl`) would copy less still, but each look would walk its nodes, and looks are all but everything.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use arc_swap::ArcSwap;

/// A map in pieces. Whoever writes must see to it that nobody else writes at the same time.
pub struct Sharded<K, V> {
    shards: Box<[ArcSwap<HashMap<K, V>>]>,
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    /// An empty map in so many pieces, at least one.
    pub fn new(shards: usize) -> Self {
        let shards = (0..shards.max(1)).map(|_| ArcSwap::default()).collect();
        Self { shards, hasher: RandomState::new() }
    }

    /// What a key has.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.at(key)].load().get(key).cloned()
    }

    /// Sets or, with `None`, takes away. Each piece is replaced once, whatever changes in it; the last change of a key counts.
    pub fn apply(&self, changes: impl IntoIterator<Item = (K, Option<V>)>) {
        let mut by_shard: HashMap<usize, Vec<(K, Option<V>)>> = HashMap::new();
        for (key, value) in changes {
            by_shard.entry(self.at(&key)).or_default().push((key, value));
        }
        for (at, changes) in by_shard {
            let mut next = HashMap::clone(&self.shards[at].load());
            next.reserve(
                changes
                    .iter()
                    .filter(|(_, value)| value.is_some())
                    .count()
                    .saturating_sub(next.capacity() - next.len()),
            );
            for (key, value) in changes {
                match value {
                    Some(value) => drop(next.insert(key, value)),
                    None => drop(next.remove(&key)),
                }
            }
            self.shards[at].store(Arc::new(next));
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    /// Every value, piece by piece.
    pub fn values(&self) -> Vec<V> {
        self.shards.iter().flat_map(|shard| shard.load().values().cloned().collect::<Vec<_>>()).collect()
    }

    fn at<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let hash = self.hasher.hash_one(key);
        usize::try_from(hash % self.shards.len() as u64).expect("is less than a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keys_are_set_found_and_taken_away() {
        let map: Sharded<String, usize> = Sharded::new(16);
        map.apply((0..1_000).map(|n| (n.to_string(), Some(n))));
        assert_eq!((map.len(), map.get("7"), map.get("1000")), (1_000, Some(7), None));
        map.apply([
            ("7".to_owned(), None),
            ("8".to_owned(), Some(80)),
            ("8".to_owned(), Some(81)),
            ("x".to_owned(), None),
        ]);
        assert_eq!((map.len(), map.get("7"), map.get("8")), (999, None, Some(81)));
        assert_eq!(map.values().len(), 999);
    }

    #[test]
    fn readers_see_each_key_before_or_after_a_change() {
        let map = Arc::new(Sharded::<u32, u32>::new(4));
        map.apply((0..100).map(|n| (n, Some(0))));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < 50 {
                        let now = map.get(&42).expect("is never gone");
                        assert!(now >= last, "went back from {last} to {now}");
                        last = now;
                    }
                });
            }
            for round in 1..=50 {
                map.apply((0..100).map(|n| (n, Some(round))));
            }
        });
    }
}
