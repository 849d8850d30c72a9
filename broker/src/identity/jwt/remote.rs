//! Keys that an issuer publishes: fetched ahead of need, kept while the issuer is away, fetched again where a token names a key that
//! nobody knows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::fetch::Source;
use super::keys::KeySet;
use crate::config::{JwtAlgorithm, JwtConfig};
use crate::observe::{AuthMetrics, FetchMetrics};

/// The first try after a failure, and the longest pause between failures.
const RETRY: Duration = Duration::from_secs(5);

/// The keys of one issuer, wherever they are.
pub struct RemoteKeys {
    name: String,
    source: Source,
    algorithms: Vec<JwtAlgorithm>,
    times: Times,
    known: ArcSwapOption<Known>,
    version: AtomicU64,
    attempt: Mutex<Attempt>,
    is_started: AtomicBool,
    metrics: FetchMetrics,
}

/// When what is done.
#[derive(PartialEq, Eq)]
struct Times {
    refresh: Duration,
    refetch_pause: Duration,
    max_stale: Duration,
}

/// Keys that came.
struct Known {
    keys: Arc<KeySet>,
    /// The text they were read from.
    text: Vec<u8>,
    at: Instant,
}

/// The last attempt to fetch, or the one that runs.
#[derive(Default)]
struct Attempt {
    began: Option<Instant>,
    /// True when it is over; it is over too when nobody can say so any more.
    over: Option<watch::Receiver<bool>>,
}

impl RemoteKeys {
    /// Keys that will be fetched. Errors: text about an address or certificates that do not work.
    pub fn new(name: &str, config: &JwtConfig, metrics: &AuthMetrics) -> Result<Self, String> {
        let url = config.jwks_url.as_deref().unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            source: Source::new(url, config.jwks_ca.as_deref())?,
            algorithms: config.algorithms.clone(),
            times: Times { refresh: config.refresh, refetch_pause: config.refetch_pause, max_stale: config.max_stale },
            known: ArcSwapOption::empty(),
            version: AtomicU64::new(1),
            attempt: Mutex::default(),
            is_started: AtomicBool::new(false),
            metrics: metrics.fetches(name),
        })
    }

    /// True where the other would fetch the same keys the same way.
    pub fn is_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.source == other.source
            && self.algorithms == other.algorithms
            && self.times == other.times
    }

    /// Another number whenever the keys are others.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The keys, where they came and are not too old.
    pub fn known(&self) -> Option<Arc<KeySet>> {
        let known = self.known.load_full()?;
        (known.at.elapsed() < self.times.max_stale).then(|| Arc::clone(&known.keys))
    }

    /// Fetches now and from then on, until nobody has these keys any more.
    pub fn start(self: &Arc<Self>) {
        if !self.is_started.swap(true, Ordering::AcqRel) {
            tokio::spawn(keep_fresh(Arc::downgrade(self)));
        }
    }

    /// Waits for an attempt that runs, or begins one where the last is long enough ago. Cancel safe: an attempt goes on.
    pub async fn fetched_again(self: &Arc<Self>) {
        self.attempted(self.times.refetch_pause).await;
    }

    async fn attempted(self: &Arc<Self>, pause: Duration) {
        if let Some(mut over) = self.begin(pause) {
            // An error: it ended without a word, and is over as well.
            let _ = over.wait_for(|over| *over).await;
        }
    }

    fn begin(self: &Arc<Self>, pause: Duration) -> Option<watch::Receiver<bool>> {
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(over) = attempt.over.as_ref().filter(|over| !*over.borrow() && over.has_changed().is_ok()) {
            return Some(over.clone());
        }
        if attempt.began.is_some_and(|began| began.elapsed() < pause) {
            return None;
        }
        let (tell, over) = watch::channel(false);
        *attempt = Attempt { began: Some(Instant::now()), over: Some(over.clone()) };
        let keys = Arc::clone(self);
        tokio::spawn(async move {
            keys.fetch().await;
            // Nobody may wait.
            let _ = tell.send(true);
        });
        Some(over)
    }

    async fn fetch(&self) {
        let fetched = match self.source.get().await {
            Ok(text) => KeySet::from_jwks(&text, &self.algorithms).map(|keys| (keys, text)),
            Err(error) => Err(error),
        };
        match fetched {
            Ok((keys, text)) => {
                self.metrics.fetched();
                self.take(keys, text);
            }
            Err(error) => {
                self.metrics.failed();
                let kept = if self.known().is_some() { "; those known stay good for now" } else { "" };
                tracing::warn!(issuer = %self.name, error = %error, "the keys of `{}` were not fetched{kept}: {error}", self.name);
            }
        }
    }

    /// The same text is no news: tokens that are known stay known.
    fn take(&self, keys: KeySet, text: Vec<u8>) {
        let before = self.known.load_full();
        let same = before.filter(|before| before.text == text).map(|before| Arc::clone(&before.keys));
        let is_new = same.is_none();
        let keys = same.unwrap_or_else(|| Arc::new(keys));
        self.known.store(Some(Arc::new(Known { keys, text, at: Instant::now() })));
        if is_new {
            self.version.fetch_add(1, Ordering::AcqRel);
            tracing::info!(issuer = %self.name, "new keys of `{}`", self.name);
        }
    }
}

/// It holds nothing while it sleeps: keys that a reload has dropped end it.
async fn keep_fresh(keys: Weak<RemoteKeys>) {
    loop {
        let Some(own) = keys.upgrade() else { return };
        own.attempted(Duration::ZERO).await;
        let is_fresh = own.known.load().as_ref().is_some_and(|known| known.at.elapsed() < own.times.refresh / 2);
        let pause =
            if is_fresh { own.times.refresh } else { RETRY.max(own.times.refetch_pause).min(own.times.refresh) };
        drop(own);
        // Brokers that were started together ask one after the other.
        sleep(pause.mul_f64(0.9 + rand::random::<f64>() / 5.0)).await;
    }
}
