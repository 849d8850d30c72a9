//! Idle sessions, and those who wait for one: whose turn it is is `drr`'s, and how a session gets from one to the other is here.
//!
//! deadpool's unmanaged pool keeps what is idle. Whatever comes back goes to whoever's turn it is at that moment: a hand-off is one
//! step under one lock, so that a session is neither lost nor given twice, and nobody who has left, or whose deadline has passed,
//! is given one. While nobody waits, none of this is asked: lending and taking back cost a look at one number each.

mod account;
mod drr;
mod flow;
mod seat;
mod usual;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::unmanaged::{Object as Raw, Pool};
use tokio::sync::oneshot;
use tokio::time::Instant;

use drr::{Place, Turns};

use crate::base::{Deadline, TenantId, worker};

pub use account::{Account, BUCKETS};
pub use drr::Charge;
pub use seat::Seat;
pub use usual::Usual;

/// Idle sessions, and those who wait for one.
pub struct Queue<T>(Arc<Inner<T>>);

struct Inner<T> {
    idle: Pool<T>,
    /// Copied from `turns`, for those who need no lock then.
    waiting: AtomicUsize,
    /// Handed to one who has not looked yet.
    handed: AtomicUsize,
    /// Somebody waits, or has waited just now: what is used is counted.
    is_busy: AtomicBool,
    turns: Mutex<Turns<oneshot::Sender<Handed<T>>>>,
}

type Handed<T> = Result<(Raw<T>, Charge), Shed>;

/// Why there is none to be had by waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// The deadline has passed.
    Expired,
    /// So many of the tenant's wait already.
    Full(usize),
    /// So many wait already, and no tenant has more of them.
    Crowded(usize),
    /// Its turn would come in about so long, and it would not be through before the deadline.
    TooLate(Duration),
    /// Nothing is lent any more.
    Closed,
}

/// What a queue can do now.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Most that may wait.
    pub most: usize,
    /// Sessions that serve, or may.
    pub serving: usize,
    /// How long one is usually held.
    pub usually: Option<Duration>,
}

/// A session out of the queue. Dropped, it goes to whoever's turn it is.
pub struct Object<T> {
    raw: Option<Raw<T>>,
    home: Arc<Inner<T>>,
}

