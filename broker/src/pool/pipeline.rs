//! One connection that many callers share at once: their requests leave in order, and the answers come back in that order.
//!
//! A caller appends its request to one buffer and leaves a reader for the answer. One task, the driver, writes what has gathered,
//! feeds what comes to the reader whose turn it is, and hands it back to its caller once the answer is whole. So a burst of
//! requests costs one write and few reads, and no message is copied or put into a channel on its way.
//!
//! Nothing is ever taken back: a caller that leaves has asked, and its answer is read and thrown away. So it is with one whose
//! deadline passes; the driver has one alarm for all of them, since a timer a request showed in the profile.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

/// So often everybody who is ready has a turn before the first who asked is kept waiting no longer.
const MOST_TURNS: usize = 8;
/// Room made before a read: the answers to a burst of small requests.
const READ_BYTES: usize = 16 * 1024;
/// An idle connection keeps no larger buffer than this.
const KEEP_BYTES: usize = 64 * 1024;

/// How the answers on a connection are told apart and read.
pub trait Protocol: Send + 'static {
    /// What a caller leaves to read its answer with.
    type Reader: Send + 'static;

    /// Reads from the front of `input`, and removes what it has read: what belongs to `reader`'s answer; without one what the
    /// other side says unasked. True: the answer is whole. False: more must come first. Errors: the connection is over.
    fn read(&mut self, input: &mut BytesMut, reader: Option<&mut Self::Reader>) -> io::Result<bool>;
}

/// A shared connection. Dropped, it is closed.
pub struct Pipeline<R> {
    shared: Arc<Shared<R>>,
    driver: JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Before anything was sent.
    #[error("the shared connection had ended")]
    Before,
    /// With the request on its way, or done.
    #[error("the shared connection ended before it answered")]
    Within,
    /// The deadline passed first. The request is on its way, or will be, and its answer will be thrown away.
    #[error("the shared connection did not answer before the deadline")]
    Late,
}

struct Shared<R> {
    /// Locked to append one request, or to take all that have gathered.
    gathered: Mutex<Gathered<R>>,
    /// Requests that are not answered.
    depth: AtomicUsize,
    /// Why it ended, once it has.
    ended: OnceLock<Arc<io::Error>>,
    driver: AtomicWaker,
}

struct Gathered<R> {
    requests: BytesMut,
    readers: Vec<Waiting<R>>,
    /// The closest of their deadlines.
    earliest: Option<Instant>,
    /// Nobody reads what is appended any more.
    is_closed: bool,
}

/// A whole answer.
pub struct Answered<R> {
    /// What read it.
    pub reader: R,
    /// For how long the connection worked on nothing else: since the answer before, or since it was asked.
    pub took: Duration,
}

struct Waiting<R> {
    reader: R,
    since: Instant,
    due: Instant,
    /// `None` once it has been told that it is late.
    caller: Option<oneshot::Sender<Result<Answered<R>, Ended>>>,
}

impl<R> Waiting<R> {
    /// Tells a caller whose deadline has passed. `Some`: the deadline of one who waits on.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        if self.due > now {
            return self.caller.is_some().then_some(self.due);
        }
        if let Some(caller) = self.caller.take() {
            let _ = caller.send(Err(Ended::Late));
        }
        None
    }
}

impl<R: Send + 'static> Pipeline<R> {
    /// Takes a connection that is ready for requests. With `patience` that is the longest any answer may take: past it the
    /// connection ends, for all its callers.
    pub fn new<P, S>(stream: S, protocol: P, patience: Option<Duration>) -> Self
    where
        P: Protocol<Reader = R>,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared {
            gathered: Mutex::new(Gathered {
                requests: BytesMut::new(),
                readers: Vec::new(),
                earliest: None,
                is_closed: false,
            }),
            depth: AtomicUsize::new(0),
            ended: OnceLock::new(),
            driver: AtomicWaker::new(),
        });
        let driver = Driver {
            stream,
            protocol,
            shared: Arc::clone(&shared),
            input: BytesMut::new(),
            output: BytesMut::new(),
            spare: Vec::new(),
            waiting: VecDeque::new(),
            patience,
            earliest: None,
            answered: Instant::now(),
            alarm: None,
        };
        Self { shared, driver: tokio::spawn(driver.run()) }
    }

    /// Sends the request that `write` appends, and waits for its answer until `due`. `since` is now, to those who have looked at
    /// the clock.
    ///
    /// Cancel safe: what was sent is sent. Errors: [`Ended`].
    pub async fn ask(
        &self,
        since: Instant,
        due: Instant,
        reader: R,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<Answered<R>, Ended> {
        let (caller, answer) = oneshot::channel();
        {
            let mut gathered = self.shared.gathered();
            if gathered.is_closed {
                return Err(Ended::Before);
            }
            write(&mut gathered.requests);
            gathered.readers.push(Waiting { reader, since, due, caller: Some(caller) });
            self.shared.depth.fetch_add(1, Ordering::AcqRel);
            // The driver looks at all there are when it wakes, and sets its alarm by the closest deadline.
            let is_news = gathered.earliest.is_none_or(|earliest| due < earliest);
            if is_news {
                gathered.earliest = Some(due);
            }
            drop(gathered);
            if is_news {
                self.shared.driver.wake();
            }
        }
        answer.await.unwrap_or(Err(Ended::Within))
    }

    /// Requests that are not answered, those of callers who have left among them.
    pub fn depth(&self) -> usize {
        self.shared.depth.load(Ordering::Acquire)
    }

    /// True when it takes no more requests.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.get().is_some()
    }

    /// Why it ended, once it has.
    pub fn why(&self) -> Option<Arc<io::Error>> {
        self.shared.ended.get().cloned()
    }
}

