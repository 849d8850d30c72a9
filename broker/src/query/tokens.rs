//! Reading SQL as far as needed to know what kind of statement it is: words and the marks around them, without comments,
//! strings and numbers.
//!
//! Source: PostgreSQL manual, "Lexical Structure".

/// A word or a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A key word or a name, in lower case.
    Word(String),
    /// A name in double quotes, as it stands.
    Quoted(String),
    /// A single character that is none of the above.
    Mark(u8),
}

/// Reads `sql` token by token. What does not end (a string, a comment) ends with the text: the server will refuse it.
pub struct Tokens<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    /// Begins at the start of `sql`.
    pub fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let bytes = self.sql.as_bytes();
        loop {
            let at = self.at;
            match *bytes.get(at)? {
                b'-' if bytes.get(at + 1) == Some(&b'-') => self.at = line_end(bytes, at),
                b'/' if bytes.get(at + 1) == Some(&b'*') => self.at = comment_end(bytes, at),
                b'\'' => self.at = string_end(bytes, at, escapes_before(bytes, at)),
                b'"' => {
                    self.at = quoted_end(bytes, at, false);
                    // A name that does not end has no closing quote to take off.
                    let inner = self.sql.get(at + 1..self.at - 1).unwrap_or(&self.sql[at + 1..]);
                    return Some(Token::Quoted(inner.replace("\"\"", "\"")));
                }
                b'$' => self.at = dollar_end(bytes, at).unwrap_or(at + 1),
                byte if is_name_start(byte) => {
                    self.at = (at..bytes.len()).find(|i| !is_name_part(bytes[*i])).unwrap_or(bytes.len());
                    return Some(Token::Word(self.sql[at..self.at].to_ascii_lowercase()));
                }
                byte if byte.is_ascii_digit() => {
                    // Letters behind it are a word of their own: older servers read `1into` as two tokens.
                    let part = |i: &usize| bytes[*i].is_ascii_digit() || matches!(bytes[*i], b'.' | b'_');
                    self.at = (at..bytes.len()).find(|i| !part(i)).unwrap_or(bytes.len());
                }
                byte => {
                    self.at += 1;
                    if !is_space(byte) {
                        return Some(Token::Mark(byte));
                    }
                }
            }
        }
    }
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_name_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr::memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1)
}

/// Comments nest.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i + 1 < bytes.len() {
        match (bytes[i], bytes[i + 1]) {
            (b'/', b'*') => {
                depth += 1;
                i += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    bytes.len()
}

/// `E'…'` knows backslashes; a plain string does not: every session is opened with `standard_conforming_strings` on.
fn escapes_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && matches!(bytes[at - 1], b'e' | b'E') && (at < 2 || !is_name_part(bytes[at - 2]))
}

/// A string may go on after a line break, under the same rules.
fn string_end(bytes: &[u8], at: usize, escapes: bool) -> usize {
    let mut end = quoted_end(bytes, at, escapes);
    while let Some(next) = continued(bytes, end) {
        end = quoted_end(bytes, next, escapes);
    }
    end
}

/// The quote that goes on with a string that ended at `end`: behind white space and `--` comments with a line break among them.
fn continued(bytes: &[u8], end: usize) -> Option<usize> {
    let (mut at, mut broken) = (end, false);
    loop {
        match *bytes.get(at)? {
            b'\n' | b'\r' => {
                broken = true;
                at += 1;
            }
            byte if is_space(byte) => at += 1,
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at = memchr::memchr2(b'\n', b'\r', &bytes[at..]).map(|n| at + n)?;
            }
            b'\'' if broken => return Some(at),
            _ => return None,
        }
    }
}

/// White space to the server; a vertical tab is since release 16.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn quoted_end(bytes: &[u8], at: usize, escapes: bool) -> usize {
    let quote = bytes[at];
    let mut i = at + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if escapes => i += 2,
            byte if byte == quote && bytes.get(i + 1) == Some(&quote) => i += 2,
            byte if byte == quote => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The end of `$tag$…$tag$`; `None` for a placeholder such as `$1`.
fn dollar_end(bytes: &[u8], at: usize) -> Option<usize> {
    let tag_end = at + 1 + bytes[at + 1..].iter().position(|b| *b == b'$')?;
    let tag = &bytes[at + 1..tag_end];
    let is_tag = tag.first().is_none_or(|b| is_name_start(*b)) && tag.iter().all(|b| is_name_part(*b) && *b != b'$');
    if !is_tag {
        return None;
    }
    let mark = &bytes[at..=tag_end];
    let end = memchr::memmem::find(&bytes[tag_end + 1..], mark).map_or(bytes.len(), |i| tag_end + 1 + i + mark.len());
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(sql: &str) -> Vec<Token> {
        Tokens::new(sql).collect()
    }

    fn words(sql: &str) -> Vec<String> {
        tokens(sql).into_iter().filter_map(|t| if let Token::Word(w) = t { Some(w) } else { None }).collect()
    }

    #[test]
    fn comments_and_strings_hide_what_they_hold() {
        assert_eq!(
            words("/* a /* b */ c */ SELECT -- d\n 'e''f' , E'g\\'h' , $$i$$, $x$j$$k$x$ , l"),
            ["select", "e", "l"]
        );
        assert_eq!(words("select $1 + a$b"), ["select", "a$b"]);
        assert_eq!(tokens("\"Se\"\"t\"("), [Token::Quoted("Se\"t".to_owned()), Token::Mark(b'(')]);
        assert_eq!(words("select 'never ends"), ["select"]);
        assert_eq!(words("select E'a'\n'\\'', b('c')"), ["select", "e", "b"], "a continued string keeps its escapes");
        assert_eq!(words("select E'a' -- c\n'\\'', b('c'), ''''"), ["select", "e", "b"], "also behind a comment");
        assert_eq!(words("select 'a' 'b' -- 'c\n"), ["select"]);
        assert_eq!(words("select 1into t, \u{212a}"), ["select", "into", "t", "\u{212a}"], "only ASCII is folded");
        assert_eq!(
            tokens("\"\u{b82}"),
            [Token::Quoted("\u{b82}".to_owned())],
            "a name that never ends, in wide letters"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(sql in any::<String>()) {
            tokens(&sql);
        }
    }
}
