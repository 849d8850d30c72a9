//! A listener for unit tests that reads requests and answers bytes it was given. What a broker does is the integration
//! tests' part; this shows what the client makes of an answer, or of none.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::chunks::Chunks;
use crate::client::{Begun, ClientBuilder, Origin};
use crate::error::Effect;
use crate::retry::Instant;

/// What happens once a request has been read.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// These bytes, then the end of the connection.
    Answer(String),
    /// Each of these bytes after a pause, then the end of the connection.
    Trickle(Vec<String>, Duration),
    /// A reset.
    Reset,
    /// Nothing, for as long as the client waits.
    Stall,
}

pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Step {
    let length = body.len();
    Step::Answer(format!(
        "HTTP/1.1 {status} Canned\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         x-request-id: req-1\r\nconnection: close\r\n{headers}\r\n{body}"
    ))
}

pub(crate) fn ok(body: &str) -> Step {
    answer(200, "", body)
}

/// A problem as the broker would tell it.
pub(crate) fn problem_body(status: u16, code: &str, retryable: bool) -> serde_json::Value {
    serde_json::json!({
        "type": format!("/problems/{code}"), "title": "t", "status": status, "code": code, "detail": "what happened",
        "request_id": "req-2", "outcome": "not_applied", "retryable": retryable, "retry_after_ms": null,
    })
}

pub(crate) fn problem(status: u16, code: &str, retryable: bool) -> Step {
    answer(status, "", &problem_body(status, code, retryable).to_string())
}

/// The beginning of a streamed answer, of which `missing` bytes never come.
pub(crate) fn streamed(media_type: &str, body: &str, missing: usize) -> Step {
    let length = body.len() + missing;
    Step::Answer(format!(
        "HTTP/1.1 200 Canned\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\nx-request-id: req-1\r\n\
         connection: close\r\n\r\n{body}"
    ))
}

/// A body in exactly these chunks, without a network.
pub(crate) fn chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, effect: Effect) -> Chunks {
    let pieces: Vec<_> =
        pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let response = http::Response::builder().header("transfer-encoding", "chunked").body(body).unwrap();
    let origin = Origin { request_id: None, effect };
    Chunks::new(Begun { response: response.into(), origin, until: Instant::now() + Duration::from_mins(1) })
}

/// One connection a step, in order.
pub(crate) struct Server {
    url: String,
    seen: JoinHandle<Vec<String>>,
}

impl Server {
    pub(crate) async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = tokio::spawn(async move {
            let mut requests = Vec::new();
            for step in steps {
                let (mut stream, _) = listener.accept().await.unwrap();
                requests.push(read_request(&mut stream).await);
                match step {
                    Step::Answer(bytes) => stream.write_all(bytes.as_bytes()).await.unwrap(),
                    Step::Trickle(pieces, pause) => {
                        for piece in pieces {
                            tokio::time::sleep(pause).await;
                            stream.write_all(piece.as_bytes()).await.unwrap();
                        }
                    }
                    Step::Reset => stream.set_zero_linger().unwrap(),
                    // The client's end of the connection ends the wait.
                    Step::Stall => drop(stream.read_u8().await),
                }
            }
            requests
        });
        Self { url, seen }
    }

    pub(crate) fn client(&self) -> ClientBuilder {
        ClientBuilder::new(&self.url, "secret-key")
    }

    /// Every request, head and body, once all steps have happened.
    pub(crate) async fn requests(self) -> Vec<String> {
        self.seen.await.unwrap()
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let is_whole = match length {
                Some(length) => body.len() >= length.parse().unwrap(),
                None => !head.contains("transfer-encoding: chunked") || body.ends_with("0\r\n\r\n"),
            };
            if is_whole {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the client left in the middle of {text:?}");
    }
}
