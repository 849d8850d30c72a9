//! One PostgreSQL server, shared by every pool that logs in there: what it is now, and how many connections it has room for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::budget::{Budget, Capacity, Grant};
use super::decision::{ServerInputs, Trigger};
use super::endpoint::Endpoint;
use super::journal::Journal;
use super::share::{Claim, fair_shares};

/// Connections to one server that may be in the making at once, over all pools: sign-in costs it more than a statement.
const CONNECTS_AT_ONCE: usize = 16;
/// Connections that may be opened before the server's room is known: without any nobody could ask for it.
const FIRST_CONNECTS: usize = 2;
/// Without news of the server's room so many may try in this time: only trying shows whether it is back.
const BLIND_PAUSE: Duration = Duration::from_millis(500);

/// A look is fresh for so long.
const FRESH: Duration = Duration::from_secs(1);

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not asked yet, or out of reach since it was last asked.
    Unknown,
    /// It takes writes.
    Primary,
    /// It follows one that does.
    Replica,
}

impl Role {
    /// The role as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// What a server said of itself when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its role. It is unknown while the server is out of reach.
    pub role: Role,
    /// Its role when it was last heard of.
    pub was: Role,
    /// When it was started, by its own clock. Unit: milliseconds since 1970.
    pub started_ms: u64,
    /// Which of its lives this is: a restart, a promotion, a new timeline begin another.
    pub epoch: u64,
    /// The last position written, or replayed, that is known for certain.
    pub lsn: u64,
    /// The timeline; 0 where it could not be read.
    pub timeline: u32,
    /// Where the timeline began for this life: what was acknowledged on an earlier one beyond it is lost.
    pub began_at: u64,
    /// How long ago the last replayed transaction was committed; zero on a primary.
    pub replay_age: Duration,
    /// When this was said.
    pub at: Option<Instant>,
}

/// One server.
pub struct Server {
    address: String,
    /// Of all the broker's servers.
    pub(super) journal: Arc<Journal>,
    /// Turns at opening a connection.
    pub(super) gate: Semaphore,
    pub(super) standing: watch::Sender<Standing>,
    room: Mutex<Room>,
    members: Mutex<Vec<Weak<Endpoint>>>,
    /// Asks the monitor to look now.
    pub(super) nudge: Notify,
    pub(super) watched: AtomicBool,
    /// Somebody chooses between this server and others, so that its role matters.
    pub(super) has_peers: AtomicBool,
    pub(super) peak_connects: AtomicUsize,
    pub(super) used: Mutex<Instant>,
}

/// The servers of one broker, by address, for as long as somebody has them, and what happened on them.
#[derive(Default)]
pub struct Servers {
    known: Mutex<HashMap<String, Weak<Server>>>,
    journal: Arc<Journal>,
}

impl Servers {
    /// The server at `address`, the same one for everybody who asks.
    pub fn at(&self, address: &str) -> Arc<Server> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = known.get(address).and_then(Weak::upgrade) {
            return server;
        }
        known.retain(|_, server| server.strong_count() > 0);
        let server = Server::new(address.to_owned(), Arc::clone(&self.journal));
        known.insert(address.to_owned(), Arc::downgrade(&server));
        server
    }

    /// What happened lately.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }
}

/// What is known of the server's room.
#[derive(Default)]
struct Room {
    reading: Reading,
    budget: Option<Budget>,
    grant: Option<Grant>,
    first: usize,
    blind: Option<Instant>,
}

/// The last look at the server's room.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Reading {
    /// None yet.
    #[default]
    Unknown,
    /// The server is out of reach.
    Failed,
    /// It answers but does not tell: something else than PostgreSQL stands there. The configured ceilings alone hold.
    Untold,
    /// It told.
    Told(Capacity),
}

impl Room {
    /// True once in a while.
    fn try_blind(&mut self, now: Instant) -> bool {
        let due = self.blind.is_none_or(|last| now - last >= BLIND_PAUSE);
        if due {
            self.blind = Some(now);
        }
        due
    }
}

