//! For how long sessions are held: what says how long waiting for one is worth it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::Usual;

/// Hold times remembered.
const REMEMBERED: usize = 256;
/// Waiting for less is no waiting, and for more a new session is there sooner.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(500);
/// Where nothing is known yet.
const UNKNOWN: Duration = Duration::from_millis(100);
/// The 99th percentile is worked out again after so many.
const LAZY: usize = 32;

/// The last few hold times.
#[derive(Debug, Default)]
pub struct ServiceTime {
    /// The lock guards a write into a ring, and one sort in so many.
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    micros: Vec<u32>,
    next: usize,
    noted: usize,
    p99: Option<Duration>,
    mean: Duration,
    usual: Usual,
}

impl ServiceTime {
    /// Notes for how long a session was held.
    pub fn note(&self, held: Duration) {
        let mut recent = self.recent();
        let micros = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        if recent.micros.len() < REMEMBERED {
            recent.micros.push(micros);
        } else {
            let next = recent.next;
            recent.micros[next] = micros;
            recent.next = (next + 1) % REMEMBERED;
        }
        recent.usual.note(held, Instant::now());
        recent.noted += 1;
        if recent.p99.is_none() || recent.noted.is_multiple_of(LAZY) {
            let mut sorted = recent.micros.clone();
            let at = (sorted.len() * 99).div_ceil(100) - 1;
            let (_, p99, _) = sorted.select_nth_unstable(at);
            recent.p99 = Some(Duration::from_micros(u64::from(*p99)));
            let sum: u64 = recent.micros.iter().copied().map(u64::from).sum();
            recent.mean = Duration::from_micros(sum / recent.micros.len() as u64);
        }
    }

    /// The 99th percentile of the last hold times; `None` before the first.
    pub fn p99(&self) -> Option<Duration> {
        self.recent().p99
    }

    /// How many hold times were noted so far, and the average of the last ones.
    pub fn served(&self) -> (u64, Duration) {
        let recent = self.recent();
        (recent.noted as u64, recent.mean)
    }

    /// How long a session is usually held, as far as that is still true.
    pub fn usual(&self) -> Option<Duration> {
        self.recent().usual.known(Instant::now())
    }

    /// How long a caller waits for a session to come back before a new one is opened: twice the 99th percentile, within bounds.
    /// `chance` in `0.0..1.0` spreads it by a fifth, so that those who came together do not ask together.
    pub fn patience(&self, chance: f64) -> Duration {
        let patience = self.p99().map_or(UNKNOWN, |p99| (2 * p99).clamp(SHORTEST, LONGEST));
        patience.mul_f64(0.8 + 0.4 * chance)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_how_long_sessions_are_held() {
        let times = ServiceTime::default();
        assert_eq!(times.patience(0.5), UNKNOWN);
        for _ in 0..REMEMBERED {
            times.note(Duration::from_millis(1));
        }
        assert_eq!(times.patience(0.5), SHORTEST);
        for _ in 0..REMEMBERED {
            times.note(Duration::from_millis(40));
        }
        assert_eq!(times.p99(), Some(Duration::from_millis(40)));
        assert_eq!(times.served(), (2 * REMEMBERED as u64, Duration::from_millis(40)));
        assert_eq!((times.patience(0.0), times.patience(1.0)), (Duration::from_millis(64), Duration::from_millis(96)));
        for _ in 0..REMEMBERED {
            times.note(Duration::from_secs(9));
        }
        assert_eq!(times.patience(0.5), LONGEST);
    }
}
