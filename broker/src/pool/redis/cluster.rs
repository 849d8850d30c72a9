//! A cluster: commands go over the client library's connections to its nodes, transactions and what waits over leases.
//!
//! The library would send a command again whose connection broke, which may apply it twice; so its retries are off, and only
//! what a node has refused is sent again here. Source: Redis documentation, "Redis cluster specification".

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo, Slot};
use redis::{
    Cmd, ErrorKind, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, ServerError, ServerErrorKind, Value,
};
use tokio::time::{sleep, timeout_at};

use super::connect::{self, Connector};
use super::error::CacheError;
use super::leases::{Job, is_broken};
use super::node::Node;
use crate::base::{BackendName, Deadline};
use crate::config::CacheConfig;
use crate::encode::resp::{self, Args};
use crate::observe::{EndpointMetrics, PoolMetrics};
use crate::pool::PoolError;
use crate::pool::breaker::{Breaker, CONNECT};
use crate::pool::event::CloseReason;

/// How often a command is sent again that a node has refused because of where its slot is, or of a failover going on.
const TRIES: u32 = 8;
/// Before each but the first, times how many there were: a failover takes a moment.
const PAUSE: Duration = Duration::from_millis(30);
/// The request's deadline is the one that counts; this is longer than any.
const NEVER: Duration = Duration::from_hours(2);

/// The nodes of one cluster.
pub(super) struct Cluster {
    backend: BackendName,
    config: CacheConfig,
    metrics: PoolMetrics,
    /// Counters of the library's own connection, by the first node's address.
    entry: EndpointMetrics,
    client: ClusterClient,
    connector: Connector,
    /// Held while the cluster is asked for its nodes, so that one caller does it and the rest wait for that.
    connection: tokio::sync::Mutex<Option<ClusterConnection>>,
    breaker: Breaker,
    /// The locks guard a look or a change.
    nodes: std::sync::Mutex<HashMap<(String, u16), Arc<Node>>>,
    homes: std::sync::Mutex<HashMap<Slot, (String, u16)>>,
}

/// What a node has said of a command that it has not run.
enum Refused {
    /// Another node has its slot.
    Moved(String, u16),
    /// Another node has its key already, while its slot is on the way.
    Ask(String, u16),
    /// In a moment perhaps.
    NotNow,
}

impl Cluster {
    /// A cluster that was not asked yet. Errors: text about an address or a secret.
    pub fn new(
        backend: BackendName,
        urls: &[String],
        config: &CacheConfig,
        metrics: &PoolMetrics,
    ) -> Result<Arc<Self>, String> {
        let settings = connect::settings(&RedisConnectionInfo::default(), config)?;
        let mut nodes = Vec::new();
        for url in urls {
            nodes.push(connect::address(url)?.set_redis_settings(settings.clone()));
        }
        let first = nodes.first().cloned().ok_or("names no node")?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(0)
            .use_protocol(ProtocolVersion::RESP2)
            .connection_timeout(config.connect_timeout)
            .response_timeout(NEVER)
            .overall_response_timeout(None);
        if let Some(username) = settings.username() {
            builder = builder.username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.password(password);
        }
        Ok(Arc::new(Self {
            backend,
            config: config.clone(),
            metrics: metrics.clone(),
            entry: metrics.endpoint(&first.addr().to_string()),
            client: builder.build().map_err(|error| error.to_string())?,
            connector: Connector::new(first, config.connect_timeout)?,
            connection: tokio::sync::Mutex::default(),
            breaker: Breaker::new(CONNECT),
            nodes: std::sync::Mutex::default(),
            homes: std::sync::Mutex::default(),
        }))
    }

