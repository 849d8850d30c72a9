//! All limits of one tenant, asked together: a request is charged to all of them, or to none.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Admission, AdmissionError, Meter};
use super::debt::{self, Debt};
use super::fleet::{Bucket, Fleet, Share, Tally, Terms};
use super::inflight::{InFlight, Permit};
use super::left::Left;
use super::named::{Named, Shadows};
use super::quota::{Quota, unix_now};
use super::rate::{self, Rate};
use crate::base::TenantId;
use crate::config::{LimitsConfig, policy};
use crate::observe::{LimitMetrics, Metrics};

/// All limits of one tenant.
pub struct Limits {
    /// Shortest window first: one that refuses has cost the longer ones nothing.
    windows: Vec<Named<Window>>,
    database: Option<Named<Database>>,
    quotas: Vec<Named<(Thing, Quota)>>,
    /// Requests running or queueing.
    pub in_flight: Named<InFlight>,
    /// Event streams.
    pub listeners: Named<InFlight>,
}

/// A rate of requests.
enum Window {
    Own(Rate),
    Shared(Arc<Bucket>),
}

/// A rate of time with databases.
enum Database {
    Own(Debt),
    Shared(Arc<Bucket>),
}

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Requests,
    Rows,
    Bytes,
    /// Unit: milliseconds.
    Database,
}

/// What a request has used, known afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Rows of its answer, or affected.
    pub rows: u64,
    /// Bytes of its answer.
    pub bytes: u64,
    /// Time with a database.
    pub database: Duration,
}

impl Limits {
    /// The limits of one tenant, shared in `fleet` if there is one. Of `before` goes on what has not changed.
    pub fn new(
        tenant: &TenantId,
        config: &LimitsConfig,
        fleet: Option<&Arc<Fleet>>,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Self {
        let counts = |name| metrics.limit(tenant, name);
        let made = Making { tenant: tenant.as_str(), config, fleet, before, counts: &counts };
        Self {
            windows: made.windows(),
            database: made.database(),
            quotas: made.quotas(),
            in_flight: made.in_flight(),
            listeners: made.listeners(),
        }
    }

    /// Lets one request in, or says why not: then it is charged to no limit. In flight first, which costs nothing to give back.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, AdmissionError> {
        let mut shadows = Shadows::new();
        let permit = self.permit(&mut shadows)?;
        let now = if self.quotas.is_empty() { 0 } else { unix_now() };
        self.look(now, &mut shadows)?;
        self.take_windows(&mut shadows)?;
        if let Some(quota) = self.quotas.iter().find(|quota| quota.limit.0 == Thing::Requests)
            && let Err(wait) = quota.settle(quota.limit.1.take(now), &mut shadows)
        {
            self.give_back(usize::MAX, &shadows);
            return Err(AdmissionError::QuotaExhausted {
                policy: quota.name,
                limit: quota.limit.1.limit(),
                retry_after: wait,
            });
        }
        let is_charged = self.database.is_some() || self.quotas.iter().any(|quota| quota.limit.0 != Thing::Requests);
        let meter = is_charged.then(|| Box::new(Meter::new(Arc::clone(self))));
        Ok(Admission::new(permit, meter, shadows))
    }

    /// Lets one event stream in that was admitted as a request; it counts until the permit is dropped.
    pub fn admit_listener(&self, shadows: &mut Shadows) -> Result<Permit, AdmissionError> {
        let listeners = &self.listeners;
        let taken = listeners.settle(listeners.limit.take(), shadows);
        let taken = taken.map_err(|limit| AdmissionError::TooManyListeners { limit })?;
        Ok(taken.unwrap_or_else(|| listeners.limit.count_one()))
    }

    fn permit(&self, shadows: &mut Shadows) -> Result<Permit, AdmissionError> {
        let in_flight = &self.in_flight;
        if in_flight.limit.limit().is_none() {
            return Ok(in_flight.limit.count_one());
        }
        let taken = in_flight.settle(in_flight.limit.take(), shadows);
        let taken = taken.map_err(|limit| AdmissionError::TooManyInFlight { limit })?;
        Ok(taken.unwrap_or_else(|| in_flight.limit.count_one()))
    }

    /// What is charged afterwards must not be used up.
    fn look(&self, now: u64, shadows: &mut Shadows) -> Result<(), AdmissionError> {
        for quota in self.quotas.iter().filter(|quota| quota.limit.0 != Thing::Requests) {
            quota.settle(quota.limit.1.look(now), shadows).map_err(|retry_after| AdmissionError::QuotaExhausted {
                policy: quota.name,
                limit: quota.limit.1.limit(),
                retry_after,
            })?;
        }
        if let Some(database) = &self.database {
            let looked = match &database.limit {
                Database::Own(debt) => debt.look(),
                Database::Shared(bucket) => bucket.look(),
            };
            database
                .settle(looked, shadows)
                .map_err(|retry_after| AdmissionError::RateLimited { policy: database.name, retry_after })?;
        }
        Ok(())
    }

