//! Where a lane's session is, while there is one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A place for one session. Those that hold one are counted together.
#[derive(Debug)]
pub struct Slot<T> {
    /// The lock guards a look or a swap.
    held: Mutex<Option<Arc<T>>>,
    filled: Arc<AtomicUsize>,
}

impl<T> Slot<T> {
    /// An empty one, counted in `filled` while it is not.
    pub fn new(filled: &Arc<AtomicUsize>) -> Self {
        Self { held: Mutex::new(None), filled: Arc::clone(filled) }
    }

    /// The session. One that is not fit is let go of.
    pub fn get(&self, is_fit: impl FnOnce(&T) -> bool) -> Option<Arc<T>> {
        let mut held = self.held();
        if held.as_ref().is_some_and(|session| !is_fit(session)) {
            self.change(&mut held, None);
        }
        held.clone()
    }

    /// Puts another in its place, or none.
    pub fn swap(&self, session: Option<T>) {
        self.change(&mut self.held(), session.map(Arc::new));
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, held: &mut Option<Arc<T>>, session: Option<Arc<T>>) {
        match (held.is_some(), session.is_some()) {
            (false, true) => drop(self.filled.fetch_add(1, Ordering::AcqRel)),
            (true, false) => drop(self.filled.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
        *held = session;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_hold_one_are_counted() {
        let filled = Arc::default();
        let [one, other] = [Slot::new(&filled), Slot::new(&filled)];
        let count = || filled.load(Ordering::Acquire);
        one.swap(Some(1));
        one.swap(Some(2));
        assert_eq!((one.get(|_| true).as_deref(), other.get(|_| true), count()), (Some(&2), None, 1));
        other.swap(Some(3));
        assert_eq!(count(), 2);
        assert_eq!((one.get(|it| *it != 2), count()), (None, 1), "it was not fit");
        assert_eq!(one.get(|_| false), None);
        other.swap(None);
        other.swap(None);
        assert_eq!(count(), 0);
    }
}
