//! A statement and what it is: what it may do to data, and what it may leave behind in a session.

use std::collections::HashSet;

use hearth_client::wire::QueryRequest;
use serde_json::value::RawValue;

use super::error::QueryError;
use super::tokens::{Token, tokens};
use crate::encode::columns::Format;
use crate::pool::postgres::Cleanup;

/// A statement as one request brings it.
pub struct Statement<'a> {
    /// SQL text.
    pub sql: &'a str,
    /// One JSON value a placeholder.
    pub params: &'a [&'a RawValue],
    /// Type names that override what the server infers.
    pub types: Option<&'a [Option<String>]>,
    /// How the result is written.
    pub format: Format,
    /// What the first word says it does.
    pub effect: Effect,
    tokens: Vec<Token>,
}

/// What a statement may do to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Reads, unless a function it calls does more.
    Read,
    /// Writes rows.
    Write,
    /// Changes the schema, or does something else that is no row.
    Other,
}

/// Words that begin or end a transaction. One request is one transaction here.
const TRANSACTION: [&str; 8] = ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"];
/// Words after which a session's prepared names, or its very code, are not what they were.
const BEYOND_RESET: [&str; 5] = ["prepare", "execute", "deallocate", "discard", "load"];
/// Words that change a session, or run code that may.
const SESSION: [&str; 11] =
    ["set", "reset", "listen", "unlisten", "declare", "fetch", "move", "close", "call", "do", "lock"];
/// Built-in functions that change a session in a way that a reset undoes.
const CHANGES_SESSION: [&str; 7] = [
    "set_config",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "nextval",
    "setval",
];
/// Built-in functions whose answer depends on what the session did before: over a stateless interface on another's behalf.
const READS_SESSION: [&str; 2] = ["currval", "lastval"];
/// Built-in functions with an effect on the session that no reset undoes.
const BEYOND_RESET_FUNCTIONS: [&str; 6] = [
    "setseed",
    "pg_replication_origin_session_setup",
    "pg_replication_origin_session_reset",
    "pg_create_physical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_copy_logical_replication_slot",
];

impl<'a> Statement<'a> {
    /// Reads a request. Errors: [`QueryError::Refused`] for a statement that cannot run alone on a shared connection.
    pub fn new(request: &'a QueryRequest<'a>) -> Result<Self, QueryError> {
        if request.sql.contains('\0') {
            return Err(QueryError::Refused("the statement contains a NUL character".to_owned()));
        }
        let tokens = tokens(&request.sql);
        let first = first_word(&tokens);
        if let Some(refusal) = refusal(first, &tokens) {
            return Err(QueryError::Refused(refusal));
        }
        Ok(Self {
            sql: &request.sql,
            params: &request.params,
            types: request.types.as_deref(),
            format: Format { rows: request.rows, values: request.values, int8: request.int8 },
            effect: effect(first, &tokens),
            tokens,
        })
    }

    /// Under which key it is prepared: the text, and the types where the request names some.
    pub fn key(&self) -> std::borrow::Cow<'a, str> {
        match self.types {
            None => self.sql.into(),
            Some(types) => {
                let names: Vec<&str> = types.iter().map(|name| name.as_deref().unwrap_or("")).collect();
                format!("{}\0{}", self.sql, names.join("\0")).into()
            }
        }
    }

    /// What the session needs after it. `harmless` holds the names that may stand before a parenthesis without being
    /// anybody's own function; without it every call counts as somebody's own, which may change anything.
    ///
    /// Code that a statement reaches without naming it (triggers, policies, operators, casts, views) is not seen: decision 0003.
    pub fn cleanup(&self, harmless: Option<&HashSet<String>>) -> Cleanup {
        let first = first_word(&self.tokens);
        if BEYOND_RESET.contains(&first) {
            return Cleanup::Discard;
        }
        let has = |word: &str| self.tokens.iter().any(|t| matches!(t, Token::Word(w) if w == word));
        let mut cleanup = Cleanup::Nothing;
        if SESSION.contains(&first) || has("temp") || has("temporary") || has("pg_temp") {
            cleanup = Cleanup::Reset;
        }
        for name in calls(&self.tokens) {
            let builtin = name.builtin && harmless.is_some_and(|names| names.contains(name.word));
            cleanup = cleanup.max(match name.word {
                word if BEYOND_RESET_FUNCTIONS.contains(&word) => Cleanup::Discard,
                word if builtin && !CHANGES_SESSION.contains(&word) => Cleanup::Nothing,
                _ => Cleanup::Reset,
            });
        }
        cleanup
    }
}

fn first_word(tokens: &[Token]) -> &str {
    // `(SELECT 1) UNION …` begins with a parenthesis.
    let first = tokens.iter().find(|token| **token != Token::Mark(b'('));
    if let Some(Token::Word(word)) = first { word } else { "" }
}

