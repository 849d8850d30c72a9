//! Getting a session from one endpoint, in stages: one that is free; else, while few are open, a new one; else one that comes back
//! soon; only then a new one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::breaker::Open;
use super::endpoint::Endpoint;
use super::error::{LoginRefused, PoolError};
use super::event::BreakerName;
use super::ledger::State;
use super::opener::Failure;
use super::postgres::Session;
use super::queue::{Account, Charge, Object, Shed, Terms};
use super::sizing;
use crate::base::Deadline;
use crate::observe::metrics::Waits;

/// Nobody is told to come back later than this: an estimate is not a promise.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

impl Endpoint {
    /// A session: one that is free, a new one, or the next that comes back when it is the account's turn, whichever is first before
    /// `deadline`. With it comes what is charged for it, to be settled when it comes back.
    ///
    /// Cancel safe: a caller that leaves the queue leaves no trace; a session on its way goes to the next.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        account: &Arc<Account>,
        deadline: Deadline,
    ) -> Result<(Object<Session>, Charge), PoolError> {
        self.server.touch();
        if let Some(object) = self.take_idle() {
            self.demand.note(Instant::now(), self.in_use());
            return Ok((object, Charge::none(account)));
        }
        self.wait(account, deadline).await
    }

    async fn wait(
        self: &Arc<Self>,
        account: &Arc<Account>,
        deadline: Deadline,
    ) -> Result<(Object<Session>, Charge), PoolError> {
        let start = Instant::now();
        if let Some((name, Open { retry_after })) = self.is_shut() {
            let backend = self.backend.clone();
            return Err(match name {
                BreakerName::Connect => PoolError::BreakerOpen { backend, retry_after },
                BreakerName::Login => PoolError::LoginRefused { backend, retry_after, source: LoginRefused },
            });
        }
        let refused = |shed| self.shed(account, shed, start, deadline);
        let mut seat = self.idle.join(account, deadline, self.terms()).map_err(refused)?;
        self.demand.note(start, self.in_use());
        let mut failures = self.opening.failures();
        let mut urgent = self.is_cold().then(|| self.urgent());
        let patience = sleep(self.service.patience(rand::random()));
        tokio::pin!(patience);
        loop {
            let (object, charge) = tokio::select! {
                turn = seat.turn() => turn.map_err(refused)?,
                () = &mut patience, if urgent.is_none() => {
                    urgent = Some(self.urgent());
                    continue;
                }
                Ok(()) = failures.changed() => {
                    let failure = failures.borrow_and_update().clone();
                    match self.hopeless(failure.as_deref()) {
                        Some(error) => return Err(error),
                        None => continue,
                    }
                }
                () = sleep_until(deadline.at()) => return Err(refused(Shed::Expired)),
            };
            if let Some(fit) = self.fit(object) {
                return Ok((fit, charge));
            }
            // It was dead. Others may be too, and nobody else is told to open one.
            urgent.get_or_insert_with(|| self.urgent());
            self.want();
            seat.again(&charge);
        }
    }

    /// What there is to share out among those who wait. Sessions that are not open yet count: an estimate that is too short lets
    /// one wait in vain, one that is too long refuses somebody who would have been served.
    fn terms(&self) -> Terms {
        Terms {
            most: self.max_waiting as usize,
            serving: self.limit().saturating_sub(self.ledger.count(State::Lane)).max(1),
            usually: self.service.usual(),
        }
    }

    fn shed(&self, account: &Account, shed: Shed, start: Instant, deadline: Deadline) -> PoolError {
        let backend = self.backend.clone();
        let (reason, error) = match shed {
            Shed::Expired => ("deadline", PoolError::WaitTimeout { backend, waited: start.elapsed() }),
            Shed::Full(waiting) => ("full", PoolError::QueueFull { backend, waiting }),
            Shed::Crowded(waiting) => ("crowded", PoolError::Overloaded { backend, waiting }),
            Shed::TooLate(expected) => {
                let retry_after = expected.saturating_sub(deadline.remaining()).min(LONGEST_RETRY);
                ("too_late", PoolError::TooLate { backend, expected, retry_after })
            }
            Shed::Closed => return PoolError::Closed { backend },
        };
        self.metrics.queues.shed(account.tenant(), reason);
        error
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
