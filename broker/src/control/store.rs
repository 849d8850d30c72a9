//! Writing tenants. Each call is one transaction; what is not good is refused before anything is written.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row, Transaction};

use super::error::LOCK_PATIENCE;
use super::keys::check_statements_of_keys;
use super::{ControlError, StoredKeyRow};
use crate::base::similar;
use crate::config::{Known, TenantConfig, is_name, policy_faults, read_policy};

/// Writes to the control database, and reads it for people.
pub struct Store {
    pub(super) client: Client,
    _turn: OwnedSemaphorePermit,
}

/// A tenant as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct StoredTenantRow {
    /// Its name.
    pub name: String,
    /// Databases, caches, settings, limits: as in its section of the file.
    pub policy: Value,
    /// Since when its requests are refused.
    pub suspended_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last, its keys aside.
    pub updated_at: Timestamp,
    /// Grows with each change of it or its keys; the `ETag`.
    pub version: i64,
    /// How many keys it has, without the revoked.
    pub key_count: i64,
}

/// What to change. What is not said stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Laid over the policy as RFC 7396 says: `null` takes a field away.
    pub policy: Option<Value>,
    /// Whether its requests are refused.
    pub suspended: Option<bool>,
}

/// A change that is committed.
#[derive(Debug)]
pub struct Written<T> {
    /// A broker that has seen this number has it in force.
    pub seq: i64,
    /// What is stored now.
    pub stored: T,
}

const TENANT: &str = "SELECT t.name, coalesce(p.body, '{}')::text, t.suspended_at, t.created_at, t.updated_at, \
     coalesce(c.seq, 0), (SELECT count(*) FROM hearth.keys k WHERE k.tenant = t.name AND k.revoked_at IS NULL) \
     FROM hearth.tenants t LEFT JOIN hearth.policies p ON p.tenant = t.name LEFT JOIN hearth.changes c ON c.tenant = t.name";
/// Names that are looked through for one like that which was meant.
const LIKE: &str =
    "SELECT name FROM hearth.tenants WHERE abs(length(name) - length($1)) <= 3 OR starts_with(name, $1) LIMIT 50000";

impl Store {
    pub(super) fn new(client: Client, turn: OwnedSemaphorePermit) -> Self {
        Self { client, _turn: turn }
    }

    /// Tenants in the order of their names, after one and at most so many.
    pub async fn list(&self, after: &str, limit: i64) -> Result<Vec<StoredTenantRow>, ControlError> {
        let sql = format!("{TENANT} WHERE t.name > $1 ORDER BY t.name LIMIT $2");
        let rows = self.client.query(&sql, &[&after, &limit]).await?;
        rows.iter().map(tenant).collect()
    }

    /// One tenant.
    pub async fn tenant(&self, name: &str) -> Result<StoredTenantRow, ControlError> {
        let row = self.client.query_opt(&format!("{TENANT} WHERE t.name = $1"), &[&name]).await?;
        match row {
            Some(row) => tenant(&row),
            None => Err(self.unknown(name).await),
        }
    }

    /// Makes a tenant. Errors: also a policy that is not good.
    pub async fn create(
        &mut self,
        name: &str,
        policy: &Value,
        known: &Known,
    ) -> Result<Written<StoredTenantRow>, ControlError> {
        if !is_name(name) {
            let message = "is 1 to 63 letters, digits, `_` or `-`, since it stands in addresses";
            return Err(ControlError::fault("name", message));
        }
        good(policy, known)?;
        let transaction = begin(&mut self.client).await?;
        let made = transaction.execute("INSERT INTO hearth.tenants (name) VALUES ($1)", &[&name]).await;
        made.map_err(|error| taken(error, name))?;
        write_policy(&transaction, name, policy).await?;
        finish(transaction, name).await
    }

    /// Changes a tenant, if it is at version `wanted` where that is given. Nothing is written where nothing would change.
    pub async fn update(
        &mut self,
        name: &str,
        patch: &Patch,
        wanted: Option<&[i64]>,
        known: &Known,
    ) -> Result<Written<StoredTenantRow>, ControlError> {
        let transaction = begin(&mut self.client).await?;
        let Some(row) = transaction.query_opt(&format!("{TENANT} WHERE t.name = $1"), &[&name]).await? else {
            drop(transaction);
            return Err(self.unknown(name).await);
        };
        let before = tenant(&row)?;
        must_be(&before, wanted)?;
        if let Some(patch) = &patch.policy {
            let mut policy = before.policy.clone();
            merge(&mut policy, patch);
            let read = good(&policy, known)?;
            check_statements_of_keys(&transaction, name, &read, known).await?;
            if policy != before.policy {
                write_policy(&transaction, name, &policy).await?;
                transaction.execute("UPDATE hearth.tenants SET updated_at = now() WHERE name = $1", &[&name]).await?;
            }
        }
        if let Some(suspended) = patch.suspended.filter(|suspended| *suspended != before.suspended_at.is_some()) {
            let sql = "UPDATE hearth.tenants SET suspended_at = CASE WHEN $2 THEN now() END WHERE name = $1";
            transaction.execute(sql, &[&name, &suspended]).await?;
        }
        finish(transaction, name).await
    }

