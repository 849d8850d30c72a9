//! What one subscriber has not read yet: bounded, so that a reader who stops reading costs little and holds nobody up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use hearth_client::wire::Notification;
use tokio::sync::Notify;

/// Events one subscriber may leave unread. `postgres::hearing` gives readers their turn in a burst, so that it is one whose
/// socket is full, not one who was never asked, that gets here.
pub const CAPACITY: usize = 256;

/// What a subscriber hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// A notification.
    Heard(Arc<Heard>),
    /// The connection was lost and is there again; what was sent meanwhile is not heard.
    Reconnected,
}

/// Why a subscriber hears nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// [`CAPACITY`] events were left unread, and one more came.
    TooSlow,
    /// The broker is shutting down, or a reload has replaced the database.
    Closed,
}

/// A notification, shared by everyone who hears it.
#[derive(Debug)]
pub struct Heard {
    notification: Notification,
    written: OnceLock<Bytes>,
}

impl Heard {
    /// A notification that nobody has written out yet.
    pub fn new(notification: Notification) -> Self {
        Self { notification, written: OnceLock::new() }
    }

    /// The notification as `write` writes it; written once, however many subscribers hear it.
    pub fn written(&self, write: impl FnOnce(&Notification) -> Bytes) -> Bytes {
        self.written.get_or_init(|| write(&self.notification)).clone()
    }
}

/// One subscriber's unread events. One task reads, any may write.
#[derive(Debug, Default)]
pub struct Queue {
    /// The lock is held for a push or a pop.
    unread: Mutex<Unread>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Unread {
    events: VecDeque<Event>,
    end: Option<End>,
    /// The reader has read everything, and has not had its turn since.
    asleep: bool,
}

impl Queue {
    /// Adds an event. Errors: [`End`], if this event is not taken and none will be.
    pub fn push(&self, event: Event) -> Result<(), End> {
        let mut unread = self.unread();
        if let Some(end) = unread.end {
            return Err(end);
        }
        if unread.events.len() >= CAPACITY {
            drop(unread);
            self.end(End::TooSlow);
            return Err(End::TooSlow);
        }
        unread.events.push_back(event);
        drop(unread);
        self.more.notify_one();
        Ok(())
    }

    /// True when much is unread and the reader has been woken, but has not run since: it is not its fault. One that has run and
    /// left much unread has a full socket, and is not waited for.
    pub fn is_starved(&self) -> bool {
        let unread = self.unread();
        unread.asleep && unread.events.len() > CAPACITY / 2
    }

    /// Takes no event from now on. What is unread is thrown away: the reader is told of the end as soon as it reads.
    pub fn end(&self, end: End) {
        let mut unread = self.unread();
        unread.events = VecDeque::new();
        unread.end.get_or_insert(end);
        drop(unread);
        self.more.notify_one();
    }

    /// The next event. Errors: there is none, and why. Cancel safe.
    pub async fn next(&self) -> Result<Event, End> {
        loop {
            {
                let mut unread = self.unread();
                unread.asleep = unread.events.is_empty();
                if let Some(event) = unread.events.pop_front() {
                    return Ok(event);
                }
                if let Some(end) = unread.end {
                    return Err(end);
                }
            }
            // Keeps one wake-up, so that a push between the look and this is not missed.
            self.more.notified().await;
        }
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_who_stops_is_told_and_costs_nothing_more() {
        let queue = Queue::default();
        for _ in 0..CAPACITY {
            assert_eq!(queue.push(Event::Reconnected), Ok(()));
        }
        assert_eq!(queue.push(Event::Reconnected), Err(End::TooSlow));
        assert_eq!(queue.push(Event::Reconnected), Err(End::TooSlow));
        assert_eq!(queue.unread().events.capacity(), 0);
        assert!(matches!(queue.next().await, Err(End::TooSlow)));
        queue.end(End::Closed);
        assert!(matches!(queue.next().await, Err(End::TooSlow)), "the first reason stays");
    }

    #[tokio::test]
    async fn only_a_reader_who_has_not_had_its_turn_is_waited_for() {
        let queue = Queue::default();
        let fill = || (0..CAPACITY).for_each(|_| queue.push(Event::Reconnected).expect("there is room"));
        let asleep = tokio::time::timeout(std::time::Duration::ZERO, queue.next()).await;
        assert!(asleep.is_err() && !queue.is_starved(), "it has read everything");
        fill();
        assert!(queue.is_starved());
        queue.next().await.expect("goes on");
        assert!(!queue.is_starved(), "it has run, and left the rest");
    }

    #[tokio::test]
    async fn events_come_in_order_and_wake_the_reader() {
        let queue = Arc::new(Queue::default());
        let read = |queue: Arc<Queue>| async move {
            let mut pids = Vec::new();
            while let Ok(Event::Heard(heard)) = queue.next().await {
                heard.written(|n| {
                    pids.push(n.pid);
                    Bytes::new()
                });
            }
            pids
        };
        let reader = tokio::spawn(read(Arc::clone(&queue)));
        for pid in 0..10 {
            let notification = Notification { channel: "c".to_owned(), payload: String::new(), pid };
            queue.push(Event::Heard(Arc::new(Heard::new(notification)))).expect("there is room");
            tokio::task::yield_now().await;
        }
        queue.push(Event::Reconnected).expect("there is room");
        assert_eq!(reader.await.expect("ends"), (0..10).collect::<Vec<_>>());
    }
}
