//! TLS, certificates, tickets, proxies: whom the listener speaks with, and how.

mod certificates;
mod proxies;
mod tickets;

use std::path::Path;
use std::sync::Arc;

use hearth_broker::cli::dev::scratch::Scratch;
use hearth_tests::bare::read_answer;
use hearth_tests::{Authority, Bare};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A folder with an authority and a certificate of it for `localhost`.
fn ground() -> (Scratch, Authority) {
    let scratch = Scratch::new("hearth-listener").expect("a scratch folder");
    let authority = Authority::new(scratch.path(), "ca");
    authority.sign("server", "DNS:localhost", "serverAuth");
    (scratch, authority)
}

/// The `tls` field of `[server]`.
fn tls(scratch: &Scratch, more: &str) -> String {
    let folder = scratch.path().display();
    format!("tls = {{ certificate = \"{folder}/server.crt\", key = \"{folder}/server.key\"{more} }}")
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&authority.root())).expect("is a root");
    Arc::new(roots)
}

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("is a certificate")
}

/// A client that trusts the authority, with all groups that it knows or one of them.
fn client(authority: &Authority, group: Option<&'static dyn rustls::crypto::SupportedKxGroup>) -> Arc<ClientConfig> {
    let mut provider = default_provider();
    if let Some(group) = group {
        provider.kx_groups = vec![group];
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
    Arc::new(builder.expect("versions").with_root_certificates(roots(authority)).with_no_client_auth())
}

/// The same with a certificate of its own.
fn known_client(authority: &Authority, scratch: &Scratch, name: &str) -> Arc<ClientConfig> {
    let [chain, key] = ["crt", "key"].map(|end| scratch.path().join(format!("{name}.{end}")));
    let key = PrivateKeyDer::from_pem_file(key).expect("is a key");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_root_certificates(roots(authority)).with_client_auth_cert(vec![certificate(&chain)], key);
    Arc::new(config.expect("belong together"))
}

async fn shake(bare: &Bare, client: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::clone(client)).connect(name, bare.dial().await).await
}

/// Asks who it is: the answer's head, if there is one.
async fn ask(bare: &Bare, stream: &mut TlsStream<TcpStream>) -> Option<String> {
    stream.write_all(bare.get("/v1/whoami").as_bytes()).await.ok()?;
    read_answer(stream).await
}