    /// Takes a tenant away, with its keys. Errors: it is not there, and never was; one that is gone already is gone.
    pub async fn delete(&mut self, name: &str, wanted: Option<&[i64]>) -> Result<Written<()>, ControlError> {
        let transaction = begin(&mut self.client).await?;
        if let Some(row) = transaction.query_opt(&format!("{TENANT} WHERE t.name = $1"), &[&name]).await? {
            must_be(&tenant(&row)?, wanted)?;
        }
        transaction.execute("DELETE FROM hearth.tenants WHERE name = $1", &[&name]).await?;
        let was = transaction.query_opt("SELECT 1 FROM hearth.changes WHERE tenant = $1", &[&name]).await?;
        let seq = seq(&transaction).await?;
        transaction.commit().await?;
        match was {
            Some(_) => Ok(Written { seq, stored: () }),
            None => Err(self.unknown(name).await),
        }
    }

    /// Every key of a tenant, the newest first, those that are revoked too.
    pub async fn keys(&self, name: &str) -> Result<Vec<StoredKeyRow>, ControlError> {
        let keys = super::keys::of(&self.client, name).await?;
        if keys.is_empty() {
            self.tenant(name).await?;
        }
        Ok(keys)
    }

    pub(super) async fn unknown(&self, name: &str) -> ControlError {
        let rows = self.client.query(LIKE, &[&name]).await.unwrap_or_default();
        let names: Vec<&str> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
        ControlError::UnknownTenant { name: name.to_owned(), like: similar(name, names) }
    }
}

/// Begins to write. Writers come one after the other from here on, so that what is checked still holds at the commit.
pub(super) async fn begin(client: &mut Client) -> Result<Transaction<'_>, ControlError> {
    let transaction = client.transaction().await?;
    let patience = LOCK_PATIENCE.as_millis();
    transaction
        .batch_execute(&format!("SET LOCAL lock_timeout = {patience}; SET LOCAL statement_timeout = 15000"))
        .await?;
    transaction.execute("SELECT seq FROM hearth.revision FOR UPDATE", &[]).await?;
    Ok(transaction)
}

pub(super) async fn seq(transaction: &Transaction<'_>) -> Result<i64, ControlError> {
    Ok(transaction.query_one("SELECT seq FROM hearth.revision", &[]).await?.try_get(0)?)
}

async fn finish(transaction: Transaction<'_>, name: &str) -> Result<Written<StoredTenantRow>, ControlError> {
    let stored = tenant(&transaction.query_one(&format!("{TENANT} WHERE t.name = $1"), &[&name]).await?)?;
    let seq = seq(&transaction).await?;
    transaction.commit().await?;
    Ok(Written { seq, stored })
}

async fn write_policy(transaction: &Transaction<'_>, name: &str, policy: &Value) -> Result<(), ControlError> {
    let sql = "INSERT INTO hearth.policies (tenant, body) VALUES ($1, $2::text::jsonb) \
               ON CONFLICT (tenant) DO UPDATE SET body = excluded.body";
    transaction.execute(sql, &[&name, &policy.to_string()]).await?;
    Ok(())
}

fn tenant(row: &Row) -> Result<StoredTenantRow, ControlError> {
    let policy: &str = row.try_get(1)?;
    Ok(StoredTenantRow {
        name: row.try_get(0)?,
        policy: serde_json::from_str(policy).unwrap_or_default(),
        suspended_at: row.try_get(2)?,
        created_at: row.try_get(3)?,
        updated_at: row.try_get(4)?,
        version: row.try_get(5)?,
        key_count: row.try_get(6)?,
    })
}

fn must_be(tenant: &StoredTenantRow, wanted: Option<&[i64]>) -> Result<(), ControlError> {
    match wanted {
        Some(versions) if !versions.contains(&tenant.version) => Err(ControlError::Changed {
            name: tenant.name.clone(),
            wanted: versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
            found: tenant.version,
        }),
        _ => Ok(()),
    }
}

fn taken(error: tokio_postgres::Error, name: &str) -> ControlError {
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
        return ControlError::TenantExists(name.to_owned());
    }
    error.into()
}

/// The same checks as for the file, before anything is written.
fn good(policy: &Value, known: &Known) -> Result<TenantConfig, ControlError> {
    let read = read_policy(&policy.to_string()).map_err(ControlError::Refused)?;
    let faults = policy_faults(&read, known);
    if faults.is_empty() { Ok(read) } else { Err(ControlError::Refused(faults)) }
}

/// Source: RFC 7396 section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_merges_as_the_rfc_says() {
        // The cases of RFC 7396, appendix A.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target;
            merge(&mut merged, &patch);
            assert_eq!(merged, result);
        }
    }
}
