//! Whether a client does its part: begins its request, takes its answer, and leaves when it has no more to say.
//!
//! A connection has one timer. What happens on it only leaves marks here, in atomics of its own; the timer looks at them when it
//! fires, and is put forward where something nearer has begun to be waited for. So a request costs two readings of the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ServerConfig;

/// So many more requests given up than answered are no client's way of working.
const GIVEN_UP: u32 = 100;
/// After so long without a request what speaking needs is worth more to others. Making it anew costs some microseconds.
const QUIET: Duration = Duration::from_millis(100);
/// "Not so" among moments.
const NEVER: u64 = u64::MAX;

/// How long each thing may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request.
    pub header: Duration,
    /// For the next request.
    pub idle: Duration,
    /// For the reader of an answer, to take something.
    pub reader: Duration,
}

impl From<&ServerConfig> for Patience {
    fn from(config: &ServerConfig) -> Self {
        Self { header: config.header_timeout, idle: config.idle_timeout, reader: config.reader_timeout }
    }
}

/// Why the broker closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The head of a request did not come in time.
    Header,
    /// No request came in time.
    Idle,
    /// The rest of a body that nobody wants any more did not come in time.
    Body,
    /// An answer was not read.
    Reader,
    /// Request after request was begun and given up.
    Resets,
}

impl Reason {
    /// As metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header_timeout",
            Self::Idle => "idle_timeout",
            Self::Body => "unread_body",
            Self::Reader => "reader_timeout",
            Self::Resets => "reset_flood",
        }
    }
}

/// What happens on one connection.
#[derive(Debug)]
pub struct Watch {
    patience: Patience,
    opened: Instant,
    is_http2: AtomicBool,
    in_flight: AtomicU32,
    answered: AtomicU32,
    given_up: AtomicU32,
    /// Answers that could go on if their reader took something, and when one of them last went on.
    held_back: AtomicU32,
    went_on: AtomicU64,
    /// Since when writing to the socket waits.
    blocked: AtomicU64,
    /// Since when there are bytes of a request that has not begun.
    head: AtomicU64,
    /// When the last request ended.
    idle: AtomicU64,
    /// The last request's body has not come to its end, over HTTP/1.1: what comes next belongs to it.
    unread: AtomicBool,
}