    fn take_windows(&self, shadows: &mut Shadows) -> Result<(), AdmissionError> {
        for (index, window) in self.windows.iter().enumerate() {
            let taken = match &window.limit {
                Window::Own(rate) => rate.take(),
                Window::Shared(bucket) => bucket.take(),
            };
            if let Err(retry_after) = window.settle(taken, shadows) {
                self.give_back(index, shadows);
                return Err(AdmissionError::RateLimited { policy: window.name, retry_after });
            }
        }
        Ok(())
    }

    /// Gives back what the first windows were charged for a request that is refused all the same.
    fn give_back(&self, first: usize, shadows: &Shadows) {
        for window in self.windows.iter().take(first).filter(|window| !shadows.contains(&window.name)) {
            match &window.limit {
                Window::Own(rate) => rate.give_back(),
                Window::Shared(bucket) => bucket.give_back(),
            }
        }
    }

    /// Charges what a request has used.
    pub fn charge(&self, usage: Usage) {
        if usage == Usage::default() {
            return;
        }
        let micros = u64::try_from(usage.database.as_micros()).unwrap_or(u64::MAX);
        match self.database.as_ref().map(|database| &database.limit) {
            Some(Database::Own(debt)) => debt.charge(usage.database),
            Some(Database::Shared(bucket)) => bucket.charge(i64::try_from(micros).unwrap_or(i64::MAX)),
            None => {}
        }
        let now = if self.quotas.is_empty() { 0 } else { unix_now() };
        for Named { limit: (thing, quota), .. } in &self.quotas {
            match thing {
                Thing::Requests => {}
                Thing::Rows => quota.charge(now, usage.rows),
                Thing::Bytes => quota.charge(now, usage.bytes),
                // Rounded up or down by chance, so that many short statements add up to what they took.
                Thing::Database => quota.charge(now, (micros + u64::from(rand::random_range(0..1000_u16))) / 1000),
            }
        }
    }

    /// True if rows must be counted.
    pub fn counts_rows(&self) -> bool {
        self.quotas.iter().any(|quota| quota.limit.0 == Thing::Rows)
    }

    /// What is left of each limit that a caller can use up and wait for; those in shadow left out.
    pub fn left(&self) -> impl Iterator<Item = (&'static str, Left)> {
        self.left_of_all().filter(|(_, shadow, _)| !shadow).map(|(name, _, left)| (name, left))
    }

    /// The same with those in shadow, and whether each is.
    pub fn left_of_all(&self) -> impl Iterator<Item = (&'static str, bool, Left)> {
        let windows = self.windows.iter().map(|window| {
            let left = match &window.limit {
                Window::Own(rate) => rate.left(),
                Window::Shared(bucket) => bucket.left(),
            };
            (window.name, window.shadow, left)
        });
        let database = self.database.iter().map(|database| {
            let left = match &database.limit {
                Database::Own(debt) => debt.left(),
                Database::Shared(bucket) => {
                    let left = bucket.left();
                    Left { remaining: left.remaining / 1000, ..left }
                }
            };
            (database.name, database.shadow, left)
        });
        let now = if self.quotas.is_empty() { 0 } else { unix_now() };
        let quotas = self.quotas.iter().map(move |quota| (quota.name, quota.shadow, quota.limit.1.left(now)));
        windows.chain(database).chain(quotas)
    }
}

/// What limits are made from.
struct Making<'m, C> {
    tenant: &'m str,
    config: &'m LimitsConfig,
    fleet: Option<&'m Arc<Fleet>>,
    before: Option<&'m Limits>,
    counts: &'m C,
}

