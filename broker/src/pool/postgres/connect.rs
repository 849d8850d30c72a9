//! Dialling a session: socket, tap, TLS, sign-in; and the second socket that carries a cancellation.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;
use tokio_postgres::config::Host;
use tokio_postgres::{CancelToken, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::hearing::{self, Hear};
use super::observed::Observed;
use super::presence;
use super::silence;
use super::socket::Socket;
use super::tap::Tap;
use super::tls::{self, TapTls};
use super::wire::{Direct, Slot, Tapped};
use crate::config::DatabaseUrl;
use crate::pool::ledger::Alive;

/// Settings that fix how values print, so that the same value reads the same everywhere. They come with the startup
/// message, so `RESET ALL` returns to them. `extra_float_digits` 1 prints the shortest text that reads back exactly.
const SESSION_OPTIONS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c bytea_output=hex \
     -c extra_float_digits=1 -c standard_conforming_strings=on -c client_min_messages=notice";

/// The longest a cancellation may take. PostgreSQL answers it by closing the socket.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything needed to open sessions of one database.
#[derive(Clone)]
pub struct Connector {
    postgres: tokio_postgres::Config,
    host: Host,
    port: u16,
    tls: Option<MakeRustlsConnect>,
    timeout: Duration,
    /// This broker's, in every session's `application_name`.
    mark: Arc<str>,
}

/// A freshly opened session, before the pool has it.
pub struct Dialled {
    /// The driver's client, with deadpool's guard that ends the driver's task with it.
    pub client: ClientWrapper,
    /// What the tap reports to.
    pub observed: Arc<Observed>,
    /// The stream, to be taken from the driver.
    pub wire: Arc<dyn Direct>,
    /// How long it took.
    pub took: Took,
}

/// How long the phases of a dial took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    /// Finding the address.
    pub dns: Duration,
    /// The socket.
    pub tcp: Duration,
    /// The handshake; zero without TLS.
    pub tls: Duration,
    /// Signing in.
    pub auth: Duration,
}

impl Connector {
    /// Prepares to dial. Errors: text about roots that cannot be read.
    pub fn new(
        url: &DatabaseUrl,
        password: Option<&str>,
        timeout: Duration,
        statement_timeout: Duration,
        mark: &str,
    ) -> Result<Self, String> {
        let mut postgres = url.postgres.clone();
        if let Some(password) = password {
            postgres.password(password);
        }
        let name = postgres.get_application_name().unwrap_or("hearth").to_owned();
        postgres.application_name(presence::sign(&name, mark));
        // The broker cancels at the deadline; the server's own limit holds when the broker itself is gone.
        let backstop = statement_timeout.as_millis() + 1_000;
        let own = postgres.get_options().unwrap_or_default().to_owned();
        postgres.options(format!("{SESSION_OPTIONS} -c statement_timeout={backstop} {own}").trim_end());
        let host = postgres.get_hosts().first().cloned().ok_or("the address names no host")?;
        let port = postgres.get_ports().first().copied().unwrap_or(5432);
        Ok(Self { postgres, host, port, tls: tls::connector(url)?, timeout, mark: mark.into() })
    }

    /// Opens one session within the connect timeout. A failed dial travels whole as the driver's error: the driver is
    /// handed a stream that fails with it.
    /// `alive` is kept by the task that drives the socket.
    pub async fn dial(&self, alive: Option<Alive>) -> Result<Dialled, tokio_postgres::Error> {
        self.open(None, alive).await
    }

    /// As [`Connector::dial`], for a session whose notifications go to `hear`.
    pub async fn dial_hearing(&self, hear: Box<dyn Hear>) -> Result<Dialled, tokio_postgres::Error> {
        self.open(Some(hear), None).await
    }

