//! A result's columns, prepared for writing: names already escaped, one codec each.

use hearth_client::wire::{Int8Format, RowShape, ValueFormat};
use tokio_postgres::types::{Kind, Type};

use super::literal::BadLiteral;
use super::scalar::{Codec, string};

/// A column as a statement's description has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The name; may repeat.
    pub name: String,
    /// The type.
    pub ty: Type,
}

/// How the caller wants a result written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Rows as objects or arrays.
    pub rows: RowShape,
    /// Values as JSON or text.
    pub values: ValueFormat,
    /// `int8` and `numeric` as strings or numbers.
    pub int8: Int8Format,
}

/// The columns of one result in one format.
pub struct Columns {
    /// For each column what stands before its value (comma, and in objects the name) and how the value is written.
    pub(super) fields: Vec<(Vec<u8>, Codec)>,
    /// The `columns` member of the response.
    pub(super) header: Vec<u8>,
    pub(super) open: u8,
    pub(super) close: u8,
}

impl Columns {
    /// Prepares `columns` for writing in `format`.
    pub fn new(columns: &[Field], format: Format) -> Self {
        let object = format.rows == RowShape::Object;
        let field = |(index, column): (usize, &Field)| {
            let mut before = Vec::new();
            if index > 0 {
                before.push(b',');
            }
            if object {
                string(&mut before, column.name.as_bytes());
                before.push(b':');
            }
            let codec = match format.values {
                ValueFormat::Json => Codec::of(&column.ty, format.int8 == Int8Format::Number),
                ValueFormat::Text => Codec::Text,
            };
            (before, codec)
        };
        Self {
            fields: columns.iter().enumerate().map(field).collect(),
            header: header(columns),
            open: if object { b'{' } else { b'[' },
            close: if object { b'}' } else { b']' },
        }
    }
}

impl Columns {
    /// Appends one row: a value a column, as the server prints it.
    pub fn write_row<'r>(
        &self,
        out: &mut Vec<u8>,
        values: impl Iterator<Item = Option<&'r [u8]>>,
    ) -> Result<(), BadLiteral> {
        out.push(self.open);
        let mut written = 0;
        for ((before, codec), value) in self.fields.iter().zip(values) {
            out.extend_from_slice(before);
            match value {
                None => out.extend_from_slice(b"null"),
                Some(text) => codec.write(out, text)?,
            }
            written += 1;
        }
        out.push(self.close);
        if written == self.fields.len() { Ok(()) } else { Err(BadLiteral) }
    }
}

fn header(columns: &[Field]) -> Vec<u8> {
    let mut out = b"[".to_vec();
    for (index, column) in columns.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{\"name\":" } else { b"{\"name\":" });
        string(&mut out, column.name.as_bytes());
        out.extend_from_slice(b",\"type\":");
        string(&mut out, type_name(&column.ty).as_bytes());
        out.extend_from_slice(b",\"oid\":");
        out.extend_from_slice(itoa::Buffer::new().format(column.ty.oid()).as_bytes());
        out.push(b'}');
    }
    out.push(b']');
    out
}

/// `int4[]` in place of the catalogue's `_int4`, so that the name can be used in a cast.
fn type_name(ty: &Type) -> String {
    match ty.kind() {
        Kind::Array(element) if ty.name().starts_with('_') => format!("{}[]", element.name()),
        _ => ty.name().to_owned(),
    }
}
