//! One session as the pool keeps it: client, tap, prepared statements, age, and what it needs before it is lent again.

use std::sync::Arc;

use deadpool_postgres::ClientWrapper;
use tokio::time::Instant;

use super::connect::Dialled;
use super::prepared::PreparedCache;
use super::wire::Observed;

/// What a session needs before the next caller may have it. Ordered: the most thorough wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cleanup {
    /// Nothing: idle, and nothing of the session was changed.
    Nothing,
    /// Settings, locks, temporary tables or listeners may have changed.
    Reset,
    /// The session cannot be made clean, or is not worth it.
    Discard,
}

/// One session.
pub struct Session {
    /// The driver's client.
    pub client: ClientWrapper,
    /// What the tap has learnt.
    pub observed: Arc<Observed>,
    /// Statements prepared on this session.
    pub prepared: PreparedCache,
    /// When it was opened.
    pub opened: Instant,
    /// Which schema epoch its type cache and statements belong to.
    pub schema_epoch: u64,
}

impl Session {
    /// Takes a dialled session into service.
    pub fn new(dialled: Dialled, prepared_statements: usize, schema_epoch: u64) -> Self {
        Self {
            client: dialled.client,
            observed: dialled.observed,
            prepared: PreparedCache::new(prepared_statements),
            opened: Instant::now(),
            schema_epoch,
        }
    }

    /// True when the next caller may have it as it is.
    pub fn is_reusable(&self) -> bool {
        !self.client.is_closed() && self.observed.is_idle() && !self.observed.is_copying()
    }
}
