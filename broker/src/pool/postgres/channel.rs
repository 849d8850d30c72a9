//! Speaking the protocol over a session's stream, past the driver: messages out, messages in, both at once.
//!
//! Whatever is abandoned halfway stays here: what was written is written to its end, and what is owed is still owed. So a
//! caller may leave at any await, and [`Channel::settle`] finds the way back.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::frontend;

use super::frame::{self, BadFrame, Frame, HEADER_BYTES};
use super::observed::Observed;
use super::server_error::ServerError;
use super::wire::Direct;

/// Room made before a read. Most answers fit; a stream of rows finds more of it below.
const READ_BYTES: usize = 8 * 1024;
/// Room made before a read that follows a full one.
const BULK_READ_BYTES: usize = 64 * 1024;
/// What may arrive, unread, while something is written. Unit: bytes.
const READ_FIRST_BYTES: usize = 256 * 1024;
/// A quiet session keeps no larger buffer than this.
const KEEP_BYTES: usize = 64 * 1024;
/// The longest message of any other kind than a row.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The kind that stands for a row too long to be read: [`Channel::limit_rows`].
pub const OVERSIZE: u8 = b'!';

/// The protocol over one session's stream.
pub struct Channel {
    wire: Arc<dyn Direct>,
    observed: Arc<Observed>,
    input: BytesMut,
    /// Bytes of the message that was read last, still at the front of `input`.
    used: usize,
    output: BytesMut,
    /// Everything written so far has been flushed.
    flushed: bool,
    /// Bytes that the socket has taken.
    sent: u64,
    /// `ReadyForQuery` messages owed by the server.
    due: u64,
    /// Messages are out that no `Sync` follows yet.
    unsynced: bool,
    /// Of the last `ReadyForQuery`: `I`, `T` or `E`.
    status: u8,
    max_row: usize,
    /// Bytes of an oversized row still to be thrown away.
    skipping: usize,
    room: usize,
    dead: bool,
}

