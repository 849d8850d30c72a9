//! Bulk data in: `COPY … FROM STDIN`, fed from a request's body, in one transaction.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use hearth_client::wire::{CopyResponse, Outcome};
use postgres_protocol::message::frontend;
use tokio::time::{Instant, timeout_at};

use super::error::{Failure, QueryError};
use super::exchange::{Event, Exchange, Step};
use super::prepare;
use super::run::{learn_names, lease};
use super::trouble::{self, Trouble};
use super::unit::{Caller, Unit};
use crate::base::Deadline;
use crate::encode::rows::split_tag;
use crate::observe::RouteMetrics;
use crate::pool::{Database, Lease, Want};

/// One message of data is no longer than this. Unit: bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Where the data come from.
pub trait Source {
    /// The next piece; `None` at the end. Errors: text about data that broke off, after which nothing may be loaded.
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, String>>> + Send;
}

/// A COPY on its way to one database.
pub struct CopyIn<'a> {
    /// Where.
    pub database: &'a Arc<Database>,
    /// What: one COPY, in a transaction.
    pub unit: &'a Unit<'a>,
    /// By when it must be over.
    pub deadline: Deadline,
    /// The longest its sender may send nothing.
    pub sender_timeout: Duration,
    /// Who asks.
    pub caller: &'a Caller,
    /// On whose account.
    pub metrics: &'a RouteMetrics,
}

/// What was loaded, and where the time went.
pub struct Loaded {
    /// The answer.
    pub response: CopyResponse,
    /// Time spent waiting for a connection.
    pub queue: Duration,
    /// Time spent with the database.
    pub db: Duration,
}

impl CopyIn<'_> {
    /// Loads everything or nothing. A dropped future loads nothing.
    pub async fn go(&self, source: &mut impl Source) -> Result<Loaded, Failure> {
        let asked = Instant::now();
        // Nothing of the source is read before the database waits for it, so a connection that is found dead costs nothing.
        let mut attempt = 1;
        let (mut lease, mut exchange, started) = loop {
            let mut lease = lease(self.database, &self.caller.account, Want::Write, self.deadline, attempt > 1)
                .await
                .map_err(QueryError::from)?;
            lease.on_account_of(self.unit.holder(self.caller));
            let started = Instant::now();
            self.metrics.wait_seconds.observe((started - asked).as_secs_f64());
            learn_names(&mut lease, self.deadline).await;
            lease.begin();
            lease.needs(self.unit.cleanup(self.database.catalog().names().as_deref()));
            match timeout_at(self.deadline.at(), self.begin(&mut lease)).await {
                Ok(Ok(exchange)) => break (lease, exchange, started),
                Ok(Err(trouble)) if attempt == 1 && trouble.is_dead_connection() => attempt += 1,
                Ok(Err(trouble)) => return Err(self.give_up(&mut lease, trouble).await),
                Err(_) => return Err(QueryError::TimedOut { outcome: Outcome::NotApplied }.into()),
            }
        };
        let _active = self.metrics.active();
        let mut response = CopyResponse { command: "COPY".to_owned(), rows: 0, bytes: 0, notices: Vec::new() };
        let fed = timeout_at(self.deadline.at(), self.feed(&mut lease, &mut exchange, source, &mut response)).await;
        match fed {
            Ok(Ok(())) => {}
            Ok(Err(trouble)) => return Err(self.give_up(&mut lease, trouble).await),
            Err(_) => {
                trouble::settle(&mut lease).await;
                return Err(QueryError::TimedOut { outcome: Outcome::NotApplied }.into());
            }
        }
        if let Some(max) = self.unit.expect[0].max_affected.filter(|max| response.rows > *max) {
            trouble::settle(&mut lease).await;
            let expect = super::Expect { rows: None, max_affected: Some(max) };
            return Err(QueryError::Unexpected { expect, rows: response.rows }.into());
        }
        lease.session_mut().close_loose();
        trouble::commit(&mut lease, &self.unit.closing(), self.deadline).await?;
        Ok(Loaded { response, queue: started - asked, db: started.elapsed() })
    }

    /// Up to where the database waits for data.
    async fn begin(&self, lease: &mut Lease) -> Result<Exchange, Trouble> {
        let statement = &self.unit.statements[0];
        let mut steps = self.unit.opening();
        if self.unit.prepared_late_from() == 0 {
            trouble::run_own(lease, &std::mem::take(&mut steps)).await?;
        }
        let prepared = prepare::one(lease, statement).await?;
        steps.push(Step::Run { statement: 0, prepared: &prepared, values: Vec::new() });
        trouble::in_time(self.deadline)?;
        // Nothing but data may follow, so the statement is closed when all is over.
        let mut exchange = Exchange::send(&mut lease.session_mut().channel, &steps, false);
        loop {
            match exchange.next(&mut lease.session_mut().channel).await? {
                Event::CopyIn => return Ok(exchange),
                Event::Refused { error, .. } => return Err(Trouble::Server(error)),
                Event::Notice(_) => {}
                _ => return Err(QueryError::Refused("`sql` must be a COPY … FROM STDIN".to_owned()).into()),
            }
        }
    }

    async fn feed(
        &self,
        lease: &mut Lease,
        exchange: &mut Exchange,
        source: &mut impl Source,
        response: &mut CopyResponse,
    ) -> Result<(), Trouble> {
        let channel = &mut lease.session_mut().channel;
        loop {
            let next = timeout_at(Instant::now() + self.sender_timeout, source.next()).await;
            let piece = match next {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(broke_off))) => return Err(QueryError::Refused(broke_off).into()),
                Ok(None) => break,
                Err(_) => return Err(QueryError::SenderTooSlow { waited: self.sender_timeout }.into()),
            };
            response.bytes += piece.len() as u64;
            for data in piece.chunks(PIECE_BYTES) {
                channel.queue(|out| {
                    out.put_u8(b'd');
                    out.put_u32(u32::try_from(data.len() + 4).expect("a piece is short"));
                    out.extend_from_slice(data);
                });
                loop {
                    channel.flush().await?;
                    // A refusal comes while data are still being sent.
                    while channel.has_message() {
                        match exchange.next(channel).await? {
                            Event::Refused { error, .. } => return Err(Trouble::Server(error)),
                            Event::Notice(notice) => trouble::note(&mut response.notices, notice),
                            _ => {}
                        }
                    }
                    if channel.is_flushed() {
                        break;
                    }
                }
            }
        }
        channel.queue(frontend::copy_done);
        channel.sync();
        let mut refused = None;
        loop {
            match exchange.next(channel).await? {
                Event::Complete { tag, .. } => response.rows = split_tag(tag).1.unwrap_or(0),
                Event::Refused { error, .. } => refused = Some(error),
                Event::Notice(notice) => trouble::note(&mut response.notices, notice),
                Event::Ready => return refused.map_or(Ok(()), |error| Err(Trouble::Server(error))),
                _ => {}
            }
        }
    }

    async fn give_up(&self, lease: &mut Lease, trouble: Trouble) -> Failure {
        if !trouble.is_dead_connection() {
            trouble::settle(lease).await;
        }
        trouble.into_failure(Outcome::NotApplied)
    }
}
