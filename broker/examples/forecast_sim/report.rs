//! The figures as a table, and the verdict.

use std::io::{self, Write};

use super::pool::Mode;
use super::tally::Tally;
use super::trace::Trace;

/// The predictive mode is worth it where it cuts the p99 of waits to this part of the reactive one's …
const WAIT: f64 = 0.85;
/// … for at most so many times its connection-hours.
const HOURS: f64 = 1.05;

/// What one trace came to.
pub fn trace(out: &mut impl Write, trace: &Trace, seed: u64, results: &[(Mode, Tally)]) -> io::Result<()> {
    let (name, about, hours) = (&trace.name, trace.about, (trace.length - trace.counted_from) / 3600);
    let served = results.first().map_or(0, |(_, tally)| tally.served());
    writeln!(out, "\n{name} (seed {seed}): {about}; {served} requests in {hours} h\n")?;
    writeln!(
        out,
        "  {:<12} {:>11} {:>11} {:>13} {:>9} {:>10} {:>12} {:>9}",
        "sizing", "wait p50 ms", "wait p99 ms", "wait p99.9 ms", "mean ms", "waited %", "conn-hours", "connects"
    )?;
    for (mode, tally) in results {
        writeln!(
            out,
            "  {:<12} {:>11.1} {:>11.1} {:>13.1} {:>9.3} {:>10.3} {:>12.2} {:>9}",
            label(*mode),
            tally.wait_ms(0.5),
            tally.wait_ms(0.99),
            tally.wait_ms(0.999),
            tally.mean_wait_ms(),
            tally.waited_percent(),
            tally.connection_hours(),
            tally.connects()
        )?;
    }
    let find = |wanted| results.iter().find(|(mode, _)| *mode == wanted).map(|(_, tally)| tally);
    if let (Some(reactive), Some(predictive)) = (find(Mode::Reactive), find(Mode::Predictive)) {
        let outcomes = predictive.outcomes;
        writeln!(
            out,
            "\n  forecast: {} surges foreseen, {} missed, {} foreseen in vain",
            outcomes.hits, outcomes.misses, outcomes.vain
        )?;
        write!(out, "  mistakes of the last hour:")?;
        for standing in &predictive.standings {
            if let Some(error) = standing.error {
                write!(out, " {} {error:.3}", standing.name.as_str())?;
            }
        }
        writeln!(out, "\n  {}", verdict(&[Ratio::of(reactive, predictive)]))?;
    }
    Ok(())
}

/// Predictive ÷ reactive.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    wait: Option<f64>,
    hours: f64,
    mean: Option<f64>,
}

impl Ratio {
    pub fn of(reactive: &Tally, predictive: &Tally) -> Self {
        let part = |of: f64, whole: f64| (whole > 0.0).then(|| of / whole);
        Self {
            wait: part(predictive.wait_ms(0.99), reactive.wait_ms(0.99)),
            mean: part(predictive.mean_wait_ms(), reactive.mean_wait_ms()),
            hours: predictive.connection_hours() / reactive.connection_hours(),
        }
    }
}

/// One line on what predicting is worth, by the median of some ratios.
pub fn verdict(ratios: &[Ratio]) -> String {
    let hours = median(ratios.iter().map(|ratio| ratio.hours)).unwrap_or(1.0);
    let mean = median(ratios.iter().filter_map(|ratio| ratio.mean));
    let mean = mean.map_or_else(|| "none waited".to_owned(), |mean| format!("mean wait {mean:.2} ×"));
    // Where reactive sizing already has nobody wait at p99 there is nothing to cut.
    let waits: Vec<f64> = ratios.iter().filter_map(|ratio| ratio.wait).collect();
    let Some(wait) = median(waits.iter().copied()).filter(|_| 2 * waits.len() > ratios.len()) else {
        return format!(
            "predictive ÷ reactive: wait p99 is 0 ms in both, {mean}, connection-hours {hours:.3} × — nothing to cut"
        );
    };
    let holds = wait <= WAIT && hours <= HOURS;
    format!(
        "predictive ÷ reactive: wait p99 {wait:.2} ×, {mean}, connection-hours {hours:.3} × — {}",
        if holds { "worth it" } else { "not worth it (wants at most 0.85 × and 1.05 ×)" }
    )
}

pub fn label(mode: Mode) -> String {
    match mode {
        Mode::Static(size) => format!("static {size}"),
        Mode::Reactive => "reactive".to_owned(),
        Mode::Predictive => "predictive".to_owned(),
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
