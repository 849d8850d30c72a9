//! A server that sentinels watch: which one it is today.
//!
//! They are asked at the first use, every two seconds, and at once when the server takes no connection or says that it is
//! a replica now. Source: Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel".

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{ConnectionAddr, RedisConnectionInfo, RedisError, TlsMode};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::connect::{self, Connector};
use super::node::Node;
use crate::base::{BackendName, Deadline};
use crate::config::{CacheConfig, Secret, SentinelConfig};
use crate::observe::PoolMetrics;
use crate::pool::PoolError;
use crate::pool::breaker::{Breaker, CONNECT};
use crate::pool::event::CloseReason;

/// A server that was demoted while nobody wrote is known after this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// While there is none, the next look comes after this.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The longest time that one round of questions may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The sentinels of one cache, and the server they last named.
pub(super) struct Sentinels {
    backend: BackendName,
    config: CacheConfig,
    master: String,
    connector: Connector,
    servers: SentinelNodeConnectionInfo,
    metrics: PoolMetrics,
    /// Held for one round of questions.
    finder: Mutex<Sentinel>,
    /// The lock guards a look or a swap.
    current: std::sync::Mutex<Option<Arc<Node>>>,
    refusals: AtomicU64,
    breaker: Breaker,
    nudge: Notify,
    watched: AtomicBool,
    closing: CancellationToken,
}

impl Sentinels {
    /// Sentinels that were not asked yet. Errors: text about an address or a secret.
    pub fn new(
        backend: BackendName,
        sentinel: &SentinelConfig,
        config: &CacheConfig,
        metrics: &PoolMetrics,
    ) -> Result<Arc<Self>, String> {
        let mut nodes = Vec::new();
        for url in &sentinel.nodes {
            let info = connect::address(url)?;
            let mut settings = info.redis_settings().clone();
            if let Some(username) = &sentinel.username {
                settings = settings.set_username(username);
            }
            if let Some(password) = sentinel.password.as_ref().map(Secret::reveal).transpose()? {
                settings = settings.set_password(password);
            }
            nodes.push(info.set_redis_settings(settings));
        }
        let first = nodes.first().cloned().ok_or("names no sentinel")?;
        let settings = connect::settings(&RedisConnectionInfo::default(), config)?.set_db(i64::from(sentinel.database));
        let mut servers = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings.clone());
        if matches!(first.addr(), ConnectionAddr::TcpTls { .. }) {
            servers = servers.set_tls_mode(TlsMode::Secure);
        }
        let connector = Connector::new(first.set_redis_settings(settings), config.connect_timeout)?;
        Ok(Arc::new(Self {
            backend,
            config: config.clone(),
            master: sentinel.master.clone(),
            connector,
            servers,
            metrics: metrics.clone(),
            finder: Mutex::new(Sentinel::build(nodes).map_err(|error| error.to_string())?),
            current: std::sync::Mutex::default(),
            refusals: AtomicU64::new(0),
            breaker: Breaker::new(CONNECT),
            nudge: Notify::new(),
            watched: AtomicBool::new(false),
            closing: CancellationToken::new(),
        }))
    }

    /// The server that takes writes. Cancel safe.
    pub async fn node(self: &Arc<Self>, deadline: Deadline) -> Result<Arc<Node>, PoolError> {
        if let Some(node) = &*self.current() {
            return Ok(Arc::clone(node));
        }
        if !self.watched.swap(true, Ordering::AcqRel) {
            tokio::spawn(watch(Arc::clone(self)));
        }
        if let Some(open) = self.breaker.shut() {
            return Err(PoolError::BreakerOpen { backend: self.backend.clone(), retry_after: open.retry_after });
        }
        let refusals = self.refusals.load(Ordering::Acquire);
        timeout_at(deadline.at(), self.find(refusals)).await.map_err(|_| self.down("no sentinel answered in time"))?
    }

    /// The server last named, if there is one.
    pub fn current(&self) -> MutexGuard<'_, Option<Arc<Node>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one is it no longer, or is away.
    pub fn doubt(&self, node: &Arc<Node>) {
        let doubted = self.current().take_if(|current| Arc::ptr_eq(current, node));
        if let Some(node) = doubted {
            node.close(CloseReason::FailoverEpoch);
            self.nudge.notify_one();
        }
    }

    /// Asks, one caller at a time. Who waited for another's turn shares what came of it.
    async fn find(self: &Arc<Self>, refusals: u64) -> Result<Arc<Node>, PoolError> {
        let mut finder = self.finder.lock().await;
        if let Some(node) = &*self.current() {
            return Ok(Arc::clone(node));
        }
        if self.refusals.load(Ordering::Acquire) != refusals {
            return Err(self.down("the sentinels named none just now"));
        }
        match self.ask(&mut finder).await {
            Ok(node) => Ok(node),
            Err(error) => {
                self.refusals.fetch_add(1, Ordering::AcqRel);
                self.breaker.failure();
                tracing::debug!(backend.name = %self.backend, error = %error, "the sentinels of `{}` name no master", self.backend);
                Err(PoolError::Down { backend: self.backend.clone(), source: Box::new(error) })
            }
        }
    }

    /// One round of questions: to the sentinels who it is, and to it whether that is so.
    async fn ask(&self, finder: &mut Sentinel) -> Result<Arc<Node>, RedisError> {
        let asked = timeout(ANSWER_TIMEOUT, finder.async_master_for(&self.master, Some(&self.servers))).await;
        let client = asked.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        self.breaker.success();
        let (host, port) = match client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port),
            other => return Err(std::io::Error::other(format!("a master at {other}")).into()),
        };
        let connector = self.connector.to(&host, port);
        let mut current = self.current();
        if let Some(node) = &*current
            && node.connector.address() == connector.address()
        {
            return Ok(Arc::clone(node));
        }
        let made = Node::new(self.backend.clone(), connector, &self.config, &self.metrics);
        let node = made.map_err(std::io::Error::other)?;
        let before = current.replace(Arc::clone(&node));
        drop(current);
        tracing::info!(backend.name = %self.backend, server.address = %node.connector.address(), "the master of `{}` is {}", self.backend, node.connector.address());
        if let Some(before) = before {
            before.close(CloseReason::FailoverEpoch);
        }
        Ok(node)
    }

    fn down(&self, why: &'static str) -> PoolError {
        PoolError::Down { backend: self.backend.clone(), source: why.into() }
    }

    /// Ends the watch, and closes the server's connections.
    pub fn close(&self) {
        self.closing.cancel();
        if let Some(node) = self.current().take() {
            node.close(CloseReason::Idle);
        }
    }
}

/// Looks who it is, as long as the cache is there.
async fn watch(sentinels: Arc<Sentinels>) {
    loop {
        let pause = if sentinels.current().is_some() { LOOK_EVERY } else { LOOK_AGAIN };
        tokio::select! {
            () = sentinels.closing.cancelled() => return,
            () = sentinels.nudge.notified() => {}
            () = sleep(pause) => {}
        }
        let mut finder = sentinels.finder.lock().await;
        // Where it stands is told by who asks for a connection; here only what has changed matters.
        let _ = sentinels.ask(&mut finder).await;
    }
}
