//! Driving a connection that hears: the driver's task hands each notification on before it reads the next.
//!
//! There is no queue between socket and subscribers, so a burst waits in the socket and in the server, not in memory.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, Connection, Notification};

/// Takes one notification; true when a reader has many unread. Dropped when the connection ends.
pub type Hear = Box<dyn FnMut(Notification) -> bool + Send>;

/// Notifications handed on before readers get a turn: small against `pool::listen::queue::CAPACITY`, so that nobody is too slow
/// who was never asked.
const RUN: u32 = 16;
/// How long the others wait when somebody is far behind. One that has stopped costs them this once for each run between half
/// a queue and a whole one, and is then dropped.
const PAUSE: Duration = Duration::from_millis(1);

/// Drives `connection` to its end.
pub async fn drive<S, T>(mut connection: Connection<S, T>, mut hear: Hear) -> Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut run, mut behind) = (0, false);
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        let AsyncMessage::Notification(notification) = message? else { continue };
        behind |= hear(notification);
        run += 1;
        if run == RUN {
            if behind {
                tokio::time::sleep(PAUSE).await;
            } else {
                tokio::task::yield_now().await;
            }
            (run, behind) = (0, false);
        }
    }
    Ok(())
}
