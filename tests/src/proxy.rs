//! A TCP proxy before a server: counts round trips.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy on a loopback port, gone when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Its port.
    pub port: u16,
    turns: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy before the server on loopback port `target`.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("is bound").port();
        let turns = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&turns);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", target)).await.expect("the server is there");
                near.set_nodelay(true).expect("a TCP socket");
                far.set_nodelay(true).expect("a TCP socket");
                let ((from, back), (answers, to)) = (near.into_split(), far.into_split());
                let asking = Arc::new(AtomicBool::new(false));
                tokio::spawn(pass(from, to, Arc::clone(&asking), Some(Arc::clone(&counted))));
                tokio::spawn(pass(answers, back, asking, None));
            }
        });
        Self { port, turns, task }
    }

    /// Round trips so far: how often the server was asked something after it had answered.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes bytes on; `turns` are counted on the way to the server.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asking: Arc<AtomicBool>, turns: Option<Arc<AtomicU64>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        let was_asking = asking.swap(turns.is_some(), Ordering::SeqCst);
        if let Some(turns) = &turns
            && !was_asking
        {
            turns.fetch_add(1, Ordering::SeqCst);
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other side is told that no more comes.
    let _ = to.shutdown().await;
}
