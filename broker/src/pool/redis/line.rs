//! One shared connection: callers append their commands to what is sent next, and the answers come in the same order.
//!
//! A task drives the socket. It writes what has gathered in one piece, and hands each caller the bytes of its answers without
//! looking further into them than to find their end. A caller that leaves takes nothing from the others: its answer is thrown
//! away when it comes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::io::poll_read_buf;

use super::connect::Stream;
use crate::encode::resp::Scanner;

/// Room for what is read at once.
const READ_BYTES: usize = 64 * 1024;
/// Written buffers that have grown past this are given back.
const KEEP_BYTES: usize = 256 * 1024;

/// A shared connection. When the last of its users has dropped it, it is closed.
pub(super) struct Line {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Broken {
    /// The connection was gone before anything was sent.
    Before,
    /// It broke while the command was on its way.
    Within(Arc<io::Error>),
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// The replies, whole.
    Replies(Bytes),
    /// They were longer than the caller wanted; the commands have run.
    TooLong,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the task: there is something to send.
    wake: AtomicWaker,
}

#[derive(Default)]
struct State {
    out: BytesMut,
    callers: VecDeque<Caller>,
    broken: Option<Arc<io::Error>>,
}

struct Caller {
    scanner: Scanner,
    most: usize,
    too_long: bool,
    to: oneshot::Sender<Answer>,
}

impl Line {
    /// Takes over an open connection.
    pub fn new(stream: Box<dyn Stream>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut driver = Driver {
            stream,
            shared: Arc::clone(&shared),
            sending: BytesMut::new(),
            sent: 0,
            received: BytesMut::with_capacity(READ_BYTES),
        };
        let task = tokio::spawn(async move {
            let ended = std::future::poll_fn(|cx| driver.poll(cx)).await;
            driver.shared.end(ended);
        });
        Self { shared, task }
    }

    /// Sends what `write` appends and waits for so many replies, of at most `most` bytes.
    ///
    /// Cancel safe: the commands run, and their replies are thrown away.
    pub async fn ask(&self, replies: usize, most: usize, write: impl FnOnce(&mut BytesMut)) -> Result<Answer, Broken> {
        let (to, answer) = oneshot::channel();
        let first = {
            let mut state = self.shared.state();
            if state.broken.is_some() {
                return Err(Broken::Before);
            }
            let first = state.out.is_empty();
            write(&mut state.out);
            state.callers.push_back(Caller { scanner: Scanner::new(replies), most, too_long: false, to });
            first
        };
        // Whoever found it empty woke the task, which then takes everything.
        if first {
            self.shared.wake.wake();
        }
        answer.await.map_err(|_| Broken::Within(self.shared.why()))
    }

    /// True once it carries nothing any more.
    pub fn is_broken(&self) -> bool {
        self.shared.state().broken.is_some()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, error: io::Error) {
        let mut state = self.state();
        state.broken = Some(Arc::new(error));
        state.callers = VecDeque::new();
        state.out = BytesMut::new();
    }

    fn why(&self) -> Arc<io::Error> {
        self.state().broken.clone().unwrap_or_else(|| Arc::new(io::ErrorKind::ConnectionAborted.into()))
    }
}

struct Driver {
    stream: Box<dyn Stream>,
    shared: Arc<Shared>,
    /// What is being written, up to `sent`.
    sending: BytesMut,
    sent: usize,
    received: BytesMut,
}

impl Driver {
    /// Resolves when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.shared.wake.register(cx.waker());
        // Reading first: a server that cannot get rid of its answers stops reading.
        if let Poll::Ready(error) = self.poll_read(cx) {
            return Poll::Ready(error);
        }
        match self.poll_write(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            _ => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.sent == self.sending.len() {
                self.sending.clear();
                self.sent = 0;
                if self.sending.capacity() > KEEP_BYTES {
                    self.sending = BytesMut::new();
                }
                std::mem::swap(&mut self.sending, &mut self.shared.state().out);
                if self.sending.is_empty() {
                    return Pin::new(&mut self.stream).poll_flush(cx);
                }
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.sending[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            self.received.reserve(READ_BYTES / 4);
            match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.received)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
            if let Err(error) = self.hand_out() {
                return Poll::Ready(error);
            }
        }
    }

    /// Gives every answer that is complete to its caller.
    fn hand_out(&mut self) -> io::Result<()> {
        let mut state = self.shared.state();
        while !self.received.is_empty() {
            let Some(caller) = state.callers.front_mut() else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody asked for"));
            };
            let Some(end) = caller.scanner.end(&self.received).map_err(io::Error::other)? else {
                // Nobody will read it: its memory can go as it comes.
                if caller.too_long || caller.scanner.seen() > caller.most {
                    caller.too_long = true;
                    self.received.advance(caller.scanner.seen());
                    caller.scanner.forget_seen();
                }
                break;
            };
            let replies = self.received.split_to(end).freeze();
            let Some(caller) = state.callers.pop_front() else { break };
            let too_long = caller.too_long || replies.len() > caller.most;
            // The caller may have left.
            let _ = caller.to.send(if too_long { Answer::TooLong } else { Answer::Replies(replies) });
        }
        Ok(())
    }
}