impl<R> Drop for Pipeline<R> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<R> Shared<R> {
    fn gathered(&self) -> MutexGuard<'_, Gathered<R>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever else is ready to ask does so before this is written, for as long as somebody is: one write for all of them.
    async fn linger(&self) {
        let mut asked = 0;
        for _ in 0..MOST_TURNS {
            let now = self.gathered().readers.len();
            if now == asked {
                break;
            }
            asked = now;
            tokio::task::yield_now().await;
        }
    }
}

struct Driver<P: Protocol, S> {
    stream: S,
    protocol: P,
    shared: Arc<Shared<P::Reader>>,
    input: BytesMut,
    /// Requests on their way to the socket.
    output: BytesMut,
    /// Room for those who wait, given back to the callers.
    spare: Vec<Waiting<P::Reader>>,
    /// Whose answers are owed, in order.
    waiting: VecDeque<Waiting<P::Reader>>,
    patience: Option<Duration>,
    /// No deadline of those who wait is closer. It may be one of somebody who has been answered.
    earliest: Option<Instant>,
    /// When the last answer came.
    answered: Instant,
    /// Set while somebody waits, for a moment that is none too late.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<P: Protocol, S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Driver<P, S> {
    async fn run(mut self) {
        let why = loop {
            if let Err(why) = poll_fn(|cx| self.poll(cx)).await {
                break why;
            }
            self.shared.linger().await;
            self.gather();
        };
        // Dropping the rest tells their callers.
        let _ = self.shared.ended.set(Arc::new(why));
    }

    /// Reads and writes until there are new requests and room for them. Errors: the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.driver.register(cx.waker());
        // A broken write shows in the read too, after the other side's last words.
        let written = self.poll_write(cx);
        while self.poll_read(cx)?.is_ready() {}
        self.poll_alarm(cx)?;
        ready!(written)?;
        if self.shared.gathered().readers.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            if self.output.is_empty() {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        self.input.reserve(READ_BYTES);
        match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)? {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(_) => self.digest().map(Poll::Ready),
        }
    }

    /// Hands out what has come.
    fn digest(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while !self.input.is_empty() {
            let reader = self.waiting.front_mut().map(|waiting| &mut waiting.reader);
            if !self.protocol.read(&mut self.input, reader)? {
                break;
            }
            if let Some(answered) = self.waiting.pop_front() {
                self.shared.depth.fetch_sub(1, Ordering::AcqRel);
                // A caller that has left does not take it.
                let took = now - self.answered.max(answered.since).min(now);
                self.answered = now;
                if let Some(caller) = answered.caller {
                    let _ = caller.send(Ok(Answered { reader: answered.reader, took }));
                }
            }
        }
        if self.input.is_empty() && self.input.capacity() > KEEP_BYTES {
            self.input = BytesMut::new();
        }
        Ok(())
    }

    /// Tells those who are late. Errors once the oldest request has waited for too long.
    ///
    /// The alarm is set for the closest moment there was when it was set, so it goes off once in a while, not once a request.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let patient = self.waiting.front().zip(self.patience).map(|(oldest, patience)| oldest.since + patience);
            let gathered = self.shared.gathered().earliest;
            let Some(due) = [patient, self.earliest, gathered].into_iter().flatten().min() else { return Ok(()) };
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if alarm.deadline() > due {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.alarm = None;
            let now = Instant::now();
            if patient.is_some_and(|patient| now >= patient) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.earliest = self.waiting.iter_mut().filter_map(|waiting| waiting.expire(now)).min();
            let mut gathered = self.shared.gathered();
            gathered.earliest = gathered.readers.iter_mut().filter_map(|waiting| waiting.expire(now)).min();
        }
    }

    fn gather(&mut self) {
        let mut gathered = self.shared.gathered();
        std::mem::swap(&mut gathered.readers, &mut self.spare);
        if self.output.capacity() > KEEP_BYTES {
            self.output = BytesMut::new();
        }
        self.output.clear();
        std::mem::swap(&mut gathered.requests, &mut self.output);
        let earliest = gathered.earliest.take();
        drop(gathered);
        self.earliest = [self.earliest, earliest].into_iter().flatten().min();
        self.waiting.extend(self.spare.drain(..));
    }
}

impl<P: Protocol, S> Drop for Driver<P, S> {
    fn drop(&mut self) {
        let _ = self.shared.ended.set(Arc::new(io::ErrorKind::ConnectionAborted.into()));
        let mut gathered = self.shared.gathered();
        gathered.is_closed = true;
        gathered.readers.clear();
    }
}

#[cfg(test)]
mod tests;
