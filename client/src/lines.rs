//! Lines out of chunks that end anywhere.

use bytes::{Buf as _, Bytes};

/// Cuts chunks into lines. Holds one chunk, and what has come of one line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line whose end is in a later chunk.
    begun: Vec<u8>,
    /// What is left of the chunk.
    rest: Bytes,
}

impl Lines {
    /// Takes the next chunk. The one before must be used up: [`take_line`](Self::take_line) has given `None`.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.rest.is_empty(), "a chunk is dropped unread");
        self.rest = chunk;
    }

    /// The next whole line, without its end.
    pub(crate) fn take_line(&mut self) -> Option<Bytes> {
        let Some(length) = self.rest.iter().position(|byte| *byte == b'\n') else {
            self.begun.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
            return None;
        };
        let end = self.rest.split_to(length);
        self.rest.advance(1);
        if self.begun.is_empty() {
            return Some(end);
        }
        let mut line = std::mem::take(&mut self.begun);
        line.extend_from_slice(&end);
        Some(line.into())
    }

    /// What stands after the last line's end, once no more chunks come.
    pub(crate) fn take_rest(&mut self) -> Option<Bytes> {
        Some(Bytes::from(std::mem::take(&mut self.begun))).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Bytes> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in chunks {
            lines.push(Bytes::copy_from_slice(chunk));
            all.extend(std::iter::from_fn(|| lines.take_line()));
        }
        all.extend(lines.take_rest());
        all
    }

    #[test]
    fn last_line_needs_no_end() {
        assert_eq!(lines([b"a\n\nbc".as_slice(), b"d"]), ["a", "", "bcd"]);
        assert_eq!(lines([b"a\n".as_slice()]), ["a"]);
        assert!(lines([]).is_empty());
    }

    proptest! {
        #[test]
        fn split_makes_no_difference(text in "[a-c\n]{0,40}", sizes in prop::collection::vec(1..8_usize, 0..40)) {
            let mut rest = text.as_bytes();
            let mut chunks = Vec::new();
            for size in sizes {
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            let mut expected: Vec<_> = text.split('\n').collect();
            if expected.last() == Some(&"") {
                expected.pop();
            }
            prop_assert_eq!(lines(chunks), expected);
        }
    }
}