/// True if the client is let in and answered.
async fn serves(bare: &Bare, client: &Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = shake(bare, client).await else { return false };
    ask(bare, &mut stream).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// What `openssl s_client` says, and whether it got through.
async fn s_client(bare: &Bare, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &bare.address.to_string(), "-servername", "localhost"]).args(arguments);
    let output = command.stdin(std::process::Stdio::null()).output().await.expect("openssl is installed");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_is_spoken_unless_the_file_says_otherwise() {
    let (scratch, _) = ground();
    let bare = Bare::start(&scratch, "strict", &tls(&scratch, "")).await;
    let (new, told) = s_client(&bare, &["-tls1_3"]).await;
    assert!(new && told.contains("TLSv1.3"), "{told}");
    for old in ["-tls1_2", "-tls1_1"] {
        let (through, told) = s_client(&bare, &[old]).await;
        assert!(!through && told.contains("alert"), "{old}: {told}");
    }
    assert!(bare.metric("hearth_tls_handshakes_total", &["result=\"failed\""]).await >= 1.0);

    let bare = Bare::start(&scratch, "lenient", &tls(&scratch, ", min_version = \"1.2\"")).await;
    let (old, told) = s_client(&bare, &["-tls1_2"]).await;
    assert!(old && told.contains("TLSv1.2") && !told.contains("CBC"), "{told}");
    let (older, _) = s_client(&bare, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    let (new, told) = s_client(&bare, &[]).await;
    assert!(!older && new && told.contains("TLSv1.3"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_quantum_exchange_is_preferred_and_older_clients_get_the_next_best() {
    let (scratch, authority) = ground();
    let bare = Bare::start(&scratch, "broker", &tls(&scratch, "")).await;
    let groups: [(&'static str, Option<&'static dyn rustls::crypto::SupportedKxGroup>); 4] = [
        ("X25519MLKEM768", None),
        ("X25519MLKEM768", Some(kx_group::X25519MLKEM768)),
        ("X25519", Some(kx_group::X25519)),
        ("secp256r1", Some(kx_group::SECP256R1)),
    ];
    for (name, group) in groups {
        let mut stream = shake(&bare, &client(&authority, group)).await.expect("is let in");
        let group = stream.get_ref().1.negotiated_key_exchange_group().expect("there is one").name();
        assert_eq!(group.as_str(), Some(name));
        assert!(ask(&bare, &mut stream).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    }
    let none = client(&authority, Some(kx_group::SECP384R1));
    assert!(shake(&bare, &none).await.is_err(), "no group in common");
    let counted = bare.metric("hearth_tls_handshakes_total", &["group=\"X25519MLKEM768\"", "kind=\"full\""]).await;
    assert!((counted - 2.0).abs() < 0.1, "{counted}");
    // This one knows X25519 and, from version 3.5 on, the other.
    let (through, told) = s_client(&bare, &["-groups", "X25519"]).await;
    assert!(through && told.contains("X25519, 253 bits"), "{told}");
    let (knows, told) = s_client(&bare, &["-groups", "X25519MLKEM768"]).await;
    assert!(knows || told.contains("group"), "{told}");
    println!("this openssl knows X25519MLKEM768: {knows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_2_share_a_port_in_clear_and_over_tls() {
    let (scratch, authority) = ground();
    let secret = Bare::start(&scratch, "tls", &tls(&scratch, "")).await;
    let clear = Bare::start(&scratch, "clear", "").await;
    let root = std::fs::read(authority.root()).expect("is there");
    let root = reqwest::Certificate::from_pem(&root).expect("is one");
    let http = || reqwest::Client::builder().no_proxy().add_root_certificate(root.clone());
    let versions = [
        (http().http1_only(), reqwest::Version::HTTP_11, reqwest::Version::HTTP_11),
        (http().http2_prior_knowledge(), reqwest::Version::HTTP_2, reqwest::Version::HTTP_2),
        (http(), reqwest::Version::HTTP_2, reqwest::Version::HTTP_11),
    ];
    for (client, over_tls, in_clear) in versions {
        let client = client.build().expect("a client");
        let ask = async |url: String, key: &str| {
            let answer = client.get(url).bearer_auth(key).send().await.expect("is answered");
            assert_eq!(answer.status(), 200);
            answer.version()
        };
        let url = format!("https://localhost:{}/v1/whoami", secret.address.port());
        assert_eq!(ask(url, &secret.key).await, over_tls);
        assert_eq!(ask(format!("http://{}/v1/whoami", clear.address), &clear.key).await, in_clear);
    }
    let mut other = (*client(&authority, None)).clone();
    other.alpn_protocols = vec![b"http/3".to_vec()];
    assert!(shake(&secret, &Arc::new(other)).await.is_err(), "no protocol in common");
    let plain = secret.raw(secret.get("/v1/whoami").as_bytes()).await;
    assert!(!plain.contains("HTTP/1.1 200"), "nothing is served in clear: {plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_and_a_silent_client_have_their_time() {
    let (scratch, authority) = ground();
    let more = format!(
        "{}\nheader_timeout = \"300ms\"\nidle_timeout = \"1s\"",
        tls(&scratch, ", handshake_timeout = \"300ms\"")
    );
    let bare = Bare::start(&scratch, "broker", &more).await;
    let mut mute = bare.dial().await;
    let mut half = bare.dial().await;
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("is taken");
    let mut shaken = shake(&bare, &client(&authority, None)).await.expect("is let in");
    let mut idle = shake(&bare, &client(&authority, None)).await.expect("is let in");
    assert!(ask(&bare, &mut idle).await.is_some());
    assert_eq!(read_answer(&mut mute).await, None, "never said a word");
    assert_eq!(read_answer(&mut half).await, None, "stopped in the middle of its greeting");
    assert_eq!(read_answer(&mut shaken).await, None, "never asked");
    assert_eq!(read_answer(&mut idle).await, None, "has no more to ask");
    hearth_tests::eventually("they are counted", async || {
        let handshakes = bare.metric("hearth_tls_handshakes_total", &["result=\"timeout\""]).await;
        let closed = async |reason| bare.metric("hearth_client_connections_closed_total", &[reason]).await;
        let (header, idle) = (closed("reason=\"header_timeout\"").await, closed("reason=\"idle_timeout\"").await);
        handshakes >= 2.0 && header >= 1.0 && idle >= 1.0
    })
    .await;
}
