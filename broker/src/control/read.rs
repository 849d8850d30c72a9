//! Reading all tenants, and then those that have changed.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Row};

use super::rows::Kept;
use super::{ControlError, Session, StoredKey, StoredTenant};
use crate::base::{KeyId, TenantId};
use crate::config::Fault;

/// A look takes a millisecond. One that takes so long is a network that has gone silent.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// A hundred thousand tenants take less than a second.
const LOAD: Duration = Duration::from_mins(1);

/// What the revision says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Another one: everything may be different.
    epoch: String,
    /// The number of the last change.
    pub seq: i64,
}

/// One tenant that has changed.
pub struct Change {
    /// Which.
    pub name: TenantId,
    /// What it is now; `None`: it is gone.
    pub row: Option<StoredTenant>,
}

/// What has changed, as of one moment.
pub struct Snapshot {
    /// When.
    pub revision: Revision,
    /// These are all tenants: others are gone.
    pub is_whole: bool,
    /// The tenants.
    pub changes: Vec<Change>,
}

/// What is known from earlier reads, over sessions.
#[derive(Default)]
pub struct Memory {
    seen: Option<Revision>,
    kept: Kept,
}

impl Memory {
    /// The snapshot is in force.
    pub fn took(&mut self, revision: Revision) {
        self.seen = Some(revision);
    }

    /// True if something was read before.
    pub fn is_loaded(&self) -> bool {
        self.seen.is_some()
    }
}

/// Reads from the control database.
pub struct Reader {
    pub(super) session: Session,
}

const REVISION: &str = "SELECT epoch::text, seq FROM hearth.revision";
/// Names first, and then their rows by name: a server that has not looked at its tables yet cannot tell how few have changed,
/// and would read all of them.
const CHANGED: &str = "SELECT tenant FROM hearth.changes WHERE seq > $1";
/// With so many, all are read, which is one pass over each table.
const MANY: usize = 10_000;
/// Both in the order of names, so that keys find their tenants in one pass.
const ALL: [&str; 2] = [
    "SELECT t.name, true, t.suspended_at IS NOT NULL, p.body::text \
     FROM hearth.tenants t LEFT JOIN hearth.policies p ON p.tenant = t.name WHERE $1::text[] IS NULL ORDER BY t.name",
    "SELECT tenant, id, sha256, scopes, statements, expires, not_before FROM hearth.keys \
     WHERE revoked_at IS NULL AND $1::text[] IS NULL ORDER BY tenant, id",
];
const NAMED: [&str; 2] = [
    "SELECT n.name, t.name IS NOT NULL, t.suspended_at IS NOT NULL, p.body::text FROM unnest($1) AS n(name) \
     LEFT JOIN hearth.tenants t ON t.name = n.name LEFT JOIN hearth.policies p ON p.tenant = n.name ORDER BY n.name COLLATE \"C\"",
    "SELECT tenant, id, sha256, scopes, statements, expires, not_before FROM hearth.keys \
     WHERE revoked_at IS NULL AND tenant = ANY($1) ORDER BY tenant, id",
];

impl Reader {
    pub(super) fn new(session: Session) -> Self {
        Self { session }
    }

