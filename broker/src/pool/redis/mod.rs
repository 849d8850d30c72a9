//! Redis: one server, one that sentinels watch, or a cluster.
//!
//! A [`node::Node`] has a few shared connections, its [`lanes`], that every command goes over, and a few that are lent to one
//! caller at a time, its [`leases`], for transactions and for commands that wait. [`sentinel`] knows which node it is today,
//! [`cluster`] which of many.

mod cluster;
mod connect;
pub mod error;
mod lanes;
mod leases;
mod line;
mod measure;
mod node;
mod sentinel;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis::{Pipeline, Value};

pub use self::error::CacheError;
pub use self::measure::NodeStatus;

use self::cluster::Cluster;
use self::connect::Connector;
use self::leases::Job;
use self::node::Node;
use self::sentinel::Sentinels;
use super::error::PoolError;
use super::event::CloseReason;
use crate::base::{BackendName, Deadline};
use crate::config::CacheConfig;
use crate::encode::reply::Replies;
use crate::encode::resp::{self, Args, pack, refused_with};
use crate::observe::PoolMetrics;

/// A command that waits ends in Redis so long before the request's deadline, or a twentieth of what is left; where little is, half
/// of it. An idle Redis looks for those whose time is over ten times a second (`hz`).
const ANSWER_MARGIN: Duration = Duration::from_millis(150);

/// One Redis, whatever it is made of.
pub struct Cache {
    name: BackendName,
    place: Place,
}

enum Place {
    One(Arc<Node>),
    Watched(Arc<Sentinels>),
    Many(Arc<Cluster>),
}

/// What became of a transaction.
pub enum Executed {
    /// It ran: an answer a command, some of them refusals perhaps.
    Ran(Vec<Value>),
    /// Redis threw all of it away, and says why.
    Discarded(String),
}

impl Cache {
    /// Prepares the connections; none is opened yet. Errors: text about an address or a secret.
    pub fn new(name: BackendName, config: &CacheConfig, metrics: &PoolMetrics) -> Result<Arc<Self>, String> {
        let place = match (&config.url, &config.sentinel, &config.cluster) {
            (_, Some(sentinel), _) => Place::Watched(Sentinels::new(name.clone(), sentinel, config, metrics)?),
            (_, _, Some(nodes)) => Place::Many(Cluster::new(name.clone(), nodes, config, metrics)?),
            (url, None, None) => {
                let info = connect::address(url.as_deref().ok_or("has no address")?)?;
                let settings = connect::settings(info.redis_settings(), config)?;
                let connector = Connector::new(info.set_redis_settings(settings), config.connect_timeout)?;
                Place::One(Node::new(name.clone(), connector, config, metrics)?)
            }
        };
        Ok(Arc::new(Self { name, place }))
    }

    /// The name in the configuration and in addresses.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// Runs one command that does not wait; an answer is at most `most` bytes as Redis writes it.
    pub async fn run(&self, args: &Args<'_>, most: usize, deadline: Deadline) -> Result<Replies, CacheError> {
        match &self.place {
            Place::One(node) => node.ask(1, most, |out| pack(out, args), deadline).await.map(Replies::Wire),
            Place::Many(cluster) => Ok(Replies::tree(vec![Box::pin(cluster.run(args, deadline)).await?])),
            Place::Watched(sentinels) => Box::pin(watched(sentinels, args, most, deadline)).await,
        }
    }

