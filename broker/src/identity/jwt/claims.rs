//! The claims of a token: an object in which nothing stands twice.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::identity::error::TokenFault;

/// The claims of a token.
#[derive(Debug)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// What the token says, which nobody has vouched for yet.
    pub fn unverified(token: &str) -> Result<Self, TokenFault> {
        let payload = part(token, 1).ok_or(TokenFault::Malformed)?;
        match serde_json::from_slice(&payload) {
            Ok(Once(Value::Object(claims))) => Ok(Self(claims)),
            _ => Err(TokenFault::Malformed),
        }
    }

    /// A claim, by its name or, where no claim has that name, by the path that dots in it lead.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            let mut parts = name.split('.');
            let first = self.0.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.as_object()?.get(part)).filter(|_| name.contains('.'))
        })
    }

    /// A claim that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// When it expires. Unit: seconds since 1970.
    pub fn expires(&self) -> Option<i64> {
        let value = self.0.get("exp")?;
        #[expect(clippy::cast_possible_truncation, reason = "a date beyond all numbers is the largest of them")]
        value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX)).or_else(|| value.as_f64().map(|at| at as i64))
    }

    /// Words in a claim: text with spaces between, or an array of texts. Errors: anything else.
    pub fn words(&self, name: &str) -> Result<Vec<&str>, TokenFault> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split_ascii_whitespace().collect()),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().ok_or(TokenFault::Claims)).collect(),
            Some(_) => Err(TokenFault::Claims),
        }
    }

    /// A claim as the text of a setting: `*` is all of them. Errors: text with a NUL, which no setting can hold.
    pub fn setting(&self, name: &str) -> Result<String, TokenFault> {
        let text = match (name, self.get(name)) {
            ("*", _) => serde_json::to_string(&self.0).map_err(|_| TokenFault::Claims)?,
            (_, None | Some(Value::Null)) => String::new(),
            (_, Some(Value::String(text))) => text.clone(),
            (_, Some(other)) => other.to_string(),
        };
        if text.contains('\0') { Err(TokenFault::Claims) } else { Ok(text) }
    }
}

/// True if the header can be read and has an `alg`, be it one that nobody knows.
pub fn names_an_algorithm(token: &str) -> bool {
    let header = part(token, 0).and_then(|header| serde_json::from_slice::<Once>(&header).ok());
    header.is_some_and(|Once(header)| header["alg"].is_string())
}

fn part(token: &str, index: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()
}

/// JSON in which no member of an object stands twice: two readers would read two tokens.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Once(value))) = members.next_entry::<String, Once>()? {
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Result<Claims, TokenFault> {
        Claims::unverified(&format!("h.{}.s", URL_SAFE_NO_PAD.encode(json)))
    }

    #[test]
    fn nothing_stands_twice_at_any_depth() {
        for bad in [
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"b":1}]}"#,
            r#"{"sub":"a","\u0073ub":"b"}"#,
            "[]",
            "\"text\"",
            "{",
            "",
        ] {
            assert_eq!(claims(bad).expect_err("is refused"), TokenFault::Malformed, "{bad}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
        assert_eq!(claims(&deep).expect_err("too deep"), TokenFault::Malformed);
        assert_eq!(Claims::unverified("h.!!.s").expect_err("no base64"), TokenFault::Malformed);
    }

    #[test]
    fn claims_are_found_by_name_and_by_path_and_become_text() {
        let all = claims(
            r#"{"sub":"42","org":{"id":7,"deep":{"x":[1]}},"https://a.example/t":"acme","n":null,"f":true,"z":"a\u0000b"}"#,
        )
        .expect("good");
        let setting = |name: &str| all.setting(name);
        for (name, text) in [
            ("sub", "42"),
            ("org.id", "7"),
            ("org.deep", "{\"x\":[1]}"),
            ("https://a.example/t", "acme"),
            ("n", ""),
            ("none", ""),
            ("sub.x", ""),
            ("org.id.x", ""),
            ("f", "true"),
        ] {
            assert_eq!(setting(name).as_deref(), Ok(text), "{name}");
        }
        assert_eq!(setting("z"), Err(TokenFault::Claims));
        assert!(setting("*").is_ok_and(|all| all.contains("\"sub\":\"42\"") && all.contains("a\\u0000b")));
    }

    #[test]
    fn words_are_text_or_an_array_of_texts() {
        let all = claims(r#"{"a":" x  y ","b":["x","y z"],"c":["x",1],"d":5,"e":null,"f":{"x":1}}"#).expect("good");
        assert_eq!(all.words("a"), Ok(vec!["x", "y"]));
        assert_eq!(all.words("b"), Ok(vec!["x", "y z"]));
        assert_eq!((all.words("none"), all.words("e")), (Ok(Vec::new()), Ok(Vec::new())));
        for bad in ["c", "d", "f"] {
            assert_eq!(all.words(bad), Err(TokenFault::Claims), "{bad}");
        }
    }

    #[test]
    fn an_expiry_is_a_number_of_any_kind() {
        for (text, at) in
            [("1700000000", Some(1_700_000_000)), ("1700000000.9", Some(1_700_000_000)), ("\"1700000000\"", None)]
        {
            assert_eq!(claims(&format!("{{\"exp\":{text}}}")).expect("good").expires(), at, "{text}");
        }
        assert_eq!(claims("{\"exp\":18446744073709551615}").expect("good").expires(), Some(i64::MAX));
    }
}
