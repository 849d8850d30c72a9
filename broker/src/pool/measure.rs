//! What an operator sees of an endpoint at one moment.

use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, BreakerState};
use super::decision::ServerInputs;
use super::endpoint::Endpoint;
use super::event::BreakerName;
use super::forecast::{Outcomes, Standing};
use super::registry::Checkout;
use crate::observe::{ForecastReading, PoolReading};

/// Whether an endpoint is given traffic.
const STATES: [&str; 4] = ["ok", "probing", "ejected", "open"];

/// What is shown of an endpoint, beside its status and its server's standing.
pub struct Sight {
    /// The configured minimum.
    pub min: usize,
    /// Most sessions wanted at once, lately.
    pub demand: usize,
    /// For how long it still gets no reads.
    pub ejected_for: Option<Duration>,
    /// Name, state, and how often it opened, of each breaker.
    pub breakers: [(&'static str, &'static str, u64); 2],
    /// The server's room.
    pub server: Option<ServerInputs>,
    /// The oldest checkout, and the server's process that serves it.
    pub oldest: Option<(Checkout, u32)>,
    /// How far a replica is behind.
    pub lag: Option<Duration>,
}

impl Endpoint {
    /// What is shown of it.
    pub fn sight(&self) -> Sight {
        let breaker = |name: BreakerName, breaker: &Breaker| (name.as_str(), breaker.state().as_str(), breaker.trips());
        let now = Instant::now();
        Sight {
            min: self.config.min as usize,
            demand: self.demand.peak(now),
            ejected_for: self.health.ejected_for(now),
            breakers: [
                breaker(BreakerName::Connect, &self.opening.breaker),
                breaker(BreakerName::Login, &self.opening.logins),
            ],
            server: self.server.inputs(),
            oldest: self.registry.oldest(),
            lag: self.is_replica().then(|| self.server.standing().replay_age),
        }
    }

    /// Sets the endpoint's gauges.
    pub fn measure(&self) {
        let status = self.status();
        let standing = self.server.standing();
        let mut sizes = vec![
            ("connections_max", status.max),
            ("connections_limit", status.limit),
            ("connections_min", self.config.min as usize),
            ("waiters", status.waiting),
            ("demand_highwater", self.demand.peak(Instant::now())),
            ("predicted_demand", self.foresight.forecast().wanted()),
        ];
        if let Some((capacity, budget)) = self.server.capacity() {
            sizes.push(("db_max_connections", capacity.max_connections));
            sizes.push(("db_connections_budget", budget.connections));
        }
        if self.is_replica() {
            let lag = usize::try_from(standing.replay_age.as_millis()).unwrap_or(usize::MAX);
            sizes.push(("replica_lag_ms", lag));
        }
        self.metrics.queues.set(&self.idle.lengths());
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
            oldest_checkout: self.registry.oldest().map_or(Duration::ZERO, |(oldest, _)| oldest.since.elapsed()),
            states: (&STATES, self.state()),
            breakers: &[
                ("connect", number(self.opening.breaker.state())),
                ("login", number(self.opening.logins.state())),
            ],
        });
        self.measure_forecast();
    }

    fn measure_forecast(&self) {
        let (standings, outcomes): (Vec<Standing>, Outcomes) = {
            let forecast = self.foresight.forecast();
            (forecast.standings().collect(), forecast.outcomes())
        };
        let models: Vec<_> = standings.iter().map(|it| (it.name.as_str(), it.predicted, it.error)).collect();
        let Outcomes { hits, misses, vain } = outcomes;
        self.metrics.set_forecast(&ForecastReading {
            models: &models,
            outcomes: &[("hit", hits), ("miss", misses), ("vain", vain)],
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
