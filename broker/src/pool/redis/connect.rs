//! From an address to a connection that is signed in and has its database selected.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{CacheConfig, Secret};
use crate::encode::resp::{Scanner, pack};

/// An answer to the sign-in is a line or two.
const MAX_GREETING: usize = 16 * 1024;

/// Bytes to and from one Redis server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How to open connections of one server.
#[derive(Clone)]
pub(super) struct Connector {
    pub info: ConnectionInfo,
    pub connect_timeout: Duration,
    tls: Option<Arc<ClientConfig>>,
}

/// Settings that every connection of a cache has: who signs in, and to which database.
pub(super) fn settings(url: &RedisConnectionInfo, config: &CacheConfig) -> Result<RedisConnectionInfo, String> {
    // RESP2: a RESP3 reply nests and types things that the REST protocol's clients do not expect.
    let mut settings = url.clone().set_protocol(ProtocolVersion::RESP2);
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = config.password.as_ref().map(Secret::reveal).transpose()? {
        settings = settings.set_password(password);
    }
    Ok(settings)
}

/// Reads an address. Errors: text that says what is wrong with it, and not what it holds.
pub(super) fn address(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|error| error.to_string())
}

impl Connector {
    /// A connector for one server.
    pub fn new(info: ConnectionInfo, connect_timeout: Duration) -> Result<Self, String> {
        let tls = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) { Some(tls()?) } else { None };
        Ok(Self { info, connect_timeout, tls })
    }

    /// The same for another server with the same users.
    pub fn to(&self, host: &str, port: u16) -> Self {
        let host = host.to_owned();
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Self { info: self.info.clone().set_addr(addr), ..self.clone() }
    }

    /// The server, for operators.
    pub fn address(&self) -> String {
        self.info.addr().to_string()
    }

    /// Opens a connection, signs in and selects the database, within the connect timeout.
    pub async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let dialled = async {
            let mut stream = self.open().await?;
            self.sign_in(&mut stream).await?;
            Ok(stream)
        };
        timeout(self.connect_timeout, dialled).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        match (self.info.addr(), &self.tls) {
            (ConnectionAddr::Tcp(host, port), _) => Ok(Box::new(tcp(host, *port).await?)),
            (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let stream = tcp(host, *port).await?;
                Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
            }
            (ConnectionAddr::Unix(path), _) => Ok(Box::new(UnixStream::connect(path).await?)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn sign_in(&self, stream: &mut Box<dyn Stream>) -> io::Result<()> {
        let settings = self.info.redis_settings();
        let db = settings.db().to_string();
        let (mut out, mut asked) = (Vec::new(), 0);
        let mut ask = |args: &[&str]| {
            pack(&mut out, args);
            asked += 1;
        };
        match (settings.username(), settings.password()) {
            (Some(user), Some(password)) => ask(&["AUTH", user, password]),
            (None, Some(password)) => ask(&["AUTH", password]),
            _ => {}
        }
        if settings.db() != 0 {
            ask(&["SELECT", &db]);
        }
        // Also where there is nothing to say: a server that wants a password says so here, one that loads its data too.
        ask(&["PING"]);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let (mut scanner, mut answer) = (Scanner::new(asked), Vec::with_capacity(256));
        while scanner.end(&answer).map_err(io::Error::other)?.is_none() {
            if answer.len() > MAX_GREETING || stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        match answer.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"-")) {
            // A user may be kept from PING; that it was told so shows that it is there.
            Some(refusal) if refusal.starts_with(b"NOPERM") => Ok(()),
            Some(refusal) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, String::from_utf8_lossy(refusal).trim().to_owned()))
            }
            None => Ok(()),
        }
    }
}

/// The first of the host's addresses that takes the connection.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host((host, port)).await?.collect::<Vec<SocketAddr>>() {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The machine's roots; who has others adds them there.
fn tls() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