    /// Runs one command on the node that has its key.
    pub async fn run(&self, args: &Args<'_>, deadline: Deadline) -> Result<Value, CacheError> {
        let cmd = resp::cmd(args);
        let (mut to, mut tries) = (None, 0);
        loop {
            let mut connection = self.connection(deadline).await?;
            let sent = send(&mut connection, &cmd, to.take());
            let answer = timeout_at(deadline.at(), sent).await.map_err(|_| self.timed_out())?;
            let error = match answer {
                Ok(Value::ServerError(refusal)) => RedisError::from(refusal),
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(refused) = refused(&error) else { return self.answered(error) };
            tries += 1;
            let pause = match refused {
                // The first one is simply where it is now.
                Refused::Moved(..) | Refused::Ask(..) if tries == 1 => Duration::ZERO,
                _ => PAUSE * tries,
            };
            if tries == TRIES || deadline.remaining() <= pause {
                return self.answered(error);
            }
            sleep(pause).await;
            to = Some(refused);
        }
    }

    /// Runs several commands, each when the one before it is answered: one may be about what another has done, and only the
    /// nodes know which.
    pub async fn run_all(&self, commands: &[Args<'_>], deadline: Deadline) -> Result<Vec<Value>, CacheError> {
        let mut values = Vec::with_capacity(commands.len());
        for args in commands {
            values.push(self.run(args, deadline).await?);
        }
        Ok(values)
    }

    /// Runs it on a lease of the node that has its keys. Where a node refuses with `MOVED`, nothing has run, and the other is
    /// asked.
    pub async fn on_lease(&self, job: &Job<'_>, deadline: Deadline) -> Result<Vec<Value>, CacheError> {
        // A guess, since for most commands the key comes first; a wrong one costs a turn.
        let guess = job.key.map(Slot::for_key);
        let mut home = guess.and_then(|slot| self.homes().get(&slot).cloned());
        for _ in 0..3 {
            let values = self.node(home.take())?.run_on_lease(job, deadline).await?;
            let moved = values.iter().find_map(|value| match value {
                Value::ServerError(error) => moved(error),
                _ => None,
            });
            let Some((slot, to)) = moved else { return Ok(values) };
            let mut homes = self.homes();
            homes.insert(slot, to.clone());
            if let Some(guess) = guess {
                homes.insert(guess, to.clone());
            }
            home = Some(to);
        }
        Err(CacheError::CrossSlot { backend: self.backend.clone() })
    }

    /// Asks some node for a sign of life.
    pub async fn ping(&self, deadline: Deadline) -> Result<(), CacheError> {
        let mut connection = self.connection(deadline).await?;
        let ping = redis::cmd("PING");
        let answer = timeout_at(deadline.at(), connection.req_packed_command(&ping)).await;
        answer.map_err(|_| self.timed_out())?.map(drop).or_else(|error| self.answered(error).map(drop))
    }

    /// The library's connection, which knows the nodes and opens more itself.
    async fn connection(&self, deadline: Deadline) -> Result<ClusterConnection, PoolError> {
        let opened = async {
            let mut held = self.connection.lock().await;
            if let Some(connection) = &*held {
                return Ok(connection.clone());
            }
            if let Some(open) = self.breaker.shut() {
                return Err(PoolError::BreakerOpen { backend: self.backend.clone(), retry_after: open.retry_after });
            }
            match self.client.get_async_connection().await {
                Ok(connection) => {
                    self.breaker.success();
                    self.entry.opened();
                    *held = Some(connection.clone());
                    Ok(connection)
                }
                Err(error) => {
                    self.breaker.failure();
                    self.entry.not_opened("down");
                    Err(PoolError::Down { backend: self.backend.clone(), source: Box::new(error) })
                }
            }
        };
        let waited = || PoolError::WaitTimeout { backend: self.backend.clone(), waited: deadline.remaining() };
        timeout_at(deadline.at(), opened).await.map_err(|_| waited())?
    }

    /// The node at an address; without one, the first that was named.
    fn node(&self, home: Option<(String, u16)>) -> Result<Arc<Node>, PoolError> {
        let connector =
            home.as_ref().map_or_else(|| self.connector.clone(), |(host, port)| self.connector.to(host, *port));
        let key = home.unwrap_or_default();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get(&key) {
            return Ok(Arc::clone(node));
        }
        let made = Node::new(self.backend.clone(), connector, &self.config, &self.metrics);
        let node = made.map_err(|why| PoolError::Down { backend: self.backend.clone(), source: why.into() })?;
        nodes.insert(key, Arc::clone(&node));
        Ok(node)
    }

    fn homes(&self) -> MutexGuard<'_, HashMap<Slot, (String, u16)>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes that have lent something.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Closes what was lent; the library's connections go with the cluster.
    pub fn close(&self) {
        for node in self.nodes() {
            node.close(CloseReason::Idle);
        }
    }

    fn timed_out(&self) -> CacheError {
        CacheError::TimedOut { backend: self.backend.clone() }
    }

    /// Tells a refusal, which is an answer, from a node that is away and from a connection that broke.
    fn answered(&self, error: RedisError) -> Result<Value, CacheError> {
        let backend = self.backend.clone();
        if is_unsent(&error) || is_down(&error) {
            return Err(PoolError::Down { backend, source: Box::new(error) }.into());
        }
        if is_broken(&error) {
            return Err(CacheError::Lost { backend, source: Box::new(error) });
        }
        match ServerError::try_from(error) {
            Ok(refusal) => Ok(Value::ServerError(refusal)),
            Err(source) => Err(CacheError::Lost { backend, source: Box::new(source) }),
        }
    }
}

async fn send(connection: &mut ClusterConnection, cmd: &Cmd, to: Option<Refused>) -> Result<Value, RedisError> {
    let by_address = |host, port| SingleNodeRoutingInfo::ByAddress { host, port };
    match to {
        Some(Refused::Moved(host, port)) => {
            connection.route_command(cmd.clone(), RoutingInfo::SingleNode(by_address(host, port))).await
        }
        Some(Refused::Ask(host, port)) => {
            let mut both = Pipeline::with_capacity(2);
            both.cmd("ASKING").add_command(cmd.clone());
            let answers = connection.route_pipeline(both, 1, 1, by_address(host, port)).await?;
            answers.into_iter().next().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
        }
        _ => connection.req_packed_command(cmd).await,
    }
}

/// Nothing was sent: there is no connection to the node, or none could be opened.
fn is_unsent(error: &RedisError) -> bool {
    error.kind() == ErrorKind::ClusterConnectionNotFound || error.is_connection_refusal()
}

/// The node says that it cannot serve now.
fn is_down(error: &RedisError) -> bool {
    use ServerErrorKind as Kind;
    let kinds = [Kind::ClusterDown, Kind::MasterDown, Kind::ReadOnly, Kind::BusyLoading];
    kinds.into_iter().any(|kind| error.kind() == ErrorKind::Server(kind))
}

/// What has not run and may be sent again; `None` for every other error.
fn refused(error: &RedisError) -> Option<Refused> {
    use ServerErrorKind as Kind;
    if is_unsent(error) || is_down(error) {
        return Some(Refused::NotNow);
    }
    let ErrorKind::Server(kind) = error.kind() else { return None };
    let to = || error.redirect_node().and_then(|(node, _)| host_and_port(node));
    match kind {
        Kind::Moved => Some(to().map_or(Refused::NotNow, |(host, port)| Refused::Moved(host, port))),
        Kind::Ask => Some(to().map_or(Refused::NotNow, |(host, port)| Refused::Ask(host, port))),
        Kind::TryAgain => Some(Refused::NotNow),
        _ => None,
    }
}

/// `MOVED 3999 127.0.0.1:6381`
fn moved(error: &ServerError) -> Option<(Slot, (String, u16))> {
    let (slot, node) = error.details().filter(|_| error.kind() == Some(ServerErrorKind::Moved))?.split_once(' ')?;
    Some((Slot::new(slot.parse().ok()?)?, host_and_port(node)?))
}

fn host_and_port(node: &str) -> Option<(String, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}
