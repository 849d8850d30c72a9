//! What a session's stream has told beside answers, for whoever holds the session.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// What was learnt of one session.
#[derive(Debug, Default)]
pub struct Observed {
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

    pub(super) fn note_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// The server has reported a setting.
    pub(in crate::pool) fn note_parameter(&self, name: &[u8]) {
        // `in_hot_standby` changes by itself when a replica is promoted.
        if self.signed_in.load(Ordering::Acquire) && name != b"in_hot_standby" {
            self.setting_changed.store(true, Ordering::Release);
        }
    }
}
