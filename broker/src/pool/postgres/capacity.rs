//! What one question tells of a server: its role and position, and its room for connections.

use std::time::Duration;

use super::ask::{self, AskError};
use super::channel::Channel;
use super::presence::{MARK_LENGTH, SIGN};

/// One row, everything as text. Whoever may connect may ask: `application_name` and `datid` of other roles' sessions are shown to
/// all. Only client sessions have a `datid` and count against `max_connections`; parallel workers have one too and are counted,
/// which errs on the safe side.
const QUESTION: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
          ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 \
          ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END, \
     coalesce(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()), 0), \
     pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()), \
     pg_catalog.current_setting('max_connections'), \
     pg_catalog.current_setting('superuser_reserved_connections')::int \
         + coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0), \
     a.clients, a.hearth, a.ours, a.brokers \
     FROM (SELECT pg_catalog.count(*) AS clients, \
         pg_catalog.count(*) FILTER (WHERE application_name LIKE '%' || $1 || '________') AS hearth, \
         pg_catalog.count(*) FILTER (WHERE application_name LIKE '%' || $1 || $2) AS ours, \
         pg_catalog.count(DISTINCT pg_catalog.right(application_name, 8)) \
             FILTER (WHERE application_name LIKE '%' || $1 || '________') AS brokers \
       FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL) a";

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// It follows another server.
    pub in_recovery: bool,
    /// Written, or replayed, so far.
    pub lsn: u64,
    /// 0 on a replica, which does not tell.
    pub timeline: u32,
    /// Since the last replayed transaction was committed.
    pub replay_age: Duration,
    /// When it started; only good for telling two lives apart.
    pub started_ms: u64,
    /// The server's setting.
    pub max_connections: usize,
    /// Of these, for superusers and other reserved roles.
    pub reserved: usize,
    /// Sessions of clients.
    pub clients: usize,
    /// Sessions of brokers.
    pub hearth: usize,
    /// Sessions of this broker.
    pub ours: usize,
    /// Brokers, this one included.
    pub brokers: usize,
}

/// Asks the server. `Ok(None)`: it answers, but not as PostgreSQL would. Errors: the connection is over.
pub async fn ask(channel: &mut Channel, mark: &str) -> Result<Option<Report>, AskError> {
    debug_assert_eq!(mark.len(), MARK_LENGTH, "the question counts on it");
    match ask::rows(channel, QUESTION, &[Some(SIGN), Some(mark)]).await {
        Ok(rows) => Ok(rows.first().and_then(|row| read(row))),
        Err(AskError::Refused(error)) if !error.is_fatal => {
            tracing::debug!(error = %error, "the server does not tell its room");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Where the server's history stands now, for whoever has just written. `None`: it does not tell, as a replica does not.
pub async fn written(channel: &mut Channel) -> Result<Option<u64>, AskError> {
    let rows = ask::rows(channel, "SELECT pg_catalog.pg_current_wal_insert_lsn()", &[]).await?;
    Ok(rows.first().and_then(|row| lsn(row.first()?.as_deref()?)))
}

fn read(row: &[Option<String>]) -> Option<Report> {
    let text = |index: usize| row.get(index)?.as_deref();
    let number = |index: usize| text(index)?.parse::<usize>().ok();
    let seconds = |index: usize| text(index)?.parse::<f64>().ok();
    Some(Report {
        in_recovery: text(0)? == "t",
        lsn: lsn(text(1).unwrap_or("0/0"))?,
        timeline: number(2).and_then(|timeline| u32::try_from(timeline).ok())?,
        replay_age: Duration::try_from_secs_f64(seconds(3)?).unwrap_or_default(),
        started_ms: Duration::try_from_secs_f64(seconds(4)?).ok()?.as_millis().try_into().ok()?,
        max_connections: number(5)?,
        reserved: number(6)?,
        clients: number(7)?,
        hearth: number(8)?,
        ours: number(9)?,
        brokers: number(10)?,
    })
}

/// A position in the write-ahead log, from PostgreSQL's own notation: `16/B374D848`.
pub fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |hex: &str| u64::from_str_radix(hex, 16).ok().filter(|_| hex.len() <= 8);
    Some(part(high)? << 32 | part(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_the_server_writes_it() {
        assert_eq!(lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(lsn("0/0"), Some(0));
        for wrong in ["", "16", "x/1", "1/123456789"] {
            assert_eq!(lsn(wrong), None, "{wrong}");
        }
    }
}
