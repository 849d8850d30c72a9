//! The lanes of one node: a few shared connections that every command goes over which does not wait and is no transaction.
//!
//! Commands that change a connection's state never get here (`query::command`), so sharing is safe. Each worker has lanes of its own,
//! where there are enough: what drives a lane then runs on the thread of those who ask, and wakes nobody elsewhere.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::error::{CacheError, Shared};
use super::line::{Answer, Broken, Line};
use super::node::Node;
use crate::base::{Deadline, worker};
use crate::encode::resp::pack;
use crate::pool::PoolError;
use crate::pool::event::CloseReason;

/// A connection unused for longer is asked for a sign of life first: a server that vanished meanwhile is then no caller's news.
const IDLE_DOUBT: Duration = Duration::from_secs(1);

/// The longest wait for that sign. A server that is busy for longer gets a new connection, which costs it little.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The shared connections of one node.
pub(super) struct Lanes {
    all: Vec<Lane>,
    next: AtomicUsize,
    /// Connections that broke so far. A restarted server breaks all lanes, and each would cost a request to find out.
    failures: AtomicU64,
    openings: AtomicUsize,
}

/// One shared connection, opened by its first user and again after it broke.
#[derive(Default)]
struct Lane {
    /// The lock guards a look or a swap, never a wait.
    current: std::sync::Mutex<Option<Open>>,
    /// Held while the lane is opened or asked for a sign of life, so that one caller does it and the rest wait for that.
    opening: Mutex<()>,
    /// How often it could not be opened.
    refusals: AtomicU64,
}

struct Open {
    line: Arc<Line>,
    /// When it last carried a command.
    used: Instant,
    /// The count of failures when this connection was last known to be well.
    failures: u64,
    /// Opened by a thread that is no worker, which drives it since.
    is_astray: bool,
}

impl Lane {
    fn current(&self) -> MutexGuard<'_, Option<Open>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// A worker is better off with one of its own.
    fn is_elsewhere(&self) -> bool {
        self.is_astray && worker::here().is_some()
    }
}

impl Lanes {
    /// So many, none of them open.
    pub fn new(count: u32) -> Self {
        Self {
            all: (0..count).map(|_| Lane::default()).collect(),
            next: AtomicUsize::new(0),
            failures: AtomicU64::new(0),
            openings: AtomicUsize::new(0),
        }
    }

    /// Those that this thread uses take turns.
    fn next(&self) -> usize {
        let all = self.all.len();
        let own = worker::share(all).count();
        let turn = if own > 1 { self.next.fetch_add(1, Ordering::Relaxed) % own } else { 0 };
        worker::share(all).nth(turn).unwrap_or(0)
    }

    /// Open ones, those being opened, and all.
    pub fn counts(&self) -> (usize, usize, usize) {
        let open = self.all.iter().filter(|lane| lane.current().is_some()).count();
        (open, self.openings.load(Ordering::Relaxed), self.all.len())
    }

    /// Closes them. Who uses one still keeps it until then.
    pub fn close(&self, reason: CloseReason, node: &Node) {
        for lane in &self.all {
            if lane.current().take().is_some() {
                node.closed(reason);
            }
        }
    }
}

impl Node {
    /// Sends what `write` appends over a lane, and waits for so many replies of at most `most` bytes.
    ///
    /// Cancel safe: what was sent runs, and disturbs nobody.
    pub(super) async fn ask(
        self: &Arc<Self>,
        replies: usize,
        most: usize,
        write: impl FnOnce(&mut BytesMut),
        deadline: Deadline,
    ) -> Result<Bytes, CacheError> {
        let (index, line, sent) = self.lane(deadline).await?;
        let source = match line.ask(replies, most, sent, deadline.at(), write).await {
            Ok(Answer::Replies(bytes)) => return Ok(bytes),
            Ok(Answer::TooLong) => {
                return Err(CacheError::TooLong { backend: self.backend.clone(), limit: most });
            }
            Err(Broken::Late) => {
                // A connection that did not answer one caller in time may answer nobody any more: the next asks first.
                if sent.elapsed() > SIGN_OF_LIFE {
                    self.lanes.failures.fetch_add(1, Ordering::AcqRel);
                }
                return Err(CacheError::TimedOut { backend: self.backend.clone() });
            }
            Err(Broken::Within(error)) => Shared(error),
            Err(Broken::Before) => Shared(Arc::new(std::io::ErrorKind::NotConnected.into())),
        };
        self.broke(index, &line);
        Err(CacheError::Lost { backend: self.backend.clone(), source: Box::new(source) })
    }

