//! What a model's mistakes would have cost, and how much headroom they call for.
//!
//! Too little costs callers a wait, too much costs an open session for ten seconds: the pinball loss at a high quantile weighs
//! them. It is taken of the forecast with its headroom, since that is what would be opened, and beside the loss of the simplest
//! model in the same buckets, since only what both foresaw can be compared.

use std::collections::VecDeque;

use super::series::{DAY, HOUR};

/// One session lacking for a bucket costs as much as nine too many.
const QUANTILE: f64 = 0.9;
/// A model with fewer mistakes to its name is not known yet.
const LEAST: usize = 60;

/// One model's record.
#[derive(Debug, Default)]
pub struct Record {
    /// The last hour, the oldest first.
    hour: VecDeque<Mistake>,
    day: Sums,
    noted: usize,
}

#[derive(Debug, Clone, Copy)]
struct Mistake {
    bucket: u64,
    loss: f64,
    simplest: f64,
}

/// Sums that forget: a day ago counts a third.
#[derive(Debug, Default)]
struct Sums {
    loss: f64,
    simplest: f64,
}

impl Record {
    /// Notes what came, what the model had said, what the simplest one had said, and what was open anyway.
    pub fn note(&mut self, bucket: u64, came: f64, said: f64, simplest: f64, held: f64) {
        let (loss, simplest) = (cost(came, said, held), cost(came, simplest, held));
        self.hour.push_back(Mistake { bucket, loss, simplest });
        while self.hour.front().is_some_and(|oldest| oldest.bucket + HOUR as u64 <= bucket) {
            self.hour.pop_front();
        }
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let kept = 1.0 - 1.0 / DAY as f64;
        self.day.loss = self.day.loss * kept + loss;
        self.day.simplest = self.day.simplest * kept + simplest;
        self.noted = self.noted.saturating_add(1);
    }

    /// What its mistakes of the last hour cost a bucket. Unit: sessions.
    pub fn loss(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "an hour of buckets")]
        let count = self.hour.len() as f64;
        (count > 0.0).then(|| self.hour.iter().map(|mistake| mistake.loss).sum::<f64>() / count)
    }

    /// Its losses beside the simplest model's, of the last hour or of the last day, whichever speaks better for it: what comes once
    /// a day is not seen in an hour. `None` while too little is known, and where the simplest was never wrong.
    pub fn ratio(&self) -> Option<f64> {
        if self.noted < LEAST {
            return None;
        }
        let ratio = |loss: f64, simplest: f64| (simplest > 0.0).then(|| loss / simplest);
        let sum = |of: fn(&Mistake) -> f64| self.hour.iter().map(of).sum();
        let hour = ratio(sum(|mistake| mistake.loss), sum(|mistake| mistake.simplest));
        let day = ratio(self.day.loss, self.day.simplest);
        match (hour, day) {
            (Some(hour), Some(day)) => Some(hour.min(day)),
            (hour, day) => hour.or(day),
        }
    }
}

/// The pinball loss of what is beyond `held`.
fn cost(came: f64, said: f64, held: f64) -> f64 {
    let lacked = (came - held).max(0.0) - (said - held).max(0.0);
    if lacked > 0.0 { QUANTILE * lacked } else { (QUANTILE - 1.0) * lacked }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_beyond_the_open_ones_costs_and_too_little_costs_most() {
        let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(near(cost(10.0, 4.0, 0.0), 5.4) && near(cost(4.0, 10.0, 0.0), 0.6));
        assert!(near(cost(10.0, 4.0, 8.0), 1.8), "two were lacking");
        assert!(near(cost(3.0, 7.0, 8.0), 0.0), "all that was said was open anyway");
    }

    #[test]
    fn a_record_needs_time_forgets_after_an_hour_and_remembers_its_day() {
        let mut record = Record::default();
        for bucket in 0..LEAST as u64 {
            assert_eq!(record.ratio(), None);
            record.note(bucket, 10.0, 9.0, 8.0, 5.0);
        }
        assert!(record.ratio().is_some_and(|ratio| (ratio - 0.5).abs() < 1e-9), "half of what the simplest lacks");
        for bucket in 100..100 + HOUR as u64 {
            record.note(bucket, 10.0, 7.0, 8.0, 5.0);
        }
        let (ratio, loss) = (record.ratio().expect("known"), record.loss().expect("known"));
        assert!((1.2..1.5).contains(&ratio) && (loss - 2.7).abs() < 1e-9, "{ratio} {loss}");
        assert_eq!(record.hour.len(), HOUR);
    }
}
