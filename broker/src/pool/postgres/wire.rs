//! The stream to the server. It is the driver's while the driver signs in, and where somebody listens; else a
//! [`Channel`](super::Channel) or a lane has it, and the driver waits.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};
use tokio_util::io::poll_read_buf;

use super::observed::Observed;
use super::tap::Tap;

/// The stream, for whoever holds the session in place of the driver. Poll methods take the caller's waker.
pub trait Direct: Send + Sync {
    /// Takes the stream from the driver. Only while the driver owes nothing and is owed nothing.
    fn take(&self);
    /// Gives the stream back to the driver.
    fn give_back(&self);
    /// Writes from the front of `bytes` until they are all written and flushed.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &mut BytesMut) -> Poll<io::Result<()>>;
    /// Reads what is there into `bytes`' spare room. 0: the server has closed the stream.
    fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut BytesMut) -> Poll<io::Result<usize>>;
    /// Closes the stream under whoever holds it: from now on every read and write fails, and one that waits fails now.
    fn sever(&self);
    /// As [`AsyncRead::poll_read`].
    fn poll_read_buf(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    /// As [`AsyncWrite::poll_write`].
    fn poll_write_some(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// As [`AsyncWrite::poll_flush`].
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The stream as the runtime's readers and writers want it.
pub struct DirectStream(Arc<dyn Direct>);

impl DirectStream {
    /// Of a stream that was taken from the driver.
    pub fn new(wire: Arc<dyn Direct>) -> Self {
        Self(wire)
    }
}

impl AsyncRead for DirectStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_buf(cx, buf)
    }
}

impl AsyncWrite for DirectStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write_some(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Where the stream in use can be had from the side, once the driver has signed in.
pub type Slot = Arc<Mutex<Option<Arc<dyn Direct>>>>;

/// The driver's end of a stream to the server, with a tap in it.
pub struct Tapped<S> {
    shared: Arc<Shared<S>>,
    slot: Slot,
}

struct Shared<S> {
    /// Locked for one poll.
    inner: Mutex<Inner<S>>,
    observed: Arc<Observed>,
}

struct Inner<S> {
    /// `None` once it was severed.
    stream: Option<S>,
    tap: Tap,
    /// Not the driver's now.
    taken: bool,
    /// The driver's, when it found the stream taken.
    waiting: Option<Waker>,
    /// Of who else waits for the stream.
    holder: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Tapped<S> {
    /// Puts a tap on `stream`, and tells `slot` of it.
    pub fn new(stream: S, tap: Tap, observed: Arc<Observed>, slot: Slot) -> Self {
        let inner = Inner { stream: Some(stream), tap, taken: false, waiting: None, holder: None };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), observed });
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&shared) as Arc<dyn Direct>);
        Self { shared, slot }
    }

    /// The stream without its tap, for the TLS handshake, and what is needed to tap what comes of it.
    pub fn into_parts(self) -> (S, Arc<Observed>, Slot) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let observed = Arc::clone(&self.shared.observed);
        let shared = Arc::into_inner(self.shared).expect("the slot had the only other handle");
        let stream = shared.inner.into_inner().unwrap_or_else(PoisonError::into_inner).stream;
        (stream.expect("nobody can sever what is not in the slot"), observed, self.slot)
    }
}

impl<S> Shared<S> {
    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver's turn at the stream; pending while somebody else has it.
    fn for_driver(&self, cx: &Context<'_>) -> Poll<MutexGuard<'_, Inner<S>>> {
        let mut inner = self.inner();
        if inner.taken && inner.stream.is_some() {
            inner.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(inner)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Direct for Shared<S> {
    fn take(&self) {
        self.inner().taken = true;
    }

    fn give_back(&self) {
        let mut inner = self.inner();
        inner.taken = false;
        if let Some(driver) = inner.waiting.take() {
            driver.wake();
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &mut BytesMut) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        let polled = inner.write(cx, bytes);
        inner.note_holder(cx, polled.is_pending());
        polled
    }

    fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let polled = poll_read_buf(Pin::new(inner.stream()?), cx, bytes);
        inner.note_holder(cx, polled.is_pending());
        polled
    }

    fn poll_read_buf(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner().stream()?).poll_read(cx, buf)
    }

    fn poll_write_some(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.inner().stream()?).poll_write(cx, bytes)
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner().stream()?).poll_flush(cx)
    }

