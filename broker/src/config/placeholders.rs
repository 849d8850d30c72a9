//! Which placeholders (`$1`, `$2` …) a statement has. Strings, names in quotes and comments have none.
//!
//! Source: PostgreSQL manual, "Lexical Structure".

use std::collections::BTreeSet;

/// The numbers of all placeholders; `None` for a text in which a string or a comment does not end.
pub fn used(sql: &str) -> Option<BTreeSet<usize>> {
    let mut found = BTreeSet::new();
    let mut rest = sql.as_bytes();
    while let Some(first) = rest.first() {
        let passed = match first {
            b'-' if rest.starts_with(b"--") => find(rest, b"\n").unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => comment(rest)?,
            // A doubled quote ends one string and begins the next, which comes to the same.
            b'\'' => 2 + find(&rest[1..], b"'")?,
            b'"' => 2 + find(&rest[1..], b"\"")?,
            b'e' | b'E' if rest.get(1) == Some(&b'\'') => escaped(rest)?,
            b'$' => match length(&rest[1..], |b| b.is_ascii_digit()) {
                0 => dollar_quoted(rest)?,
                digits => {
                    let number = rest[1..=digits].iter().try_fold(0_usize, |number, digit| {
                        number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))
                    });
                    found.insert(number.unwrap_or(usize::MAX));
                    1 + digits
                }
            },
            // A dollar sign inside a name is part of it.
            byte if is_name_start(*byte) => length(rest, |b| is_name_start(b) || b.is_ascii_digit() || b == b'$'),
            _ => 1,
        };
        rest = &rest[passed..];
    }
    Some(found)
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, what)
}

fn length(text: &[u8], part: impl Fn(u8) -> bool) -> usize {
    text.iter().take_while(|byte| part(**byte)).count()
}

/// Comments nest.
fn comment(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        match text.get(at..at + 2)? {
            b"/*" => depth += 1,
            b"*/" if depth == 1 => return Some(at + 2),
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
}

/// `E'…'`, in which a backslash takes the next character's meaning away; also where it goes on after a line break.
fn escaped(text: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'\'' => {
                let gap = length(&text[at + 1..], |byte| byte.is_ascii_whitespace());
                match text.get(at + 1 + gap) {
                    Some(b'\'') => at += 2 + gap,
                    _ => return Some(at + 1),
                }
            }
            _ => at += 1,
        }
    }
}

/// `$tag$…$tag$`, or a dollar sign that stands alone.
fn dollar_quoted(text: &[u8]) -> Option<usize> {
    let tag = length(&text[1..], |byte| is_name_start(byte) || byte.is_ascii_digit());
    if text.get(1 + tag) != Some(&b'$') {
        return Some(1);
    }
    let mark = &text[..2 + tag];
    find(&text[mark.len()..], mark).map(|end| end + 2 * mark.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(sql: &str) -> Vec<usize> {
        used(sql).expect("ends").into_iter().collect()
    }

    #[test]
    fn placeholders_are_found_where_the_server_sees_them() {
        assert_eq!(numbers("SELECT $1, $2::int8+$10 WHERE a=$1"), [1, 2, 10]);
        assert_eq!(numbers("SELECT $1||'$2''$3'||$4"), [1, 4]);
        assert_eq!(numbers("SELECT \"$1\", a$2, é$3, $4"), [4]);
        assert_eq!(numbers("SELECT 1 -- $1\n, $2 /* $3 /* $4 */ $5 */ , $6 -- $7"), [2, 6]);
        assert_eq!(numbers("SELECT $$ $1 $$, $a$ $2 $$ $3 $a$, $4"), [4]);
        assert_eq!(numbers("SELECT E'\\'$1', e'a'\n '\\'$2', '\\', $3, else'$4'"), [3]);
        assert_eq!(numbers("SELECT $0, $99999999999999999999999"), [0, usize::MAX]);
        assert_eq!(numbers("SELECT a $ b, $1"), [1]);
    }

    #[test]
    fn a_text_that_does_not_end_tells_nothing() {
        for sql in ["'$1", "\"$1", "/* $1", "/* /* */", "$$ $1", "$a$ $1 $b$", "E'\\'", "E'"] {
            assert_eq!(used(sql), None, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(sql in "[-'\"$/*Ee\\\\0-9a-c \\n_é]{0,40}") {
            let _ = used(&sql);
        }
    }
}
