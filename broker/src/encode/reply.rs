//! From a Redis reply to the JSON that the public REST clients read.
//!
//! Shape: `{"result": …}` or `{"error": "…"}`. With base64 every string at every depth is standard padded base64, but for a
//! top-level `OK`; error texts never are. Source: the public clients' behaviour, measured.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{ServerError, Value};

use super::scalar::string;

/// How strings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyEncoding {
    /// As JSON strings; bytes that are not UTF-8 become U+FFFD.
    Plain,
    /// As base64 of the exact bytes.
    Base64,
}

/// Appends one command's answer. True: it is a result, not an error.
pub fn reply(out: &mut Vec<u8>, value: &Value, encoding: ReplyEncoding) -> bool {
    if let Value::ServerError(error) = value {
        refusal(out, &error_text(error));
        return false;
    }
    out.extend_from_slice(b"{\"result\":");
    match value {
        Value::Okay => out.extend_from_slice(b"\"OK\""),
        value => write(out, value, encoding),
    }
    out.push(b'}');
    true
}

/// Appends `{"error": "…"}`.
pub fn refusal(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"{\"error\":");
    string(out, text.as_bytes());
    out.push(b'}');
}

/// Redis' own words: `WRONGTYPE Operation against a key holding the wrong kind of value`.
pub fn error_text(error: &ServerError) -> String {
    error.details().map_or_else(|| error.code().to_owned(), |details| format!("{} {details}", error.code()))
}

fn write(out: &mut Vec<u8>, value: &Value, encoding: ReplyEncoding) {
    match value {
        Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Value::BulkString(bytes) | Value::BigNumber(bytes) => text(out, bytes, encoding),
        Value::SimpleString(line) | Value::VerbatimString { text: line, .. } => text(out, line.as_bytes(), encoding),
        Value::Okay => text(out, b"OK", encoding),
        Value::Array(items) | Value::Set(items) | Value::Push { data: items, .. } => list(out, items.iter(), encoding),
        Value::ServerError(error) => text(out, error_text(error).as_bytes(), encoding),
        // The broker speaks RESP2, so the rest does not come; should it, it reads as RESP2 would have said it.
        Value::Map(pairs) => list(out, pairs.iter().flat_map(|(k, v)| [k, v]), encoding),
        Value::Attribute { data, .. } => write(out, data, encoding),
        Value::Double(number) => text(out, number.to_string().as_bytes(), encoding),
        Value::Boolean(yes) => out.push(if *yes { b'1' } else { b'0' }),
        // `Nil`, and what a later release of the client may add.
        _ => out.extend_from_slice(b"null"),
    }
}

fn list<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a Value>, encoding: ReplyEncoding) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item, encoding);
    }
    out.push(b']');
}

fn text(out: &mut Vec<u8>, bytes: &[u8], encoding: ReplyEncoding) {
    match encoding {
        ReplyEncoding::Plain => string(out, bytes),
        ReplyEncoding::Base64 => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value, encoding: ReplyEncoding) -> String {
        let mut out = Vec::new();
        reply(&mut out, value, encoding);
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn only_a_top_level_ok_escapes_base64() {
        assert_eq!(written(&Value::Okay, ReplyEncoding::Base64), r#"{"result":"OK"}"#);
        let nested = Value::Array(vec![Value::Okay, Value::BulkString(b"\xff".to_vec()), Value::Nil, Value::Int(3)]);
        assert_eq!(written(&nested, ReplyEncoding::Base64), r#"{"result":["T0s=","/w==",null,3]}"#);
        assert_eq!(written(&Value::SimpleString("PONG".into()), ReplyEncoding::Base64), r#"{"result":"UE9ORw=="}"#);
    }

    #[test]
    fn plain_strings_replace_what_is_not_text() {
        assert_eq!(
            written(&Value::BulkString(b"a\xffb".to_vec()), ReplyEncoding::Plain),
            "{\"result\":\"a\u{fffd}b\"}"
        );
    }
}
