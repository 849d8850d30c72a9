//! The load generator of `bin/bench --only tls`: one thread that connects, shakes hands, asks one small thing and leaves.
//!
//!     handshakes ADDRESS ROOT GROUP full|resumed SECONDS

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use tokio::time::Instant;

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, root, group, kind, seconds] = &arguments[..] else {
        return Err("handshakes ADDRESS ROOT GROUP full|resumed SECONDS".into());
    };
    let (client, resumes) = (Arc::new(client(root, group, kind == "resumed")?), kind == "resumed");
    // The first of a session is never resumed, and not counted.
    once(address, &client, None)?;
    let (start, mut took) = (Instant::now(), Vec::new());
    let wanted = if resumes { HandshakeKind::Resumed } else { HandshakeKind::Full };
    while start.elapsed() < Duration::from_secs_f64(seconds.parse()?) {
        let begun = Instant::now();
        once(address, &client, Some((wanted, group)))?;
        took.push(begun.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: usize| took[took.len() * part / 100].as_secs_f64() * 1e3;
    let (count, p50, p99) = (took.len(), at(50), at(99));
    let line =
        format!("{{\"requests\": {count}, \"seconds\": {seconds:.6}, \"p50_ms\": {p50:.3}, \"p99_ms\": {p99:.3}}}\n");
    io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

fn client(root: &str, group: &str, resumes: bool) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut provider = default_provider();
    let known = [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    provider.kx_groups = known.into_iter().filter(|known| known.name().as_str() == Some(group)).collect();
    let (mut roots, root) = (RootCertStore::empty(), CertificateDer::from_pem_file(root)?);
    roots.add(root)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
    let mut client = builder.with_root_certificates(roots).with_no_client_auth();
    if !resumes {
        client.resumption = Resumption::disabled();
    }
    Ok(client)
}

fn once(
    address: &str,
    client: &Arc<ClientConfig>,
    wanted: Option<(HandshakeKind, &String)>,
) -> Result<(), Box<dyn std::error::Error>> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let session = ClientConnection::new(Arc::clone(client), ServerName::try_from("localhost")?)?;
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err("the broker did not answer".into());
    }
    let group = stream.conn.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    match wanted {
        Some((kind, name)) if stream.conn.handshake_kind() != Some(kind) || group != Some(name.as_str()) => {
            Err(format!("a handshake was {:?} over {group:?}", stream.conn.handshake_kind()).into())
        }
        _ => Ok(()),
    }
}
