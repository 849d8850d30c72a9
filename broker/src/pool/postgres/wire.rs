//! The stream that carries the tap, and what the tap has learnt, for whoever holds the connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::tap::{Backend, Event, Frontend};

/// How much may wait for the socket before the driver has to wait. Unit: bytes.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// What a connection's tap has learnt. Shared between the stream and the session that owns the connection.
#[derive(Debug, Default)]
pub struct Observed {
    /// `ReadyForQuery` messages owed by the server for all that was handed to the stream.
    ready_due: AtomicU64,
    ready_seen: AtomicU64,
    status: AtomicU8,
    sent_bytes: AtomicU64,
    /// After sign-in: a setting the server reports has changed, so the session is not as it was made.
    setting_changed: AtomicBool,
    signed_in: AtomicBool,
    copying: AtomicBool,
    /// Many callers at once: a tag would be anybody's, so none is kept.
    shared: AtomicBool,
    /// Tags since the last [`Observed::begin`]; the lock is held for a push or a take.
    tags: Mutex<Vec<String>>,
    became_ready: Notify,
}

impl Observed {
    /// From now on many callers share the session, and its tags are not kept.
    pub fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    /// True when many callers share the session.
    pub fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Starts a new exchange: forgets the tags of the one before.
    pub fn begin(&self) {
        self.tags().clear();
    }

    /// The command tags since [`Observed::begin`], in order.
    pub fn take_tags(&self) -> Vec<String> {
        std::mem::take(&mut *self.tags())
    }

    /// True when a command tag has come since [`Observed::begin`]: its transaction may have been committed.
    pub fn has_completed(&self) -> bool {
        !self.tags().is_empty()
    }

    /// True when the session was in no transaction at the last `ReadyForQuery`. A `Close` of the driver's may still be on its way;
    /// it disturbs nobody.
    pub fn is_idle(&self) -> bool {
        self.status() == b'I'
    }

    /// True when every request is answered, whatever the transaction status.
    pub fn is_quiet(&self) -> bool {
        self.ready_seen.load(Ordering::Acquire) >= self.ready_due.load(Ordering::Acquire)
    }

    /// The status of the last `ReadyForQuery`: `I`, `T` or `E`.
    pub fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// Answers that the server owes.
    pub fn answers_due(&self) -> u64 {
        self.ready_due.load(Ordering::Acquire).saturating_sub(self.ready_seen.load(Ordering::Acquire))
    }

    /// Waits until every request is answered. Cancel safe.
    pub async fn quiet(&self) {
        loop {
            let notified = self.became_ready.notified();
            if self.is_quiet() {
                return;
            }
            notified.await;
        }
    }

    /// Bytes that the socket has taken.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Acquire)
    }

    /// Everything the server reports from now on is a change by a statement.
    pub fn mark_signed_in(&self) {
        self.signed_in.store(true, Ordering::Release);
    }

    /// True when a reported setting has changed since the last call.
    pub fn take_setting_changed(&self) -> bool {
        self.setting_changed.swap(false, Ordering::AcqRel)
    }

    /// True when a COPY has begun on this connection; it never leaves that state cleanly through `/query`.
    pub fn is_copying(&self) -> bool {
        self.copying.load(Ordering::Acquire)
    }

    fn note(&self, event: Event) {
        match event {
            Event::Ready(status) => {
                self.status.store(status, Ordering::Release);
                self.ready_seen.fetch_add(1, Ordering::AcqRel);
                self.became_ready.notify_waiters();
            }
            Event::Complete(tag) if !self.shared.load(Ordering::Relaxed) => self.tags().push(tag),
            // `in_hot_standby` changes by itself when a replica is promoted.
            Event::Parameter(name, _) if self.signed_in.load(Ordering::Acquire) && name != "in_hot_standby" => {
                self.setting_changed.store(true, Ordering::Release);
            }
            Event::Copy => self.copying.store(true, Ordering::Release),
            Event::Complete(_) | Event::Parameter(..) | Event::Error => {}
        }
    }

    fn tags(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.tags.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A stream to the server with the tap in it.
#[derive(Debug)]
pub struct Tapped<S> {
    stream: S,
    frontend: Frontend,
    backend: Backend,
    /// Rewritten bytes that the socket has not taken yet; `written` of them it has.
    pending: Vec<u8>,
    written: usize,
    observed: Arc<Observed>,
}

impl<S> Tapped<S> {
    /// Puts a tap on `stream`.
    pub fn new(stream: S, observed: Arc<Observed>) -> Self {
        Self {
            stream,
            frontend: Frontend::new(),
            backend: Backend::default(),
            pending: Vec::new(),
            written: 0,
            observed,
        }
    }

    /// The stream without its tap, for the TLS handshake, and what the tap reports to.
    pub fn into_parts(self) -> (S, Arc<Observed>) {
        (self.stream, self.observed)
    }
}

impl<S: AsyncWrite + Unpin> Tapped<S> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.pending[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.observed.sent_bytes.fetch_add(n as u64, Ordering::AcqRel);
        }
        self.pending.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // The driver writes its request for TLS and reads the answer without a flush in between.
        if !self.pending.is_empty()
            && let Poll::Ready(Err(error)) = self.drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let this = &mut *self;
        if this.frontend.take_tls_request() {
            this.backend.expect_tls_answer();
        }
        this.backend.watch(&buf.filled()[before..], |event| this.observed.note(event));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.pending.len() >= WRITE_BUFFER_BYTES {
            ready!(self.drain(cx))?;
        }
        let n = buf.len().min(WRITE_BUFFER_BYTES);
        let start = self.pending.len();
        let this = &mut *self;
        this.pending.extend_from_slice(&buf[..n]);
        this.frontend.rewrite(&mut this.pending[start..]);
        this.observed.ready_due.store(this.frontend.ready_due(), Ordering::Release);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Tapped<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_read_sends_what_was_written_without_a_flush() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut tapped = Tapped::new(near, Arc::new(Observed::default()));
        let server = tokio::spawn(async move {
            far.read_exact(&mut [0; 8]).await.expect("the request for TLS arrives");
            far.write_all(b"N").await.expect("answers");
        });
        tapped.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.expect("writes");
        tapped.read_exact(&mut [0]).await.expect("is answered");
        server.await.expect("ends");
    }

    #[tokio::test]
    async fn a_socket_that_takes_one_byte_at_a_time_still_gets_the_whole_message() {
        let (near, mut far) = tokio::io::duplex(1);
        let observed = Arc::new(Observed::default());
        let mut tapped = Tapped::new(near, Arc::clone(&observed));
        let message = [&[0, 0, 0, 9, 0, 3, 0, 0, 0][..], b"S\0\0\0\x04"].concat();
        let sent = message.clone();
        let writer = tokio::spawn(async move {
            tapped.write_all(&sent).await.expect("writes");
            tapped.flush().await.expect("flushes");
            tapped
        });
        let mut seen = vec![0; message.len()];
        far.read_exact(&mut seen).await.expect("reads");
        assert_eq!(seen, message);
        let mut tapped = writer.await.expect("ends");
        assert!(!observed.is_quiet(), "a Sync is out and unanswered");
        let answer = tokio::spawn(async move { far.write_all(b"Z\0\0\0\x05T").await });
        tapped.read_exact(&mut [0; 6]).await.expect("reads");
        answer.await.expect("ends").expect("writes");
        assert!(observed.is_quiet());
        assert!(!observed.is_idle(), "in a transaction");
    }
}
