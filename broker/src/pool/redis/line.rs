//! One shared connection to a Redis server: every command that does not wait goes over one.
//!
//! Answers are not looked into further than to find their end.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::connect::Stream;
use crate::encode::resp::Scanner;
use crate::pool::pipeline::{Ended, Pipeline, Protocol};

/// A shared connection. When the last of its users has dropped it, it is closed.
pub(super) struct Line(Pipeline<Replies>);

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Broken {
    /// The connection was gone before anything was sent.
    Before,
    /// It broke while the command was on its way.
    Within(Arc<io::Error>),
    /// The deadline passed with the command on its way.
    Late,
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// The replies, whole.
    Replies(Bytes),
    /// They were longer than the caller wanted; the commands have run.
    TooLong,
}

impl Line {
    /// Takes over an open connection. An answer may take as long as it takes: a deadline is its caller's own.
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self(Pipeline::new(stream, Resp, None))
    }

    /// Sends what `write` appends and waits until `due` for so many replies, of at most `most` bytes. `since` is now.
    ///
    /// Cancel safe: the commands run, and their replies are thrown away.
    pub async fn ask(
        &self,
        replies: usize,
        most: usize,
        since: Instant,
        due: Instant,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<Answer, Broken> {
        let reader = Replies { scanner: Scanner::new(replies), most, too_long: false, bytes: Bytes::new() };
        match self.0.ask(since, due, reader, write).await {
            Ok(answered) if answered.reader.too_long => Ok(Answer::TooLong),
            Ok(answered) => Ok(Answer::Replies(answered.reader.bytes)),
            Err(Ended::Before) => Err(Broken::Before),
            Err(Ended::Late) => Err(Broken::Late),
            Err(Ended::Within) => {
                let why = self.0.why().unwrap_or_else(|| Arc::new(io::ErrorKind::ConnectionAborted.into()));
                Err(Broken::Within(why))
            }
        }
    }

    /// True once it carries nothing any more.
    pub fn is_broken(&self) -> bool {
        self.0.has_ended()
    }
}

/// RESP, as far as to tell one caller's replies from the next one's.
struct Resp;

/// One caller's replies.
struct Replies {
    scanner: Scanner,
    /// Unit: bytes.
    most: usize,
    too_long: bool,
    bytes: Bytes,
}

impl Protocol for Resp {
    type Reader = Replies;

    fn read(&mut self, input: &mut BytesMut, reader: Option<&mut Replies>) -> io::Result<bool> {
        let Some(caller) = reader else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody asked for"));
        };
        let Some(end) = caller.scanner.end(input).map_err(io::Error::other)? else {
            // Nobody will read it: its memory can go as it comes.
            if caller.too_long || caller.scanner.seen() > caller.most {
                caller.too_long = true;
                input.advance(caller.scanner.seen());
                caller.scanner.forget_seen();
            }
            return Ok(false);
        };
        caller.bytes = input.split_to(end).freeze();
        caller.too_long |= caller.bytes.len() > caller.most;
        Ok(true)
    }
}
