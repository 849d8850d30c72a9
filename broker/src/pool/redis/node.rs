//! One Redis server: how connections to it are opened, and what is known of how it fares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::connect::{Connector, Stream};
use super::lanes::Lanes;
use super::leases::Leases;
use crate::base::BackendName;
use crate::config::CacheConfig;
use crate::observe::{EndpointMetrics, PoolMetrics};
use crate::pool::PoolError;
use crate::pool::backoff::Backoff;
use crate::pool::breaker::{Breaker, CONNECT, Open};
use crate::pool::event::CloseReason;

/// While the breaker is open the server is tried this often at least: to find it back costs one connection, and saves callers
/// the rest of the breaker's pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// One Redis server.
pub(super) struct Node {
    pub backend: BackendName,
    pub connector: Connector,
    pub lanes: Lanes,
    pub leases: Leases,
    pub metrics: EndpointMetrics,
    pub breaker: Breaker,
    /// A task looks for it.
    sought: AtomicBool,
    gone: AtomicBool,
}

/// Counts one of something until it is dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A leave of the breaker's, given back where its holder leaves with it.
struct Leave<'a>(Option<&'a Breaker>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(breaker) = self.0 {
            breaker.release();
        }
    }
}

impl Node {
    /// A server that nothing is known of yet. Errors: text about its address.
    pub fn new(
        backend: BackendName,
        connector: Connector,
        config: &CacheConfig,
        metrics: &PoolMetrics,
    ) -> Result<Arc<Self>, String> {
        let metrics = metrics.endpoint(&connector.address());
        Ok(Arc::new(Self {
            leases: Leases::new(&connector, config.leases, &metrics)?,
            lanes: Lanes::new(config.lanes),
            breaker: Breaker::new(CONNECT),
            sought: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            backend,
            connector,
            metrics,
        }))
    }

    /// Opens a connection, if the breaker has no objection.
    pub async fn dial(self: &Arc<Self>) -> Result<Box<dyn Stream>, PoolError> {
        self.breaker.permit().map_err(|open| self.open(open))?;
        let mut leave = Leave(Some(&self.breaker));
        let dialled = self.connector.dial().await;
        leave.0 = None;
        match dialled {
            Ok(stream) => {
                self.breaker.success();
                self.metrics.opened();
                Ok(stream)
            }
            Err(error) => Err(self.refused(Box::new(error))),
        }
    }

    /// Notes that a connection could not be opened.
    pub fn refused(self: &Arc<Self>, source: Box<dyn std::error::Error + Send + Sync>) -> PoolError {
        self.metrics.not_opened("down");
        tracing::debug!(backend.name = %self.backend, server.address = %self.connector.address(), error = %source, "a connection to `{}` could not be opened", self.backend);
        if self.breaker.failure() {
            self.metrics.tripped("connect");
            tracing::warn!(backend.name = %self.backend, server.address = %self.connector.address(), "`{}` takes no connection; it is looked for", self.backend);
            if !self.sought.swap(true, Ordering::AcqRel) {
                tokio::spawn(Arc::clone(self).seek());
            }
        }
        PoolError::Down { backend: self.backend.clone(), source }
    }

    /// Tries until the server is back: callers then find the breaker closed.
    async fn seek(self: Arc<Self>) {
        let mut backoff = Backoff::new();
        while !self.gone.load(Ordering::Acquire) && self.breaker.shut().is_some() {
            sleep(backoff.pause(rand::random()).min(LONGEST_PAUSE)).await;
            if self.connector.dial().await.is_ok() && self.breaker.success() {
                tracing::info!(backend.name = %self.backend, server.address = %self.connector.address(), "`{}` is back", self.backend);
            }
        }
        self.sought.store(false, Ordering::Release);
    }

    /// Who waited for a connection that somebody else was refused.
    pub fn down(&self, why: &'static str) -> PoolError {
        match self.breaker.shut() {
            Some(open) => self.open(open),
            None => PoolError::Down { backend: self.backend.clone(), source: why.into() },
        }
    }

    /// The breaker is open.
    pub fn open(&self, open: Open) -> PoolError {
        PoolError::BreakerOpen { backend: self.backend.clone(), retry_after: open.retry_after }
    }

    /// Counts a connection that was closed.
    pub fn closed(&self, reason: CloseReason) {
        self.metrics.closed(reason.as_str(), None, None);
    }

    /// Lends nothing more, and lets go of what it has.
    pub fn close(&self, reason: CloseReason) {
        self.gone.store(true, Ordering::Release);
        self.lanes.close(reason, self);
        self.leases.close();
    }
}
