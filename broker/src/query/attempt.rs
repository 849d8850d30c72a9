//! One run of a unit over one lease: prepare, begin, run, check, end; in as few round trips as what is known allows.

use std::sync::Arc;

use hearth_client::wire::{Notice, Outcome};

use super::error::QueryError;
use super::exchange::{Event, Exchange, Step};
use super::prepare::{self, Unprepared};
use super::trouble;
use super::unit::{Expect, Unit};
use crate::base::Deadline;
use crate::encode::rows::{ROW_HEADERS_BYTES, RowError};
use crate::encode::{Columns, RowWriter, TooLarge};
use crate::pool::Lease;
use crate::pool::postgres::{Broken, Prepared, ServerError, ask, frame};

/// How much a result may hold.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Unit: bytes of encoded results, all together.
    pub max_bytes: u64,
    /// Rows of one result, if the request names a ceiling.
    pub max_rows: Option<u64>,
    /// It can have no effect, so it need not be read to its end to know its outcome.
    pub harmless: bool,
}

/// How far an attempt has come, for whoever must say what became of it.
#[derive(Debug, Default)]
pub struct Standing {
    /// The socket's count of bytes before what may commit was sent.
    pub committing_from: Option<u64>,
    /// The server refused before anything was committed.
    pub refused: bool,
    /// What commits by itself is through.
    pub committed: bool,
}

/// Why an attempt did not end with results.
#[derive(Debug)]
pub struct Fault {
    /// Which statement it was, unless a step of the broker's own.
    pub statement: Option<usize>,
    /// What happened.
    pub cause: Cause,
}

/// What happened.
#[derive(Debug)]
pub enum Cause {
    /// Refused before the statement was sent.
    Refused(QueryError),
    /// The database's refusal.
    Server(Box<ServerError>),
    /// The connection is over.
    Broken(Broken),
    /// A result passed a limit. `done`: everything was read to its end all the same.
    TooLarge { limit: TooLarge, done: bool },
    /// A count of rows is not as expected; everything was rolled back.
    Unexpected { expect: Expect, rows: u64 },
    /// A value did not fit its type: the schema changed under the session.
    SchemaChanged,
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        Self { statement: None, cause: Cause::Broken(broken) }
    }
}

impl Unprepared {
    fn of(self, statement: usize) -> Fault {
        let cause = match self {
            Self::Refused(error) => Cause::Refused(error),
            Self::Server(error) => Cause::Server(error),
            Self::Broken(broken) => Cause::Broken(broken),
        };
        Fault { statement: Some(statement), cause }
    }
}

/// A unit being run.
pub struct Attempt<'a> {
    unit: &'a Unit<'a>,
    budget: Budget,
    deadline: Deadline,
    prepared: Vec<Option<Arc<Prepared>>>,
    results: Results,
}

impl<'a> Attempt<'a> {
    /// An attempt that has not begun. `earlier` are results that references may mean beside the unit's own.
    pub fn new(unit: &'a Unit<'a>, budget: Budget, deadline: Deadline, earlier: &[Vec<u8>]) -> Self {
        let prepared = vec![None; unit.statements.len()];
        Self {
            unit,
            budget,
            deadline,
            prepared,
            results: Results { earlier: earlier.len(), done: earlier.to_vec(), ..Results::default() },
        }
    }

    /// Runs the unit. Returns only when the server is ready for the next one: a deferred constraint may refuse after the last
    /// row. After a fault that the server answered, the transaction is rolled back.
    pub async fn run(mut self, lease: &mut Lease, standing: &mut Standing) -> Result<Vec<Vec<u8>>, Fault> {
        lease.session_mut().channel.limit_rows(self.budget.max_bytes + ROW_HEADERS_BYTES);
        let ended = self.statements(lease, standing).await;
        if let Err(Fault { cause: Cause::Refused(_) | Cause::Server(_) | Cause::Unexpected { .. }, .. }) = &ended
            && lease.session().channel.status() != b'I'
        {
            match ask::command(&mut lease.session_mut().channel, "ROLLBACK").await {
                Ok(()) | Err(ask::AskError::Refused(_)) => {}
                // The refusal is the news; the lease finds that the connection is over.
                Err(ask::AskError::Broken(_)) => return ended.map(|()| Vec::new()),
            }
        }
        let used = self.unit.statements.iter().zip(&self.prepared);
        prepare::keep_or_close(lease, used.filter_map(|(statement, prepared)| Some((statement, prepared.as_ref()?))));
        ended.map(|()| self.results.done.split_off(self.results.earlier))
    }

