//! Answers compressed as the caller asks, and requests as the caller sends them.

use std::time::Duration;

use async_compression::tokio::bufread::{
    BrotliDecoder, BrotliEncoder, GzipDecoder, GzipEncoder, ZstdDecoder, ZstdEncoder,
};
use hearth_tests::{Answer, Stack};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

const ALL: [&str; 3] = ["gzip", "br", "zstd"];
const QUERY: &str = "/v1/db/app/query";

async fn compressed(encoding: &str, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let done = match encoding {
        "gzip" => GzipEncoder::new(plain).read_to_end(&mut out).await,
        "br" => BrotliEncoder::new(plain).read_to_end(&mut out).await,
        _ => ZstdEncoder::new(plain).read_to_end(&mut out).await,
    };
    done.expect("compresses");
    out
}

async fn plain(encoding: &str, small: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let done = match encoding {
        "gzip" => GzipDecoder::new(small).read_to_end(&mut out).await,
        "br" => BrotliDecoder::new(small).read_to_end(&mut out).await,
        _ => ZstdDecoder::new(small).read_to_end(&mut out).await,
    };
    done.expect("decodes");
    out
}

/// A request in an encoding.
async fn encoded(stack: &Stack, path: &str, encoding: &str, body: &Value) -> Answer {
    let small = compressed(encoding, body.to_string().as_bytes()).await;
    stack.send(stack.request(path, &stack.key).header("content-encoding", encoding).body(small)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_encoding_that_is_asked_for() {
    let stack = Stack::start().await;
    let rows = json!({"sql": "SELECT n, md5(n::text) AS m FROM generate_series(1, 2000) n"});
    let problem = json!({"sql": "SELECT repeat('x', 2000)::int4"});
    for (body, status) in [(&rows, 200), (&problem, 422)] {
        let request = || stack.request(QUERY, &stack.key).header("x-request-id", "one").body(body.to_string());
        let whole = stack.send(request()).await;
        assert_eq!((whole.status, whole.header("content-encoding"), whole.header("vary")), (status, "", ""));
        for encoding in ALL {
            let answer = request().header("accept-encoding", encoding).send().await.expect("is answered");
            assert_eq!(answer.status(), status);
            let headers = answer.headers().clone();
            for (name, value) in [
                ("content-encoding", encoding),
                ("vary", "accept-encoding"),
                ("x-request-id", "one"),
                ("content-type", whole.header("content-type")),
            ] {
                assert_eq!(headers[name], value, "{name}");
            }
            assert!(!headers.contains_key("content-length") && headers.contains_key("server-timing"));
            let small = answer.bytes().await.expect("arrives");
            assert!(small.len() < whole.text.len(), "{encoding}: {} of {}", small.len(), whole.text.len());
            assert_eq!(String::from_utf8(plain(encoding, &small).await).expect("is text"), whole.text);
        }
    }
    let small = stack.request(QUERY, &stack.key).header("accept-encoding", "gzip, br, zstd");
    let small = stack.send(small.body(json!({"sql": "SELECT 1 AS n"}).to_string())).await;
    assert_eq!((small.header("content-encoding"), small.first()), ("", &json!(1)), "too small to gain");
    let page = stack.get("/openapi.json").header("accept-encoding", "gzip, deflate, br, zstd");
    assert_eq!(page.send().await.expect("is answered").headers()["content-encoding"], "zstd");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_come_compressed() {
    let stack = Stack::start().await;
    let long = "x".repeat(100_000);
    for encoding in ALL {
        let body = json!({"sql": "SELECT length($1) AS n", "params": [long]});
        let answer = encoded(&stack, QUERY, encoding, &body).await;
        assert_eq!(answer.first(), 100_000, "{encoding}: {}", answer.text);
        let set = encoded(&stack, "/v1/redis/main", encoding, &json!(["SET", encoding, long])).await;
        assert_eq!(set.body["result"], "OK", "{encoding}: {}", set.text);
        let many = encoded(&stack, "/v1/redis/main/pipeline", encoding, &json!([["STRLEN", encoding]])).await;
        assert_eq!(many.body, json!([{"result": 100_000}]), "{encoding}: {}", many.text);
    }
    let identity = stack.request(QUERY, &stack.key).header("content-encoding", "identity");
    assert_eq!(stack.send(identity.body(json!({"sql": "SELECT 1 AS n"}).to_string())).await.first(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_request_may_come_in_chunks() {
    let stack = Stack::start().await;
    let small = compressed("gzip", json!({"sql": "SELECT 'in chunks' AS s"}).to_string().as_bytes()).await;
    let mut socket = tokio::net::TcpStream::connect(stack.url.trim_start_matches("http://")).await.expect("connects");
    let head = format!(
        "POST {QUERY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        stack.key
    );
    socket.write_all(head.as_bytes()).await.expect("sends");
    for chunk in small.chunks(7) {
        socket.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.expect("sends");
        socket.write_all(&[chunk, b"\r\n"].concat()).await.expect("sends");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    socket.write_all(b"0\r\n\r\n").await.expect("sends");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("is answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("in chunks"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decoded_is_the_caller_s_fault() {
    let stack = Stack::start().await;
    let body = json!({"sql": "SELECT 1"}).to_string();
    let unknown = stack.request(QUERY, &stack.key).header("content-encoding", "deflate").body(body.clone());
    let unknown = stack.send(unknown).await;
    unknown.assert_problem(400, "invalid_request", "not_applied");
    assert!(unknown.text.contains("gzip, br and zstd"), "{}", unknown.text);
    for encoding in ALL {
        let mut cut = compressed(encoding, body.as_bytes()).await;
        cut.truncate(cut.len() - 3);
        for wrong in [body.clone().into_bytes(), cut, Vec::new()] {
            let request = stack.request(QUERY, &stack.key).header("content-encoding", encoding).body(wrong.clone());
            let answer = stack.send(request).await;
            answer.assert_problem(400, "invalid_request", "not_applied");
            assert!(answer.text.contains(&format!("not {encoding}")), "{}", answer.text);
            let redis = stack.request("/v1/redis/main", &stack.key).header("content-encoding", encoding).body(wrong);
            assert_eq!(stack.send(redis).await.status, 400);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_costs_no_more_than_the_limit_allows() {
    const MIB: usize = 1 << 20;
    let stack = Stack::start().await;
    stack.ok("SELECT 1").await;
    let zeros = vec![0; MIB];
    let mut brotli = Vec::new();
    let many = BufReader::new(tokio::io::repeat(0).take(64 << 20));
    BrotliEncoder::new(many).read_to_end(&mut brotli).await.expect("compresses");
    // A thousand members of a mebibyte each; brotli, which knows no members, in one piece.
    let bombs = [
        ("gzip", compressed("gzip", &zeros).await.repeat(1024)),
        ("zstd", compressed("zstd", &zeros).await.repeat(1024)),
        ("br", brotli),
    ];
    for (encoding, bomb) in bombs {
        // From here on the peak is what this bomb makes of it. Source: proc(5), `clear_refs`.
        std::fs::write("/proc/self/clear_refs", "5").expect("Linux forgets the peak");
        let before = peak_bytes();
        let start = Instant::now();
        let (length, request) = (bomb.len(), stack.request(QUERY, &stack.key).header("content-encoding", encoding));
        let answer = stack.send(request.body(bomb)).await;
        answer.assert_problem(413, "request_too_large", "not_applied");
        let (grown, took) = (peak_bytes() - before, start.elapsed());
        eprintln!("{encoding}: {length} bytes, {took:?}, {} kB more at the peak", grown / 1024);
        assert!(grown < 32 * MIB, "{encoding}: {grown} bytes more at the peak, for a limit of 4 MiB");
        assert!(took < Duration::from_secs(2), "{encoding}: {took:?}");
    }
    assert_eq!(stack.ok("SELECT 2 AS n").await.first(), 2);
}

/// The most memory this process, broker included, has had.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("has a peak");
    let kilobytes: usize = line.split_whitespace().nth(1).expect("has a number").parse().expect("is a number");
    kilobytes * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_data_may_come_compressed_and_a_cut_loads_nothing() {
    let stack = Stack::start().await;
    stack.ok("CREATE TABLE t (id int4)").await;
    let lines: Vec<String> = (0..50_000).map(|n| format!("{n}\n")).collect();
    let data = lines.concat();
    for encoding in ["gzip", "br", "zstd"] {
        let small = compressed(encoding, data.as_bytes()).await;
        let load = async |body: Vec<u8>| {
            let request = stack.request(&stack.copy_path("COPY t FROM STDIN"), &stack.key);
            stack.send(request.header("content-encoding", encoding).body(body)).await
        };
        let whole = load(small.clone()).await;
        assert_eq!((&whole.body["rows"], &whole.body["bytes"]), (&json!(50_000), &json!(data.len())), "{}", whole.text);
        stack.ok("TRUNCATE t").await;
        load(small[..small.len() / 2].to_vec()).await.assert_problem(400, "invalid_request", "not_applied");
        load(data.clone().into_bytes()).await.assert_problem(400, "invalid_request", "not_applied");
        assert_eq!(stack.count("SELECT count(*) FROM t").await, 0, "{encoding}");
    }
    let request = stack.request(&stack.copy_path("COPY t FROM STDIN"), &stack.key).header("content-encoding", "lzma");
    stack.send(request.body("1\n")).await.assert_problem(400, "invalid_request", "not_applied");
    for encoding in ["gzip", "br", "zstd"] {
        let rows = stack.request("/v1/db/app/query", &stack.key).header("accept-encoding", encoding);
        let rows = rows.header("accept", "text/csv").body(r#"{"sql": "SELECT generate_series(1, 50000) AS n"}"#);
        let rows = rows.send().await.expect("begins");
        assert_eq!(rows.headers()["content-encoding"], encoding);
        let text = plain(encoding, &rows.bytes().await.expect("reads to its end")).await;
        assert!(text.starts_with(b"n\n1\n2\n") && text.ends_with(b"\n50000\n"), "{encoding}");
    }
}
