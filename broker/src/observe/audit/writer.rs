//! The thread that writes the audit log, and where it writes to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::Message;
use super::event::Event;
use crate::config::AuditTarget;

/// After a batch was written: while the thread sleeps, nobody has to wake it.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two tries to open a file that could not be opened.
const REOPEN: Duration = Duration::from_secs(1);

enum Sink {
    Log,
    Stdout,
    File { path: PathBuf, file: Option<File>, tried: Option<SystemTime> },
}

/// What the thread has.
pub(super) struct Writer {
    sink: Sink,
    buffer: Vec<u8>,
    /// Events in the buffer.
    waiting: u64,
    lost: Arc<AtomicU64>,
    dropped: Counter<u64, AtomicU64>,
}

impl Writer {
    /// A writer to a target.
    pub(super) fn new(target: &AuditTarget, lost: &Arc<AtomicU64>, dropped: &Counter<u64, AtomicU64>) -> Self {
        let sink = match target {
            AuditTarget::Off | AuditTarget::Log => Sink::Log,
            AuditTarget::Stdout => Sink::Stdout,
            AuditTarget::File(path) => Sink::File { path: path.clone(), file: None, tried: None },
        };
        Self { sink, buffer: Vec::new(), waiting: 0, lost: Arc::clone(lost), dropped: dropped.clone() }
    }

    /// Writes until nobody can tell any more.
    pub(super) fn run(&mut self, mut events: mpsc::Receiver<Message>) {
        while let Some(first) = events.blocking_recv() {
            let mut flushed = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Event(event) => self.take(&event),
                    Message::Reopen => {
                        self.write();
                        if let Sink::File { file, .. } = &mut self.sink {
                            *file = None;
                        }
                    }
                    Message::Flush(done) => flushed.push(done),
                }
                // A batch is bounded too: what is written is seen.
                next = if self.buffer.len() < 1 << 20 { events.try_recv().ok() } else { None };
            }
            self.tell_of_lost();
            self.write();
            for done in flushed {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn take(&mut self, event: &Event) {
        if matches!(self.sink, Sink::Log) {
            log(event);
            return;
        }
        if serde_json::to_writer(&mut self.buffer, event).is_ok() {
            self.buffer.push(b'\n');
            self.waiting += 1;
        }
    }

    fn tell_of_lost(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "{lost} lines of the audit log were lost");
            self.take(&Event { rows: Some(lost), ..Event::new("lines_lost") });
        }
    }

    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = match &mut self.sink {
            Sink::Log => Ok(()),
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer).and_then(|()| out.flush())
            }
            Sink::File { path, file, tried } => append(path, file, tried, &self.buffer),
        };
        if let Err(error) = written {
            self.dropped.inc_by(self.waiting);
            self.lost.fetch_add(self.waiting, Ordering::Relaxed);
            tracing::error!(error = %error, "{} lines of the audit log were not written: {error}", self.waiting);
        }
        self.buffer.clear();
        self.waiting = 0;
    }
}

fn append(path: &Path, file: &mut Option<File>, tried: &mut Option<SystemTime>, lines: &[u8]) -> io::Result<()> {
    if file.is_none() {
        if tried.is_some_and(|tried| tried.elapsed().is_ok_and(|since| since < REOPEN)) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file could not be opened a moment ago"));
        }
        *tried = Some(SystemTime::now());
        let mut options = OpenOptions::new();
        // For whoever runs the broker, and nobody else.
        options.append(true).create(true).mode(0o600);
        *file = Some(options.open(path)?);
        *tried = None;
    }
    let Some(open) = file else { return Ok(()) };
    let written = open.write_all(lines);
    if written.is_err() {
        *file = None;
    }
    written
}

fn log(event: &Event) {
    use tracing::field::display;

    let who = event.who.as_ref();
    let (tenant, via) = (who.map(|who| display(&who.tenant)), who.map(|who| who.via));
    let identity = who.map(|who| &*who.identity);
    let id = event.request_id.as_ref().map(display);
    let (claimed, address) = (event.claimed.as_deref(), event.address.as_ref().map(display));
    let (path, backend) = (event.path.as_deref(), event.backend.as_ref().map(display));
    let (named, more) = (event.named.as_deref(), (event.more > 0).then_some(event.more));
    let joined = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(","));
    let statements: Vec<String> = event.statements.iter().map(|print| format!("{print:016x}")).collect();
    let (statements, commands, changes) = (joined(&statements), joined(&event.commands), joined(&event.changes));
    let Event { action, outcome, reason, rows, duration_us, .. } = *event;
    tracing::info!(
        target: "hearth::audit",
        { request.id = id, tenant.id = tenant, via, identity, claimed, client.address = address, path, backend.name = backend,
          named, statements, commands, more, changes, outcome, reason, rows, duration_us },
        "{action}"
    );
}
