//! Forecasts of demand beside what came: by model, and how often they were of use.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Counters, family};

type Labels = Vec<(&'static str, String)>;
type Reals = Family<Labels, Gauge<f64, AtomicU64>>;

/// The families of forecasts.
pub(super) struct Forecasts {
    predicted: Reals,
    error: Reals,
    outcomes: Counters<Labels>,
}

/// What is read off a forecast at the moment of a scrape.
pub struct ForecastReading<'r> {
    /// Each model's word, what it says, and what its mistakes cost.
    pub models: &'r [(&'static str, Option<f64>, Option<f64>)],
    /// How many buckets turned out how, since the pool began.
    pub outcomes: &'r [(&'static str, u64)],
}

impl Forecasts {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            predicted: family(r, "demand_predicted", "Sessions that the next ten seconds will want, by model"),
            error: family(
                r,
                "forecast_error",
                "What a model's mistakes of the last hour cost a bucket. Unit: sessions",
            ),
            outcomes: family(
                r,
                "forecast_surges",
                "Buckets that wanted more than was open: foreseen (`hit`) or not (`miss`); or were foreseen to (`vain`)",
            ),
        }
    }

    pub(super) fn set(&self, base: &Labels, reading: &ForecastReading<'_>) {
        let with = |key, value: &str| base.iter().cloned().chain([(key, value.to_owned())]).collect::<Labels>();
        for (model, predicted, error) in reading.models {
            let labels = with("model", model);
            if let Some(predicted) = predicted {
                self.predicted.get_or_create(&labels).set(*predicted);
            }
            if let Some(error) = error {
                self.error.get_or_create(&labels).set(*error);
            }
        }
        for (outcome, count) in reading.outcomes {
            // The forecast counts; what is new since the last scrape is added.
            let counter = self.outcomes.get_or_create_owned(&with("outcome", outcome));
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}
