//! Bytes from the server to the driver.

/// The longest body kept for reading. Tags are far shorter; a longer parameter value is noted by its beginning.
const KEEP_BYTES: usize = 256;

/// What the server said that the driver does not pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `ReadyForQuery`: `I` idle, `T` in a transaction, `E` in a failed one.
    Ready(u8),
    /// `CommandComplete` with its tag, for example `INSERT 0 1`.
    Complete(String),
    /// `ParameterStatus`: name and value, as far as kept.
    Parameter(String, String),
    /// `ErrorResponse` went by.
    Error,
    /// `CopyInResponse`, `CopyOutResponse` or `CopyBothResponse` went by.
    Copy,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The bare byte that answers an `SSLRequest`.
    TlsAnswer,
    /// In the five bytes before a message's body.
    Header { seen: u8, kind: u8, length: u32 },
    /// In a body; kept if `keep`.
    Body { kind: u8, left: u32, keep: bool },
}

const HEADER: State = State::Header { seen: 0, kind: 0, length: 0 };

/// Watches what the server sends; changes nothing.
#[derive(Debug)]
pub struct Backend {
    state: State,
    body: Vec<u8>,
}

impl Default for Backend {
    fn default() -> Self {
        Self { state: HEADER, body: Vec::new() }
    }
}

impl Backend {
    /// The next byte answers an `SSLRequest` and is no message.
    pub fn expect_tls_answer(&mut self) {
        self.state = State::TlsAnswer;
    }

    /// Passes over `bytes`, the next piece of the stream, and tells `note` what ended in it, in order.
    pub fn watch(&mut self, mut bytes: &[u8], mut note: impl FnMut(Event)) {
        while let Some(first) = bytes.first() {
            let used = match self.state {
                State::TlsAnswer => {
                    self.state = HEADER;
                    1
                }
                // Most messages are whole in one piece, and their header is read at once.
                State::Header { seen: 0, .. } if bytes.len() >= 5 => {
                    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
                    self.begin_body(*first, length.saturating_sub(4), &mut note);
                    5
                }
                State::Header { seen: 0, .. } => {
                    self.state = State::Header { seen: 1, kind: *first, length: 0 };
                    1
                }
                State::Header { seen, kind, length } => {
                    let length = length << 8 | u32::from(*first);
                    self.state = State::Header { seen: seen + 1, kind, length };
                    if seen == 4 {
                        self.begin_body(kind, length.saturating_sub(4), &mut note);
                    }
                    1
                }
                State::Body { kind, left, keep } => self.in_body(bytes, kind, left, keep, &mut note),
            };
            bytes = &bytes[used..];
        }
    }

    fn begin_body(&mut self, kind: u8, left: u32, note: &mut impl FnMut(Event)) {
        match kind {
            b'E' => note(Event::Error),
            b'G' | b'H' | b'W' => note(Event::Copy),
            _ => {}
        }
        self.state =
            if left == 0 { HEADER } else { State::Body { kind, left, keep: matches!(kind, b'Z' | b'C' | b'S') } };
    }

    fn in_body(&mut self, bytes: &[u8], kind: u8, left: u32, keep: bool, note: &mut impl FnMut(Event)) -> usize {
        let used = bytes.len().min(left as usize);
        if keep {
            let room = KEEP_BYTES.saturating_sub(self.body.len());
            self.body.extend_from_slice(&bytes[..used.min(room)]);
        }
        let left = left - u32::try_from(used).expect("a piece is no longer than what is left of its message");
        if left > 0 {
            self.state = State::Body { kind, left, keep };
            return used;
        }
        self.state = HEADER;
        if keep {
            match kind {
                b'Z' => note(Event::Ready(self.body[0])),
                b'C' => note(Event::Complete(text(&self.body))),
                _ => {
                    let mut parts = self.body.split(|b| *b == 0);
                    let name = parts.next().map(text).unwrap_or_default();
                    note(Event::Parameter(name, parts.next().map(text).unwrap_or_default()));
                }
            }
            self.body.clear();
        }
        used
    }
}

fn text(bytes: &[u8]) -> String {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
