//! Who listens to what, and what is in force on the server: every change is one method under the hub's lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use hearth_client::wire::Notification;
use tokio::sync::oneshot;

use super::ListenError;
use super::queue::{End, Event, Heard, Queue};

/// Where a subscriber stands.
#[derive(Debug)]
enum Place {
    /// LISTEN is not in force yet.
    Waiting(oneshot::Sender<Result<(), ListenError>>),
    /// It hears.
    Hears,
    /// It has heard, and the connection was lost since.
    Deaf,
}

#[derive(Debug)]
struct Subscriber {
    queue: Arc<Queue>,
    place: Place,
}

type Subscribers = BTreeMap<u64, Subscriber>;

/// The hub's state.
#[derive(Debug, Default)]
pub struct State {
    /// Channels somebody wants; none is empty.
    channels: HashMap<Arc<str>, Subscribers>,
    /// Channels that the present session surely listens to. One is taken out before its UNLISTEN is sent.
    in_force: HashSet<Arc<str>>,
    /// Counts sessions: what an older one still hands on is not for anyone.
    generation: u64,
    next_id: u64,
    /// The hub's task is there.
    pub running: bool,
    /// The broker is shutting down.
    pub closed: bool,
}

/// What the session has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Wanted, and not in force.
    pub listen: Vec<Arc<str>>,
    /// In force until now, and not wanted.
    pub unlisten: Vec<Arc<str>>,
}

impl State {
    /// Adds a subscriber; answers its number, and what to wait for unless it hears already.
    pub fn join(
        &mut self,
        channel: &str,
        queue: Arc<Queue>,
    ) -> (u64, Option<oneshot::Receiver<Result<(), ListenError>>>) {
        let id = self.next_id;
        self.next_id += 1;
        let (place, granted) = if self.in_force.contains(channel) {
            (Place::Hears, None)
        } else {
            let (grant, granted) = oneshot::channel();
            (Place::Waiting(grant), Some(granted))
        };
        self.channels.entry(channel.into()).or_default().insert(id, Subscriber { queue, place });
        (id, granted)
    }

    /// Takes a subscriber away. True if it was its channel's last.
    pub fn leave(&mut self, channel: &str, id: u64) -> bool {
        self.edit(channel, |subscribers| drop(subscribers.remove(&id)))
    }

    /// True when nobody is left.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Subscribers of all channels.
    pub fn subscribers(&self) -> usize {
        self.channels.values().map(BTreeMap::len).sum()
    }

    /// Channels in force.
    pub fn in_force(&self) -> Vec<String> {
        self.in_force.iter().map(|channel| (**channel).to_owned()).collect()
    }

    /// A session is about to be opened; answers its generation.
    pub fn begin(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// The session is gone.
    pub fn lost(&mut self) {
        self.generation += 1;
        self.in_force.clear();
        for subscriber in self.channels.values_mut().flat_map(BTreeMap::values_mut) {
            if matches!(subscriber.place, Place::Hears) {
                subscriber.place = Place::Deaf;
            }
        }
    }

    /// What the session has to be told now.
    pub fn work(&mut self) -> Work {
        let listen = self.channels.keys().filter(|channel| !self.in_force.contains(*channel)).cloned().collect();
        let unlisten = self.in_force.extract_if(|channel| !self.channels.contains_key(channel)).collect();
        Work { listen, unlisten }
    }

    /// LISTEN is in force for these channels. One that nobody wants any more is found by the next [`State::work`].
    pub fn granted(&mut self, channels: &[Arc<str>]) {
        for channel in channels {
            self.in_force.insert(Arc::clone(channel));
            self.edit(channel, |subscribers| subscribers.retain(|_, subscriber| subscriber.hears()));
        }
    }

    /// The server refuses LISTEN for this channel. True if somebody is left who has heard before.
    pub fn refused(&mut self, channel: &str, error: &ListenError) -> bool {
        self.edit(channel, |subscribers| refuse(subscribers, error));
        self.channels.contains_key(channel)
    }

    /// No session can be had: those who wait are told, those who have heard go on waiting.
    pub fn refused_all(&mut self, error: &ListenError) {
        self.channels.retain(|_, subscribers| {
            refuse(subscribers, error);
            !subscribers.is_empty()
        });
    }

    /// Hands a notification to everyone who hears its channel. True if the channel's last subscriber was too slow.
    pub fn dispatch(&mut self, generation: u64, notification: Notification) -> bool {
        if generation != self.generation {
            return false;
        }
        let channel = notification.channel.clone();
        let event = Event::Heard(Arc::new(Heard::new(notification)));
        self.edit(&channel, |subscribers| subscribers.retain(|_, subscriber| subscriber.tell(event.clone()).is_ok()))
    }

    /// True while a reader has many unread only because it has not had its turn.
    pub fn is_ahead(&self) -> bool {
        self.channels.values().flat_map(BTreeMap::values).any(|subscriber| subscriber.queue.is_starved())
    }

    /// Ends every subscription.
    pub fn close(&mut self) {
        self.closed = true;
        for (_, subscribers) in self.channels.drain() {
            for subscriber in subscribers.into_values() {
                subscriber.queue.end(End::Closed);
            }
        }
    }

    /// Changes a channel's subscribers. True if this took the last one.
    fn edit(&mut self, channel: &str, change: impl FnOnce(&mut Subscribers)) -> bool {
        let Some(subscribers) = self.channels.get_mut(channel) else { return false };
        change(subscribers);
        let emptied = subscribers.is_empty();
        if emptied {
            self.channels.remove(channel);
        }
        emptied
    }
}

impl Subscriber {
    /// LISTEN is in force. False: it takes nothing any more, or has left.
    fn hears(&mut self) -> bool {
        match std::mem::replace(&mut self.place, Place::Hears) {
            Place::Waiting(grant) => grant.send(Ok(())).is_ok(),
            Place::Deaf => self.queue.push(Event::Reconnected).is_ok(),
            Place::Hears => true,
        }
    }

    /// One that was deaf is told first: the answer to LISTEN may be behind the notification in the driver.
    fn tell(&mut self, event: Event) -> Result<(), End> {
        match self.place {
            // It has not been told that it listens, so nothing is owed to it.
            Place::Waiting(_) => return Ok(()),
            Place::Deaf => {
                self.place = Place::Hears;
                self.queue.push(Event::Reconnected)?;
            }
            Place::Hears => {}
        }
        self.queue.push(event)
    }
}

fn refuse(subscribers: &mut Subscribers, error: &ListenError) {
    for (_, subscriber) in subscribers.extract_if(.., |_, subscriber| matches!(subscriber.place, Place::Waiting(_))) {
        if let Place::Waiting(grant) = subscriber.place {
            // Its caller may have left.
            let _ = grant.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
