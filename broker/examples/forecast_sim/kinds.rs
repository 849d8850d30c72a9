//! The four kinds of traces. They were written down before the forecast was tried on any, and no number in here was fitted to it.

use super::chance::Chance;
use super::trace::{DAY, HOUR, Kind, Maker, Trace};

/// Makes one. `load` times the usual number of arrivals; `hours` in place of its own length.
pub fn make(kind: Kind, seed: u64, hold_ms: f64, load: f64, hours: Option<u64>) -> Trace {
    let maker = Maker::new(seed, hold_ms);
    let (from, default) = match kind {
        Kind::Steady | Kind::Bursty => (HOUR, 12 * HOUR),
        Kind::Daily => (DAY, 3 * DAY),
        Kind::Cron => (2 * HOUR, 12 * HOUR),
    };
    let length = hours.map_or(default, |hours| hours * HOUR);
    let from = from.min(length / 3);
    match kind {
        Kind::Steady => steady(maker, load, from, length),
        Kind::Daily => daily(maker, load, from, length),
        Kind::Bursty => bursty(maker, load, from, length),
        Kind::Cron => cron(maker, load, from, length),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of days")]
fn real(seconds: u64) -> f64 {
    seconds as f64
}

fn steady(mut maker: Maker, load: f64, from: u64, length: u64) -> Trace {
    maker.poisson(0.0, real(length), 50.0 * load, |_| 50.0 * load);
    maker.done("steady", "50 requests a second", from, length)
}

/// Page loads follow the day, from 0.05 a second at night to 2 by day, each day a little different and each minute too; each loads
/// one to a dozen things at once. Four jobs at fixed times of the day fan out to 30 tasks of 5 requests.
fn daily(mut maker: Maker, load: f64, from: u64, length: u64) -> Trace {
    let mut minute = 0;
    let mut today = 1.0;
    while minute * 60 < length {
        let start = real(minute * 60);
        if minute.is_multiple_of(24 * 60) {
            today = maker.chance.log_normal(1.0, 0.1);
        }
        let rate = load * 2.0 * use_of(start % real(DAY) / real(HOUR)) * today * maker.chance.log_normal(1.0, 0.25);
        let mut at = start + maker.chance.exponential(1.0 / rate);
        while at < start + 60.0 {
            for _ in 0..geometric(&mut maker.chance, 4.0).min(12) {
                let offset = maker.chance.exponential(0.05);
                maker.request(at + offset);
            }
            at += maker.chance.exponential(1.0 / rate);
        }
        minute += 1;
    }
    for day in 0..length.div_ceil(DAY) {
        for hour in [1.5, 6.0, 12.0, 18.25] {
            fan_out(&mut maker, real(day * DAY) + hour * real(HOUR), 30, 5);
        }
    }
    maker.done("daily", "page loads by day, four jobs at fixed times", from, length)
}

/// How busy a day is at an hour, between 0.025 and 1: people come at eight, go to lunch, leave at five, and some work late.
fn use_of(hour: f64) -> f64 {
    let knots = [
        (0.0, 0.05),
        (5.0, 0.025),
        (7.0, 0.1),
        (9.0, 0.9),
        (11.0, 1.0),
        (12.5, 0.65),
        (14.0, 1.0),
        (17.0, 0.8),
        (19.0, 0.3),
        (22.0, 0.15),
        (24.0, 0.05),
    ];
    let at = knots.windows(2).find(|pair| hour < pair[1].0);
    at.map_or(0.05, |pair| pair[0].1 + (pair[1].1 - pair[0].1) * (hour - pair[0].0) / (pair[1].0 - pair[0].0))
}

/// Two requests a second, and a burst about every twelve minutes at a time nobody knows: its workers are added over 20 to 60
/// seconds, as a queue's consumers are, work at full speed for about a minute, and stop.
fn bursty(mut maker: Maker, load: f64, from: u64, length: u64) -> Trace {
    maker.poisson(0.0, real(length), 2.0 * load, |_| 2.0 * load);
    let mut start = maker.chance.exponential(720.0);
    while start < real(length) {
        let busy = maker.chance.log_normal(12.0, 0.5).clamp(4.0, 32.0);
        let (ramp, flat) = (20.0 + 40.0 * maker.chance.uniform(), maker.chance.exponential(60.0).min(300.0));
        // So many requests a second keep `busy` sessions busy: one holds a session for 33 ms on average.
        let highest = load * busy / 0.033;
        let end = start + ramp + flat;
        maker.poisson(start, end, highest, |at| highest * ((at - start) / ramp).min(1.0));
        start = end + maker.chance.exponential(720.0);
    }
    maker.done("bursty", "bursts of about two minutes at random times", from, length)
}

fn cron(mut maker: Maker, load: f64, from: u64, length: u64) -> Trace {
    maker.poisson(0.0, real(length), load, |_| load);
    let mut at = 0;
    while at < length {
        let tasks = if at.is_multiple_of(HOUR) { 35 } else { 20 };
        fan_out(&mut maker, real(at), tasks, 3);
        at += 600;
    }
    maker.done("cron", "20 tasks each ten minutes, 35 on the hour", from, length)
}

/// A scheduler starts tasks within about a second, a little after the appointed time.
fn fan_out(maker: &mut Maker, at: f64, tasks: u32, requests: u32) {
    let late = 0.2 + maker.chance.exponential(0.5);
    for _ in 0..tasks {
        let start = at + late + maker.chance.exponential(0.3);
        maker.task(start, requests, 0.05);
    }
}

/// At least one, `mean` on average.
fn geometric(chance: &mut Chance, mean: f64) -> u32 {
    let mut count = 1;
    while chance.uniform() > 1.0 / mean {
        count += 1;
    }
    count
}
