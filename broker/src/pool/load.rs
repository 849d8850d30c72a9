//! What a request would cost on an endpoint: how many are there, times how long each takes lately.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

/// Half of what is known is forgotten in this time. Unit: seconds.
const HALF_LIFE_S: f64 = 10.0;
/// Before anything is known. Unit: seconds.
const UNKNOWN_S: f64 = 0.001;

/// A moving average that jumps to a peak at once and comes down slowly ("peak EWMA"): a server that begins to be slow is avoided
/// from the first slow answer on. Source: Finagle, "Aperture + P2C".
#[derive(Debug)]
pub struct Load {
    average: Mutex<(f64, Instant)>,
}

impl Load {
    /// Nothing known.
    pub fn new(now: Instant) -> Self {
        Self { average: Mutex::new((UNKNOWN_S, now)) }
    }

    /// Notes how long a session was held.
    pub fn note(&self, took: Duration) {
        let (took, now) = (took.as_secs_f64(), Instant::now());
        let mut average = self.average.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = 0.5_f64.powf((now - average.1).as_secs_f64().max(0.001) / HALF_LIFE_S);
        average.0 = if took > average.0 { took } else { average.0 * kept + took * (1.0 - kept) };
        average.1 = now;
    }

    /// What one more would cost with so many there. Without news the average sinks towards the unknown.
    pub fn cost(&self, in_flight: usize) -> f64 {
        let (average, at) = *self.average.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = 0.5_f64.powf(at.elapsed().as_secs_f64() / HALF_LIFE_S);
        let average = average * kept + UNKNOWN_S * (1.0 - kept);
        #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
        let waiting = (in_flight + 1) as f64;
        waiting * average
    }
}

/// The cheaper of two picked by chance: nearly as good as the cheapest of all, and nobody herds to it.
pub fn power_of_two<'c, T>(rng: &mut impl Rng, candidates: &'c [T], cost: impl Fn(&T) -> f64) -> Option<&'c T> {
    match candidates {
        [] => None,
        [only] => Some(only),
        _ => {
            let one = rng.random_range(0..candidates.len());
            let other = (one + rng.random_range(1..candidates.len())) % candidates.len();
            let (one, other) = (&candidates[one], &candidates[other]);
            Some(if cost(other) < cost(one) { other } else { one })
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let load = Load::new(Instant::now());
        let before = load.cost(0);
        load.note(Duration::from_millis(200));
        assert!((load.cost(0) - 0.2).abs() < 1e-9);
        assert!((load.cost(3) - 0.8).abs() < 1e-9, "each that is there counts");
        tokio::time::advance(Duration::from_secs(10)).await;
        load.note(Duration::from_millis(1));
        assert!((0.09..0.12).contains(&load.cost(0)), "half of it: {}", load.cost(0));
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!((load.cost(0) - before).abs() < 1e-6);
    }

    #[test]
    fn the_dearest_is_never_picked_and_the_others_are() {
        let mut rng = SmallRng::seed_from_u64(3);
        let costs = [5.0, 1.0, 2.0];
        let mut picked = [0; 3];
        for _ in 0..1_000 {
            let index = *power_of_two(&mut rng, &[0, 1, 2], |index| costs[*index]).expect("there are some");
            picked[index] += 1;
        }
        assert_eq!(picked[0], 0, "{picked:?}");
        assert!(picked[1] > picked[2] && picked[2] > 100, "{picked:?}");
    }
}
