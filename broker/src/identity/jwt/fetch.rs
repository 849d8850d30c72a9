//! Getting a small document over HTTP: one connection, one answer, no redirects, bounded in time and size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::identity::jwks_address;

/// The whole of it: name, connection, handshake, answer. Requests may be waiting.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A set of keys has a few kilobytes.
const MAX_BYTES: usize = 256 * 1024;

/// Where the document is, and whom to trust there.
pub struct Source {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    /// The root certificates as they were read.
    roots: Vec<u8>,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri && self.roots == other.roots
    }
}

impl Source {
    /// A source. Errors: text about an address or certificates that do not work.
    pub fn new(url: &str, ca: Option<&str>) -> Result<Self, String> {
        let uri = jwks_address(url)?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let unreadable = |path: &str, error: &dyn std::fmt::Display| format!("cannot read jwks_ca `{path}`: {error}");
        let roots = match ca {
            Some(path) => std::fs::read(path).map_err(|error| unreadable(path, &error))?,
            None => Vec::new(),
        };
        let tls = if is_tls { Some(connector(ca.map(|_| &*roots))?) } else { None };
        Ok(Self { port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), uri, host, tls, roots })
    }

    /// The document. Errors: text that says what failed, with nothing of what was read.
    pub async fn get(&self) -> Result<Vec<u8>, String> {
        let timed_out = |_| format!("no answer within {} s", TIMEOUT.as_secs());
        tokio::time::timeout(TIMEOUT, self.fetch()).await.map_err(timed_out)?
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let socket = TcpStream::connect((&*self.host, self.port)).await.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return self.ask(socket).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        self.ask(tls.connect(name, socket).await.map_err(|error| error.to_string())?).await
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Vec<u8>, String> {
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
            let request = Request::get(path)
                .header(HOST, self.uri.authority().map_or("", |authority| authority.as_str()))
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, concat!("hearth/", env!("CARGO_PKG_VERSION")))
                .body(Empty::<Bytes>::new())
                .map_err(|error| error.to_string())?;
            let response = sender.send_request(request).await.map_err(text)?;
            if response.status() != StatusCode::OK {
                return Err(format!("the answer is {}", response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
            Ok(body.map_err(|error| format!("the answer was not read: {error}"))?.to_bytes().to_vec())
        };
        let answer = answer.await;
        connection.abort();
        answer
    }
}

fn connector(ca: Option<&[u8]>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("jwks_ca: {error}"))?;
                roots.add(certificate).map_err(|error| format!("jwks_ca: {error}"))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
