//! Who may foresee: each model says what the bucket after the newest one will want.

use super::series::{DAY, HOUR, MINUTE, Series, WEEK};
use super::smooth::Smooth;

/// A model of demand.
pub trait Model: std::fmt::Debug + Send {
    /// Its name.
    fn name(&self) -> ModelName;
    /// What the bucket after the newest will want; `None` where it cannot say.
    fn next(&mut self, series: &Series) -> Option<f64>;
}

/// A model's name: a closed set, for logs, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelName {
    /// As the newest bucket.
    LastValue,
    /// Along a straight line through the last five minutes.
    Line,
    /// As a minute ago.
    Minute,
    /// As an hour ago.
    Hour,
    /// As a day ago.
    Day,
    /// As a week ago.
    Week,
    /// Exponential smoothing with a damped trend.
    Smooth,
}

impl ModelName {
    /// The name as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LastValue => "last_value",
            Self::Line => "line",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Smooth => "smooth",
        }
    }
}

/// Every model, the simplest first: the others are held against it.
pub fn all() -> Vec<Box<dyn Model>> {
    let seasonal = |name, period| Box::new(Seasonal { name, period }) as Box<dyn Model>;
    vec![
        Box::new(LastValue),
        Box::new(Line),
        seasonal(ModelName::Minute, MINUTE),
        seasonal(ModelName::Hour, HOUR),
        seasonal(ModelName::Day, DAY),
        seasonal(ModelName::Week, WEEK),
        Box::new(Smooth),
    ]
}

/// What was wanted last is wanted again.
#[derive(Debug)]
struct LastValue;

impl Model for LastValue {
    fn name(&self) -> ModelName {
        ModelName::LastValue
    }

    fn next(&mut self, series: &Series) -> Option<f64> {
        series.ago(0)
    }
}

/// Least squares over the last five minutes, where a line explains more than half of what moved there.
#[derive(Debug)]
struct Line;

/// Five minutes. Unit: buckets.
const LINE: usize = 5 * MINUTE;
/// The coefficient of determination from which on a line counts as one.
const STRAIGHT: f64 = 0.5;

impl Model for Line {
    fn name(&self) -> ModelName {
        ModelName::Line
    }

    fn next(&mut self, series: &Series) -> Option<f64> {
        let marks = series.last(LINE);
        if marks.len() < LINE {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "thirty")]
        let count = LINE as f64;
        let middle = (count - 1.0) / 2.0;
        let (mut sum, mut squares, mut with_time) = (0.0, 0.0, 0.0);
        let mut time = -middle;
        for mark in marks.map(f64::from) {
            sum += mark;
            squares += mark * mark;
            with_time += time * mark;
            time += 1.0;
        }
        let mean = sum / count;
        let (moved, spread) = (squares - count * mean * mean, count * (count * count - 1.0) / 12.0);
        let slope = with_time / spread;
        let explained = slope * slope * spread;
        // `time` is one past the newest by now.
        (moved > 0.0 && explained > STRAIGHT * moved).then_some(mean + slope * time)
    }
}

/// As one season ago, and as much more or less as it is more or less now.
#[derive(Debug)]
struct Seasonal {
    name: ModelName,
    period: usize,
}

/// The offset from a season ago is that of the last minute.
const OFFSET: usize = MINUTE;

impl Model for Seasonal {
    fn name(&self) -> ModelName {
        self.name
    }

    fn next(&mut self, series: &Series) -> Option<f64> {
        let then = series.ago(self.period - 1)?;
        let mut offset = 0.0;
        for ago in 0..OFFSET {
            offset += series.ago(ago)? - series.ago(ago + self.period)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "six")]
        let offset = offset / OFFSET as f64;
        Some(then + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(marks: impl IntoIterator<Item = usize>) -> Series {
        let mut series = Series::new(WEEK);
        for (mark, bucket) in marks.into_iter().zip(1..) {
            series.note(bucket, mark);
        }
        series
    }

    fn near(one: Option<f64>, other: f64) -> bool {
        one.is_some_and(|one| (one - other).abs() < 0.01)
    }

    #[test]
    fn a_line_is_followed_only_where_there_is_one() {
        assert!(near(Line.next(&series((0..40).map(|bucket| 3 + bucket))), 43.0));
        assert!(near(Line.next(&series((0..40).map(|bucket| 100 - 2 * bucket))), 20.0));
        assert_eq!(Line.next(&series((0..40).map(|bucket| bucket % 2 * 10))), None, "up and down is no line");
        assert_eq!(Line.next(&series([5; 40])), None, "nothing moves");
        assert_eq!(Line.next(&series(0..20)), None, "too short");
    }

    #[test]
    fn a_season_comes_again_with_the_offset_of_now() {
        let spike = |bucket: usize| if bucket % HOUR == 100 { 20 } else { 2 };
        let mut hourly = Seasonal { name: ModelName::Hour, period: HOUR };
        assert!(near(hourly.next(&series((0..HOUR + 100).map(spike))), 20.0));
        assert!(near(hourly.next(&series((0..HOUR + 101).map(spike))), 2.0 + 0.0));
        let busier = (0..HOUR + 100).map(|bucket| spike(bucket) + if bucket > HOUR { 3 } else { 0 });
        assert!(near(hourly.next(&series(busier)), 23.0));
        assert_eq!(hourly.next(&series([2; HOUR])), None, "there was no such hour yet");
    }

    #[test]
    fn smoothing_sees_where_a_ramp_leads_and_keeps_what_is_level() {
        let ramp = (0..40_usize).map(|bucket| 2 + bucket.saturating_sub(33) * 6);
        let said = Smooth.next(&series(ramp)).expect("long enough");
        assert!((39.0..50.0).contains(&said), "{said}");
        assert!(near(Smooth.next(&series([4; 40])), 4.0));
        assert_eq!(Smooth.next(&series([4; 5])), None, "too short");
    }

    #[test]
    fn names_are_a_closed_set_without_doubles() {
        let names: std::collections::HashSet<&str> = all().iter().map(|model| model.name().as_str()).collect();
        assert_eq!(names.len(), all().len());
        assert_eq!(all()[0].name(), ModelName::LastValue, "the others are held against it");
    }
}
