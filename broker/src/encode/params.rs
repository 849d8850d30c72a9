//! From a JSON value to the text of a statement parameter, by the type the server wants there.

use crate::base::hex::hex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_postgres::types::{Kind, Type};

/// The dimensions that PostgreSQL arrays may have (`MAXDIM`).
const MAX_DIMENSIONS: u32 = 6;

/// A parameter as the text the server reads; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextParam(pub Option<Vec<u8>>);

/// A parameter that does not go with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// An array or an object where the statement wants neither.
    #[error("is a JSON {got}, but the statement wants {wanted} there; send a string, or cast the placeholder to json")]
    Shape {
        /// What came.
        got: &'static str,
        /// The type's name.
        wanted: String,
    },
    /// `{"$bytes": …}` that is not base64.
    #[error("has a \"$bytes\" that is not base64")]
    Base64,
    /// PostgreSQL's text holds no NUL character.
    #[error("contains a NUL character, which PostgreSQL text cannot hold; use {{\"$bytes\": …}} with bytea")]
    Nul,
    /// Arrays within arrays beyond what the server has.
    #[error("has more than {MAX_DIMENSIONS} dimensions, which is PostgreSQL's limit")]
    Depth,
    /// A reference to an earlier result that is not there.
    #[error("{0}")]
    Reference(String),
    /// A string with an escape that is no character.
    #[error("is not a valid JSON string: {0}")]
    String(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bytes<'a> {
    #[serde(rename = "$bytes", borrow)]
    bytes: std::borrow::Cow<'a, str>,
}

/// Makes the parameter for a place of type `ty`.
pub fn param(raw: &RawValue, ty: &Type) -> Result<TextParam, ParamError> {
    let json = raw.get();
    if json == "null" {
        return Ok(TextParam(None));
    }
    let ty = base_type(ty);
    if is_json(ty) {
        return Ok(text(json.as_bytes()));
    }
    match json.as_bytes()[0] {
        b'"' => unquoted(json).map(|s| TextParam(Some(s.into_bytes()))),
        b'[' => match ty.kind() {
            Kind::Array(element) => {
                let mut out = Vec::new();
                array(&mut out, raw, element, MAX_DIMENSIONS)?;
                Ok(TextParam(Some(out)))
            }
            _ => Err(shape("array", ty)),
        },
        b'{' => object(json, ty).map(|bytes| TextParam(Some(bytes))),
        _ => Ok(text(json.as_bytes())),
    }
}

fn text(bytes: &[u8]) -> TextParam {
    TextParam(Some(bytes.to_vec()))
}

fn shape(got: &'static str, wanted: &Type) -> ParamError {
    ParamError::Shape { got, wanted: wanted.name().to_owned() }
}

fn base_type(ty: &Type) -> &Type {
    match ty.kind() {
        Kind::Domain(base) => base_type(base),
        _ => ty,
    }
}

fn is_json(ty: &Type) -> bool {
    *ty == Type::JSON || *ty == Type::JSONB
}

fn unquoted(json: &str) -> Result<String, ParamError> {
    let text: String = serde_json::from_str(json).map_err(|error| ParamError::String(error.to_string()))?;
    if text.contains('\0') { Err(ParamError::Nul) } else { Ok(text) }
}

/// `{"$bytes": "<base64>"}` as bytea's hexadecimal text.
fn object(json: &str, ty: &Type) -> Result<Vec<u8>, ParamError> {
    let Ok(Bytes { bytes }) = serde_json::from_str(json) else { return Err(shape("object", ty)) };
    if *ty != Type::BYTEA {
        return Err(shape("{\"$bytes\"} object", ty));
    }
    let bytes = STANDARD.decode(bytes.as_bytes()).map_err(|_| ParamError::Base64)?;
    let mut out = b"\\x".to_vec();
    out.extend_from_slice(hex(&bytes).as_bytes());
    Ok(out)
}

