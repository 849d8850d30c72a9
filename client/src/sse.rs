//! Server-sent events out of chunks that end anywhere.
//!
//! Source: WHATWG HTML, "Server-sent events". The fields `id` and `retry` are passed over: nothing here reconnects by
//! itself.

use bytes::{Buf as _, Bytes};

/// One event, as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Empty for one without a name.
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Reads events. Holds one chunk, and what has come of one event.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// What is left of the chunk.
    rest: Bytes,
    /// The line whose end is still to come.
    line: Vec<u8>,
    /// The last line ended in a carriage return; a line feed right after it belongs to it.
    after_return: bool,
    message: Message,
    has_data: bool,
}

impl Reader {
    /// Takes the next chunk. The one before must be used up: [`take`](Self::take) has given `None`.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.rest.is_empty(), "a chunk is dropped unread");
        self.rest = chunk;
    }

    /// The next whole event. One that the end of the stream cuts off is never given.
    pub(crate) fn take(&mut self) -> Option<Message> {
        while let Some(line) = self.take_line() {
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if std::mem::take(&mut self.has_data) || !message.name.is_empty() {
                    return Some(message);
                }
            } else {
                self.read(&line);
            }
        }
        None
    }

    fn read(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.name),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            // Without a field's name a comment, which is how a heartbeat comes.
            _ => {}
        }
    }

    fn take_line(&mut self) -> Option<String> {
        if self.after_return && !self.rest.is_empty() {
            self.after_return = false;
            if self.rest[0] == b'\n' {
                self.rest.advance(1);
            }
        }
        let Some(length) = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.line.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
            return None;
        };
        self.line.extend_from_slice(&self.rest.split_to(length));
        self.after_return = self.rest.get_u8() == b'\r';
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Message> {
        let mut reader = Reader::default();
        let mut all = Vec::new();
        for chunk in chunks {
            reader.push(Bytes::copy_from_slice(chunk));
            all.extend(std::iter::from_fn(|| reader.take()));
        }
        all
    }

    fn message(name: &str, data: &str) -> Message {
        Message { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn name_and_data_make_an_event() {
        let text =
            "event: listening\ndata: {}\n\n: heartbeat\n\ndata:a\ndata:  b\nid: 1\n\nevent: reconnected\n\ndata: cut";
        let expected = [message("listening", "{}"), message("", "a\n b"), message("reconnected", "")];
        assert_eq!(messages([text.as_bytes()]), expected);
    }

    #[test]
    fn every_end_of_a_line_is_one() {
        for end in ["\n", "\r", "\r\n"] {
            let text = ["event: x", "data: 1", "data", "", "data: 2", "", ""].join(end);
            assert_eq!(messages([text.as_bytes()]), [message("x", "1\n"), message("", "2")], "{end:?}");
        }
    }

    proptest! {
        #[test]
        fn split_makes_no_difference(
            lines in prop::collection::vec(
                prop::sample::select(vec!["event: ü", "data: 1", "data", ": beat", "", "", "id: 7"]), 0..20),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n"]), 20),
            sizes in prop::collection::vec(1..5_usize, 0..200),
        ) {
            let text: String = lines.iter().zip(ends).flat_map(|(line, end)| [*line, end]).collect();
            let mut rest = text.as_bytes();
            let mut chunks = Vec::new();
            for size in sizes {
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            prop_assert_eq!(messages(chunks), messages([text.as_bytes()]));
        }
    }
}
