//! What one request wants run: one statement that commits by itself, or one transaction of several.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use hearth_client::wire::{Isolation, Transaction};

use super::error::QueryError;
use super::exchange::Step;
use super::statement::Statement;
use crate::base::RequestId;
use crate::pool::postgres::Cleanup;
use crate::pool::postgres::catalog::Names;
use crate::pool::{Account, Consistency, Holder, Want};

/// Settings of one request. Row-level security takes a few.
const MAX_SETTINGS: usize = 100;
/// References of one batch: each reads a whole earlier result.
const MAX_REFERENCES: usize = 256;

/// Of a text, what its fingerprint is made of.
const FINGERPRINT_BYTES: usize = 512;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// By which request.
    pub request: RequestId,
    /// On whose account.
    pub account: Arc<Account>,
}

/// What must hold for a statement's count of rows; else everything is rolled back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect {
    /// Exactly so many.
    pub rows: Option<u64>,
    /// Affected, and no more than so many.
    pub max_affected: Option<u64>,
}

/// What one request wants run, all or nothing.
pub struct Unit<'a> {
    /// The statements, in order.
    pub statements: Vec<Statement<'a>>,
    /// What must hold for each.
    pub expect: Vec<Expect>,
    /// How the transaction is begun; without one, the only statement commits by itself.
    begin: Option<Transaction>,
    /// Settings for the transaction alone.
    settings: Vec<&'a str>,
    /// Roll back in the end.
    dry_run: bool,
    /// The caller asked for the transaction, so that all of it is here, and may be run again.
    is_batch: bool,
}

impl<'a> Unit<'a> {
    /// One statement, by itself where nothing asks for a transaction around it. Errors: [`QueryError::Refused`].
    pub fn one(
        statement: Statement<'a>,
        expect: Expect,
        read_only: bool,
        settings: &'a BTreeMap<String, String>,
        dry_run: bool,
    ) -> Result<Self, QueryError> {
        let plain =
            !read_only && !dry_run && settings.is_empty() && expect.rows.is_none() && expect.max_affected.is_none();
        let begin = (!plain).then(|| Transaction { read_only, ..Transaction::default() });
        Self { begin, ..Self::new(vec![statement], vec![expect], settings, dry_run)? }.checked()
    }

    /// Several statements in one transaction. Errors: [`QueryError::Refused`].
    pub fn batch(
        statements: Vec<Statement<'a>>,
        expect: Vec<Expect>,
        begin: Transaction,
        settings: &'a BTreeMap<String, String>,
        dry_run: bool,
    ) -> Result<Self, QueryError> {
        Self { begin: Some(begin), is_batch: true, ..Self::new(statements, expect, settings, dry_run)? }.checked()
    }

