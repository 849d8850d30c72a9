//! Whether an endpoint is given reads: sick too often in a row, it is left alone for a while.
//!
//! Sickness is a connection that was refused, reset or ended by the server, or a probe without an answer. A pool that is busy, a
//! statement that is slow or refused, is none: overload must never look like sickness.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many signs of sickness, with no sign of health between them, and it is left alone.
const SIGNS: u32 = 5;
/// For how long, times how often it was.
const AWAY: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_mins(5);
/// Healthy for so long, one time is forgotten.
const FORGIVEN: Duration = Duration::from_secs(10);

/// One endpoint's record.
#[derive(Debug, Default)]
pub struct Health {
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    signs: u32,
    times: u32,
    until: Option<Instant>,
}

impl Health {
    /// Notes a sign of sickness. True: it is left alone from now on.
    pub fn sick(&self, now: Instant) -> bool {
        let mut record = self.record();
        if record.until.is_some_and(|until| now < until) {
            return false;
        }
        if record.until.is_some_and(|until| now - until > FORGIVEN * record.times) {
            *record = Record::default();
        }
        record.signs += 1;
        // Back from being left alone, one more sign is enough: that was its trial.
        let out = record.signs >= SIGNS || record.until.take().is_some();
        if out {
            record.times += 1;
            record.signs = 0;
            record.until = Some(now + (AWAY * record.times).min(LONGEST));
        }
        out
    }

    /// Notes a sign of health: it answered. True: it was left alone, and is not any more.
    pub fn well(&self) -> bool {
        let mut record = self.record();
        record.signs = 0;
        record.until.take().is_some()
    }

    /// True unless it is left alone.
    pub fn is_usable(&self, now: Instant) -> bool {
        self.record().until.is_none_or(|until| now >= until)
    }

    /// For how long it is still left alone.
    pub fn ejected_for(&self, now: Instant) -> Option<Duration> {
        self.record().until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_left_alone_for_longer_each_time_and_forgiven() {
        let health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 1..SIGNS {
            assert!(!health.sick(start));
        }
        assert!(health.is_usable(start));
        assert!(health.sick(start));
        assert!(!health.is_usable(at(29)) && health.is_usable(at(30)));
        assert!(health.sick(at(31)), "its trial failed");
        assert!(!health.is_usable(at(90)) && health.is_usable(at(91)), "twice as long");
        assert!(health.well(), "a probe that answers brings it back");
        assert!(health.is_usable(at(92)));
        assert!(!health.sick(at(200)) && health.is_usable(at(200)));
    }
}
