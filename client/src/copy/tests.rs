use std::error::Error as _;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::canned::{self, Server, Step, ok, problem, streamed};
use crate::error::Effect;
use crate::wire::{Outcome, ProblemCode};
use crate::{Client, ClientBuilder};

const IN: &str = "COPY t FROM STDIN (FORMAT csv)";
const OUT: &str = "COPY t TO STDOUT";

fn loaded() -> Step {
    ok(&json!({"command": "COPY", "rows": 2, "bytes": 8}).to_string())
}

fn chunks(texts: &'static [&'static str]) -> impl futures_core::Stream<Item = Result<&'static str, std::io::Error>> {
    stream::iter(texts.iter().map(|text| Ok(*text)))
}

#[tokio::test]
async fn bytes_travel_raw_and_the_statement_in_the_address() {
    let server = Server::start(vec![loaded()]).await;
    let client = server.client().build().unwrap();
    let response = client.db("app").copy_in(IN).send("1,a\n2,b\n").await.unwrap();
    assert_eq!((response.rows, response.bytes, response.notices.len()), (2, 8, 0));
    let request = server.requests().await.remove(0);
    let target = "POST /v1/db/app/copy?sql=COPY%20t%20FROM%20STDIN%20%28FORMAT%20csv%29 HTTP/1.1\r\n";
    assert!(request.starts_with(target), "{request}");
    assert!(request.contains("content-type: application/octet-stream\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n1,a\n2,b\n"), "{request}");
}

#[tokio::test]
async fn bytes_are_sent_again_only_where_the_broker_allows_it() {
    let server = Server::start(vec![problem(503, "draining", true), loaded()]).await;
    let client = server.client().build().unwrap();
    assert_eq!(client.db("app").copy_in(IN).send("1,a\n2,b\n").await.unwrap().rows, 2);
    assert!(server.requests().await.iter().all(|request| request.ends_with("2,b\n")));

    let server = Server::start(vec![Step::Reset]).await;
    let error = server.client().build().unwrap().db("app").copy_in(IN).send("1,a\n").await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, false));
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn chunks_arrive_in_order_with_identity_and_deadline() {
    let server = Server::start(vec![loaded()]).await;
    let client = server.client().build().unwrap();
    let response = client.db("app").copy_in(IN).send_stream(chunks(&["1,a\n", "2,", "b\n"])).await.unwrap();
    assert_eq!(response.rows, 2);
    let request = server.requests().await.remove(0);
    assert!(request.contains("transfer-encoding: chunked\r\n"), "{request}");
    assert!(request.contains("content-type: application/octet-stream\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer secret-key\r\n"), "{request}");
    assert!(request.contains("hearth-timeout-ms: "), "{request}");
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let data: String = body.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(data, "1,a\n2,b\n");
}

#[tokio::test]
async fn stream_is_never_sent_again_but_the_caller_may() {
    let server = Server::start(vec![problem(503, "draining", true)]).await;
    let client = server.client().build().unwrap();
    let error = client.db("app").copy_in(IN).send_stream(chunks(&["1,a\n"])).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Some(ProblemCode::Draining), true));
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn stream_that_fails_leaves_the_upload_without_its_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ClientBuilder::new(&format!("http://{}", listener.local_addr().unwrap()), "k").build().unwrap();
    let seen = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        // A reset is a cut, too.
        let _ = connection.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).unwrap()
    });
    let items = [Ok("1,a\n"), Err(std::io::Error::other("disk on fire"))];
    let error = client.db("app").copy_in(IN).send_stream(stream::iter(items)).await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false), "{error:?}");
    assert_eq!(error.source().unwrap().to_string(), "disk on fire");
    let request = seen.await.unwrap();
    assert!(!request.ends_with("0\r\n\r\n"), "{request}");
}

#[tokio::test]
async fn refusal_is_heard_while_the_upload_goes_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ClientBuilder::new(&format!("http://{}", listener.local_addr().unwrap()), "k").build().unwrap();
    let broker = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.read_u8().await.unwrap();
        let Step::Answer(refusal) = problem(422, "statement_failed", false) else { unreachable!() };
        connection.write_all(refusal.as_bytes()).await.unwrap();
        // What is on its way is read, as a broker does that wants its answer to arrive.
        let _ = tokio::io::copy(&mut connection, &mut tokio::io::sink()).await;
    });
    // Were it read on after the answer, this test would not end.
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 10_000]));
    let error = client.db("app").copy_in(IN).send_stream(endless).await.unwrap_err();
    assert_eq!(error.code(), Some(ProblemCode::StatementFailed), "{error:?}");
    broker.await.unwrap();
}