    /// Runs several commands in one write, not as a transaction; refusals stand among the answers.
    pub async fn run_all(&self, commands: &[Args<'_>], most: usize, deadline: Deadline) -> Result<Replies, CacheError> {
        let write = |out: &mut BytesMut| commands.iter().for_each(|args| pack(out, args));
        match &self.place {
            Place::One(node) => node.ask(commands.len(), most, write, deadline).await.map(Replies::Wire),
            Place::Many(cluster) => cluster.run_all(commands, deadline).await.map(Replies::tree),
            Place::Watched(sentinels) => {
                let node = sentinels.node(deadline).await?;
                match node.ask(commands.len(), most, write, deadline).await {
                    Err(error) if is_away(&error) => {
                        sentinels.doubt(&node);
                        let node = sentinels.node(deadline).await?;
                        node.ask(commands.len(), most, write, deadline).await.map(Replies::Wire)
                    }
                    Ok(bytes) => {
                        // Some have run, so nothing is sent again; who asks next gets the right one.
                        if bytes.windows(11).any(|window| window == b"\r\n-READONLY")
                            || refused_with(&bytes, b"READONLY")
                        {
                            sentinels.doubt(&node);
                        }
                        Ok(Replies::Wire(bytes))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Runs several commands as one transaction, on a connection of its own.
    ///
    /// Cancel safe: the connection is closed, and Redis runs all of it or nothing.
    pub async fn transaction(&self, commands: &[Args<'_>], deadline: Deadline) -> Result<Executed, CacheError> {
        let write = |_: Duration| {
            let mut sent = Pipeline::with_capacity(commands.len() + 2);
            sent.cmd("MULTI");
            for args in commands {
                sent.add_command(resp::cmd(args));
            }
            sent.cmd("EXEC");
            sent
        };
        let key = commands.iter().find_map(|args| args.get(1));
        let job = Job { key: key.map(|key| &**key), waits: false, write: &write };
        self.on_lease(&job, deadline).await.map(executed)
    }

    /// Runs one command that waits, on a connection of its own. `within` makes the command end in Redis after so long at most;
    /// it is asked once the connection is there.
    ///
    /// Cancel safe: the connection is closed, and Redis stops to wait.
    pub async fn wait<'a>(
        &self,
        key: Option<&[u8]>,
        within: impl Fn(Duration) -> Args<'a> + Sync,
        deadline: Deadline,
    ) -> Result<Replies, CacheError> {
        let write = |left: Duration| {
            let mut sent = Pipeline::with_capacity(1);
            // Its answer shall be here before the deadline is.
            sent.add_command(resp::cmd(&within(left.saturating_sub(ANSWER_MARGIN.max(left / 20).min(left / 2)))));
            sent
        };
        self.on_lease(&Job { key, waits: true, write: &write }, deadline).await.map(Replies::tree)
    }

    async fn on_lease(&self, job: &Job<'_>, deadline: Deadline) -> Result<Vec<Value>, CacheError> {
        match &self.place {
            Place::One(node) => node.run_on_lease(job, deadline).await,
            Place::Many(cluster) => cluster.on_lease(job, deadline).await,
            Place::Watched(sentinels) => {
                let node = sentinels.node(deadline).await?;
                let first = node.run_on_lease(job, deadline).await;
                match &first {
                    // One command that was refused, or a transaction that was thrown away: nothing has run.
                    Ok(values) if values.iter().any(is_read_only) => {}
                    Err(error) if is_away(error) => {}
                    _ => return first,
                }
                sentinels.doubt(&node);
                sentinels.node(deadline).await?.run_on_lease(job, deadline).await
            }
        }
    }

    /// Asks for a sign of life.
    pub async fn ping(&self, deadline: Deadline) -> Result<(), CacheError> {
        if let Place::Many(cluster) = &self.place {
            return cluster.ping(deadline).await;
        }
        self.run(&vec![b"PING"[..].into()], usize::MAX, deadline).await.map(drop)
    }

    /// Its servers' connections at this moment. Those that the client library keeps to a cluster's nodes are not seen.
    pub fn status(&self) -> Vec<NodeStatus> {
        self.nodes().iter().map(|node| node.status()).collect()
    }

    /// Sets its servers' gauges.
    pub fn measure(&self) {
        for node in self.nodes() {
            node.measure();
        }
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        match &self.place {
            Place::One(node) => vec![Arc::clone(node)],
            Place::Watched(sentinels) => sentinels.current().iter().cloned().collect(),
            Place::Many(cluster) => cluster.nodes(),
        }
    }

    /// Lends nothing more.
    pub fn close(&self) {
        match &self.place {
            Place::One(node) => node.close(CloseReason::Idle),
            Place::Watched(sentinels) => sentinels.close(),
            Place::Many(cluster) => cluster.close(),
        }
    }
}

/// Runs one command on the node that sentinels name, and once more on another where the first turns out not to be it.
async fn watched(
    sentinels: &Arc<Sentinels>,
    args: &Args<'_>,
    most: usize,
    deadline: Deadline,
) -> Result<Replies, CacheError> {
    let node = sentinels.node(deadline).await?;
    let first = node.ask(1, most, |out| pack(out, args), deadline).await;
    match &first {
        // It has not run.
        Ok(bytes) if refused_with(bytes, b"READONLY") => {}
        Err(error) if is_away(error) => {}
        _ => return first.map(Replies::Wire),
    }
    sentinels.doubt(&node);
    let node = sentinels.node(deadline).await?;
    node.ask(1, most, |out| pack(out, args), deadline).await.map(Replies::Wire)
}

/// True where nothing was sent because the server is away.
fn is_away(error: &CacheError) -> bool {
    matches!(error, CacheError::Pool(PoolError::Down { .. } | PoolError::BreakerOpen { .. } | PoolError::Closed { .. }))
}

fn is_read_only(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "READONLY")
}

/// Reads what came for `MULTI`, for each command, and for `EXEC`.
fn executed(mut values: Vec<Value>) -> Executed {
    match values.pop() {
        Some(Value::Array(answers)) => Executed::Ran(answers),
        Some(Value::ServerError(error)) => {
            let mut told = crate::encode::reply::error_text(&error);
            // Redis says that something was wrong; what, stands with the command.
            let first = values.iter().find_map(|value| match value {
                Value::ServerError(error) => Some(crate::encode::reply::error_text(error)),
                _ => None,
            });
            if let Some(first) = first {
                told = format!("{told} ({first})");
            }
            Executed::Discarded(told)
        }
        _ => Executed::Discarded("ERR the transaction was not executed".to_owned()),
    }
}
