//! How long something usually takes, as far as that is still true.

use std::time::Duration;

use tokio::time::Instant;

/// Before so many nothing is usual yet.
const ENOUGH: u32 = 8;
/// Of the difference, what each new one moves the average by: down sooner than up, since whoever is refused for an average that is too
/// high brings no news of it.
const UP: f64 = 1.0 / 32.0;
const DOWN: f64 = 1.0 / 16.0;
/// One that takes longer than so many counts as that many: an export, or a moment in which the server stood still for all, is no rule.
const OUTLIER: f64 = 8.0;
/// Unit: seconds.
const LEAST_S: f64 = 0.001;
/// What was usual is forgotten after so long without news, or twice as long as it takes.
const FRESH: Duration = Duration::from_secs(10);

/// A moving average that knows its age: after a pause it begins anew, since what comes then may be something else.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usual {
    mean_s: f64,
    count: u32,
    at: Option<Instant>,
}

impl Usual {
    /// One took so long.
    pub fn note(&mut self, took: Duration, now: Instant) {
        let mut took = took.as_secs_f64();
        if self.is_fresh(now) {
            if self.count >= ENOUGH {
                took = took.min(OUTLIER * self.mean_s.max(LEAST_S));
            }
            let step = if took > self.mean_s { UP } else { DOWN };
            self.mean_s += (took - self.mean_s) * step.max(1.0 / f64::from(self.count + 1));
            self.count = self.count.saturating_add(1);
        } else {
            (self.mean_s, self.count) = (took, 1);
        }
        self.at = Some(now);
    }

    /// How long it takes; `None` where that is not known, or not known any more.
    pub fn known(&self, now: Instant) -> Option<Duration> {
        (self.count >= ENOUGH && self.is_fresh(now)).then(|| Duration::from_secs_f64(self.mean_s))
    }

    /// True while there was news of it lately.
    pub fn is_fresh(&self, now: Instant) -> bool {
        let lasts = FRESH.max(Duration::from_secs_f64(2.0 * self.mean_s));
        self.at.is_some_and(|at| now.saturating_duration_since(at) <= lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_usual_at_once_nor_for_ever() {
        let mut usual = Usual::default();
        let ms = Duration::from_millis;
        for _ in 0..ENOUGH - 1 {
            usual.note(ms(20), Instant::now());
            assert_eq!(usual.known(Instant::now()), None);
        }
        usual.note(ms(20), Instant::now());
        assert_eq!(usual.known(Instant::now()), Some(ms(20)));
        for _ in 0..100 {
            usual.note(ms(40), Instant::now());
        }
        let known = usual.known(Instant::now()).expect("it is known");
        assert!(known > ms(39) && known <= ms(40), "{known:?}");
        tokio::time::advance(FRESH + ms(1)).await;
        assert_eq!(usual.known(Instant::now()), None);
        usual.note(ms(1), Instant::now());
        assert_eq!(usual.known(Instant::now()), None, "it begins anew");
    }

    #[test]
    fn a_single_long_one_is_no_rule_and_many_are() {
        let (mut usual, now, minute) = (Usual::default(), Instant::now(), Duration::from_mins(1));
        for _ in 0..100 {
            usual.note(Duration::from_millis(10), now);
        }
        usual.note(minute, now);
        assert!(usual.known(now).is_some_and(|known| known < Duration::from_millis(20)), "{usual:?}");
        for _ in 0..100 {
            usual.note(minute, now);
        }
        assert!(usual.known(now).is_some_and(|known| known > minute / 2), "{usual:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_known_for_longer() {
        let mut usual = Usual::default();
        let long = Duration::from_secs(20);
        for _ in 0..ENOUGH {
            usual.note(long, Instant::now());
        }
        tokio::time::advance(2 * long).await;
        assert_eq!(usual.known(Instant::now()), Some(long));
    }
}
