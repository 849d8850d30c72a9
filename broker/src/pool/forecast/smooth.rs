//! Exponential smoothing, by a library: where a rise of a few buckets leads.

use augurs_core::Predict;
use augurs_ets::model::{ErrorComponent, ModelType, SeasonalComponent, TrendComponent, Unfit};

use super::model::{Model, ModelName};
use super::series::{MINUTE, Series};

/// What is fitted: three minutes of buckets, since a rise that matters is shorter.
const WINDOW: usize = 3 * MINUTE;
/// Fewer say nothing.
const LEAST: usize = 2 * MINUTE;
/// The search for the best weights ends after so many steps: a fit takes well under a millisecond.
const STEPS: usize = 120;

/// Of ten buckets eight lie between its bounds, and nine below the upper one, which is what it says: too little costs more.
const BETWEEN: f64 = 0.8;

/// A level and a damped trend (`ETS(A, Ad, N)`).
#[derive(Debug)]
pub(super) struct Smooth;

impl Model for Smooth {
    fn name(&self) -> ModelName {
        ModelName::Smooth
    }

    fn next(&mut self, series: &Series) -> Option<f64> {
        let marks: Vec<f64> = series.last(WINDOW).map(f64::from).collect();
        let newest = *marks.last().filter(|_| marks.len() >= LEAST)?;
        // A search over what never moved finds nothing to tell weights apart by.
        if marks.iter().all(|mark| (mark - newest).abs() < 0.5) {
            return Some(newest);
        }
        let shape = ModelType {
            error: ErrorComponent::Additive,
            trend: TrendComponent::Additive,
            season: SeasonalComponent::None,
        };
        let fitted = Unfit::new(shape).damped(true).max_iterations(STEPS).fit(&marks).ok()?;
        let said = fitted.predict(1, Some(BETWEEN)).ok()?;
        said.intervals.as_ref()?.upper.first().copied().filter(|said| said.is_finite())
    }
}
