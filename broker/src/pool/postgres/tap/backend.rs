//! Bytes from the server to the driver.

/// The longest name kept for reading. Names of settings are far shorter.
const KEEP_BYTES: usize = 128;

/// What the server said that the driver does not pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `ReadyForQuery`: one request is answered.
    Ready,
    /// `ParameterStatus`: the setting's name, as far as kept.
    Parameter(String),
    /// `BackendKeyData`: the server's process that serves the session.
    Process(u32),
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The bare byte that answers an `SSLRequest`.
    TlsAnswer,
    /// In the five bytes before a message's body.
    Header { seen: u8, kind: u8, length: u32 },
    /// In a body.
    Body { kind: u8, left: u32 },
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
                State::Body { kind, left } => self.in_body(bytes, kind, left, &mut note),
            };
            bytes = &bytes[used..];
        }
    }

    fn begin_body(&mut self, kind: u8, left: u32, note: &mut impl FnMut(Event)) {
        self.state = if left == 0 { HEADER } else { State::Body { kind, left } };
        if left == 0 && kind == b'Z' {
            note(Event::Ready);
        }
    }

    fn in_body(&mut self, bytes: &[u8], kind: u8, left: u32, note: &mut impl FnMut(Event)) -> usize {
        let used = bytes.len().min(left as usize);
        if matches!(kind, b'S' | b'K') {
            let room = KEEP_BYTES.saturating_sub(self.body.len());
            self.body.extend_from_slice(&bytes[..used.min(room)]);
        }
        let left = left - u32::try_from(used).expect("a piece is no longer than what is left of its message");
        if left > 0 {
            self.state = State::Body { kind, left };
            return used;
        }
        self.state = HEADER;
        match kind {
            b'Z' => note(Event::Ready),
            b'S' => {
                let end = memchr::memchr(0, &self.body).unwrap_or(self.body.len());
                note(Event::Parameter(String::from_utf8_lossy(&self.body[..end]).into_owned()));
                self.body.clear();
            }
            b'K' => {
                if let Some(pid) = self.body.first_chunk() {
                    note(Event::Process(u32::from_be_bytes(*pid)));
                }
                self.body.clear();
            }
            _ => {}
        }
        used
    }
}
