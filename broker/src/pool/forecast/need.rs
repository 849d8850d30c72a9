//! How many sessions what arrives keeps busy: what is wanted where a queue lasts.
//!
//! A high-water mark of lent and waiting says how many were wanted at once when callers came at once. A queue that lasts says only
//! that there are too few sessions: it grows without end while one more would do. There Little's law tells: arrivals a second times
//! the time each holds a session, and twice the root of it against chance.

use std::time::Duration;

/// Roots kept against chance: a few callers of a hundred wait, and not for long.
const AGAINST_CHANCE: f64 = 1.0;
/// A mark this many roots above what is busy, and two, came about by chance; a higher one by callers that came at once.
const CHANCE: f64 = 5.0;

/// A pool at one sweep.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// How long the sweep before was ago.
    pub since: Duration,
    /// Sessions that came back since the pool began.
    pub served: u64,
    /// For how long one is held, on average.
    pub hold: Duration,
    /// Sessions that are open.
    pub open: usize,
    /// Of these, what a forecast alone asked for.
    pub added: usize,
    /// Callers with a session.
    pub lent: usize,
    /// Callers without one yet.
    pub waiting: usize,
}

/// Watches from sweep to sweep, and sums up a bucket.
#[derive(Debug, Default)]
pub struct Need {
    last: Option<Seen>,
    /// Sessions that the arrivals of the bucket's busiest second keep busy.
    busiest: f64,
    /// Their sum over the sweeps, and how many these were.
    sum: f64,
    sweeps: f64,
    /// The least that a queue which lasted asks for.
    queued: Option<usize>,
}

impl Need {
    /// Notes a pool.
    pub fn note(&mut self, seen: Seen) {
        let Some(last) = self.last.replace(seen).filter(|_| !seen.since.is_zero()) else { return };
        #[expect(clippy::cast_precision_loss, reason = "requests of a second")]
        let count = |callers: u64| callers as f64;
        let (now, before) = ((seen.lent + seen.waiting) as u64, (last.lent + last.waiting) as u64);
        let arrived = (count(seen.served.saturating_sub(last.served)) + count(now) - count(before)).max(0.0);
        let busy = arrived / seen.since.as_secs_f64() * seen.hold.as_secs_f64();
        self.busiest = self.busiest.max(busy);
        self.sum += busy;
        self.sweeps += 1.0;
        if seen.waiting > 0 && last.waiting > 0 {
            // All are busy and somebody waits: one more is the least.
            self.queued = self.queued.max(Some(seen.open + 1));
        }
    }

    /// Begins another bucket.
    pub fn begin(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// What the bucket wants, by its high-water mark.
    pub fn wanted(&self, mark: usize) -> usize {
        if self.came_at_once(mark) {
            return mark;
        }
        mark.min(whole(self.busiest + AGAINST_CHANCE * self.busiest.sqrt()).max(self.queued.unwrap_or(0)))
    }

    /// What the pool opens for the bucket without a forecast: what is busy, since it lets callers wait before it opens one against
    /// chance.
    pub fn opened(&self, mark: usize) -> usize {
        if self.came_at_once(mark) { mark } else { mark.min(whole(self.busiest)) }
    }

    fn came_at_once(&self, mark: usize) -> bool {
        let busy = self.sum / self.sweeps.max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
        let mark = mark as f64;
        self.queued.is_none() && mark > busy + CHANCE * busy.sqrt() + 2.0
    }
}

fn whole(sessions: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and capped")]
    let whole = sessions.ceil().min(65_535.0) as usize;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(served: u64, waiting: usize) -> Seen {
        Seen {
            since: Duration::from_secs(1),
            served,
            hold: Duration::from_millis(30),
            open: 8,
            added: 0,
            lent: 8,
            waiting,
        }
    }

    #[test]
    fn a_queue_that_lasts_is_measured_by_what_arrives() {
        let mut need = Need::default();
        need.note(seen(0, 9));
        // 240 came back and 60 more wait: 300 arrivals of 30 ms keep 9 busy, and 3 stand against chance.
        need.note(seen(240, 69));
        assert_eq!((need.wanted(77), need.opened(77)), (12, 9));
        assert_eq!(need.wanted(10), 10, "never more than were wanted at once");
        need.begin();
        need.note(seen(260, 69));
        assert_eq!(need.wanted(77), 9, "few arrive, and yet all are busy: one more");
    }

    #[test]
    fn callers_who_come_at_once_are_all_wanted_and_chance_is_not() {
        let mut need = Need::default();
        need.note(seen(0, 0));
        need.note(seen(20, 12));
        need.note(seen(32, 0));
        assert_eq!((need.wanted(20), need.opened(20)), (20, 20), "a moment's queue");
        need.begin();
        need.note(seen(332, 0));
        assert_eq!(need.wanted(19), 12, "9 are busy on average; 19 at once came about by chance");
    }
}
