//! A client's socket that notes what goes in and out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::watch::Watch;

/// The socket and who watches it. Below TLS, so that the kernel's word counts and not a buffer's.
pub struct Watched {
    socket: TcpStream,
    watch: Arc<Watch>,
}

impl Watched {
    /// Watches a socket.
    pub fn new(socket: TcpStream, watch: Arc<Watch>) -> Self {
        Self { socket, watch }
    }

    fn noted(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.watch.wrote(wrote.is_pending());
        wrote
    }
}

/// A connection, with or without TLS, and the socket under it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The socket.
    fn socket(&self) -> &TcpStream;
}

impl Io for Watched {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Io for Box<TlsStream<Watched>> {
    fn socket(&self) -> &TcpStream {
        &self.get_ref().0.socket
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.watch.read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.noted(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        self.noted(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
