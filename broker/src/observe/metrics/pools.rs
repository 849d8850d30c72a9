//! Pools by backend and endpoint: what their sessions do, how they come and go, what is wrong with their servers.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::forecasts::{ForecastReading, Forecasts};
use super::queues::{QueueMetrics, Queues};
use super::{ActiveGuard, Counters, Gauges, Histograms, family, histograms, in_seconds};

/// Waits for a session, and the time it is held: from a reused one, to the longest that anybody waits.
const WAITS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Ages at the end, to well past the usual lifetime of half an hour. Unit: seconds.
const AGES: [f64; 9] = [1.0, 10.0, 60.0, 300.0, 900.0, 1_500.0, 1_800.0, 3_600.0, 14_400.0];
/// How often a session was lent before its end.
const USES: [f64; 8] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0];

/// `backend` and `endpoint` first; the keys are one set for each family, and the rest of the values are words of enums.
type Labels = Vec<(&'static str, String)>;

/// The families of pools.
pub(super) struct Pools {
    listeners: Gauges<Labels>,
    checkout_wait: Histograms<Labels>,
    checkout_hold: Histograms<Labels>,
    opened: Counters<Labels>,
    closed: Counters<Labels>,
    connect_seconds: Histograms<Labels>,
    age_seconds: Histograms<Labels>,
    uses: Histograms<Labels>,
    ejections: Counters<Labels>,
    breaker_trips: Counters<Labels>,
    leaks: Counters<Labels>,
    resets: Counters<Labels>,
    conservation_failures: Counters<Labels>,
    lane_pauses: Counters<Labels>,
    connections: Gauges<Labels>,
    sizes: [(&'static str, Gauges<Labels>); 9],
    oldest_checkout: prometheus_client::metrics::family::Family<Labels, Gauge<f64, AtomicU64>>,
    state: Gauges<Labels>,
    breaker_state: Gauges<Labels>,
    forecasts: Forecasts,
    queues: Queues,
}

/// What is read off a pool at the moment of a scrape. Each list is a closed set of words.
pub struct PoolReading<'r> {
    /// Sessions by state.
    pub connections: &'r [(&'static str, usize)],
    /// Single numbers, by the name of their family; one that is not known is left out.
    pub sizes: &'r [(&'static str, usize)],
    /// The age of the oldest checkout; zero without one.
    pub oldest_checkout: Duration,
    /// The endpoint's states, of which one holds.
    pub states: (&'r [&'static str], &'static str),
    /// Breakers by name: 0 closed, 1 half open, 2 open.
    pub breakers: &'r [(&'static str, i64)],
}

