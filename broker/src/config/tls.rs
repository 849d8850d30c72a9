//! `[server.tls]`: TLS on the HTTP interface.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::rules::range;
use super::{Fault, Secret, units};

/// A full handshake is two round trips and a signature; 10 s leaves room for a bad mobile link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS on the HTTP interface. Without this section it is served in clear.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct TlsConfig {
    /// PEM file with the certificate and what leads from it to a root. Read again at each reload, and when the file has changed.
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key.
    pub key: PathBuf,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// PEM file with the roots that clients' certificates must lead to. Unset: clients are not asked for certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate, where there is a `client_ca`.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// Secret from which brokers derive the keys of session tickets, so that a session begun with one is resumed with any other:
    /// lines of at least 32 characters (`openssl rand -base64 48`), the same on all. The first makes tickets, all of them open
    /// them. Unset: keys of the process's own.
    pub ticket_keys: Option<Secret>,
    /// Longest wait for a handshake; past it the connection is closed. Unit: duration. Default: `10s`. Range: `100ms..=2m`.
    #[serde(default = "handshake_timeout", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub handshake_timeout: Duration,
}

fn handshake_timeout() -> Duration {
    HANDSHAKE_TIMEOUT
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// For clients that know no better.
    #[serde(rename = "1.2")]
    Tls12,
    /// The default.
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients must have certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// A client without one is let in and has no names.
    Optional,
    /// A client without one is refused. The default.
    #[default]
    Required,
}

/// Files are read where the broker is made.
pub(super) fn check(tls: &TlsConfig, faults: &mut Vec<Fault>) {
    let allowed = Duration::from_millis(100)..=Duration::from_mins(2);
    range("server.tls.handshake_timeout", tls.handshake_timeout, allowed, faults);
    if tls.client_ca.is_none() && tls.client_certificates == ClientCertificates::Optional {
        faults.push(Fault::new("server.tls.client_certificates", "means nothing without `client_ca`"));
    }
}
