//! What came of a replay: waits, connection-hours, connects.

use hearth_broker::pool::forecast::{Forecast, Outcomes, Standing};

/// The figures of one replay, from the moment on that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    from: u64,
    /// Waits of those who waited. Unit: microseconds.
    waits: Vec<u32>,
    served: usize,
    connects: usize,
    changed: u64,
    open: usize,
    /// Unit: connections × microseconds.
    open_time: u128,
    /// Open sessions at each second, from the beginning.
    pub each_second: Vec<u16>,
    pub outcomes: Outcomes,
    pub standings: Vec<Standing>,
}

impl Tally {
    pub fn new(from: u64, seconds: u64) -> Self {
        Self {
            from,
            waits: Vec::new(),
            served: 0,
            connects: 0,
            changed: 0,
            open: 0,
            open_time: 0,
            each_second: Vec::with_capacity(usize::try_from(seconds).unwrap_or(0) + 1),
            outcomes: Outcomes::default(),
            standings: Vec::new(),
        }
    }

    /// A request that came at `since` waited for so long. Unit: microseconds.
    pub fn waited(&mut self, since: u64, waited: u64) {
        if since < self.from {
            return;
        }
        self.served += 1;
        if waited > 0 {
            self.waits.push(u32::try_from(waited).unwrap_or(u32::MAX));
        }
    }

    /// From now on so many are open or being opened.
    pub fn open(&mut self, now: u64, open: usize) {
        let since = self.changed.max(self.from);
        self.open_time += u128::from(now.saturating_sub(since)) * self.open as u128;
        (self.changed, self.open) = (now, open);
    }

    pub fn connected(&mut self, now: u64) {
        self.connects += usize::from(now >= self.from);
    }

    pub fn second(&mut self, now: u64, open: usize) {
        self.open(now, open);
        self.each_second.push(u16::try_from(open).unwrap_or(u16::MAX));
    }

    pub fn finish(&mut self, end: u64, forecast: Option<&Forecast>) {
        self.open(end, self.open);
        self.waits.sort_unstable();
        if let Some(forecast) = forecast {
            self.outcomes = forecast.outcomes();
            self.standings = forecast.standings().collect();
        }
    }

    /// The wait that a part of all requests does not exceed. Unit: milliseconds.
    pub fn wait_ms(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "counts of requests"
        )]
        let rank = ((self.served as f64 * part).ceil() as usize).max(1) - 1;
        let place = rank.checked_sub(self.served - self.waits.len());
        place.and_then(|place| self.waits.get(place)).map_or(0.0, |wait| f64::from(*wait) / 1e3)
    }

    /// The average wait. Unit: milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    pub fn mean_wait_ms(&self) -> f64 {
        let sum: u64 = self.waits.iter().copied().map(u64::from).sum();
        sum as f64 / 1e3 / self.served.max(1) as f64
    }

    /// How many of a hundred waited.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    pub fn waited_percent(&self) -> f64 {
        100.0 * self.waits.len() as f64 / self.served.max(1) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of days")]
    pub fn connection_hours(&self) -> f64 {
        self.open_time as f64 / 3.6e9
    }

    pub fn connects(&self) -> usize {
        self.connects
    }

    pub fn served(&self) -> usize {
        self.served
    }
}
