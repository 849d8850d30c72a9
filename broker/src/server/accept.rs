//! Accepting connections and speaking HTTP on them: HTTP/1.1, or HTTP/2 by prior knowledge.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::layers::{Answered, Site};
use crate::edge::Peer;

/// After an accept failed for want of file descriptors: connections end in the meantime.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at a preface that came in pieces.
const PEEK_PAUSE: Duration = Duration::from_millis(5);
/// Streams one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 1_000;
/// Header bytes of one request. Tokens and trace headers fit many times over.
const MAX_HEADER_BYTES: u32 = 32 * 1024;

/// One listener being served.
pub struct Acceptor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<GracefulShutdown>,
}

impl Acceptor {
    /// Begins to accept.
    pub fn start(listener: TcpListener, site: impl Site, header_timeout: Duration) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(accept(listener, site, header_timeout, stopped)) }
    }

    /// Stops accepting, asks open connections to end, and waits at most `patience` for them.
    pub async fn stop(self, patience: Duration) {
        // The receiver is gone only if the task ended, and then there is nothing to stop.
        let _ = self.stop.send(());
        if let Ok(connections) = self.task.await {
            let _ = tokio::time::timeout(patience, connections.shutdown()).await;
        }
    }
}

async fn accept(
    listener: TcpListener,
    site: impl Site,
    header_timeout: Duration,
    mut stopped: oneshot::Receiver<()>,
) -> GracefulShutdown {
    let connections = GracefulShutdown::new();
    let builder = builder(header_timeout);
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
            _ = &mut stopped => return connections,
        };
        // Answers are small and wanted now.
        let _ = socket.set_nodelay(true);
        let service = served(site.clone(), Peer { address: address.ip(), names: None });
        let (builder, watcher) = (builder.clone(), connections.watcher());
        tokio::spawn(async move {
            // HTTP's own timers begin once it is known which HTTP it is.
            if !matches!(tokio::time::timeout(header_timeout, version(&socket)).await, Ok(Ok(true))) {
                return;
            }
            let connection = watcher.watch(builder.serve_connection(TokioIo::new(socket), service).into_owned());
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a client connection ended");
            }
        });
    }
}

/// The site, with every request telling who is at the other end of this connection.
fn served(
    site: impl Site,
    peer: Peer,
) -> impl Service<http::Request<Incoming>, Response = Response<Answered>, Error = Infallible, Future: Send> {
    service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        site.clone().answer(request.map(Body::new)).map(Ok)
    })
}

/// Waits until the first bytes tell HTTP/2 from HTTP/1. False: the client has gone.
async fn version(socket: &TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut seen = [0; PREFACE.len()];
    loop {
        let count = socket.peek(&mut seen).await?;
        if count == 0 || count == PREFACE.len() || !PREFACE.starts_with(&seen[..count]) {
            return Ok(count > 0);
        }
        // Peeking again would answer at once with the same bytes.
        tokio::time::sleep(PEEK_PAUSE).await;
    }
}

fn builder(header_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().writev(false).timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    builder
}
