//! The one time budget of a request: queueing, connecting and running all spend from it.

use std::time::Duration;

use tokio::time::Instant;

/// The moment by which a request must be answered. Nothing is started after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// A deadline `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        Self { at: Instant::now() + timeout }
    }

    /// A deadline `timeout` after `start`.
    pub fn from_start(start: Instant, timeout: Duration) -> Self {
        Self { at: start + timeout }
    }

    /// The moment itself.
    pub fn at(self) -> Instant {
        self.at
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// True once nothing may be started any more.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_shrinks_to_zero_and_stays_there() {
        let deadline = Deadline::after(Duration::from_secs(2));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(deadline.remaining(), Duration::from_millis(1500));
        assert!(!deadline.has_passed());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(deadline.remaining(), Duration::ZERO);
        assert!(deadline.has_passed());
    }
}
