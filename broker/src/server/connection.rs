//! One connection of a client, from its first byte to its last.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use rustls::{HandshakeKind, ServerConnection};
use tokio::net::TcpStream;
use tokio::sync::watch as signal;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::Answer;
use super::asked::Asked;
use super::gate::{GateLimits, Pass};
use super::layers::Site;
use super::proxies::Caller;
use super::proxy_protocol;
use super::socket::Watched;
use super::speak::{Http, speak};
use super::watch::{Patience, Reason, Watch};
use crate::base::Cidr;
use crate::base::worker::Occupied;
use crate::config::ProxiesTell;
use crate::edge::Peer;
use crate::observe::ListenerMetrics;
use crate::tls::{Leaf, ServerTls};

/// Between two looks at a preface that came in pieces.
const PEEK_PAUSE: Duration = Duration::from_millis(5);

/// What a connection begins with.
pub struct Arrival {
    /// Which listener, for metrics.
    pub listener: &'static str,
    /// Who dialled.
    pub address: IpAddr,
    /// Everybody who may speak for others, if the one who dialled is among them.
    pub trusted: Option<Arc<[Cidr]>>,
    /// How those tell.
    pub tell: ProxiesTell,
    /// TLS, if it is spoken here.
    pub tls: Option<Arc<ServerTls>>,
    /// How long each thing may take.
    pub patience: Patience,
    /// How many connections there may be.
    pub limits: GateLimits,
    /// The place among them.
    pub pass: Pass,
    /// What is counted.
    pub metrics: ListenerMetrics,
}

/// Serves the connection to its end, on whichever worker this runs; `_occupied` is its place there. `drain` asks it to end.
pub async fn serve(
    socket: TcpStream,
    mut arrival: Arrival,
    site: impl Site,
    http: Arc<Http>,
    mut drain: signal::Receiver<()>,
    _occupied: Occupied,
) {
    let _open = arrival.metrics.open(arrival.listener);
    let mut socket = match moved(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(error = %error, "a connection could not be given to a worker"),
    };
    // Answers are small and wanted now.
    let _ = socket.set_nodelay(true);
    let Some(address) = introduced(&mut socket, &mut arrival).await else { return };
    let watch = Watch::new(arrival.patience);
    let (metrics, listener) = (arrival.metrics.clone(), arrival.listener);
    let reason = if let Some(tls) = arrival.tls.take() {
        let io = Watched::new(socket, Arc::clone(&watch));
        // On the heap: what a handshake needs would otherwise be part of every connection's task to its end.
        let Some((stream, names)) = Box::pin(shake(io, &tls, &metrics)).await else { return };
        drop(tls);
        watch.begin();
        let service = served(site, arrival.caller(Peer { address, names }), &watch);
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        speak(stream, is_http2, service, &watch, &http, drain).await
    } else {
        watch.begin();
        let first = tokio::select! {
            first = is_http2(&socket) => first.map_err(|_| None),
            _ = drain.changed() => Err(None),
            () = sleep(arrival.patience.header) => Err(Some(Reason::Header)),
        };
        match first {
            Ok(is_http2) => {
                let io = Watched::new(socket, Arc::clone(&watch));
                let service = served(site, arrival.caller(Peer { address, names: None }), &watch);
                speak(io, is_http2, service, &watch, &http, drain).await
            }
            Err(reason) => reason,
        }
    };
    if let Some(reason) = reason {
        metrics.closed(listener, reason.as_str());
    }
}

/// The socket, heard by the runtime that this runs on from now on, and no longer by the one that accepted it.
fn moved(socket: TcpStream) -> std::io::Result<TcpStream> {
    TcpStream::from_std(socket.into_std()?)
}

impl Arrival {
    /// Whom requests are from.
    fn caller(&mut self, peer: Peer) -> Caller {
        match (self.trusted.take(), self.tell) {
            (Some(trusted), tell @ (ProxiesTell::XForwardedFor | ProxiesTell::Forwarded)) => {
                Caller::Proxy { peer, trusted, tell }
            }
            _ => Caller::Known(peer),
        }
    }
}

/// Waits until the first bytes tell HTTP/2 from HTTP/1. Errors: the client has gone.
async fn is_http2(socket: &TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut seen = [0; PREFACE.len()];
    loop {
        let count = socket.peek(&mut seen).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if count == PREFACE.len() || !PREFACE.starts_with(&seen[..count]) {
            return Ok(seen == PREFACE);
        }
        // Peeking again would answer at once with the same bytes.
        sleep(PEEK_PAUSE).await;
    }
}

/// Who it is, where a proxy tells that before anything else. `None`: it does not, or one may not let the client in.
async fn introduced(socket: &mut TcpStream, arrival: &mut Arrival) -> Option<IpAddr> {
    if arrival.tell != ProxiesTell::ProxyProtocol {
        return Some(arrival.address);
    }
    let refused = |reason| arrival.metrics.refused(arrival.listener, reason);
    if arrival.trusted.is_none() {
        refused("not_a_proxy");
        return None;
    }
    match timeout(arrival.patience.header, proxy_protocol::read(socket)).await {
        Ok(Ok(None)) => Some(arrival.address),
        Ok(Ok(Some(client))) => match arrival.pass.belongs_to(client, arrival.limits) {
            Ok(()) => Some(client),
            Err(refusal) => {
                refused(refusal.as_str());
                None
            }
        },
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "a proxy's connection was closed");
            refused("proxy_protocol");
            None
        }
        Err(_) => {
            refused("proxy_protocol");
            None
        }
    }
}

type Names = Option<Arc<[String]>>;

/// The handshake, and what the client's certificate says.
async fn shake(io: Watched, tls: &ServerTls, metrics: &ListenerMetrics) -> Option<(Box<TlsStream<Watched>>, Names)> {
    let shaken = timeout(tls.handshake_timeout(), TlsAcceptor::from(tls.current()).accept(io)).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "a handshake failed");
            metrics.handshake("failed", "none", "none");
            return None;
        }
        Err(_) => {
            metrics.handshake("timeout", "none", "none");
            return None;
        }
    };
    let session = stream.get_ref().1;
    let names = match names(session) {
        Ok(names) => names,
        Err(error) => {
            tracing::debug!(error = %error, "a client's certificate was refused");
            metrics.handshake("failed", "none", "none");
            return None;
        }
    };
    let kind = match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        _ => "full",
    };
    let group = session.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    metrics.handshake("ok", kind, group.unwrap_or("other"));
    Some((Box::new(stream), names))
}

/// Of a resumed session as of a new one. The former was not asked again, so whether its certificate has ended since is asked here.
fn names(session: &ServerConnection) -> Result<Names, String> {
    let Some(certificate) = session.peer_certificates().and_then(|chain| chain.first()) else { return Ok(None) };
    let leaf = Leaf::read(certificate)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if leaf.expires < now { Err("has expired".to_owned()) } else { Ok(Some(leaf.names)) }
}

/// The site, with every request telling who is at the other end, and the watch that it is under way.
fn served<T: Site>(
    site: T,
    caller: Caller,
    watch: &Arc<Watch>,
) -> impl Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible, Future: Send + 'static> + use<T> {
    let watch = Arc::clone(watch);
    service_fn(move |mut request: Request<Incoming>| {
        let is_http2 = request.version() == Version::HTTP_2;
        let mut going = watch.request(is_http2);
        let peer = caller.of(request.headers());
        request.extensions_mut().insert(peer);
        let request = request.map(|body| Body::new(Asked::new(body, &watch, is_http2)));
        site.answer(request).map(move |response| {
            going.answered();
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, going, is_http2)))
        })
    })
}