fn refusal(first: &str, tokens: &[Token]) -> Option<String> {
    if TRANSACTION.contains(&first) {
        return Some(format!(
            "{} cannot run alone: each request is its own transaction. Send several statements as one batch",
            first.to_uppercase()
        ));
    }
    if first == "prepare" && tokens.iter().any(|t| matches!(t, Token::Word(w) if w == "transaction")) {
        return Some("PREPARE TRANSACTION cannot run alone: each request is its own transaction".to_owned());
    }
    if first == "copy" {
        return Some("COPY does not run as a query: use the copy endpoint".to_owned());
    }
    let reads = calls(tokens).find(|name| READS_SESSION.contains(&name.word))?;
    Some(format!("{}() has no meaning here, since requests share connections: use RETURNING", reads.word))
}

fn effect(first: &str, tokens: &[Token]) -> Effect {
    let writes = |t: &Token| matches!(t, Token::Word(w) if ["insert", "update", "delete", "merge", "into"].contains(&w.as_str()));
    match first {
        "select" | "values" | "table" | "show" if !tokens.iter().any(writes) => Effect::Read,
        "with" if !tokens.iter().any(writes) => Effect::Read,
        "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge" => Effect::Write,
        _ => Effect::Other,
    }
}

/// A name before a parenthesis.
struct Call<'t> {
    word: &'t str,
    /// Unqualified, or in `pg_catalog`.
    builtin: bool,
}

/// Names that stand before a parenthesis, but for those that name a table there: `INSERT INTO users (…)`.
fn calls(tokens: &[Token]) -> impl Iterator<Item = Call<'_>> {
    (1..tokens.len()).filter(|at| tokens[*at] == Token::Mark(b'(')).filter_map(|at| {
        let (Token::Word(word) | Token::Quoted(word)) = &tokens[at - 1] else { return None };
        let mut before = at - 1;
        let mut qualifier = None;
        while before >= 2 && tokens[before - 1] == Token::Mark(b'.') {
            before -= 2;
            qualifier.get_or_insert(&tokens[before]);
        }
        let names_a_table = before >= 1 && matches!(&tokens[before - 1], Token::Word(w) if w == "into");
        let builtin = qualifier.is_none_or(|q| matches!(q, Token::Word(w) | Token::Quoted(w) if w == "pg_catalog"));
        (!names_a_table).then_some(Call { word, builtin })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sql: &str) -> QueryRequest<'_> {
        QueryRequest {
            sql: sql.into(),
            params: Vec::new(),
            types: None,
            rows: Default::default(),
            values: Default::default(),
            int8: Default::default(),
            read_only: false,
            max_rows: None,
        }
    }

    fn cleanup(sql: &str) -> Cleanup {
        let names: HashSet<String> =
            ["lower", "count", "values", "in", "set_config", "pg_advisory_lock", "over", "pg_sleep"]
                .map(str::to_owned)
                .into();
        Statement::new(&request(sql)).unwrap_or_else(|_| panic!("{sql} is refused")).cleanup(Some(&names))
    }

    #[test]
    fn plain_statements_leave_nothing_behind() {
        for sql in [
            "SELECT lower(name), count(*) OVER (PARTITION BY x) FROM users WHERE id IN (1, 2)",
            "INSERT INTO users (id, name) VALUES ($1, $2)",
            "INSERT INTO app.users (id) VALUES (1)",
            "select pg_catalog.lower('x')",
            "select 'set_config(' -- pg_advisory_lock(1)",
        ] {
            assert_eq!(cleanup(sql), Cleanup::Nothing, "{sql}");
        }
    }

    #[test]
    fn what_may_change_the_session_asks_for_a_reset() {
        for sql in [
            "SET search_path = x",
            "select set_config('a.b', '1', false)",
            "SELECT \"set_config\"('a.b', '1', false)",
            "select pg_advisory_lock(1)",
            "SELECT mine(1)",
            "SELECT public.lower('x')",
            "create temp table t (a int)",
            "SELECT 1 INTO TEMPORARY t",
            "LISTEN x",
            "DO $$ begin end $$",
        ] {
            assert_eq!(cleanup(sql), Cleanup::Reset, "{sql}");
        }
        for sql in ["DISCARD ALL", "prepare x as select 1", "deallocate all", "load 'x'", "select setseed(0.5)"] {
            assert_eq!(cleanup(sql), Cleanup::Discard, "{sql}");
        }
    }

    #[test]
    fn what_cannot_run_alone_is_refused_with_the_way_to_go() {
        for sql in [
            "begin",
            " /* x */ COMMIT",
            "savepoint a",
            "copy t from stdin",
            "prepare transaction 'x'",
            "select lastval()",
        ] {
            assert!(matches!(Statement::new(&request(sql)), Err(QueryError::Refused(_))), "{sql}");
        }
        assert!(matches!(Statement::new(&request("select '\0'")), Err(QueryError::Refused(_))));
    }

    #[test]
    fn effects_follow_the_words() {
        for (sql, effect) in [
            ("select 1", Effect::Read),
            ("(select 1) union select 2", Effect::Read),
            ("with a as (select 1) select * from a", Effect::Read),
            ("with a as (insert into t values (1) returning 1) select * from a", Effect::Write),
            ("select 1 into t", Effect::Write),
            ("delete from t", Effect::Write),
            ("create table t ()", Effect::Other),
            ("explain analyze delete from t", Effect::Other),
        ] {
            assert_eq!(Statement::new(&request(sql)).unwrap_or_else(|_| panic!("{sql}")).effect, effect, "{sql}");
        }
    }
}
