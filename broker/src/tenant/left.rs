//! What is left of a limit.

use std::time::Duration;

/// What is left of a limit, as the `RateLimit` header tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// In the limit's own unit.
    pub remaining: u64,
    /// How long until all of it is there again.
    pub reset: Duration,
}