impl<C: Fn(&'static str) -> LimitMetrics> Making<'_, C> {
    fn named<L>(&self, name: &'static str, limit: L) -> Named<L> {
        Named::new(name, limit, self.config, self.counts)
    }

    fn windows(&self) -> Vec<Named<Window>> {
        let LimitsConfig { requests_per_second, burst, requests_per_minute, requests_per_hour, .. } = *self.config;
        let windows = [
            (policy::REQUESTS, requests_per_second, burst, Duration::from_secs(1)),
            (policy::REQUESTS_PER_MINUTE, requests_per_minute, None, Duration::from_mins(1)),
            (policy::REQUESTS_PER_HOUR, requests_per_hour, None, Duration::from_hours(1)),
        ];
        let windows = windows.into_iter().filter_map(|(name, requests, burst, window)| {
            let requests = NonZeroU32::new(requests?)?;
            let burst = burst.and_then(NonZeroU32::new).unwrap_or(requests);
            Some(self.named(name, self.window(name, rate::Terms { requests, window, burst })))
        });
        windows.collect()
    }

    fn window(&self, name: &'static str, terms: rate::Terms) -> Window {
        let old =
            self.before.and_then(|before| before.windows.iter().find(|old| old.name == name)).map(|old| &old.limit);
        let Some(fleet) = self.fleet else {
            return Window::Own(match old {
                Some(Window::Own(rate)) if rate.terms() == terms => rate.clone(),
                Some(Window::Own(rate)) => rate.under(terms),
                _ => Rate::new(terms),
            });
        };
        let shared = Terms {
            per_second: f64::from(terms.requests.get()) / terms.window.as_secs_f64(),
            burst: terms.burst.get().into(),
            // Only what was used on credit, which is less than the burst.
            debt: terms.burst.get().into(),
            window: terms.window,
        };
        let old = if let Some(Window::Shared(bucket)) = old { Some(bucket) } else { None };
        Window::Shared(self.bucket(old, shared, fleet, name))
    }

    fn bucket(&self, old: Option<&Arc<Bucket>>, terms: Terms, fleet: &Arc<Fleet>, name: &str) -> Arc<Bucket> {
        match old {
            Some(bucket) if bucket.is(&terms, fleet) => Arc::clone(bucket),
            Some(bucket) if bucket.is_in(fleet) => bucket.under(terms, self.tenant, name),
            _ => Bucket::new(terms, fleet, self.tenant, name),
        }
    }

    fn database(&self) -> Option<Named<Database>> {
        let per_second = self.config.database_ms_per_second?;
        let old = self.before.and_then(|before| before.database.as_ref()).map(|old| &old.limit);
        let database = match (self.fleet, old) {
            (None, Some(Database::Own(debt))) => Database::Own(debt.under(per_second)),
            (None, _) => Database::Own(Debt::new(per_second)),
            (Some(fleet), old) => {
                let of = |time: Duration| i64::from(per_second) * i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
                let terms = Terms {
                    per_second: f64::from(per_second) * 1000.0,
                    burst: of(debt::BURST),
                    debt: of(debt::MOST_DEBT),
                    window: Duration::from_secs(1),
                };
                let old = if let Some(Database::Shared(bucket)) = old { Some(bucket) } else { None };
                Database::Shared(self.bucket(old, terms, fleet, policy::DATABASE_MS))
            }
        };
        Some(self.named(policy::DATABASE_MS, database))
    }

    fn quotas(&self) -> Vec<Named<(Thing, Quota)>> {
        let config = self.config;
        let quotas = [
            (policy::REQUESTS_PER_DAY, Thing::Requests, config.requests_per_day),
            (policy::ROWS_PER_DAY, Thing::Rows, config.rows_per_day),
            (policy::BYTES_PER_DAY, Thing::Bytes, config.bytes_per_day),
            (policy::DATABASE_MS_PER_DAY, Thing::Database, config.database_ms_per_day),
        ];
        let quotas = quotas.into_iter().filter_map(|(name, thing, limit)| {
            let limit = limit?;
            let old = self.before.and_then(|before| before.quotas.iter().find(|old| old.name == name));
            let quota = old.map_or_else(|| Quota::new(limit), |old| old.limit.1.under(limit));
            let quota = match self.fleet {
                None => quota.alone(),
                Some(fleet) if quota.tally().is_some_and(|tally| tally.is_in(fleet)) => quota,
                Some(fleet) => quota.shared(|used| Tally::new(used, fleet, self.tenant, name)),
            };
            Some(self.named(name, (thing, quota)))
        });
        quotas.collect()
    }

    fn in_flight(&self) -> Named<InFlight> {
        let limit = self.config.in_flight;
        let old = self.before.map(|before| &before.in_flight.limit);
        let in_flight = old.map_or_else(|| InFlight::new(limit), |old| old.under(limit));
        let in_flight = match (self.fleet, limit) {
            (Some(fleet), Some(limit)) => in_flight.shared(|count| {
                let known = old.and_then(InFlight::share).filter(|share| share.is(limit, fleet));
                known.map_or_else(|| Share::new(limit, count, fleet, self.tenant, policy::IN_FLIGHT), Arc::clone)
            }),
            _ => in_flight,
        };
        self.named(policy::IN_FLIGHT, in_flight)
    }

    fn listeners(&self) -> Named<InFlight> {
        let limit = Some(self.config.listeners);
        let old = self.before.map(|before| &before.listeners.limit);
        self.named(policy::LISTENERS, old.map_or_else(|| InFlight::new(limit), |old| old.under(limit)))
    }
}

#[cfg(test)]
mod tests;
