//! The bad network is as bad as it says: before a server that says everything back.

use std::io::ErrorKind;

use tokio::time::{Instant, timeout};

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(80);

/// The server's sockets come out of the channel once they have ended, with how they ended.
async fn world() -> (Proxy, tokio::sync::mpsc::UnboundedReceiver<Result<(), ErrorKind>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("is bound").port();
    let (ends, ended) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let ends = ends.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                let end = tokio::io::copy(&mut from, &mut to).await;
                let _ = ends.send(end.map(|_| ()).map_err(|error| error.kind()));
            });
        }
    });
    (Proxy::start(port).await, ended)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("the proxy is there")
}

async fn say(socket: &mut TcpStream, text: &str) {
    socket.write_all(text.as_bytes()).await.expect("is taken");
}

/// Connects, and is reset: so soon, it may be, that the connecting itself fails.
async fn refused(proxy: &Proxy) -> ErrorKind {
    let told = async { TcpStream::connect(("127.0.0.1", proxy.port)).await?.read_u8().await };
    timeout(SOON, told).await.expect("is told").expect_err("is reset").kind()
}

async fn hear(socket: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    timeout(SOON, socket.read_exact(&mut bytes)).await.expect("in time").expect("comes");
    String::from_utf8(bytes).expect("text")
}

async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(A_WHILE, socket.read_u8()).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_network_counts_its_round_trips() {
    let (proxy, _) = world().await;
    let mut socket = connect(&proxy).await;
    for turn in 1..=3 {
        say(&mut socket, "hello").await;
        assert_eq!(hear(&mut socket, 5).await, "hello");
        assert_eq!((proxy.turns(), proxy.accepted()), (turn, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_holds_one_way_of_one_connection_or_of_all_and_loses_nothing() {
    let (proxy, _) = world().await;
    let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
    for socket in [&mut one, &mut other] {
        say(socket, "a").await;
        assert_eq!(hear(socket, 1).await, "a");
    }
    for way in [Way::ToServer, Way::ToBroker] {
        proxy.links()[0].set(way, Fault::Stall);
        say(&mut one, "held").await;
        say(&mut other, "free").await;
        assert_eq!(hear(&mut other, 4).await, "free");
        assert!(is_silent(&mut one).await, "{way:?}");
        proxy.links()[0].set(way, Fault::None);
        assert_eq!(hear(&mut one, 4).await, "held", "{way:?}");
        proxy.set(way, Fault::Stall);
        let mut third = connect(&proxy).await;
        for socket in [&mut one, &mut other, &mut third] {
            say(socket, "x").await;
            assert!(is_silent(socket).await, "{way:?}");
        }
        proxy.heal();
        for socket in [&mut one, &mut other, &mut third] {
            assert_eq!(hear(socket, 1).await, "x", "{way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_is_slow_and_whole_and_ends_at_once() {
    let (proxy, _) = world().await;
    let mut socket = connect(&proxy).await;
    proxy.set(Way::ToBroker, Fault::Trickle { bytes: 2, pause: Duration::from_millis(20) });
    let start = Instant::now();
    say(&mut socket, "0123456789").await;
    assert_eq!(hear(&mut socket, 10).await, "0123456789");
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
    proxy.set(Way::ToServer, Fault::Trickle { bytes: 1, pause: Duration::from_hours(1) });
    say(&mut socket, "ab").await;
    assert_eq!(hear(&mut socket, 1).await, "a");
    assert!(is_silent(&mut socket).await);
    proxy.heal();
    assert_eq!(hear(&mut socket, 1).await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_seen_on_the_side_that_they_are_on() {
    let (proxy, mut ended) = world().await;
    for (end, seen) in [(End::Close, Ok(())), (End::Reset, Err(ErrorKind::ConnectionReset))] {
        for side in [Side::Broker, Side::Server, Side::Both] {
            let mut socket = connect(&proxy).await;
            say(&mut socket, "a").await;
            assert_eq!(hear(&mut socket, 1).await, "a");
            assert_eq!(proxy.end(side, end), 1);
            assert_eq!(proxy.end(side, end), 0, "ended already");
            let mut byte = [0];
            if side == Side::Server {
                assert!(is_silent(&mut socket).await, "{end:?}");
            } else {
                let told = timeout(SOON, socket.read(&mut byte)).await.expect("is told");
                assert_eq!(told.map(|_| ()).map_err(|error| error.kind()), seen, "{side:?}");
            }
            if side == Side::Broker {
                assert!(timeout(A_WHILE, ended.recv()).await.is_err(), "{end:?}");
            } else {
                assert_eq!(timeout(SOON, ended.recv()).await.expect("is told"), Some(seen), "{side:?}");
            }
            proxy.forget();
            if side == Side::Broker {
                assert_eq!(timeout(SOON, ended.recv()).await.expect("is told"), Some(Ok(())));
            }
            if side == Side::Server {
                assert_eq!(timeout(SOON, socket.read(&mut byte)).await.expect("is told").expect("well"), 0);
            }
            crate::eventually("it is gone", async || proxy.links().is_empty()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_proxy_resets_new_connections_and_keeps_old_ones() {
    let (proxy, _) = world().await;
    let mut old = connect(&proxy).await;
    say(&mut old, "a").await;
    assert_eq!(hear(&mut old, 1).await, "a");
    proxy.shut(true);
    assert_eq!(refused(&proxy).await, ErrorKind::ConnectionReset);
    say(&mut old, "b").await;
    assert_eq!(hear(&mut old, 1).await, "b");
    proxy.heal();
    let mut new = connect(&proxy).await;
    say(&mut new, "c").await;
    assert_eq!(hear(&mut new, 1).await, "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_resets_and_a_dropped_proxy_ends_all() {
    let (proxy, mut ended) = world().await;
    let mut socket = connect(&proxy).await;
    say(&mut socket, "a").await;
    assert_eq!(hear(&mut socket, 1).await, "a");
    drop(proxy);
    assert!(timeout(SOON, ended.recv()).await.expect("is told").is_some());
    let nobody = Proxy::start(1).await;
    assert_eq!(refused(&nobody).await, ErrorKind::ConnectionReset);
}
