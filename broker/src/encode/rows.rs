//! Rows straight into the response buffer, within a byte budget: no value tree in between.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::columns::Columns;
use super::literal::BadLiteral;
use super::scalar::string;

/// A result passed a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// The encoded result is larger than the tenant may have. Unit: bytes.
    #[error("the result is larger than {0} bytes")]
    Bytes(u64),
    /// There are more rows than the request allows.
    #[error("the result has more than {0} rows")]
    Rows(u64),
}

/// Why a row could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A limit was passed.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A value does not fit its type's definition.
    #[error(transparent)]
    BadLiteral(#[from] BadLiteral),
}

/// Writes one buffered result.
///
/// Shape: `{"columns": […], "rows": […], "row_count": N, "command": "…"}`. Units: `max_bytes` counts encoded bytes.
/// Errors: [`TooLarge`] as soon as a limit is passed; what was written so far is then useless.
pub struct RowWriter<'a> {
    out: Vec<u8>,
    columns: &'a Columns,
    rows: u64,
    max_bytes: u64,
    max_rows: Option<u64>,
}

/// Room for the rows of a typical answer; the buffer grows as it must.
const FIRST_BYTES: usize = 512;

impl<'a> RowWriter<'a> {
    /// Begins a result.
    pub fn new(columns: &'a Columns, max_bytes: u64, max_rows: Option<u64>) -> Self {
        let mut out = Vec::with_capacity(FIRST_BYTES + columns.header.len());
        out.extend_from_slice(b"{\"columns\":");
        out.extend_from_slice(&columns.header);
        out.extend_from_slice(b",\"rows\":[");
        Self { out, columns, rows: 0, max_bytes, max_rows }
    }

    /// Appends one row.
    pub fn push(&mut self, row: &Row) -> Result<(), RowError> {
        if let Some(max) = self.max_rows.filter(|max| self.rows >= *max) {
            return Err(TooLarge::Rows(max).into());
        }
        if self.rows > 0 {
            self.out.push(b',');
        }
        self.out.push(self.columns.open);
        for (index, (before, codec)) in self.columns.fields.iter().enumerate() {
            self.out.extend_from_slice(before);
            match row.get::<_, Option<Printed<'_>>>(index) {
                None => self.out.extend_from_slice(b"null"),
                Some(Printed(text)) => codec.write(&mut self.out, text)?,
            }
        }
        self.out.push(self.columns.close);
        self.rows += 1;
        if self.out.len() as u64 > self.max_bytes {
            return Err(TooLarge::Bytes(self.max_bytes).into());
        }
        Ok(())
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Ends the result with what the command's tag says: `SELECT 3`, `INSERT 0 1`, `CREATE TABLE`.
    pub fn finish(self, tag: &str) -> Vec<u8> {
        let (command, affected) = split_tag(tag);
        self.end(command, affected)
    }

    /// Ends the result of a read, whose tag would tell no more than its rows.
    pub fn finish_read(self, command: &str) -> Vec<u8> {
        self.end(command, None)
    }

    fn end(mut self, command: &str, affected: Option<u64>) -> Vec<u8> {
        let out = &mut self.out;
        out.extend_from_slice(b"],\"row_count\":");
        out.extend_from_slice(itoa::Buffer::new().format(affected.unwrap_or(self.rows)).as_bytes());
        out.extend_from_slice(b",\"command\":");
        string(out, command.as_bytes());
        out.push(b'}');
        self.out
    }
}

/// `INSERT 0 1` → `INSERT`, 1; `SELECT 3` → `SELECT`, 3; `CREATE TABLE` → itself, none.
/// Source: PostgreSQL manual, "`CommandComplete`".
fn split_tag(tag: &str) -> (&str, Option<u64>) {
    let command_end = tag.find(|c: char| c.is_ascii_digit()).unwrap_or(tag.len());
    let affected = tag[command_end..].rsplit(' ').next().and_then(|count| count.parse().ok());
    (tag[..command_end].trim_end(), affected)
}

/// A value as the server prints it, borrowed from the row.
struct Printed<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Printed<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_split_into_command_and_count() {
        assert_eq!(split_tag("SELECT 3"), ("SELECT", Some(3)));
        assert_eq!(split_tag("INSERT 0 12"), ("INSERT", Some(12)));
        assert_eq!(split_tag("CREATE TABLE"), ("CREATE TABLE", None));
        assert_eq!(split_tag(""), ("", None));
    }
}
