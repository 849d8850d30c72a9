//! What the tap on the driver's stream has learnt, for whoever holds the session.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::tap::Event;

/// What a session's stream has told while the driver had it; of settings, also while a channel had it.
#[derive(Debug, Default)]
pub struct Observed {
    /// `ReadyForQuery` messages owed by the server for all that the driver has written.
    ready_due: AtomicU64,
    ready_seen: AtomicU64,
    /// After sign-in: a setting the server reports has changed, so the session is not as it was made.
    setting_changed: AtomicBool,
    signed_in: AtomicBool,
    /// A cancellation is on its way, and may hit whatever runs next.
    cancelling: AtomicBool,
    /// The server's process; 0 before it told.
    pid: AtomicU32,
    /// Unit: microseconds.
    handshake: AtomicU32,
}

impl Observed {
    /// Answers that the server owes the driver.
    pub fn answers_due(&self) -> u64 {
        self.ready_due.load(Ordering::Acquire).saturating_sub(self.ready_seen.load(Ordering::Acquire))
    }

    /// Everything the server reports from now on is a change by a statement.
    pub fn mark_signed_in(&self) {
        self.signed_in.store(true, Ordering::Release);
    }

    /// True when a reported setting has changed since the last call.
    pub fn take_setting_changed(&self) -> bool {
        self.setting_changed.swap(false, Ordering::AcqRel)
    }

    /// The server's process that serves the session, as `pg_stat_activity` has it; 0 before sign-in.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// How long the TLS handshake took; zero without one.
    pub fn handshake(&self) -> Duration {
        Duration::from_micros(u64::from(self.handshake.load(Ordering::Relaxed)))
    }

    pub(super) fn note_handshake(&self, took: Duration) {
        self.handshake.store(u32::try_from(took.as_micros()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// A cancellation is about to be sent.
    pub fn cancel_begins(&self) {
        self.cancelling.store(true, Ordering::Release);
    }

    /// The server has sent its signal.
    pub fn cancel_is_over(&self) {
        self.cancelling.store(false, Ordering::Release);
    }

    /// True while a cancellation is on its way, or where nobody knows what became of it.
    pub fn is_cancelling(&self) -> bool {
        self.cancelling.load(Ordering::Acquire)
    }

    /// The driver has written requests for so many `ReadyForQuery` in all.
    pub(super) fn owe(&self, ready: u64) {
        self.ready_due.store(ready, Ordering::Release);
    }

    pub(super) fn note(&self, event: Event) {
        match event {
            Event::Ready => {
                self.ready_seen.fetch_add(1, Ordering::AcqRel);
            }
            Event::Parameter(name) => self.note_parameter(name.as_bytes()),
            Event::Process(pid) => self.pid.store(pid, Ordering::Relaxed),
        }
    }

    /// The server has reported a setting.
    pub(in crate::pool) fn note_parameter(&self, name: &[u8]) {
        // `in_hot_standby` changes by itself when a replica is promoted.
        if self.signed_in.load(Ordering::Acquire) && name != b"in_hot_standby" {
            self.setting_changed.store(true, Ordering::Release);
        }
    }
}