    fn new(
        mut statements: Vec<Statement<'a>>,
        expect: Vec<Expect>,
        settings: &'a BTreeMap<String, String>,
        dry_run: bool,
    ) -> Result<Self, QueryError> {
        if settings.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(QueryError::Refused("a setting contains a NUL character".to_owned()));
        }
        if settings.len() > MAX_SETTINGS {
            return Err(QueryError::Refused(format!("there are more than {MAX_SETTINGS} settings")));
        }
        let mut names: Vec<String> = settings.keys().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(QueryError::Refused("a setting stands twice; their names do not differ by case".to_owned()));
        }
        let references: usize = statements.iter().map(Statement::references).sum();
        if references > MAX_REFERENCES {
            return Err(QueryError::Refused(format!("there are more than {MAX_REFERENCES} references")));
        }
        let path = settings.iter().find(|(name, _)| name.eq_ignore_ascii_case("search_path"));
        for statement in &mut statements {
            statement.search_path = path.map(|(_, path)| path.as_str());
        }
        let settings = settings.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
        Ok(Self { statements, expect, begin: None, settings, dry_run, is_batch: false })
    }

    /// The same for the same first statement, and telling nothing of it.
    fn fingerprint(&self) -> u64 {
        let Some(first) = self.statements.first() else { return 0 };
        let mut hasher = DefaultHasher::new();
        // Texts that long differ at their beginnings or in their lengths.
        hasher.write(first.sql.as_bytes().get(..FINGERPRINT_BYTES).unwrap_or(first.sql.as_bytes()));
        hasher.write_usize(first.sql.len());
        hasher.finish()
    }

    /// Who holds the session that it runs on.
    pub fn holder(&self, caller: &Caller) -> Holder {
        let (request, tenant) = (caller.request.clone(), caller.account.tenant().clone());
        Holder { request, tenant, fingerprint: self.fingerprint() }
    }

    /// The kind of server it wants. What was not said to be read only reads from the primary: its caller may have just written.
    pub fn want(&self, at_least: Option<Consistency>) -> Want {
        if self.is_read_only() { Want::Read(at_least) } else { Want::Write }
    }

    fn checked(self) -> Result<Self, QueryError> {
        for (index, (statement, expect)) in self.statements.iter().zip(&self.expect).enumerate() {
            if self.is_read_only() && statement.may_set() {
                return Err(QueryError::Refused(
                    "what only reads may not change settings, nor run code that could: it would write after all"
                        .to_owned(),
                ));
            }
            if expect.max_affected.is_some() && statement.hides_its_writes() {
                return Err(QueryError::Refused(
                    "`max_affected` cannot count what a statement writes inside WITH, SELECT … INTO, TRUNCATE or code"
                        .to_owned(),
                ));
            }
            if self.is_batch && statement.refers_to().is_some_and(|earlier| earlier >= index) {
                return Err(QueryError::Refused(format!(
                    "statement {index} has a `$ref` to one that does not come before it"
                )));
            }
        }
        Ok(self)
    }

    /// In a transaction in any case, which may last so long: the server's own limit is made for short statements. Unit:
    /// milliseconds, as text.
    #[must_use]
    pub fn lasting(mut self, timeout_ms: &'a str) -> Self {
        self.begin.get_or_insert_default();
        self.settings.extend(["statement_timeout", timeout_ms]);
        self
    }

    /// True for a statement that commits by itself.
    pub fn is_plain(&self) -> bool {
        self.begin.is_none()
    }

    /// True for one statement with nothing around it but READ ONLY, which a lane is anyway.
    pub fn is_bare(&self) -> bool {
        let read_only_alone = Transaction { read_only: true, ..Transaction::default() };
        !self.is_batch
            && !self.dry_run
            && self.settings.is_empty()
            && self.begin.is_none_or(|begin| begin == read_only_alone)
    }

    /// True where a serialization failure or a deadlock may be tried again.
    pub fn may_run_again(&self) -> bool {
        self.is_batch
    }

    /// The server enforces that nothing is written.
    pub fn is_read_only(&self) -> bool {
        self.begin.is_some_and(|begin| begin.read_only)
    }

    /// True where it can have no effect whatever becomes of it.
    pub fn is_harmless(&self, names: Option<&Names>) -> bool {
        self.is_read_only() || self.dry_run || self.statements.iter().all(|statement| statement.is_pure_read(names))
    }

    /// True where a refusal does not mean that nothing was applied: code that commits halfway, which it cannot in a transaction.
    pub fn may_commit_halfway(&self) -> bool {
        self.is_plain() && self.statements.iter().any(Statement::commits_halfway)
    }

    /// True where other sessions' types and plans may be stale after it.
    pub fn changes_schema(&self) -> bool {
        !self.is_read_only() && !self.dry_run && self.statements.iter().any(Statement::changes_schema)
    }

    /// What the session needs after it.
    pub fn cleanup(&self, names: Option<&Names>) -> Cleanup {
        self.statements.iter().map(|statement| statement.cleanup(names)).max().unwrap_or(Cleanup::Nothing)
    }

    /// Statements from here on can be prepared only when it is their turn: what comes before decides what they mean.
    pub fn prepared_late_from(&self) -> usize {
        if self.statements.iter().any(|statement| statement.search_path.is_some()) {
            return 0;
        }
        let changes = self.statements.iter().position(Statement::changes_schema);
        changes.map_or(self.statements.len(), |first| first + 1)
    }

    /// What begins the transaction; nothing for a statement that commits by itself.
    pub fn opening(&self) -> Vec<Step<'_>> {
        let Some(begin) = self.begin else { return Vec::new() };
        let mut steps = vec![Step::Own(begin_sql(begin), Vec::new())];
        if begin.read_only {
            // Once a snapshot is taken, nothing can make the transaction READ WRITE: `SET TRANSACTION` could before.
            steps.push(Step::Own("SELECT".into(), Vec::new()));
        }
        steps.extend(set(&self.settings));
        steps
    }

    /// What ends it.
    pub fn closing(&self) -> Vec<Step<'static>> {
        match (self.begin, self.dry_run) {
            (None, _) => Vec::new(),
            (Some(_), false) => vec![Step::Own("COMMIT".into(), Vec::new())],
            // A deferred constraint would not be asked otherwise.
            (Some(_), true) => vec![
                Step::Own("SET CONSTRAINTS ALL IMMEDIATE".into(), Vec::new()),
                Step::Own("ROLLBACK".into(), Vec::new()),
            ],
        }
    }

    /// True where the last step commits.
    pub fn commits(&self) -> bool {
        !self.dry_run
    }

    /// True where counts must be seen before the end.
    pub fn expects_anything(&self) -> bool {
        self.expect.iter().any(|expect| expect.rows.is_some() || expect.max_affected.is_some())
    }
}

/// Sets settings for the transaction alone: `names_and_values` in turn.
pub fn set<'a>(names_and_values: &[&'a str]) -> Option<Step<'a>> {
    let pairs = names_and_values.len() / 2;
    let calls: Vec<String> =
        (0..pairs).map(|n| format!("pg_catalog.set_config(${}, ${}, true)", 2 * n + 1, 2 * n + 2)).collect();
    (pairs > 0).then(|| Step::Own(format!("SELECT {}", calls.join(", ")).into(), names_and_values.to_vec()))
}

/// The command that begins a transaction.
pub fn begin_sql(begin: Transaction) -> Cow<'static, str> {
    if begin == Transaction::default() {
        return "BEGIN".into();
    }
    let isolation = match begin.isolation {
        None => "",
        Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
        Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
        Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
    };
    let read_only = if begin.read_only { " READ ONLY" } else { "" };
    let deferrable = if begin.deferrable { " DEFERRABLE" } else { "" };
    format!("BEGIN{isolation}{read_only}{deferrable}").into()
}
