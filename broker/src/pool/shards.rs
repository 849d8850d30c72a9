//! Which shard of a database a key belongs to.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::database::Database;

/// The shards of one database.
pub struct Shards {
    shards: Vec<(String, Arc<Database>)>,
}

impl Shards {
    /// The name of the shard that stands at the database's own `url`.
    pub const MAIN: &str = "main";

    /// Shards by name.
    pub fn new(shards: Vec<(String, Arc<Database>)>) -> Self {
        Self { shards }
    }

    /// The shard of a key: the one whose name and the key hash highest together (rendezvous hashing), so that one more shard takes
    /// over its part of the keys and moves no other.
    pub fn of(&self, key: &str) -> &Arc<Database> {
        let best = self.shards.iter().max_by_key(|(name, _)| weight(name, key));
        &best.expect("there is at least the main one").1
    }
}

/// The first 16 bytes of SHA-256 over the name, a zero byte and the key: the same on every machine and in every version.
fn weight(shard: &str, key: &str) -> u128 {
    let hash = Sha256::new().chain_update(shard).chain_update([0]).chain_update(key).finalize();
    u128::from_be_bytes(hash[..16].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'s>(shards: &[&'s str], key: &str) -> &'s str {
        shards.iter().max_by_key(|name| weight(name, key)).expect("some")
    }

    #[test]
    fn keys_spread_evenly_and_a_new_shard_moves_only_its_own() {
        let (three, four) = (["main", "b", "c"], ["main", "b", "c", "d"]);
        let mut counts = std::collections::BTreeMap::new();
        for key in (0..9_000).map(|key| key.to_string()) {
            let (before, after) = (of(&three, &key), of(&four, &key));
            assert!(before == after || after == "d", "{key}: {before} to {after}");
            *counts.entry(before).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| (2_700..3_300).contains(count)), "{counts:?}");
        assert_eq!(of(&three, "customer-42"), "b", "for ever");
    }
}