    /// Which lane, its connection, and the moment at which it was ready.
    async fn lane(self: &Arc<Self>, deadline: Deadline) -> Result<(usize, Arc<Line>, Instant), PoolError> {
        let index = self.lanes.next();
        let lane = &self.lanes.all[index];
        let start = Instant::now();
        if let Some(open) = &mut *lane.current()
            && !open.is_elsewhere()
            && !self.is_doubtful(open, start)
        {
            open.used = start;
            return Ok((index, Arc::clone(&open.line), start));
        }
        Box::pin(self.mended(lane, start, deadline)).await.map(|line| (index, line, Instant::now()))
    }

    /// A lane that had to be opened, or asked first.
    async fn mended(self: &Arc<Self>, lane: &Lane, start: Instant, deadline: Deadline) -> Result<Arc<Line>, PoolError> {
        let refusals = lane.refusals.load(Ordering::Acquire);
        let opened = async {
            let _turn = lane.opening.lock().await;
            // Somebody before has just been refused: to ask again for each who waited would keep them waiting.
            if lane.refusals.load(Ordering::Acquire) != refusals {
                return Err(self.down("it took no connection just now"));
            }
            let mended = self.mend(lane).await;
            if mended.is_err() {
                lane.refusals.fetch_add(1, Ordering::AcqRel);
            }
            mended
        };
        let opened = timeout_at(deadline.at(), opened).await;
        let waited = start.elapsed();
        match opened {
            Err(_) => {
                self.metrics.wait.timeout.observe(waited.as_secs_f64());
                Err(PoolError::WaitTimeout { backend: self.backend.clone(), waited })
            }
            Ok(Err(error)) => {
                self.metrics.wait.rejected.observe(waited.as_secs_f64());
                Err(error)
            }
            Ok(Ok(open)) => {
                self.metrics.wait.ok.observe(waited.as_secs_f64());
                Ok(open)
            }
        }
    }

    /// Asks a doubtful lane for a sign of life, and opens one that gives none, is not there, or is driven from elsewhere.
    async fn mend(self: &Arc<Self>, lane: &Lane) -> Result<Arc<Line>, PoolError> {
        let failures = self.lanes.failures.load(Ordering::Acquire);
        if lane.current().take_if(|open| open.is_elsewhere()).is_some() {
            self.closed(CloseReason::LaneEnded);
        }
        let known =
            lane.current().as_ref().map(|open| (Arc::clone(&open.line), self.is_doubtful(open, Instant::now())));
        if let Some((known, doubtful)) = known {
            let well = !doubtful || answers(&known).await;
            let mut held = lane.current();
            if well {
                if let Some(open) = held.as_mut().filter(|open| Arc::ptr_eq(&open.line, &known)) {
                    (open.used, open.failures) = (Instant::now(), failures);
                }
                return Ok(known);
            }
            if held.take_if(|open| Arc::ptr_eq(&open.line, &known)).is_some() {
                self.closed(CloseReason::BackendClosed);
            }
        }
        let opening = super::node::Counted::new(&self.lanes.openings);
        let made = Arc::new(Line::new(self.dial().await?));
        drop(opening);
        let failures = self.lanes.failures.load(Ordering::Acquire);
        let is_astray = worker::here().is_none();
        *lane.current() = Some(Open { line: Arc::clone(&made), used: Instant::now(), failures, is_astray });
        Ok(made)
    }

    /// True where the connection has died, or may have unnoticed: long unused, or another one has broken since.
    fn is_doubtful(&self, open: &Open, now: Instant) -> bool {
        open.line.is_broken()
            || now - open.used > IDLE_DOUBT
            || open.failures != self.lanes.failures.load(Ordering::Acquire)
    }

    fn broke(&self, index: usize, line: &Arc<Line>) {
        if self.lanes.all[index].current().take_if(|open| Arc::ptr_eq(&open.line, line)).is_some() {
            self.lanes.failures.fetch_add(1, Ordering::AcqRel);
            self.closed(CloseReason::BackendClosed);
        }
    }
}

/// True if the connection gives a sign of life.
async fn answers(line: &Line) -> bool {
    if line.is_broken() {
        return false;
    }
    let now = Instant::now();
    line.ask(1, usize::MAX, now, now + SIGN_OF_LIFE, |out| pack(out, &["PING"])).await.is_ok()
}