/// A JSON array as an array literal. Elements of `json` arrays are JSON values themselves, so those do not nest.
fn array(out: &mut Vec<u8>, raw: &RawValue, element: &Type, depth: u32) -> Result<(), ParamError> {
    let depth = depth.checked_sub(1).ok_or(ParamError::Depth)?;
    let element = base_type(element);
    let items: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|error| ParamError::String(error.to_string()))?;
    let delimiter = if *element == Type::BOX { b';' } else { b',' };
    out.push(b'{');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(delimiter);
        }
        let json = item.get();
        match json.as_bytes()[0] {
            _ if json == "null" => out.extend_from_slice(b"NULL"),
            _ if is_json(element) => quoted(out, json.as_bytes()),
            b'"' => quoted(out, unquoted(json)?.as_bytes()),
            b'[' => array(out, item, element, depth)?,
            b'{' => quoted(out, &object(json, element)?),
            _ => out.extend_from_slice(json.as_bytes()),
        }
    }
    out.push(b'}');
    Ok(())
}

fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(json: &str, ty: &Type) -> Result<Option<String>, ParamError> {
        let raw = RawValue::from_string(json.to_owned()).expect("is JSON");
        param(&raw, ty).map(|p| p.0.map(|bytes| String::from_utf8(bytes).expect("is UTF-8")))
    }

    #[test]
    fn numbers_travel_as_they_are_written() {
        for json in ["9007199254740993", "1e20", "-0.10", "1180591620717411303424"] {
            assert_eq!(made(json, &Type::NUMERIC), Ok(Some(json.to_owned())));
        }
    }

    #[test]
    fn json_places_take_any_value_as_json() {
        for json in [r#""text""#, "[1,2]", r#"{"$bytes":"AA=="}"#, "true"] {
            assert_eq!(made(json, &Type::JSONB), Ok(Some(json.to_owned())));
        }
        assert_eq!(made("null", &Type::JSONB), Ok(None));
    }

    #[test]
    fn arrays_become_literals() {
        assert_eq!(made("[1,null,3]", &Type::INT4_ARRAY), Ok(Some("{1,NULL,3}".to_owned())));
        assert_eq!(
            made(r#"["a,b","NULL","q\"\\"]"#, &Type::TEXT_ARRAY),
            Ok(Some(r#"{"a,b","NULL","q\"\\"}"#.to_owned()))
        );
        assert_eq!(made("[[1,2],[3,4]]", &Type::INT4_ARRAY), Ok(Some("{{1,2},{3,4}}".to_owned())));
        assert_eq!(made(r#"[[1],{"a":"b"}]"#, &Type::JSONB_ARRAY), Ok(Some(r#"{"[1]","{\"a\":\"b\"}"}"#.to_owned())));
        assert_eq!(made(r#"[{"$bytes":"AP8="}]"#, &Type::BYTEA_ARRAY), Ok(Some(r#"{"\\x00ff"}"#.to_owned())));
    }

    #[test]
    fn arrays_nest_as_deep_as_the_server_allows_and_no_deeper() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(made(&nested(6), &Type::INT4_ARRAY).is_ok());
        for depth in [7, 30_000] {
            assert_eq!(made(&nested(depth), &Type::INT4_ARRAY), Err(ParamError::Depth));
        }
    }

    #[test]
    fn bytes_become_hexadecimal() {
        assert_eq!(made(r#"{"$bytes":"AP8="}"#, &Type::BYTEA), Ok(Some("\\x00ff".to_owned())));
        assert_eq!(made(r#"{"$bytes":"?"}"#, &Type::BYTEA), Err(ParamError::Base64));
    }

    #[test]
    fn what_does_not_go_is_refused_with_what_would() {
        assert!(matches!(made("[1]", &Type::TEXT), Err(ParamError::Shape { got: "array", .. })));
        assert!(matches!(made(r#"{"a":1}"#, &Type::TEXT), Err(ParamError::Shape { got: "object", .. })));
        assert_eq!(made(r#""a\u0000b""#, &Type::TEXT), Err(ParamError::Nul));
        assert!(matches!(made(r#""\ud800""#, &Type::TEXT), Err(ParamError::String(_))));
    }
}
