//! What an operator sees of a Redis server at one moment.

use std::time::Duration;

use super::node::Node;
use crate::observe::PoolReading;
use crate::pool::breaker::BreakerState;

/// Whether a server is given traffic.
const STATES: [&str; 2] = ["ok", "open"];

/// One server's connections at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// `host:port`.
    pub address: String,
    /// `ok`, or `open` for its breaker.
    pub state: &'static str,
    /// Shared by many callers.
    pub lanes: usize,
    /// Being opened to be shared.
    pub connecting: usize,
    /// Waiting to be lent.
    pub idle: usize,
    /// Lent to one caller each.
    pub lent: usize,
    /// The most there may be.
    pub max: usize,
    /// Callers waiting to be lent one.
    pub waiting: usize,
}

impl Node {
    /// The server's connections at this moment.
    pub fn status(&self) -> NodeStatus {
        let (lanes, connecting, most_lanes) = self.lanes.counts();
        let (idle, lent, most_leases, waiting) = self.leases.counts();
        let state = if self.breaker.state() == BreakerState::Closed { STATES[0] } else { STATES[1] };
        let max = most_lanes + most_leases;
        NodeStatus { address: self.connector.address(), state, lanes, connecting, idle, lent, max, waiting }
    }

    /// Sets the server's gauges.
    pub fn measure(&self) {
        let status = self.status();
        self.metrics.set(&PoolReading {
            connections: &[
                ("idle", status.idle),
                ("lent", status.lent),
                ("lane", status.lanes),
                ("connecting", status.connecting),
            ],
            sizes: &[("connections_max", status.max), ("waiters", status.waiting)],
            oldest_checkout: Duration::ZERO,
            states: (&STATES, status.state),
            breakers: &[("connect", number(self.breaker.state()))],
        });
    }
}

fn number(state: BreakerState) -> i64 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    }
}
