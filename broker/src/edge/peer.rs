//! Who is at the other end of the socket, as far as the transport tells. The listener puts it into every request's extensions.

use std::net::IpAddr;
use std::sync::Arc;

/// The other end of a request's connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address: the socket's, or what a trusted proxy tells.
    pub address: IpAddr,
    /// The names in the client's certificate, verified against the listener's authorities; none without a certificate.
    pub names: Option<Arc<[String]>>,
}
