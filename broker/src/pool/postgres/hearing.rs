//! Driving a connection that hears: the driver's task hands each notification on before it reads the next.
//!
//! There is no queue between socket and subscribers, so a burst waits in the socket and in the server, not in memory.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tokio_postgres::{AsyncMessage, Connection, Notification};

/// Who notifications go to. Dropped when the connection ends.
pub trait Hear: Send {
    /// Takes one notification.
    fn hear(&mut self, notification: Notification);
    /// True while a reader has many unread only because it has not had its turn.
    fn is_ahead(&self) -> bool;
}

/// Notifications handed on before readers get a turn: small against `pool::listen::queue::CAPACITY`.
const RUN: u32 = 16;
/// Between two looks whether readers have had their turn.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest that readers are given for their turn. A thousand of them empty their queues in a fraction of it.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Drives `connection` to its end.
pub async fn drive<S, T>(mut connection: Connection<S, T>, mut hear: Box<dyn Hear>) -> Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut run = 0;
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        let AsyncMessage::Notification(notification) = message? else { continue };
        hear.hear(notification);
        run += 1;
        if run == RUN {
            run = 0;
            tokio::task::yield_now().await;
            let start = Instant::now();
            while hear.is_ahead() && start.elapsed() < LONGEST_PAUSE {
                sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}
