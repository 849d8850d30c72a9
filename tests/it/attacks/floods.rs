//! Those that come too often.

use std::time::Duration;

use hearth_tests::bare::{read_answer, until_silent};
use hearth_tests::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{beside, broker, dial_from};

const REFUSED: &str = "hearth_client_connections_refused_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_address_is_that_addresss_trouble_alone() {
    let (_scratch, bare) =
        broker("max_connections = 200\nmax_connections_per_address = 50\nconnections_per_second = 100").await;
    beside(&bare, "2,000 connections from one address", async {
        let mut kept = Vec::new();
        for _ in 0..2_000 {
            // Some are refused by the kernel's queue, which is as good.
            if let Ok(socket) = dial_from(&bare, 9).await {
                kept.push(socket);
            }
        }
        eventually("it is refused", async || {
            bare.metric(REFUSED, &["reason=\"connections_per_second\""]).await > 100.0
        })
        .await;
        let mut let_in = 0;
        for socket in &mut kept {
            let asked = socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            let_in += usize::from(asked.is_ok() && read_answer(socket).await.is_some());
        }
        assert!((1..=50).contains(&let_in), "{let_in} were let in");
        let mut other = dial_from(&bare, 8).await.expect("connects");
        other.write_all(bare.get("/healthz").as_bytes()).await.expect("is taken");
        assert!(read_answer(&mut other).await.is_some(), "another address is let in");
    })
    .await;
    assert!(bare.metric(REFUSED, &["reason=\"max_connections_per_address\""]).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_than_configured_are_open_whoever_asks() {
    let (_scratch, bare) = broker("max_connections = 30\nmax_connections_per_address = 10").await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (mut held, mut refused) = (Vec::new(), 0);
    for source in 10..60 {
        let mut socket = dial_from(&bare, source).await.expect("connects");
        let asked = socket.write_all(ask).await;
        if asked.is_ok() && read_answer(&mut socket).await.is_some() { held.push(socket) } else { refused += 1 }
    }
    assert_eq!((held.len(), refused), (30, 20));
    drop(held.pop());
    eventually("there is room again", async || {
        let mut socket = dial_from(&bare, 100).await.expect("connects");
        socket.write_all(ask).await.is_ok() && read_answer(&mut socket).await.is_some()
    })
    .await;
    // A limit that a reload changes holds for whoever comes next.
    bare.edit("max_connections = 30", "max_connections = 60");
    assert_eq!(bare.reload().await.status, 200);
    for source in 110..130 {
        let mut socket = dial_from(&bare, source).await.expect("connects");
        socket.write_all(ask).await.expect("is taken");
        assert!(read_answer(&mut socket).await.is_some());
        held.push(socket);
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS of `GET /`, which end the request.
fn headers(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, &[&[0x82, 0x86, 0x84, 0x41, 9][..], b"localhost"].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_reset_as_soon_as_they_are_sent_end_the_connection() {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let (_scratch, bare) = broker("").await;
    let ended = beside(&bare, "rapid reset", async {
        let mut ended = 0;
        for _ in 0..20 {
            let (mut read, mut write) = bare.dial().await.into_split();
            let flood: Vec<u8> =
                (0..5_000_u32).flat_map(|n| [headers(2 * n + 1), frame(3, 0, 2 * n + 1, &CANCEL)].concat()).collect();
            let send = async {
                let _ = write.write_all(&[PREFACE, &flood].concat()).await;
                std::future::pending::<()>().await;
            };
            // GOAWAY with ENHANCE_YOUR_CALM, or a connection that is cut with it on the way.
            let mut all = Vec::new();
            let end = timeout(Duration::from_secs(10), async {
                tokio::select! {
                    () = send => {}
                    _ = read.read_to_end(&mut all) => {}
                }
            });
            ended += usize::from(end.await.is_ok());
        }
        ended
    })
    .await;
    assert_eq!(ended, 20, "every one is cut");
    assert!(bare.raw(bare.get("/v1/whoami").as_bytes()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_end_are_no_request() {
    let (_scratch, bare) = broker("header_timeout = \"2s\"").await;
    let attacks: [(&str, Vec<u8>); 4] = [
        ("continuations", {
            let part = [&[0x40, 1, b'a', 0x7f, 0x81, 0x0f][..], &[b'v'; 2000]].concat();
            let more: Vec<u8> = (0..2000).flat_map(|_| frame(9, 0, 1, &part)).collect();
            [frame(1, 0, 1, &part), more].concat()
        }),
        ("settings", (0..20_000).flat_map(|_| frame(4, 0, 0, &[])).collect()),
        ("pings", (0..20_000).flat_map(|_| frame(6, 0, 0, &[7; 8])).collect()),
        ("empty data", {
            let open = frame(1, 4, 1, &[&[0x83, 0x86, 0x84, 0x41, 9][..], b"localhost"].concat());
            let more: Vec<u8> = (0..20_000).flat_map(|_| frame(0, 0, 1, &[])).collect();
            [open, more].concat()
        }),
    ];
    for (name, bytes) in attacks {
        beside(&bare, name, async {
            let (mut read, mut write) = bare.dial().await.into_split();
            let send = async {
                let _ = write.write_all(&[PREFACE, &bytes].concat()).await;
            };
            let ((), told) = tokio::join!(send, until_silent(&mut read));
            assert!(!told.contains("200 OK"));
        })
        .await;
    }
    assert!(bare.resident() < 150.0, "{}", bare.resident());
}
