//! The audit log: who did what, with what outcome. Statements by their fingerprints or names, Redis commands by their names; never a
//! value, a key of Redis, or a secret.
//!
//! A request hands one event to a bounded queue and goes on; a thread of its own writes. What the queue cannot hold is lost, counted,
//! and told in the log itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::base::{BackendName, RequestId, TenantId};
use crate::config::AuditTarget;

/// Events that may wait: a second of a busy broker's, some 3 MiB.
const QUEUE: usize = 8192;
/// Who cannot say who they are fill no more than half of it.
const QUEUE_FOR_STRANGERS: usize = QUEUE / 2;
/// After a batch was written: while the thread sleeps, nobody has to wake it.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two tries to open a file that could not be opened.
const REOPEN: Duration = Duration::from_secs(1);
/// Statements or commands told of one request.
const MOST_PARTS: usize = 100;
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

/// Who did it.
#[derive(Debug, Clone, Serialize)]
pub struct Who {
    /// On whose account.
    pub tenant: TenantId,
    /// `key`, `token` or `certificate`.
    pub via: &'static str,
    /// The key's id, the token's issuer and subject, the certificate's name.
    #[serde(serialize_with = "as_text")]
    pub identity: Arc<str>,
}

/// One thing that was done, or refused.
#[derive(Debug, Serialize)]
pub struct Event {
    /// When it began.
    pub time: Timestamp,
    /// By which request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Who did it, where that is known.
    #[serde(flatten)]
    pub who: Option<Who>,
    /// The key that was claimed and not proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What was done.
    pub action: &'static str,
    /// Of an operator's action, where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// On which database or cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendName>,
    /// The named statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
    /// Fingerprints of SQL.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "in_hex")]
    pub statements: Vec<u64>,
    /// Names of Redis commands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// Statements or commands beyond those told.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
    /// What a reload changed, by paths of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// `ok`, a problem's code, or `cancelled`.
    pub outcome: &'static str,
    /// Why credentials were not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Rows read or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// How long it took. Unit: microseconds.
    pub duration_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn in_hex<S: Serializer>(prints: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(prints.iter().map(|print| format!("{print:016x}")))
}

impl Event {
    /// Something that happens now.
    pub fn new(action: &'static str) -> Self {
        Self {
            time: Timestamp::now(),
            request_id: None,
            who: None,
            claimed: None,
            address: None,
            action,
            path: None,
            backend: None,
            named: None,
            statements: Vec::new(),
            commands: Vec::new(),
            more: 0,
            changes: Vec::new(),
            outcome: "ok",
            reason: None,
            rows: None,
            duration_us: 0,
        }
    }

    /// Notes a statement.
    pub fn statement(&mut self, fingerprint: u64) {
        if self.statements.len() < MOST_PARTS {
            self.statements.push(fingerprint);
        } else {
            self.more += 1;
        }
    }

