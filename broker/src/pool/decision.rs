//! Why a pool has the size it has: each change of it, or each refusal to grow, with what it was decided from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::ledger::State;
use crate::base::BackendName;

/// A refusal that goes on is noted this often.
const AGAIN: Duration = Duration::from_secs(10);

/// What made somebody decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Callers for whom waiting has become worse than a new session.
    Demand,
    /// The minimum, or what is expected.
    Ahead,
    /// The server's room was divided anew.
    Share,
    /// The server said that it is full.
    ServerFull,
    /// A session was not wanted for long.
    Idle,
    /// More were open than there may be.
    OverLimit,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// One more session.
    Open,
    /// One session less.
    Shrink,
    /// There may be so many from now on; there might have been `before`.
    Limit {
        /// The limit until now.
        before: usize,
    },
    /// No more than there are.
    Hold(Hold),
}

/// Why a pool does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It has what it may have.
    Limit,
    /// As many as may be in the making at once are.
    Gate,
    /// The last one could not be opened just now.
    Backoff,
    /// The server cannot be reached.
    Breaker,
    /// The server refuses the login.
    Login,
    /// The server's room must be looked at again first.
    Grant,
}

/// What it was decided from. Unit: sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    /// Open, those being opened not among them.
    pub open: usize,
    /// Being opened.
    pub connecting: usize,
    /// Lent, shared and waited for.
    pub in_use: usize,
    /// Callers waiting.
    pub waiting: u32,
    /// Callers who wait no longer for one that comes back.
    pub urgent: usize,
    /// Wanted ahead of need.
    pub ahead: usize,
    /// Most wanted at once, lately.
    pub demand: usize,
    /// The share of the server's room.
    pub limit: usize,
    /// The configured minimum.
    pub floor: usize,
    /// The configured maximum.
    pub ceiling: usize,
    /// What the server's room was when it was last looked at.
    pub server: Option<ServerInputs>,
}

/// The server's room. Unit: sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerInputs {
    /// Its own limit.
    pub max_connections: usize,
    /// Of these, reserved.
    pub reserved: usize,
    /// Those of others than brokers.
    pub others: usize,
    /// Everybody's.
    pub used: usize,
    /// Brokers alive.
    pub brokers: usize,
    /// For this broker's pools, all together.
    pub budget: usize,
    /// How many may be opened before the next look.
    pub grant: usize,
}

/// One decision.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Of which database.
    pub backend: BackendName,
    /// On which server.
    pub endpoint: Arc<str>,
    /// Why now.
    pub trigger: Trigger,
    /// What.
    pub verdict: Verdict,
    /// From what.
    pub inputs: Inputs,
}

/// The last refusal, so that one that goes on costs nothing.
#[derive(Debug)]
pub struct LastHold {
    start: Instant,
    /// A refusal's number in the upper half, its time in the lower. Unit: milliseconds.
    last: AtomicU64,
}

impl Default for LastHold {
    fn default() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl LastHold {
    /// True if this one is to be noted.
    fn is_new(&self, hold: Hold) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX) & u64::from(u32::MAX);
        let last = self.last.load(Ordering::Relaxed);
        let (kind, at) = (last >> 32, last & u64::from(u32::MAX));
        let this = hold as u64 + 1;
        let is_new = kind != this || now.wrapping_sub(at) >= AGAIN.as_secs() * 1_000;
        if is_new {
            self.last.store(this << 32 | now, Ordering::Relaxed);
        }
        is_new
    }
}

impl Decision {
    /// Of the same pool.
    pub fn is_of(&self, other: &Self) -> bool {
        self.backend == other.backend && self.endpoint == other.endpoint
    }

    /// The same again, from other numbers. A limit that changes is never the same.
    pub fn is_like(&self, other: &Self) -> bool {
        let is_limit = matches!(self.verdict, Verdict::Limit { .. });
        self.trigger == other.trigger && self.verdict == other.verdict && !is_limit
    }
}

impl Endpoint {
    /// Notes what was decided about its size.
    pub(super) fn decide(&self, trigger: Trigger, verdict: Verdict) {
        let (backend, endpoint) = (self.backend.clone(), Arc::clone(&self.address));
        self.server.journal.decide(Decision { backend, endpoint, trigger, verdict, inputs: self.inputs() });
    }

    /// Notes why it does not grow although somebody wants it to.
    pub(super) fn hold(&self, hold: Hold) {
        if self.opening.last_hold.is_new(hold) {
            let trigger = if self.opening.urgent() > 0 { Trigger::Demand } else { Trigger::Ahead };
            self.decide(trigger, Verdict::Hold(hold));
        }
    }

    fn inputs(&self) -> Inputs {
        Inputs {
            open: self.ledger.open(),
            connecting: self.ledger.count(State::Connecting),
            in_use: self.in_use(),
            waiting: u32::try_from(self.idle.waiting()).unwrap_or(u32::MAX),
            urgent: self.opening.urgent(),
            ahead: self.opening.ahead(),
            demand: self.demand.peak(Instant::now()),
            limit: self.limit(),
            floor: self.config.min as usize,
            ceiling: self.config.max as usize,
            server: self.server.inputs(),
        }
    }
}

impl Trigger {
    /// The trigger as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Ahead => "ahead",
            Self::Share => "share",
            Self::ServerFull => "server_full",
            Self::Idle => "idle",
            Self::OverLimit => "over_limit",
        }
    }
}

impl Verdict {
    /// The verdict as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Shrink => "shrink",
            Self::Limit { .. } => "limit",
            Self::Hold(Hold::Limit) => "hold_at_limit",
            Self::Hold(Hold::Gate) => "refused_by_gate",
            Self::Hold(Hold::Backoff) => "refused_by_backoff",
            Self::Hold(Hold::Breaker) => "refused_by_breaker",
            Self::Hold(Hold::Login) => "refused_by_login_breaker",
            Self::Hold(Hold::Grant) => "refused_by_grant",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_goes_on_is_noted_now_and_then() {
        let last = LastHold::default();
        assert!(last.is_new(Hold::Limit) && !last.is_new(Hold::Limit));
        assert!(last.is_new(Hold::Gate) && last.is_new(Hold::Limit), "another one is news");
        tokio::time::advance(AGAIN).await;
        assert!(last.is_new(Hold::Limit) && !last.is_new(Hold::Limit));
    }
}
