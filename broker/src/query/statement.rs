//! A statement and what it is: what it may do to data, and what it may leave behind in a session.

use std::borrow::Cow;
use std::sync::Arc;

use super::error::QueryError;
use super::fingerprint::fingerprint;
use super::reading::{Concurrently, CopyDirection, Reading, read};
use super::readings::Readings;
use super::value::Value;
use crate::encode::columns::Format;
use crate::pool::postgres::Cleanup;
use crate::pool::postgres::catalog::Names;

/// A statement as one request brings it.
pub struct Statement<'a> {
    /// SQL text.
    pub sql: &'a str,
    /// One value a placeholder.
    pub params: Vec<Value<'a>>,
    /// Type names that override what the server infers.
    pub types: Option<&'a [Option<String>]>,
    /// How the result is written.
    pub format: Format,
    /// The request's own `search_path`, which decides what the names in the text mean.
    pub search_path: Option<&'a str>,
    reading: Arc<Reading>,
}

/// Parameters of one statement: a 16-bit count in the protocol.
const MAX_PARAMS: usize = 65_535;
/// Words that begin or end a transaction. One request is one transaction here.
const TRANSACTION: [&str; 8] = ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"];
/// Words that read.
const READS: [&str; 6] = ["select", "values", "table", "with", "show", "explain"];
/// Words that write rows, or change what a session does not remember.
const WRITES: [&str; 19] = [
    "insert",
    "update",
    "delete",
    "merge",
    "create",
    "alter",
    "drop",
    "truncate",
    "comment",
    "grant",
    "revoke",
    "refresh",
    "vacuum",
    "analyze",
    "reindex",
    "cluster",
    "notify",
    "checkpoint",
    "import",
];
/// Words after which types and plans may not be what they were.
const CHANGES_SCHEMA: [&str; 5] = ["create", "alter", "drop", "do", "call"];
/// Words that run code of any kind, which may commit halfway.
const RUNS_CODE: [&str; 2] = ["do", "call"];
/// Words that change settings, or run code that can.
const MAY_SET: [&str; 5] = ["set", "reset", "discard", "do", "call"];
/// Words that work in several transactions when they are to do so `CONCURRENTLY`.
const IN_STEPS: [&str; 4] = ["create", "drop", "alter", "reindex"];
/// Words after which a session's prepared names, or its very code, are not what they were. Code of any kind can prepare a
/// statement under a name that the driver believes to be its own.
const BEYOND_RESET: [&str; 7] = ["prepare", "execute", "deallocate", "discard", "load", "do", "call"];
/// Built-in functions that change a session in a way that a reset undoes, or that run SQL given as text.
const CHANGES_SESSION: [&str; 24] = [
    "set_config",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "nextval",
    "setval",
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "pg_export_snapshot",
];
/// Built-in functions whose answer depends on what the session did before: over a stateless interface on another's behalf.
const READS_SESSION: [&str; 2] = ["currval", "lastval"];
/// Built-in functions with an effect on the session that no reset undoes; and `dblink`, which keeps connections of its own.
const BEYOND_RESET_FUNCTIONS: [&str; 7] = [
    "setseed",
    "pg_replication_",
    "pg_create_physical_",
    "pg_create_logical_",
    "pg_copy_physical_",
    "pg_copy_logical_",
    "dblink",
];

impl<'a> Statement<'a> {
    /// Reads a statement. Errors: [`QueryError::Refused`] for one that cannot run on a shared connection.
    pub fn new(
        sql: &'a str,
        params: Vec<Value<'a>>,
        types: Option<&'a [Option<String>]>,
        format: Format,
        readings: &Readings,
    ) -> Result<Self, QueryError> {
        if sql.contains('\0') || types.into_iter().flatten().flatten().any(|name| name.contains('\0')) {
            return Err(QueryError::Refused("the statement contains a NUL character".to_owned()));
        }
        if params.len() > MAX_PARAMS {
            return Err(QueryError::Refused(format!(
                "there are more than {MAX_PARAMS} parameters, the protocol's limit"
            )));
        }
        let reading = readings.of(sql);
        if let Some(refusal) = refusal(&reading) {
            return Err(QueryError::Refused(refusal));
        }
        Ok(Self { sql, params, types, format, search_path: None, reading })
    }

    /// Reads a COPY. Errors: [`QueryError::Refused`] for anything else, and for what [`Statement::new`] refuses for its functions.
    pub fn copy(sql: &'a str, direction: CopyDirection, format: Format) -> Result<Self, QueryError> {
        if sql.contains('\0') {
            return Err(QueryError::Refused("the statement contains a NUL character".to_owned()));
        }
        let reading = Arc::new(read(sql));
        if reading.first != "copy" || reading.copies.map(|copies| copies.direction) != Some(direction) {
            let wanted = match direction {
                CopyDirection::In => "COPY … FROM STDIN",
                CopyDirection::Out => "COPY … TO STDOUT",
            };
            return Err(QueryError::Refused(format!("`sql` must be a {wanted} here")));
        }
        if let Some(refusal) = reads_session(&reading) {
            return Err(QueryError::Refused(refusal));
        }
        Ok(Self { sql, params: Vec::new(), types: None, format, search_path: None, reading })
    }

    /// What it is known by in logs: nothing of its values is in it.
    pub fn fingerprint(&self) -> u64 {
        *self.reading.fingerprint.get_or_init(|| fingerprint(self.sql))
    }

