//! The broker that new requests get, and putting another one in its place while requests run.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex as Turn, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Broker;
use super::pools::Pools;
use crate::config::{Changes, Config, ConfigError, LogConfig, ServerConfig};
use crate::observe::{Audit, Event};

/// Between two looks whether the requests of a replaced broker are done.
const LOOK: Duration = Duration::from_millis(20);
/// How long pools on their way out, and the last word to the control database, may take when the broker ends.
const END: Duration = Duration::from_secs(6);

/// Changes told of one reload in the audit log.
const MOST_CHANGES: usize = 1000;

/// Where a configuration comes from.
type Source = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// The broker that new requests get. Cheap to clone; all clones hold the same.
#[derive(Clone)]
pub struct Live(pub(super) Arc<Inner>);

pub(super) struct Inner {
    current: ArcSwap<Broker>,
    source: Source,
    started: Started,
    /// One reload at a time. It holds the replaced brokers that requests may still have.
    pub(super) turn: Turn<Vec<Weak<Broker>>>,
    /// What is waited for at the end: replaced pools, which close after their last request, and the last word to the control
    /// database.
    pub(super) closing: TaskTracker,
    /// The broker ends: nobody is waited for any more.
    pub(super) ending: CancellationToken,
    /// The number of the control database's last change in force.
    pub(super) applied: watch::Sender<i64>,
}

/// What was settled when the process started.
struct Started {
    server: ServerConfig,
    log: LogConfig,
}

/// What a reload has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// 1 for the configuration at the start, and one more for each reload.
    pub generation: u64,
    /// What the new configuration says otherwise.
    pub changes: Changes,
    /// Databases with new connections: new ones, and those whose part of the configuration has changed.
    pub databases: Vec<String>,
    /// Caches with new connections.
    pub caches: Vec<String>,
    /// New connections are shown another certificate, or are asked for others.
    pub certificate: bool,
    /// What differs from how the process was started and stays so until it is started again, by paths.
    pub needs_restart: Vec<&'static str>,
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    Draining,
    /// A bug.
    #[error("a bug in the broker ended the reload")]
    Panicked,
}

