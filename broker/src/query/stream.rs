//! A result that leaves as it comes: rows as lines, or a COPY's data, in pieces of a bounded size.
//!
//! The statement runs in a transaction that is ended only when everything has been read, so that whatever breaks before has
//! had no effect. A reader that takes nothing holds the database back, until it is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hearth_client::wire::{Notice, Outcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Failure, QueryError};
use super::exchange::{Event, Exchange, Step};
use super::prepare;
use super::run::{learn_names, lease};
use super::trouble::{self, Trouble};
use super::unit::{Caller, Unit};
use crate::base::Deadline;
use crate::encode::rows::split_tag;
use crate::encode::{LineFormat, LineWriter, TooLarge};
use crate::observe::RouteMetrics;
use crate::pool::postgres::frame;
use crate::pool::{Consistency, Database, Lease};

/// A piece is sent when it has grown to this. Unit: bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// A smaller piece is sent when no more has come for so long.
const LINGER: Duration = Duration::from_millis(5);
/// Pieces that may wait for the reader.
const PIECES: usize = 2;
/// Runs of one request before its first row: the first, and one more where the connection had died.
const ATTEMPTS: u32 = 2;

/// A streamed statement on its way to one database.
pub struct Streaming<'a> {
    /// Where.
    pub database: &'a Arc<Database>,
    /// What: one statement, in a transaction.
    pub unit: &'a Unit<'a>,
    /// How new at least, for what only reads.
    pub at_least: Option<Consistency>,
    /// How it is written; `None` for the data of a COPY.
    pub format: Option<LineFormat>,
    /// By when its first row must be there.
    pub deadline: Deadline,
    /// By when it must be over.
    pub over_by: Deadline,
    /// The longest row. Unit: bytes.
    pub max_row_bytes: u64,
    /// Rows, if the request names a ceiling.
    pub max_rows: Option<u64>,
    /// The longest its reader may take nothing.
    pub reader_timeout: Duration,
    /// Who asks.
    pub caller: &'a Caller,
    /// On whose account.
    pub metrics: &'a RouteMetrics,
}

/// A part of a stream. One that is over without its end or its failure was cut.
pub enum Piece {
    /// Some of it.
    Data(Bytes),
    /// It broke off.
    Failed(Failure),
    /// It is whole.
    End,
}

/// A stream that has begun.
pub struct Stream {
    /// Its parts, in order.
    pub pieces: mpsc::Receiver<Piece>,
    /// The data of a COPY are binary.
    pub is_binary: bool,
    /// Rows read from the database so far.
    pub rows: Arc<AtomicU64>,
    /// Time spent waiting for a connection.
    pub queue: Duration,
    /// Time until the first row.
    pub db: Duration,
}

/// What is written, and where.
enum Sink {
    Lines(LineWriter),
    Data(Vec<u8>),
}

/// Reads from the database and hands on to the reader.
struct Pump {
    lease: Lease,
    exchange: Exchange,
    sink: Sink,
    rows: u64,
    /// The same for others to see.
    rows_seen: Arc<AtomicU64>,
    max_rows: Option<u64>,
    max_row_bytes: u64,
    is_binary: bool,
    tag: String,
    notices: Vec<Notice>,
    /// The server is ready for the transaction's end.
    is_through: bool,
    deadline: Deadline,
    reader_timeout: Duration,
    changes_schema: bool,
    closing: Vec<Step<'static>>,
    max_affected: Option<u64>,
}

