//! From a Redis reply to the JSON that the public REST clients read.
//!
//! Shape: `{"result": …}` or `{"error": "…"}`. With base64 every string at every depth is standard padded base64, but for a
//! top-level `OK`; error texts never are. Source: the public clients' behaviour, measured.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use redis::{ServerError, Value};

use super::resp::{self, Head, NotResp};
use super::scalar::string;

/// Answers to one or several commands, in their order.
#[derive(Debug)]
pub enum Replies {
    /// As Redis wrote them, whole.
    Wire(Bytes),
    /// As the client library read them.
    Tree(std::vec::IntoIter<Value>),
}

impl Replies {
    /// Answers that the client library read.
    pub fn tree(values: Vec<Value>) -> Self {
        Self::Tree(values.into_iter())
    }

    /// Appends the next command's answer. True: it is a result, not an error. Errors: there is no more, or not of this kind.
    pub fn write_next(&mut self, out: &mut Vec<u8>, encoding: ReplyEncoding) -> Result<bool, NotResp> {
        match self {
            Self::Wire(bytes) => {
                let mut at = 0;
                let ok = wire_reply(out, bytes, &mut at, encoding)?;
                bytes.advance(at);
                Ok(ok)
            }
            Self::Tree(values) => Ok(reply(out, &values.next().ok_or(NotResp)?, encoding)),
        }
    }
}

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

/// Appends the answer that begins at `at`, and moves `at` behind it.
fn wire_reply(out: &mut Vec<u8>, bytes: &[u8], at: &mut usize, encoding: ReplyEncoding) -> Result<bool, NotResp> {
    let Head { kind, line, next } = resp::head(bytes, *at)?.ok_or(NotResp)?;
    if kind == b'-' {
        *at = next;
        out.extend_from_slice(b"{\"error\":");
        string(out, line);
        out.push(b'}');
        return Ok(false);
    }
    out.extend_from_slice(b"{\"result\":");
    if (kind, line) == (b'+', b"OK") {
        *at = next;
        out.extend_from_slice(b"\"OK\"");
    } else {
        wire_value(out, bytes, at, encoding)?;
    }
    out.push(b'}');
    Ok(true)
}

/// Without recursion: a script may nest as deep as it likes.
fn wire_value(out: &mut Vec<u8>, bytes: &[u8], at: &mut usize, encoding: ReplyEncoding) -> Result<(), NotResp> {
    // What is still to come in each array around the next value.
    let mut open: Vec<usize> = Vec::new();
    loop {
        let Head { kind, line, next } = resp::head(bytes, *at)?.ok_or(NotResp)?;
        *at = next;
        match kind {
            b':' => out.extend_from_slice(line),
            b'+' | b'-' => text(out, line, encoding),
            b'$' => match resp::length(line)? {
                None => out.extend_from_slice(b"null"),
                Some(len) => {
                    text(out, bytes.get(next..next + len).ok_or(NotResp)?, encoding);
                    *at = next + len + 2;
                }
            },
            b'*' => match resp::length(line)? {
                None => out.extend_from_slice(b"null"),
                Some(0) => out.extend_from_slice(b"[]"),
                Some(items) => {
                    out.push(b'[');
                    open.push(items);
                    continue;
                }
            },
            _ => return Err(NotResp),
        }
        loop {
            match open.last_mut() {
                None => return Ok(()),
                Some(1) => {
                    open.pop();
                    out.push(b']');
                }
                Some(left) => {
                    *left -= 1;
                    out.push(b',');
                    break;
                }
            }
        }
    }
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
            let (start, len) = (out.len(), base64::encoded_len(bytes.len(), true).unwrap_or(0));
            out.resize(start + len, 0);
            STANDARD.encode_slice(bytes, &mut out[start..]).expect("the length is the one it asks for");
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A value as Redis writes it.
    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            vec(any::<u8>(), 0..40)
                .prop_map(|text| [format!("${}\r\n", text.len()).as_bytes(), &text, b"\r\n"].concat()),
            "[ -~é]{0,20}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
            Just(b"+OK\r\n".to_vec()),
            "(ERR|WRONGTYPE|MOVED|ODD) [!-~][ -~]{0,20}[!-~]".prop_map(|text| format!("-{text}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            vec(inner, 0..6).prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat())
        })
    }

    proptest! {
        #[test]
        fn what_is_copied_from_the_wire_is_what_the_client_library_would_read(
            values in vec(wire(), 1..4), base64 in any::<bool>()
        ) {
            let encoding = if base64 { ReplyEncoding::Base64 } else { ReplyEncoding::Plain };
            let parsed = values.iter().map(|value| redis::parse_redis_value(value).expect("is RESP")).collect();
            let (mut copied, mut read) = (Replies::Wire(values.concat().into()), Replies::tree(parsed));
            for _ in &values {
                let (mut one, mut other) = (Vec::new(), Vec::new());
                prop_assert_eq!(copied.write_next(&mut one, encoding), read.write_next(&mut other, encoding));
                prop_assert_eq!(String::from_utf8_lossy(&one), String::from_utf8_lossy(&other));
            }
            prop_assert_eq!(copied.write_next(&mut Vec::new(), encoding), Err(NotResp));
        }
    }

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