    fn sever(&self) {
        let (stream, wakers) = {
            let mut inner = self.inner();
            (inner.stream.take(), [inner.holder.take(), inner.waiting.take()])
        };
        drop(stream);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl<S> Inner<S> {
    /// Errors: it was severed.
    fn stream(&mut self) -> io::Result<&mut S> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// Keeps the waker of who waits past the driver, to be woken if the stream is severed.
    fn note_holder(&mut self, cx: &Context<'_>, waits: bool) {
        if waits && !self.holder.as_ref().is_some_and(|held| held.will_wake(cx.waker())) {
            self.holder = Some(cx.waker().clone());
        }
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn write(&mut self, cx: &mut Context<'_>, bytes: &mut BytesMut) -> Poll<io::Result<()>> {
        let stream = self.stream()?;
        while !bytes.is_empty() {
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(n);
        }
        Pin::new(stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = ready!(self.shared.for_driver(cx));
        let before = buf.filled().len();
        ready!(Pin::new(inner.stream()?).poll_read(cx, buf))?;
        if let Some(pid) = inner.tap.watch(&buf.filled()[before..]) {
            self.shared.observed.note_pid(pid);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = ready!(self.shared.for_driver(cx));
        Pin::new(inner.stream()?).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = ready!(self.shared.for_driver(cx));
        Pin::new(inner.stream()?).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = ready!(self.shared.for_driver(cx));
        Pin::new(inner.stream()?).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Tapped<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.shared.inner().stream.as_ref().map_or_else(ChannelBinding::none, TlsStream::channel_binding)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_driver_waits_while_the_stream_is_taken() {
        let (near, mut far) = tokio::io::duplex(64);
        let slot = Slot::default();
        let mut tapped = Tapped::new(near, Tap::new(false), Arc::default(), Arc::clone(&slot));
        let direct = slot.lock().expect("not poisoned").take().expect("is there");
        direct.take();
        far.write_all(b"for whoever has it").await.expect("writes");
        let driver = tokio::spawn(async move {
            let mut seen = [0; 5];
            tapped.read_exact(&mut seen).await.expect("reads");
            seen
        });
        let mut seen = BytesMut::with_capacity(18);
        std::future::poll_fn(|cx| direct.poll_read(cx, &mut seen)).await.expect("reads");
        assert_eq!(seen, &b"for whoever has it"[..]);
        direct.give_back();
        far.write_all(b"later").await.expect("writes");
        assert_eq!(driver.await.expect("ends"), *b"later");
    }

    #[tokio::test]
    async fn a_severed_stream_fails_whoever_waits_for_it_and_the_driver() {
        let (near, mut far) = tokio::io::duplex(64);
        let slot = Slot::default();
        let mut tapped = Tapped::new(near, Tap::new(false), Arc::default(), Arc::clone(&slot));
        let direct = slot.lock().expect("not poisoned").take().expect("is there");
        direct.take();
        let driver = tokio::spawn(async move { tapped.read(&mut [0; 5]).await });
        let held = Arc::clone(&direct);
        let holder = tokio::spawn(async move {
            let mut seen = BytesMut::with_capacity(18);
            std::future::poll_fn(|cx| held.poll_read(cx, &mut seen)).await
        });
        // Both wait by now, or will find it severed.
        tokio::task::yield_now().await;
        direct.sever();
        assert_eq!(far.read(&mut [0; 5]).await.expect("reads"), 0, "the other side sees the end");
        for ended in [holder.await.expect("ends"), driver.await.expect("ends")] {
            assert_eq!(ended.expect_err("was severed").kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
