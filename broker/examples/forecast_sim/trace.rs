//! Arrival traces: when requests come, and for how long each holds a session. Seeded: the same seed gives the same trace.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::chance::Chance;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Unit: microseconds since the trace began.
    pub at: u64,
    /// Unit: microseconds.
    pub hold: u32,
}

/// Requests in the order they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub name: String,
    pub about: &'static str,
    pub requests: Vec<Request>,
    /// When counting begins: before, the forecast learns. Unit: seconds.
    pub counted_from: u64,
    /// Unit: seconds.
    pub length: u64,
}

/// The traces that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// 50 requests a second, independent of each other.
    Steady,
    /// Three days of an application in use by day, with four jobs at fixed times; the last two days count.
    Daily,
    /// Queues that fill at random times, drained by workers that are added one after the other.
    Bursty,
    /// Scheduled jobs: 20 tasks each ten minutes, 35 on the hour, over little else.
    Cron,
}

pub const HOUR: u64 = 3600;
pub const DAY: u64 = 24 * HOUR;

/// A session is held for 20 ms in the middle, 33 on average, 205 by one of a hundred: transactions, batches and writes. Short
/// reads go over lanes and are not in here.
pub const HOLD_MS: f64 = 20.0;
const HOLD_SPREAD: f64 = 1.0;

/// A trace in the making.
pub struct Maker {
    pub chance: Chance,
    hold_ms: f64,
    requests: Vec<Request>,
}

impl Maker {
    pub fn new(seed: u64, hold_ms: f64) -> Self {
        Self { chance: Chance(SmallRng::seed_from_u64(seed)), hold_ms, requests: Vec::new() }
    }

    /// A request at `seconds`; answers for how long it holds its session. Unit: seconds.
    pub fn request(&mut self, seconds: f64) -> f64 {
        let hold = (self.chance.log_normal(self.hold_ms, HOLD_SPREAD) * 1e3).clamp(200.0, 3e7);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "microseconds of days, and of 30 s"
        )]
        self.requests.push(Request { at: (seconds.max(0.0) * 1e6) as u64, hold: hold as u32 });
        hold / 1e6
    }

    /// A task: some requests one after the other, with a pause between them. Unit: seconds.
    pub fn task(&mut self, mut seconds: f64, requests: u32, pause: f64) {
        for _ in 0..requests {
            seconds += self.request(seconds) + self.chance.exponential(pause);
        }
    }

    /// Requests independent of each other from `from` to `to`, at a rate that changes with time. Unit: seconds, 1 ÷ seconds.
    pub fn poisson(&mut self, from: f64, to: f64, highest: f64, rate: impl Fn(f64) -> f64) {
        if highest <= 0.0 {
            return;
        }
        let mut seconds = from;
        loop {
            seconds += self.chance.exponential(1.0 / highest);
            if seconds >= to {
                return;
            }
            if self.chance.uniform() * highest < rate(seconds) {
                self.request(seconds);
            }
        }
    }

    pub fn done(mut self, name: &str, about: &'static str, counted_from: u64, length: u64) -> Trace {
        self.requests.retain(|request| request.at < length * 1_000_000);
        self.requests.sort_by_key(|request| (request.at, request.hold));
        Trace { name: name.to_owned(), about, requests: self.requests, counted_from, length }
    }
}

/// A recorded trace: lines of `seconds,count`, so many requests from that second to the next line's, at random.
pub fn read(path: &Path, seed: u64, hold_ms: f64) -> Result<Trace, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut lines: Vec<(u64, u64)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || (number == 0 && line.starts_with("seconds")) {
            continue;
        }
        let wrong = || format!("{}:{}: `{line}` is not `seconds,count`", path.display(), number + 1);
        let (seconds, count) = line.split_once(',').ok_or_else(wrong)?;
        let seconds = seconds.trim().parse().map_err(|_| wrong())?;
        if lines.last().is_some_and(|(last, _)| *last >= seconds) {
            return Err(format!("{}:{}: the seconds must grow from line to line", path.display(), number + 1));
        }
        lines.push((seconds, count.trim().parse().map_err(|_| wrong())?));
    }
    let (&(first, _), &(last, _)) = lines.first().zip(lines.last()).ok_or(format!("{}: no lines", path.display()))?;
    let step = if let [.., before, _] = lines[..] { last - before.0 } else { 1 };
    let ends = lines.iter().skip(1).map(|(seconds, _)| *seconds).chain([last + step]);
    let mut maker = Maker::new(seed, hold_ms);
    for ((seconds, count), end) in lines.iter().zip(ends) {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a few years")]
        let (from, span) = ((seconds - first) as f64, (end - seconds) as f64);
        for _ in 0..*count {
            let at = from + span * maker.chance.uniform();
            maker.request(at);
        }
    }
    let length = last + step - first;
    let name = path.file_stem().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(maker.done(&name, "recorded; the first quarter is for learning", length / 4, length))
}