impl Server {
    /// A server that was not looked at yet.
    pub fn new(address: String, journal: Arc<Journal>) -> Arc<Self> {
        let standing = Standing {
            role: Role::Unknown,
            was: Role::Unknown,
            started_ms: 0,
            epoch: 1,
            lsn: 0,
            timeline: 0,
            began_at: 0,
            replay_age: Duration::ZERO,
            at: None,
        };
        Arc::new(Self {
            address,
            journal,
            gate: Semaphore::new(CONNECTS_AT_ONCE),
            standing: watch::Sender::new(standing),
            room: Mutex::default(),
            members: Mutex::default(),
            nudge: Notify::new(),
            watched: AtomicBool::new(false),
            has_peers: AtomicBool::new(false),
            peak_connects: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
        })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it last said of itself.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Which of its lives it is in.
    pub fn epoch(&self) -> u64 {
        self.standing.borrow().epoch
    }

    /// The last look at its room; `None` where there was none, or it does not tell.
    pub fn capacity(&self) -> Option<(Capacity, Budget)> {
        let room = self.room();
        match (room.reading, room.budget) {
            (Reading::Told(capacity), Some(budget)) => Some((capacity, budget)),
            _ => None,
        }
    }

    /// What sizes are decided from.
    pub(super) fn inputs(&self) -> Option<ServerInputs> {
        let (capacity, budget) = self.capacity()?;
        let grant = self.room().grant.map_or(0, |grant| grant.left(Instant::now()));
        Some(ServerInputs {
            max_connections: capacity.max_connections,
            reserved: capacity.reserved,
            others: capacity.others,
            used: capacity.used,
            brokers: capacity.brokers,
            budget: budget.connections,
            grant,
        })
    }

    pub(super) fn join(&self, endpoint: &Arc<Endpoint>) {
        self.lock_members().push(Arc::downgrade(endpoint));
    }

    /// The endpoint uses it no longer.
    pub(super) fn leave(&self, endpoint: &Arc<Endpoint>) {
        self.lock_members().retain(|member| !is(member, endpoint) && member.strong_count() > 0);
        self.nudge.notify_one();
    }

    /// The endpoint is on its way out: where there are others, the server is watched by their login and not by its own.
    pub(super) fn demote(&self, endpoint: &Arc<Endpoint>) {
        self.lock_members().sort_by_key(|member| is(member, endpoint));
    }

    /// True when nobody is left who uses it: its monitor ends. Whoever comes next begins another.
    pub(super) fn is_left(&self) -> bool {
        // Under the lock: who joins after this sees that nobody watches.
        let members = self.lock_members();
        let left = members.iter().all(|member| member.strong_count() == 0);
        if left {
            self.watched.store(false, Ordering::Release);
        }
        left
    }

    pub(super) fn members(&self) -> Vec<Arc<Endpoint>> {
        self.lock_members().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock_members(&self) -> MutexGuard<'_, Vec<Weak<Endpoint>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a new look at the server's room, and divides it between the pools anew.
    pub(super) fn note_room(&self, reading: Reading) {
        {
            let mut room = self.room();
            room.reading = reading;
            room.first = 0;
            let told = if let Reading::Told(capacity) = reading { Some(capacity) } else { None };
            room.budget = told.map(|capacity| Budget::of(&capacity));
            let now = Instant::now();
            let last = room.grant;
            room.grant = told.map(|capacity| match last {
                Some(grant) => grant.renewed(&capacity, now),
                None => Grant::new(&capacity, now),
            });
        }
        self.share();
        for endpoint in self.members() {
            endpoint.want();
        }
    }

    /// Takes one connection out of the current grant; a pool that has none at all may try now and then without. False: not now;
    /// the monitor is asked, and wakes those who want more.
    pub(super) fn take_grant(&self, has_none: bool) -> bool {
        let mut room = self.room();
        let now = Instant::now();
        let granted = match room.reading {
            Reading::Untold => true,
            Reading::Unknown => {
                room.first += 1;
                room.first <= FIRST_CONNECTS
            }
            Reading::Failed => room.try_blind(now),
            Reading::Told(_) => {
                room.grant.as_mut().is_some_and(|grant| grant.take(now)) || (has_none && room.try_blind(now))
            }
        };
        drop(room);
        if !granted {
            self.nudge.notify_one();
        }
        granted
    }

    /// Divides the budget between the pools: each its minimum, then the smaller demands first.
    pub(super) fn share(&self) {
        let Some((_, budget)) = self.capacity() else {
            for endpoint in self.members() {
                endpoint.set_limit(endpoint.config.max as usize, Trigger::Share);
            }
            return;
        };
        let members = self.members();
        let claims: Vec<Claim> = members.iter().map(|endpoint| endpoint.claim()).collect();
        for (endpoint, share) in members.iter().zip(fair_shares(budget.connections, &claims)) {
            endpoint.set_limit(share.max(1), Trigger::Share);
        }
    }

    /// Asks for a new look, unless the last one is fresh.
    pub(super) fn look_if_old(&self) {
        if self.standing().at.is_none_or(|at| at.elapsed() > FRESH) {
            self.nudge.notify_one();
        }
    }

    /// Somebody uses it.
    pub(super) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nobody has used it.
    pub(super) fn unused(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The most connections that were ever in the making at once.
    pub fn peak_connects(&self) -> usize {
        self.peak_connects.load(Ordering::Relaxed)
    }
}

fn is(member: &Weak<Endpoint>, endpoint: &Arc<Endpoint>) -> bool {
    std::ptr::eq(member.as_ptr(), Arc::as_ptr(endpoint))
}
