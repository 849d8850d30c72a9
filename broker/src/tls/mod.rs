//! What the HTTP interface proves itself with: certificate, keys of session tickets, and the roots of clients' certificates.
//!
//! rustls over AWS-LC does all of the cryptography. TLS 1.3, with X25519MLKEM768 before X25519 and P-256; nothing is ever read
//! from a client before its handshake is over (no 0-RTT), since a replayed request would be a second write.

mod leaf;
mod tickets;

use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::{Digest, Sha256};

pub use self::leaf::Leaf;
use self::tickets::SharedTickets;
use crate::config::{ClientCertificates, TlsConfig, TlsVersion};

/// HTTP/2 and HTTP/1.1 on one port; the client says what it can.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS as it is configured, and as its files were read last.
pub struct ServerTls {
    config: TlsConfig,
    current: ArcSwap<Loaded>,
    /// What was found wrong at the last look, so that it is told once.
    wrong: Mutex<Option<[u8; 32]>>,
}

/// What one reading of the files gave.
struct Loaded {
    rustls: Arc<ServerConfig>,
    tickets: Tickets,
    /// Over everything that was read.
    read: [u8; 32],
    expires: Duration,
}

/// Who makes session tickets, and from what.
#[derive(Clone)]
struct Tickets {
    maker: Arc<dyn ProducesTickets>,
    /// Over the secret and the rules for clients. A maker with keys of its own is kept as long as this stays.
    made_from: [u8; 32],
}

/// The files' contents.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    ticket_keys: Option<String>,
}

impl ServerTls {
    /// Reads the files. Tickets made by the one `before` stay good where nothing that concerns them has changed.
    pub fn load(config: &TlsConfig, before: Option<&Self>) -> Result<Self, String> {
        let files = Files::read(config)?;
        let loaded = Loaded::new(config, &files, before.map(|before| before.current.load().tickets.clone()))?;
        Ok(Self { config: config.clone(), current: ArcSwap::from_pointee(loaded), wrong: Mutex::new(None) })
    }

    /// What new connections are shaken hands with.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().rustls)
    }

    /// When the certificate ends. Unit: since 1970.
    pub fn expires(&self) -> Duration {
        self.current.load().expires
    }

    /// True if it would present another certificate, or ask clients for others.
    pub fn differs(&self, other: &Self) -> bool {
        self.current.load().read != other.current.load().read
    }

    /// Longest wait for a handshake.
    pub fn handshake_timeout(&self) -> Duration {
        self.config.handshake_timeout
    }

    /// Looks at the files. True: they had changed, and new connections get what they say now. Errors: what is wrong with them;
    /// nothing has changed, and the same fault is not told twice.
    pub fn refresh(&self) -> Result<bool, String> {
        let before = self.current.load_full();
        let files = Files::read(&self.config);
        let read = files.as_ref().map_or_else(|message| Sha256::digest(message).into(), Files::hash);
        if read == before.read {
            return Ok(false);
        }
        let loaded = files.and_then(|files| Loaded::new(&self.config, &files, Some(before.tickets.clone())));
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(loaded) => {
                *wrong = None;
                self.current.store(Arc::new(loaded));
                Ok(true)
            }
            Err(_) if wrong.replace(read) == Some(read) => Ok(false),
            Err(message) => Err(message),
        }
    }
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, String> {
        Ok(Self {
            certificate: file("certificate", &config.certificate)?,
            key: file("key", &config.key)?,
            client_ca: config.client_ca.as_deref().map(|path| file("client_ca", path)).transpose()?,
            ticket_keys: (config.ticket_keys.as_ref())
                .map(|secret| secret.reveal().map_err(|message| format!("ticket_keys: {message}")))
                .transpose()?,
        })
    }

    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let tickets = self.ticket_keys.as_ref().map(String::as_bytes);
        let parts = [Some(&self.certificate[..]), Some(&self.key), self.client_ca.as_deref(), tickets];
        for part in parts.map(Option::unwrap_or_default) {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn file(field: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{field}: cannot read `{}`: {error}", path.display()))
}

impl Loaded {
    fn new(config: &TlsConfig, files: &Files, before: Option<Tickets>) -> Result<Self, String> {
        let wrong = |field: &'static str, path: &Path| {
            let path = path.display().to_string();
            move |error: &dyn Display| format!("{field}: `{path}` cannot be used: {error}")
        };
        let of_certificate = wrong("certificate", &config.certificate);
        let chain = certificates(&files.certificate).map_err(|error| of_certificate(&error))?;
        let leaf = Leaf::read(&chain[0]).map_err(|error| of_certificate(&error))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| wrong("key", &config.key)(&error))?;
        let provider = Arc::new(provider());
        let versions: &[&SupportedProtocolVersion] = match config.min_version {
            TlsVersion::Tls13 => &[&TLS13],
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match (&config.client_ca, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let of_ca = wrong("client_ca", path);
                let mut roots = RootCertStore::empty();
                for root in certificates(pem).map_err(|error| of_ca(&error))? {
                    roots.add(root).map_err(|error| of_ca(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match config.client_certificates {
                    ClientCertificates::Required => verifier,
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| of_ca(&error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut rustls = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("certificate and key: they do not belong together, or cannot be used: {error}"))?;
        rustls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let tickets = Tickets::new(config, files, before)?;
        rustls.ticketer = Arc::clone(&tickets.maker);
        Ok(Self { rustls: Arc::new(rustls), tickets, read: files.hash(), expires: leaf.expires })
    }
}

impl Tickets {
    fn new(config: &TlsConfig, files: &Files, before: Option<Self>) -> Result<Self, String> {
        // A resumed session is not asked for its certificate again: one that began under other roots must not be resumed.
        let mut rules = Sha256::new();
        rules.update([u8::from(config.client_certificates == ClientCertificates::Required)]);
        rules.update(files.client_ca.as_deref().unwrap_or_default());
        let rules: [u8; 32] = rules.finalize().into();
        let mut made_from = Sha256::new();
        made_from.update(rules);
        made_from.update(files.ticket_keys.as_deref().unwrap_or_default());
        let made_from = made_from.finalize().into();
        if let Some(before) = before.filter(|before| before.made_from == made_from) {
            return Ok(before);
        }
        let maker: Arc<dyn ProducesTickets> = match &files.ticket_keys {
            Some(text) => Arc::new(SharedTickets::new(text, rules).map_err(|told| format!("ticket_keys: {told}"))?),
            None => Ticketer::new().map_err(|error| error.to_string())?,
        };
        Ok(Self { maker, made_from })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

fn provider() -> CryptoProvider {
    // In the order of preference: a recorded exchange of the first is closed to quantum computers too.
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    CryptoProvider { kx_groups, ..default_provider() }
}
