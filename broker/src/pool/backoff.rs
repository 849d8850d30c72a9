//! How long to wait before the next try to open a session: longer each time, and never the same for two.

use std::time::Duration;

/// The first pause is at most this.
const FIRST: Duration = Duration::from_millis(50);
/// No pause is longer: a server that is back is found within about that.
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential backoff with full jitter: a pause is anywhere between nothing and a ceiling that doubles, so that brokers that lost
/// the same server do not come back together.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a failure and tells the pause. `chance` is in `0.0..1.0`.
    pub fn pause(&mut self, chance: f64) -> Duration {
        let ceiling = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(chance)
    }

    /// It went well: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_ceiling() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.pause(0.5), Duration::from_millis(25));
    }
}
