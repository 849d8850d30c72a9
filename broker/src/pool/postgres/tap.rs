//! Listening to the driver's sign-in: which of the server's processes serves the session, which the driver does not pass on.
//!
//! Takes the stream in pieces of any size. Source: PostgreSQL manual, "Message Formats".

/// `BackendKeyData`: the process, and a secret for cancellations.
const KEY_DATA: u8 = b'K';

#[derive(Debug, Clone, Copy)]
enum State {
    /// The bare byte that answers an `SSLRequest`.
    TlsAnswer,
    /// In the five bytes before a message's body.
    Header { seen: u8, kind: u8, length: u32 },
    /// In a body.
    Body { kind: u8, left: u32 },
    /// The process is known.
    Done,
}

const HEADER: State = State::Header { seen: 0, kind: 0, length: 0 };

/// Watches what the server sends; changes nothing.
#[derive(Debug)]
pub struct Tap {
    state: State,
    process: u32,
    /// Bytes of the process's number that were seen.
    seen: u8,
}

impl Tap {
    /// At the beginning of a stream. `asks_for_tls`: the first byte answers the driver's question for TLS, and is no message.
    pub fn new(asks_for_tls: bool) -> Self {
        Self { state: if asks_for_tls { State::TlsAnswer } else { HEADER }, process: 0, seen: 0 }
    }

    /// Passes over `bytes`, the next piece of the stream. The process, once it is known.
    pub fn watch(&mut self, mut bytes: &[u8]) -> Option<u32> {
        while let Some(first) = bytes.first() {
            let used = match self.state {
                State::Done => return Some(self.process),
                State::TlsAnswer => {
                    self.state = HEADER;
                    1
                }
                State::Header { seen: 0, .. } => {
                    self.state = State::Header { seen: 1, kind: *first, length: 0 };
                    1
                }
                State::Header { seen, kind, length } => {
                    let (length, left) =
                        (length << 8 | u32::from(*first), (length << 8 | u32::from(*first)).saturating_sub(4));
                    self.state = match seen {
                        4 if left == 0 => HEADER,
                        4 => State::Body { kind, left },
                        _ => State::Header { seen: seen + 1, kind, length },
                    };
                    1
                }
                State::Body { kind, left } => {
                    let used = bytes.len().min(left as usize);
                    if kind == KEY_DATA {
                        self.read_process(&bytes[..used]);
                    }
                    let left =
                        left - u32::try_from(used).expect("a piece is no longer than what is left of its message");
                    self.state = match left {
                        0 if kind == KEY_DATA => State::Done,
                        0 => HEADER,
                        left => State::Body { kind, left },
                    };
                    used
                }
            };
            bytes = &bytes[used..];
        }
        matches!(self.state, State::Done).then_some(self.process)
    }

    fn read_process(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(usize::from(4 - self.seen)) {
            self.process = self.process << 8 | u32::from(*byte);
            self.seen += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn any_split_tells_the_same_process(
            bodies in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..400)), 0..20),
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
            tls in any::<bool>(),
            process in any::<u32>(),
        ) {
            let mut stream = if tls { b"N".to_vec() } else { Vec::new() };
            let mut message = |kind: u8, body: &[u8]| {
                stream.push(kind);
                stream.extend(u32::try_from(body.len() + 4).expect("short").to_be_bytes());
                stream.extend(body);
            };
            for (choice, body) in &bodies {
                message(b"SRNE"[usize::from(choice % 4)], body);
            }
            message(b'K', &[process.to_be_bytes(), [1, 2, 3, 4]].concat());
            message(b'Z', b"I");
            let mut tap = Tap::new(tls);
            let told: Vec<Option<u32>> = pieces(&stream, &cuts).iter().map(|piece| tap.watch(piece)).collect();
            prop_assert_eq!(told.last(), Some(&Some(process)));
            prop_assert!(told.iter().flatten().all(|told| *told == process));
        }

        #[test]
        fn hostile_bytes_never_stop_it(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cuts in proptest::collection::vec(any::<usize>(), 0..20)) {
            let mut tap = Tap::new(false);
            for piece in pieces(&bytes, &cuts) {
                let _ = tap.watch(&piece);
            }
        }
    }
}
