//! Every checkout, known: who holds a session, since when, and until when at the most.
//!
//! A request has an end, so a session that is held far beyond it is a leak: a task that waits for something that never comes, or a
//! lease that somebody has put away. The sweep tells it once, and at last closes the session's socket under its holder, whose next
//! read or write fails, and strikes it out of the ledger. A session's place here is made with the session; to lend one costs a lock
//! that nobody else wants, and no allocation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::CancelToken;

use super::ledger::Line;
use super::postgres::wire::Direct;
use crate::base::{Deadline, RequestId, TenantId};

/// Nobody is told of before so long: a cancellation at the deadline may take 2 s to get through.
const WARN_FLOOR: Duration = Duration::from_secs(2);
/// Nobody is closed before so long: a cancellation may get through late (2 s), and take long to show (2 s).
const CLOSE_FLOOR: Duration = Duration::from_secs(8);
/// In deadlines.
const WARN: u32 = 2;
const CLOSE: u32 = 4;

/// Who holds a session, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// For which request.
    pub request: RequestId,
    /// On whose account.
    pub tenant: TenantId,
    /// Of the statement: the same for the same text, and telling nothing of it.
    pub fingerprint: u64,
}

/// One checkout.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// When it began.
    pub since: Instant,
    /// By when it should be over.
    pub until: Instant,
    /// `None`: the broker itself.
    pub holder: Option<Holder>,
    told: bool,
}

/// One session's place.
pub struct Slot {
    /// The server's process; 0 where it did not tell.
    pub pid: u32,
    token: CancelToken,
    line: Arc<Line>,
    wire: Arc<dyn Direct>,
    held: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    No,
    By(Checkout),
    /// It was held for so long that it was closed.
    Severed,
}

/// How a session came back.
#[derive(Debug)]
pub enum Returned {
    /// As it should.
    InTime,
    /// Late enough that it had been told of.
    Late(Checkout),
    /// It was closed under its holder.
    Severed,
}

/// What the sweep found.
pub enum Found {
    /// Held for too long; told of once.
    Leak(Arc<Slot>, Checkout),
    /// Held for so long that it was closed.
    Severed(Arc<Slot>, Checkout),
}

/// The sessions of one endpoint.
#[derive(Default)]
pub struct Registry {
    slots: Mutex<Vec<Weak<Slot>>>,
}

impl Checkout {
    /// `factor` times as long as it had, and no shorter than `floor`.
    fn overdue(&self, factor: u32, floor: Duration) -> Instant {
        let had = self.until.saturating_duration_since(self.since);
        self.since + (had * factor).max(floor)
    }
}

impl Slot {
    /// The place of a session.
    pub fn new(line: Arc<Line>, wire: Arc<dyn Direct>, token: CancelToken, pid: u32) -> Self {
        Self { pid, token, line, wire, held: Mutex::new(Held::No) }
    }

    /// The session is lent.
    pub fn lend(&self, since: Instant, until: Deadline) {
        *self.held() = Held::By(Checkout { since, until: until.at(), holder: None, told: false });
    }

    /// Notes who has it.
    pub fn lend_to(&self, holder: Holder) {
        if let Held::By(checkout) = &mut *self.held() {
            checkout.holder = Some(holder);
        }
    }

    /// Notes that it is rightly held for longer.
    pub fn lend_until(&self, until: Deadline) {
        if let Held::By(checkout) = &mut *self.held() {
            checkout.until = until.at();
        }
    }

    /// The session has come back.
    pub fn release(&self) -> Returned {
        let mut held = self.held();
        match std::mem::replace(&mut *held, Held::No) {
            Held::By(checkout) if checkout.told => Returned::Late(checkout),
            Held::By(_) | Held::No => Returned::InTime,
            Held::Severed => {
                *held = Held::Severed;
                Returned::Severed
            }
        }
    }

    /// What cancels the statement of a session that was closed under its holder: its server does not notice by itself.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.token
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(self: &Arc<Self>, now: Instant) -> Option<Found> {
        let mut held = self.held();
        let Held::By(checkout) = &mut *held else { return None };
        if now >= checkout.overdue(CLOSE, CLOSE_FLOOR) {
            let checkout = checkout.clone();
            // Before its holder can let go of it: a session that was closed is not lent again.
            *held = Held::Severed;
            self.line.strike();
            drop(held);
            self.wire.sever();
            return Some(Found::Severed(Arc::clone(self), checkout));
        }
        if !checkout.told && now >= checkout.overdue(WARN, WARN_FLOOR) {
            checkout.told = true;
            return Some(Found::Leak(Arc::clone(self), checkout.clone()));
        }
        None
    }
}

impl Registry {
    /// A session has been opened.
    pub fn join(&self, slot: &Arc<Slot>) {
        self.slots().push(Arc::downgrade(slot));
    }

    /// Looks for sessions that are held for too long, and closes those held for far too long.
    pub fn sweep(&self, now: Instant) -> Vec<Found> {
        self.slots().retain(|slot| slot.strong_count() > 0);
        self.all().iter().filter_map(|slot| slot.look(now)).collect()
    }

    /// The oldest checkout, and the server's process that serves it.
    pub fn oldest(&self) -> Option<(Checkout, u32)> {
        let held = |slot: &Arc<Slot>| match &*slot.held() {
            Held::By(checkout) => Some((checkout.clone(), slot.pid)),
            Held::No | Held::Severed => None,
        };
        self.all().iter().filter_map(held).min_by_key(|(checkout, _)| checkout.since)
    }

    /// Sessions that were closed under holders who have not let go of them.
    pub fn severed(&self) -> usize {
        self.all().iter().filter(|slot| matches!(*slot.held(), Held::Severed)).count()
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots().iter().filter_map(Weak::upgrade).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limits_follow_the_deadline_and_never_hit_a_cancellation_on_its_way() {
        let since = Instant::now();
        let of = |seconds| Checkout { since, until: since + Duration::from_secs(seconds), holder: None, told: false };
        for (deadline, warn, close) in [(0, 2, 8), (1, 2, 8), (10, 20, 40), (900, 1_800, 3_600)] {
            let checkout = of(deadline);
            assert_eq!(checkout.overdue(WARN, WARN_FLOOR) - since, Duration::from_secs(warn), "{deadline}");
            assert_eq!(checkout.overdue(CLOSE, CLOSE_FLOOR) - since, Duration::from_secs(close), "{deadline}");
        }
    }
}
