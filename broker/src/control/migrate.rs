//! The schema `hearth` of the control database: numbered steps, each applied once, all in one transaction.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, GenericClient};

use super::ControlError;
use crate::base::hex::hex;

/// One step. What was released never changes; a change is another step.
pub struct Migration {
    /// Counted from 1 without a gap.
    pub version: i32,
    /// What it is about.
    pub name: &'static str,
    sql: &'static str,
}

impl Migration {
    /// The statements.
    pub fn sql(&self) -> &'static str {
        self.sql
    }

    fn sha256(&self) -> String {
        hex(&Sha256::digest(self.sql.as_bytes()))
    }
}

/// Every step, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "tenants", sql: include_str!("migrations/0001_tenants.sql") },
    Migration { version: 2, name: "uses", sql: include_str!("migrations/0002_uses.sql") },
];

/// Brokers and people who migrate at the same time wait for each other here. Any number that nothing else uses: "hearth", 1.
const LOCK: i64 = 0x6865_6172_7468_0001;

/// Where the schema is, before anything of it is there.
const OWN_TABLE: &str = "CREATE TABLE IF NOT EXISTS hearth.migrations (
    version int PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// One step and when it was applied.
pub struct Step {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// When it was applied; `None`: not yet.
    pub applied_at: Option<Timestamp>,
}

fn newest() -> i32 {
    MIGRATIONS.last().map_or(0, |last| last.version)
}

/// Applies what is missing, or with `dry_run` only tries: the server runs it all and takes it back. Errors: nothing has changed.
pub async fn run(client: &mut Client, dry_run: bool) -> Result<Vec<&'static Migration>, ControlError> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // A role that has the schema need not be one that could make it.
    if !exists(&transaction, "SELECT to_regnamespace('hearth') IS NOT NULL").await? {
        transaction.batch_execute("CREATE SCHEMA hearth").await?;
    }
    if !exists(&transaction, "SELECT to_regclass('hearth.migrations') IS NOT NULL").await? {
        transaction.batch_execute(OWN_TABLE).await?;
    }
    let applied = applied(&transaction).await?;
    let mut made = Vec::new();
    for migration in MIGRATIONS {
        if let Some((_, name, sha256, _)) = applied.iter().find(|(version, ..)| *version == migration.version) {
            if *sha256 != migration.sha256() {
                return Err(ControlError::OtherMigration { version: migration.version, name: name.clone() });
            }
            continue;
        }
        transaction.batch_execute(migration.sql).await?;
        let note = "INSERT INTO hearth.migrations (version, name, sha256) VALUES ($1, $2, $3)";
        transaction.execute(note, &[&migration.version, &migration.name, &migration.sha256()]).await?;
        made.push(migration);
    }
    if dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(made)
}

/// Every step that is known here or there.
pub async fn status(client: &Client) -> Result<Vec<Step>, ControlError> {
    let applied = if has_schema(client).await? { applied(client).await? } else { Vec::new() };
    let mut steps: Vec<Step> = applied
        .into_iter()
        .map(|(version, name, _, applied_at)| Step { version, name, applied_at: Some(applied_at) })
        .collect();
    for migration in MIGRATIONS {
        if !steps.iter().any(|step| step.version == migration.version) {
            steps.push(Step { version: migration.version, name: migration.name.to_owned(), applied_at: None });
        }
    }
    steps.sort_by_key(|step| step.version);
    Ok(steps)
}

/// Errors: the schema is older than this version needs. A newer one serves: steps only add, so that brokers of two versions
/// can run side by side.
pub(super) async fn must_be_current(client: &Client) -> Result<(), ControlError> {
    let found = if has_schema(client).await? {
        client.query_one("SELECT coalesce(max(version), 0) FROM hearth.migrations", &[]).await?.try_get(0)?
    } else {
        0
    };
    if found >= newest() { Ok(()) } else { Err(ControlError::NotMigrated { found, needed: newest() }) }
}

async fn has_schema(client: &Client) -> Result<bool, ControlError> {
    exists(client, "SELECT to_regclass('hearth.migrations') IS NOT NULL").await
}

async fn exists(client: &impl GenericClient, sql: &str) -> Result<bool, ControlError> {
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

type Applied = (i32, String, String, Timestamp);

async fn applied(client: &impl GenericClient) -> Result<Vec<Applied>, ControlError> {
    let sql = "SELECT version, name, sha256, applied_at FROM hearth.migrations ORDER BY version";
    let rows = client.query(sql, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_without_a_gap() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=newest()).collect::<Vec<_>>());
    }
}
