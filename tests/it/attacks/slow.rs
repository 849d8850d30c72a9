//! Those that take their time.

use std::time::Duration;

use hearth_broker::cli::files::raise_limit;
use hearth_tests::bare::{read_answer, until_silent};
use hearth_tests::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{beside, broker, dial_from};

const CLOSED: &str = "hearth_client_connections_closed_total";

/// True once the other end has closed the connection.
async fn is_closed(socket: &mut TcpStream) -> bool {
    matches!(timeout(Duration::from_millis(1), socket.read(&mut [0; 1024])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_trickle_end_with_the_header_timeout() {
    let (_scratch, bare) = broker("header_timeout = \"1s\"").await;
    beside(&bare, "slowloris, 300 connections", async {
        let mut sockets = Vec::new();
        for _ in 0..300 {
            let mut socket = bare.dial().await;
            socket.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\n").await.expect("is taken");
            sockets.push(socket);
        }
        let mut keep = bare.dial().await;
        keep.write_all(bare.get("/healthz").as_bytes()).await.expect("is taken");
        assert!(read_answer(&mut keep).await.is_some(), "a later head is held to it too");
        keep.write_all(b"GET / HTTP/1.1\r\n").await.expect("is taken");
        sockets.push(keep);
        let start = Instant::now();
        while !sockets.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(20), "{} are still open", sockets.len());
            let mut open = Vec::new();
            for mut socket in sockets {
                if socket.write_all(b"x-a: b\r\n").await.is_ok() && !is_closed(&mut socket).await {
                    open.push(socket);
                }
            }
            sockets = open;
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    eventually("they are counted", async || bare.metric(CLOSED, &["header_timeout"]).await >= 301.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_gets_408() {
    let (_scratch, bare) = broker("body_timeout = \"1s\"").await;
    let head = format!(
        "POST /v1/db/app/query HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: 100000\r\n",
        bare.key
    );
    let answers = beside(&bare, "slow bodies", async {
        // One sends nothing at all, one a byte at a time, one compressed bytes.
        let attack = async |more: &'static str, first: &'static [u8], trickles: bool| {
            let (mut read, mut write) = bare.dial().await.into_split();
            write.write_all(&[format!("{head}{more}\r\n").as_bytes(), first].concat()).await.expect("is taken");
            let trickle = async move {
                while trickles && write.write_all(b" ").await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = trickle => String::new(),
                answer = read_answer(&mut read) => answer.unwrap_or_default(),
            }
        };
        let gzip = "content-encoding: gzip\r\n";
        tokio::join!(attack("", b"{", false), attack("", b"{", true), attack(gzip, b"\x1f\x8b", false))
    })
    .await;
    for answer in [answers.0, answers.1, answers.2] {
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"request_timeout\""), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_cut_and_one_that_takes_a_little_is_not() {
    let (_scratch, bare) = broker("reader_timeout = \"1s\"").await;
    // More answers than all buffers of the way hold.
    let requests = bare.get("/openapi.json").repeat(20_000);
    beside(&bare, "slow readers", async {
        let (mut read, mut write) = bare.dial().await.into_split();
        let sent = tokio::spawn({
            let requests = requests.clone();
            async move { write.write_all(requests.as_bytes()).await }
        });
        eventually("it is cut", async || bare.metric(CLOSED, &["reader_timeout"]).await >= 1.0).await;
        // Small requests may all be taken before the first answer is held back; answers are not.
        let _ = sent.await.expect("ends");
        let told = until_silent(&mut read).await;
        assert!(told.matches("HTTP/1.1 200").count() < 20_000, "the rest was not kept for it");

        let (mut read, mut write) = bare.dial().await.into_split();
        let sent = tokio::spawn(async move { write.write_all(requests.as_bytes()).await });
        let start = Instant::now();
        let mut some = vec![0; 256 * 1024];
        while start.elapsed() < Duration::from_secs(4) {
            assert!(read.read(&mut some).await.expect("it goes on") > 0);
            sleep(Duration::from_millis(50)).await;
        }
        sent.abort();
    })
    .await;
}

/// What a test may take at once is the machine's business: half of the files it may have open at the most.
fn many() -> usize {
    let files = raise_limit().map_or(10_000, |files| usize::try_from(files).unwrap_or(usize::MAX));
    files.saturating_sub(500).min(10_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_fit_into_150_mib() {
    let many = many();
    let (_scratch, bare) =
        broker("max_connections = 12000\nmax_connections_per_address = 600\nidle_timeout = \"5m\"").await;
    let held = beside(&bare, &format!("{many} idle connections"), async {
        let mut held = Vec::new();
        for n in 0..many {
            let source = u16::try_from(n % 20).expect("is small") + 10;
            let mut socket = dial_from(&bare, source).await.expect("connects");
            socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("is taken");
            assert!(read_answer(&mut socket).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
            held.push(socket);
        }
        eventually("all are open", async || {
            let open = bare.metric("hearth_client_connections", &["listener=\"data\""]).await;
            open >= f64::from(u32::try_from(many).expect("is small"))
        })
        .await;
        held
    })
    .await;
    // What they spoke with is let go of when they are quiet.
    eventually("they are parked", async || bare.resident() < 150.0).await;
    let resident = bare.resident();
    println!("{} idle connections, each after one request: {resident:.0} MiB", held.len());
    for mut socket in held.into_iter().step_by(500) {
        socket.write_all(bare.get("/v1/whoami").as_bytes()).await.expect("is taken");
        let answer = read_answer(&mut socket).await.expect("it is served as before");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
