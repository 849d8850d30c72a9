//! PostgreSQL's text for values made of values: arrays, rows, vectors, `hstore`.
//!
//! Source: PostgreSQL manual, "Array Input and Output Syntax", "Composite Type Input and Output Syntax", "hstore".

use super::scalar::{Codec, string};

/// The text is not what the type promises: its definition changed under the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value does not fit its type's definition")]
pub struct BadLiteral;

/// A reader over a literal.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, BadLiteral> {
        let byte = self.peek().ok_or(BadLiteral)?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), BadLiteral> {
        if self.next()? == wanted { Ok(()) } else { Err(BadLiteral) }
    }

    /// Everything up to one of two bytes, which stays.
    fn until(&mut self, a: u8, b: u8) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let end = memchr::memchr2(a, b, rest).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A quoted piece, opening quote first. `\x` stands for `x`; in rows also `""` for `"`.
    fn quoted(&mut self, doubled: bool) -> Result<Vec<u8>, BadLiteral> {
        self.expect(b'"')?;
        let mut value = Vec::new();
        loop {
            match self.next()? {
                b'\\' => value.push(self.next()?),
                b'"' if doubled && self.peek() == Some(b'"') => {
                    self.at += 1;
                    value.push(b'"');
                }
                b'"' => return Ok(value),
                byte => value.push(byte),
            }
        }
    }
}

/// `{1,NULL,"a b"}`, nested, and with bounds in front where they do not start at 1.
pub fn array(out: &mut Vec<u8>, text: &[u8], element: &Codec, delimiter: u8) -> Result<(), BadLiteral> {
    // `[0:1][2:3]={{…}}`: `to_json` does not tell the bounds either.
    let start = if text.first() == Some(&b'[') { memchr::memchr(b'=', text).ok_or(BadLiteral)? + 1 } else { 0 };
    let mut cursor = Cursor { text, at: start };
    dimension(out, &mut cursor, element, delimiter)?;
    if cursor.peek().is_none() { Ok(()) } else { Err(BadLiteral) }
}

fn dimension(out: &mut Vec<u8>, cursor: &mut Cursor<'_>, element: &Codec, delimiter: u8) -> Result<(), BadLiteral> {
    cursor.expect(b'{')?;
    out.push(b'[');
    if cursor.peek() == Some(b'}') {
        cursor.at += 1;
        out.push(b']');
        return Ok(());
    }
    loop {
        match cursor.peek().ok_or(BadLiteral)? {
            // A server allows six dimensions, so this does not go deep.
            b'{' => dimension(out, cursor, element, delimiter)?,
            b'"' => element.write(out, &cursor.quoted(false)?)?,
            _ => match cursor.until(delimiter, b'}') {
                b"NULL" => out.extend_from_slice(b"null"),
                plain => element.write(out, plain)?,
            },
        }
        match cursor.next()? {
            b'}' => break,
            byte if byte == delimiter => out.push(b','),
            _ => return Err(BadLiteral),
        }
    }
    out.push(b']');
    Ok(())
}

/// `1 2 3`.
pub fn vector(out: &mut Vec<u8>, text: &[u8], element: &Codec) -> Result<(), BadLiteral> {
    out.push(b'[');
    for (index, piece) in text.split(|b| *b == b' ').filter(|piece| !piece.is_empty()).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        element.write(out, piece)?;
    }
    out.push(b']');
    Ok(())
}

/// `(1,"a b",)`: nothing between two commas is NULL, `""` is empty text.
pub fn composite(out: &mut Vec<u8>, text: &[u8], fields: &[(String, Codec)]) -> Result<(), BadLiteral> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.expect(b'(')?;
    out.push(b'{');
    for (index, (name, codec)) in fields.iter().enumerate() {
        if index > 0 {
            cursor.expect(b',')?;
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        match cursor.peek().ok_or(BadLiteral)? {
            b',' | b')' => out.extend_from_slice(b"null"),
            b'"' => codec.write(out, &cursor.quoted(true)?)?,
            _ => codec.write(out, cursor.until(b',', b')'))?,
        }
    }
    cursor.expect(b')')?;
    out.push(b'}');
    if cursor.peek().is_none() { Ok(()) } else { Err(BadLiteral) }
}

/// `"a"=>"1", "b"=>NULL`: values are strings, as in the server's own cast to `json`.
pub fn hstore(out: &mut Vec<u8>, text: &[u8]) -> Result<(), BadLiteral> {
    let mut cursor = Cursor { text, at: 0 };
    out.push(b'{');
    while cursor.peek().is_some() {
        string(out, &cursor.quoted(false)?);
        cursor.expect(b'=')?;
        cursor.expect(b'>')?;
        out.push(b':');
        if cursor.peek() == Some(b'"') {
            string(out, &cursor.quoted(false)?);
        } else {
            cursor.until(b',', b',');
            out.extend_from_slice(b"null");
        }
        if cursor.peek().is_some() {
            cursor.expect(b',')?;
            cursor.expect(b' ')?;
            out.push(b',');
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn array_of(element: &Codec, text: &str) -> Result<String, BadLiteral> {
        let mut out = Vec::new();
        array(&mut out, text.as_bytes(), element, b',')?;
        Ok(String::from_utf8(out).expect("is UTF-8"))
    }

    #[test]
    fn arrays_nest_and_lose_their_bounds() {
        for (text, json) in
            [("{}", "[]"), ("{1,NULL,3}", "[1,null,3]"), ("[0:1]={1,2}", "[1,2]"), ("{{1,2},{3,4}}", "[[1,2],[3,4]]")]
        {
            assert_eq!(array_of(&Codec::Digits, text).expect(text), json);
        }
        assert_eq!(
            array_of(&Codec::Text, r#"{"a,b","NULL","q\"\\",x}"#).expect("reads"),
            r#"["a,b","NULL","q\"\\","x"]"#
        );
    }

    #[test]
    fn rows_tell_null_from_empty_text() {
        let fields: Vec<_> = ["a", "b", "c"].map(|n| (format!("\"{n}\":"), Codec::Text)).to_vec();
        let mut out = Vec::new();
        composite(&mut out, br#"(,"","say ""hi"", \\ bye")"#, &fields).expect("reads");
        assert_eq!(String::from_utf8(out).expect("is UTF-8"), r#"{"a":null,"b":"","c":"say \"hi\", \\ bye"}"#);
    }

    #[test]
    fn a_row_of_another_width_is_refused_not_guessed() {
        let fields = vec![("\"a\":".to_owned(), Codec::Text)];
        assert_eq!(composite(&mut Vec::new(), b"(1,2)", &fields), Err(BadLiteral));
        assert_eq!(composite(&mut Vec::new(), b"()x", &fields), Err(BadLiteral));
    }

    proptest! {
        #[test]
        fn no_text_stops_the_readers(text in "[{}(),\"\\\\a-c=> ]{0,40}") {
            let element = Codec::Array(Box::new(Codec::Text), b',');
            let _ = array(&mut Vec::new(), text.as_bytes(), &element, b',');
            let _ = composite(&mut Vec::new(), text.as_bytes(), &[("\"a\":".to_owned(), Codec::Text)]);
            let _ = hstore(&mut Vec::new(), text.as_bytes());
        }
    }
}