impl Watch {
    /// A connection that has just been opened.
    pub fn new(patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            patience,
            opened: Instant::now(),
            is_http2: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            given_up: AtomicU32::new(0),
            held_back: AtomicU32::new(0),
            went_on: AtomicU64::new(0),
            blocked: AtomicU64::new(NEVER),
            head: AtomicU64::new(NEVER),
            idle: AtomicU64::new(NEVER),
            unread: AtomicBool::new(false),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    /// Bytes came.
    pub fn read(&self) {
        if self.in_flight.load(Relaxed) > 0 {
            return;
        }
        if self.unread.load(Relaxed) {
            self.idle.store(self.now(), Relaxed);
        } else if self.head.load(Relaxed) == NEVER {
            self.head.store(self.now(), Relaxed);
        }
    }

    /// Bytes went, or wait.
    pub fn wrote(&self, waits: bool) {
        match (waits, self.blocked.load(Relaxed)) {
            (true, NEVER) => self.blocked.store(self.now(), Relaxed),
            (false, since) if since != NEVER => self.blocked.store(NEVER, Relaxed),
            _ => {}
        }
    }

    /// What came before HTTP is not counted: a handshake has its own time.
    pub fn begin(&self) {
        self.head.store(NEVER, Relaxed);
        self.idle.store(self.now(), Relaxed);
    }

    /// A request has begun. It lasts until the guard is dropped.
    pub fn request(self: &Arc<Self>, is_http2: bool) -> Going {
        self.is_http2.store(is_http2, Relaxed);
        self.unread.store(false, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        Going { watch: Arc::clone(self), is_answered: false, is_held_back: false }
    }

    /// The body of the request that has begun is still to come, or has come to its end.
    pub fn unread(&self, is_to_come: bool) {
        self.unread.store(is_to_come, Relaxed);
    }

    /// By when the client must have done something, or the connection is closed and why; `None` while it is not its turn.
    pub fn due(&self) -> Option<(Instant, Reason)> {
        // A client that gives up a request at times has others answered.
        if self.given_up.load(Relaxed) > self.answered.load(Relaxed).saturating_add(GIVEN_UP) {
            return Some((self.opened, Reason::Resets));
        }
        let blocked = self.blocked.load(Relaxed);
        let (since, patience, reason) = if blocked != NEVER {
            (blocked, self.patience.reader, Reason::Reader)
        } else if self.held_back.load(Relaxed) > 0 {
            (self.went_on.load(Relaxed), self.patience.reader, Reason::Reader)
        } else if self.in_flight.load(Relaxed) > 0 {
            return None;
        } else {
            self.silent()
        };
        Some((self.opened + Duration::from_millis(since) + patience, reason))
    }

    /// When nothing will have been asked for a while.
    pub fn quiet(&self) -> Instant {
        self.opened + Duration::from_millis(self.idle.load(Relaxed)) + QUIET
    }

    /// After this it is time to look again, if nothing has happened in between.
    pub fn next_look(&self) -> Duration {
        self.patience.reader.min(self.patience.header)
    }

    /// No request is under way.
    fn silent(&self) -> (u64, Duration, Reason) {
        let (idle, head) = (self.idle.load(Relaxed), self.head.load(Relaxed));
        let has_served = self.answered.load(Relaxed) > 0 || self.given_up.load(Relaxed) > 0;
        if !has_served {
            return (idle, self.patience.header, Reason::Header);
        }
        if self.unread.load(Relaxed) {
            return (idle, self.patience.header, Reason::Body);
        }
        // HTTP/2 has frames of its own between requests.
        if head != NEVER && !self.is_http2.load(Relaxed) {
            return (head, self.patience.header, Reason::Header);
        }
        (idle, self.patience.idle, Reason::Idle)
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Going {
    watch: Arc<Watch>,
    is_answered: bool,
    is_held_back: bool,
}

impl Going {
    /// There is an answer. Whoever leaves in the middle of one has not given up: an event stream has no other end.
    pub fn answered(&mut self) {
        self.is_answered = true;
    }

    /// The answer has something for its reader, or waits for it itself.
    pub fn held_back(&mut self, by_reader: bool) {
        if by_reader {
            self.watch.went_on.store(self.watch.now(), Relaxed);
        }
        match (self.is_held_back, by_reader) {
            (false, true) => drop(self.watch.held_back.fetch_add(1, Relaxed)),
            (true, false) => drop(self.watch.held_back.fetch_sub(1, Relaxed)),
            _ => {}
        }
        self.is_held_back = by_reader;
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.held_back(false);
        let watch = &self.watch;
        let ended = if self.is_answered { &watch.answered } else { &watch.given_up };
        ended.fetch_add(1, Relaxed);
        watch.head.store(NEVER, Relaxed);
        watch.idle.store(watch.now(), Relaxed);
        watch.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Patience =
        Patience { header: Duration::from_secs(10), idle: Duration::from_secs(75), reader: Duration::from_secs(30) };

    fn opened() -> Arc<Watch> {
        let watch = Watch::new(PATIENCE);
        watch.begin();
        watch
    }

    fn served(watch: &Arc<Watch>, is_http2: bool) {
        watch.read();
        watch.request(is_http2).answered();
    }

    async fn after(seconds: u64, watch: &Watch) -> Option<Reason> {
        advance(Duration::from_secs(seconds)).await;
        watch.due().filter(|(moment, _)| *moment <= Instant::now()).map(|(_, reason)| reason)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_its_time_however_it_trickles() {
        let watch = opened();
        assert_eq!(after(9, &watch).await, None);
        watch.read();
        assert_eq!(after(1, &watch).await, Some(Reason::Header));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_has_its_time_from_its_first_byte_and_silence_has_more() {
        let watch = opened();
        served(&watch, false);
        assert_eq!(after(74, &watch).await, None);
        watch.read();
        assert_eq!(after(9, &watch).await, None, "it has begun");
        watch.read();
        assert_eq!(after(1, &watch).await, Some(Reason::Header));
        served(&watch, false);
        assert_eq!(after(75, &watch).await, Some(Reason::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_before_the_end_of_the_body_does_not_make_the_rest_a_head() {
        let watch = opened();
        let mut going = watch.request(false);
        watch.unread(true);
        going.answered();
        drop(going);
        assert_eq!(after(9, &watch).await, None);
        watch.read();
        assert_eq!(after(9, &watch).await, None, "it goes on");
        assert_eq!(after(1, &watch).await, Some(Reason::Body));
        watch.unread(false);
        assert_eq!(after(1, &watch).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_between_requests_are_no_head_in_http2() {
        let watch = opened();
        served(&watch, true);
        watch.read();
        assert_eq!(after(74, &watch).await, None);
        assert_eq!(after(1, &watch).await, Some(Reason::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_take_its_time_and_its_reader_not() {
        let watch = opened();
        let mut going = watch.request(true);
        assert_eq!(after(500, &watch).await, None, "the database works");
        going.held_back(true);
        assert_eq!(after(29, &watch).await, None);
        going.held_back(true);
        assert_eq!(after(29, &watch).await, None, "something was taken");
        assert_eq!(after(1, &watch).await, Some(Reason::Reader));
        going.held_back(false);
        assert_eq!(after(500, &watch).await, None, "it waits for more rows");
        watch.wrote(true);
        assert_eq!(after(30, &watch).await, Some(Reason::Reader));
        watch.wrote(false);
        assert_eq!(after(0, &watch).await, None);
        drop(going);
        assert_eq!(watch.held_back.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_up_again_and_again_is_told_from_giving_up_at_times() {
        let watch = opened();
        for _ in 0..300 {
            served(&watch, true);
            drop(watch.request(true));
        }
        assert_eq!(after(0, &watch).await, None);
        for _ in 0..101 {
            drop(watch.request(true));
        }
        assert_eq!(after(0, &watch).await, Some(Reason::Resets));
    }
}
