//! A listener for unit tests that reads requests and answers bytes it was given. What a broker does is the integration
//! tests' part; this shows what the client makes of an answer, or of none.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::ClientBuilder;

/// What happens once a request has been read.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// These bytes, then the end of the connection.
    Answer(String),
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
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the client left in the middle of {text:?}");
    }
}
