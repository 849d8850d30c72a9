//! A socket to the server, which goes where it is used.
//!
//! The runtime that made a socket hears of it, and wakes whoever waits for it. Sessions are used by one worker after the other,
//! and each has a runtime of its own: without moving, every wait would cost two threads' waking up in place of one's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::base::worker::{self, Worker};

/// A socket to the server. Polled on another worker's thread than before, it moves there first.
#[derive(Debug)]
pub struct Socket {
    /// `None` once it could not be moved.
    stream: Option<Stream>,
    /// Whose runtime hears of it.
    home: Option<Worker>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.stream()? {
            Stream::Tcp($stream) => $call,
            #[cfg(unix)]
            Stream::Unix($stream) => $call,
        }
    };
}

impl Socket {
    /// A TCP connection, made on this thread.
    pub fn tcp(stream: TcpStream) -> Self {
        Self { stream: Some(Stream::Tcp(stream)), home: worker::here() }
    }

    /// A connection over a Unix-domain socket, made on this thread.
    #[cfg(unix)]
    pub fn unix(stream: UnixStream) -> Self {
        Self { stream: Some(Stream::Unix(stream)), home: worker::here() }
    }

    /// The stream, heard of by this thread's runtime.
    fn stream(&mut self) -> io::Result<&mut Stream> {
        let here = worker::here();
        if self.home != here {
            self.stream = self.stream.take().map(Stream::moved).transpose()?;
            self.home = here;
        }
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Stream {
    fn moved(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            #[cfg(unix)]
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;
    use crate::base::Workers;

    /// One question and its answer, on one of the workers. It waits for the answer there.
    async fn asked(workers: &Workers, mut socket: Socket) -> (Socket, Option<Worker>) {
        let (tell, told) = oneshot::channel();
        let (runtime, occupied) = workers.idlest();
        runtime.spawn(async move {
            let _occupied = occupied;
            socket.write_all(b"?").await.expect("writes");
            assert_eq!(socket.read_u8().await.expect("is answered"), b'!');
            let _ = tell.send((socket, worker::here()));
        });
        told.await.expect("is told")
    }

    #[tokio::test]
    async fn a_socket_is_used_by_one_worker_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("is bound");
        let mut socket = Socket::tcp(TcpStream::connect(address).await.expect("connects"));
        let (mut far, _) = listener.accept().await.expect("accepts");
        let server = tokio::spawn(async move {
            while let Ok(b'?') = far.read_u8().await {
                // Whoever asks waits by now: the answer must wake them where they are.
                tokio::task::yield_now().await;
                far.write_all(b"!").await.expect("writes");
            }
        });
        let workers = Workers::start(2).expect("starts");
        let mut homes = Vec::new();
        for _ in 0..4 {
            let home;
            (socket, home) = asked(&workers, socket).await;
            assert_eq!(socket.home, home);
            homes.push(home);
        }
        assert_ne!(homes[0], homes[1], "they took turns");
        socket.write_all(b"?").await.expect("writes");
        assert_eq!(socket.read_u8().await.expect("is answered"), b'!', "and here at last");
        assert_eq!(socket.home, None);
        drop(socket);
        server.await.expect("ends");
    }
}