    /// Under which key it is prepared: the text, and where the request names them the types and the search path.
    pub fn key(&self) -> Cow<'a, str> {
        if self.types.is_none() && self.search_path.is_none() {
            return self.sql.into();
        }
        let names = self.types.unwrap_or_default().iter().map(|name| name.as_deref().unwrap_or(""));
        let names: Vec<&str> = names.collect();
        format!("{}\0{}\0{}", self.sql, names.join("\0"), self.search_path.unwrap_or_default()).into()
    }

    /// What the session needs after it. Without `names` every call counts as somebody's own function, which may change anything.
    ///
    /// Code that a statement reaches without naming it (triggers, policies, operators, casts, views) is not seen: decision 0003.
    pub fn cleanup(&self, names: Option<&Names>) -> Cleanup {
        let first = self.reading.first.as_str();
        if BEYOND_RESET.contains(&first) {
            return Cleanup::Discard;
        }
        let known = READS.contains(&first) || WRITES.contains(&first);
        let calls_by_dot =
            names.is_none_or(|names| self.reading.attributes.iter().any(|name| names.is_own_of_a_row(name)));
        let mut cleanup =
            if known && !self.reading.temporary && !calls_by_dot { Cleanup::Nothing } else { Cleanup::Reset };
        for call in &self.reading.calls {
            let word = call.word.as_str();
            let builtin = call.unqualified && names.is_some_and(|names| names.is_builtin(word));
            cleanup = cleanup.max(match word {
                word if BEYOND_RESET_FUNCTIONS.iter().any(|start| word.starts_with(start)) => Cleanup::Discard,
                word if builtin && !CHANGES_SESSION.contains(&word) => Cleanup::Nothing,
                _ => Cleanup::Reset,
            });
        }
        cleanup
    }

    /// True where it can have no effect whatever becomes of it: it reads, and every function it names is built in and free of
    /// effects. `EXPLAIN ANALYZE` runs what it explains.
    pub fn is_pure_read(&self, names: Option<&Names>) -> bool {
        let Some(names) = names else { return false };
        let reads = READS.contains(&self.reading.first.as_str()) && self.reading.first != "explain";
        reads
            && !self.reading.writes
            && self.cleanup(Some(names)) == Cleanup::Nothing
            && self.reading.calls.iter().all(|call| call.unqualified && names.is_free_of_effects(&call.word))
    }

    /// What the server calls a read of this kind: `SELECT` also for `VALUES`, `TABLE` and `WITH`.
    pub fn read_command(&self) -> &'static str {
        if self.reading.first == "show" { "SHOW" } else { "SELECT" }
    }

    /// True for a COPY that names CSV.
    pub fn mentions_csv(&self) -> bool {
        self.reading.copies.is_some_and(|copies| copies.names_csv)
    }

    /// The earlier result that it refers to and that comes last, if it refers to any.
    pub fn refers_to(&self) -> Option<usize> {
        let refers = |value: &Value<'_>| match value {
            Value::Ref(reference) => Some(reference.statement),
            Value::Json(_) | Value::Text(_) => None,
        };
        self.params.iter().filter_map(refers).max()
    }

    /// How many of its parameters refer to earlier results.
    pub fn references(&self) -> usize {
        self.params.iter().filter(|value| matches!(value, Value::Ref(_))).count()
    }

    /// True where a count of affected rows would miss some: it writes, and reports the rows it returns.
    pub fn hides_its_writes(&self) -> bool {
        let first = self.reading.first.as_str();
        let uncounted = ["truncate", "do", "call", "execute"].contains(&first);
        uncounted || self.reading.writes && !["insert", "update", "delete", "merge"].contains(&first)
    }

    /// True where it may change a setting, or runs SQL that is hidden from us: either may undo READ ONLY. Before release 16 `RESET
    /// transaction_read_only` is not checked by the server. A function of somebody's own that does so is not seen: decision 0003.
    pub fn may_set(&self) -> bool {
        let sets = |word: &str| {
            word == "set_config"
                || word.contains("_to_xml")
                || ["ts_stat", "ts_rewrite"].contains(&word)
                || word.contains('\\')
        };
        MAY_SET.contains(&self.reading.first.as_str()) || self.reading.calls.iter().any(|call| sets(&call.word))
    }

    /// True where it may commit halfway, so that a refusal does not mean that nothing was applied: code of any kind, and what
    /// is done `CONCURRENTLY`, which leaves an invalid index behind.
    pub fn commits_halfway(&self) -> bool {
        let first = self.reading.first.as_str();
        let in_steps = self.reading.concurrently == Concurrently::Yes && IN_STEPS.contains(&first);
        RUNS_CODE.contains(&first) || in_steps
    }

    /// True where other sessions' types and plans may be stale after it.
    pub fn changes_schema(&self) -> bool {
        CHANGES_SCHEMA.contains(&self.reading.first.as_str())
    }
}

fn refusal(reading: &Reading) -> Option<String> {
    let first = reading.first.as_str();
    if TRANSACTION.contains(&first) || (first == "prepare" && reading.prepares_transaction) {
        return Some(format!(
            "{} cannot run alone: each request is its own transaction. Send several statements as one batch",
            if first == "prepare" { "PREPARE TRANSACTION".to_owned() } else { first.to_uppercase() }
        ));
    }
    if first == "copy" {
        return Some("COPY does not run as a query: use the copy endpoint".to_owned());
    }
    reads_session(reading)
}

/// What a statement would learn of others who used its session.
fn reads_session(reading: &Reading) -> Option<String> {
    let reads = reading.calls.iter().find(|call| READS_SESSION.contains(&call.word.as_str()))?;
    Some(format!("{}() has no meaning here, since requests share connections: use RETURNING", reads.word))
}

#[cfg(test)]
mod tests;