    async fn statements(&mut self, lease: &mut Lease, standing: &mut Standing) -> Result<(), Fault> {
        self.prepare_ahead(lease).await?;
        let (unit, count) = (self.unit, self.unit.statements.len());
        let (mut at, mut opened) = (0, false);
        loop {
            let mut steps = if opened { Vec::new() } else { unit.opening() };
            opened = true;
            let start = at;
            let ready = self.ready_from(start);
            let mut runs = Vec::new();
            for index in start..ready {
                let Some(prepared) = self.prepared[index].clone() else { break };
                match prepare::bind(&unit.statements[index], &prepared.shape, &self.results.done) {
                    Ok(values) => runs.push((index, prepared, values)),
                    Err(error) => return Err(Fault { statement: Some(index), cause: Cause::Refused(error) }),
                }
                at = index + 1;
            }
            let columns = |(index, prepared, _): &(usize, Arc<Prepared>, _)| {
                prepared.shape.columns(unit.statements[*index].format)
            };
            self.results.columns = runs.iter().map(columns).collect();
            self.results.first = start;
            steps.extend(runs.iter_mut().map(|(index, prepared, values)| Step::Run {
                statement: *index,
                prepared,
                values: std::mem::take(values),
            }));
            let ends = at == count && !unit.expects_anything();
            if ends {
                steps.extend(unit.closing());
            }
            if !steps.is_empty() {
                self.exchange(lease, &steps, ends || unit.is_plain(), standing).await?;
            }
            self.check(start..at)?;
            if ends || (at == count && unit.is_plain()) {
                return self.results.verdict(true);
            }
            // Not committed yet: nothing more is built on a result that was cut short.
            self.results.verdict(false)?;
            if at == count {
                return self.exchange(lease, &unit.closing(), true, standing).await;
            }
            if at < count && self.prepared[at].is_none() {
                self.prepare_now(lease, at).await?;
            }
        }
    }

    /// Statements up to here do not wait for a result of one that is not through.
    fn ready_from(&self, start: usize) -> usize {
        let through = self.results.done.len();
        let waits = |index: &usize| self.unit.statements[*index].refers_to().is_some_and(|earlier| earlier >= through);
        (start..self.unit.statements.len()).find(waits).unwrap_or(self.unit.statements.len())
    }

