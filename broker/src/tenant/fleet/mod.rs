//! Limits that several brokers share, through Redis.
//!
//! No request waits for Redis. What a request needs is in this process: leased tokens of a rate ([`Bucket`]), a share of what may
//! be in flight ([`Share`]), the count of a day ([`Tally`]). A [`task`] fetches leases ahead for those that are in use, by a
//! [`script`] a limit, and knows from heartbeats how many brokers are alive. While Redis is away each broker keeps to its part.
//! How much may be let in too much stands in decision 0017.

mod bucket;
mod script;
mod share;
mod tally;
mod task;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::script::Ask;
use crate::config::FleetConfig;
use crate::observe::FleetMetrics;
use crate::pool::Cache;

pub use self::bucket::{Bucket, Terms};
pub use self::share::Share;
pub use self::tally::Tally;

/// What a broker that leaves may take to give its leases back.
const FAREWELL: Duration = Duration::from_millis(300);
/// A limit that nobody used for so long sleeps, and costs Redis nothing.
const IDLE: Duration = Duration::from_secs(2);

/// This broker's part in a fleet.
pub struct Fleet {
    config: FleetConfig,
    cache: Arc<Cache>,
    /// Who this broker is among the others.
    me: String,
    /// How many there are, this one included.
    live: AtomicU32,
    /// Limits that have just come into use.
    woken: Mutex<Vec<Arc<dyn Leased>>>,
    wake: Arc<Notify>,
    started: AtomicBool,
    ending: CancellationToken,
    tasks: TaskTracker,
    metrics: FleetMetrics,
}

/// A limit whose leases the task fetches. Only the task calls it, one call at a time.
trait Leased: Send + Sync {
    /// What to ask Redis now, if anything.
    fn ask(&self, moment: &Moment) -> Option<Ask>;
    /// What Redis has answered to that.
    fn answered(&self, moment: &Moment, answer: [i64; 2]);
    /// Redis is away: the broker takes its part by itself.
    fn alone(&self, moment: &Moment);
    /// True if it sleeps from now on, until it wakes itself.
    fn rests(&self, moment: &Moment) -> bool;
}

/// The moment of one round of the task.
struct Moment {
    now: Instant,
    /// Seconds since 1970.
    unix: u64,
    live: u32,
    me: Arc<str>,
    /// The broker leaves, and gives everything back.
    ending: bool,
}

impl Fleet {
    /// Joins when it is started. `me` tells this broker from others.
    pub fn new(config: &FleetConfig, cache: &Arc<Cache>, me: &str, metrics: FleetMetrics) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            cache: Arc::clone(cache),
            me: me.to_owned(),
            live: AtomicU32::new(config.brokers),
            woken: Mutex::default(),
            wake: Arc::default(),
            started: AtomicBool::new(false),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
            metrics,
        })
    }

    /// True if one made from these would be the same.
    pub fn serves(&self, config: &FleetConfig, cache: &Arc<Cache>) -> bool {
        self.config == *config && Arc::ptr_eq(&self.cache, cache)
    }

    /// Begins to fetch leases and to be seen by others; once.
    pub fn start(self: &Arc<Self>) {
        if !self.started.swap(true, Ordering::AcqRel) {
            self.tasks.spawn(task::run(Arc::downgrade(self), Arc::clone(&self.wake), self.ending.clone()));
        }
    }

    /// Gives back what is leased, and is not seen any more.
    pub async fn leave(&self) {
        self.ending.cancel();
        self.tasks.close();
        let _ = timeout(FAREWELL, self.tasks.wait()).await;
    }

    /// How many brokers there are, as last known.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed).max(1)
    }

    /// The key of something that is shared.
    pub fn key(&self, kind: &str, tenant: &str, policy: &str) -> String {
        format!("hearth:fleet:{}:{kind}:{tenant}:{policy}", self.config.name)
    }

    fn woken(&self, limit: Arc<dyn Leased>) {
        // Nobody fetches for it any more.
        if self.ending.is_cancelled() {
            return;
        }
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(limit);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BackendName;
    use crate::config::load_text;
    use crate::observe::Metrics;

    /// One of three brokers, whose task does not run.
    pub(super) fn fleet() -> Arc<Fleet> {
        let config = load_text("[caches.main]\nurl = \"redis://127.0.0.1:1\"", std::iter::empty());
        let config = &config.expect("is good").caches["main"];
        let metrics = Metrics::new();
        let cache = Cache::new(BackendName::new("main"), config, &metrics.pool("main")).expect("is good");
        Fleet::new(&FleetConfig { brokers: 3, ..FleetConfig::default() }, &cache, "me", metrics.fleet())
    }

    /// A round of the task at this moment.
    pub(super) fn moment() -> Moment {
        Moment { now: Instant::now(), unix: 0, live: 3, me: "me".into(), ending: false }
    }
}
