use std::time::Duration;

use super::pool::{Mode, Setup, replay};
use super::report::{Ratio, verdict};
use super::tally::Tally;
use super::trace::{self, HOLD_MS, Kind, Trace};
use super::{kinds, report};

const SEED: u64 = 7001;

fn setup() -> Setup {
    Setup { min: 2, max: 40, room: 80, lifetime: Duration::from_mins(30), connect_ms: 40.0, seed: SEED }
}

fn short(kind: Kind, hours: u64) -> Trace {
    kinds::make(kind, SEED, HOLD_MS, 1.0, Some(hours))
}

fn both(trace: &Trace) -> (Tally, Tally) {
    (replay(trace, Mode::Reactive, setup()), replay(trace, Mode::Predictive, setup()))
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_one_others() {
    let trace = short(Kind::Bursty, 3);
    assert_eq!(trace, short(Kind::Bursty, 3));
    assert_eq!(both(&trace), both(&trace));
    assert_ne!(trace, kinds::make(Kind::Bursty, SEED + 1, HOLD_MS, 1.0, Some(3)));
}

#[test]
fn every_request_is_served_and_a_pool_stays_within_its_limits() {
    for kind in [Kind::Steady, Kind::Bursty, Kind::Cron] {
        let trace = short(kind, 2);
        let counted = trace.requests.iter().filter(|request| request.at >= trace.counted_from * 1_000_000).count();
        for mode in [Mode::Static(40), Mode::Reactive, Mode::Predictive] {
            let tally = replay(&trace, mode, setup());
            assert_eq!(tally.served(), counted, "{} {mode:?}", trace.name);
            let (first, later) = (tally.each_second[0], &tally.each_second[60..]);
            assert!(first <= 40 && later.iter().all(|open| (2..=40).contains(open)), "{} {mode:?}", trace.name);
            if mode == Mode::Static(40) {
                // Sessions that have grown old are replaced, two at once, so that a second may see fewer.
                let full = later.iter().filter(|open| **open == 40).count();
                assert!(full * 100 > later.len() * 98, "static is static: {full} of {}", later.len());
            }
        }
    }
}

/// What demand opened is kept as long as ever, so where a forecast adds nothing both are the same to the microsecond, and where it
/// adds there are more sessions when they are needed.
#[test]
fn predicting_never_has_less_than_demand_keeps() {
    let steady = short(Kind::Steady, 1);
    let (reactive, predictive) = both(&steady);
    assert_eq!(reactive.each_second, predictive.each_second, "nothing to foresee");
    let cron = short(Kind::Cron, 6);
    let (reactive, predictive) = both(&cron);
    // The second in which each job begins, once two hours are known.
    for start in (3 * 3600..6 * 3600).step_by(600) {
        let open = |tally: &Tally| tally.each_second[start];
        assert!(open(&predictive) >= open(&reactive), "at {start} s: {} and {}", open(&predictive), open(&reactive));
    }
    assert!(predictive.outcomes.hits > predictive.outcomes.misses, "{:?}", predictive.outcomes);
    assert!(predictive.mean_wait_ms() < 0.5 * reactive.mean_wait_ms());
    let ratio = verdict(&[Ratio::of(&reactive, &predictive)]);
    assert!(ratio.ends_with("worth it") && !ratio.contains("not worth it"), "{ratio}");
}

#[test]
fn a_pool_of_one_serves_one_after_the_other() {
    let request = |at| trace::Request { at, hold: 100_000 };
    let requests = vec![request(10_000_000), request(10_000_000), request(10_050_000)];
    let trace = Trace { name: "three".to_owned(), about: "", requests, counted_from: 0, length: 20 };
    let tally = replay(&trace, Mode::Static(1), setup());
    let waits = [0.3, 0.6, 1.0].map(|part| format!("{:.0}", tally.wait_ms(part)));
    assert_eq!(waits, ["0", "100", "150"]);
    assert!((tally.mean_wait_ms() - 250.0 / 3.0).abs() < 1e-6);
    assert_eq!((tally.connects(), tally.served()), (1, 3));
    assert!((tally.connection_hours() * 3600.0 - 20.0).abs() < 0.01, "one session for twenty seconds");
}

#[test]
fn a_recorded_trace_is_read_and_its_faults_are_told_by_line() {
    let path = std::env::temp_dir().join(format!("forecast-sim-{}.csv", std::process::id()));
    let read = |text: &str| {
        std::fs::write(&path, text).expect("a temporary file");
        trace::read(&path, SEED, HOLD_MS)
    };
    let trace = read("seconds,count\n100,3\n# a comment\n160,0\n220,5\n").expect("well formed");
    assert_eq!((trace.requests.len(), trace.length), (8, 180));
    assert_eq!(trace.requests.iter().filter(|request| request.at < 60_000_000).count(), 3);
    assert!(read("1,2\nx,3\n").is_err_and(|error| error.contains(":2: `x,3`")));
    assert!(read("5,1\n5,1\n").is_err_and(|error| error.contains("must grow")));
    assert!(read("").is_err_and(|error| error.contains("no lines")));
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn the_report_says_so_where_there_is_nothing_to_cut() {
    let trace = short(Kind::Steady, 1);
    let (reactive, predictive) = both(&trace);
    let mut out = Vec::new();
    let results = [(Mode::Reactive, reactive), (Mode::Predictive, predictive)];
    report::trace(&mut out, &trace, SEED, &results).expect("a vector takes all");
    let text = String::from_utf8(out).expect("text");
    assert!(text.contains("nothing to cut") && text.contains("steady (seed 7001)"), "{text}");
}