    /// Asks to be told of changes. Where that cannot be (a standby, a pooler), looking now and then has to do.
    pub async fn listen(&self) -> Result<(), ControlError> {
        let listened = self.session.client.batch_execute("LISTEN hearth_changes");
        match timeout(LOOK, listened).await.map_err(|_| ControlError::TimedOut(LOOK))? {
            Err(error) if error.as_db_error().is_some() => {
                tracing::info!(error = %crate::base::chain(&error), "the control database tells no changes; they are looked for");
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    /// Resolves when there may be something new, the session's end included.
    pub async fn told(&self) {
        self.session.told.notified().await;
    }

    /// What has changed since what is remembered; all, if nothing is. `None`: nothing.
    pub async fn look(&mut self, memory: &mut Memory) -> Result<Option<Snapshot>, ControlError> {
        let asked = self.session.client.query_typed(REVISION, &[]);
        let rows = timeout(LOOK, asked).await.map_err(|_| ControlError::TimedOut(LOOK))??;
        if memory.seen.as_ref() == Some(&revision(&rows)?) {
            return Ok(None);
        }
        timeout(LOAD, self.load(memory)).await.map_err(|_| ControlError::TimedOut(LOAD))?.map(Some)
    }

    async fn load(&mut self, memory: &mut Memory) -> Result<Snapshot, ControlError> {
        let builder = self.session.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let transaction = builder.read_only(true).start().await?;
        let now = revision(&transaction.query_typed(REVISION, &[]).await?)?;
        // Smaller than it was: an older backup was restored.
        let since =
            memory.seen.as_ref().filter(|seen| seen.epoch == now.epoch && seen.seq <= now.seq).map(|seen| seen.seq);
        let mut names: Option<Vec<String>> = None;
        if let Some(since) = since {
            let rows = transaction.query_typed(CHANGED, &[(&since, Type::INT8)]).await?;
            let changed: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
            names = Some(changed?).filter(|names| names.len() <= MANY);
        }
        let is_whole = names.is_none();
        let [tenants, keys] = if is_whole { ALL } else { NAMED };
        let kept = &mut memory.kept;
        let mut changes = Vec::new();
        {
            let mut rows = pin!(transaction.query_typed_raw(tenants, [(&names, Type::TEXT_ARRAY)]).await?);
            while let Some(row) = rows.try_next().await? {
                changes.push(change(&row, kept)?);
            }
        }
        let mut rows = pin!(transaction.query_typed_raw(keys, [(&names, Type::TEXT_ARRAY)]).await?);
        let mut of = KeysOf::default();
        while let Some(row) = rows.try_next().await? {
            let tenant: &str = row.try_get(0)?;
            if changes.get(of.at).is_none_or(|change| change.name.as_str() != tenant) {
                of.give(&mut changes);
                while changes.get(of.at).is_some_and(|change| change.name.as_str() < tenant) {
                    of.at += 1;
                }
            }
            let id: &str = row.try_get(1)?;
            match kept.key(id, &row, 2) {
                Ok(key) => of.keys.push(key),
                Err(fault) => of.bad.push((KeyId::new(id), fault)),
            }
        }
        of.give(&mut changes);
        Ok(Snapshot { revision: now, is_whole, changes })
    }
}

/// The keys of the tenant at hand.
#[derive(Default)]
struct KeysOf {
    at: usize,
    keys: Vec<StoredKey>,
    bad: Vec<(KeyId, Fault)>,
}

impl KeysOf {
    fn give(&mut self, changes: &mut [Change]) {
        let (keys, bad) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.bad));
        if let Some(tenant) = changes.get_mut(self.at).and_then(|change| change.row.as_mut()) {
            (tenant.keys, tenant.bad_keys) = (keys.into(), bad.into());
        }
    }
}

fn revision(rows: &[Row]) -> Result<Revision, ControlError> {
    let row = rows.first().ok_or_else(|| ControlError::Settings("`hearth.revision` has lost its row".to_owned()))?;
    Ok(Revision { epoch: row.try_get(0)?, seq: row.try_get(1)? })
}

fn change(row: &Row, kept: &mut Kept) -> Result<Change, ControlError> {
    let name = TenantId::new(row.try_get(0)?);
    if !row.try_get::<_, bool>(1)? {
        return Ok(Change { name, row: None });
    }
    let (suspended, policy) = (row.try_get(2)?, kept.policy(row.try_get(3)?));
    let (keys, bad_keys) = (Box::default(), Box::default());
    Ok(Change { name: name.clone(), row: Some(StoredTenant { name, policy, keys, bad_keys, suspended }) })
}
