//! One database: the servers it is on, which of them a request goes to, and what is known of its statements, names and types.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::checkout::Timed;
use super::endpoint::Endpoint;
use super::error::PoolError;
use super::lane::Place;
use super::lease::Lease;
use super::listen::Hub;
use super::plan::Parts;
use super::postgres::Catalog;
use super::postgres::connect::Connector;
use super::postgres::prepared::Sightings;
use super::postgres::types::Types;
use super::queue::Account;
use super::route::{self, Rules, Want};
use super::server::Servers;
use super::{monitor, upkeep};
use crate::base::{BackendName, Deadline};
use crate::config::{DatabaseConfig, database_url};
use crate::observe::PoolMetrics;

/// How often a caller that waits for a primary looks again, beside being told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One PostgreSQL database.
pub struct Database {
    pub(super) name: BackendName,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) rules: Rules,
    pub(super) sightings: Sightings,
    pub(super) catalog: Catalog,
    pub(super) types: Types,
    pub(super) schema_epoch: Arc<AtomicU64>,
    pub(super) listeners: Arc<Hub>,
    pub(super) paused: watch::Sender<bool>,
    pub(super) started: AtomicBool,
    /// Cancelled when another configuration has taken its place.
    retired: CancellationToken,
    pub(super) closing: CancellationToken,
    pub(super) metrics: PoolMetrics,
}

/// What is the same for all databases of a broker.
pub struct Surroundings<'a> {
    /// The servers known so far: pools of one server share its room.
    pub servers: &'a Servers,
    /// The broker's mark in every session's `application_name`.
    pub mark: &'a str,
    /// The broker's zone.
    pub zone: Option<&'a str>,
    /// The longest deadline that anybody may ask for; a backstop in the server beside the broker's own.
    pub longest_statement: Duration,
    /// Most callers waiting for an endpoint, of all tenants.
    pub max_waiting: u32,
}

impl Database {
    /// Prepares the pools; no connection is opened yet. Errors: text about an address, a secret or a root certificate.
    pub fn new(
        name: &BackendName,
        config: &DatabaseConfig,
        around: &Surroundings<'_>,
        metrics: &PoolMetrics,
    ) -> Result<Arc<Self>, String> {
        let schema_epoch = Arc::new(AtomicU64::new(0));
        let password = config.password.as_ref().map(crate::config::Secret::reveal).transpose()?;
        let places = [(config.url.as_str(), config.zone.as_deref())].into_iter();
        let places = places.chain(config.replicas.iter().map(|replica| (replica.url(), replica.zone())));
        let mut endpoints = Vec::new();
        for (url, zone) in places {
            let url = database_url(url)?;
            let (timeout, longest) = (config.pool.connect_timeout, around.longest_statement);
            let connector = Connector::new(&url, password.as_deref(), timeout, longest, around.mark)?;
            let server = around.servers.at(&connector.address());
            endpoints.push(Endpoint::new(Parts {
                backend: name.clone(),
                connector: Arc::new(connector),
                server,
                zone: zone.map(str::to_owned),
                config: config.pool.clone(),
                max_waiting: around.max_waiting,
                schema_epoch: Arc::clone(&schema_epoch),
                metrics: metrics.clone(),
            }));
        }
        if endpoints.len() > 1 {
            for endpoint in &endpoints {
                endpoint.server.has_peers.store(true, Ordering::Relaxed);
            }
        }
        Ok(Arc::new(Self {
            name: name.clone(),
            listeners: Hub::new(name.clone(), endpoints.clone(), metrics.clone()),
            endpoints,
            rules: Rules { zone: around.zone.map(str::to_owned), max_lag: config.max_lag },
            sightings: Sightings::default(),
            catalog: Catalog::default(),
            types: Types::default(),
            schema_epoch,
            paused: watch::Sender::new(false),
            started: AtomicBool::new(false),
            retired: CancellationToken::new(),
            closing: CancellationToken::new(),
            metrics: metrics.clone(),
        }))
    }

    /// The name in the configuration and in addresses.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// What is known of the database's own names.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What is known of the database's own types.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// Which statements have been seen.
    pub fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// The pool's counters.
    pub fn metrics(&self) -> &PoolMetrics {
        &self.metrics
    }