impl<T> Queue<T> {
    /// Room for so many sessions.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner {
            idle: Pool::new(most),
            waiting: AtomicUsize::new(0),
            handed: AtomicUsize::new(0),
            is_busy: AtomicBool::new(false),
            turns: Mutex::new(Turns::new()),
        }))
    }

    /// An idle one, for whoever comes while nobody waits.
    pub fn take(&self) -> Option<Object<T>> {
        if self.waiting() > 0 { None } else { self.try_get() }
    }

    /// An idle one, whoever waits: for those who bring it back at once.
    pub fn try_get(&self) -> Option<Object<T>> {
        self.0.idle.try_get().ok().map(|raw| self.0.object(raw))
    }

    /// A new one. Where it is taken no more, it is dropped.
    pub fn add(&self, session: T) {
        drop(self.0.idle.try_add(session));
        self.0.hand_out();
    }

    /// A place behind the tenant's others. Errors: why waiting is no use.
    pub fn join<'q>(
        &'q self,
        account: &'q Arc<Account>,
        deadline: Deadline,
        terms: Terms,
    ) -> Result<Seat<'q, T>, Shed> {
        let (teller, told) = oneshot::channel();
        let (now, deadline) = (Instant::now(), deadline.at());
        let id = {
            let mut turns = self.0.turns();
            // Whoever closes it does so before it looks for those who wait.
            if self.0.idle.is_closed() {
                return Err(Shed::Closed);
            }
            turns.note_usual(terms.usually);
            let own = turns.of(account);
            if own >= account.max_queued() as usize {
                return Err(Shed::Full(own));
            }
            let expected = turns.expected(account, terms.serving, now);
            if let Some(late) = expected.filter(|expected| now + expected.done > deadline) {
                return Err(Shed::TooLate(late.wait));
            }
            if turns.len() >= terms.most {
                let crowded = Shed::Crowded(turns.len());
                let newest = turns.push_out(account, now).ok_or(crowded)?;
                let _ = newest.send(Err(crowded));
            }
            let place = Place { waiter: teller, deadline, near: worker::here() };
            let id = turns.join(account, place, expected, now);
            self.0.is_busy.store(true, Ordering::Release);
            self.0.note(&turns);
            id
        };
        self.0.hand_out();
        Ok(Seat { queue: self, account, deadline, id, told, is_over: false })
    }

    /// What a session has cost, once it is known.
    pub fn settle(&self, charge: &Charge, held: Duration) {
        if self.0.is_busy.load(Ordering::Acquire) {
            self.0.turns().settle(charge, held, Instant::now());
        }
    }

    /// Once in a while: forgets what nobody needs to be reminded of.
    pub fn sweep(&self) {
        if self.0.is_busy.load(Ordering::Acquire) {
            let mut turns = self.0.turns();
            let forgiven = turns.forgive(Instant::now());
            self.0.is_busy.store(!forgiven, Ordering::Release);
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// How many wait, by tenant.
    pub fn lengths(&self) -> Vec<(TenantId, usize)> {
        if self.waiting() == 0 { Vec::new() } else { self.0.turns().lengths() }
    }

    /// Sessions that nobody has yet.
    pub fn available(&self) -> usize {
        self.0.idle.status().available + self.0.handed.load(Ordering::Acquire)
    }

    /// Lends nothing any more. What is idle is dropped, and who waits is told.
    pub fn close(&self) {
        self.0.idle.close();
        let mut turns = self.0.turns();
        let all = turns.clear(Instant::now());
        self.0.note(&turns);
        drop(turns);
        for waiter in all {
            let _ = waiter.send(Err(Shed::Closed));
        }
    }

    /// True once it is closed.
    pub fn is_closed(&self) -> bool {
        self.0.idle.is_closed()
    }
}

impl<T> Inner<T> {
    fn turns(&self) -> MutexGuard<'_, Turns<oneshot::Sender<Handed<T>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<W>(&self, turns: &Turns<W>) {
        self.waiting.store(turns.len(), Ordering::Release);
    }

    fn object(self: &Arc<Self>, raw: Raw<T>) -> Object<T> {
        Object { raw: Some(raw), home: Arc::clone(self) }
    }

    /// Gives what is idle to those whose turn it is. Called by whoever has brought a session, and by whoever has begun to wait.
    fn hand_out(&self) {
        // One has put a session down and looks for those who wait; the other waits and looks for a session. Of two at once at
        // least one must see the other.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut turns = self.turns();
        let mut at_hand = None;
        while turns.len() > 0 {
            let Some(raw) = at_hand.take().or_else(|| self.idle.try_get().ok()) else { break };
            let expired = |waiter: oneshot::Sender<Handed<T>>| drop(waiter.send(Err(Shed::Expired)));
            let Some((waiter, charge)) = turns.next(worker::here(), Instant::now(), expired) else {
                at_hand = Some(raw);
                break;
            };
            self.handed.fetch_add(1, Ordering::AcqRel);
            if let Err(Ok((raw, charge))) = waiter.send(Ok((raw, charge))) {
                // It has just left.
                self.handed.fetch_sub(1, Ordering::AcqRel);
                turns.refund(&charge);
                at_hand = Some(raw);
            }
        }
        self.note(&turns);
        drop(turns);
        // Nobody waits for it; whoever comes now finds it.
        if at_hand.is_some() {
            drop(at_hand);
            self.hand_out();
        }
    }
}

impl<T> Object<T> {
    /// Takes it out for good.
    pub fn take(mut this: Self) -> T {
        Raw::take(this.raw.take().expect("it is there until it is taken or dropped"))
    }
}

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.raw.as_ref().expect("it is there until it is taken or dropped")
    }
}

impl<T> DerefMut for Object<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.raw.as_mut().expect("it is there until it is taken or dropped")
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            drop(raw);
            self.home.hand_out();
        }
    }
}

#[cfg(test)]
mod tests;
