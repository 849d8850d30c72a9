//! When to try again, and when to stop: full jitter between tries, the server's own word as a floor, the deadline as
//! the end.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// The clock deadlines are kept in: tokio's, or the host's in a Worker or a page. A `std::time::Instant` converts into
/// tokio's.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
pub type Instant = tokio::time::Instant;
/// The clock deadlines are kept in: tokio's, or the host's in a Worker or a page.
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
pub type Instant = web_time::Instant;

/// The first pause lies between zero and this; each later bound is twice as far. One warm round trip takes about a
/// millisecond, so 50 ms lets a burst spread out, and the first retry still feels immediate.
const BASE: Duration = Duration::from_millis(50);
/// No bound lies further: a function's whole life is often a few seconds.
const CAP: Duration = Duration::from_secs(2);

/// The pauses of one call.
#[derive(Debug)]
pub(crate) struct Schedule {
    retries_left: u32,
    bound: Duration,
    rng: fastrand::Rng,
}

impl Schedule {
    pub(crate) fn new(max_retries: u32, rng: fastrand::Rng) -> Self {
        Self { retries_left: max_retries, bound: BASE, rng }
    }

    /// Takes one retry and gives the pause before it; `None` where the retries are used up, or where the pause would
    /// reach the deadline: better the error now than the same error late.
    pub(crate) fn next_pause(&mut self, floor: Option<Duration>, left: Duration) -> Option<Duration> {
        self.retries_left = self.retries_left.checked_sub(1)?;
        let bound_us = u64::try_from(self.bound.as_micros()).expect("the bound never passes the cap");
        let jittered = Duration::from_micros(self.rng.u64(0..=bound_us));
        self.bound = CAP.min(self.bound * 2);
        let pause = jittered.max(floor.unwrap_or_default());
        (pause < left).then_some(pause)
    }
}

/// What is left of `deadline`; zero once it has passed.
pub(crate) fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// A generator no two processes share.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
pub(crate) fn rng() -> fastrand::Rng {
    fastrand::Rng::new()
}

/// A generator no two isolates share: fastrand alone would start each from the same constant here.
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
pub(crate) fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(js_sys::Math::random().to_bits())
}

#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
pub(crate) async fn sleep(pause: Duration) {
    tokio::time::sleep(pause).await;
}

/// The host's `setTimeout` as a future. A host without one gives no pause; the number of retries still bounds the call.
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
pub(crate) async fn sleep(pause: Duration) {
    let mut timer = Timer(js_sys::wasm_bindgen::JsValue::UNDEFINED);
    let mut start_timer = |resolve: js_sys::Function, _reject: js_sys::Function| {
        let pause_ms = (pause.as_secs_f64() * 1000.0).into();
        match host_function("setTimeout").and_then(|start| start.call2(&js_sys::global(), &resolve, &pause_ms)) {
            Ok(id) => timer.0 = id,
            Err(_) => {
                // A promise that is already settled ignores what this returns.
                let _ = resolve.call0(&js_sys::global());
            }
        }
    };
    let promise = js_sys::Promise::new(&mut start_timer);
    // A promise made here is only ever resolved, and with nothing.
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}

/// A host's timer. Dropping it stops it: one left behind keeps some hosts awake.
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
struct Timer(js_sys::wasm_bindgen::JsValue);

#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
impl Drop for Timer {
    fn drop(&mut self) {
        // A timer that has rung, or was never set, is no error to the host.
        let _ = host_function("clearTimeout").and_then(|stop| stop.call1(&js_sys::global(), &self.0));
    }
}

#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
fn host_function(name: &str) -> Result<js_sys::Function, js_sys::wasm_bindgen::JsValue> {
    js_sys::Reflect::get(&js_sys::global(), &name.into()).map(js_sys::Function::from)
}

/// What `future` gives, unless `deadline` comes first; the future is then dropped.
pub(crate) async fn by<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(sleep(left_until(deadline)));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.as_mut().poll(context).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn pauses(seed: u64, count: u32, floor: Option<Duration>) -> Vec<Duration> {
        let mut schedule = Schedule::new(count, fastrand::Rng::with_seed(seed));
        std::iter::from_fn(|| schedule.next_pause(floor, LONG)).collect()
    }

    #[test]
    fn same_seed_gives_same_pauses() {
        assert_eq!(pauses(7, 5, None), pauses(7, 5, None));
        assert_ne!(pauses(7, 5, None), pauses(8, 5, None));
    }

    #[test]
    fn pauses_stay_under_a_bound_that_doubles_to_its_cap() {
        let bounds_ms = [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000];
        for seed in 0..500 {
            for (pause, bound_ms) in pauses(seed, 9, None).into_iter().zip(bounds_ms) {
                assert!(pause <= Duration::from_millis(bound_ms), "{pause:?} over {bound_ms} ms with seed {seed}");
            }
        }
    }

    #[test]
    fn pauses_fill_the_whole_range() {
        let firsts: Vec<_> = (0..500).map(|seed| pauses(seed, 1, None)[0]).collect();
        assert!(firsts.iter().any(|pause| *pause < Duration::from_millis(5)));
        assert!(firsts.iter().any(|pause| *pause > Duration::from_millis(45)));
    }

    #[test]
    fn floor_holds_even_over_the_cap() {
        let floor = Duration::from_secs(5);
        assert_eq!(pauses(1, 3, Some(floor)), [floor; 3]);
    }

    #[test]
    fn retries_run_out() {
        assert_eq!(pauses(1, 3, None).len(), 3);
        assert_eq!(pauses(1, 0, None), []);
    }

    #[test]
    fn pause_that_reaches_the_deadline_is_refused() {
        let second = Duration::from_secs(1);
        let pause_with_left = |left| Schedule::new(3, fastrand::Rng::with_seed(1)).next_pause(Some(second), left);
        assert_eq!(pause_with_left(second), None);
        assert_eq!(pause_with_left(second + Duration::from_millis(1)), Some(second));
        assert_eq!(pause_with_left(Duration::ZERO), None);
    }
}
