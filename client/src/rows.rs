//! A result as a stream of rows.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::chunks::Chunks;
use crate::client::{Call, Client};
use crate::error::{Error, Reason};
use crate::lines::Lines;
use crate::wire::{Column, Notice, StreamHead, StreamTail};

/// The rows of a statement as they come, however many. From [`Query::stream`](crate::Query::stream).
///
/// Memory stays flat: it holds two rows and a chunk of the body, and a slow reader holds back the database. The result is
/// whole, and the statement's effect committed, once [`next`](Self::next) has given `None` with no error before it.
/// Dropping it sooner closes the request, and the broker cancels the statement.
#[must_use = "rows come as `next` is awaited; dropping the stream cancels the statement"]
pub struct RowStream<T> {
    chunks: Chunks,
    lines: Lines,
    columns: Vec<Column>,
    /// The last line read: a row if another follows, else the tail.
    held: Option<Bytes>,
    end: Option<End>,
    /// Nothing more will be given.
    over: bool,
    row: PhantomData<fn() -> T>,
}

struct End {
    row_count: u64,
    command: String,
    notices: Vec<Notice>,
}

impl<T> RowStream<T> {
    /// Sends the call and reads the first line of its answer.
    pub(crate) async fn open(client: &Client, call: Call) -> Result<Self, Error> {
        Self::start(Chunks::new(client.begin(call).await?)).await
    }

    async fn start(chunks: Chunks) -> Result<Self, Error> {
        let lines = Lines::default();
        let mut stream =
            Self { chunks, lines, columns: Vec::new(), held: None, end: None, over: false, row: PhantomData };
        let line = stream.line().await.unwrap_or_else(|| Err(stream.chunks.fail(Reason::Cut)))?;
        match serde_json::from_slice::<StreamHead>(&line) {
            Ok(head) => stream.columns = head.columns,
            Err(source) => return Err(stream.headless(&line, source)),
        }
        stream.chunks.lift_deadline();
        Ok(stream)
    }

    /// The next row; `None` after the last one, and after an error.
    ///
    /// Errors: the statement failed on the way, the connection broke, the answer ended without its last line, a row does not
    /// fit `T`. Rows given before an error are real, but may be rolled back: [`Error::outcome`] says what is known.
    ///
    /// Cancel safety: a row is either given or still to come.
    pub async fn next(&mut self) -> Option<Result<T, Error>>
    where
        T: DeserializeOwned,
    {
        while !self.over {
            let row = match self.line().await {
                Some(Ok(line)) => self.held.replace(line).map(|row| self.read(&row)),
                Some(Err(error)) => Some(Err(error)),
                None => {
                    self.over = true;
                    self.finish().err().map(Err)
                }
            };
            self.over |= matches!(row, Some(Err(_)));
            if row.is_some() {
                return row;
            }
        }
        None
    }

    /// The result's columns; empty for a statement without a result.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Rows returned, or affected where the statement returns none. `None` before the end.
    pub fn row_count(&self) -> Option<u64> {
        Some(self.end.as_ref()?.row_count)
    }

    /// The command's name as PostgreSQL reports it. `None` before the end.
    pub fn command(&self) -> Option<&str> {
        Some(&self.end.as_ref()?.command)
    }

    /// What the server had to say beside the rows: warnings, `RAISE NOTICE`. Empty before the end.
    pub fn notices(&self) -> &[Notice] {
        self.end.as_ref().map_or(&[], |end| &end.notices)
    }

    async fn line(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            match self.lines.take_line() {
                Some(line) if line.is_empty() => {}
                Some(line) => return Some(Ok(line)),
                None => match self.chunks.next().await {
                    Some(Ok(chunk)) => self.lines.push(chunk),
                    Some(Err(error)) => return Some(Err(error)),
                    None => return self.lines.take_rest().map(Ok),
                },
            }
        }
    }

    fn read(&mut self, row: &[u8]) -> Result<T, Error>
    where
        T: DeserializeOwned,
    {
        serde_json::from_slice(row).map_err(|source| self.chunks.fail(Reason::Row(source)))
    }

    /// Only now is the line that was held back known to be the last.
    fn finish(&mut self) -> Result<(), Error> {
        let tail = self.held.take().and_then(|line| serde_json::from_slice(&line).ok());
        match tail {
            Some(StreamTail::End { row_count, command, notices }) => {
                self.end = Some(End { row_count, command, notices });
                Ok(())
            }
            Some(StreamTail::Error { error }) => Err(self.chunks.fail(Reason::Problem(error))),
            None => Err(self.chunks.fail(Reason::Cut)),
        }
    }

    /// A first line that tells no columns: it may tell why.
    fn headless(&mut self, line: &[u8], source: serde_json::Error) -> Error {
        let reason = match serde_json::from_slice(line) {
            Ok(StreamTail::Error { error }) => Reason::Problem(error),
            _ => Reason::Decode(source),
        };
        self.chunks.fail(reason)
    }
}

impl<T> fmt::Debug for RowStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowStream")
            .field("columns", &self.columns)
            .field("request_id", &self.chunks.request_id())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
