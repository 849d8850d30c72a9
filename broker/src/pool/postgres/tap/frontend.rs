//! Bytes from the driver to the server.

/// `SSLRequest` has no type byte and this code in place of a protocol version.
const SSL_REQUEST: u32 = 80_877_103;

/// Where in the stream the machine stands.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Before the startup message: a length and a code, without a type byte.
    Untyped { seen: u8, length: u32, code: u32 },
    /// In the five bytes before a message's body.
    Header { seen: u8, kind: u8, length: u32 },
    /// In a body that does not matter; `left` bytes to go, then a header of the given sort.
    Skip { left: u32, then_untyped: bool },
    /// In the body of a `Bind`.
    Bind { left: u32, part: BindPart },
}

/// Where in a `Bind`: two names, the parameters' formats, then everything up to the result's format.
#[derive(Debug, Clone, Copy)]
enum BindPart {
    /// In a NUL-terminated name; `names` still to come, this one included.
    Name { names: u8 },
    /// In the count of parameter formats.
    Count { seen: u8, count: u16 },
    /// In the parameter formats; `bytes` of them to come.
    Formats { bytes: u32, binary: bool },
    /// After the formats. The last two bytes of the body are the one result format the driver sends.
    Rest { binary: bool },
}

const HEADER: State = State::Header { seen: 0, kind: 0, length: 0 };
const UNTYPED: State = State::Untyped { seen: 0, length: 0, code: 0 };

/// Rewrites what the driver sends, in place, and counts the answers it must bring.
#[derive(Debug)]
pub struct Frontend {
    state: State,
    ready_due: u64,
    asked_for_tls: bool,
}

impl Default for Frontend {
    fn default() -> Self {
        Self { state: UNTYPED, ready_due: 0, asked_for_tls: false }
    }
}

impl Frontend {
    /// The machine for a stream on which TLS has been agreed: an `SSLRequest` will not come again.
    pub fn new() -> Self {
        Self::default()
    }

    /// `ReadyForQuery` messages that all of `Sync` and `Query` so far will bring.
    pub fn ready_due(&self) -> u64 {
        self.ready_due
    }

    /// True once after an `SSLRequest` went by: the next byte from the server is a bare yes or no.
    pub fn take_tls_request(&mut self) -> bool {
        std::mem::take(&mut self.asked_for_tls)
    }

    /// Passes over `bytes`, the next piece of the stream, and rewrites result formats in it.
    pub fn rewrite(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let used = self.step(bytes);
            bytes = &mut bytes[used..];
        }
    }

    /// Consumes at least one byte; bodies that do not matter go by in one step.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        match self.state {
            State::Untyped { seen, length, code } => {
                let byte = u32::from(bytes[0]);
                let (length, code) = if seen < 4 { (length << 8 | byte, code) } else { (length, code << 8 | byte) };
                self.state = State::Untyped { seen: seen + 1, length, code };
                if seen == 7 {
                    self.end_untyped(length, code);
                }
                1
            }
            State::Header { seen: 0, .. } => {
                self.state = State::Header { seen: 1, kind: bytes[0], length: 0 };
                1
            }
            State::Header { seen, kind, length } => {
                let length = length << 8 | u32::from(bytes[0]);
                self.state = State::Header { seen: seen + 1, kind, length };
                if seen == 4 {
                    self.begin_body(kind, length.saturating_sub(4));
                }
                1
            }
            State::Skip { left, then_untyped } => {
                let used = take(bytes, left);
                let left = left - length_of(used);
                let next = if then_untyped { UNTYPED } else { HEADER };
                self.state = if left == 0 { next } else { State::Skip { left, then_untyped } };
                used
            }
            State::Bind { left, part } => self.bind(bytes, left, part),
        }
    }

    fn end_untyped(&mut self, length: u32, code: u32) {
        let left = length.saturating_sub(8);
        if code == SSL_REQUEST {
            self.asked_for_tls = true;
            self.state = UNTYPED;
        } else {
            self.state = if left == 0 { HEADER } else { State::Skip { left, then_untyped: false } };
        }
    }

    fn begin_body(&mut self, kind: u8, left: u32) {
        if kind == b'S' || kind == b'Q' {
            self.ready_due += 1;
        }
        self.state = match (kind, left) {
            (_, 0) => HEADER,
            (b'B', left) => State::Bind { left, part: BindPart::Name { names: 2 } },
            (_, left) => State::Skip { left, then_untyped: false },
        };
    }

    fn bind(&mut self, bytes: &mut [u8], left: u32, part: BindPart) -> usize {
        let (used, part) = match part {
            BindPart::Name { names } => {
                let end = memchr::memchr(0, &bytes[..take(bytes, left)]);
                match (end, names) {
                    (Some(at), 1) => (at + 1, BindPart::Count { seen: 0, count: 0 }),
                    (Some(at), _) => (at + 1, BindPart::Name { names: names - 1 }),
                    (None, _) => (take(bytes, left), part),
                }
            }
            BindPart::Count { seen, count } => {
                let count = count << 8 | u16::from(bytes[0]);
                let next = match (seen, count) {
                    (0, _) => BindPart::Count { seen: 1, count },
                    (_, 0) => BindPart::Rest { binary: false },
                    (_, count) => BindPart::Formats { bytes: u32::from(count) * 2, binary: false },
                };
                (1, next)
            }
            BindPart::Formats { bytes: formats, binary } => {
                let used = take(bytes, formats.min(left));
                let binary = binary || bytes[..used].iter().any(|b| *b != 0);
                let formats = formats - length_of(used);
                (
                    used,
                    if formats == 0 { BindPart::Rest { binary } } else { BindPart::Formats { bytes: formats, binary } },
                )
            }
            BindPart::Rest { binary } if left > 2 => (take(bytes, left - 2), BindPart::Rest { binary }),
            BindPart::Rest { binary } => {
                if !binary {
                    bytes[0] = 0;
                }
                (1, BindPart::Rest { binary })
            }
        };
        let left = left - length_of(used);
        self.state = if left == 0 { HEADER } else { State::Bind { left, part } };
        used
    }
}

/// How many of `bytes` belong to the next `left` bytes of the stream.
fn take(bytes: &[u8], left: u32) -> usize {
    bytes.len().min(left as usize)
}

/// A length that came out of [`take`], so never over `u32::MAX`.
fn length_of(used: usize) -> u32 {
    u32::try_from(used).expect("a piece is no longer than what is left of its message")
}
