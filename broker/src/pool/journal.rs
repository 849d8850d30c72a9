//! What happened lately, and what was decided about sizes: for the log, and for whoever asks.
//!
//! An outage says the same thing a thousand times. Of each (event, endpoint, reason) the first few in ten seconds are told, then
//! one line with a count.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::decision::Decision;
use super::event::Event;
use crate::base::BackendName;

/// Events kept.
const EVENTS: usize = 1_000;
/// Decisions kept.
const DECISIONS: usize = 100;
/// Told of each kind, in a window.
const TOLD: u64 = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// The same decision again so soon is counted with the last one.
const SAME: Duration = Duration::from_secs(1);

/// What is known of an event, beside what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The server's process.
    pub pid: Option<u32>,
    /// How old the session was.
    pub age: Option<Duration>,
    /// How often it was lent.
    pub uses: Option<u64>,
    /// What the server said.
    pub sqlstate: Option<String>,
    /// How long opening took.
    pub connect: Option<Duration>,
    /// For which request a session was held.
    pub request: Option<String>,
    /// On whose account.
    pub tenant: Option<String>,
    /// Of which statement: a number that tells nothing of it.
    pub statement: Option<u64>,
    /// What was said, for people. Nothing secret.
    pub detail: Option<String>,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// What, and why.
    pub event: Event,
    /// Of which database.
    pub backend: BackendName,
    /// On which server.
    pub endpoint: Arc<str>,
    /// What else is known.
    pub facts: Facts,
    /// How many of these there were: 1, or in a summary those that were not told.
    pub count: u64,
}

/// One decision, and how often it was taken in a row.
#[derive(Debug, Clone)]
pub struct Decided {
    /// When, the last time.
    pub at: Timestamp,
    /// What, and from what.
    pub decision: Decision,
    /// How often.
    pub count: u64,
    noted: Instant,
}

/// The last events and decisions of all pools.
#[derive(Debug, Default)]
pub struct Journal {
    /// The lock guards a look and a push.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Record>,
    windows: HashMap<(Event, BackendName, Arc<str>), Window>,
    decisions: VecDeque<Decided>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    seen: u64,
}

impl Journal {
    /// Notes an event and tells it, unless the same was told often just now.
    pub fn note(&self, event: Event, backend: &BackendName, endpoint: &Arc<str>, facts: Facts) {
        let record = |facts, count| Record {
            at: Timestamp::now(),
            event,
            backend: backend.clone(),
            endpoint: Arc::clone(endpoint),
            facts,
            count,
        };
        let now = Instant::now();
        let mut kept = self.kept();
        let window = kept
            .windows
            .entry((event, backend.clone(), Arc::clone(endpoint)))
            .or_insert(Window { start: now, seen: 0 });
        let missed = window.end(now);
        window.seen += 1;
        let is_told = window.seen <= TOLD;
        let told: Vec<Record> = missed
            .map(|count| record(Facts::default(), count))
            .into_iter()
            .chain(is_told.then(|| record(facts, 1)))
            .collect();
        kept.keep(&told);
        drop(kept);
        told.iter().for_each(tell);
    }

    /// Ends windows that are over. Called now and then, so that the count of an outage is told when it ends too.
    pub fn flush(&self) {
        let now = Instant::now();
        let mut told = Vec::new();
        let mut kept = self.kept();
        kept.windows.retain(|(event, backend, endpoint), window| {
            if now - window.start < WINDOW {
                return true;
            }
            if let Some(count) = window.end(now) {
                let (backend, endpoint) = (backend.clone(), Arc::clone(endpoint));
                let facts = Facts::default();
                told.push(Record { at: Timestamp::now(), event: *event, backend, endpoint, facts, count });
            }
            false
        });
        kept.keep(&told);
        drop(kept);
        told.iter().for_each(tell);
    }

