//! Several statements in one transaction and one round trip.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::client::Origin;
use crate::database::Database;
use crate::error::{Effect, Error, Reason};
use crate::params::{Bytea, Params};
use crate::wire::{
    BatchRequest, BatchResponse, BatchStatement, Int8Format, Isolation, QueryResponse, RowShape, Transaction,
    ValueFormat,
};

/// One statement of a [`Batch`], with what it is given.
#[derive(Debug)]
#[must_use = "a statement runs as part of a batch: `batch.add(statement)`"]
pub struct Statement<'q> {
    sql: Cow<'q, str>,
    params: Params,
    expect_rows: Option<u64>,
    max_affected: Option<u64>,
}

impl<'q> Statement<'q> {
    /// A statement with `$1`-style placeholders.
    pub fn new(sql: impl Into<Cow<'q, str>>) -> Self {
        Self { sql: sql.into(), params: Params::default(), expect_rows: None, max_affected: None }
    }

    /// Gives the next placeholder its value, as [`Query::bind`](crate::Query::bind) does, or with a [`Ref`] a value out of
    /// an earlier statement's result.
    pub fn bind(mut self, value: impl Serialize) -> Self {
        self.params.bind(value);
        self
    }

    /// Gives the next placeholder a `bytea` value.
    pub fn bind_bytes(self, bytes: &[u8]) -> Self {
        self.bind(Bytea::new(bytes))
    }

    /// Names the parameters' PostgreSQL types, as [`Query::types`](crate::Query::types) does.
    pub fn types<'t, T: Into<Option<&'t str>>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.params.set_types(types);
        self
    }

    /// Rolls the whole batch back where this statement returns or affects another number of rows
    /// ([`ProblemCode::ExpectationFailed`](crate::wire::ProblemCode::ExpectationFailed)).
    pub fn expect_rows(mut self, expect_rows: u64) -> Self {
        self.expect_rows = Some(expect_rows);
        self
    }

    /// Rolls the whole batch back where this statement affects more rows.
    pub fn max_affected(mut self, max_affected: u64) -> Self {
        self.max_affected = Some(max_affected);
        self
    }

    fn to_wire(&self) -> BatchStatement<'_> {
        BatchStatement {
            sql: Cow::Borrowed(&self.sql),
            params: self.params.values(),
            types: self.params.types(),
            expect_rows: self.expect_rows,
            max_affected: self.max_affected,
        }
    }
}

/// A value that an earlier statement of the batch returns, to be bound by a later one.
#[derive(Debug, Clone, Serialize)]
pub struct Ref {
    #[serde(rename = "$ref")]
    path: String,
}

impl Ref {
    /// The value at `path`, statements and rows counted from 0: `0.rows[0].id` for one value, `0.rows[*].id` for that column
    /// of all rows as an array, `0.row_count` for the count.
    pub fn to(path: impl Into<String>) -> Self {
        Self { path: path.into() }
    }
}

/// Statements that travel together and run in one transaction: all or nothing. From [`Database::batch`].
///
/// The broker runs the transaction again after a serialization failure or a deadlock. An error says with
/// [`Error::statement`] which statement it is about.
///
/// Cancel safety: dropping the future closes the request, and the broker cancels the batch. It may have been committed by
/// then.
#[derive(Debug)]
#[must_use = "nothing is sent before `send` is awaited"]
pub struct Batch<'q> {
    database: Database,
    statements: Vec<Statement<'q>>,
    transaction: Transaction,
    one_by_one: bool,
    rows: RowShape,
    int8: Int8Format,
    settings: BTreeMap<String, String>,
    dry_run: bool,
}

