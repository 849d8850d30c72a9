//! Getting a session from one endpoint, in stages: one that is free; else, while few are open, a new one; else one that comes back
//! soon; only then a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool::unmanaged::Object;
use tokio::time::{Instant, sleep, sleep_until};

use super::breaker::Open;
use super::endpoint::Endpoint;
use super::error::{LoginRefused, PoolError};
use super::event::BreakerName;
use super::opener::Failure;
use super::postgres::Session;
use super::sizing;
use crate::base::Deadline;
use crate::observe::metrics::Waits;

impl Endpoint {
    /// A session: one that is free, a new one, or the next that comes back, whichever is first before `deadline`.
    ///
    /// Cancel safe: a caller that leaves the queue leaves no trace; a session on its way goes to the next.
    pub(super) async fn checkout(self: &Arc<Self>, deadline: Deadline) -> Result<Object<Session>, PoolError> {
        self.server.touch();
        if let Some(object) = self.take_idle() {
            self.demand.note(Instant::now(), self.in_use());
            return Ok(object);
        }
        self.wait(deadline).await
    }

    async fn wait(self: &Arc<Self>, deadline: Deadline) -> Result<Object<Session>, PoolError> {
        let start = Instant::now();
        if let Some((name, Open { retry_after })) = self.is_shut() {
            let backend = self.backend.clone();
            return Err(match name {
                BreakerName::Connect => PoolError::BreakerOpen { backend, retry_after },
                BreakerName::Login => PoolError::LoginRefused { backend, retry_after, source: LoginRefused },
            });
        }
        let turn = Turn::take(&self.waiting);
        if turn.number > self.max_waiting {
            return Err(PoolError::Overloaded { backend: self.backend.clone(), waiting: turn.number - 1 });
        }
        self.demand.note(start, self.in_use());
        let mut failures = self.opening.failures();
        let mut urgent = self.is_cold().then(|| self.urgent());
        let patience = sleep(self.service.patience(rand::random()));
        tokio::pin!(patience);
        loop {
            // One future over many turns of the inner loop: it is the caller's place in the queue.
            let next = self.idle.timeout_get(None);
            tokio::pin!(next);
            let object = loop {
                tokio::select! {
                    object = &mut next => break object,
                    () = &mut patience, if urgent.is_none() => urgent = Some(self.urgent()),
                    Ok(()) = failures.changed() => {
                        let failure = failures.borrow_and_update().clone();
                        if let Some(error) = self.hopeless(failure.as_deref()) {
                            return Err(error);
                        }
                    }
                    () = sleep_until(deadline.at()) => {
                        return Err(PoolError::WaitTimeout { backend: self.backend.clone(), waited: start.elapsed() });
                    }
                }
            };
            let Ok(object) = object else { return Err(PoolError::Closed { backend: self.backend.clone() }) };
            if let Some(fit) = self.fit(object) {
                return Ok(fit);
            }
            // It was dead. Others may be too, and nobody else is told to open one.
            urgent.get_or_insert_with(|| self.urgent());
            self.want();
        }
    }

    /// Few enough are open to open one at once.
    fn is_cold(&self) -> bool {
        sizing::is_cold(self.ledger.total(), self.limit())
    }

    /// Nothing is open and nothing can be opened: there is nothing to wait for. A full server is: somebody may leave it.
    fn hopeless(&self, failure: Option<&Failure>) -> Option<PoolError> {
        let failure = failure.filter(|failure| !failure.is_full && self.ledger.open() == 0)?;
        Some(PoolError::Down { backend: self.backend.clone(), source: Box::new(Arc::clone(&failure.error)) })
    }
}

/// A turn in the queue, given up on drop.
struct Turn<'a> {
    waiting: &'a AtomicU32,
    number: u32,
}

impl<'a> Turn<'a> {
    fn take(waiting: &'a AtomicU32) -> Self {
        Self { waiting, number: waiting.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a caller has waited; told when it is over, however it ends.
pub(super) struct Timed<'e> {
    start: Instant,
    waits: &'e Waits,
    over: bool,
}

impl<'e> Timed<'e> {
    pub(super) fn since(start: Instant, endpoint: &'e Endpoint) -> Self {
        Self { start, waits: &endpoint.metrics.wait, over: false }
    }

    /// It has ended so. Dropped before, the caller has left.
    pub(super) fn ended<T>(mut self, asked: &Result<T, PoolError>) {
        let waited = match asked {
            Ok(_) => &self.waits.ok,
            Err(PoolError::WaitTimeout { .. }) => &self.waits.timeout,
            Err(_) => &self.waits.rejected,
        };
        waited.observe(self.start.elapsed().as_secs_f64());
        self.over = true;
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.waits.cancelled.observe(self.start.elapsed().as_secs_f64());
        }
    }
}
