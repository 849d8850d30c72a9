//! Speaking HTTP on a connection until its client leaves, or must.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::Answer;
use super::socket::Io;
use super::watch::{Reason, Watch};

/// Streams one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 1_000;
/// Streams a client may have reset before anything was done for them; past it the connection ends (CVE-2023-44487).
const MAX_RESETS: usize = 20;
/// Header bytes of one request. Tokens and trace headers fit many times over.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// Between two signs of life asked of a client over HTTP/2.
const PING: Duration = Duration::from_secs(30);
/// How long a client that was told to go may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// How HTTP is spoken. Its own timers stay off but for signs of life: the watch has them all.
pub struct Http {
    one: http1::Builder,
    two: http2::Builder<TokioExecutor>,
}

impl Default for Http {
    fn default() -> Self {
        let (mut one, mut two) = (http1::Builder::new(), http2::Builder::new(TokioExecutor::new()));
        one.writev(false).timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(64 * 1024);
        two.timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(Some(PING));
        Self { one, two }
    }
}

/// Speaks HTTP on what is left of a connection. Answers why its client had to leave, if it had to.
///
/// HTTP/1.1 is *parked* when a tenth of a second passes without a request: all that was made for speaking it (buffers, above all) is let go
/// of, and made again with the next byte. So ten thousand connections that do nothing cost little more than their sockets.
pub async fn speak<S>(
    io: impl Io,
    is_http2: bool,
    service: S,
    watch: &Arc<Watch>,
    http: &Http,
    mut drain: signal::Receiver<()>,
) -> Option<Reason>
where
    S: Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    if is_http2 {
        let connection = http.two.serve_connection(TokioIo::new(io), service);
        return match Box::pin(drive(connection, watch, &mut drain)).await {
            Driven::Over(reason) => reason,
            Driven::Quiet(_) => None,
        };
    }
    let (mut io, mut service, mut before) = (io, service, Bytes::new());
    loop {
        let connection = http.one.serve_connection(TokioIo::new(Resumed { before, io }), service);
        let quiet = match Box::pin(drive(connection, watch, &mut drain)).await {
            Driven::Over(reason) => return reason,
            Driven::Quiet(connection) => connection.into_parts(),
        };
        (io, service, before) = (quiet.io.into_inner().io, quiet.service, quiet.read_buf);
        if before.is_empty()
            && let Some(reason) = parked(&io, watch, &mut drain).await
        {
            // TLS says that it ends. Whoever does not take that is not waited for.
            let _ = timeout(GOODBYE, io.shutdown()).await;
            return reason;
        }
    }
}

/// Waits for the next byte. Some: there will be none, and whether the client had to leave.
async fn parked(io: &impl Io, watch: &Watch, drain: &mut signal::Receiver<()>) -> Option<Option<Reason>> {
    // Always some: no request is under way.
    let (until, reason) = watch.due()?;
    tokio::select! {
        _ = drain.changed() => Some(None),
        // An error shows again when it is read.
        _ = io.socket().readable() => None,
        () = sleep_until(until) => Some(Some(reason)),
    }
}

/// What has become of a connection.
enum Driven<C> {
    /// It has ended.
    Over(Option<Reason>),
    /// Nothing was asked for a while.
    Quiet(C),
}

/// A connection that speaks HTTP/1.1 or HTTP/2.
trait Spoken: Future<Output = hyper::Result<()>> + Unpin {
    /// True if it may be parked.
    const PARKS: bool;

    /// Takes no more requests.
    fn leave(&mut self);
}

impl<I: Io, S> Spoken for http1::Connection<TokioIo<Resumed<I>>, S>
where
    S: Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible>,
{
    const PARKS: bool = true;

    fn leave(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<I: Io, S> Spoken for http2::Connection<TokioIo<I>, S, TokioExecutor>
where
    S: Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible>,
    S::Future: Send + 'static,
{
    const PARKS: bool = false;

    fn leave(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

async fn drive<C: Spoken>(connection: C, watch: &Watch, drain: &mut signal::Receiver<()>) -> Driven<C> {
    let mut connection = Some(connection);
    let mut armed = Instant::now() + watch.next_look();
    let mut timer = pin!(sleep_until(armed));
    let mut drained = pin!(drain.changed());
    let (mut is_draining, mut goodbye) = (false, None);
    poll_fn(|cx| {
        let spoken = connection.as_mut().expect("is there until it is quiet");
        if let Poll::Ready(ended) = Pin::new(&mut *spoken).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(error = %error, "a client connection ended");
            }
            return Poll::Ready(Driven::Over(goodbye.map(|_| Reason::Idle)));
        }
        if !is_draining && drained.as_mut().poll(cx).is_ready() {
            is_draining = true;
            spoken.leave();
            // What it has to say is said the next time it is polled.
            cx.waker().wake_by_ref();
        }
        loop {
            let parks = C::PARKS && !is_draining;
            let due = watch.due().map(|(moment, reason)| match (reason, goodbye) {
                (Reason::Idle, Some(end)) => (end, reason),
                (Reason::Idle, None) if parks => (watch.quiet(), reason),
                _ => (moment, reason),
            });
            if let Some((moment, _)) = due.filter(|(moment, _)| *moment < armed) {
                armed = moment;
                timer.as_mut().reset(armed);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            armed = match due {
                Some((moment, Reason::Idle)) if moment <= now && goodbye.is_none() => {
                    if parks && let Some(quiet) = connection.take() {
                        return Poll::Ready(Driven::Quiet(quiet));
                    }
                    if let Some(spoken) = &mut connection {
                        spoken.leave();
                    }
                    cx.waker().wake_by_ref();
                    *goodbye.insert(now + GOODBYE)
                }
                Some((moment, reason)) if moment <= now => return Poll::Ready(Driven::Over(Some(reason))),
                Some((moment, _)) => moment,
                None => now + watch.next_look(),
            };
            timer.as_mut().reset(armed);
        }
    })
    .await
}

/// A connection of which something was read already.
struct Resumed<I> {
    before: Bytes,
    io: I,
}

impl<I: Io> AsyncRead for Resumed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before[..count]);
        self.before.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncWrite for Resumed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
