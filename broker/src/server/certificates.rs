//! Certificates that are renewed in their files while the broker runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::broker::Live;

/// Between two looks at the files, which are a few kilobytes.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at the files of the configuration in force, for as long as it is polled. New connections get what they say.
pub async fn follow(live: Live) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let broker = live.now();
        let (tls, metrics) = (broker.tls.clone(), broker.metrics.listener.clone());
        drop(broker);
        let Some(tls) = tls else { continue };
        let looked = tokio::task::spawn_blocking({
            let tls = Arc::clone(&tls);
            move || tls.refresh()
        });
        match looked.await {
            Ok(Ok(true)) => {
                metrics.expires(tls.expires());
                tracing::info!("TLS' files have changed; new connections get what they say now");
            }
            Ok(Ok(false)) => {}
            Ok(Err(message)) => {
                tracing::error!(error = %message, "TLS' files have changed and cannot be used; nothing has changed: {message}");
            }
            Err(error) => tracing::error!(error = %error, "a bug ended a look at TLS' files"),
        }
    }
}
