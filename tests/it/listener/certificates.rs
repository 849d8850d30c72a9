//! Certificates of the broker, which change, and of clients, which must be right.

use std::net::SocketAddr;
use std::sync::Arc;

use hearth_broker::cli::dev::scratch::Scratch;
use hearth_broker::tls::Leaf;
use hearth_tests::bare::read_answer;
use hearth_tests::{Authority, Bare, Key, eventually};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{ask, certificate, client, ground, known_client, serves, shake, tls};

/// The certificate that a new connection is shown.
async fn shown(bare: &Bare, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let stream = shake(bare, client).await.expect("is let in");
    stream.get_ref().1.peer_certificates().expect("is shown").first().expect("is one").clone().into_owned()
}

/// Puts another pair in the place of the server's.
fn replace(scratch: &Scratch, certificate: &str, key: &str) {
    for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
        std::fs::copy(scratch.path().join(from), scratch.path().join(to)).expect("copies");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let (scratch, authority) = ground();
    authority.sign("second", "DNS:localhost", "serverAuth");
    authority.sign("third", "DNS:localhost", "serverAuth");
    let of = |name: &str| certificate(&scratch.path().join(format!("{name}.crt")));
    let first = of("server");
    let bare = Bare::start(&scratch, "broker", &tls(&scratch, "")).await;
    let caller = client(&authority, None);
    assert_eq!(shown(&bare, &caller).await, first);
    let mut old = shake(&bare, &caller).await.expect("is let in");
    assert!(ask(&bare, &mut old).await.is_some());

    replace(&scratch, "second.crt", "second.key");
    let told = bare.reload().await;
    assert_eq!((told.status, &told.body["status"]), (200, &json!("reloaded")), "{}", told.text);
    assert_eq!(told.body["new_certificate"], true);
    assert_eq!(shown(&bare, &client(&authority, None)).await, of("second"), "at once");
    assert!(ask(&bare, &mut old).await.is_some(), "the old connection lives on");
    assert_eq!(bare.reload().await.body["status"], "unchanged");

    // A pair that does not belong together changes nothing and is told.
    replace(&scratch, "third.crt", "second.key");
    let told = bare.reload().await;
    assert_eq!((told.status, &told.body["faults"][0]["path"]), (400, &json!("server.tls")), "{}", told.text);
    assert!(told.body["faults"][0]["message"].to_string().contains("do not belong together"), "{}", told.text);
    eventually("the files are looked at", async || bare.log().contains("cannot be used")).await;
    assert_eq!(shown(&bare, &client(&authority, None)).await, of("second"));

    // Nobody asks for a reload: the files alone change.
    replace(&scratch, "third.crt", "third.key");
    eventually("the third is shown", async || shown(&bare, &client(&authority, None)).await == of("third")).await;
    assert!(ask(&bare, &mut old).await.is_some(), "the old connection lives on");
    std::fs::remove_file(scratch.path().join("server.key")).expect("is there");
    eventually("it is told", async || bare.log().contains("server.key")).await;
    assert_eq!(shown(&bare, &client(&authority, None)).await, of("third"));
    let expires = Leaf::read(&of("third")).expect("is one").expires.as_secs_f64();
    let told = bare.metric("hearth_tls_certificate_expiry_timestamp_seconds", &[]).await;
    assert!((told - expires).abs() < 1.0, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_right_certificate_is_refused_where_one_is_required() {
    let (scratch, authority) = ground();
    let (clients, others) = (Authority::new(scratch.path(), "clients"), Authority::new(scratch.path(), "others"));
    clients.sign("right", "DNS:caller.example,URI:spiffe://example.org/caller,IP:10.1.2.3", "clientAuth");
    clients.sign("purpose", "DNS:caller.example", "serverAuth");
    others.sign("wrong", "DNS:caller.example", "clientAuth");
    let ca = format!(", client_ca = \"{}\"", clients.root().display());
    let required = Bare::start(&scratch, "required", &tls(&scratch, &ca)).await;
    let ca = format!("{ca}, client_certificates = \"optional\"");
    let optional = Bare::start(&scratch, "optional", &tls(&scratch, &ca)).await;
    let known = |name: &str| known_client(&authority, &scratch, name);
    for (bare, none_serves) in [(&required, false), (&optional, true)] {
        assert!(serves(bare, &known("right")).await);
        assert!(!serves(bare, &known("wrong")).await, "of another root");
        assert!(!serves(bare, &known("purpose")).await, "made for servers");
        assert_eq!(serves(bare, &client(&authority, None)).await, none_serves);
    }
    let read = Leaf::read(&certificate(&scratch.path().join("right.crt"))).expect("is one");
    assert_eq!(*read.names, ["caller.example", "spiffe://example.org/caller", "10.1.2.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_is_told_before_the_broker_starts() {
    let (scratch, _) = ground();
    let check = |tls: String| {
        let file = scratch.path().join("check.toml");
        std::fs::write(&file, format!("[server]\n{tls}\n")).expect("writes");
        let output =
            std::process::Command::new(hearth_tests::Hearth::binary()).arg("check").arg("-c").arg(&file).output();
        String::from_utf8_lossy(&output.expect("runs").stderr).into_owned()
    };
    let folder = scratch.path().display();
    std::fs::write(scratch.path().join("empty"), "").expect("writes");
    std::fs::write(scratch.path().join("short"), "secret").expect("writes");
    for (more, told) in [
        (tls(&scratch, &format!(", client_ca = \"{folder}/none\"")), "client_ca: cannot read"),
        (tls(&scratch, &format!(", client_ca = \"{folder}/empty\"")), "there is no certificate in it"),
        (tls(&scratch, &format!(", ticket_keys = {{ file = \"{folder}/short\" }}")), "at least 32 characters"),
        (tls(&scratch, ", client_certificates = \"optional\""), "means nothing without `client_ca`"),
        (tls(&scratch, ", min_version = \"1.1\""), "1.1"),
        (format!("tls = {{ certificate = \"{folder}/empty\", key = \"{folder}/server.key\" }}"), "certificate: "),
        (format!("tls = {{ certificate = \"{folder}/server.crt\", key = \"{folder}/server.crt\" }}"), "key: "),
        (format!("tls = {{ certificate = \"{folder}/ca.crt\", key = \"{folder}/server.key\" }}"), "belong together"),
        ("trusted_proxies = [\"10.0.0.0/40\"]".to_owned(), "no block of addresses"),
        ("proxies_tell = \"proxy_protocol\"".to_owned(), "must name the proxies"),
    ] {
        let said = check(more);
        assert!(said.contains(told) && said.contains("server."), "{told}: {said}");
    }
    assert_eq!(check(tls(&scratch, "")), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_of_its_tenant_alone_and_worth_nothing_replayed() {
    let (scratch, authority) = ground();
    let (clients, forged) = (Authority::new(scratch.path(), "clients"), Authority::new(scratch.path(), "forged"));
    for name in ["orders", "stock", "nobody"] {
        clients.sign(name, &format!("URI:spiffe://corp/{name}"), "clientAuth");
    }
    clients.sign("both", "URI:spiffe://corp/orders,URI:spiffe://corp/stock", "clientAuth");
    forged.sign("forgery", "URI:spiffe://corp/orders", "clientAuth");
    let ca = format!(", client_ca = \"{}\"", clients.root().display());
    let bare = Bare::start(&scratch, "broker", &tls(&scratch, &ca)).await;
    let stock = Key::new();
    let of = |name: &str| format!("certificates = [{{ name = \"spiffe://corp/{name}\", scopes = [\"sql:read\"] }}]\n");
    let other = format!("[tenants.stock]\nkeys = [{}]\n{}", stock.entry, of("stock"));
    bare.edit("[tenants.acme]\n", &format!("{other}[tenants.acme]\n{}", of("orders")));
    assert_eq!(bare.reload().await.status, 200);
    let keyless = "GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned();
    let with = |key: &str| keyless.replace("\r\n\r\n", &format!("\r\nauthorization: Bearer {key}\r\n\r\n"));
    let told = async |certificate: &str, request: &str| {
        let mut stream = shake(&bare, &known_client(&authority, &scratch, certificate)).await.expect("is let in");
        stream.write_all(request.as_bytes()).await.expect("is taken");
        read_answer(&mut stream).await.expect("is answered")
    };
    let is = |answer: String, tenant: &str, via: &str| {
        let right = [format!("\"tenant\":\"{tenant}\""), format!("\"via\":\"{via}\"")];
        assert!(answer.starts_with("HTTP/1.1 200") && right.iter().all(|part| answer.contains(part)), "{answer}");
    };
    is(told("orders", &keyless).await, "acme", "certificate");
    is(told("stock", &keyless).await, "stock", "certificate");
    is(told("orders", &with(&bare.key)).await, "acme", "key");
    is(told("nobody", &with(&stock.token)).await, "stock", "key");
    // The certificate of one with the key of another, both ways; of nobody; of two.
    for (certificate, request) in [
        ("orders", with(&stock.token)),
        ("stock", with(&bare.key)),
        ("orders", with("hk_none.guess")),
        ("nobody", keyless.clone()),
        ("both", keyless.clone()),
    ] {
        let answer = told(certificate, &request).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{certificate}: {answer}");
    }
    assert!(!serves(&bare, &known_client(&authority, &scratch, "forgery")).await, "the right name by another hand");

    // All that a good client has sent, again: it was for another connection.
    let (on_the_way, sent) = recorder(&bare).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let good = TlsConnector::from(known_client(&authority, &scratch, "orders"));
    let mut stream =
        good.connect(name, TcpStream::connect(on_the_way).await.expect("connects")).await.expect("is let in");
    stream.write_all(keyless.as_bytes()).await.expect("is taken");
    is(read_answer(&mut stream).await.expect("is answered"), "acme", "certificate");
    drop(stream);
    let sent = sent.await.expect("has ended");
    assert!(sent.len() > 1_000, "{} bytes are no handshake with a certificate", sent.len());
    let failed = async || bare.metric("hearth_tls_handshakes_total", &["result=\"failed\""]).await;
    let before = failed().await;
    let answered = bare.raw(&sent).await;
    eventually("the handshake has failed", async || failed().await > before).await;
    assert!(!answered.contains("acme") && !answered.contains("HTTP/1.1"), "{answered}");
}

/// Lets one connection through to the broker: where, and at its end all that the client has sent.
async fn recorder(bare: &Bare) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (address, broker) = (listener.local_addr().expect("is bound"), bare.address);
    let record = async move {
        let (client, _) = listener.accept().await.expect("connects");
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_broker, mut to_broker) =
            TcpStream::connect(broker).await.expect("the broker listens").into_split();
        let (mut all, mut some) = (Vec::new(), vec![0; 16 * 1024]);
        let back = tokio::spawn(async move { tokio::io::copy(&mut from_broker, &mut to_client).await });
        while let Ok(count @ 1..) = from_client.read(&mut some).await {
            all.extend_from_slice(&some[..count]);
            to_broker.write_all(&some[..count]).await.expect("is taken");
        }
        back.abort();
        all
    };
    (address, tokio::spawn(record))
}
