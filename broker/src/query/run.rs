//! From a unit of work to its answer: checkout, attempt, and what is known of the effect when something goes wrong.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_client::wire::Outcome;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::error::SqlState;

use super::attempt::{Attempt, Budget, Cause, Fault, Standing};
use super::error::{Failure, QueryError};
use super::habits::Habits;
use super::laned;
use super::unit::{Caller, Unit};
use crate::base::Deadline;
use crate::observe::RouteMetrics;
use crate::pool::postgres::{Broken, Cleanup, ServerError, ask, capacity};
use crate::pool::{Account, Consistency, Database, Lease, PoolError, Want};

/// How long a cancelled statement may take to end before its outcome counts as unknown.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// Runs of one request: the first, and one more where it is certain that nothing was applied. A pooled connection may have
/// died unnoticed; a second one that dies is news for the caller.
const ATTEMPTS: u32 = 2;
/// Runs of one batch that lost to another transaction: the first and three more.
const CONFLICT_ATTEMPTS: u32 = 4;
/// The longest pause before a batch that lost is run again; twice as long each time. Short: the other one is through already.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);

/// What a request may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Unit: bytes of encoded result.
    pub max_bytes: u64,
    /// Rows, if there is a ceiling.
    pub max_rows: Option<u64>,
}

/// A unit of work on its way to one database.
pub struct Run<'a> {
    /// Where.
    pub database: &'a Arc<Database>,
    /// What.
    pub unit: &'a Unit<'a>,
    /// Results of other units that its references may mean.
    pub earlier: &'a [Vec<u8>],
    /// By when.
    pub deadline: Deadline,
    /// How new at least, for what only reads.
    pub at_least: Option<Consistency>,
    /// Whether it may share a session with others.
    pub lanes: bool,
    /// How much.
    pub limits: Limits,
    /// Who asks.
    pub caller: &'a Caller,
    /// On whose account.
    pub metrics: &'a RouteMetrics,
    /// What is known of the database's statements.
    pub habits: &'a Habits,
}

/// Results and where their time went.
#[derive(Debug, Default)]
pub struct Answer {
    /// One encoded result a statement.
    pub results: Vec<Vec<u8>>,
    /// Runs of the transaction.
    pub attempts: u32,
    /// What a later read must be as new as to see this write; only where the database has replicas.
    pub written: Option<Consistency>,
    /// It was read from a replica.
    pub by_replica: bool,
    /// Time spent waiting for a connection.
    pub queue: Duration,
    /// Time spent with the database.
    pub db: Duration,
}

