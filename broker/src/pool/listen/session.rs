//! The hub's task: a session while anyone listens, whose list of channels follows the hub's.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use hearth_client::wire::Notification;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Hub, ListenError};
use crate::pool::event::ErrorReason;
use crate::pool::postgres::hearing::Hear;

/// How long the session stays after the last subscriber: a page that is loaded again finds it.
const LINGER: Duration = Duration::from_secs(10);
/// A session that hears nothing is asked this often whether it is still there: a server that vanished without a word would
/// never be missed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// How long the server may take over a few LISTENs, or a sign of life.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Channels in one message to the server.
const CHANNELS_AT_ONCE: usize = 500;
/// Between a lost session and the next: doubled each time, but not past the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After a refused login.
const LOGIN_PAUSE: Duration = Duration::from_secs(30);

/// How a session ended.
enum Ended {
    /// Nobody listens any more, or nobody shall.
    Done,
    /// The connection is gone, or is no good.
    Lost,
}

/// Opens sessions for as long as there are subscribers.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut pause = FIRST_PAUSE;
    while !hub.is_done() {
        let opened = Instant::now();
        match hub.session().await {
            Ok(Ended::Done) => continue,
            Ok(Ended::Lost) => {
                tracing::warn!(backend.name = %hub.backend, "the listening connection to `{}` was lost", hub.backend);
            }
            Err(error) => {
                tracing::debug!(backend.name = %hub.backend, error = %error, "no listening connection to `{}`", hub.backend);
                let source = Arc::new(error);
                // A server that refuses the login does so until somebody acts, and may lock a role that tries often.
                if ErrorReason::of(&source) == ErrorReason::Login {
                    pause = LOGIN_PAUSE;
                }
                hub.state().refused_all(&ListenError::Down { backend: hub.backend.clone(), source });
                if hub.is_done() {
                    return;
                }
            }
        }
        // A server that ends sessions as fast as they come is not asked for them as fast as it ends them.
        if opened.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Half to all of it, so that brokers that lost the same server do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

impl Hub {
    /// True when the task may end; the next subscriber then starts another.
    fn is_done(&self) -> bool {
        let mut state = self.state();
        let done = state.is_empty() || state.closed;
        state.running = !done;
        done
    }

    /// One session from dial to end. Errors: there is none.
    async fn session(self: &Arc<Self>) -> Result<Ended, tokio_postgres::Error> {
        let ended = CancellationToken::new();
        let generation = self.state().begin();
        let ears = Ears { hub: Arc::clone(self), generation, _ended: ended.clone().drop_guard() };
        let dialled = self.connector().dial_hearing(Box::new(ears)).await?;
        let result = self.follow(&dialled.client, &ended).await;
        self.state().lost();
        Ok(result)
    }

    /// Keeps the server's list like the hub's until nobody is left or the connection is gone.
    async fn follow(&self, client: &ClientWrapper, ended: &CancellationToken) -> Ended {
        loop {
            if self.settle(client).await.is_err() {
                return Ended::Lost;
            }
            let idle = self.state().is_empty();
            tokio::select! {
                () = ended.cancelled() => return Ended::Lost,
                () = self.changed.notified() => {}
                () = sleep(if idle { LINGER } else { SIGN_OF_LIFE }) => {
                    if idle {
                        return Ended::Done;
                    }
                    if execute(client, "").await.is_err() {
                        return Ended::Lost;
                    }
                }
            }
            if self.state().closed {
                return Ended::Done;
            }
        }
    }

    /// Tells the server what has changed, until nothing has. Errors: the session is no good any more.
    async fn settle(&self, client: &ClientWrapper) -> Result<(), Lost> {
        loop {
            let work = self.state().work();
            if work.listen.is_empty() && work.unlisten.is_empty() {
                return Ok(());
            }
            for some in work.unlisten.chunks(CHANNELS_AT_ONCE) {
                execute(client, &statements("UNLISTEN", some)).await.map_err(|_| Lost)?;
            }
            for some in work.listen.chunks(CHANNELS_AT_ONCE) {
                self.listen(client, some).await?;
            }
        }
    }

    /// Several at once; where the server refuses, one by one, so that a name it cannot have spoils nothing for the others.
    async fn listen(&self, client: &ClientWrapper, channels: &[Arc<str>]) -> Result<(), Lost> {
        let single = channels.len() == 1;
        match execute(client, &statements("LISTEN", channels)).await {
            Ok(()) => {
                self.state().granted(channels);
                Ok(())
            }
            Err(Failure::Refused(error)) if single => {
                if self.state().refused(&channels[0], &error) {
                    Err(Lost)
                } else {
                    Ok(())
                }
            }
            Err(Failure::Refused(_)) => {
                for channel in channels.chunks(1) {
                    Box::pin(self.listen(client, channel)).await?;
                }
                Ok(())
            }
            Err(Failure::Lost) => Err(Lost),
        }
    }
}

/// What the driver calls; it drops this when it ends.
struct Ears {
    hub: Arc<Hub>,
    generation: u64,
    _ended: DropGuard,
}

impl Hear for Ears {
    fn hear(&mut self, notification: tokio_postgres::Notification) {
        let wire = Notification {
            channel: notification.channel().to_owned(),
            payload: notification.payload().to_owned(),
            pid: notification.process_id(),
        };
        if self.hub.state().dispatch(self.generation, wire) {
            self.hub.changed.notify_one();
        }
    }

    fn is_ahead(&self) -> bool {
        self.hub.state().is_ahead()
    }
}

/// The session is no good any more.
struct Lost;

enum Failure {
    Refused(ListenError),
    Lost,
}

async fn execute(client: &ClientWrapper, sql: &str) -> Result<(), Failure> {
    match timeout(ANSWER_TIMEOUT, client.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => match error.as_db_error() {
            Some(db) if !client.is_closed() => Err(Failure::Refused(ListenError::Refused { db: Box::new(db.into()) })),
            _ => Err(Failure::Lost),
        },
        Err(_) => Err(Failure::Lost),
    }
}

/// One statement a channel. Case and every character stand as given: quoted identifiers.
fn statements(verb: &str, channels: &[Arc<str>]) -> String {
    let statement = |channel: &Arc<str>| format!("{verb} \"{}\";", channel.replace('"', "\"\""));
    channels.iter().map(statement).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_they_stand() {
        let channels = ["Orders".into(), "a \"b\"; DROP".into()];
        assert_eq!(statements("LISTEN", &channels), "LISTEN \"Orders\";LISTEN \"a \"\"b\"\"; DROP\";");
    }

    #[test]
    fn pauses_stay_between_half_and_whole() {
        for _ in 0..1000 {
            let pause = jittered(LONGEST_PAUSE);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{pause:?}");
        }
    }
}