impl<'q> Batch<'q> {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            statements: Vec::new(),
            transaction: Transaction::default(),
            one_by_one: false,
            rows: RowShape::Object,
            int8: Int8Format::Number,
            settings: BTreeMap::new(),
            dry_run: false,
        }
    }

    /// Adds a statement after those already there.
    #[expect(clippy::should_implement_trait, reason = "a batch grows by statements; it is no sum")]
    pub fn add(mut self, statement: Statement<'q>) -> Self {
        self.statements.push(statement);
        self
    }

    /// Asks for an isolation level; without one the database's own default holds.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.transaction.isolation = Some(isolation);
        self
    }

    /// Runs the transaction READ ONLY, which the server enforces.
    pub fn read_only(mut self) -> Self {
        self.transaction.read_only = true;
        self
    }

    /// With [`Isolation::Serializable`] and [`read_only`](Self::read_only): waits for a snapshot that cannot fail.
    pub fn deferrable(mut self) -> Self {
        self.transaction.deferrable = true;
        self
    }

    /// Runs the statements without a transaction around them, each committed by itself, up to the first error. What ran
    /// before it stays.
    pub fn one_by_one(mut self) -> Self {
        self.one_by_one = true;
        self
    }

    /// Sets a setting for this batch alone, as [`Query::setting`](crate::Query::setting) does.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// Runs everything, answers as usual, and rolls back.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Asks for `int8` and `numeric` as strings, as [`Query::exact_numbers`](crate::Query::exact_numbers) does.
    pub fn exact_numbers(mut self) -> Self {
        self.int8 = Int8Format::String;
        self
    }

    /// Asks for each row as an array in column order, which reads into a tuple.
    pub fn as_arrays(mut self) -> Self {
        self.rows = RowShape::Array;
        self
    }

    /// Sends the batch. Gives one result a statement.
    pub async fn send(mut self) -> Result<BatchResults, Error> {
        self.check()?;
        let call = self.database.post("/batch", self.body()).with_effect(self.effect());
        let answer = self.database.client().send(call).await?;
        let response: BatchResponse<Box<RawValue>> = answer.decode()?;
        if response.results.len() != self.statements.len() {
            return Err(answer.error(Reason::Shape("it holds another number of results than statements")));
        }
        Ok(BatchResults { response, origin: answer.origin })
    }

    fn check(&mut self) -> Result<(), Error> {
        if self.one_by_one && self.transaction != Transaction::default() {
            let message = "a batch that runs one by one has no transaction to be isolated, read-only or deferrable";
            return Err(Error::new(Reason::Request(message.to_owned()), Effect::None));
        }
        let mut statements = self.statements.iter_mut().enumerate();
        statements.try_for_each(|(index, statement)| statement.params.check(|| format!("statement {index}: ")))
    }

    fn effect(&self) -> Effect {
        if self.dry_run || self.transaction.read_only {
            Effect::None
        } else if self.one_by_one {
            Effect::Piecemeal
        } else {
            Effect::AllOrNothing
        }
    }

    fn body(&self) -> Vec<u8> {
        let request = BatchRequest {
            statements: self.statements.iter().map(Statement::to_wire).collect(),
            transaction: (!self.one_by_one).then_some(self.transaction),
            rows: self.rows,
            values: ValueFormat::Json,
            int8: self.int8,
            settings: self.settings.clone(),
            dry_run: self.dry_run,
        };
        serde_json::to_vec(&request).expect("strings, flags and raw JSON are always JSON")
    }
}

/// What the statements of a [`Batch`] gave, each by its place, counted from 0.
#[derive(Debug)]
pub struct BatchResults {
    response: BatchResponse<Box<RawValue>>,
    origin: Origin,
}

impl BatchResults {
    /// The rows of one statement.
    ///
    /// Errors: no such statement; a row does not fit `T`. The batch is committed all the same.
    pub fn rows<T: DeserializeOwned>(&self, index: usize) -> Result<Vec<T>, Error> {
        self.at(index)?.rows.iter().map(|row| self.read(row)).collect()
    }

    /// The first row of one statement; an error where there is none.
    pub fn row<T: DeserializeOwned>(&self, index: usize) -> Result<T, Error> {
        let row = self.at(index)?.rows.first();
        self.read(row.ok_or_else(|| self.origin.error(Reason::RowNotFound))?)
    }

    /// The whole result of one statement: columns, rows as JSON text, count, command and the server's notices.
    pub fn get(&self, index: usize) -> Option<&QueryResponse<Box<RawValue>>> {
        self.response.results.get(index)
    }

    /// All results, in order.
    pub fn iter(&self) -> impl Iterator<Item = &QueryResponse<Box<RawValue>>> {
        self.response.results.iter()
    }

    /// How often the transaction was run: more than 1 after a serialization failure or a deadlock.
    pub fn attempts(&self) -> u32 {
        self.response.attempts
    }

    fn at(&self, index: usize) -> Result<&QueryResponse<Box<RawValue>>, Error> {
        self.get(index).ok_or_else(|| self.origin.error(Reason::Shape("the batch has fewer statements than that")))
    }

    fn read<T: DeserializeOwned>(&self, row: &RawValue) -> Result<T, Error> {
        serde_json::from_str(row.get()).map_err(|source| self.origin.error(Reason::Decode(source)))
    }
}

#[cfg(test)]
mod tests;
