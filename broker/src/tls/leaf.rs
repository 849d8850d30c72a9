//! What a certificate says: whose it is, and until when.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The part of a certificate that the broker reads itself. Whether it is genuine, rustls says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its alternative names: DNS names, URIs (SPIFFE ids), addresses of mail and of machines. Printable ASCII alone, since they
    /// stand in logs and are compared byte by byte.
    pub names: Arc<[String]>,
    /// After which it is not valid. Unit: since 1970.
    pub expires: Duration,
}

impl Leaf {
    /// Reads a certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let certificate = Certificate::from_der(der).map_err(|error| format!("is no certificate: {error}"))?;
        let body = &certificate.tbs_certificate;
        let names = body.get::<SubjectAltName>().map_err(|error| format!("has no readable names: {error}"))?;
        let names = names.map(|(_, names)| names.0.iter().filter_map(text).collect()).unwrap_or_default();
        Ok(Self { names, expires: body.validity.not_after.to_unix_duration() })
    }
}

fn text(name: &GeneralName) -> Option<String> {
    let text = match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
            name.as_str().to_owned()
        }
        GeneralName::IpAddress(bytes) => match bytes.as_bytes().len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes.as_bytes()).ok()?).to_string(),
            16 => IpAddr::from(<[u8; 16]>::try_from(bytes.as_bytes()).ok()?).to_string(),
            _ => return None,
        },
        _ => return None,
    };
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
}