    /// Prepares, before anything runs, whatever can be. In a batch a statement that is refused now gets another chance when it is
    /// its turn: what comes before may be what it needs.
    async fn prepare_ahead(&mut self, lease: &mut Lease) -> Result<(), Fault> {
        let late = self.unit.prepared_late_from();
        let mut wanted: Vec<usize> = Vec::new();
        for (index, statement) in self.unit.statements.iter().enumerate() {
            self.prepared[index] = prepare::known(lease, statement);
            let twin = |other: &usize| self.unit.statements[*other].key() == statement.key();
            if self.prepared[index].is_none() && index < late && !wanted.iter().any(twin) {
                wanted.push(index);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let statements: Vec<_> = wanted.iter().map(|index| &self.unit.statements[*index]).collect();
        let made = prepare::prepare(lease, &statements).await?;
        for (index, made) in wanted.into_iter().zip(made) {
            match made {
                Ok(prepared) => self.share(index, &prepared),
                Err(Unprepared::Server(_)) if self.unit.statements.len() > 1 => {}
                Err(error) => return Err(error.of(index)),
            }
        }
        Ok(())
    }

    async fn prepare_now(&mut self, lease: &mut Lease, index: usize) -> Result<(), Fault> {
        let made = prepare::prepare(lease, &[&self.unit.statements[index]]).await?;
        for made in made {
            let prepared = made.map_err(|error| error.of(index))?;
            self.prepared[index] = Some(prepared);
        }
        Ok(())
    }

    /// The same text is prepared once.
    fn share(&mut self, index: usize, prepared: &Arc<Prepared>) {
        let key = self.unit.statements[index].key();
        let late = self.unit.prepared_late_from();
        for (other, statement) in self.unit.statements.iter().enumerate().take(late) {
            if self.prepared[other].is_none() && statement.key() == key {
                self.prepared[other] = Some(Arc::clone(prepared));
            }
        }
    }

    /// Sends steps in one write, and reads to the server's readiness.
    async fn exchange(
        &mut self,
        lease: &mut Lease,
        steps: &[Step<'_>],
        ends: bool,
        standing: &mut Standing,
    ) -> Result<(), Fault> {
        // Not before here: the answer to what was prepared may have come just at the deadline.
        if self.deadline.has_passed() {
            let cause = Cause::Refused(QueryError::TimedOut { outcome: Outcome::NotApplied });
            return Err(Fault { statement: None, cause });
        }
        let channel = &mut lease.session_mut().channel;
        if ends && self.unit.commits() {
            standing.committing_from = Some(channel.sent_bytes());
        }
        let mut exchange = Exchange::send(channel, steps, true);
        let mut refused = None;
        loop {
            let event = match exchange.next(channel).await {
                Ok(event) => event,
                // The connection died between the commit's answer and the next word.
                Err(_) if ends && !self.unit.is_plain() && exchange.is_through() => return Ok(()),
                Err(broken) => return Err(broken.into()),
            };
            match event {
                Event::Row { statement, body } => {
                    self.results.row(statement, body, self.budget)?;
                }
                Event::Oversize { statement } => {
                    self.results.too_large(statement, TooLarge::Bytes(self.budget.max_bytes), self.budget)?;
                }
                Event::Complete { statement, tag } => {
                    standing.committed |= self.unit.is_plain();
                    self.results.complete(statement, tag, self.budget);
                }
                Event::Notice(notice) => trouble::note(&mut self.results.notices, notice),
                Event::Refused { statement, error } => {
                    standing.refused = true;
                    refused = Some(Fault { statement, cause: Cause::Server(error) });
                }
                Event::Ready => return refused.map_or(Ok(()), Err),
                Event::CopyIn | Event::CopyOut(_) | Event::CopyData(_) => {
                    let cause = QueryError::Refused("COPY does not run as a query: use the copy endpoint".to_owned());
                    return Err(Fault { statement: None, cause: Cause::Refused(cause) });
                }
            }
        }
    }

    fn check(&self, ran: std::ops::Range<usize>) -> Result<(), Fault> {
        for index in ran {
            let (expect, rows) = (self.unit.expect[index], self.results.counts[index]);
            let kept = expect.rows.is_none_or(|wanted| wanted == rows.all)
                && expect.max_affected.is_none_or(|most| rows.affected <= most);
            if !kept {
                let rows = if expect.rows.is_some_and(|wanted| wanted != rows.all) { rows.all } else { rows.affected };
                return Err(Fault { statement: Some(index), cause: Cause::Unexpected { expect, rows } });
            }
        }
        Ok(())
    }
}

/// What the statements of a unit have brought so far.
#[derive(Default)]
struct Results {
    /// Results that belong to others, at the front of `done`.
    earlier: usize,
    done: Vec<Vec<u8>>,
    counts: Vec<Count>,
    /// Layouts of the statements on their way, from `first` on.
    columns: Vec<Arc<Columns>>,
    first: usize,
    writer: Option<RowWriter>,
    bytes: u64,
    notices: Vec<Notice>,
    too_large: Option<(usize, TooLarge)>,
}

/// Rows of one statement.
#[derive(Debug, Clone, Copy)]
struct Count {
    all: u64,
    affected: u64,
}

impl Results {
    fn writer(&mut self, statement: usize, budget: Budget) -> &mut RowWriter {
        let columns = &self.columns[statement - self.first];
        let left = budget.max_bytes.saturating_sub(self.bytes);
        self.writer.get_or_insert_with(|| RowWriter::new(Arc::clone(columns), left, budget.max_rows))
    }

    fn row(&mut self, statement: usize, body: &[u8], budget: Budget) -> Result<(), Fault> {
        if self.too_large.is_some() {
            return Ok(());
        }
        match self.writer(statement, budget).push(frame::values(body)) {
            Ok(()) => Ok(()),
            Err(RowError::TooLarge(limit)) => self.too_large(statement, limit, budget),
            Err(RowError::BadLiteral(_)) => Err(Fault { statement: Some(statement), cause: Cause::SchemaChanged }),
        }
    }

    /// Reading on costs only time, but the outcome of an effect is known only at the end.
    fn too_large(&mut self, statement: usize, limit: TooLarge, budget: Budget) -> Result<(), Fault> {
        if budget.harmless {
            return Err(Fault { statement: Some(statement), cause: Cause::TooLarge { limit, done: false } });
        }
        self.too_large.get_or_insert((statement, limit));
        Ok(())
    }

    fn complete(&mut self, statement: usize, tag: &str, budget: Budget) {
        self.writer(statement, budget);
        let Some(writer) = self.writer.take() else { return };
        let all = writer.count(tag);
        let affects = ["INSERT", "UPDATE", "DELETE", "MERGE"].iter().any(|command| tag.starts_with(command));
        self.counts.push(Count { all, affected: if affects { all } else { 0 } });
        let body = writer.finish(tag, &std::mem::take(&mut self.notices));
        self.bytes += body.len() as u64;
        self.done.push(body);
    }

    fn verdict(&self, done: bool) -> Result<(), Fault> {
        let fault = |(statement, limit)| Fault { statement: Some(statement), cause: Cause::TooLarge { limit, done } };
        self.too_large.map_or(Ok(()), |too_large| Err(fault(too_large)))
    }
}
