//! Replays arrival traces against the pool's own sizing rules and tells what static, reactive and predictive sizing cost.
//!
//! `cargo run --release -p hearth-broker --example forecast_sim -- --help`

mod chance;
mod kinds;
mod pool;
mod report;
mod tally;
#[cfg(test)]
mod tests;
mod trace;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;

use pool::{Mode, Setup, replay};
use report::Ratio;
use tally::Tally;
use trace::{HOLD_MS, Kind, Trace};

/// Would forecasts help your pool? Replays arrivals against the broker's own sizing rules, in simulated time.
///
/// Three ways to size a pool are compared: `static` keeps so many sessions open, `reactive` opens what is wanted now and keeps it
/// for five minutes (`pool.forecast = "off"` or `"shadow"`), `predictive` also opens ahead what is foreseen (`"add"`).
/// Waits are those of requests for a session; connection-hours are what the database pays. The first part of a trace is for
/// learning and is not counted.
///
/// Sessions are leases: short reads go over lanes and need none of their own. Replay what your pool saw: one line for each
/// second (or minute) with the number of requests that needed a lease.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  forecast_sim                                  all four traces, seed 1\n  forecast_sim bursty --repeat 5 --seed 100     one trace, seeds 100 to 104, and the medians\n  forecast_sim --file arrivals.csv --hold-ms 8  your own: lines of `seconds,count`"
)]
struct Arguments {
    /// Traces to make; all four without any.
    #[arg(value_enum)]
    traces: Vec<Kind>,
    /// A recorded trace: lines of `seconds,count`, in place of made ones.
    #[arg(long, conflicts_with = "traces")]
    file: Option<PathBuf>,
    /// What chance begins with: the same seed gives the same figures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: u64,
    /// The length of made traces, in place of their own.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    hours: Option<u64>,
    /// So many times the usual arrivals of made traces: 0.1 for a small tenant.
    #[arg(long, default_value_t = 1.0)]
    load: f64,
    /// `pool.min`.
    #[arg(long, default_value_t = 2)]
    min: usize,
    /// `pool.max`.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max: u16,
    /// What the server has room for.
    #[arg(long, default_value_t = 80)]
    room: usize,
    /// Median time for which a request holds a session.
    #[arg(long, default_value_t = HOLD_MS)]
    hold_ms: f64,
    /// Median time to open a session: TCP, TLS, sign-in.
    #[arg(long, default_value_t = 40.0)]
    connect_ms: f64,
    /// `pool.max_lifetime`, in minutes.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    lifetime_minutes: u64,
}

impl Arguments {
    fn trace(&self, kind: Option<Kind>, seed: u64) -> Result<Trace, String> {
        match (kind, &self.file) {
            (Some(kind), _) => Ok(kinds::make(kind, seed, self.hold_ms, self.load, self.hours)),
            (None, Some(path)) => trace::read(path, seed, self.hold_ms),
            (None, None) => Err("no trace".to_owned()),
        }
    }

    fn setup(&self, seed: u64) -> Setup {
        let max = usize::from(self.max);
        Setup {
            min: self.min.min(max),
            max,
            room: self.room.max(1),
            lifetime: Duration::from_secs(60 * self.lifetime_minutes),
            connect_ms: self.connect_ms,
            seed,
        }
    }

    fn modes(&self) -> Vec<Mode> {
        let max = usize::from(self.max);
        let mut sizes = vec![max.div_ceil(4), max.div_ceil(2), max];
        sizes.dedup();
        sizes.into_iter().map(Mode::Static).chain([Mode::Reactive, Mode::Predictive]).collect()
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "forecast_sim: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), String> {
    let kinds: Vec<Option<Kind>> = match (&arguments.file, &*arguments.traces) {
        (Some(_), _) => vec![None],
        (None, []) => [Kind::Steady, Kind::Daily, Kind::Bursty, Kind::Cron].map(Some).to_vec(),
        (None, chosen) => chosen.iter().copied().map(Some).collect(),
    };
    for kind in kinds {
        let mut ratios = Vec::new();
        let mut name = String::new();
        for seed in arguments.seed..arguments.seed.saturating_add(arguments.repeat) {
            let trace = arguments.trace(kind, seed)?;
            let results = replay_all(&trace, &arguments.modes(), arguments.setup(seed));
            report::trace(out, &trace, seed, &results).map_err(|error| error.to_string())?;
            if let [.., (Mode::Reactive, reactive), (Mode::Predictive, predictive)] = &results[..] {
                ratios.push(Ratio::of(reactive, predictive));
            }
            name = trace.name;
        }
        if ratios.len() > 1 {
            let count = ratios.len();
            writeln!(out, "\n{name}, median of {count} seeds: {}", report::verdict(&ratios))
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Each mode in a thread of its own: they share nothing but the trace.
fn replay_all(trace: &Trace, modes: &[Mode], setup: Setup) -> Vec<(Mode, Tally)> {
    thread::scope(|scope| {
        let running: Vec<_> = modes.iter().map(|mode| (*mode, scope.spawn(|| replay(trace, *mode, setup)))).collect();
        running
            .into_iter()
            .map(|(mode, thread)| (mode, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
            .collect()
    })
}