    async fn open(&self, hear: Option<Box<dyn Hear>>, alive: Option<Alive>) -> Result<Dialled, tokio_postgres::Error> {
        let observed = Arc::new(Observed::default());
        let slot = Slot::default();
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, format!("no session within {:?}", self.timeout));
        match tokio::time::timeout(self.timeout, self.sign_in(&observed, &slot, hear, alive)).await {
            Ok(Ok((client, took))) => {
                observed.mark_signed_in();
                let wire = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                Ok(Dialled { client, observed, wire: wire.expect("the stream in use was put there"), took })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.fail(timed_out()).await),
        }
    }

    async fn sign_in(
        &self,
        observed: &Arc<Observed>,
        slot: &Slot,
        hear: Option<Box<dyn Hear>>,
        alive: Option<Alive>,
    ) -> Result<(ClientWrapper, Took), tokio_postgres::Error> {
        let mut took = Took::default();
        let socket = match self.socket(&mut took).await {
            Ok(socket) => socket,
            Err(error) => return Err(self.fail(error).await),
        };
        let stream = Tapped::new(socket, Tap::new(self.tls.is_some()), Arc::clone(observed), Arc::clone(slot));
        let connected = Instant::now();
        let Some(make) = &self.tls else {
            let (client, connection) = self.postgres.connect_raw(stream, NoTls).await?;
            took.auth = connected.elapsed();
            return Ok((ClientWrapper::new(client, tokio::spawn(drive(connection, hear, alive))), took));
        };
        match tls::for_host::<Socket>(make, self.host_name()) {
            Ok(tls) => {
                let (client, connection) = self.postgres.connect_raw(stream, TapTls(tls)).await?;
                took.tls = observed.handshake();
                took.auth = connected.elapsed().saturating_sub(took.tls);
                Ok((ClientWrapper::new(client, tokio::spawn(drive(connection, hear, alive))), took))
            }
            Err(error) => Err(self.fail(error).await),
        }
    }

    /// The same for a session that only watches the server, and says so to whoever looks at the server's list.
    #[must_use]
    pub fn watching(&self) -> Self {
        let mut watching = self.clone();
        watching.postgres.application_name(presence::sign("hearth watch", &self.mark));
        watching
    }

    /// This broker's mark.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// The server's address as people write it: `host:port`, or the folder of its socket.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            #[cfg(unix)]
            Host::Unix(folder) => format!("{}:{}", folder.display(), self.port),
        }
    }

    async fn fail(&self, error: io::Error) -> tokio_postgres::Error {
        match self.postgres.connect_raw(Broken(Some(error)), NoTls).await {
            Err(error) => error,
            Ok(_) => unreachable!("a stream that fails at the first byte signs nobody in"),
        }
    }

    async fn socket(&self, took: &mut Took) -> io::Result<Socket> {
        let begun = Instant::now();
        match &self.host {
            Host::Tcp(host) => {
                let found: Vec<SocketAddr> = lookup_host((host.as_str(), self.port)).await?.collect();
                took.dns = begun.elapsed();
                let socket = TcpStream::connect(&*found).await?;
                took.tcp = begun.elapsed().saturating_sub(took.dns);
                socket.set_nodelay(true)?;
                silence::is_noticed(&socket)?;
                Ok(Socket::tcp(socket))
            }
            #[cfg(unix)]
            Host::Unix(folder) => {
                Ok(Socket::unix(UnixStream::connect(folder.join(format!(".s.PGSQL.{}", self.port))).await?))
            }
        }
    }

    fn host_name(&self) -> &str {
        match &self.host {
            Host::Tcp(host) => host,
            #[cfg(unix)]
            Host::Unix(_) => "localhost",
        }
    }

    /// Asks the server to cancel what `token`'s session runs, and waits until the server has closed the socket: only then
    /// has it sent its signal, so that a statement begun after this returns cannot be hit by it.
    /// Source: PostgreSQL manual, "Canceling Requests in Progress".
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), CancelError> {
        tokio::time::timeout(CANCEL_TIMEOUT, async {
            let mut socket = SharedSocket::new(self.socket(&mut Took::default()).await?);
            match &self.tls {
                Some(make) => {
                    let tls = tls::for_host::<SharedSocket>(make, self.host_name())?;
                    token.cancel_query_raw(socket.clone(), tls).await?;
                }
                None => token.cancel_query_raw(socket.clone(), NoTls).await?,
            }
            while socket.read(&mut [0; 64]).await? > 0 {}
            Ok(())
        })
        .await
        .map_err(|_| CancelError::TimedOut)?
    }
}

/// Why a cancellation did not get through.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// The server did not take it in time.
    #[error("the server did not take the cancellation in time")]
    TimedOut,
    /// The socket failed.
    #[error("the cancellation's socket failed")]
    Io(#[from] io::Error),
    /// The driver failed.
    #[error("the cancellation failed")]
    Driver(#[from] tokio_postgres::Error),
}

async fn drive<S, T>(connection: Connection<S, T>, hear: Option<Box<dyn Hear>>, _alive: Option<Alive>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let ended = match hear {
        Some(hear) => hearing::drive(connection, hear).await,
        None => connection.await,
    };
    if let Err(error) = ended {
        // The request that suffers tells its caller; this line is for the reader of debug logs.
        tracing::debug!(error = %error, "a database connection ended");
    }
}

/// A socket that outlives the TLS stream around it, so that its end can be awaited. The lock is held for one poll.
#[derive(Debug, Clone)]
struct SharedSocket(Arc<Mutex<Socket>>);

impl SharedSocket {
    fn new(socket: Socket) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for SharedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket()).poll_shutdown(cx)
    }
}

/// A stream that fails with one error, since the driver's error cannot be made from outside.
struct Broken(Option<io::Error>);

impl Broken {
    fn error(&mut self) -> io::Error {
        self.0.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
