//! A TCP proxy before a server: counts round trips, and is the bad network. Faults begin and end while it runs, for one connection
//! or for all.

mod link;
mod pipe;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub use link::Link;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What the broker sends.
    ToServer,
    /// What the server answers.
    ToBroker,
}

/// What befalls the bytes of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing: they pass at once.
    #[default]
    None,
    /// They wait until the fault is over. The connection stays open and the senders' buffers fill.
    Stall,
    /// They pass a few at a time.
    Trickle {
        /// So many.
        bytes: usize,
        /// With such a pause after them.
        pause: Duration,
    },
}

/// Whose socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The broker's: the server does not learn of it until [`Proxy::forget`].
    Broker,
    /// The server's: the broker does not learn of it until [`Proxy::forget`].
    Server,
    /// Both.
    Both,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In good order, as a process that exits does it: the reader sees the end of the stream.
    Close,
    /// With a reset: the reader sees an error.
    Reset,
}

/// A proxy on a loopback port, gone with all its connections when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Its port.
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    turns: AtomicU64,
    accepted: AtomicU64,
    shut: AtomicBool,
    /// What a new connection begins with, and the connections there are. The lock guards a look or a change, so that a fault for
    /// all misses none that is accepted meanwhile.
    net: Mutex<Net>,
}

#[derive(Debug, Default)]
struct Net {
    faults: [Fault; 2],
    links: Vec<Arc<Link>>,
}

impl Shared {
    fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> Arc<Link> {
        let mut net = self.net();
        let link = Arc::new(Link::new(net.faults));
        net.links.push(Arc::clone(&link));
        link
    }
}

impl Proxy {
    /// Starts a proxy before the server on loopback port `target`.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("is bound").port();
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(accept(listener, target, Arc::clone(&shared)));
        Self { port, shared, task }
    }

    /// Round trips so far: how often the server was asked something after it had answered.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::SeqCst)
    }

    /// Connections so far, refused ones included.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The connections there are, the oldest first.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.shared.net().links.clone()
    }

    /// From now on this befalls what goes this way, over the connections there are and over those to come.
    pub fn set(&self, way: Way, fault: Fault) {
        let mut net = self.shared.net();
        net.faults[way as usize] = fault;
        for link in &net.links {
            link.set(way, fault);
        }
    }

    /// No more faults: every connection passes on, and new ones are let in.
    pub fn heal(&self) {
        self.set(Way::ToServer, Fault::None);
        self.set(Way::ToBroker, Fault::None);
        self.shut(false);
    }

    /// While shut, a new connection is reset before a byte of it passes.
    pub fn shut(&self, shut: bool) {
        self.shared.shut.store(shut, Ordering::SeqCst);
    }

    /// Ends every connection there is; answers how many.
    pub fn end(&self, side: Side, end: End) -> usize {
        self.links().iter().filter(|link| link.end(side, end)).count()
    }

    /// Closes what one-sided ends have left open on the other side.
    pub fn forget(&self) {
        for link in self.links() {
            link.forget();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lives as long as the proxy; its connections live no longer.
async fn accept(listener: TcpListener, target: u16, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, _)) = listener.accept() => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                if shared.shut.load(Ordering::SeqCst) {
                    link::reset(near);
                } else {
                    // Here, and not in the task: links stand in the order in which they came.
                    let link = shared.admit();
                    links.spawn(serve(link, near, target, Arc::clone(&shared)));
                }
            }
            Some(_) = links.join_next() => {}
        }
    }
}

async fn serve(link: Arc<Link>, near: TcpStream, target: u16, shared: Arc<Shared>) {
    if let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await {
        near.set_nodelay(true).expect("a TCP socket");
        far.set_nodelay(true).expect("a TCP socket");
        link::serve(&link, near, far, &shared.turns).await;
    } else {
        link::reset(near);
    }
    shared.net().links.retain(|other| !Arc::ptr_eq(other, &link));
}
