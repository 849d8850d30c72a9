//! The audit log: who did what, with what outcome. Statements by their fingerprints or names, Redis commands by their names; never a
//! value, a key of Redis, or a secret.
//!
//! A request hands one event to a bounded queue and goes on; a thread of its own writes. What the queue cannot hold is lost, counted,
//! and told in the log itself.

mod event;
mod writer;

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::writer::Writer;
use crate::config::AuditTarget;

pub use event::{Event, Who};

/// Events that may wait: a second of a busy broker's, some 3 MiB.
const QUEUE: usize = 8192;
/// Who cannot say who they are fill no more than half of it.
const QUEUE_FOR_STRANGERS: usize = QUEUE / 2;
/// How long the end of the process waits for the last lines.
const FLUSH: Duration = Duration::from_secs(2);

/// The audit log, where there is one. The thread begins with the first event.
pub struct Audit {
    target: AuditTarget,
    dropped: Counter<u64, AtomicU64>,
    /// Lost since the log last told.
    lost: Arc<AtomicU64>,
    queue: OnceLock<mpsc::Sender<Message>>,
}

enum Message {
    Event(Box<Event>),
    Reopen,
    Flush(oneshot::Sender<()>),
}

/// An event whose end is not there yet. One that is dropped was cancelled.
pub struct Entry {
    audit: Arc<Audit>,
    event: Option<Box<Event>>,
    started: Instant,
}

impl Entry {
    /// The event, to be told more of.
    pub fn event(&mut self) -> Option<&mut Event> {
        self.event.as_deref_mut()
    }

    /// It is over.
    pub fn finish(mut self, outcome: &'static str) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: &'static str) {
        if let Some(mut event) = self.event.take() {
            event.outcome = outcome;
            event.duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.audit.send(event);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end("cancelled");
    }
}

impl Audit {
    /// The log at a target; `None` where there is none. Errors: a file that cannot be written, or whose folder is not there.
    pub fn new(target: &AuditTarget, dropped: Counter<u64, AtomicU64>) -> Result<Option<Arc<Self>>, String> {
        match target {
            AuditTarget::Off => return Ok(None),
            AuditTarget::File(path) => check(path).map_err(|error| format!("`{}`: {error}", path.display()))?,
            AuditTarget::Log | AuditTarget::Stdout => {}
        }
        let (target, lost) = (target.clone(), Arc::default());
        Ok(Some(Arc::new(Self { target, dropped, lost, queue: OnceLock::new() })))
    }

    /// True where it writes to the same place.
    pub fn is_at(&self, target: &AuditTarget) -> bool {
        self.target == *target
    }

    /// Begins to tell of something.
    pub fn begin(self: &Arc<Self>, event: Event, started: Instant) -> Entry {
        Entry { audit: Arc::clone(self), event: Some(Box::new(event)), started }
    }

    /// Tells of something that is over.
    pub fn tell(&self, event: Event) {
        self.send(Box::new(event));
    }

    /// Opens the file again: somebody may have moved it.
    pub fn reopen(&self) {
        if let Some(queue) = self.queue.get() {
            // A full queue means that the file is being written to; the next reload will do it.
            let _ = queue.try_send(Message::Reopen);
        }
    }

    /// Waits until what was told is written, for a while.
    pub async fn flush(&self) {
        let Some(queue) = self.queue.get() else { return };
        let (done, written) = oneshot::channel();
        let flush = async {
            if queue.send(Message::Flush(done)).await.is_ok() {
                // An error: the thread has ended, and nothing is left to wait for.
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flush).await;
    }

    fn send(&self, event: Box<Event>) {
        let queue = self.queue.get_or_init(|| self.start());
        let is_stranger = event.who.is_none() && event.reason.is_some();
        let has_room = !is_stranger || queue.capacity() > QUEUE - QUEUE_FOR_STRANGERS;
        if !has_room || queue.try_send(Message::Event(event)).is_err() {
            self.dropped.inc();
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn start(&self) -> mpsc::Sender<Message> {
        let (queue, events) = mpsc::channel(QUEUE);
        let mut writer = Writer::new(&self.target, &self.lost, &self.dropped);
        let started = std::thread::Builder::new().name("hearth-audit".to_owned()).spawn(move || writer.run(events));
        if let Err(error) = started {
            tracing::error!(error = %error, "the audit log has no thread, and nothing is written: {error}");
        }
        queue
    }
}

/// True to form: appended to where it is there, and else made when the first line comes.
fn check(path: &Path) -> io::Result<()> {
    if path.exists() {
        return OpenOptions::new().append(true).open(path).map(drop);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "its folder is not there")) }
}

#[cfg(test)]
mod tests;
