//! What a pool is made from. Where that has not changed, a reload keeps the pool, with every warm connection.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::{CacheConfig, DatabaseConfig, ReplicaConfig, Secret, database_url};
use crate::pool::database::Surroundings;

/// What a database's pools are made from.
#[derive(Clone)]
pub struct DatabaseRecipe {
    config: DatabaseConfig,
    /// Over the password and the root certificates, as they were read.
    read: [u8; 32],
    zone: Option<String>,
    max_waiting: u32,
    longest_statement: Duration,
}

impl DatabaseRecipe {
    /// The recipe of one database. Read before the pool is made: what changes in between is then found by the next reload.
    pub fn new(config: &DatabaseConfig, around: &Surroundings<'_>) -> Self {
        // Named statements are none of the pool's, and each shard has a recipe of its own.
        let (statements, shards) = (BTreeMap::new(), BTreeMap::new());
        let config = DatabaseConfig { statements, statements_dir: None, shards, ..config.clone() };
        let mut read = Sha256::new();
        note(&mut read, config.password.as_ref());
        let urls = std::iter::once(config.url.as_str()).chain(config.replicas.iter().map(ReplicaConfig::url));
        for roots in urls.filter_map(|url| database_url(url).ok()?.root_cert) {
            read.update(std::fs::read(roots).unwrap_or_default());
        }
        Self {
            config,
            read: read.finalize().into(),
            zone: around.zone.map(str::to_owned),
            max_waiting: around.max_waiting,
            longest_statement: around.longest_statement,
        }
    }

    /// True if a pool made from this serves as one made from `wanted` would. The backstop for statements may be longer than
    /// wanted: the broker's own deadlines are what counts.
    pub fn serves(&self, wanted: &Self) -> bool {
        self.config == wanted.config
            && self.read == wanted.read
            && self.zone == wanted.zone
            && self.max_waiting == wanted.max_waiting
            && self.longest_statement >= wanted.longest_statement
    }
}

/// What a cache's connections are made from.
#[derive(PartialEq)]
pub struct CacheRecipe {
    config: CacheConfig,
    read: [u8; 32],
}

impl CacheRecipe {
    /// The recipe of one cache.
    pub fn new(config: &CacheConfig) -> Self {
        let mut read = Sha256::new();
        note(&mut read, config.password.as_ref());
        Self { config: config.clone(), read: read.finalize().into() }
    }
}

/// A secret that is not to be had counts too: it is not the one that was.
fn note(read: &mut Sha256, secret: Option<&Secret>) {
    match secret.map(Secret::reveal) {
        None => read.update([0]),
        Some(Ok(text)) => read.update([&[1], text.as_bytes()].concat()),
        Some(Err(_)) => read.update([2]),
    }
}