impl Streaming<'_> {
    /// Runs the statement up to its first row, and goes on with a task of its own. What fails before fails here.
    pub async fn open(&self) -> Result<Stream, Failure> {
        let asked = Instant::now();
        let mut attempt = 1;
        loop {
            let mut lease =
                lease(self.database, &self.caller.account, self.unit.want(self.at_least), self.deadline, attempt > 1)
                    .await
                    .map_err(QueryError::from)?;
            lease.on_account_of(self.unit.holder(self.caller));
            lease.may_last_until(self.over_by);
            let started = Instant::now();
            self.metrics.wait_seconds.observe((started - asked).as_secs_f64());
            learn_names(&mut lease, self.deadline).await;
            lease.begin();
            lease.needs(self.unit.cleanup(self.database.catalog().names().as_deref()));
            match timeout_at(self.deadline.at(), self.begin(lease)).await {
                Ok(Ok(pump)) => {
                    let (sender, pieces) = mpsc::channel(PIECES);
                    let (is_binary, active) = (pump.is_binary, self.metrics.active());
                    let rows = Arc::clone(&pump.rows_seen);
                    tokio::spawn(async move {
                        pump.run(sender).await;
                        drop(active);
                    });
                    return Ok(Stream { pieces, is_binary, rows, queue: started - asked, db: started.elapsed() });
                }
                Ok(Err(trouble))
                    if attempt < ATTEMPTS && trouble.is_dead_connection() && !self.deadline.has_passed() =>
                {
                    attempt += 1;
                }
                Ok(Err(trouble)) => return Err(trouble.into_failure(Outcome::NotApplied)),
                // The dropped lease cancels.
                Err(_) => return Err(QueryError::TimedOut { outcome: Outcome::NotApplied }.into()),
            }
        }
    }

    /// Prepares, begins, and reads up to the first row or the end.
    async fn begin(&self, mut lease: Lease) -> Result<Pump, Trouble> {
        let statement = &self.unit.statements[0];
        let mut opening = self.unit.opening();
        if self.unit.prepared_late_from() == 0 {
            trouble::run_own(&mut lease, &std::mem::take(&mut opening)).await?;
        }
        let prepared = prepare::one(&mut lease, statement).await?;
        let values = prepare::bind(statement, &prepared.shape, &[])?;
        let sink = match self.format {
            None => Sink::Data(Vec::new()),
            Some(format) => {
                let columns = prepared.shape.columns(statement.format);
                Sink::Lines(LineWriter::new(columns, prepared.shape.fields(), format))
            }
        };
        let mut steps = opening;
        steps.push(Step::Run { statement: 0, prepared: &prepared, values });
        trouble::in_time(self.deadline)?;
        let channel = &mut lease.session_mut().channel;
        channel.limit_rows(self.max_row_bytes);
        let exchange = Exchange::send(channel, &steps, true);
        prepare::keep_or_close(&mut lease, std::iter::once((statement, &prepared)));
        let mut pump = Pump {
            lease,
            exchange,
            sink,
            rows: 0,
            rows_seen: Arc::default(),
            max_rows: self.max_rows,
            max_row_bytes: self.max_row_bytes,
            is_binary: false,
            tag: String::new(),
            notices: Vec::new(),
            is_through: false,
            deadline: self.over_by,
            reader_timeout: self.reader_timeout,
            changes_schema: self.unit.changes_schema(),
            closing: self.unit.closing(),
            max_affected: self.unit.expect[0].max_affected,
        };
        while pump.rows == 0 && !pump.is_through {
            pump.step().await?;
        }
        Ok(pump)
    }
}

impl Pump {
    /// Takes in what the server has sent, up to a piece.
    async fn step(&mut self) -> Result<(), Trouble> {
        let stepped = self.take_in().await;
        self.rows_seen.store(self.rows, Ordering::Release);
        stepped
    }

    async fn take_in(&mut self) -> Result<(), Trouble> {
        loop {
            let channel = &mut self.lease.session_mut().channel;
            match self.exchange.next(channel).await? {
                Event::Row { body, .. } => {
                    if self.max_rows.is_some_and(|max| self.rows >= max) {
                        return Err(TooLarge::Rows(self.rows).into());
                    }
                    self.rows += 1;
                    if let Sink::Lines(writer) = &mut self.sink {
                        writer.push(frame::values(body)).map_err(|_| Trouble::SchemaChanged)?;
                    }
                }
                Event::Oversize { .. } => return Err(TooLarge::Bytes(self.max_row_bytes).into()),
                Event::CopyOut(is_binary) => self.is_binary = is_binary,
                Event::CopyData(data) => {
                    self.rows += 1;
                    if let Sink::Data(buffer) = &mut self.sink {
                        buffer.extend_from_slice(data);
                    }
                }
                Event::Complete { tag, .. } => tag.clone_into(&mut self.tag),
                Event::Notice(notice) => trouble::note(&mut self.notices, notice),
                Event::Refused { error, .. } => return Err(Trouble::Server(error)),
                Event::CopyIn => return Err(QueryError::Refused("`sql` waits for data: POST them".to_owned()).into()),
                Event::Ready => {
                    self.is_through = true;
                    return Ok(());
                }
            }
            if self.len() >= PIECE_BYTES || !self.lease.session().channel.has_message() {
                return Ok(());
            }
        }
    }

