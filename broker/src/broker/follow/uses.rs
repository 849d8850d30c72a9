//! Writing down when stored keys were last used, so that whoever rotates or revokes one sees whether anybody still has it.
//!
//! Each write is one statement over the session that changes are read over. While it fails the uses stay where they were noted, and
//! nothing else depends on it: a broker whose role may only read serves as well as any other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Live;
use crate::base::chain;
use crate::broker::Unwritten;
use crate::control::{ControlError, Reader};

/// Between two writes, at most. Often enough for people who watch a rotation, and next to nothing for the server.
const EVERY: Duration = Duration::from_mins(1);
/// Keys in one statement. More take several, and changes are looked for in between. Some tenths of a second for the server.
const MOST: usize = 10_000;

/// What is to be written, and when.
pub(super) struct Diary {
    due: Instant,
    /// What this turn has still to write.
    rest: Vec<Unwritten>,
    /// It could not be written the last time.
    is_out: bool,
}

impl Diary {
    pub fn new() -> Self {
        Self { due: Instant::now() + pause(), rest: Vec::new(), is_out: false }
    }

    /// When the next write is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Writes the next few. Errors: the database says nothing, and its session is of no use any more. What it refuses is told
    /// once for each outage, and comes again with the next turn.
    async fn write(&mut self, reader: &mut Reader) -> Result<(), ControlError> {
        let some: Vec<Unwritten> = self.rest.drain(..self.rest.len().min(MOST)).collect();
        let written = if some.is_empty() { None } else { Some(send(reader, &some).await) };
        match &written {
            None => {}
            Some(Ok(())) => {
                some.iter().for_each(Unwritten::is_written);
                if std::mem::take(&mut self.is_out) {
                    tracing::info!("the control database takes again when keys were last used");
                }
            }
            Some(Err(error)) => {
                self.rest.clear();
                if !std::mem::replace(&mut self.is_out, true) {
                    tracing::warn!(error = %chain(error), "when keys were last used is not written, and will be tried again: {}", chain(error));
                }
            }
        }
        if self.rest.is_empty() {
            self.due = Instant::now() + pause();
        }
        match written {
            Some(Err(silent @ ControlError::TimedOut(_))) => Err(silent),
            _ => Ok(()),
        }
    }
}

async fn send(reader: &mut Reader, some: &[Unwritten]) -> Result<(), ControlError> {
    let ids: Vec<&str> = some.iter().map(|unwritten| unwritten.id.as_str()).collect();
    let moments: Vec<_> = some.iter().map(|unwritten| unwritten.at).collect();
    reader.write_uses(&ids, &moments).await
}

/// Brokers that were started together do not all write at the same moment.
fn pause() -> Duration {
    EVERY.mul_f64(0.8 + 0.2 * rand::random::<f64>())
}

impl Live {
    /// Writes what is due. Errors: see [`Diary::write`].
    pub(super) async fn write_uses(&self, reader: &mut Reader, diary: &mut Diary) -> Result<(), ControlError> {
        if Instant::now() < diary.due {
            return Ok(());
        }
        if diary.rest.is_empty() {
            diary.rest = self.unwritten().await;
        }
        diary.write(reader).await
    }

    /// The last word. No request is left that could use a key.
    pub(super) async fn write_last_uses(&self, reader: &mut Reader, diary: &mut Diary) {
        diary.rest = self.unwritten().await;
        while !diary.rest.is_empty() {
            // What went wrong is told; a turn that fails leaves nothing.
            let _ = diary.write(reader).await;
        }
    }

    /// Off the runtime's own threads: a hundred thousand tenants are looked through.
    async fn unwritten(&self) -> Vec<Unwritten> {
        let directory = Arc::clone(&self.now().directory);
        tokio::task::spawn_blocking(move || directory.unwritten()).await.unwrap_or_default()
    }
}
