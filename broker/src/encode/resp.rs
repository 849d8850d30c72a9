//! RESP2 on the wire: commands packed as arrays of strings, and where a reply ends.
//!
//! Source: Redis documentation, "Redis serialization protocol specification".

use std::borrow::Cow;

use bytes::BufMut;
use redis::Cmd;

/// One command: its name and its arguments, as they travel.
pub type Args<'a> = Vec<Cow<'a, [u8]>>;

/// Appends a command as Redis reads it.
pub fn pack<A: AsRef<[u8]>>(out: &mut impl BufMut, args: &[A]) {
    let mut digits = itoa::Buffer::new();
    out.put_u8(b'*');
    out.put_slice(digits.format(args.len()).as_bytes());
    out.put_slice(b"\r\n");
    for arg in args {
        let arg = arg.as_ref();
        out.put_u8(b'$');
        out.put_slice(digits.format(arg.len()).as_bytes());
        out.put_slice(b"\r\n");
        out.put_slice(arg);
        out.put_slice(b"\r\n");
    }
}

/// The command as the client library takes it.
pub fn cmd<A: AsRef<[u8]>>(args: &[A]) -> Cmd {
    let mut cmd = Cmd::with_capacity(args.len(), args.iter().map(|arg| arg.as_ref().len()).sum());
    for arg in args {
        cmd.arg(arg.as_ref());
    }
    cmd
}

/// The bytes are not RESP2: whatever answers there, nothing it says can be matched to a command any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not RESP2")]
pub struct NotResp;

/// Finds the end of some replies in bytes that come in pieces; what was looked at is not looked at again.
#[derive(Debug, Clone, Copy)]
pub struct Scanner {
    /// Values still to come, nested ones included.
    owed: usize,
    /// What was looked at ends here.
    at: usize,
    /// Bytes of a string still to come, its line end included.
    rest: usize,
}

/// A longer first line than any that Redis writes: an error's text may quote what the caller sent, and is cut long before.
const MAX_LINE: usize = 1 << 20;

impl Scanner {
    /// A scanner for so many replies, one after another, from the first byte.
    pub fn new(replies: usize) -> Self {
        Self { owed: replies, at: 0, rest: 0 }
    }

    /// Where the replies end in `bytes`; `None` until they are complete.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, NotResp> {
        loop {
            let some = self.rest.min(bytes.len().saturating_sub(self.at));
            self.at += some;
            self.rest -= some;
            if self.rest > 0 {
                return Ok(None);
            }
            if self.owed == 0 {
                return Ok(Some(self.at));
            }
            let Some(Head { kind, line, next }) = head(bytes, self.at)? else { return Ok(None) };
            self.at = next;
            self.owed -= 1;
            match kind {
                b'+' | b'-' | b':' => {}
                b'$' => self.rest = length(line)?.map_or(0, |len| len + 2),
                b'*' => self.owed = self.owed.saturating_add(length(line)?.unwrap_or(0)),
                _ => return Err(NotResp),
            }
        }
    }

    /// Bytes that need not be there any more: they may be thrown away, and the scanner told so.
    pub fn seen(&self) -> usize {
        self.at
    }

    /// What was seen has been thrown away.
    pub fn forget_seen(&mut self) {
        self.at = 0;
    }
}

/// The first line of a value.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// `+`, `-`, `:`, `$` or `*`.
    pub kind: u8,
    /// The rest of the line.
    pub line: &'a [u8],
    /// Where the next line begins.
    pub next: usize,
}

/// The first line of the value that begins at `at`; `None` while it is not complete.
pub fn head(bytes: &[u8], at: usize) -> Result<Option<Head<'_>>, NotResp> {
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let Some(end) = memchr::memchr(b'\r', rest) else {
        return if rest.len() > MAX_LINE { Err(NotResp) } else { Ok(None) };
    };
    match rest.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(Head { kind: rest[0], line: &rest[1..end], next: at + end + 2 })),
        Some(_) => Err(NotResp),
    }
}

/// A length; `None` for null.
pub fn length(line: &[u8]) -> Result<Option<usize>, NotResp> {
    if line == b"-1" {
        return Ok(None);
    }
    // Redis has no string and no array longer than 512 MiB.
    let digits = std::str::from_utf8(line).ok().filter(|_| line.len() <= 10);
    digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or(NotResp)
}

/// True if one of the replies begins with this error code.
pub fn refused_with(replies: &[u8], code: &[u8]) -> bool {
    replies.strip_prefix(b"-").is_some_and(|rest| rest.starts_with(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_packed_as_an_array_of_strings() {
        let mut out = Vec::new();
        pack(&mut out, &[&b"SET"[..], b"k", b"", b"\r\n"]);
        assert_eq!(out, b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n$2\r\n\r\n\r\n");
        assert_eq!(out, cmd(&[&b"SET"[..], b"k", b"", b"\r\n"]).get_packed_command(), "as the client library has it");
    }

    #[test]
    fn replies_end_where_they_end_however_they_are_split() {
        let replies = b"+OK\r\n*3\r\n:1\r\n*2\r\n$-1\r\n$4\r\na\r\nb\r\n-ERR no\r\n*-1\r\n*0\r\n$0\r\n\r\n";
        for cut in 0..replies.len() {
            let mut scanner = Scanner::new(5);
            for upto in [cut / 2, cut] {
                assert_eq!(scanner.end(&replies[..upto]), Ok(None), "{upto}");
            }
            let mut more = replies.to_vec();
            more.extend_from_slice(b":7\r\n");
            assert_eq!(scanner.end(&more), Ok(Some(replies.len())), "{cut}");
        }
    }

    #[test]
    fn what_is_not_resp_is_told() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"$x\r\n", b"+a\rb\r\n", b"*99999999999999999999\r\n", b"$-2\r\n"] {
            assert_eq!(Scanner::new(1).end(bytes), Err(NotResp), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
