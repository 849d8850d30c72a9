//! Keeping a database's pools in shape: a sweep each second, for as long as the database is there.
//!
//! What it takes out of the idle ones it puts back before it waits for anything, so that a caller never finds the pool empty
//! because of it; only a session that is asked for a sign of life is away meanwhile.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use super::database::Database;
use super::endpoint::Endpoint;
use super::event::CloseReason;
use super::ledger::State;
use super::postgres::{Session, ask};
use super::queue::Object;
use super::sizing::{self, SWEEP, Surplus};

/// An idle session is asked for a sign of life about this often: firewalls forget silent connections.
const KEEPALIVE: Duration = Duration::from_mins(2);
/// How much sooner or later, so that they do not all ask at once.
const KEEPALIVE_SPREAD: f64 = 0.1;
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// The counts are taken one after the other, and may disagree for a moment. How often they may before it counts.
const LOOKS: u32 = 50;

/// Sweeps from now on.
pub(super) fn start(database: &Arc<Database>) {
    let closing = database.closing.clone();
    let swept = Arc::downgrade(database);
    tokio::spawn(async move {
        closing.run_until_cancelled(run(swept)).await;
    });
}

async fn run(database: Weak<Database>) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        let Some(database) = database.upgrade() else { return };
        database.endpoints().iter().for_each(|endpoint| endpoint.server.journal.flush());
        for endpoint in database.endpoints() {
            sweep(endpoint).await;
        }
    }
}

async fn sweep(endpoint: &Arc<Endpoint>) {
    endpoint.look_for_leaks();
    endpoint.plan();
    endpoint.look_ahead().await;
    endpoint.widen();
    endpoint.idle.sweep();
    let now = Instant::now();
    let mut doubtful = None;
    let mut kept = Vec::new();
    let mut surplus = Surplus::of(endpoint.ledger.total(), endpoint.keep(), endpoint.foresight.added());
    let unasked = surplus.unasked;
    while let Some(object) = endpoint.idle.try_get() {
        match verdict(endpoint, &object, now, &mut surplus) {
            Some(reason) => {
                endpoint.close(object, reason);
            }
            None if doubtful.is_none() && is_silent(&object, now) => doubtful = Some(object),
            None => kept.push(object),
        }
    }
    // Back in the order they lay in: the most recently used on top.
    while let Some(object) = kept.pop() {
        drop(object);
    }
    endpoint.foresight.note_gone(unasked - surplus.unasked, endpoint.ledger.total());
    endpoint.open_ahead(endpoint.warm());
    if let Some(object) = doubtful {
        prove(endpoint, object).await;
    }
    conserved(endpoint).await;
}

fn verdict(endpoint: &Endpoint, session: &Session, now: Instant, surplus: &mut Surplus) -> Option<CloseReason> {
    if let Some(reason) = endpoint.unfit(session) {
        return Some(reason);
    }
    let age = now - session.opened;
    let lifetime = endpoint.max_lifetime();
    // Also past its lifetime it waits for its turn: those that were opened together would go together.
    if sizing::is_old(age, lifetime) && endpoint.may_retire(now) {
        return Some(CloseReason::Lifetime);
    }
    let idle = now - session.returned;
    if endpoint.ledger.total() > endpoint.limit() {
        return Some(CloseReason::Shrink);
    }
    surplus.lets_go(idle).then_some(CloseReason::Idle)
}

/// Unused for about as long as a firewall remembers. The spread is each session's own, by its age to the microsecond.
fn is_silent(session: &Session, now: Instant) -> bool {
    let own = f64::from(session.opened.elapsed().subsec_micros()) / 1_000_000.0;
    let spread = 1.0 + KEEPALIVE_SPREAD * (2.0 * own - 1.0);
    now - session.returned > KEEPALIVE.mul_f64(spread)
}

async fn prove(endpoint: &Arc<Endpoint>, mut object: Object<Session>) {
    object.entry.set(State::Cleaning);
    if let Ok(Ok(())) = timeout(SIGN_OF_LIFE, ask::command(&mut object.channel, "")).await {
        endpoint.checkin(object);
    } else {
        endpoint.sick();
        endpoint.close(object, CloseReason::BackendClosed);
    }
}

/// Every session is somewhere, and every socket has a session.
async fn conserved(endpoint: &Endpoint) {
    for _ in 0..LOOKS {
        endpoint.lanes.bury(endpoint);
        if endpoint.is_conserved() {
            return endpoint.note_conserved(true);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    endpoint.note_conserved(false);
}
