//! LISTEN and NOTIFY: one session a database hears for everyone, however many subscribers and channels there are.
//!
//! [`state`] knows who wants what, [`session`] opens the connection when the first subscriber comes and keeps the server's
//! list of channels like that one, `postgres::hearing` hands notifications on, [`queue`] holds what a subscriber has not read. The
//! connection is none of the pool's: it lives as long as there are subscribers, and a little longer.
//! Source: PostgreSQL manual, "NOTIFY" and "LISTEN".

pub mod queue;
mod session;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use queue::{End, Event, Heard, Queue};

use self::state::State;
use super::endpoint::Endpoint;
use super::postgres::ServerError;
use super::postgres::connect::Connector;
use super::route;
use crate::base::{BackendName, Deadline};
use crate::observe::{ActiveGuard, PoolMetrics};

/// Why LISTEN is not in force. Nothing is heard.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListenError {
    /// The backend takes no connection.
    #[error("`{backend}` takes no connection")]
    Down {
        /// Which backend.
        backend: BackendName,
        /// What the dial said, to everyone who waited for it.
        #[source]
        source: Arc<tokio_postgres::Error>,
    },
    /// The database refused.
    #[error("the database refused LISTEN")]
    Refused {
        /// The database's own record.
        #[source]
        db: Box<ServerError>,
    },
    /// The deadline passed.
    #[error("LISTEN was not in force at `{backend}` within {} ms", waited.as_millis())]
    TimedOut {
        /// Which backend.
        backend: BackendName,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The broker is shutting down, or a reload has replaced the database.
    #[error("`{backend}` is not listened to any more")]
    Closed {
        /// Which backend.
        backend: BackendName,
    },
}

/// One database's subscribers, and the session that hears for them.
pub struct Hub {
    backend: BackendName,
    /// The database's servers; the one that takes writes sends notifications.
    endpoints: Vec<Arc<Endpoint>>,
    metrics: PoolMetrics,
    /// The lock is held for one change, a notification's way to all subscribers included; never across an await.
    state: Mutex<State>,
    /// Wakes the hub's task: the state wants something of the session.
    changed: Notify,
}

/// A hub at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubStatus {
    /// Event streams.
    pub subscribers: usize,
    /// Channels that the server has in its list, in no order.
    pub channels: Vec<String>,
    /// A session is open or being opened.
    pub running: bool,
}

/// One subscriber's place; drop gives it up.
pub struct Subscription {
    hub: Arc<Hub>,
    channel: Arc<str>,
    id: u64,
    queue: Arc<Queue>,
    _counted: ActiveGuard,
}

impl Hub {
    /// Nobody listens yet, and no connection is open.
    pub fn new(backend: BackendName, endpoints: Vec<Arc<Endpoint>>, metrics: PoolMetrics) -> Arc<Self> {
        Arc::new(Self { backend, endpoints, metrics, state: Mutex::default(), changed: Notify::new() })
    }

    /// Subscribes to `channel`, a name of 1 to 63 bytes as it stands. When this returns, LISTEN is in force.
    ///
    /// Cancel safe: a caller that leaves is not subscribed.
    pub async fn subscribe(self: &Arc<Self>, channel: &str, deadline: Deadline) -> Result<Subscription, ListenError> {
        let (start, backend) = (Instant::now(), self.backend.clone());
        let queue = Arc::new(Queue::default());
        let (id, granted) = {
            let mut state = self.state();
            if state.closed {
                return Err(ListenError::Closed { backend });
            }
            let joined = state.join(channel, Arc::clone(&queue));
            if !std::mem::replace(&mut state.running, true) {
                tokio::spawn(session::run(Arc::clone(self)));
            }
            joined
        };
        let subscription = Subscription {
            hub: Arc::clone(self),
            channel: channel.into(),
            id,
            queue,
            _counted: self.metrics.listener(),
        };
        let Some(granted) = granted else { return Ok(subscription) };
        self.changed.notify_one();
        match tokio::time::timeout_at(deadline.at(), granted).await {
            Ok(Ok(answer)) => answer.map(|()| subscription),
            Ok(Err(_)) => Err(ListenError::Closed { backend }),
            Err(_) => Err(ListenError::TimedOut { backend, waited: start.elapsed() }),
        }
    }

    /// The hub at this moment.
    pub fn status(&self) -> HubStatus {
        let state = self.state();
        HubStatus { subscribers: state.subscribers(), channels: state.in_force(), running: state.running }
    }

    /// Ends every subscription and the session.
    pub fn close(&self) {
        self.state().close();
        self.changed.notify_one();
    }

    /// What opens sessions of the server to listen to; the first, where none is known to take writes.
    fn connector(&self) -> &Connector {
        &route::primary(&self.endpoints).unwrap_or(&self.endpoints[0]).connector
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event. Errors: there is none, and why. Cancel safe.
    pub async fn next(&self) -> Result<Event, End> {
        self.queue.next().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.hub.state().leave(&self.channel, self.id) {
            self.hub.changed.notify_one();
        }
    }
}
