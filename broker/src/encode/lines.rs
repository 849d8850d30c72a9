//! Rows one by one, for a stream: NDJSON and CSV.

use std::sync::Arc;

use hearth_client::wire::Notice;

use super::columns::{Columns, Field};
use super::literal::BadLiteral;
use super::rows::tail;

/// How a streamed result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// A line with the columns, one line a row, a line with the end.
    Ndjson,
    /// A header row, then one row a row. Source: RFC 4180; NULL is nothing, and empty text is `""`, as COPY writes them.
    Csv,
}

/// Writes one streamed result, piece by piece: what is written is taken out with [`LineWriter::take`].
pub struct LineWriter {
    out: Vec<u8>,
    columns: Arc<Columns>,
    format: LineFormat,
    rows: u64,
}

impl LineWriter {
    /// Begins a result.
    pub fn new(columns: Arc<Columns>, fields: &[Field], format: LineFormat) -> Self {
        let mut out = Vec::new();
        match format {
            LineFormat::Ndjson => {
                out.extend_from_slice(b"{\"columns\":");
                out.extend_from_slice(&columns.header);
                out.extend_from_slice(b"}\n");
            }
            LineFormat::Csv => csv(&mut out, fields.iter().map(|field| Some(field.name.as_bytes()))),
        }
        Self { out, columns, format, rows: 0 }
    }

    /// Appends one row: a value a column, as the server prints it.
    pub fn push<'r>(&mut self, values: impl Iterator<Item = Option<&'r [u8]>>) -> Result<(), BadLiteral> {
        self.rows += 1;
        if self.format == LineFormat::Csv {
            csv(&mut self.out, values);
            return Ok(());
        }
        let start = self.out.len();
        // A line is whole, or not there.
        self.columns.write_row(&mut self.out, values).inspect_err(|_| self.out.truncate(start))?;
        // A `json` value keeps the white space it came with; inside of a JSON string there is no bare line feed.
        let line = &mut self.out[start..];
        let mut at = 0;
        while let Some(found) = memchr::memchr2(b'\n', b'\r', &line[at..]) {
            at += found;
            line[at] = b' ';
        }
        self.out.push(b'\n');
        Ok(())
    }

    /// Ends an NDJSON result with its last line; CSV has none.
    pub fn finish(&mut self, command: &str, count: Option<u64>, notices: &[Notice]) {
        if self.format == LineFormat::Ndjson {
            let mut line = Vec::new();
            tail(&mut line, command, count.unwrap_or(self.rows), notices);
            // The tail is the rest of an object.
            line[0] = b'{';
            self.out.append(&mut line);
            self.out.push(b'\n');
        }
    }

    /// How much is written and not taken. Unit: bytes.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// True when everything written was taken.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes what is written.
    pub fn take(&mut self) -> Vec<u8> {
        // The next piece will be about as long as this one.
        let next = Vec::with_capacity(self.out.len());
        std::mem::replace(&mut self.out, next)
    }
}

fn csv<'r>(out: &mut Vec<u8>, values: impl Iterator<Item = Option<&'r [u8]>>) {
    let start = out.len();
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let Some(text) = value else { continue };
        let plain = !text.is_empty() && !text.iter().any(|b| matches!(b, b'"' | b',' | b'\n' | b'\r'));
        if plain {
            out.extend_from_slice(text);
            continue;
        }
        out.push(b'"');
        for (piece, part) in text.split(|b| *b == b'"').enumerate() {
            if piece > 0 {
                out.extend_from_slice(b"\"\"");
            }
            out.extend_from_slice(part);
        }
        out.push(b'"');
    }
    // Alone on a line it would end a COPY that reads this; quoted it does not.
    if &out[start..] == b"\\." {
        out.truncate(start);
        out.extend_from_slice(b"\"\\.\"");
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use hearth_client::wire::{Int8Format, RowShape, ValueFormat};
    use tokio_postgres::types::Type;

    use super::*;
    use crate::encode::columns::Format;

    fn written(format: LineFormat, rows: &[[Option<&str>; 2]]) -> String {
        let fields = ["a", "b,c"].map(|name| Field { name: name.to_owned(), ty: Type::JSON });
        let json = Format { rows: RowShape::Object, values: ValueFormat::Json, int8: Int8Format::String };
        let mut writer = LineWriter::new(Arc::new(Columns::new(&fields, json)), &fields, format);
        for row in rows {
            writer.push(row.iter().map(|value| value.map(str::as_bytes))).expect("writes");
        }
        writer.finish("SELECT", None, &[]);
        String::from_utf8(writer.take()).expect("is UTF-8")
    }

    #[test]
    fn every_row_is_one_line_of_json() {
        let text = written(LineFormat::Ndjson, &[[Some("{\n \"x\":\r\n1}"), None]]);
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("is JSON")).collect();
        assert_eq!(lines[1], serde_json::json!({"a": {"x": 1}, "b,c": null}));
        assert_eq!(lines[2], serde_json::json!({"row_count": 1, "command": "SELECT"}));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn csv_tells_null_from_empty_and_quotes_what_it_must() {
        let text =
            written(LineFormat::Csv, &[[None, Some("")], [Some("say \"hi\""), Some("x\ny")], [Some("1"), Some("\\.")]]);
        assert_eq!(text, "a,\"b,c\"\n,\"\"\n\"say \"\"hi\"\"\",\"x\ny\"\n1,\\.\n");
    }
}