    /// Reads to the end, and hands on, until the reader leaves or is too slow.
    async fn run(mut self, pieces: mpsc::Sender<Piece>) {
        while !self.is_through {
            if self.deadline.has_passed() {
                let timed_out = QueryError::TimedOut { outcome: Outcome::NotApplied };
                return self.fail(&pieces, timed_out.into()).await;
            }
            let wait =
                if self.len() == 0 { self.deadline.at() } else { self.deadline.at().min(Instant::now() + LINGER) };
            let full = self.len() >= PIECE_BYTES;
            let stepped = if full {
                Ok(Ok(()))
            } else {
                tokio::select! {
                    () = pieces.closed() => return self.cut("its reader has left"),
                    stepped = timeout_at(wait, self.step()) => stepped,
                }
            };
            match stepped {
                Ok(Err(trouble)) => {
                    match &trouble {
                        Trouble::Server(_) => trouble::settle(&mut self.lease).await,
                        Trouble::SchemaChanged => self.lease.database().schema_changed(),
                        Trouble::Refused(_) | Trouble::Broken(_) => {}
                    }
                    return self.fail(&pieces, trouble.into_failure(Outcome::NotApplied)).await;
                }
                Err(_) if self.deadline.has_passed() => continue,
                Ok(Ok(())) if !full && self.len() < PIECE_BYTES && !self.is_through => continue,
                Ok(Ok(())) | Err(_) => {}
            }
            if !self.is_through && !self.hand_on(&pieces).await {
                return self.cut("its reader was too slow");
            }
        }
        match self.end().await {
            Ok(()) => {
                if let Sink::Lines(writer) = &mut self.sink {
                    let (command, count) = split_tag(&self.tag);
                    writer.finish(command, count, &self.notices);
                }
                let whole = self.hand_on(&pieces).await
                    && matches!(timeout(self.reader_timeout, pieces.send(Piece::End)).await, Ok(Ok(())));
                if !whole {
                    self.cut("its reader was too slow");
                }
            }
            Err(failure) => self.fail(&pieces, failure).await,
        }
    }

    /// Ends the transaction. What became of it is known unless the connection breaks here.
    async fn end(&mut self) -> Result<(), Failure> {
        let count = split_tag(&self.tag).1.unwrap_or(0);
        if let Some(max) = self.max_affected
            && !self.tag.starts_with("SELECT")
            && count > max
        {
            let expect = super::Expect { rows: None, max_affected: Some(max) };
            return Err(QueryError::Unexpected { expect, rows: count }.into());
        }
        let closing = std::mem::take(&mut self.closing);
        trouble::commit(&mut self.lease, &closing, self.deadline).await?;
        if self.changes_schema {
            self.lease.database().schema_changed();
        }
        Ok(())
    }

    fn len(&self) -> usize {
        match &self.sink {
            Sink::Lines(writer) => writer.len(),
            Sink::Data(buffer) => buffer.len(),
        }
    }

    /// False: the reader has taken nothing for too long, or has left.
    async fn hand_on(&mut self, pieces: &mpsc::Sender<Piece>) -> bool {
        let piece = match &mut self.sink {
            Sink::Lines(writer) => writer.take(),
            Sink::Data(buffer) => std::mem::replace(buffer, Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4)),
        };
        if piece.is_empty() {
            return true;
        }
        matches!(timeout(self.reader_timeout, pieces.send(Piece::Data(piece.into()))).await, Ok(Ok(())))
    }

    async fn fail(mut self, pieces: &mpsc::Sender<Piece>, failure: Failure) {
        // The rows before it are the caller's.
        let _ = self.hand_on(pieces).await;
        let _ = timeout(self.reader_timeout, pieces.send(Piece::Failed(failure))).await;
    }

    /// The dropped lease cancels the statement and makes the connection clean.
    fn cut(self, why: &str) {
        tracing::debug!(backend.name = %self.lease.database().name(), rows = self.rows, "a stream was cut: {why}");
    }
}
