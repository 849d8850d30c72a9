//! Every session of one endpoint by what it is doing, counted twice: by its state here, and by the task that drives its socket.
//! The two must agree; where they do not for long, a session was lost or lent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being opened.
    Connecting,
    /// Waiting to be lent.
    Idle,
    /// Lent to one caller.
    Lent,
    /// Shared by many callers.
    Lane,
    /// Being made clean, or closed.
    Cleaning,
}

/// The counts of one endpoint.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: [AtomicUsize; 5],
    alive: Arc<AtomicUsize>,
}

/// One session's line in the ledger; dropped with it.
#[derive(Debug)]
pub struct Entry {
    ledger: Arc<Ledger>,
    state: State,
}

/// Counts a task that drives a socket, from its dial to its end.
#[derive(Debug)]
pub struct Alive(Arc<AtomicUsize>);

impl Ledger {
    /// How many are in `state`.
    pub fn count(&self, state: State) -> usize {
        self.counts[state as usize].load(Ordering::Acquire)
    }

    /// All of them, those being opened included.
    pub fn total(&self) -> usize {
        self.counts.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }

    /// Sessions that are open.
    pub fn open(&self) -> usize {
        self.total().saturating_sub(self.count(State::Connecting))
    }

    /// Tasks that drive a socket.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// Begins to count a task that drives a socket.
    pub fn born(&self) -> Alive {
        self.alive.fetch_add(1, Ordering::AcqRel);
        Alive(Arc::clone(&self.alive))
    }

    /// A line for a session that is being opened.
    pub fn entry(self: &Arc<Self>) -> Entry {
        self.counts[State::Connecting as usize].fetch_add(1, Ordering::AcqRel);
        Entry { ledger: Arc::clone(self), state: State::Connecting }
    }
}

impl Entry {
    /// What the session is doing from now on. It is never counted nowhere: for a moment it may stand in both.
    pub fn set(&mut self, state: State) {
        self.ledger.counts[state as usize].fetch_add(1, Ordering::AcqRel);
        self.ledger.counts[self.state as usize].fetch_sub(1, Ordering::AcqRel);
        self.state = state;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.counts[self.state as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_counted_once_wherever_it_is() {
        let ledger = Arc::new(Ledger::default());
        let mut entry = ledger.entry();
        assert_eq!((ledger.count(State::Connecting), ledger.open()), (1, 0));
        let alive = ledger.born();
        for state in [State::Idle, State::Lent, State::Cleaning, State::Lane] {
            entry.set(state);
            assert_eq!((ledger.count(state), ledger.total(), ledger.open(), ledger.alive()), (1, 1, 1, 1));
        }
        drop((entry, alive));
        assert_eq!((ledger.total(), ledger.alive()), (0, 0));
    }
}