impl Live {
    /// Builds the first broker from `config`; a reload asks `source` for another configuration.
    pub fn new(
        config: &Config,
        source: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(Inner {
            current: ArcSwap::new(Broker::new(config)?),
            source: Box::new(source),
            started: Started { server: config.server.clone(), log: config.log.clone() },
            turn: Turn::default(),
            closing: TaskTracker::new(),
            ending: CancellationToken::new(),
            applied: watch::Sender::new(0),
        })))
    }

    /// The broker at this moment. Whoever asks keeps it for as long as one thing is done, not longer: a replaced broker's pools
    /// stay open for it.
    pub fn now(&self) -> Arc<Broker> {
        self.0.current.load_full()
    }

    /// Opens every pool's minimum.
    pub async fn warm(&self) {
        self.now().warm().await;
    }

    /// Reads the configuration again, and puts a broker made from it in place of the present one; or changes nothing, and says
    /// why. Cancel safe: begun, it is finished.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let live = self.clone();
        tokio::spawn(async move { live.replace().await }).await.unwrap_or(Err(ReloadError::Panicked))
    }

    async fn replace(&self) -> Result<Reloaded, ReloadError> {
        let mut replaced = self.0.turn.lock().await;
        let before = self.now();
        if before.is_draining() {
            return Err(ReloadError::Draining);
        }
        let (config, after) = match self.build(&before).await {
            Ok(built) => built,
            Err(error) => {
                before.metrics.reloads.refused();
                audit(before.audit.as_ref(), "invalid_request", &Changes::default());
                tracing::error!(error = %error, "the configuration was not reloaded and nothing has changed: {error}");
                return Err(error);
            }
        };
        let (made, gone) = (Pools::only(&after, Some(&before)), Pools::only(&before, Some(&after)));
        self.0.current.store(Arc::clone(&after));
        after.join();
        if let Some(old) =
            before.fleet.clone().filter(|old| !after.fleet.as_ref().is_some_and(|new| Arc::ptr_eq(old, new)))
        {
            tokio::spawn(async move { old.leave().await });
        }
        // From here on every new request has the new one.
        gone.retire();
        after.issuers.start();
        replaced.retain(|broker| broker.strong_count() > 0);
        replaced.push(Arc::downgrade(&before));
        if !gone.is_empty() {
            self.0.closing.spawn(self.clone().close_unused(gone, replaced.clone(), before.longest_deadline));
        }
        let (databases, caches) = made.names();
        if !made.is_empty() {
            tokio::spawn(async move { made.warm().await });
        }
        after.metrics.reloads.taken();
        after.metrics.control.holds(after.directory.counts());
        let reloaded = Reloaded {
            generation: after.generation,
            changes: before.outline.changes(&after.outline),
            databases,
            caches,
            certificate: presents_another(&before, &after),
            needs_restart: self.0.started.differences(&config),
        };
        log(&reloaded);
        audit(after.audit.as_ref(), "ok", &reloaded.changes);
        Ok(reloaded)
    }

    /// Off the runtime's own threads: files are read, and a hundred thousand tenants take a while.
    async fn build(&self, before: &Arc<Broker>) -> Result<(Config, Arc<Broker>), ReloadError> {
        let (inner, before) = (Arc::clone(&self.0), Arc::clone(before));
        let built = tokio::task::spawn_blocking(move || {
            let config = (inner.source)()?;
            let after = before.next(&config)?;
            Ok::<_, ConfigError>((config, after))
        });
        Ok(built.await.map_err(|_| ReloadError::Panicked)??)
    }

    /// Closes pools when no request is left that may ask them for a connection. What was lent before comes back by itself.
    async fn close_unused(self, gone: Pools, users: Vec<Weak<Broker>>, patience: Duration) {
        let unused = async {
            while users.iter().any(|broker| broker.strong_count() > 0) {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = unused => {}
            // Past its deadline no request waits for a connection any more.
            () = sleep(patience) => {}
            () = self.0.ending.cancelled() => {}
        }
        gone.close().await;
    }

    /// Closes every pool, once nothing uses them any more. No reload begins after this.
    pub async fn close(&self) {
        {
            let _turn = self.0.turn.lock().await;
            self.0.ending.cancel();
            self.0.closing.close();
        }
        let ended = tokio::time::timeout(END, self.0.closing.wait());
        let ((), _) = tokio::join!(async { self.now().close().await }, ended);
        if let Some(audit) = &self.now().audit {
            audit.flush().await;
        }
    }
}

impl Started {
    /// What the configuration wants otherwise than the process was started.
    fn differences(&self, config: &Config) -> Vec<&'static str> {
        let (was, wanted) = (&self.server, &config.server);
        let pairs = [
            ("log.filter", self.log.filter == config.log.filter),
            ("log.format", self.log.format == config.log.format),
            ("server.admin_listen", was.admin_listen == wanted.admin_listen),
            ("server.listen", was.listen == wanted.listen),
            ("server.workers", was.workers == wanted.workers),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(path, _)| path).collect()
    }
}

/// Keys and tenants that come and go are among the changes. By whom, the line of the request says, if it was one.
fn audit(audit: Option<&Arc<Audit>>, outcome: &'static str, changes: &Changes) {
    let Some(audit) = audit else { return };
    let paths = [("+", &changes.added), ("~", &changes.changed), ("-", &changes.removed)];
    let told = paths.into_iter().flat_map(|(sign, paths)| paths.iter().map(move |path| format!("{sign}{path}")));
    let mut event = Event { outcome, ..Event::new("reload") };
    event.changes = told.take(MOST_CHANGES).collect();
    event.more = changes.len() - event.changes.len();
    audit.tell(event);
}

fn presents_another(before: &Broker, after: &Broker) -> bool {
    match (&before.tls, &after.tls) {
        (Some(before), Some(after)) => before.differs(after),
        (before, after) => before.is_some() != after.is_some(),
    }
}

fn log(reloaded: &Reloaded) {
    let Reloaded { generation, changes, databases, caches, certificate, needs_restart } = reloaded;
    tracing::info!(
        generation, added = ?changes.added, changed = ?changes.changed, removed = ?changes.removed, databases = ?databases,
        caches = ?caches, certificate, "the configuration was reloaded: {} change(s)", changes.len()
    );
    if !needs_restart.is_empty() {
        tracing::warn!(needs_restart = ?needs_restart, "the process must be started again for {}", needs_restart.join(", "));
    }
}