impl Pools {
    pub(super) fn register(r: &mut Registry) -> Self {
        let wait = || Histogram::new(WAITS);
        let size = |r: &mut Registry, name, help| (name, family(r, name, help));
        Self {
            listeners: family(r, "db_listeners", "Event streams that hear notifications, or wait for it, now"),
            checkout_wait: histograms(
                r,
                "checkout_wait_seconds",
                "From asking a pool to having a session, or none",
                wait,
            ),
            checkout_hold: histograms(r, "checkout_hold_seconds", "How long a session was lent", wait),
            opened: family(r, "connections_opened", "Sessions opened, or not: `ok`, or why not"),
            closed: family(r, "connections_closed", "Sessions closed, by reason"),
            connect_seconds: histograms(r, "connect_seconds", "Opening a session, by phase", in_seconds),
            age_seconds: histograms(r, "connection_age_seconds", "Age of a session at its end", || {
                Histogram::new(AGES)
            }),
            uses: histograms(r, "connection_uses", "How often a session was lent in its life", || Histogram::new(USES)),
            ejections: family(r, "endpoint_ejections", "Times an endpoint was left alone for a while"),
            breaker_trips: family(r, "breaker_trips", "Times a breaker opened"),
            leaks: family(r, "leaks", "Sessions held long past their deadline"),
            resets: family(r, "resets", "Sessions made clean, by why and how it ended"),
            conservation_failures: family(
                r,
                "conservation_failures",
                "Sweeps after which a pool's sessions did not add up",
            ),
            lane_pauses: family(
                r,
                "lane_pauses",
                "Times all lanes were left alone: too many statements were over budget",
            ),
            connections: family(r, "connections", "Sessions by state"),
            sizes: [
                size(r, "connections_max", "The most sessions there may be at all"),
                size(r, "connections_limit", "The most sessions there may be by the server's room and others' needs"),
                size(r, "connections_min", "Sessions kept in any case"),
                size(r, "waiters", "Callers waiting for a session"),
                size(r, "demand_highwater", "Most sessions wanted at once, lately"),
                size(r, "predicted_demand", "Sessions expected to be wanted soon"),
                size(r, "db_max_connections", "The server's own limit"),
                size(r, "db_connections_budget", "What this broker may have of it"),
                size(r, "replica_lag_ms", "How far a replica is behind, by the age of what it replayed last"),
            ],
            oldest_checkout: family(r, "oldest_checkout_seconds", "Age of the oldest checkout"),
            state: family(r, "endpoint_state", "1 for the state an endpoint is in"),
            breaker_state: family(r, "breaker_state", "0 closed, 1 half open, 2 open"),
            forecasts: Forecasts::register(r),
            queues: Queues::register(r),
        }
    }
}

/// One backend's pools.
#[derive(Clone)]
pub struct PoolMetrics {
    pools: Arc<Pools>,
    backend: Arc<str>,
}

impl PoolMetrics {
    pub(super) fn new(pools: &Arc<Pools>, backend: &str) -> Self {
        Self { pools: Arc::clone(pools), backend: backend.into() }
    }

    /// Counts an event stream until the guard is dropped.
    pub fn listener(&self) -> ActiveGuard {
        ActiveGuard::new(self.pools.listeners.get_or_create_owned(&vec![("backend", self.backend.to_string())]))
    }

    /// The handles for one of its servers, looked up once.
    pub fn endpoint(&self, address: &str) -> EndpointMetrics {
        let base = vec![("backend", self.backend.to_string()), ("endpoint", address.to_owned())];
        let pools = &self.pools;
        let with = |key, value: &str| {
            let mut labels = base.clone();
            labels.push((key, value.to_owned()));
            labels
        };
        let waited = |outcome| pools.checkout_wait.get_or_create_owned(&with("outcome", outcome));
        let took = |phase| pools.connect_seconds.get_or_create_owned(&with("phase", phase));
        EndpointMetrics {
            wait: Waits {
                ok: waited("ok"),
                timeout: waited("timeout"),
                rejected: waited("rejected"),
                cancelled: waited("cancelled"),
            },
            hold: pools.checkout_hold.get_or_create_owned(&base),
            connect: ConnectSeconds { dns: took("dns"), tcp: took("tcp"), tls: took("tls"), auth: took("auth") },
            age: pools.age_seconds.get_or_create_owned(&base),
            uses: pools.uses.get_or_create_owned(&base),
            ejections: pools.ejections.get_or_create_owned(&base),
            conservation_failures: pools.conservation_failures.get_or_create_owned(&base),
            lane_pauses: pools.lane_pauses.get_or_create_owned(&base),
            opened: pools.opened.get_or_create_owned(&with("result", "ok")),
            queues: QueueMetrics::new(&pools.queues, &self.backend, address),
            pools: Arc::clone(pools),
            base,
        }
    }
}

/// One server of one backend.
#[derive(Clone)]
pub struct EndpointMetrics {
    /// From asking to having a session, or none. Unit: seconds.
    pub wait: Waits,
    /// How long a session was lent. Unit: seconds.
    pub hold: Histogram,
    /// Opening a session. Unit: seconds.
    pub connect: ConnectSeconds,
    /// Times it was left alone for a while.
    pub ejections: Counter<u64, AtomicU64>,
    /// Sweeps after which sessions did not add up.
    pub conservation_failures: Counter<u64, AtomicU64>,
    /// Times all lanes were left alone, since too many statements were over budget.
    pub lane_pauses: Counter<u64, AtomicU64>,
    /// Who waits.
    pub queues: QueueMetrics,
    age: Histogram,
    uses: Histogram,
    opened: Counter<u64, AtomicU64>,
    pools: Arc<Pools>,
    base: Labels,
}

