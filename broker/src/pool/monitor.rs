//! A watch over one server on a connection of its own: is it there, what is it, how much room has it?
//!
//! It runs from the first use of the server, and lets go of its connection when nobody has used the server for long. Whoever finds
//! something odd nudges it to look at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::time::{Instant, sleep, timeout};

use super::budget::Capacity;
use super::endpoint::Endpoint;
use super::event::ErrorReason;
use super::postgres::Channel;
use super::postgres::capacity::{self, Report};
use super::server::{Reading, Role, Server, Standing};

/// Between two looks where nobody chooses between servers: for the room alone.
const CALM: Duration = Duration::from_secs(10);
/// Between two looks where roles matter.
const ALERT: Duration = Duration::from_secs(1);
/// Between two looks at a server that is out of reach.
const AWAY: Duration = Duration::from_millis(333);
/// The shortest time between two looks, however often it is nudged.
const BREATH: Duration = Duration::from_millis(50);
/// The longest an answer may take. A server that is busy is not away; one that was killed says so at once.
const ANSWER: Duration = Duration::from_secs(3);
/// Unused for so long, a server costs no connection any more.
const DORMANT: Duration = Duration::from_mins(5);

/// A connection that only asks.
struct Watch {
    channel: Channel,
    _client: ClientWrapper,
}

/// Watches the server from now on, unless somebody does.
pub(super) fn start(server: &Arc<Server>) {
    if !server.watched.swap(true, Ordering::AcqRel) {
        tokio::spawn(run(Arc::downgrade(server)));
    }
}

async fn run(server: Weak<Server>) {
    let mut watch = None;
    loop {
        let Some(server) = server.upgrade() else { return };
        if server.is_left() {
            return;
        }
        look(&server, &mut watch).await;
        sleep(BREATH).await;
        let pause = pause(&server, watch.is_some());
        if server.unused() > DORMANT && !server.members().iter().any(|member| member.config.min > 0) {
            watch = None;
            server.note_room(Reading::Unknown);
            server.nudge.notified().await;
        } else {
            let _ = timeout(pause, server.nudge.notified()).await;
        }
    }
}

fn pause(server: &Server, is_there: bool) -> Duration {
    match (is_there, server.has_peers.load(Ordering::Relaxed)) {
        (false, _) => AWAY,
        (true, true) => ALERT,
        (true, false) => CALM,
    }
}

async fn look(server: &Arc<Server>, watch: &mut Option<Watch>) {
    let members = server.members();
    let Some(first) = members.first() else { return };
    if watch.is_none()
        && let Some(member) = members.iter().find(|member| member.opening.logins.permit().is_ok())
    {
        *watch = open(member).await;
    }
    let Some(held) = watch else { return away(server) };
    match timeout(ANSWER, capacity::ask(&mut held.channel, first.connector.mark())).await {
        Ok(Ok(Some(report))) => {
            note(server, &report);
            let capacity = Capacity {
                max_connections: report.max_connections,
                reserved: report.reserved,
                others: report.clients.saturating_sub(report.hearth),
                ours: report.ours,
                used: report.clients,
                brokers: report.brokers.max(1),
            };
            server.note_room(Reading::Told(capacity));
        }
        Ok(Ok(None)) => server.note_room(Reading::Untold),
        Ok(Err(_)) | Err(_) => {
            *watch = None;
            away(server);
        }
    }
}

async fn open(endpoint: &Arc<Endpoint>) -> Option<Watch> {
    match endpoint.connector.watching().dial(None).await {
        Ok(dialled) => {
            endpoint.let_in();
            let channel = Channel::new(dialled.wire, dialled.observed);
            Some(Watch { channel, _client: dialled.client })
        }
        Err(error) => {
            tracing::debug!(server.address = %endpoint.address, error = %error, "`{}` cannot be watched", endpoint.address);
            if ErrorReason::of(&error) == ErrorReason::Login {
                endpoint.refused(&error);
            } else {
                endpoint.opening.logins.release();
            }
            None
        }
    }
}

/// Out of reach: its role is not known any more, its sessions may still be good.
fn away(server: &Server) {
    server.note_room(Reading::Failed);
    server.standing.send_if_modified(|standing| {
        let changed = standing.role != Role::Unknown;
        standing.role = Role::Unknown;
        changed
    });
}

fn note(server: &Server, report: &Report) {
    let before = server.standing();
    let role = if report.in_recovery { Role::Replica } else { Role::Primary };
    let restarted = before.started_ms != report.started_ms;
    let new_timeline = before.timeline > 0 && report.timeline > before.timeline;
    let new_life = before.at.is_some() && (restarted || before.was != role || new_timeline);
    let standing = Standing {
        role,
        was: role,
        epoch: before.epoch + u64::from(new_life),
        started_ms: report.started_ms,
        lsn: report.lsn,
        timeline: if report.timeline > 0 { report.timeline } else { before.timeline },
        began_at: if new_life && role == Role::Primary { report.lsn } else { before.began_at },
        replay_age: if report.in_recovery { report.replay_age } else { Duration::ZERO },
        at: Some(Instant::now()),
    };
    if new_life {
        let (address, role) = (server.address(), role.as_str());
        tracing::info!(server.address = %address, server.role = role, "`{address}` began a new life as {role}: its connections are replaced");
    }
    server.standing.send_replace(standing);
    for member in server.members() {
        member.answered(before.role == Role::Unknown);
    }
}
