//! One session as the pool keeps it: channel, driver, prepared statements, age, and what it needs before it is lent again.

use std::sync::Arc;

use deadpool_postgres::ClientWrapper;
use tokio::time::Instant;

use super::channel::Channel;
use super::connect::Dialled;
use super::observed::Observed;
use super::prepared::{Prepared, PreparedCache};
use crate::pool::ledger::{Entry, State};
use crate::pool::registry::Slot;

/// What a session needs before the next caller may have it. Ordered: the most thorough wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cleanup {
    /// Nothing: idle, and nothing of the session was changed.
    Nothing,
    /// Settings, locks, temporary tables or listeners may have changed.
    Reset,
    /// The session cannot be made clean, or is not worth it.
    Discard,
}

/// One session.
pub struct Session {
    /// The protocol, for one caller at a time.
    pub channel: Channel,
    /// The driver's client: what cancels, and what a lane speaks through.
    pub client: ClientWrapper,
    /// What the tap has learnt.
    pub observed: Arc<Observed>,
    /// Statements prepared on this session.
    pub prepared: PreparedCache<Prepared>,
    /// Its line in the endpoint's ledger.
    pub entry: Entry,
    /// Its place in the endpoint's registry of checkouts.
    pub slot: Arc<Slot>,
    /// When it was opened.
    pub opened: Instant,
    /// When it last came back.
    pub returned: Instant,
    /// How often it was lent.
    pub uses: u64,
    /// In which of the server's lives it was opened: a restart or a change of role begins a new one.
    pub epoch: u64,
    /// Which schema epoch its statements belong to.
    pub schema_epoch: u64,
    /// Statements named so far.
    named: u64,
    /// Prepared, and neither kept nor closed yet: their caller uses them now, or has left.
    loose: Vec<String>,
}

impl Session {
    /// Takes a dialled session into service.
    pub fn new(dialled: Dialled, mut entry: Entry, prepared_statements: usize, epoch: u64, schema_epoch: u64) -> Self {
        entry.set(State::Idle);
        let now = Instant::now();
        let pid = dialled.observed.pid();
        let slot = Slot::new(entry.line(), Arc::clone(&dialled.wire), dialled.client.cancel_token(), pid);
        Self {
            slot: Arc::new(slot),
            channel: Channel::new(dialled.wire, Arc::clone(&dialled.observed)),
            client: dialled.client,
            observed: dialled.observed,
            prepared: PreparedCache::new(prepared_statements),
            entry,
            opened: now,
            returned: now,
            uses: 0,
            epoch,
            schema_epoch,
            named: 0,
            loose: Vec::new(),
        }
    }

    /// True when the next caller may have it as it is.
    pub fn is_reusable(&self) -> bool {
        !self.channel.is_dead() && self.channel.is_idle()
    }

    /// A name that no statement on this session has had. Whoever prepares under it keeps or closes it in the end.
    pub fn next_name(&mut self) -> String {
        self.named += 1;
        let name = format!("h{}", self.named);
        self.loose.push(name.clone());
        name
    }

    /// Keeps a statement prepared; the one it pushes out is closed along with the next exchange. So only when nothing that was
    /// kept is about to be used.
    pub fn keep(&mut self, key: &str, prepared: &Arc<Prepared>) {
        self.loose.retain(|name| *name != prepared.name);
        for gone in self.prepared.insert(key, Arc::clone(prepared)) {
            self.channel.close_statement(&gone.name);
        }
    }

    /// Closes, along with the next exchange, what was prepared and not kept.
    pub fn close_loose(&mut self) {
        for name in self.loose.drain(..) {
            self.channel.close_statement(&name);
        }
    }

    /// Forgets every statement: the schema has changed.
    pub fn forget_all(&mut self) {
        for gone in self.prepared.clear() {
            self.channel.close_statement(&gone.name);
        }
    }
}