/// Waits by how they ended.
#[derive(Clone)]
pub struct Waits {
    /// With a session.
    pub ok: Histogram,
    /// At the deadline.
    pub timeout: Histogram,
    /// Refused: too many waited, or there was nothing to wait for.
    pub rejected: Histogram,
    /// The caller left.
    pub cancelled: Histogram,
}

/// The phases of opening a session.
#[derive(Clone)]
pub struct ConnectSeconds {
    /// Finding the address.
    pub dns: Histogram,
    /// The socket.
    pub tcp: Histogram,
    /// The handshake.
    pub tls: Histogram,
    /// Signing in.
    pub auth: Histogram,
}

impl EndpointMetrics {
    /// Counts an opened session, and says which one it is.
    pub fn opened(&self) -> u64 {
        self.opened.inc()
    }

    /// Counts a session that could not be opened. `reason` is a word of an enum.
    pub fn not_opened(&self, reason: &'static str) {
        self.pools.opened.get_or_create(&self.with(&[("result", reason)])).inc();
    }

    /// Counts the end of a session. `reason` is a word of an enum.
    pub fn closed(&self, reason: &'static str, age: Option<Duration>, uses: Option<u64>) {
        self.pools.closed.get_or_create(&self.with(&[("reason", reason)])).inc();
        if let Some(age) = age {
            self.age.observe(age.as_secs_f64());
        }
        if let Some(uses) = uses {
            #[expect(clippy::cast_precision_loss, reason = "a count for a bucket")]
            self.uses.observe(uses as f64);
        }
    }

    /// Counts a breaker's opening.
    pub fn tripped(&self, name: &'static str) {
        self.pools.breaker_trips.get_or_create(&self.with(&[("name", name)])).inc();
    }

    /// Counts a leak on a tenant's account.
    pub fn leaked(&self, tenant: &str) {
        let mut labels = self.base.clone();
        labels.push(("tenant", tenant.to_owned()));
        self.pools.leaks.get_or_create(&labels).inc();
    }

    /// Counts a session made clean, or not. Both are words of enums.
    pub fn reset(&self, kind: &'static str, result: &'static str) {
        self.pools.resets.get_or_create(&self.with(&[("kind", kind), ("result", result)])).inc();
    }

    /// Sets what is read off the pool at the moment of a scrape.
    pub fn set(&self, reading: &PoolReading<'_>) {
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for (state, value) in reading.connections {
            self.pools.connections.get_or_create(&self.with(&[("state", state)])).set(number(*value));
        }
        for (name, value) in reading.sizes {
            if let Some((_, family)) = self.pools.sizes.iter().find(|(known, _)| known == name) {
                family.get_or_create(&self.base).set(number(*value));
            }
        }
        self.pools.oldest_checkout.get_or_create(&self.base).set(reading.oldest_checkout.as_secs_f64());
        let (states, held) = reading.states;
        for state in states {
            self.pools.state.get_or_create(&self.with(&[("state", state)])).set(i64::from(*state == held));
        }
        for (name, state) in reading.breakers {
            self.pools.breaker_state.get_or_create(&self.with(&[("name", name)])).set(*state);
        }
    }

    /// Sets what is read off the pool's forecast at the moment of a scrape.
    pub fn set_forecast(&self, reading: &ForecastReading<'_>) {
        self.pools.forecasts.set(&self.base, reading);
    }

    fn with(&self, more: &[(&'static str, &'static str)]) -> Labels {
        let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
        self.base.iter().cloned().chain(more).collect()
    }
}
