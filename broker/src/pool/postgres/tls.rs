//! TLS to the database: rustls, with the tap put on the stream inside and channel binding passed on.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tap::Tap;
use super::wire::Tapped;
use crate::config::{DatabaseUrl, TlsMode};

/// Makes the connector that a database's address asks for; `None` where TLS is off.
pub fn connector(url: &DatabaseUrl) -> Result<Option<MakeRustlsConnect>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match url.tls {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))).with_no_client_auth()
        }
        TlsMode::Verify => builder.with_root_certificates(roots(url.root_cert.as_deref())?).with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(file) = file else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let unreadable = |error: &dyn std::fmt::Display| format!("cannot read sslrootcert `{}`: {error}", file.display());
    for cert in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
        store.add(cert.map_err(|error| unreadable(&error))?).map_err(|error| unreadable(&error))?;
    }
    Ok(store)
}

/// Takes the tap off for the handshake and puts a fresh one on the clear text inside.
pub struct TapTls<T>(pub T);

impl<S, T> TlsConnect<Tapped<S>> for TapTls<T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S> + Send + 'static,
    T::Future: Send,
    T::Stream: Send + 'static,
{
    type Stream = Tapped<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: Tapped<S>) -> Self::Future {
        let (stream, observed, slot) = stream.into_parts();
        Box::pin(async move {
            let begun = Instant::now();
            let stream = self.0.connect(stream).await?;
            observed.note_handshake(begun.elapsed());
            Ok(Tapped::new(stream, Tap::new(false), observed, slot))
        })
    }
}

/// The connector for one host. Errors: the host cannot be a TLS server name.
pub fn for_host<S>(
    make: &MakeRustlsConnect,
    host: &str,
) -> Result<<MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect, io::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    MakeRustlsConnect: MakeTlsConnect<S>,
{
    MakeTlsConnect::<S>::make_tls_connect(&mut make.clone(), host).map_err(|error| io::Error::other(error.into()))
}

/// `sslmode=prefer` encrypts against a listener and trusts any certificate, as libpq does; who needs more says `verify-full`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
