//! Every session of one endpoint by what it is doing, counted twice: by its state here, and by the task that drives its socket.
//! The two must agree; where they do not for long, a session was lost or lent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

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

impl State {
    /// By number.
    const ALL: [Self; 5] = [Self::Connecting, Self::Idle, Self::Lent, Self::Lane, Self::Cleaning];
}

/// In place of a state's number: counted nowhere any more.
const STRUCK: u8 = u8::MAX;

/// The counts of one endpoint.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: [AtomicUsize; State::ALL.len()],
    alive: Arc<AtomicUsize>,
}

/// One session's line in the ledger; dropped with it.
#[derive(Debug)]
pub struct Entry(Arc<Line>);

/// A line in the ledger, for those who may have to strike it out from the side.
#[derive(Debug)]
pub struct Line {
    ledger: Arc<Ledger>,
    state: AtomicU8,
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

    /// Every count, in words.
    pub fn states(&self) -> String {
        let counts: Vec<_> = State::ALL.iter().map(|state| format!("{} {state:?}", self.count(*state))).collect();
        counts.join(", ").to_lowercase()
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

    fn add(&self, state: u8) {
        self.counts[usize::from(state)].fetch_add(1, Ordering::AcqRel);
    }

    fn sub(&self, state: u8) {
        self.counts[usize::from(state)].fetch_sub(1, Ordering::AcqRel);
    }

    /// A line for a session that is being opened.
    pub fn entry(self: &Arc<Self>) -> Entry {
        self.add(State::Connecting as u8);
        Entry(Arc::new(Line { ledger: Arc::clone(self), state: AtomicU8::new(State::Connecting as u8) }))
    }
}

impl Entry {
    /// What the session is doing from now on. It is never counted nowhere: for a moment it may stand in both.
    pub fn set(&mut self, state: State) {
        let (line, state) = (&self.0, state as u8);
        line.ledger.add(state);
        let kept = |now| (now != STRUCK).then_some(state);
        let before = line.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, kept);
        line.ledger.sub(before.unwrap_or(state));
    }

    /// The line, for whoever may have to strike it out.
    pub fn line(&self) -> Arc<Line> {
        Arc::clone(&self.0)
    }
}

impl Line {
    /// The session is counted nowhere from now on, whatever its holder does.
    pub fn strike(&self) {
        let before = self.state.swap(STRUCK, Ordering::AcqRel);
        if before != STRUCK {
            self.ledger.sub(before);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.strike();
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

    #[test]
    fn a_line_that_was_struck_out_is_counted_nowhere_whatever_its_holder_does() {
        let ledger = Arc::new(Ledger::default());
        let (mut entry, other) = (ledger.entry(), ledger.entry());
        entry.set(State::Lent);
        let line = entry.line();
        line.strike();
        let counts = || State::ALL.map(|state| ledger.count(state));
        assert_eq!(counts(), [1, 0, 0, 0, 0]);
        for state in State::ALL {
            entry.set(state);
            line.strike();
            assert_eq!(counts(), [1, 0, 0, 0, 0], "{state:?}");
        }
        drop((entry, other));
        assert_eq!(ledger.total(), 0);
    }
}
