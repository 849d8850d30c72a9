//! Keys: made, rotated, revoked. Of a secret only its hash is stored; it is shown by whoever asked, once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio_postgres::{GenericClient, Row, Transaction};

use super::rows::scope_of;
use super::store::{begin, seq};
use super::{ControlError, Store, Written};
use crate::base::hex::sha256_from_hex;
use crate::base::{NewKey, similar};
use crate::config::{Fault, Known, Scope, TenantConfig, read_policy, statement_faults};

/// A key as people see it: all but the secret, of which nothing is known.
#[derive(Debug, Clone, Serialize)]
pub struct StoredKeyRow {
    /// The public half.
    pub id: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// The only named statements it may run.
    pub statements: Option<Vec<String>>,
    /// `active`, `pending` (before its time), `expired` or `revoked`.
    pub state: &'static str,
    /// When it was made.
    pub created_at: Timestamp,
    /// From which on it is good.
    pub not_before: Option<Timestamp>,
    /// After which it is refused.
    pub expires: Option<Timestamp>,
    /// When it was last good, as far as brokers have written it. To the second.
    pub last_used: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
    /// The key that it was made in place of.
    pub replaces: Option<String>,
}

/// What a new key is to be.
#[derive(Debug, Clone, Default)]
pub struct KeyWish {
    /// What it may do.
    pub scopes: Vec<String>,
    /// The only named statements it may run.
    pub statements: Option<Vec<String>>,
    /// From which on it is good; `None`: at once.
    pub not_before: Option<Timestamp>,
    /// How long it is valid, counted from now; `None`: for ever.
    pub expires_in: Option<Duration>,
}

/// A key that was made.
#[derive(Debug)]
pub struct MadeKey {
    /// The key with its secret.
    pub new: NewKey,
    /// What is stored.
    pub row: StoredKeyRow,
    /// The key that it takes the place of, with its end.
    pub old: Option<StoredKeyRow>,
}

const KEY: &str = "SELECT k.id, k.scopes, k.statements, k.created_at, k.expires, k.revoked_at, k.replaces, now(), k.not_before, \
     u.last_used FROM hearth.keys k LEFT JOIN hearth.key_uses u ON u.id = k.id";

pub(super) async fn of(client: &impl GenericClient, tenant: &str) -> Result<Vec<StoredKeyRow>, ControlError> {
    let sql = format!("{KEY} WHERE k.tenant = $1 ORDER BY k.created_at DESC, k.id");
    client.query(&sql, &[&tenant]).await?.iter().map(key).collect()
}

impl Store {
    /// Makes a key. Errors: also a wish that is not good.
    pub async fn create_key(
        &mut self,
        tenant: &str,
        wish: &KeyWish,
        known: &Known,
    ) -> Result<Written<MadeKey>, ControlError> {
        let transaction = begin(&mut self.client).await?;
        let Some(policy) = policy_of(&transaction, tenant).await? else {
            drop(transaction);
            return Err(self.unknown(tenant).await);
        };
        let expires = wish.expires_in.map(ends).transpose()?;
        check(wish, expires, policy.as_ref(), known)?;
        let new = NewKey::random();
        let row = insert(&transaction, tenant, &new, wish, expires, None).await?;
        let seq = seq(&transaction).await?;
        transaction.commit().await?;
        Ok(Written { seq, stored: MadeKey { new, row, old: None } })
    }