    /// Notes a Redis command. What does not look like a command's name is told as `?`: it may be a value in the wrong place.
    pub fn command(&mut self, name: &[u8]) {
        if self.commands.len() >= MOST_PARTS {
            self.more += 1;
            return;
        }
        let is_name = (1..=24).contains(&name.len())
            && name.iter().all(|byte| byte.is_ascii_alphabetic() || b"._-".contains(byte));
        let name = std::str::from_utf8(name).ok().filter(|_| is_name);
        self.commands.push(name.map_or_else(|| "?".to_owned(), str::to_ascii_uppercase));
    }
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
        let mut writer = Writer {
            sink: match &self.target {
                AuditTarget::Off | AuditTarget::Log => Sink::Log,
                AuditTarget::Stdout => Sink::Stdout,
                AuditTarget::File(path) => Sink::File { path: path.clone(), file: None, tried: None },
            },
            buffer: Vec::new(),
            waiting: 0,
            lost: Arc::clone(&self.lost),
            dropped: self.dropped.clone(),
        };
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

enum Sink {
    Log,
    Stdout,
    File { path: PathBuf, file: Option<File>, tried: Option<std::time::SystemTime> },
}

struct Writer {
    sink: Sink,
    buffer: Vec<u8>,
    /// Events in the buffer.
    waiting: u64,
    lost: Arc<AtomicU64>,
    dropped: Counter<u64, AtomicU64>,
}

impl Writer {
    fn run(&mut self, mut events: mpsc::Receiver<Message>) {
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

fn append(
    path: &Path,
    file: &mut Option<File>,
    tried: &mut Option<std::time::SystemTime>,
    lines: &[u8],
) -> io::Result<()> {
    if file.is_none() {
        if tried.is_some_and(|tried| tried.elapsed().is_ok_and(|since| since < REOPEN)) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file could not be opened a moment ago"));
        }
        *tried = Some(std::time::SystemTime::now());
        let mut options = OpenOptions::new();
        // For whoever runs the broker, and nobody else.
        std::os::unix::fs::OpenOptionsExt::mode(options.append(true).create(true), 0o600);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_known_and_no_more() {
        let mut event = Event::new("query");
        event.statement(0xab);
        event.who = Some(Who { tenant: TenantId::new("acme"), via: "key", identity: "hk\"\n1".into() });
        let line = serde_json::to_string(&event).expect("plain data");
        assert!(line.contains(r#""tenant":"acme","via":"key","identity":"hk\"\n1","action":"query""#), "{line}");
        assert!(line.contains(r#""statements":["00000000000000ab"],"outcome":"ok","duration_us":0"#), "{line}");
        for absent in ["null", "commands", "backend", "claimed"] {
            assert!(!line.contains(absent), "{absent} in {line}");
        }
    }

    #[test]
    fn what_is_no_command_s_name_is_not_told() {
        let mut event = Event::new("redis");
        for name in ["get", "JSON.SET", "hunter2", "a b", "", "\u{e4}", "abcdefghijklmnopqrstuvwxyz"] {
            event.command(name.as_bytes());
        }
        assert_eq!(event.commands, ["GET", "JSON.SET", "?", "?", "?", "?", "?"]);
        for _ in 0..200 {
            event.command(b"GET");
        }
        assert_eq!((event.commands.len(), event.more), (MOST_PARTS, 107));
    }

    #[tokio::test]
    async fn a_full_queue_loses_lines_and_says_so_and_strangers_fill_half_of_it() {
        let folder = std::env::temp_dir().join(format!("hearth-audit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("makes a folder");
        let path = folder.join("audit.log");
        let dropped = Counter::default();
        let target = AuditTarget::File(path.clone());
        let audit = Audit::new(&target, dropped.clone()).expect("can be written").expect("there is one");
        assert!(!path.exists(), "nothing was told yet");
        for _ in 0..20 * QUEUE {
            audit.tell(Event::new("query"));
        }
        audit.flush().await;
        audit.tell(Event { reason: Some("invalid"), ..Event::new("query") });
        audit.flush().await;
        let text = std::fs::read_to_string(&path).expect("is there");
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count() as u64;
        assert_eq!(count("\"query\"") + dropped.get(), 20 * QUEUE as u64 + 1, "each was written or counted");
        assert!(dropped.get() == 0 || count("lines_lost") > 0);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        // Moved away, as a rotation does.
        std::fs::rename(&path, folder.join("audit.1")).expect("moves");
        audit.reopen();
        audit.begin(Event::new("batch"), Instant::now()).finish("conflict");
        drop(audit.begin(Event::new("copy_in"), Instant::now()));
        audit.flush().await;
        let text = std::fs::read_to_string(&path).expect("is a new file");
        assert!(text.contains("\"action\":\"batch\",\"outcome\":\"conflict\""), "{text}");
        assert!(text.contains("\"action\":\"copy_in\",\"outcome\":\"cancelled\""), "{text}");
        std::fs::remove_dir_all(&folder).expect("was there");
        assert!(Audit::new(&AuditTarget::File(folder.join("x").join("y")), dropped).is_err());
    }
}
