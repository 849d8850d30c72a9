//! From a statement to its answer: checkout, exchange, and what is known of the effect when something goes wrong.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_client::wire::Outcome;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::error::{Severity, SqlState};

use super::error::QueryError;
use super::exchange::{self, Budget, Fault};
use super::habits::Habits;
use super::laned;
use super::statement::Statement;
use crate::base::Deadline;
use crate::encode::TextParam;
use crate::observe::RouteMetrics;
use crate::pool::postgres::{Cleanup, Prepared};
use crate::pool::{Database, Lease};

/// How long a cancelled statement may take to end before its outcome counts as unknown.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// How long the server may take from its refusal to being ready again. It only has to roll back.
const READY_GRACE: Duration = Duration::from_secs(1);
/// Runs of one request: the first, and one more where it is certain that nothing was applied. A pooled connection may have
/// died unnoticed; a second one that dies is news for the caller.
const ATTEMPTS: u32 = 2;

/// What a request may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Unit: bytes of encoded result.
    pub max_bytes: u64,
    /// Rows, if the request names a ceiling.
    pub max_rows: Option<u64>,
    /// Run READ ONLY, enforced by the server.
    pub read_only: bool,
}

/// A statement on its way to one database.
pub struct Run<'a> {
    /// Where.
    pub database: &'a Arc<Database>,
    /// What.
    pub statement: &'a Statement<'a>,
    /// By when.
    pub deadline: Deadline,
    /// How much.
    pub limits: Limits,
    /// On whose account.
    pub metrics: &'a RouteMetrics,
    /// What is known of the database's statements.
    pub habits: &'a Habits,
}

/// A result and where its time went.
#[derive(Debug)]
pub struct Answer {
    /// The response body.
    pub body: Vec<u8>,
    /// Time spent waiting for a connection.
    pub queue: Duration,
    /// Time spent with the database.
    pub db: Duration,
}

/// What to do after an attempt that gave no result.
enum Next {
    Fail(QueryError),
    /// Nothing was applied, and another attempt may do better.
    Again(QueryError),
}

