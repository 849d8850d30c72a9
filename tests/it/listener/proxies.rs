//! Proxies that tell whom a connection is from.

use hearth_broker::cli::dev::scratch::Scratch;
use hearth_tests::bare::read_answer;
use hearth_tests::{Bare, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::{client, ground, tls};

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n").into_bytes()
}

fn v2(client: [u8; 4]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &client, &[10, 0, 0, 1, 0, 1, 0, 2]].concat()
}

async fn from(bare: &Bare, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{address}:0").parse().expect("an address")).expect("is loopback");
    socket.connect(bare.address).await.expect("connects")
}

/// Sends a header and a request: whether it is answered, and the connection.
async fn asked(bare: &Bare, mut socket: TcpStream, header: &[u8]) -> (bool, TcpStream) {
    // One byte after the other would do as well; this is what proxies do.
    let _ = socket.write_all(&[header, bare.get("/v1/whoami").as_bytes()].concat()).await;
    let answer = read_answer(&mut socket).await;
    (answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_tells_whose_connection_it_is_and_nobody_else_may() {
    let scratch = Scratch::new("hearth-listener").expect("a scratch folder");
    let server = "proxies_tell = \"proxy_protocol\"\ntrusted_proxies = [\"127.0.0.1\"]\nmax_connections_per_address = 2\nheader_timeout = \"500ms\"";
    let bare = Bare::start(&scratch, "broker", server).await;
    let mut open = Vec::new();
    for header in [v1("203.0.113.7"), v2([203, 0, 113, 7])] {
        let (answered, socket) = asked(&bare, bare.dial().await, &header).await;
        assert!(answered);
        open.push(socket);
    }
    assert!(!asked(&bare, bare.dial().await, &v1("203.0.113.7")).await.0, "has two already");
    assert!(asked(&bare, bare.dial().await, &v1("203.0.113.8")).await.0, "another client of the same proxy");
    assert!(asked(&bare, bare.dial().await, b"PROXY UNKNOWN\r\n").await.0, "the proxy itself");
    assert!(!asked(&bare, bare.dial().await, b"").await.0, "nothing was told");
    assert!(!asked(&bare, from(&bare, "127.0.0.2").await, &v1("203.0.113.9")).await.0, "no trusted proxy");
    let mut mute = bare.dial().await;
    mute.write_all(b"PROXY TCP4 203.").await.expect("is taken");
    assert_eq!(read_answer(&mut mute).await, None, "it does not come to an end");
    let refused = async |reason: &str| bare.metric("hearth_client_connections_refused_total", &[reason]).await;
    assert!(refused("max_connections_per_address").await >= 1.0);
    assert!(refused("not_a_proxy").await >= 1.0 && refused("proxy_protocol").await >= 2.0);
    drop(open);
    eventually("there is room again", async || asked(&bare, bare.dial().await, &v1("203.0.113.7")).await.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_word_comes_before_tls() {
    let (scratch, authority) = ground();
    let server =
        format!("{}\nproxies_tell = \"proxy_protocol\"\ntrusted_proxies = [\"127.0.0.0/8\"]", tls(&scratch, ""));
    let bare = Bare::start(&scratch, "broker", &server).await;
    let mut socket = bare.dial().await;
    socket.write_all(&v2([203, 0, 113, 7])).await.expect("is taken");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(client(&authority, None)).connect(name, socket).await;
    let mut stream = stream.expect("is let in");
    assert!(super::ask(&bare, &mut stream).await.is_some());
}
