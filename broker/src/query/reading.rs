//! What one pass over a statement's tokens tells: its first word, the functions it names, and marks of what it may do.

use std::sync::OnceLock;

use super::tokens::{Token, Tokens};

/// Distinct functions, and distinct columns, remembered of one statement; one with more counts as naming an unknown one.
const MAX_NAMES: usize = 200;

/// What a statement says of itself.
#[derive(Debug, Default)]
pub struct Reading {
    /// The first word, in lower case; empty where there is none.
    pub first: String,
    /// Distinct names that stand before a parenthesis.
    pub calls: Vec<Call>,
    /// Distinct names behind a dot: columns, and functions of one row called as if they were columns.
    pub attributes: Vec<String>,
    /// A word for writing stands somewhere.
    pub writes: bool,
    /// It names something temporary, or in a way that hides the name.
    pub temporary: bool,
    /// `PREPARE TRANSACTION`.
    pub prepares_transaction: bool,
    /// `CONCURRENTLY` stands somewhere.
    pub concurrently: Concurrently,
    /// `FROM STDIN` or `TO STDOUT`, where that is the first FROM or TO outside of parentheses.
    pub copies: Option<Copies>,
    /// What the statement is known by in logs, once somebody has asked.
    pub fingerprint: OnceLock<u64>,
}

/// Whether a command works in several transactions of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Concurrently {
    /// In one.
    #[default]
    No,
    /// In several: what is half done stays when it is refused.
    Yes,
}

/// What a COPY copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// Which way.
    pub direction: CopyDirection,
    /// `csv` stands behind that.
    pub names_csv: bool,
}

/// Which way a COPY goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    /// `COPY … FROM STDIN`.
    In,
    /// `COPY … TO STDOUT`.
    Out,
}

/// A name before a parenthesis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The name.
    pub word: String,
    /// It stands alone, or in `pg_catalog`.
    pub unqualified: bool,
}

/// A name being read: `a.b.c` is `c` in `b`.
struct Name {
    last: String,
    qualifier: Option<String>,
    names_a_table: bool,
    open: bool,
}

/// Reads a statement in one pass.
pub fn read(sql: &str) -> Reading {
    let mut reading = Reading::default();
    let mut name: Option<Name> = None;
    let mut previous = String::new();
    let mut after_dot = false;
    let mut depth = 0_i32;
    let mut has_target = false;
    for token in Tokens::new(sql) {
        match token {
            Token::Mark(b'.') => {
                if let Some(name) = &mut name {
                    name.open = true;
                }
                after_dot = true;
                continue;
            }
            Token::Mark(b'(') => {
                if let Some(name) = name.take() {
                    call(&mut reading, name);
                }
                previous.clear();
                depth += 1;
            }
            Token::Mark(mark) => {
                if mark == b')' {
                    depth -= 1;
                }
                // `U&"…"` writes a name in escapes.
                reading.temporary |= mark == b'&' && previous == "u";
                name = None;
                previous.clear();
            }
            Token::Quoted(word) => {
                note(&mut reading, &word, after_dot);
                name = Some(follow(name, word, &previous));
                previous.clear();
            }
            Token::Word(word) => {
                if reading.first.is_empty() {
                    reading.first.clone_from(&word);
                }
                note(&mut reading, &word, after_dot);
                reading.writes |= ["insert", "update", "delete", "merge", "into"].contains(&word.as_str());
                reading.prepares_transaction |= word == "transaction" && previous == "prepare";
                if word == "concurrently" {
                    reading.concurrently = Concurrently::Yes;
                }
                match &mut reading.copies {
                    Some(copies) => copies.names_csv |= word == "csv",
                    // The first one decides: `FROM 'file' WHERE a IS DISTINCT FROM stdin` reads a file.
                    None if depth == 0 && !has_target && ["from", "to"].contains(&previous.as_str()) => {
                        has_target = true;
                        reading.copies = copies(&previous, &word);
                    }
                    None => {}
                }
                name = Some(follow(name, word.clone(), &previous));
                previous = word;
            }
        }
        after_dot = false;
    }
    reading
}

fn copies(previous: &str, word: &str) -> Option<Copies> {
    let direction = match (previous, word) {
        ("from", "stdin") => CopyDirection::In,
        ("to", "stdout") => CopyDirection::Out,
        _ => return None,
    };
    Some(Copies { direction, names_csv: false })
}

fn note(reading: &mut Reading, word: &str, after_dot: bool) {
    if after_dot && !reading.attributes.iter().any(|known| known == word) {
        if reading.attributes.len() < MAX_NAMES {
            reading.attributes.push(word.to_owned());
        } else {
            reading.temporary = true;
        }
    }
    reading.temporary |= word == "temp" || word == "temporary" || word.starts_with("pg_temp");
}

fn follow(before: Option<Name>, word: String, previous: &str) -> Name {
    match before {
        Some(name) if name.open => {
            Name { qualifier: Some(name.last), last: word, names_a_table: name.names_a_table, open: false }
        }
        _ => Name {
            qualifier: None,
            last: word,
            names_a_table: ["into", "table", "exists"].contains(&previous),
            open: false,
        },
    }
}

/// Notes a call; but in `INSERT INTO users (…)` and `CREATE TABLE IF NOT EXISTS users (…)` the name is a table's.
fn call(reading: &mut Reading, name: Name) {
    if name.names_a_table || name.open {
        return;
    }
    let unqualified = name.qualifier.is_none_or(|qualifier| qualifier == "pg_catalog");
    let call = Call { word: name.last, unqualified };
    if reading.calls.contains(&call) {
        return;
    }
    if reading.calls.len() < MAX_NAMES {
        reading.calls.push(call);
    } else {
        reading.temporary = true;
    }
}
