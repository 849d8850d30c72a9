//! Making a session clean again, or finding that it cannot be.

use std::time::Duration;

use tokio::time::timeout;

use super::ask;
use super::connect::Connector;
use super::session::{Cleanup, Session};

/// Undoes everything a statement may have left in a session, but keeps prepared statements, unlike `DISCARD ALL`. `RESET ALL` alone leaves `SET ROLE` in force; `SET SESSION AUTHORIZATION DEFAULT` undoes that.
/// It fails where SQL has prepared a statement by itself: under a name of ours, the next caller would run it.
const RESET: &str = "SELECT 1 OPERATOR(pg_catalog./) (CASE WHEN EXISTS \
       (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) THEN 0 ELSE 1 END); SET SESSION AUTHORIZATION DEFAULT; RESET ALL; SELECT pg_catalog.pg_advisory_unlock_all(); \
     UNLISTEN *; CLOSE ALL; DISCARD TEMP; DISCARD SEQUENCES";

/// An abandoned statement that ends by itself within this time is not cancelled.
const PATIENCE: Duration = Duration::from_millis(5);
/// How long one cancellation may take to show before it is sent again.
const CANCEL_SHOWS: Duration = Duration::from_millis(700);
/// Cancellations sent before the session is given up. A statement that the server has not begun yet misses the first.
const CANCELS: u32 = 3;
/// The longest a reset may take. It runs no user code; a server that cannot do it in this time is not well.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// Brings an abandoned session back: ends what still runs, rolls back, resets. False: it must be closed.
pub async fn recover(session: &mut Session, connector: &Connector) -> bool {
    quiesce(session, connector).await && reset(session, Cleanup::Reset).await
}

/// Makes a quiet session ready for the next caller. False: it must be closed.
pub async fn reset(session: &mut Session, cleanup: Cleanup) -> bool {
    if cleanup == Cleanup::Discard || session.channel.is_dead() {
        return false;
    }
    let channel = &mut session.channel;
    let work = async {
        // A blind ROLLBACK would put a warning into the server's log each time.
        if channel.status() != b'I' {
            ask::command(channel, "ROLLBACK").await?;
        }
        ask::command(channel, RESET).await
    };
    let done = matches!(timeout(RESET_TIMEOUT, work).await, Ok(Ok(())));
    session.close_loose();
    // The reset itself changes reported settings back.
    session.observed.take_setting_changed();
    done && session.is_reusable()
}

/// Waits until everything sent on the session is answered, cancelling it if it takes long.
async fn quiesce(session: &mut Session, connector: &Connector) -> bool {
    let mut patience = PATIENCE;
    for _ in 0..=CANCELS {
        match timeout(patience, session.channel.settle()).await {
            Ok(settled) => return settled.is_ok() && !session.channel.is_dead(),
            Err(_) if session.channel.is_dead() => return false,
            Err(_) => {}
        }
        if let Err(error) = connector.cancel(&session.client.cancel_token()).await {
            // It may still arrive, and would then hit the next caller.
            tracing::debug!(error = %error, "a cancellation did not get through");
            return false;
        }
        patience = CANCEL_SHOWS;
    }
    false
}
