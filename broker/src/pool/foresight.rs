//! An endpoint's forecast at work: fed by the sweep, worked out off the request's way, heeded only where the configuration says so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::forecast::Forecast;
use super::forecast::need::Seen;
use super::ledger::State;
use crate::config::ForecastMode;

/// One endpoint's forecast.
#[derive(Debug)]
pub(super) struct Foresight {
    mode: ForecastMode,
    /// The sweep, the task that foresees, and who looks at it take turns; no request does.
    forecast: Arc<Mutex<Forecast>>,
    /// Sessions foreseen for now and soon.
    wanted: AtomicUsize,
    /// Open sessions that only a forecast asked for.
    added: AtomicUsize,
    /// The last sweep.
    fed: Mutex<Instant>,
}

impl Foresight {
    /// Nothing seen yet.
    pub(super) fn new(mode: ForecastMode, now: Instant) -> Self {
        Self {
            mode,
            forecast: Arc::default(),
            wanted: AtomicUsize::new(0),
            added: AtomicUsize::new(0),
            fed: Mutex::new(now),
        }
    }

    pub(super) fn forecast(&self) -> MutexGuard<'_, Forecast> {
        lock(&self.forecast)
    }

    /// What it asks to be open: nothing while it is in the shadow.
    pub(super) fn wanted(&self) -> usize {
        if self.mode == ForecastMode::Add { self.wanted.load(Ordering::Acquire) } else { 0 }
    }

    pub(super) fn added(&self) -> usize {
        self.added.load(Ordering::Acquire)
    }

    /// A session was opened that nobody waited for and the minimum does not ask for.
    pub(super) fn note_added(&self) {
        if self.mode == ForecastMode::Add {
            self.added.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// So many of them were closed again, and there are `total` sessions at all.
    pub(super) fn note_gone(&self, gone: usize, total: usize) {
        let _ = self
            .added
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |added| Some(added.saturating_sub(gone).min(total)));
    }
}

fn lock(forecast: &Mutex<Forecast>) -> MutexGuard<'_, Forecast> {
    forecast.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// One step of the sweep: shows the forecast what is wanted, and lets it foresee the next bucket in a task of its own.
    pub(super) async fn look_ahead(&self) {
        let foresight = &self.foresight;
        if foresight.mode == ForecastMode::Off {
            return;
        }
        let now = Instant::now();
        let (served, hold) = self.service.served();
        let lent = self.ledger.count(State::Lent) + self.ledger.count(State::Lane);
        let since = now - std::mem::replace(&mut *foresight.fed.lock().unwrap_or_else(PoisonError::into_inner), now);
        let seen = Seen {
            since,
            served,
            hold,
            open: self.ledger.open(),
            added: foresight.added(),
            lent,
            waiting: self.in_use().saturating_sub(lent),
        };
        let is_time =
            foresight.forecast().note(seen, self.demand.closed(now), self.demand.open(now), self.demand.left(now));
        if is_time {
            let forecast = Arc::clone(&foresight.forecast);
            // Its end is near: the library's search is bounded. Were it to panic, nothing is foreseen.
            if let Err(error) = tokio::task::spawn_blocking(move || lock(&forecast).foresee()).await {
                tracing::error!(backend.name = %self.backend, error = %error, "demand of `{}` could not be foreseen", self.backend);
            }
        }
        foresight.wanted.store(foresight.forecast().wanted(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_it_may_add_does_a_forecast_ask_for_sessions_or_count_as_having_opened_one() {
        let foresight = |mode| {
            let foresight = Foresight::new(mode, Instant::now());
            foresight.wanted.store(9, Ordering::Release);
            (0..3).for_each(|_| foresight.note_added());
            foresight
        };
        for mode in [ForecastMode::Shadow, ForecastMode::Off] {
            assert_eq!((foresight(mode).wanted(), foresight(mode).added()), (0, 0), "{mode:?}");
        }
        let adding = foresight(ForecastMode::Add);
        assert_eq!((adding.wanted(), adding.added()), (9, 3));
        adding.note_gone(1, 9);
        assert_eq!(adding.added(), 2);
        adding.note_gone(0, 1);
        assert_eq!(adding.added(), 1, "others went, for their age or because they broke: what is left is fewer");
        adding.note_gone(5, 9);
        assert_eq!(adding.added(), 0);
    }
}
