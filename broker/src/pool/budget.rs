//! How many connections the broker may have on a server: a share of what is free, divided by the brokers that are alive; and how
//! many it may open before it looks again.

use std::time::Duration;

use tokio::time::Instant;

/// The part of a server that brokers take, of what others leave. The rest is for people and for what nobody foresaw.
const PART: f64 = 0.8;
/// How long a grant holds.
const GRANT: Duration = Duration::from_secs(1);

/// A look at a server's room. Unit: connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The server's setting.
    pub max_connections: usize,
    /// Of these, for superusers and other reserved roles.
    pub reserved: usize,
    /// Sessions of others than brokers.
    pub others: usize,
    /// This broker's sessions.
    pub ours: usize,
    /// Everybody's sessions.
    pub used: usize,
    /// Brokers alive, this one included. At least 1.
    pub brokers: usize,
}

/// What this broker may have in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Connections for its pools, the one that watches not among them.
    pub connections: usize,
}

impl Budget {
    /// `0.8 × (max − reserved − others) ÷ brokers`, less the connection that watches; at least 1.
    pub fn of(capacity: &Capacity) -> Self {
        let free = capacity.max_connections.saturating_sub(capacity.reserved + capacity.others);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a few thousand at most"
        )]
        let part = (free as f64 * PART) as usize;
        Self { connections: (part / capacity.brokers.max(1)).saturating_sub(1).max(1) }
    }
}

/// How many connections may be opened until the next look.
///
/// Looks are stale: brokers that all see the same free places could all take them. So each takes at most half of what it saw
/// free, divided by the brokers, and within a second; then it must look again, and with others there not before the second is
/// over. Within one broker's second any other can use at most two grants (the end of one and the next), each of at most
/// `free ÷ 2n`: together at most `(2n − 1) × free ÷ 2n < free`.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    left: usize,
    until: Instant,
}

impl Grant {
    /// The grant that a look allows. The last few places of a server stay free: nobody could take one and be sure of it.
    pub fn new(capacity: &Capacity, now: Instant) -> Self {
        let free = capacity.max_connections.saturating_sub(capacity.reserved + capacity.used);
        Self { left: free / (2 * capacity.brokers.max(1)), until: now + GRANT }
    }

    /// What is left of an older grant holds on until its time is over; a new look before that adds nothing, unless the broker is
    /// alone.
    #[must_use]
    pub fn renewed(self, capacity: &Capacity, now: Instant) -> Self {
        if capacity.brokers > 1 && now < self.until { self } else { Self::new(capacity, now) }
    }

    /// How many are left.
    pub fn left(&self, now: Instant) -> usize {
        if now < self.until { self.left } else { 0 }
    }

    /// Takes one, if there is one left.
    pub fn take(&mut self, now: Instant) -> bool {
        let granted = self.left > 0 && now < self.until;
        self.left -= usize::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn a_budget_leaves_a_fifth_and_is_divided_by_the_brokers() {
        let capacity = Capacity { max_connections: 100, reserved: 3, others: 7, ours: 0, used: 7, brokers: 1 };
        assert_eq!(Budget::of(&capacity).connections, 71);
        assert_eq!(Budget::of(&Capacity { brokers: 3, ..capacity }).connections, 23);
        assert_eq!(Budget::of(&Capacity { others: 500, ..capacity }).connections, 1, "somebody must be able to ask");
    }

    /// Brokers that look and open at random moments, all as much as they may.
    #[test]
    fn brokers_that_grow_from_stale_looks_never_pass_what_there_is() {
        let mut rng = SmallRng::seed_from_u64(11);
        let start = Instant::now();
        for round in 0..2_000 {
            let brokers = rng.random_range(2..6);
            let max_connections = rng.random_range(2 * brokers..120);
            let mut used = brokers;
            let mut grants: Vec<Option<Grant>> = vec![None; brokers];
            let mut now = start;
            for _ in 0..200 {
                now += Duration::from_millis(rng.random_range(0..300));
                let index = rng.random_range(0..brokers);
                let seen = Capacity { max_connections, reserved: 0, others: 0, ours: 0, used, brokers };
                if rng.random_bool(0.5) {
                    grants[index] =
                        Some(grants[index].map_or_else(|| Grant::new(&seen, now), |g| g.renewed(&seen, now)));
                }
                for _ in 0..rng.random_range(0..40) {
                    if grants[index].as_mut().is_some_and(|grant| grant.take(now)) {
                        used += 1;
                    }
                }
                assert!(used <= max_connections, "round {round}: {used} of {max_connections} by {brokers}");
            }
        }
    }
}