    /// The broker's own account: for what no tenant has asked for.
    pub fn own_account(&self) -> &Arc<Account> {
        &self.endpoints[0].own_account
    }

    /// Those who listen, and the connection they share.
    pub fn listeners(&self) -> &Arc<Hub> {
        &self.listeners
    }

    /// Its servers, the configured primary first.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// True where it has more than one server, so that roles matter and writes give out tokens.
    pub fn is_replicated(&self) -> bool {
        self.endpoints.len() > 1
    }

    /// A place on a lane to a server that serves `want`; `None` where a lease serves better.
    pub fn lane(self: &Arc<Self>, account: &Account, want: Want) -> Option<Place> {
        if *self.paused.borrow() {
            return None;
        }
        self.start();
        let replica = match want {
            Want::Read(at_least) if self.is_replicated() => route::replica(&self.endpoints, &self.rules, at_least, &[]),
            _ => None,
        };
        let endpoint = if let Some(replica) = replica { replica } else { self.primary()? };
        if let Want::Read(Some(token)) = want
            && route::is_lost(&endpoint.server.standing(), token)
        {
            return None;
        }
        endpoint.lanes.take(endpoint, account, endpoint.config.prepared_statements as usize)
    }

    /// The endpoint that takes writes; a database's only one is never asked for its role.
    fn primary(&self) -> Option<&Arc<Endpoint>> {
        if let [only] = &*self.endpoints { Some(only) } else { route::primary(&self.endpoints) }
    }

