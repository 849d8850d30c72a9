//! Which server a request goes to: writes to the primary, reads to the cheapest replica that is near enough to it in time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::load::power_of_two;
use super::postgres::capacity::lsn;
use super::server::{Role, Standing};

/// How much cheaper a server of another zone must be to be preferred.
const FAR: f64 = 2.0;

/// What a caller wants of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// To write, or to read what was written last.
    Write,
    /// To read what is at least as new as this.
    Read(Option<Consistency>),
}

/// A moment in a database's history, given out after a write and sent along with a later read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consistency {
    /// The timeline that was written on.
    pub timeline: u32,
    /// A position at or after the write's commit.
    pub lsn: u64,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{:X}.{:X}/{:X}", self.timeline, self.lsn >> 32, self.lsn & 0xFFFF_FFFF)
    }
}

impl FromStr for Consistency {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (timeline, position) = text.strip_prefix("v1.").and_then(|rest| rest.split_once('.')).ok_or(())?;
        let timeline = u32::from_str_radix(timeline, 16).map_err(|_| ())?;
        Ok(Self { timeline, lsn: lsn(position).ok_or(())? })
    }
}

/// The rules of one database.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The broker's zone.
    pub zone: Option<String>,
    /// Replicas further behind are not read from.
    pub max_lag: Duration,
}

/// The endpoint that takes writes: of those that say so the one on the latest timeline, since an old primary that came back
/// does not know that it was replaced.
pub fn primary(endpoints: &[Arc<Endpoint>]) -> Option<&Arc<Endpoint>> {
    let primaries = endpoints.iter().map(|endpoint| (endpoint, endpoint.server.standing()));
    let primaries = primaries.filter(|(_, standing)| standing.role == Role::Primary);
    // The highest timeline ever seen by any of them: a primary below it was replaced, even while its successor is away.
    let latest = endpoints.iter().map(|endpoint| endpoint.server.standing().timeline).max()?;
    primaries
        .filter(|(_, standing)| standing.timeline >= latest)
        .max_by_key(|(_, s)| (s.timeline, s.lsn))
        .map(|(e, _)| e)
}

/// The replica to read from; `None` where the primary serves better.
pub fn replica<'e>(
    endpoints: &'e [Arc<Endpoint>],
    rules: &Rules,
    at_least: Option<Consistency>,
    tried: &[Arc<Endpoint>],
) -> Option<&'e Arc<Endpoint>> {
    let written = primary(endpoints).map(|primary| primary.server.standing().lsn);
    let fit = |endpoint: &&Arc<Endpoint>| {
        !tried.iter().any(|one| Arc::ptr_eq(one, endpoint))
            && endpoint.is_usable()
            && is_new_enough(&endpoint.server.standing(), written, rules.max_lag, at_least)
    };
    let fit: Vec<&Arc<Endpoint>> = endpoints.iter().filter(fit).collect();
    power_of_two(&mut rand::rng(), &fit, |endpoint| cost(endpoint, rules)).copied()
}

fn cost(endpoint: &Endpoint, rules: &Rules) -> f64 {
    let near = rules.zone.is_none() || endpoint.zone.is_none() || endpoint.zone == rules.zone;
    endpoint.load.cost(endpoint.in_use()) * if near { 1.0 } else { FAR }
}

/// A replica's position only grows, so what it said last holds at least.
fn is_new_enough(standing: &Standing, written: Option<u64>, max_lag: Duration, at_least: Option<Consistency>) -> bool {
    // An idle primary gives nothing to replay: who has everything is not behind, however old that is.
    let has_all = written.is_some_and(|written| standing.lsn >= written);
    standing.role == Role::Replica
        && (has_all || standing.replay_age <= max_lag)
        && at_least.is_none_or(|token| standing.lsn >= token.lsn)
}

/// True where an acknowledged write up to `token` is lost: a failover went on from an earlier moment.
pub fn is_lost(primary: &Standing, token: Consistency) -> bool {
    token.timeline < primary.timeline && primary.began_at > 0 && token.lsn > primary.began_at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(role: Role, lsn: u64, age_s: u64) -> Standing {
        let replay_age = Duration::from_secs(age_s);
        Standing { role, was: role, started_ms: 0, epoch: 1, lsn, timeline: 1, began_at: 0, replay_age, at: None }
    }

    #[test]
    fn a_token_reads_as_it_was_written() {
        let token = Consistency { timeline: 3, lsn: 0x16_B374_D848 };
        assert_eq!(token.to_string(), "v1.3.16/B374D848");
        assert_eq!(token.to_string().parse(), Ok(token));
        for wrong in ["", "v1.", "v1.3", "v2.3.1/2", "v1.x.1/2", "v1.3.12"] {
            assert_eq!(wrong.parse::<Consistency>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_replica_behind_the_token_or_behind_for_long_is_not_read_from() {
        let lag = Duration::from_secs(10);
        let token = |lsn| Some(Consistency { timeline: 1, lsn });
        assert!(is_new_enough(&standing(Role::Replica, 100, 1), Some(200), lag, None));
        assert!(!is_new_enough(&standing(Role::Replica, 100, 11), Some(200), lag, None), "too far behind");
        assert!(is_new_enough(&standing(Role::Replica, 200, 3600), Some(200), lag, None), "nothing to replay");
        assert!(is_new_enough(&standing(Role::Replica, 100, 1), Some(200), lag, token(100)));
        assert!(!is_new_enough(&standing(Role::Replica, 100, 1), Some(200), lag, token(101)));
        assert!(!is_new_enough(&standing(Role::Unknown, 300, 0), Some(200), lag, None), "out of reach");
    }

    #[test]
    fn what_a_failover_has_lost_is_told() {
        let mut now = standing(Role::Primary, 500, 0);
        (now.timeline, now.began_at) = (2, 300);
        assert!(is_lost(&now, Consistency { timeline: 1, lsn: 301 }));
        assert!(!is_lost(&now, Consistency { timeline: 1, lsn: 300 }));
        assert!(!is_lost(&now, Consistency { timeline: 2, lsn: 501 }), "written after it");
    }
}
