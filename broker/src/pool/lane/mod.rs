//! Lanes: sessions shared by many callers at once, each with one short read and a `Sync` of its own, pipelined.
//!
//! A lane is for statements that can have no effect, that were fast and small before, and nothing else (`query::laned`). It is
//! time-boxed by the server: who takes longer than its budget is refused there and runs again on a lease. Nothing is ever
//! cancelled through a lane, since that would hit a neighbour; a caller that leaves has its rows thrown away.

mod answer;
mod place;
mod share;
mod slot;
mod tally;
mod width;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use place::Shared;
use share::Shares;
use slot::Slot;
use tally::Tally;
use width::{PAUSE, Room, Width};

use super::endpoint::Endpoint;
use super::queue::Account;
use crate::base::worker;

pub use answer::Answer;
pub use place::{OnLane, Place};
pub use width::Change;

/// Callers on one lane at once; one more takes a lease. Past this the wait on the lane is longer than one for a lease.
const DEPTH: usize = 64;

/// The lanes of one endpoint.
pub struct Lanes {
    all: Vec<Lane>,
    /// So many of them are used now.
    used: AtomicUsize,
    /// So many are open.
    open: Arc<AtomicUsize>,
    tally: Tally,
    shares: Arc<Shares>,
    /// Locked once a second.
    width: Mutex<Width>,
}

struct Lane {
    session: Slot<Shared>,
    opening: AtomicBool,
}

impl Lanes {
    /// At most `most` lanes, not opened yet.
    pub fn new(most: usize) -> Self {
        let (width, open) = (Width::new(most), Arc::default());
        let lane = |_| Lane { session: Slot::new(&open), opening: AtomicBool::new(false) };
        Self {
            all: (0..most).map(lane).collect(),
            used: AtomicUsize::new(width.lanes()),
            open,
            tally: Tally::default(),
            shares: Arc::default(),
            width: Mutex::new(width),
        }
    }

    /// One second is over: there may be more lanes from now on, or fewer. `is_wanted`: somebody waits for a session, and there may be no
    /// more of them.
    pub fn sweep(&self, is_wanted: bool) -> Change {
        let mut width = self.width.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Room { is_taken: self.open.load(Ordering::Acquire) > 0, is_wanted };
        let change = width.step(self.tally.take(), room, Instant::now());
        let used = width.lanes();
        self.used.store(used, Ordering::Release);
        // Closed with their last callers.
        let kept = if change == Change::LetGo { 0 } else { used };
        for lane in &self.all[kept..] {
            lane.session.swap(None);
        }
        change
    }

    /// The server stopped a statement at the lane's budget.
    pub fn over_budget(&self) {
        self.tally.over_budget();
    }

    /// Lanes that are used now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// A place on the emptiest lane of this worker, or of all where it has none that is open and has room; `None` where a lease
    /// serves better: no lane is open yet, all are full, or this account's share of them is.
    pub fn take(&self, endpoint: &Arc<Endpoint>, account: &Account, prepared_statements: usize) -> Option<Place> {
        let used = self.used();
        let own = self.emptiest(worker::share(used), endpoint, |index| open(endpoint, index, prepared_statements));
        let shared = match own {
            Some(own) if own.depth() < DEPTH => own,
            _ => self.emptiest(0..used, endpoint, |_| ())?,
        };
        let ahead = shared.depth();
        self.tally.asked(ahead);
        if ahead >= DEPTH {
            return None;
        }
        let open = self.open.load(Ordering::Acquire).max(1);
        let share = self.shares.take(account.bucket(), open * DEPTH)?;
        Some(Place { shared, ahead, endpoint: Arc::clone(endpoint), _share: share })
    }

    /// The one of these lanes with the fewest ahead. `shut` is told of those that are not open.
    fn emptiest(
        &self,
        indexes: impl Iterator<Item = usize>,
        endpoint: &Endpoint,
        shut: impl Fn(usize),
    ) -> Option<Arc<Shared>> {
        let sessions = indexes.filter_map(|index| {
            let session = self.all[index].session.get(|shared| shared.is_fit(endpoint));
            if session.is_none() {
                shut(index);
            }
            session
        });
        sessions.min_by_key(|session| session.depth())
    }

    /// Lets go of lanes that have ended, or must: where nobody asks for one, nobody else would notice.
    pub(super) fn bury(&self, endpoint: &Endpoint) {
        for lane in &self.all {
            drop(lane.session.get(|shared| shared.is_fit(endpoint)));
        }
    }

    /// Closes every lane once its callers are done.
    pub fn close(&self) {
        for lane in &self.all {
            lane.session.swap(None);
        }
    }
}

impl Endpoint {
    /// One step of the sweep: as many lanes as carry most.
    pub(super) fn widen(&self) {
        // Where no session can be opened in their place, closing lanes would help nobody.
        let is_well = self.opening.breaker.shut().is_none() && self.opening.logins.shut().is_none();
        let is_wanted = self.idle.waiting() > 0 && self.ledger.total() >= self.limit() && is_well;
        let (change, lanes) = (self.lanes.sweep(is_wanted), self.lanes.used());
        match change {
            Change::None => {}
            Change::Tried | Change::Narrowed => {
                tracing::debug!(backend.name = %self.backend, server.address = %self.address, lanes, "{lanes} lanes to `{}`", self.address);
            }
            Change::LetGo => {
                tracing::debug!(backend.name = %self.backend, server.address = %self.address, "lanes to `{}` are closed: they were not used, and callers wait for sessions", self.address);
            }
            Change::Paused => {
                self.metrics.lane_pauses.inc();
                tracing::warn!(
                    backend.name = %self.backend, server.address = %self.address,
                    "lanes to `{}` are left alone for {} s: more than 1 % of their statements took too long", self.address, PAUSE.as_secs()
                );
            }
        }
    }
}

/// Opens a lane beside the callers, who go on with leases meanwhile.
fn open(endpoint: &Arc<Endpoint>, index: usize, prepared_statements: usize) {
    let lane = &endpoint.lanes.all[index];
    if lane.opening.swap(true, Ordering::AcqRel) {
        return;
    }
    let task = Arc::clone(endpoint);
    endpoint.cleaning.spawn(async move {
        let lane = &task.lanes.all[index];
        if let Some(shared) = place::dial(&task, prepared_statements).await {
            lane.session.swap(Some(shared));
        } else {
            tracing::debug!(backend.name = %task.backend, "a lane to `{}` could not be opened", task.backend);
        }
        lane.opening.store(false, Ordering::Release);
    });
}
