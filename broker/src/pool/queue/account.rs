//! On whose account a session is asked for.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::base::TenantId;
use crate::pool::OWN_ACCOUNT;

/// Accounts are told apart on lanes by so few numbers: what a lookup by name would cost is more than it is worth there.
pub const BUCKETS: usize = 64;

/// One tenant, as the queues know it. It lives as long as the tenant does, so that a reload changes it for those who wait too.
#[derive(Debug)]
pub struct Account {
    tenant: TenantId,
    weight: AtomicU32,
    max_queued: AtomicU32,
    bucket: usize,
}

impl Account {
    /// A tenant of this weight, of which so many may wait in one queue.
    pub fn new(tenant: TenantId, weight: u32, max_queued: u32) -> Arc<Self> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&tenant);
        let bucket = usize::try_from(hash % BUCKETS as u64).expect("less than the number of buckets");
        Arc::new(Self { tenant, weight: AtomicU32::new(weight), max_queued: AtomicU32::new(max_queued), bucket })
    }

    /// The broker's own.
    pub fn own() -> Arc<Self> {
        Self::new(TenantId::new(OWN_ACCOUNT), 1, u32::MAX)
    }

    /// Weight and bound are others from now on.
    pub fn change(&self, weight: u32, max_queued: u32) {
        self.weight.store(weight, Ordering::Relaxed);
        self.max_queued.store(max_queued, Ordering::Relaxed);
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its part of a database's time, beside the parts of others who wait.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed).max(1)
    }

    /// Most that may wait in one queue.
    pub fn max_queued(&self) -> u32 {
        self.max_queued.load(Ordering::Relaxed)
    }

    /// A number in `0..BUCKETS`, always the same for the same tenant.
    pub fn bucket(&self) -> usize {
        self.bucket
    }
}
