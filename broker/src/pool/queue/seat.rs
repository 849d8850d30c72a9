//! One who waits. It may leave at any moment: what it was given just then goes to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::drr::Place;
use super::{Account, Charge, Handed, Object, Queue, Shed};
use crate::base::worker;

/// A place among those who wait, given up on drop.
pub struct Seat<'q, T> {
    pub(super) queue: &'q Queue<T>,
    pub(super) account: &'q Arc<Account>,
    pub(super) deadline: Instant,
    pub(super) id: u64,
    pub(super) told: oneshot::Receiver<Handed<T>>,
    pub(super) is_over: bool,
}

impl<T> Seat<'_, T> {
    /// Waits for this one's turn. Not to be asked again after that.
    ///
    /// Cancel safe. Errors: it will not come.
    pub async fn turn(&mut self) -> Result<(Object<T>, Charge), Shed> {
        let told = (&mut self.told).await;
        self.is_over = true;
        let (raw, charge) = told.unwrap_or(Err(Shed::Closed))?;
        self.queue.0.handed.fetch_sub(1, Ordering::AcqRel);
        Ok((self.queue.0.object(raw), charge))
    }

    /// The session was no good: the same place again, and nothing is charged.
    pub fn again(&mut self, charge: &Charge) {
        let (teller, told) = oneshot::channel();
        let home = &self.queue.0;
        {
            let mut turns = home.turns();
            turns.refund(charge);
            // Of a queue that is closed the teller is dropped, which tells.
            if !home.idle.is_closed() {
                let place = Place { waiter: teller, deadline: self.deadline, near: worker::here() };
                turns.join_again(self.id, self.account, place, Instant::now());
                home.is_busy.store(true, Ordering::Release);
                home.note(&turns);
            }
        }
        (self.told, self.is_over) = (told, false);
        home.hand_out();
    }
}

impl<T> Drop for Seat<'_, T> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let home = &self.queue.0;
        {
            let mut turns = home.turns();
            if turns.leave(self.account, self.id, Instant::now()) {
                return home.note(&turns);
            }
        }
        // It was this one's turn: what it was given, or is given just now, goes to the next.
        self.told.close();
        if let Ok(Ok((raw, charge))) = self.told.try_recv() {
            home.handed.fetch_sub(1, Ordering::AcqRel);
            home.turns().refund(&charge);
            drop(home.object(raw));
        }
    }
}
