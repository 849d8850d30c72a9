//! Accepting connections: whom the gate lets in gets a task of its own, on one of the workers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::connection::{self, Arrival};
use super::gate::{Gate, Refusal};
use super::layers::Site;
use super::speak::Http;
use crate::base::{Cidr, Workers};
use crate::broker::Live;
use crate::config::{ProxiesTell, ServerConfig};

/// After an accept failed for want of file descriptors: connections end in the meantime.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Callers: TLS and proxies as configured.
    Data,
    /// Operators: in clear, on loopback or a private network, and with nobody between.
    Admin,
}

/// One listener being served.
pub struct Acceptor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<watch::Sender<()>>,
}

impl Acceptor {
    /// Begins to accept.
    pub fn start(kind: Kind, listener: TcpListener, site: impl Site, live: Live, workers: Arc<Workers>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let door = Door { kind, live, site, workers, gate: Arc::default(), drain: watch::Sender::new(()) };
        Self { stop, task: tokio::spawn(door.accept(listener, stopped)) }
    }

    /// Stops accepting, asks open connections to end, and waits at most `patience` for them.
    pub async fn stop(self, patience: Duration) {
        // The receiver is gone only if the task ended, and then there is nothing to stop.
        let _ = self.stop.send(());
        if let Ok(drain) = self.task.await {
            let _ = drain.send(());
            // Each connection has a receiver until it ends.
            let _ = tokio::time::timeout(patience, drain.closed()).await;
        }
    }
}

/// What every connection of a listener is given.
struct Door<S> {
    kind: Kind,
    live: Live,
    site: S,
    workers: Arc<Workers>,
    gate: Arc<Gate>,
    drain: watch::Sender<()>,
}

impl<S: Site> Door<S> {
    async fn accept(self, listener: TcpListener, mut stopped: oneshot::Receiver<()>) -> watch::Sender<()> {
        let http = Arc::new(Http::default());
        loop {
            let (socket, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(error = %error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                _ = &mut stopped => return self.drain,
            };
            // One that is not let in is closed here.
            if let Some((socket, arrival)) = self.let_in(socket, address) {
                let (site, drain) = (self.site.clone(), self.drain.subscribe());
                let (runtime, occupied) = self.workers.idlest();
                runtime.spawn(connection::serve(socket, arrival, site, Arc::clone(&http), drain, occupied));
            }
        }
    }

    /// By the configuration of this moment.
    fn let_in(&self, socket: TcpStream, address: SocketAddr) -> Option<(TcpStream, Arrival)> {
        let broker = self.live.now();
        let (server, metrics) = (&broker.server, broker.metrics.listener.clone());
        let (address, limits) = (address.ip().to_canonical(), server.into());
        let (tell, trusted, tls) = match self.kind {
            Kind::Data => (server.proxies_tell, trusted(server, address), broker.tls.clone()),
            Kind::Admin => (ProxiesTell::default(), None, None),
        };
        // A proxy's connections are many callers'.
        let from = trusted.is_none().then_some(address);
        let pass = self.gate.enter(from, limits).map_err(Refusal::as_str);
        let pass = pass.map_err(|reason| metrics.refused(self.name(), reason)).ok()?;
        let listener = self.name();
        let patience = server.into();
        Some((socket, Arrival { listener, address, trusted, tell, tls, patience, limits, pass, metrics }))
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Data => "data",
            Kind::Admin => "admin",
        }
    }
}

/// Everybody who may speak for others, if this address may.
fn trusted(server: &ServerConfig, address: IpAddr) -> Option<Arc<[Cidr]>> {
    let blocks = &server.trusted_proxies;
    blocks.iter().any(|block| block.contains(address)).then(|| blocks.as_slice().into())
}
