//! Waiting for a state, not for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The longest any state may take to come, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again until `state` holds. Panics with `what` if it does not come.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut state: impl FnMut() -> F) {
    let start = Instant::now();
    while !state().await {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