#[tokio::test]
async fn dropped_upload_has_no_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ClientBuilder::new(&format!("http://{}", listener.local_addr().unwrap()), "k").build().unwrap();
    let source = stream::iter([Ok::<_, std::io::Error>("1,a\n")]).chain(stream::once(async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok("2,b\n")
    }));
    let upload = tokio::spawn(client.db("app").copy_in(IN).send_stream(source));
    let (mut connection, _) = listener.accept().await.unwrap();
    connection.read_u8().await.unwrap();
    upload.abort();
    let mut bytes = Vec::new();
    let _ = connection.read_to_end(&mut bytes).await;
    let request = String::from_utf8(bytes).unwrap();
    assert!(!request.contains("2,b") && !request.ends_with("0\r\n\r\n"), "{request}");
}

#[tokio::test]
async fn upload_ends_at_the_timeout() {
    let server = Server::start(vec![Step::Stall]).await;
    let client = server.client().build().unwrap().with_timeout(Duration::from_millis(100));
    let error = client.db("app").copy_in(IN).send("1,a\n").await.unwrap_err();
    assert_eq!((error.is_timeout(), error.outcome()), (true, Outcome::Unknown), "{error:?}");
}

async fn drain(copy: &mut CopyOut) -> (Vec<u8>, Option<Error>) {
    let mut data = Vec::new();
    while let Some(chunk) = copy.next().await {
        match chunk {
            Ok(chunk) => data.extend_from_slice(&chunk),
            Err(error) => {
                assert!(copy.next().await.is_none(), "nothing follows an error");
                return (data, Some(error));
            }
        }
    }
    (data, None)
}

async fn download(step: Step) -> (Vec<u8>, Option<Error>, String) {
    let server = Server::start(vec![step]).await;
    let client = server.client().build().unwrap();
    let (data, error) = match client.db("app").copy_out(OUT).await {
        Ok(mut copy) => drain(&mut copy).await,
        Err(error) => (Vec::new(), Some(error)),
    };
    (data, error, server.requests().await.remove(0))
}

#[tokio::test]
async fn download_gives_every_byte() {
    let (data, error, request) = download(streamed("text/csv", "1,a\n2,b\n", 0)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(data, b"1,a\n2,b\n");
    assert!(request.starts_with("GET /v1/db/app/copy?sql=COPY%20t%20TO%20STDOUT HTTP/1.1\r\n"), "{request}");
    assert!(!request.contains("content-length: ") && !request.contains("content-type: "), "{request}");
    let mut copy = CopyOut { chunks: canned::chunks([b"1".as_slice(), b"2"], Effect::None) };
    assert_eq!(copy.next().await.unwrap().unwrap(), "1");
    assert_eq!(copy.next().await.unwrap().unwrap(), "2");
    assert!(copy.next().await.is_none() && copy.next().await.is_none());
}

#[tokio::test]
async fn download_that_breaks_off_is_an_error() {
    let (data, error, _) = download(streamed("text/csv", "1,a\n", 1)).await;
    assert_eq!(data, b"1,a\n");
    assert_eq!(error.unwrap().to_string(), "connection broke before the answer was complete");
}

#[tokio::test]
async fn download_whose_end_cannot_be_told_from_a_cut_is_an_error() {
    let body = "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\n\r\n1,a\n";
    let (data, error, _) = download(Step::Answer(body.to_owned())).await;
    assert_eq!(data, b"1,a\n");
    assert_eq!(error.unwrap().to_string(), "answer ended before it was complete; what came of it is a part");
}

#[tokio::test]
async fn page_in_place_of_a_download_is_no_data() {
    let (data, error, _) = download(streamed("text/html", "<h1>Log in</h1>", 0)).await;
    assert_eq!((data.len(), error.unwrap().status()), (0, Some(200)));
    let (_, error, _) = download(problem(422, "statement_failed", false)).await;
    assert_eq!(error.unwrap().code(), Some(ProblemCode::StatementFailed));
}

#[test]
fn futures_are_send() {
    fn assert_send(_: &impl Send) {}
    let db = Client::new("http://127.0.0.1:1", "key").unwrap().db("app");
    assert_send(&db.copy_in(IN).send("x"));
    assert_send(&db.copy_in(IN).send_stream(chunks(&["x"])));
    assert_send(&async { db.copy_out(OUT).await.unwrap().next().await });
}
