//! Tokens that were verified: the next request with one costs a hash in place of a signature. Bounded: what was not asked for lately
//! goes first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::issuer::Issuer;
use crate::identity::principal::Principal;

/// Shards, so that requests seldom wait for each other.
const SHARDS: usize = 16;
/// Tokens of one shard in its younger half: 16,384 in both halves of all, some 10 MiB.
const YOUNG: usize = 512;

/// A token that was verified.
pub struct Cached {
    /// Whose it is.
    pub principal: Principal,
    /// When it ends. Unit: seconds since 1970.
    pub expires: i64,
    /// By which of the issuer's sets of keys: with another one it is asked for again.
    pub version: u64,
    /// Who made it.
    pub issuer: Arc<Issuer>,
}

/// Verified tokens by their hashes. The tokens themselves are not kept.
#[derive(Default)]
pub struct Tokens([Mutex<Shard>; SHARDS]);

#[derive(Default)]
struct Shard {
    young: HashMap<[u8; 32], Cached>,
    old: HashMap<[u8; 32], Cached>,
}

impl Tokens {
    /// Whose it is, while it is good.
    pub fn get(&self, hash: &[u8; 32], now: i64) -> Option<Principal> {
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if !shard.young.contains_key(hash) {
            // What is asked for again is young again.
            let found = shard.old.remove(hash)?;
            shard.put(*hash, found);
        }
        let found = shard.young.get(hash)?;
        if now < found.expires && found.version == found.issuer.version() {
            return Some(found.principal.clone());
        }
        shard.young.remove(hash);
        None
    }

    /// Remembers one.
    pub fn put(&self, hash: [u8; 32], token: Cached) {
        self.shard(&hash).lock().unwrap_or_else(PoisonError::into_inner).put(hash, token);
    }

    fn shard(&self, hash: &[u8; 32]) -> &Mutex<Shard> {
        &self.0[usize::from(hash[0]) % SHARDS]
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| {
            let shard = shard.lock().expect("works");
            shard.young.len() + shard.old.len()
        };
        self.0.iter().map(len).sum()
    }
}

impl Shard {
    fn put(&mut self, hash: [u8; 32], token: Cached) {
        if self.young.len() >= YOUNG {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, token);
    }
}