impl Run<'_> {
    /// Runs the statement. It is never started after the deadline, and what runs at the deadline is cancelled.
    ///
    /// Cancel safe: a dropped run is cancelled at the server, and its connection made clean before it is lent again.
    pub async fn go(&self) -> Result<Answer, QueryError> {
        if let Some(ended) = laned::run(self).await {
            return ended;
        }
        let mut attempt = 1;
        loop {
            let asked = Instant::now();
            let mut lease = self.lease(attempt > 1).await?;
            let started = Instant::now();
            let queue = started - asked;
            self.metrics.wait_seconds.observe(queue.as_secs_f64());
            let _active = self.metrics.active();
            match self.attempt(&mut lease).await {
                Ok(body) => {
                    let db = started.elapsed();
                    self.habits.note(&self.statement.key(), db, body.len());
                    return Ok(Answer { body, queue, db });
                }
                Err(Next::Again(_)) if attempt < ATTEMPTS && !self.deadline.has_passed() => attempt += 1,
                Err(Next::Again(error) | Next::Fail(error)) => return Err(error),
            }
        }
    }

    /// A connection; after one was found dead, one that has just given a sign of life. What killed the first, a restart or a
    /// failover, often killed the pool's others too, and each would cost an attempt to find out.
    async fn lease(&self, alive: bool) -> Result<Lease, QueryError> {
        loop {
            let mut lease = self.database.checkout(self.deadline).await?;
            if !alive {
                return Ok(lease);
            }
            lease.begin();
            let sign = timeout_at(self.deadline.at(), lease.session().client.batch_execute("")).await;
            if matches!(sign, Ok(Ok(()))) {
                lease.finish();
                return Ok(lease);
            }
            // Dropped as it is: closed, or made clean. A pool has no more dead connections than it has connections, and a new
            // one that cannot be opened ends the loop.
        }
    }

    async fn attempt(&self, lease: &mut Lease) -> Result<Vec<u8>, Next> {
        self.learn_names(lease).await;
        lease.begin();
        let cleanup = self.statement.cleanup(self.database.catalog().names().as_deref());
        lease.needs(cleanup);
        let mut executed_from = None;
        let ended = match self.exchange(lease, &mut executed_from).await {
            Ok(ended) => ended,
            Err(outcome) => return Err(Next::Fail(QueryError::TimedOut { outcome })),
        };
        match ended {
            Ok(body) => {
                lease.finish();
                if self.statement.changes_schema() && !self.limits.read_only {
                    self.database.schema_changed();
                }
                Ok(body)
            }
            Err(fault) => {
                // Preparing has no effect, so only what left after it can have had one.
                let sent = lease.session().observed.sent_bytes();
                let nothing_executed = executed_from.is_none_or(|from| sent == from);
                Err(self.explain(lease, fault, nothing_executed).await)
            }
        }
    }

    /// Reads the database's own names once for the pool, and again after the schema changed. Without them a call counts as
    /// unknown and costs a reset, so a failure here is not the caller's.
    async fn learn_names(&self, lease: &mut Lease) {
        if self.database.catalog().names().is_some() {
            return;
        }
        lease.begin();
        match timeout_at(self.deadline.at(), self.database.catalog().load(&lease.session().client)).await {
            Ok(Ok(())) => lease.finish(),
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "the names of `{}` could not be read", self.database.name());
            }
            Err(_) => {}
        }
    }

    /// One exchange within the deadline. `Err`: the deadline passed, with what is known of the effect. `executed_from` is set to
    /// the socket's count of bytes just before the statement itself is sent.
    async fn exchange(
        &self,
        lease: &mut Lease,
        executed_from: &mut Option<u64>,
    ) -> Result<Result<Vec<u8>, Fault>, Outcome> {
        let prepared = match timeout_at(self.deadline.at(), exchange::prepare(lease, self.statement)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(fault)) => return Ok(Err(fault)),
            Err(_) => return Err(Outcome::NotApplied),
        };
        let values = match exchange::bind(self.statement, &prepared) {
            Ok(values) => values,
            Err(refused) => return Ok(Err(Fault::Refused(refused))),
        };
        // Not before here: the answer to a Parse that waited on a lock may come just at the deadline.
        if self.deadline.has_passed() {
            return Err(Outcome::NotApplied);
        }
        let Limits { max_bytes, max_rows, read_only } = self.limits;
        let budget = Budget { max_bytes, max_rows, read_only, deadline: self.deadline, harmless: self.is_harmless() };
        *executed_from = Some(lease.session().observed.sent_bytes());
        let (ended, late) = self.execute(lease, &prepared, values, budget).await;
        if late {
            lease.needs(Cleanup::Discard);
        }
        ended
    }

    /// Runs what is prepared, cancelled at the deadline. The second value is true where a cancellation may still arrive, and
    /// would then hit the next caller.
    async fn execute(
        &self,
        lease: &Lease,
        prepared: &Prepared,
        values: Vec<TextParam>,
        budget: Budget,
    ) -> (Result<Result<Vec<u8>, Fault>, Outcome>, bool) {
        let mut running = pin!(exchange::execute(lease, self.statement, prepared, values, budget));
        if let Ok(ended) = timeout_at(self.deadline.at(), &mut running).await {
            return (Ok(ended), false);
        }
        let cancelled = lease.cancel().await;
        if let Err(error) = &cancelled {
            tracing::warn!(backend.name = %self.database.name(), error = %error, "a cancellation did not get through");
        }
        // The cancelled statement says itself what became of it: refused with 57014, or finished just before.
        let ended = timeout(CANCEL_GRACE, running).await.map_err(|_| self.if_unknown());
        (ended, cancelled.is_err())
    }

    /// What became of an effect that nobody could be asked about.
    fn if_unknown(&self) -> Outcome {
        if self.limits.read_only { Outcome::NotApplied } else { Outcome::Unknown }
    }

    async fn explain(&self, lease: &mut Lease, fault: Fault, nothing_executed: bool) -> Next {
        match fault {
            Fault::Refused(error) => {
                lease.finish();
                Next::Fail(error)
            }
            Fault::TooLarge { limit, done } => {
                if done {
                    lease.finish();
                }
                Next::Fail(QueryError::TooLarge {
                    limit,
                    outcome: if done { Outcome::Applied } else { Outcome::NotApplied },
                })
            }
            Fault::SchemaChanged => {
                self.database.schema_changed();
                lease.needs(Cleanup::Discard);
                let outcome = if self.is_harmless() { Outcome::NotApplied } else { Outcome::Unknown };
                let error = QueryError::SchemaChanged { outcome };
                if self.is_harmless() { Next::Again(error) } else { Next::Fail(error) }
            }
            Fault::Driver(error) => match error.as_db_error() {
                Some(db) if is_fatal(db) => self.lost(lease, error, nothing_executed),
                Some(_) => self.refused(lease, error).await,
                None if error.is_closed() || lease.session().client.is_closed() => {
                    self.lost(lease, error, nothing_executed)
                }
                None => Next::Fail(QueryError::Driver { outcome: self.if_unknown(), source: error }),
            },
        }
    }

    /// A statement without effect whatever happens to it.
    pub(super) fn is_harmless(&self) -> bool {
        self.limits.read_only || self.statement.is_pure_read(self.database.catalog().names().as_deref())
    }

    /// A refusal rolls everything back, but for code that may have committed halfway.
    fn if_refused(&self) -> Outcome {
        if self.statement.runs_code() && !self.limits.read_only { Outcome::Unknown } else { Outcome::NotApplied }
    }

    async fn refused(&self, lease: &mut Lease, error: tokio_postgres::Error) -> Next {
        // The refusal comes before the server is ready again; without waiting, a clean session would count as a dirty one.
        if timeout(READY_GRACE, lease.session().observed.quiet()).await.is_ok() {
            lease.finish();
        }
        let Some(db) = error.as_db_error().cloned() else {
            return Next::Fail(QueryError::Driver { outcome: self.if_unknown(), source: error });
        };
        if *db.code() == SqlState::QUERY_CANCELED {
            return Next::Fail(QueryError::TimedOut { outcome: self.if_refused() });
        }
        let plan_is_stale =
            *db.code() == SqlState::FEATURE_NOT_SUPPORTED && db.routine() == Some("RevalidateCachedQuery");
        let statement_is_gone = *db.code() == SqlState::INVALID_SQL_STATEMENT_NAME;
        if plan_is_stale {
            self.database.schema_changed();
            let key = self.statement.key();
            lease.session_mut().prepared.remove(&key);
        }
        if statement_is_gone {
            lease.needs(Cleanup::Discard);
        }
        let error = QueryError::Database { db: Box::new(db), outcome: self.if_refused() };
        if plan_is_stale || statement_is_gone { Next::Again(error) } else { Next::Fail(error) }
    }

    fn lost(&self, lease: &Lease, error: tokio_postgres::Error, nothing_executed: bool) -> Next {
        let observed = &lease.session().observed;
        // The server's last words came in order: without a command tag before them there was no commit.
        let refused_first =
            error.as_db_error().is_some() && !observed.has_completed() && self.if_refused() == Outcome::NotApplied;
        let outcome = if nothing_executed || refused_first || self.is_harmless() {
            Outcome::NotApplied
        } else {
            Outcome::Unknown
        };
        let error = QueryError::Lost { outcome, source: Box::new(error) };
        if outcome == Outcome::NotApplied { Next::Again(error) } else { Next::Fail(error) }
    }
}

/// The server ends the session with this error.
fn is_fatal(db: &tokio_postgres::error::DbError) -> bool {
    matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
}
