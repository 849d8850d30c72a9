//! Rows straight into the response buffer, within a byte budget: no value tree in between.

use std::sync::Arc;

use hearth_client::wire::Notice;

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
pub struct RowWriter {
    out: Vec<u8>,
    columns: Arc<Columns>,
    rows: u64,
    max_bytes: u64,
    max_rows: Option<u64>,
}

/// A row is longer on the wire than in JSON by its headers, four bytes a column.
pub const ROW_HEADERS_BYTES: u64 = 8 * 1024;
/// Room for the rows of a typical answer; the buffer grows as it must.
const FIRST_BYTES: usize = 512;

impl RowWriter {
    /// Begins a result.
    pub fn new(columns: Arc<Columns>, max_bytes: u64, max_rows: Option<u64>) -> Self {
        let mut out = Vec::with_capacity(FIRST_BYTES + columns.header.len());
        out.extend_from_slice(b"{\"columns\":");
        out.extend_from_slice(&columns.header);
        out.extend_from_slice(b",\"rows\":[");
        Self { out, columns, rows: 0, max_bytes, max_rows }
    }

    /// Appends one row: a value a column, as the server prints it.
    pub fn push<'r>(&mut self, values: impl Iterator<Item = Option<&'r [u8]>>) -> Result<(), RowError> {
        if let Some(max) = self.max_rows.filter(|max| self.rows >= *max) {
            return Err(TooLarge::Rows(max).into());
        }
        if self.rows > 0 {
            self.out.push(b',');
        }
        self.columns.write_row(&mut self.out, values)?;
        self.rows += 1;
        if self.out.len() as u64 > self.max_bytes {
            return Err(TooLarge::Bytes(self.max_bytes).into());
        }
        Ok(())
    }

    /// False for a row of so many bytes on the wire that it cannot fit any more.
    pub fn has_room_for(&self, row_bytes: usize) -> bool {
        (self.out.len() + row_bytes) as u64 <= self.max_bytes + ROW_HEADERS_BYTES
    }

    /// That the limit on bytes was passed.
    pub fn too_large(&self) -> TooLarge {
        TooLarge::Bytes(self.max_bytes)
    }

    /// Rows that the command's tag tells of, or that were written.
    pub fn count(&self, tag: &str) -> u64 {
        split_tag(tag).1.unwrap_or(self.rows)
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Ends the result with what the command's tag says: `SELECT 3`, `INSERT 0 1`, `CREATE TABLE`.
    pub fn finish(self, tag: &str, notices: &[Notice]) -> Vec<u8> {
        let (command, affected) = split_tag(tag);
        self.end(command, affected, notices)
    }

    /// Ends the result of a read, whose tag would tell no more than its rows.
    pub fn finish_read(self, command: &str, notices: &[Notice]) -> Vec<u8> {
        self.end(command, None, notices)
    }

    fn end(mut self, command: &str, affected: Option<u64>, notices: &[Notice]) -> Vec<u8> {
        self.out.push(b']');
        tail(&mut self.out, command, affected.unwrap_or(self.rows), notices);
        self.out
    }
}

/// The count in a result that was written here. In strings its quotes would be escaped, and a row's comes before it.
pub fn row_count(result: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"row_count\":";
    let at = memchr::memmem::rfind(result, NAME)? + NAME.len();
    let digits = result[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&result[at..at + digits]).ok()?.parse().ok()
}

/// Everything after the rows: `,"row_count":3,"command":"SELECT"}`.
pub fn tail(out: &mut Vec<u8>, command: &str, count: u64, notices: &[Notice]) {
    out.extend_from_slice(b",\"row_count\":");
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
    out.extend_from_slice(b",\"command\":");
    string(out, command.as_bytes());
    if !notices.is_empty() {
        out.extend_from_slice(b",\"notices\":");
        out.extend(serde_json::to_vec(notices).expect("notices are plain data"));
    }
    out.push(b'}');
}

/// `INSERT 0 1` → `INSERT`, 1; `SELECT 3` → `SELECT`, 3; `CREATE TABLE` → itself, none.
/// Source: PostgreSQL manual, "`CommandComplete`".
pub fn split_tag(tag: &str) -> (&str, Option<u64>) {
    let command_end = tag.find(|c: char| c.is_ascii_digit()).unwrap_or(tag.len());
    let affected = tag[command_end..].rsplit(' ').next().and_then(|count| count.parse().ok());
    (tag[..command_end].trim_end(), affected)
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