    /// Makes a key that takes another's place: the same rights, and as long a life as that one had. The old one goes on for
    /// `overlap`, if it would have lasted so long.
    pub async fn rotate_key(
        &mut self,
        tenant: &str,
        id: &str,
        overlap: Duration,
        expires_in: Option<Duration>,
    ) -> Result<Written<MadeKey>, ControlError> {
        let transaction = begin(&mut self.client).await?;
        let all = of(&transaction, tenant).await?;
        let Some(old) = all.iter().find(|key| key.id == id) else {
            drop(transaction);
            return Err(self.unknown_key(tenant, id, &all).await);
        };
        if old.state != "active" {
            return Err(ControlError::KeyState(format!("the key `{id}` is {}; make a new one", old.state)));
        }
        // Twice by mistake, or by a caller whose answer was lost, must not cut short what the first has given out.
        if let Some(next) = all.iter().find(|key| key.replaces.as_deref() == Some(id) && key.state == "active") {
            let next = &next.id;
            return Err(ControlError::KeyState(format!(
                "the key `{id}` has been rotated already: rotate `{next}`, or revoke `{next}` if its secret was lost"
            )));
        }
        let wish = KeyWish { scopes: old.scopes.clone(), statements: old.statements.clone(), ..KeyWish::default() };
        let begun = old.not_before.map_or(old.created_at, |from| from.max(old.created_at));
        let life = old.expires.map(|end| end.duration_since(begun));
        let expires = match expires_in {
            Some(wanted) => Some(ends(wanted)?),
            None => life.map(|life| Timestamp::now().checked_add(life).map_err(|_| too_long())).transpose()?,
        };
        let new = NewKey::random();
        let row = insert(&transaction, tenant, &new, &wish, expires, Some(id)).await?;
        let end = ends(overlap)?;
        let sql = "UPDATE hearth.keys SET expires = least(expires, $2) WHERE id = $1";
        transaction.execute(sql, &[&id, &end]).await?;
        let old = key(&transaction.query_one(&format!("{KEY} WHERE k.id = $1"), &[&id]).await?)?;
        let seq = seq(&transaction).await?;
        transaction.commit().await?;
        Ok(Written { seq, stored: MadeKey { new, row, old: Some(old) } })
    }

    /// Refuses a key from now on. One that is revoked already stays so.
    pub async fn revoke_key(&mut self, tenant: &str, id: &str) -> Result<Written<StoredKeyRow>, ControlError> {
        let transaction = begin(&mut self.client).await?;
        let sql = "UPDATE hearth.keys SET revoked_at = now() WHERE id = $1 AND tenant = $2 AND revoked_at IS NULL";
        transaction.execute(sql, &[&id, &tenant]).await?;
        let row = transaction.query_opt(&format!("{KEY} WHERE k.id = $1 AND k.tenant = $2"), &[&id, &tenant]).await?;
        let Some(row) = row else {
            let all = of(&transaction, tenant).await?;
            drop(transaction);
            return Err(self.unknown_key(tenant, id, &all).await);
        };
        let stored = key(&row)?;
        let seq = seq(&transaction).await?;
        transaction.commit().await?;
        Ok(Written { seq, stored })
    }