/// Why a channel can be used no more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The socket failed, or the server closed it.
    #[error("the connection to the database broke")]
    Io(#[from] io::Error),
    /// The server does not speak the protocol.
    #[error(transparent)]
    Protocol(#[from] BadFrame),
    /// The server ended the session, and said why.
    #[error("the database ended the session")]
    Ended(#[source] Box<ServerError>),
}

impl Channel {
    /// Takes the stream from the driver, which must have signed in and be quiet.
    pub fn new(wire: Arc<dyn Direct>, observed: Arc<Observed>) -> Self {
        wire.take();
        Self {
            wire,
            observed,
            input: BytesMut::new(),
            used: 0,
            output: BytesMut::new(),
            flushed: true,
            sent: 0,
            due: 0,
            unsynced: false,
            status: b'I',
            max_row: usize::MAX,
            skipping: 0,
            room: READ_BYTES,
            dead: false,
        }
    }

    /// The stream, for a lane that speaks over it from now on in this channel's place.
    pub fn wire(&self) -> Arc<dyn Direct> {
        Arc::clone(&self.wire)
    }

    /// Writes messages into the buffer. They leave with the next [`Channel::peek`] or [`Channel::flush`].
    pub fn queue(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.output);
        self.flushed = false;
        self.unsynced = true;
    }

    /// Ends what was queued with a `Sync`, which the server answers when it is ready again.
    pub fn sync(&mut self) {
        frontend::sync(&mut self.output);
        self.flushed = false;
        self.unsynced = false;
        self.due += 1;
    }

    /// What was queued brings its own readiness: a simple query.
    pub fn expect_ready(&mut self) {
        self.unsynced = false;
        self.due += 1;
    }

    /// Closes a prepared statement along with whatever is sent next.
    pub fn close_statement(&mut self, name: &str) {
        // Names are our own: without a NUL.
        let _ = frontend::close(b'S', name, &mut self.output);
        self.flushed = false;
    }

    /// A row longer than this is thrown away unread, and comes as [`OVERSIZE`]. Unit: bytes.
    pub fn limit_rows(&mut self, bytes: u64) {
        self.max_row = usize::try_from(bytes).unwrap_or(usize::MAX);
    }

    /// True when nothing was queued that the server has not taken.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.flushed
    }

    /// Bytes that the socket has taken so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// True when the next message is here in full.
    pub fn has_message(&self) -> bool {
        let rest = &self.input[self.used..];
        matches!(frame::header(rest), Ok(Some((_, length))) if length <= rest.len())
    }

    /// Waits for the next message and tells its kind. What is queued is written meanwhile.
    ///
    /// Cancel safe. Errors: the connection is over.
    pub async fn peek(&mut self) -> Result<u8, Broken> {
        loop {
            self.drop_used();
            if self.skipping > 0 {
                self.skip();
                if self.skipping == 0 {
                    return Ok(OVERSIZE);
                }
            } else if let Some((kind, length)) = frame::header(&self.input).inspect_err(|_| self.dead = true)? {
                if length <= self.input.len() {
                    return Ok(kind);
                }
                if self.begins_to_skip(kind, length)? {
                    continue;
                }
            }
            self.fill().await?;
        }
    }

    /// The message that [`Channel::peek`] told of.
    pub fn take(&mut self) -> Frame<'_> {
        let whole = frame::header(&self.input[self.used..]).ok().flatten();
        let Some((kind, length)) = whole.filter(|(_, length)| self.used + length <= self.input.len()) else {
            return Frame { kind: OVERSIZE, body: &[] };
        };
        let start = self.used;
        self.used += length;
        let body = &self.input[start + HEADER_BYTES..self.used];
        match kind {
            b'Z' => {
                self.due = self.due.saturating_sub(1);
                self.status = body.first().copied().unwrap_or(b'E');
            }
            b'S' => self.observed.note_parameter(frame::parameter(body)),
            _ => {}
        }
        Frame { kind, body }
    }

    /// Waits until what is queued is written, or so much has arrived meanwhile that it must be read first: a server that waits for
    /// its reader reads nothing. Call again until [`Channel::is_flushed`].
    ///
    /// Cancel safe. Errors: the connection is over.
    pub async fn flush(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(written) = self.poll_write(cx) {
                    return Poll::Ready(written);
                }
                if self.input.len() - self.used > READ_FIRST_BYTES && self.has_message() {
                    return Poll::Ready(Ok(()));
                }
                if self.input.len() - self.used > MAX_MESSAGE_BYTES {
                    self.dead = true;
                    return Poll::Ready(Err(BadFrame.into()));
                }
                self.input.reserve(READ_BYTES);
                std::task::ready!(self.poll_read(cx))?;
            }
        })
        .await
    }

    /// Brings an abandoned channel back to where the server owes nothing: ends a COPY, and reads what is owed to its end.
    ///
    /// Cancel safe.
    pub async fn settle(&mut self) -> Result<(), Broken> {
        if self.unsynced {
            // Outside of a COPY the server ignores it.
            let _ = frontend::copy_fail("the request was abandoned", &mut self.output);
            self.sync();
        }
        while self.due > 0 {
            self.peek().await?;
            self.take();
        }
        Ok(())
    }

    /// A look at a quiet session's stream: the server may have closed it since. Never waits.
    pub fn look(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.drop_used();
        self.input.reserve(READ_BYTES);
        match self.wire.poll_read(&mut cx, &mut self.input) {
            Poll::Ready(Ok(0) | Err(_)) => self.dead = true,
            Poll::Ready(Ok(_)) => {
                while self.has_message() && !self.dead {
                    self.dead = self.take().kind == b'E';
                }
            }
            Poll::Pending => {}
        }
        if self.input.capacity() > KEEP_BYTES && self.input.len() == self.used {
            (self.input, self.used) = (BytesMut::new(), 0);
        }
    }

    /// The server has ended the session.
    pub fn condemn(&mut self) {
        self.dead = true;
    }

    /// True when it can be used no more.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// True when everything asked is answered, and no transaction is open.
    pub fn is_idle(&self) -> bool {
        self.due == 0 && !self.unsynced && self.status == b'I' && self.input.len() == self.used
    }

    /// The transaction's status at the last `ReadyForQuery`: `I` none, `T` open, `E` failed.
    pub fn status(&self) -> u8 {
        self.status
    }

    fn drop_used(&mut self) {
        self.input.advance(self.used);
        self.used = 0;
    }

    fn skip(&mut self) {
        let here = self.skipping.min(self.input.len());
        self.input.advance(here);
        self.skipping -= here;
    }

    /// Begins to throw away a message that is not here in full, if it is a row too long to be read.
    fn begins_to_skip(&mut self, kind: u8, length: usize) -> Result<bool, Broken> {
        if matches!(kind, b'D' | b'd') && length > self.max_row {
            self.skipping = length;
            return Ok(true);
        }
        if !matches!(kind, b'D' | b'd') && length > MAX_MESSAGE_BYTES {
            self.dead = true;
            return Err(BadFrame.into());
        }
        Ok(false)
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        let missing =
            frame::header(&self.input).ok().flatten().map_or(0, |(_, length)| length - self.input.len().min(length));
        self.input.reserve(self.room.max(missing.min(BULK_READ_BYTES * 4)));
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Writes and reads at once: a server that waits for its reader reads nothing either.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // A broken write shows in the read too, after the server's last words.
        let _ = self.poll_write(cx);
        self.poll_read(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let room = self.input.capacity() - self.input.len();
        match self.wire.poll_read(cx, &mut self.input) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(self.broken(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(error))),
            Poll::Ready(Ok(read)) => {
                self.room = if read >= room.min(READ_BYTES) { BULK_READ_BYTES } else { READ_BYTES };
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        let before = self.output.len();
        let written = self.wire.poll_write(cx, &mut self.output);
        self.sent += (before - self.output.len()) as u64;
        let written = std::task::ready!(written);
        self.flushed = true;
        if self.output.capacity() > KEEP_BYTES || written.is_err() {
            self.output = BytesMut::new();
        }
        Poll::Ready(written.map_err(|error| self.broken(error)))
    }

    fn broken(&mut self, error: io::Error) -> Broken {
        self.dead = true;
        Broken::Io(error)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The driver ends with the session, and must not wait for a stream that nobody has.
        self.wire.give_back();
    }
}
