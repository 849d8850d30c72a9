//! A breaker on opening sessions: after a few failures in a row nobody tries for a moment, and everybody hears so at once.
//!
//! The moment is short, since the server is asked again anyway: one second, doubled with each failed trial up to thirty. Longer
//! ones, as for a breaker between services, would keep callers away from a server that is back.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Failures in a row that open it.
    pub failures: u32,
    /// For how long, the first time.
    pub first: Duration,
    /// For how long at the most: twice as long with each trial that failed.
    pub longest: Duration,
}

/// On reaching a server.
pub const CONNECT: Rule = Rule { failures: 5, first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// On being let in. A wrong password stays wrong until somebody does something, and servers lock roles that try too often.
pub const LOGIN: Rule = Rule { failures: 3, first: Duration::from_secs(30), longest: Duration::from_mins(2) };

/// What it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One trial.
    HalfOpen,
}

/// It is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Until the next trial.
    pub retry_after: Duration,
}

/// A breaker.
#[derive(Debug)]
pub struct Breaker {
    rule: Rule,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// When it was last opened, and for how long.
    opened: Option<(Instant, Duration)>,
    trial: bool,
    trips: u64,
}

impl BreakerState {
    /// The state as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(rule: Rule) -> Self {
        Self { rule, record: Mutex::default() }
    }

    /// Leave to try; every leave is answered by [`Breaker::success`], [`Breaker::failure`] or [`Breaker::release`].
    pub fn permit(&self) -> Result<(), Open> {
        let mut record = self.record();
        if let Some(open) = record.shut() {
            return Err(open);
        }
        record.trial = record.opened.is_some();
        Ok(())
    }

    /// For how long nobody may try, if so.
    pub fn shut(&self) -> Option<Open> {
        self.record().shut()
    }

    /// A try went well. True: that closed it.
    pub fn success(&self) -> bool {
        let mut record = self.record();
        let was_open = record.opened.is_some();
        *record = Record { trips: record.trips, ..Record::default() };
        was_open
    }

    /// A try failed. True: that opened it.
    pub fn failure(&self) -> bool {
        let mut record = self.record();
        record.failures = record.failures.saturating_add(1);
        let last = record.opened.map(|(_, pause)| pause);
        let trips = record.failures >= self.rule.failures && (record.trial || last.is_none());
        if trips {
            let pause = last.map_or(self.rule.first, |pause| (pause * 2).min(self.rule.longest));
            record.opened = Some((Instant::now(), pause));
            record.trips += 1;
        }
        record.trial = false;
        trips
    }

    /// The try came to nothing, and says nothing.
    pub fn release(&self) {
        self.record().trial = false;
    }

    /// What it lets through now.
    pub fn state(&self) -> BreakerState {
        let record = self.record();
        match record.opened {
            None => BreakerState::Closed,
            Some((at, pause)) if at.elapsed() < pause => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// How often it was opened.
    pub fn trips(&self) -> u64 {
        self.record().trips
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn shut(&self) -> Option<Open> {
        let (at, pause) = self.opened?;
        let left = pause.saturating_sub(at.elapsed());
        if left.is_zero() && !self.trial {
            None
        } else {
            Some(Open { retry_after: left.max(Duration::from_millis(50)) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_a_few_failures_and_lets_one_trial_through() {
        let first = CONNECT.first;
        let breaker = Breaker::new(CONNECT);
        for _ in 1..CONNECT.failures {
            breaker.permit().expect("closed");
            assert!(!breaker.failure());
        }
        breaker.permit().expect("closed");
        assert!(breaker.failure());
        assert_eq!((breaker.state(), breaker.permit()), (BreakerState::Open, Err(Open { retry_after: first })));
        tokio::time::advance(first).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.permit().expect("one trial");
        assert!(breaker.permit().is_err(), "and only one");
        assert!(breaker.failure());
        assert_eq!(breaker.shut(), Some(Open { retry_after: 2 * first }), "twice as long");
        tokio::time::advance(2 * first).await;
        breaker.permit().expect("one trial");
        assert!(breaker.success());
        assert_eq!((breaker.state(), breaker.trips()), (BreakerState::Closed, 2));
        breaker.permit().expect("closed");
        assert!(!breaker.failure(), "and begins to count anew");
    }
}
