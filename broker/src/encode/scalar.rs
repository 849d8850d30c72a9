//! One value from PostgreSQL's text to JSON, as `to_json` would write it.
//!
//! Source: PostgreSQL manual, "JSON Functions"; `datum_to_json` in the server. Where the server looks at a type's category,
//! so does [`Codec::of`].

use std::fmt::Write as _;

use tokio_postgres::types::{Kind, Type};

use super::literal::{self, BadLiteral};

/// How a type's text becomes JSON.
#[derive(Debug, Clone)]
pub enum Codec {
    /// `int2`, `int4`: digits as they stand.
    Digits,
    /// `float4`, `float8`: digits, but NaN and infinities as strings.
    Float,
    /// `int8`, `numeric`: a string, since a JSON reader may round it.
    Exact,
    /// `t` or `f`.
    Bool,
    /// `json`, `jsonb`: embedded.
    Json,
    /// `timestamp`, `timestamptz`: ISO 8601 with a `T`.
    Timestamp,
    /// Everything without a JSON shape.
    Text,
    /// A true array.
    Array(Box<Codec>, u8),
    /// `int2vector`, `oidvector`: numbers with spaces between, which the server writes as an array.
    Vector(Box<Codec>),
    /// A row type: names, already as JSON strings with their colon, and codecs.
    Composite(Vec<(String, Codec)>),
    /// `hstore`, which brings a cast to `json`.
    Hstore,
}

impl Codec {
    /// The codec of a type; `exact_as_number` writes `int8` and `numeric` as numbers.
    pub fn of(ty: &Type, exact_as_number: bool) -> Self {
        match ty.kind() {
            Kind::Domain(base) => return Self::of(base, exact_as_number),
            Kind::Composite(fields) => {
                let field = |f: &tokio_postgres::types::Field| {
                    let mut name = Vec::new();
                    string(&mut name, f.name().as_bytes());
                    name.push(b':');
                    (String::from_utf8_lossy(&name).into_owned(), Self::of(f.type_(), exact_as_number))
                };
                return Self::Composite(fields.iter().map(field).collect());
            }
            Kind::Array(element) if *ty == Type::INT2_VECTOR || *ty == Type::OID_VECTOR => {
                return Self::Vector(Box::new(Self::of(element, exact_as_number)));
            }
            Kind::Array(element) => {
                // `box` is the one built-in type whose arrays are written with semicolons (pg_type.typdelim).
                let delimiter = if *element == Type::BOX { b';' } else { b',' };
                return Self::Array(Box::new(Self::of(element, exact_as_number)), delimiter);
            }
            _ => {}
        }
        match *ty {
            Type::INT2 | Type::INT4 => Self::Digits,
            Type::FLOAT4 | Type::FLOAT8 => Self::Float,
            Type::INT8 | Type::NUMERIC if exact_as_number => Self::Float,
            Type::INT8 | Type::NUMERIC => Self::Exact,
            Type::BOOL => Self::Bool,
            Type::JSON | Type::JSONB => Self::Json,
            Type::TIMESTAMP | Type::TIMESTAMPTZ => Self::Timestamp,
            Type::INT2_VECTOR => Self::Vector(Box::new(Self::Digits)),
            Type::OID_VECTOR => Self::Vector(Box::new(Self::Text)),
            _ if ty.name() == "hstore" => Self::Hstore,
            _ => Self::Text,
        }
    }

    /// Appends one value. Errors: the text is not what the type promises (its definition changed under the session).
    pub fn write(&self, out: &mut Vec<u8>, text: &[u8]) -> Result<(), BadLiteral> {
        match self {
            Self::Digits | Self::Json => out.extend_from_slice(text),
            Self::Float if is_number(text) => out.extend_from_slice(text),
            Self::Exact | Self::Float => {
                out.push(b'"');
                out.extend_from_slice(text);
                out.push(b'"');
            }
            Self::Bool => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
            Self::Timestamp => timestamp(out, text),
            Self::Text => string(out, text),
            Self::Array(element, delimiter) => return literal::array(out, text, element, *delimiter),
            Self::Vector(element) => return literal::vector(out, text, element),
            Self::Composite(fields) => return literal::composite(out, text, fields),
            Self::Hstore => return literal::hstore(out, text),
        }
        Ok(())
    }
}

/// Numbers print as JSON numbers do, but for `NaN`, `Infinity` and `-Infinity`.
fn is_number(text: &[u8]) -> bool {
    text.last().is_some_and(u8::is_ascii_digit)
}

/// `2026-01-02 03:04:05.6+00` → `"2026-01-02T03:04:05.6+00:00"`; ` BC` stays behind; `infinity` stays as it is.
fn timestamp(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    match memchr::memchr(b' ', text) {
        Some(at) if text[0].is_ascii_digit() => {
            out.extend_from_slice(&text[..at]);
            out.push(b'T');
            let (time, era) =
                text[at + 1..].strip_suffix(b" BC").map_or((&text[at + 1..], &b""[..]), |time| (time, b" BC"));
            out.extend_from_slice(time);
            // The server's own text leaves out minutes of a zone that are zero; ISO 8601 as `to_json` has it does not.
            let zone = time.iter().rposition(|b| *b == b'+' || *b == b'-');
            if zone.is_some_and(|zone| time.len() - zone == 3) {
                out.extend_from_slice(b":00");
            }
            out.extend_from_slice(era);
        }
        _ => out.extend_from_slice(text),
    }
    out.push(b'"');
}

/// Appends a JSON string. Bytes that are not UTF-8 (a database in `SQL_ASCII`) become U+FFFD.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if std::str::from_utf8(text).is_ok() {
        escape(out, text);
    } else {
        escape(out, String::from_utf8_lossy(text).as_bytes());
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean_from = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => {
                let mut code = String::new();
                write!(code, "\\u{control:04x}").expect("writing to a string does not fail");
                out.extend_from_slice(code.as_bytes());
            }
        }
    }
    out.extend_from_slice(&text[clean_from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(ty: &Type, text: &str) -> String {
        let mut out = Vec::new();
        Codec::of(ty, false).write(&mut out, text.as_bytes()).expect("writes");
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn timestamps_become_iso_8601() {
        for (text, json) in [
            ("2026-01-02 03:04:05.6+00", "\"2026-01-02T03:04:05.6+00:00\""),
            ("2026-01-02 03:04:05+05:30", "\"2026-01-02T03:04:05+05:30\""),
            ("0044-03-15 00:00:00+00 BC", "\"0044-03-15T00:00:00+00:00 BC\""),
            ("-infinity", "\"-infinity\""),
        ] {
            assert_eq!(written(&Type::TIMESTAMPTZ, text), json);
        }
        assert_eq!(written(&Type::TIMESTAMP, "2026-01-02 03:04:05"), "\"2026-01-02T03:04:05\"");
    }

    #[test]
    fn numbers_without_a_json_form_are_strings() {
        assert_eq!(written(&Type::FLOAT8, "1e+20"), "1e+20");
        assert_eq!(written(&Type::FLOAT8, "-Infinity"), "\"-Infinity\"");
        assert_eq!(written(&Type::INT8, "9007199254740993"), "\"9007199254740993\"");
    }

    proptest! {
        #[test]
        fn any_string_reads_back_from_json(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("is JSON"), text);
        }
    }
}