    /// Lends a connection that serves `want`, before `deadline`, when it is the account's turn.
    ///
    /// Cancel safe: a caller that leaves the queue leaves no trace.
    pub async fn checkout(
        self: &Arc<Self>,
        account: &Arc<Account>,
        want: Want,
        deadline: Deadline,
    ) -> Result<Lease, PoolError> {
        let start = Instant::now();
        self.start();
        self.while_paused(start, deadline).await?;
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        loop {
            let endpoint = self.choose(want, &tried, start, deadline).await?;
            let timed = Timed::since(start, &endpoint);
            let asked = endpoint.checkout(account, deadline).await;
            timed.ended(&asked);
            match asked {
                Ok(lent) => {
                    return Ok(Lease::new(lent, Arc::clone(self), endpoint, deadline));
                }
                // A read may go elsewhere; and a write to who is the primary by now, if that is not the same.
                Err(
                    error @ (PoolError::Down { .. } | PoolError::BreakerOpen { .. } | PoolError::LoginRefused { .. }),
                ) if self.is_replicated() => {
                    endpoint.sick();
                    if deadline.has_passed() || (matches!(want, Want::Read(_)) && tried.len() > self.endpoints.len()) {
                        return Err(error);
                    }
                    tried.push(endpoint);
                    if want == Want::Write {
                        self.standing_changes(deadline).await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn choose(
        &self,
        want: Want,
        tried: &[Arc<Endpoint>],
        start: Instant,
        deadline: Deadline,
    ) -> Result<Arc<Endpoint>, PoolError> {
        if let [only] = &*self.endpoints {
            return Ok(Arc::clone(only));
        }
        loop {
            if let Want::Read(at_least) = want
                && let Some(replica) = route::replica(&self.endpoints, &self.rules, at_least, tried)
            {
                return Ok(Arc::clone(replica));
            }
            if let Some(primary) = route::primary(&self.endpoints) {
                self.check_history(want, primary)?;
                return Ok(Arc::clone(primary));
            }
            if deadline.has_passed() {
                return Err(PoolError::NoPrimary { backend: self.name.clone(), waited: start.elapsed() });
            }
            self.standing_changes(deadline).await;
        }
    }

    /// Errors: the caller has seen a write acknowledged that a failover lost.
    fn check_history(&self, want: Want, primary: &Endpoint) -> Result<(), PoolError> {
        match want {
            Want::Read(Some(token)) if route::is_lost(&primary.server.standing(), token) => {
                Err(PoolError::HistoryLost { backend: self.name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Waits until a server says something new of itself, or a moment.
    async fn standing_changes(&self, deadline: Deadline) {
        let changes = self.endpoints.iter().map(|endpoint| {
            endpoint.server.nudge.notify_one();
            let mut standing = endpoint.server.standing.subscribe();
            Box::pin(async move { standing.changed().await.is_ok() })
        });
        let until = deadline.at().min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            _ = futures_util::future::select_all(changes) => {}
            () = sleep_until(until) => {}
        }
    }

    async fn while_paused(&self, start: Instant, deadline: Deadline) -> Result<(), PoolError> {
        if !*self.paused.borrow() {
            return Ok(());
        }
        let (mut paused, backend) = (self.paused.subscribe(), self.name.clone());
        tokio::select! {
            resumed = tokio::time::timeout_at(deadline.at(), paused.wait_for(|paused| !paused)) => match resumed {
                Ok(_) => Ok(()),
                Err(_) => Err(PoolError::Paused { backend, waited: start.elapsed() }),
            },
            // Nobody resumes this one any more, and where it led may be what was left.
            () = self.retired.cancelled() => Err(PoolError::Closed { backend }),
        }
    }

    /// Lends nothing more until [`Database::resume`]: callers wait, up to their deadlines. What is lent stays lent.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Lends again.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// True between a pause and the resume.
    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Replaces every connection as it comes back; idle ones at once.
    pub fn reconnect(&self) {
        for endpoint in &self.endpoints {
            endpoint.reconnect();
        }
        self.schema_changed();
    }

    /// Notes that a statement has changed the schema: sessions forget types and plans before they are lent again.
    pub fn schema_changed(&self) {
        self.schema_epoch.fetch_add(1, Ordering::AcqRel);
        self.catalog.forget();
        self.types.forget();
    }

    /// Begins to watch the servers and to keep the pools in shape, unless that has begun.
    pub(super) fn start(self: &Arc<Self>) {
        if self.started.load(Ordering::Acquire) || self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        for endpoint in &self.endpoints {
            endpoint.server.join(endpoint);
            monitor::start(&endpoint.server);
        }
        upkeep::start(self);
    }

    /// Opens connections up to the configured minimum. Errors: why there is none.
    pub async fn warm(self: &Arc<Self>, deadline: Deadline) -> Result<(), PoolError> {
        self.start();
        let lease = self.checkout(self.own_account(), Want::Write, deadline).await?;
        for endpoint in &self.endpoints {
            endpoint.open_ahead(endpoint.config.min as usize);
        }
        drop(lease);
        Ok(())
    }

    /// True if a connection is open and idle, or one can be had before `deadline`. A busy pool counts as reachable; an open lane
    /// alone does not.
    pub async fn is_reachable(self: &Arc<Self>, deadline: Deadline) -> bool {
        match self.checkout(self.own_account(), Want::Read(None), deadline).await {
            Ok(_) => true,
            Err(PoolError::WaitTimeout { .. } | PoolError::Overloaded { .. } | PoolError::TooLate { .. }) => {
                self.endpoints.iter().any(|endpoint| endpoint.status().lent > 0)
            }
            Err(_) => false,
        }
    }

    /// Another configuration has taken its place. Event streams end and who waits for a resume is let go, so that they ask the new
    /// one. Requests under way are served as before, until [`Database::close`].
    pub fn retire(&self) {
        self.retired.cancel();
        self.listeners.close();
        for endpoint in &self.endpoints {
            endpoint.server.demote(endpoint);
        }
    }

    /// Lends nothing more, and waits until sessions being made clean are done, at most until `deadline`.
    pub async fn close(&self, deadline: Deadline) {
        self.closing.cancel();
        self.listeners.close();
        for endpoint in &self.endpoints {
            endpoint.idle.close();
            endpoint.lanes.close();
            endpoint.server.leave(endpoint);
            endpoint.cleaning.close();
            if tokio::time::timeout_at(deadline.at(), endpoint.cleaning.wait()).await.is_err() {
                tracing::warn!(backend.name = %self.name, "connections of `{}` were closed before they were clean", self.name);
            }
        }
    }
}
