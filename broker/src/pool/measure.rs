//! What an operator sees of an endpoint at one moment.

use tokio::time::Instant;

use super::breaker::BreakerState;
use super::endpoint::Endpoint;
use crate::observe::PoolReading;

/// Whether an endpoint is given traffic.
const STATES: [&str; 4] = ["ok", "probing", "ejected", "open"];

impl Endpoint {
    /// Sets the endpoint's gauges.
    pub fn measure(&self) {
        let status = self.status();
        let standing = self.server.standing();
        let mut sizes = vec![
            ("connections_max", status.max),
            ("connections_limit", status.limit),
            ("connections_min", self.config.min as usize),
            ("waiters", status.waiting as usize),
            ("demand_highwater", self.demand.peak(Instant::now())),
        ];
        if let Some((capacity, budget)) = self.server.capacity() {
            sizes.push(("db_max_connections", capacity.max_connections));
            sizes.push(("db_connections_budget", budget.connections));
        }
        if self.is_replica() {
            let lag = usize::try_from(standing.replay_age.as_millis()).unwrap_or(usize::MAX);
            sizes.push(("replica_lag_ms", lag));
        }
        self.metrics.set(&PoolReading {
            connections: &[
                ("idle", status.idle),
                ("lent", status.lent),
                ("lane", status.lanes),
                ("connecting", status.connecting),
                ("closing", status.cleaning),
                ("leaked", status.severed),
            ],
            sizes: &sizes,
            oldest_checkout: status.oldest_checkout.unwrap_or_default(),
            states: (&STATES, self.state()),
            breakers: &[("connect", number(self.opening.breaker.state()))],
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