    /// Whose key it is.
    pub async fn tenant_of_key(&self, id: &str) -> Result<Option<String>, ControlError> {
        let row = self.client.query_opt("SELECT tenant FROM hearth.keys WHERE id = $1", &[&id]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    async fn unknown_key(&self, tenant: &str, id: &str, all: &[StoredKeyRow]) -> ControlError {
        if all.is_empty()
            && let Err(error) = self.tenant(tenant).await
        {
            return error;
        }
        let ids = || all.iter().map(|key| key.id.as_str());
        let like = similar(id, ids());
        ControlError::UnknownKey { tenant: tenant.to_owned(), id: id.to_owned(), like }
    }
}

/// The tenant's policy; outer `None`: no such tenant; inner: it is not good, and says nothing of statements.
async fn policy_of(transaction: &Transaction<'_>, tenant: &str) -> Result<Option<Option<TenantConfig>>, ControlError> {
    let sql = "SELECT coalesce(p.body, '{}')::text FROM hearth.tenants t LEFT JOIN hearth.policies p ON p.tenant = t.name \
               WHERE t.name = $1";
    let Some(row) = transaction.query_opt(sql, &[&tenant]).await? else { return Ok(None) };
    Ok(Some(read_policy(row.try_get(0)?).ok()))
}

fn check(
    wish: &KeyWish,
    expires: Option<Timestamp>,
    policy: Option<&TenantConfig>,
    known: &Known,
) -> Result<(), ControlError> {
    let mut faults = Vec::new();
    let scopes = scopes_of(&wish.scopes, &mut faults);
    if wish.scopes.is_empty() {
        faults.push(Fault::new("scopes", "must name at least one of sql:read, sql:write, redis"));
    }
    if wish.not_before.zip(expires).is_some_and(|(from, until)| from >= until) {
        faults.push(Fault::new("not_before", "must be before the key expires: the key would never be good"));
    }
    if let (Some(names), Some(policy)) = (&wish.statements, policy) {
        faults.extend(statement_faults(names, &scopes, policy, known));
    }
    if faults.is_empty() { Ok(()) } else { Err(ControlError::Refused(faults)) }
}

fn scopes_of(texts: &[String], faults: &mut Vec<Fault>) -> Vec<Scope> {
    let mut scopes = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match scope_of(text) {
            Ok(scope) => scopes.push(scope),
            Err(message) => faults.push(Fault::new(format!("scopes[{index}]"), message)),
        }
    }
    scopes
}

/// Errors: a key that stands would name a statement that it may not run any more.
pub(super) async fn check_statements_of_keys(
    transaction: &Transaction<'_>,
    tenant: &str,
    policy: &TenantConfig,
    known: &Known,
) -> Result<(), ControlError> {
    let mut faults = Vec::new();
    for key in of(transaction, tenant).await?.iter().filter(|key| key.state != "revoked") {
        let scopes = scopes_of(&key.scopes, &mut Vec::new());
        let Some(names) = &key.statements else { continue };
        let found = statement_faults(names, &scopes, policy, known).into_iter();
        faults.extend(found.map(|fault| Fault::new(format!("keys[{}].{}", key.id, fault.path), fault.message)));
    }
    if faults.is_empty() { Ok(()) } else { Err(ControlError::Refused(faults)) }
}

async fn insert(
    transaction: &Transaction<'_>,
    tenant: &str,
    new: &NewKey,
    wish: &KeyWish,
    expires: Option<Timestamp>,
    replaces: Option<&str>,
) -> Result<StoredKeyRow, ControlError> {
    let sha256 = sha256_from_hex(&new.sha256).expect("is made as hexadecimal digits");
    let sql = "INSERT INTO hearth.keys (id, tenant, sha256, scopes, statements, not_before, expires, replaces) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&new.id, &tenant, &sha256.as_slice(), &wish.scopes, &wish.statements, &wish.not_before, &expires, &replaces];
    transaction.execute(sql, &values).await?;
    key(&transaction.query_one(&format!("{KEY} WHERE k.id = $1"), &[&new.id]).await?)
}

fn ends(after: Duration) -> Result<Timestamp, ControlError> {
    let after = SignedDuration::try_from(after).map_err(|_| too_long())?;
    Timestamp::now().checked_add(after).map_err(|_| too_long())
}

fn too_long() -> ControlError {
    ControlError::fault("expires_in", "is too long")
}

fn key(row: &Row) -> Result<StoredKeyRow, ControlError> {
    let (expires, revoked_at, now): (Option<Timestamp>, Option<Timestamp>, Timestamp) =
        (row.try_get(4)?, row.try_get(5)?, row.try_get(7)?);
    let not_before = row.try_get(8)?;
    Ok(StoredKeyRow {
        id: row.try_get(0)?,
        scopes: row.try_get(1)?,
        statements: row.try_get(2)?,
        state: state(revoked_at.is_some(), not_before, expires, now),
        created_at: row.try_get(3)?,
        not_before,
        expires,
        last_used: row.try_get(9)?,
        revoked_at,
        replaces: row.try_get(6)?,
    })
}

/// Before its time and after its end at once, it will never be good.
fn state(revoked: bool, from: Option<Timestamp>, until: Option<Timestamp>, now: Timestamp) -> &'static str {
    match (from, until) {
        _ if revoked => "revoked",
        (_, Some(end)) if end <= now => "expired",
        (Some(from), _) if now < from => "pending",
        _ => "active",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_active_between_its_moments() {
        let at = |second| Timestamp::from_second(second).expect("a moment");
        let told = |revoked, now| state(revoked, Some(at(100)), Some(at(200)), at(now));
        assert_eq!([99, 100, 199, 200].map(|now| told(false, now)), ["pending", "active", "active", "expired"]);
        assert_eq!([99, 150, 200].map(|now| told(true, now)), ["revoked"; 3]);
        assert_eq!(state(false, None, None, at(0)), "active");
        assert_eq!(state(false, Some(at(300)), Some(at(200)), at(250)), "expired", "it will never be good");
    }

    #[test]
    fn a_key_that_would_never_be_good_is_refused() {
        let at = |second| Some(Timestamp::from_second(second).expect("a moment"));
        let wish = |not_before| KeyWish { scopes: vec!["redis".to_owned()], not_before, ..KeyWish::default() };
        let refused = |from, until| check(&wish(from), until, None, &Known::default()).is_err();
        assert!(refused(at(200), at(200)));
        assert!(!refused(at(199), at(200)) && !refused(at(300), None) && !refused(None, at(200)));
    }
}