    /// Notes a decision.
    pub fn decide(&self, decision: Decision) {
        let now = Instant::now();
        let mut kept = self.kept();
        let same = kept.decisions.iter_mut().rev().find(|last| last.decision.is_of(&decision));
        if let Some(last) = same.filter(|last| last.decision.is_like(&decision) && now - last.noted < SAME) {
            (last.at, last.noted, last.count) = (Timestamp::now(), now, last.count + 1);
            return;
        }
        if kept.decisions.len() == DECISIONS {
            kept.decisions.pop_front();
        }
        kept.decisions.push_back(Decided { at: Timestamp::now(), decision, count: 1, noted: now });
    }

    /// The last events, the newest first.
    pub fn events(&self) -> Vec<Record> {
        self.kept().events.iter().rev().cloned().collect()
    }

    /// The last decisions, the newest first.
    pub fn decisions(&self) -> Vec<Decided> {
        self.kept().decisions.iter().rev().cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, records: &[Record]) {
        for record in records {
            if self.events.len() == EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(record.clone());
        }
    }
}

impl Window {
    /// Begins anew if it is over. `Some`: so many were not told.
    fn end(&mut self, now: Instant) -> Option<u64> {
        if now - self.start < WINDOW {
            return None;
        }
        let missed = self.seen.saturating_sub(TOLD);
        *self = Self { start: now, seen: 0 };
        (missed > 0).then_some(missed)
    }
}

/// One line. Levels are the macros', which want them literal.
fn tell(record: &Record) {
    let Record { event, backend, endpoint, facts, count, .. } = record;
    let ms = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let (age_ms, connect_ms) = (ms(facts.age), ms(facts.connect));
    let statement = facts.statement.map(|fingerprint| format!("{fingerprint:016x}"));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                event = event.name(), reason = event.reason(), backend.name = %backend, server.address = %endpoint, count,
                backend.pid = facts.pid, age_ms, uses = facts.uses, connect_ms,
                db.response.status_code = facts.sqlstate.as_deref(), request.id = facts.request.as_deref(),
                tenant.id = facts.tenant.as_deref(), statement = statement.as_deref(), detail = facts.detail.as_deref(),
                "{}: `{backend}` at {endpoint}, {}{}", event.name(), event.reason(),
                if *count > 1 { format!(", {count} more") } else { String::new() }
            )
        };
    }
    match event {
        Event::Reset(..) => line!(debug),
        Event::Open(_) | Event::Close(_) | Event::Return | Event::BreakerClose(_) | Event::Recovered => line!(info),
        Event::Error(_) | Event::Eject | Event::BreakerOpen(_) | Event::Leak => line!(warn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::event::{CloseReason, ErrorReason};

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_a_few_times_and_then_counted() {
        let journal = Journal::default();
        let (app, one, two): (_, Arc<str>, Arc<str>) = (BackendName::new("app"), "one:1".into(), "two:1".into());
        let error = Event::Error(ErrorReason::Network);
        for _ in 0..1_000 {
            journal.note(error, &app, &one, Facts::default());
        }
        journal.note(error, &app, &two, Facts::default());
        journal.note(Event::Close(CloseReason::Idle), &app, &one, Facts { pid: Some(7), ..Facts::default() });
        let told = || journal.events().iter().map(|record| record.count).collect::<Vec<_>>();
        assert_eq!(told(), [1; 7], "five of the first, and the two that differ");
        assert_eq!(journal.events()[0].facts.pid, Some(7), "the newest first");
        journal.flush();
        assert_eq!(told().len(), 7, "the window is not over");
        tokio::time::advance(WINDOW).await;
        journal.flush();
        assert_eq!(told()[0], 995);
        journal.flush();
        assert_eq!(told().len(), 8, "and told once");
        for _ in 0..7 {
            journal.note(error, &app, &one, Facts::default());
        }
        tokio::time::advance(WINDOW).await;
        journal.note(error, &app, &one, Facts::default());
        assert_eq!(told()[..3], [1, 2, 1], "the next one tells what was not told before it");
    }

    #[test]
    fn the_journal_is_bounded() {
        let journal = Journal::default();
        for n in 0..2 * EVENTS {
            journal.note(Event::Eject, &BackendName::new("app"), &n.to_string().into(), Facts::default());
        }
        assert_eq!(journal.events().len(), EVENTS);
        assert_eq!(&*journal.events()[0].endpoint, "1999");
    }
}
