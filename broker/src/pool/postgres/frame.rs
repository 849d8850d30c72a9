//! The server's messages, read in place. Source: PostgreSQL manual, "Message Formats".

use std::ops::Range;

/// Bytes before a message's body: its kind and its length.
pub const HEADER_BYTES: usize = 5;

/// One message: its kind, and its body without the header.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The first byte, as in the manual: `D` is a row.
    pub kind: u8,
    /// What follows the length.
    pub body: &'a [u8],
}

/// The bytes are not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a message that is not one")]
pub struct BadFrame;

/// Kind and whole length (header included) of the message at the start of `bytes`; `None` before the header is whole.
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, BadFrame> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length < 4 || !head[0].is_ascii_alphanumeric() {
        return Err(BadFrame);
    }
    Ok(Some((head[0], length + 1)))
}

/// The values of a `DataRow`, in order; `None` is NULL. A body that is cut short ends early.
pub fn values(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body.get(2..).unwrap_or_default();
    let count = body.first_chunk::<2>().map_or(0, |count| u16::from_be_bytes(*count));
    (0..count).map_while(move |_| {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            return Some(None);
        };
        let (value, after) = after.split_at_checked(length)?;
        rest = after;
        Some(Some(value))
    })
}

/// The text up to a NUL character, and what follows it.
fn text(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

/// A `CommandComplete`'s tag: `INSERT 0 1`.
pub fn tag(body: &[u8]) -> &str {
    text(body).and_then(|(tag, _)| std::str::from_utf8(tag).ok()).unwrap_or_default()
}

/// The fields of an error or a notice: a letter and its text.
pub fn fields(mut body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, rest) = body.split_first()?;
        let (value, rest) = text(rest)?;
        body = rest;
        Some((*kind, value))
    })
}

/// A `ParameterStatus`' name.
pub fn parameter(body: &[u8]) -> &[u8] {
    text(body).map_or(&[], |(name, _)| name)
}

/// A `ParameterDescription`'s type object ids.
pub fn parameters(body: &[u8]) -> Result<Vec<u32>, BadFrame> {
    let oids = body.get(2..).ok_or(BadFrame)?.chunks_exact(4);
    Ok(oids.map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]])).collect())
}

/// A `RowDescription`'s columns: name and type object id.
pub fn columns(body: &[u8]) -> Result<Vec<(String, u32)>, BadFrame> {
    /// Table, attribute number, type, size, modifier, format.
    const AFTER_NAME: usize = 18;
    const TYPE: Range<usize> = 6..10;
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or(BadFrame)?;
    let mut columns = Vec::with_capacity(u16::from_be_bytes(*count).into());
    for _ in 0..u16::from_be_bytes(*count) {
        let (name, after) = text(rest).ok_or(BadFrame)?;
        let (about, after) = after.split_at_checked(AFTER_NAME).ok_or(BadFrame)?;
        let oid: [u8; 4] = about[TYPE].try_into().map_err(|_| BadFrame)?;
        columns.push((String::from_utf8_lossy(name).into_owned(), u32::from_be_bytes(oid)));
        rest = after;
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_tells_null_from_empty() {
        let body = [&[0, 3][..], &[0xff; 4], &[0, 0, 0, 0], &[0, 0, 0, 2], b"hi"].concat();
        assert_eq!(values(&body).collect::<Vec<_>>(), [None, Some(&b""[..]), Some(&b"hi"[..])]);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_to_their_end_and_no_further(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (header(&body), tag(&body), parameters(&body), columns(&body), parameter(&body));
            let _ = (values(&body).count(), fields(&body).count());
        }
    }
}
