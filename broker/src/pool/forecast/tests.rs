use super::model::ModelName;
use super::*;

/// A pool that opens what is wanted and keeps it; each bucket has its mark, seen at every second of it.
fn run(forecast: &mut Forecast, buckets: std::ops::Range<u64>, mark: impl Fn(u64) -> usize) -> Vec<usize> {
    let mut wanted = Vec::new();
    for bucket in buckets {
        for second in 0..10 {
            let seen = Seen {
                since: Duration::from_secs(1),
                served: 0,
                hold: Duration::ZERO,
                open: 2,
                added: 0,
                lent: 0,
                waiting: 0,
            };
            let (closed, open) = ((bucket - 1, mark(bucket - 1)), (bucket, mark(bucket)));
            if forecast.note(seen, closed, open, Duration::from_secs(10 - second)) {
                assert_eq!(10 - second, LEAD.as_secs(), "once a bucket, shortly before its end");
                forecast.foresee();
            }
            if second == 0 {
                wanted.push(forecast.wanted());
            }
        }
    }
    wanted
}

/// Twenty at once in one bucket of each hour.
fn hourly(bucket: u64) -> usize {
    if bucket % HOUR as u64 == 100 { 20 } else { 1 }
}

#[test]
fn a_spike_each_hour_is_foreseen_from_the_third_on_and_for_its_bucket_alone() {
    let mut forecast = Forecast::default();
    let hours = HOUR as u64;
    let wanted = run(&mut forecast, 1..4 * hours, hourly);
    // The first is news, the second shows that it was right, the third is believed.
    let foreseen: Vec<u64> =
        (1..4 * hours).zip(&wanted).filter(|(_, wanted)| **wanted >= 20).map(|(at, _)| at).collect();
    assert_eq!(foreseen, [2 * hours + 100, 3 * hours + 100]);
    let outcomes = forecast.outcomes();
    assert_eq!((outcomes.hits, outcomes.misses), (2, 2), "{outcomes:?}");
    assert_eq!(outcomes.vain, 0, "the bucket behind a spike is not taken for one");
    let best =
        forecast.standings().min_by(|one, other| one.error.unwrap_or(9.0).total_cmp(&other.error.unwrap_or(9.0)));
    assert_eq!(best.map(|standing| standing.name), Some(ModelName::Hour));
}

#[test]
fn what_the_simplest_knows_as_well_opens_nothing() {
    let mut forecast = Forecast::default();
    let wanted = run(&mut forecast, 1..2000, |_| 7);
    assert!(wanted.iter().all(|wanted| *wanted == 0), "nobody is better than who is never wrong");
    assert_eq!(forecast.latest().and_then(|latest| latest.by), None);
}

#[test]
fn the_same_marks_give_the_same_forecasts_and_a_stall_does_no_harm() {
    let odd = |bucket: u64| usize::try_from(bucket * 7919 % 13).expect("small");
    let once = || {
        let mut forecast = Forecast::default();
        let mut wanted = run(&mut forecast, 1..500, odd);
        // The machine slept for an hour.
        wanted.extend(run(&mut forecast, 900..1400, odd));
        (wanted, forecast.outcomes())
    };
    assert_eq!(once(), once());
}
