//! Some or all of a broker's pools, to be opened or closed together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use crate::base::{BackendName, Deadline, chain};
use crate::pool::{Cache, Database};

/// How long opening pools may take. Callers are served meanwhile, as far as there is something to serve them with.
const WARM: Duration = Duration::from_secs(10);
/// How long sessions that are being made clean are waited for.
const CLEAN: Duration = Duration::from_secs(5);

/// Some pools.
pub struct Pools {
    databases: Vec<Arc<Database>>,
    caches: Vec<Arc<Cache>>,
}

impl Pools {
    /// Those that `broker` has and `other` has not.
    pub fn only(broker: &Broker, other: Option<&Broker>) -> Self {
        Self {
            databases: only(&broker.databases, other.map(|other| &other.databases)),
            caches: only(&broker.caches, other.map(|other| &other.caches)),
        }
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.caches.is_empty()
    }

    /// Their names.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let databases = self.databases.iter().map(|database| database.name().to_string());
        (databases.collect(), self.caches.iter().map(|cache| cache.name().to_string()).collect())
    }

    /// Opens every pool's minimum. A backend that is down is logged, not fatal: it may come back.
    pub async fn warm(&self) {
        let deadline = Deadline::after(WARM);
        for database in &self.databases {
            if let Err(error) = database.warm(deadline).await {
                tracing::warn!(backend.name = %database.name(), error = %chain(&error), "`{}` is not reachable yet", database.name());
            }
        }
        for cache in &self.caches {
            if let Err(error) = cache.ping(deadline).await {
                tracing::warn!(backend.name = %cache.name(), error = %chain(&error), "`{}` is not reachable yet", cache.name());
            }
        }
    }

    /// Others have taken their place.
    pub fn retire(&self) {
        for database in &self.databases {
            database.retire();
        }
    }

    /// Closes them, once nothing uses them any more.
    pub async fn close(&self) {
        let deadline = Deadline::after(CLEAN);
        for database in &self.databases {
            database.close(deadline).await;
        }
        for cache in &self.caches {
            cache.close();
        }
    }
}

fn only<T>(all: &BTreeMap<BackendName, Arc<T>>, other: Option<&BTreeMap<BackendName, Arc<T>>>) -> Vec<Arc<T>> {
    let is_there = |name, it| other.and_then(|other| other.get(name)).is_some_and(|known| Arc::ptr_eq(known, it));
    all.iter().filter(|(name, it)| !is_there(*name, *it)).map(|(_, it)| Arc::clone(it)).collect()
}
