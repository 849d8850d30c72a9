//! Reading the answers on a lane: rows straight into the result, or a statement's description.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use hearth_client::wire::Notice;

use crate::encode::RowWriter;
use crate::encode::rows::RowError;
use crate::pool::pipeline::Protocol;
use crate::pool::postgres::ServerError;
use crate::pool::postgres::ask::Description;
use crate::pool::postgres::frame::{self, BadFrame, HEADER_BYTES};
use crate::pool::postgres::observed::Observed;

/// A message of any other kind than a row is no longer than this. Unit: bytes.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Notices kept of one statement.
const MAX_NOTICES: usize = 16;

/// What a caller is answered.
pub struct Answer {
    /// What it has asked for.
    pub wanted: Wanted,
    /// The server's refusal.
    pub refused: Option<Box<ServerError>>,
    /// What came could not be written.
    pub fault: Option<RowError>,
    /// What the server said beside.
    pub notices: Vec<Notice>,
}

/// What a caller has asked for.
pub enum Wanted {
    /// A statement's result.
    Result(RowWriter),
    /// A statement to be prepared, and its description.
    Description(Description),
}

impl Answer {
    /// An answer that has not come yet.
    pub fn to(wanted: Wanted) -> Self {
        Self { wanted, refused: None, fault: None, notices: Vec::new() }
    }

    /// The result that was asked for.
    pub fn into_result(self) -> Option<RowWriter> {
        match self.wanted {
            Wanted::Result(writer) => Some(writer),
            Wanted::Description(_) => None,
        }
    }

    fn row(&mut self, body: &[u8]) {
        if let (Wanted::Result(writer), None) = (&mut self.wanted, &self.fault) {
            self.fault = writer.push(frame::values(body)).err();
        }
    }

    fn describe(&mut self, kind: u8, body: &[u8]) -> Result<(), BadFrame> {
        if let Wanted::Description(description) = &mut self.wanted {
            match kind {
                b't' => description.params = frame::parameters(body)?,
                _ => description.columns = frame::columns(body)?,
            }
        }
        Ok(())
    }

    /// A row longer than any that could still be written.
    fn is_too_long(&self, length: usize) -> bool {
        matches!(&self.wanted, Wanted::Result(writer) if !writer.has_room_for(length))
    }

    fn too_long(&mut self) {
        if let (Wanted::Result(writer), None) = (&self.wanted, &self.fault) {
            self.fault = Some(writer.too_large().into());
        }
    }
}

/// The server's messages on a lane. Source: PostgreSQL manual, "Pipelining".
pub struct Answers {
    observed: Arc<Observed>,
    /// Bytes of a row too long to be read, still to be thrown away.
    skipping: usize,
}

impl Answers {
    /// Of the session that `observed` belongs to.
    pub fn new(observed: Arc<Observed>) -> Self {
        Self { observed, skipping: 0 }
    }

    fn skip(&mut self, input: &mut BytesMut) {
        let here = self.skipping.min(input.len());
        input.advance(here);
        self.skipping -= here;
    }

    /// Begins to throw away a message that is not here in full, if it is a row that nobody could use.
    fn begins_to_skip(&mut self, kind: u8, length: usize, answer: Option<&mut Answer>) -> Result<bool, BadFrame> {
        match (kind, answer) {
            (b'D', Some(answer)) if answer.is_too_long(length) => {
                answer.too_long();
                self.skipping = length;
                Ok(true)
            }
            (b'D', _) => Ok(false),
            _ if length > MAX_MESSAGE_BYTES => Err(BadFrame),
            _ => Ok(false),
        }
    }

    fn messages(&mut self, input: &mut BytesMut, mut answer: Option<&mut Answer>) -> Result<bool, BadFrame> {
        let mut used = 0;
        let whole = loop {
            if self.skipping > 0 {
                input.advance(std::mem::take(&mut used));
                self.skip(input);
                if self.skipping > 0 {
                    break false;
                }
            }
            let rest = &input[used..];
            let Some((kind, length)) = frame::header(rest)? else { break false };
            if length > rest.len() {
                if self.begins_to_skip(kind, length, answer.as_deref_mut())? {
                    continue;
                }
                break false;
            }
            let body = &rest[HEADER_BYTES..length];
            used += length;
            match (kind, answer.as_deref_mut()) {
                (b'Z', Some(_)) => break true,
                (b'D', Some(answer)) => answer.row(body),
                (b't' | b'T', Some(answer)) => answer.describe(kind, body)?,
                (b'E', Some(answer)) => answer.refused = Some(Box::new(ServerError::read(body))),
                (b'N', Some(answer)) if answer.notices.len() < MAX_NOTICES => {
                    answer.notices.push(ServerError::read(body).into_notice());
                }
                (b'S', _) => self.observed.note_parameter(frame::parameter(body)),
                // Unasked: its last words, before it closes the session.
                (b'E', None) => break false,
                _ => {}
            }
        };
        input.advance(used);
        Ok(whole)
    }
}

impl Protocol for Answers {
    type Reader = Answer;

    fn read(&mut self, input: &mut BytesMut, reader: Option<&mut Answer>) -> io::Result<bool> {
        self.messages(input, reader).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