impl Answer {
    /// Rows of all results together: returned, or affected. Read from the results' ends, where they stand for the caller.
    pub fn rows(&self) -> u64 {
        // Within a string its quotes would be escaped, and the last one is the result's own.
        const COUNT: &[u8] = b",\"row_count\":";
        let count = |result: &Vec<u8>| {
            let start = memchr::memmem::rfind(result, COUNT)? + COUNT.len();
            let digits = result[start..].iter().take_while(|byte| byte.is_ascii_digit());
            Some(digits.fold(0_u64, |count, digit| count.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
        };
        self.results.iter().filter_map(count).sum()
    }
}

/// What to do after an attempt that gave no result.
pub(super) enum Next {
    Fail(QueryError),
    /// Nothing was applied, and another attempt may do better.
    Again(QueryError),
    /// Nothing was applied, since another transaction was first.
    Lost(QueryError),
}

impl Run<'_> {
    /// Runs the unit. It is never started after the deadline, and what runs at the deadline is cancelled.
    ///
    /// Cancel safe: a dropped run is cancelled at the server, and its connection made clean before it is lent again.
    pub async fn go(&self) -> Result<Answer, Failure> {
        if let Some(ended) = laned::run(self).await {
            return ended.map_err(Failure::from);
        }
        // Boxed, so that a statement on a lane does not carry the room for all this along.
        Box::pin(self.leased()).await
    }

    async fn leased(&self) -> Result<Answer, Failure> {
        let (mut attempt, mut conflicts) = (1, 0);
        let mut queue = Duration::ZERO;
        let start = Instant::now();
        loop {
            let asked = Instant::now();
            let mut lease =
                lease(self.database, &self.caller.account, self.unit.want(self.at_least), self.deadline, attempt > 1)
                    .await
                    .map_err(QueryError::from)?;
            lease.on_account_of(self.unit.holder(self.caller));
            let started = Instant::now();
            queue += started - asked;
            self.metrics.wait_seconds.observe((started - asked).as_secs_f64());
            let _active = self.metrics.active();
            let (next, statement) = match self.attempt(&mut lease).await {
                Ok(results) => {
                    let written = self.written(&mut lease).await;
                    let by_replica = lease.endpoint().is_replica();
                    let db = start.elapsed().saturating_sub(queue);
                    self.note(db, &results);
                    return Ok(Answer { results, attempts: conflicts + 1, written, by_replica, queue, db });
                }
                Err(failed) => failed,
            };
            drop(lease);
            match next {
                Next::Again(_) if attempt < ATTEMPTS && !self.deadline.has_passed() => attempt += 1,
                Next::Lost(error) => {
                    conflicts += 1;
                    let pause = CONFLICT_PAUSE.mul_f64(rand::random::<f64>()) * 2_u32.pow(conflicts);
                    if conflicts >= CONFLICT_ATTEMPTS || Instant::now() + pause >= self.deadline.at() {
                        return Err(failure(error, statement));
                    }
                    sleep(pause).await;
                }
                Next::Again(error) | Next::Fail(error) => return Err(failure(error, statement)),
            }
        }
    }

    /// Where the write's history stands now, at or after its commit. Without an answer in time there is no token, and no harm.
    async fn written(&self, lease: &mut Lease) -> Option<Consistency> {
        if !self.database.is_replicated() || self.unit.is_read_only() {
            return None;
        }
        lease.begin();
        let channel = &mut lease.session_mut().channel;
        let asked = timeout_at(self.deadline.at(), capacity::written(channel)).await.ok()?.ok()?;
        lease.finish();
        asked.map(|lsn| lease.consistency(lsn))
    }

    fn note(&self, took: Duration, results: &[Vec<u8>]) {
        if let ([statement], [body]) = (&*self.unit.statements, results) {
            self.habits.note(&self.habits.of(&statement.key()), took, body.len());
        }
    }

    async fn attempt(&self, lease: &mut Lease) -> Result<Vec<Vec<u8>>, (Next, Option<usize>)> {
        learn_names(lease, self.deadline).await;
        lease.begin();
        lease.needs(self.unit.cleanup(self.database.catalog().names().as_deref()));
        let mut standing = Standing::default();
        match self.within_deadline(lease, &mut standing).await {
            Ok(Ok(results)) => {
                lease.finish();
                if self.unit.changes_schema() {
                    self.database.schema_changed();
                }
                Ok(results)
            }
            Ok(Err(Fault { statement, cause })) => Err((self.explain(lease, cause, &standing), statement)),
            Err(outcome) => Err((Next::Fail(QueryError::TimedOut { outcome }), None)),
        }
    }

    /// One attempt within the deadline. `Err`: the deadline passed, with what is known of the effect.
    async fn within_deadline(
        &self,
        lease: &mut Lease,
        standing: &mut Standing,
    ) -> Result<Result<Vec<Vec<u8>>, Fault>, Outcome> {
        let canceller = lease.canceller();
        let Limits { max_bytes, max_rows } = self.limits;
        let budget = Budget { max_bytes, max_rows, harmless: self.is_harmless() };
        let mut late = false;
        let ended = {
            let mut running = pin!(Attempt::new(self.unit, budget, self.deadline, self.earlier).run(lease, standing));
            if let Ok(ended) = timeout_at(self.deadline.at(), &mut running).await {
                Some(ended)
            } else {
                let ended = canceller.cancel().await;
                if let Err(error) = &ended {
                    tracing::warn!(backend.name = %self.database.name(), error = %error, "a cancellation did not get through");
                }
                late = ended.is_err();
                // The cancelled statement says itself what became of it: refused with 57014, or finished just before.
                timeout(CANCEL_GRACE, running).await.ok()
            }
        };
        if late {
            // The cancellation may still arrive, and would then hit the next caller.
            lease.needs(Cleanup::Discard);
        }
        ended.ok_or_else(|| self.if_lost(lease, standing))
    }

    /// What became of an effect that the server did not tell of.
    fn if_lost(&self, lease: &Lease, standing: &Standing) -> Outcome {
        let sent = lease.session().channel.sent_bytes();
        let nothing_committed = standing.committing_from.is_none_or(|from| sent == from);
        let refused = standing.refused && self.if_refused() == Outcome::NotApplied;
        if nothing_committed || refused || self.is_harmless() { Outcome::NotApplied } else { Outcome::Unknown }
    }

    /// A refusal rolls everything back, but for code that may have committed halfway.
    fn if_refused(&self) -> Outcome {
        if self.unit.may_commit_halfway() { Outcome::Unknown } else { Outcome::NotApplied }
    }

    /// It can have no effect, nor leave anything in a session, by what its statements say alone.
    pub(super) fn is_pure(&self) -> bool {
        let names = self.database.catalog().names();
        self.unit.statements.iter().all(|statement| statement.is_pure_read(names.as_deref()))
    }

    /// Without effect whatever happens to it.
    pub(super) fn is_harmless(&self) -> bool {
        self.unit.is_harmless(self.database.catalog().names().as_deref())
    }

    fn explain(&self, lease: &mut Lease, cause: Cause, standing: &Standing) -> Next {
        match cause {
            Cause::Refused(error) => {
                finish_if_idle(lease);
                Next::Fail(error)
            }
            Cause::Unexpected { expect, rows } => {
                finish_if_idle(lease);
                Next::Fail(QueryError::Unexpected { expect, rows })
            }
            Cause::TooLarge { limit, done } => {
                if done {
                    lease.finish();
                }
                let applied = done && !self.is_harmless();
                let outcome = if applied { Outcome::Applied } else { Outcome::NotApplied };
                Next::Fail(QueryError::TooLarge { limit, outcome })
            }
            Cause::SchemaChanged => {
                self.database.schema_changed();
                lease.needs(Cleanup::Discard);
                let harmless = self.is_harmless();
                let outcome = if harmless { Outcome::NotApplied } else { Outcome::Unknown };
                let error = QueryError::SchemaChanged { outcome };
                if harmless { Next::Again(error) } else { Next::Fail(error) }
            }
            Cause::Server(error) => self.refused(lease, error),
            Cause::Broken(broken) => self.lost(lease, broken, standing),
        }
    }

    fn refused(&self, lease: &mut Lease, error: Box<ServerError>) -> Next {
        finish_if_idle(lease);
        let outcome = self.if_refused();
        if error.state == SqlState::QUERY_CANCELED {
            return Next::Fail(QueryError::TimedOut { outcome });
        }
        let statement_is_gone = error.state == SqlState::INVALID_SQL_STATEMENT_NAME;
        let is_stale = error.is_stale_plan();
        if is_stale {
            self.database.schema_changed();
            lease.session_mut().forget_all();
        }
        if statement_is_gone {
            lease.needs(Cleanup::Discard);
        }
        let lost = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(&error.state);
        let error = QueryError::Database { db: error, outcome };
        match outcome {
            Outcome::NotApplied if lost && self.unit.may_run_again() => Next::Lost(error),
            Outcome::NotApplied if is_stale || statement_is_gone => Next::Again(error),
            _ => Next::Fail(error),
        }
    }

    fn lost(&self, lease: &Lease, broken: Broken, standing: &Standing) -> Next {
        // The server's last words came in order: without an answer to what commits before them, there was no commit.
        let refused_first = matches!(broken, Broken::Ended(_)) && self.if_refused() == Outcome::NotApplied;
        let outcome =
            if refused_first && !standing.committed { Outcome::NotApplied } else { self.if_lost(lease, standing) };
        let error = QueryError::Lost { outcome, source: Box::new(broken) };
        if outcome == Outcome::NotApplied { Next::Again(error) } else { Next::Fail(error) }
    }
}

/// The lease's connection is clean, if the server has answered everything and no transaction is open.
fn finish_if_idle(lease: &mut Lease) {
    if lease.session().channel.is_idle() {
        lease.finish();
    }
}

fn failure(error: QueryError, statement: Option<usize>) -> Failure {
    Failure { statement, ..error.into() }
}

/// A connection; after one was found dead, one that has just given a sign of life. What killed the first, a restart or a
/// failover, often killed the pool's others too, and each would cost an attempt to find out.
pub(super) async fn lease(
    database: &Arc<Database>,
    account: &Arc<Account>,
    want: Want,
    deadline: Deadline,
    alive: bool,
) -> Result<Lease, PoolError> {
    loop {
        let mut lease = database.checkout(account, want, deadline).await?;
        if !alive {
            return Ok(lease);
        }
        lease.begin();
        let sign = timeout_at(deadline.at(), ask::command(&mut lease.session_mut().channel, "")).await;
        if matches!(sign, Ok(Ok(()))) {
            lease.finish();
            return Ok(lease);
        }
        // Dropped as it is: closed, or made clean. A pool has no more dead connections than it has connections, and a new
        // one that cannot be opened ends the loop.
    }
}

/// Reads the database's own names once for the pool, and again after the schema changed. Without them a call counts as
/// unknown and costs a reset, so a failure here is not the caller's.
pub(super) async fn learn_names(lease: &mut Lease, deadline: Deadline) {
    let database = Arc::clone(lease.database());
    if database.catalog().names().is_some() {
        return;
    }
    lease.begin();
    match timeout_at(deadline.at(), database.catalog().load(&mut lease.session_mut().channel)).await {
        Ok(Ok(())) => lease.finish(),
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "the names of `{}` could not be read", database.name());
        }
        Err(_) => {}
    }
}
