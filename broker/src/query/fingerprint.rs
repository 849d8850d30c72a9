//! What a statement is known by in logs: the same for the same text, whatever its literals, comments, case and white space.

use sha2::{Digest, Sha256};

use super::tokens::{Token, Tokens};

/// The fingerprint. It stays the same over versions, and tells nothing of the values in the text.
pub fn fingerprint(sql: &str) -> u64 {
    let mut hash = Sha256::new();
    let mut previous = 0;
    for token in Tokens::new(sql) {
        let (kind, text) = match &token {
            // Of a list of values only that it is one: how many there were is a value too.
            Token::Mark(b',') if matches!(previous, b',' | b'(') => continue,
            Token::Mark(mark) => (*mark, ""),
            Token::Word(word) => (b'w', word.as_str()),
            Token::Quoted(name) => (b'q', name.as_str()),
        };
        previous = if text.is_empty() { kind } else { 0 };
        hash.update([kind]);
        hash.update(text);
        hash.update([0]);
    }
    let hash: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(hash[..8].try_into().expect("eight of them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_comments_case_and_space_do_not_count() {
        let wanted = fingerprint("SELECT name FROM users WHERE id = $1 AND city IN ('a', 'b')");
        for same in [
            "select name from users where id = 42 and city in ('Oslo')",
            "SELECT /* x */ name\nFROM users -- y\nWHERE id=$7 AND city IN ($1,$2,$3,$4)",
        ] {
            assert_eq!(fingerprint(same), wanted, "{same}");
        }
        for other in [
            "SELECT name FROM users WHERE id = $1 AND city IN ('a') LIMIT 1",
            "SELECT \"name\" FROM users WHERE id = $1 AND city IN ('a', 'b')",
            "SELECT name FROM users WHERE id > $1 AND city IN ('a', 'b')",
        ] {
            assert_ne!(fingerprint(other), wanted, "{other}");
        }
    }

    #[test]
    fn it_is_the_same_for_ever() {
        assert_eq!(format!("{:016x}", fingerprint("SELECT 1")), FOR_EVER);
    }

    const FOR_EVER: &str = "df1ade54e0a41c77";
}
