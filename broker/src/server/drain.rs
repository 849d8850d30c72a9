//! Ending well: finish what is in flight, refuse what is new, close the pools, cut at the grace period.

use std::time::Duration;

use super::accept::Acceptor;
use crate::broker::Live;

/// How long idle keep-alive connections may take to close once every request is answered.
const IDLE_CLOSE: Duration = Duration::from_millis(500);

/// How long event streams may take to tell their readers. One whose reader takes nothing is not waited for any longer.
const STREAMS_END: Duration = Duration::from_secs(1);

/// Drains the broker. The listeners stay open until requests are done, so that new ones get an answer, not a refused socket.
pub async fn drain(live: &Live, data: Acceptor, admin: Acceptor) {
    let broker = live.now();
    broker.requests.close();
    broker.draining.cancel();
    let grace = broker.server.drain_grace;
    tracing::info!(in_flight = broker.requests.len(), "draining: {} requests in flight", broker.requests.len());
    if tokio::time::timeout(grace, broker.requests.wait()).await.is_err() {
        tracing::warn!(in_flight = broker.requests.len(), "the grace period is over; what is in flight is cut");
    }
    // No request is left that could become a stream.
    broker.streams.close();
    let _ = tokio::time::timeout(STREAMS_END.min(grace), broker.streams.wait()).await;
    data.stop(IDLE_CLOSE).await;
    admin.stop(IDLE_CLOSE).await;
    live.close().await;
    tracing::info!("stopped");
}
