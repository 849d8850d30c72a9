//! How the pool makes and recycles sessions.
//!
//! deadpool's pool and deadpool-postgres' client wrapper as published; the manager is ours, since deadpool-postgres' own
//! has no place for what the tap learns about a connection (decision 0002).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use tokio::sync::Semaphore;

use super::connect::Connector;
use super::session::Session;

/// Sessions of one pool that may be in the making at once: a cold pool under a storm must not become a storm on the server.
const CONNECTS_AT_ONCE: usize = 2;

/// Makes and recycles the sessions of one pool.
pub struct SessionManager {
    connector: Arc<Connector>,
    gate: Semaphore,
    max_lifetime: Duration,
    prepared_statements: usize,
    schema_epoch: Arc<AtomicU64>,
}

impl SessionManager {
    /// A manager that dials with `connector`.
    pub fn new(
        connector: Arc<Connector>,
        max_lifetime: Duration,
        prepared_statements: usize,
        schema_epoch: Arc<AtomicU64>,
    ) -> Self {
        Self { connector, gate: Semaphore::new(CONNECTS_AT_ONCE), max_lifetime, prepared_statements, schema_epoch }
    }
}

impl Manager for SessionManager {
    type Type = Session;
    type Error = tokio_postgres::Error;

    async fn create(&self) -> Result<Session, tokio_postgres::Error> {
        let _turn = self.gate.acquire().await.expect("the gate is never closed");
        // Read before dialling: a schema change while the session opens is then newer than the session.
        let epoch = self.schema_epoch.load(Ordering::Acquire);
        let dialled = self.connector.dial().await?;
        Ok(Session::new(dialled, self.prepared_statements, epoch))
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<tokio_postgres::Error> {
        session.channel.look();
        if !session.is_reusable() {
            return Err(RecycleError::message("the session is closed or not idle"));
        }
        if session.opened.elapsed() > self.max_lifetime {
            return Err(RecycleError::message("the session is past its lifetime"));
        }
        let epoch = self.schema_epoch.load(Ordering::Acquire);
        if session.schema_epoch != epoch {
            session.forget_all();
            session.schema_epoch = epoch;
        }
        Ok(())
    }
}
