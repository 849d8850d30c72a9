//! Rows as tenants. What is the same for many is kept once: most of a hundred thousand tenants have one of a few policies.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::base::{KeyId, TenantId};
use crate::config::{Fault, Scope, TenantConfig, read_policy};

/// A tenant as it is stored, its bad parts marked. Whether it names what there is here is for the broker to check.
#[derive(Clone)]
pub struct StoredTenant {
    /// Its name.
    pub name: TenantId,
    /// What stands in a tenant's section of the file, but for the keys. Errors: what cannot be read of it.
    pub policy: Policy,
    /// Its keys, but for the revoked ones.
    pub keys: Box<[StoredKey]>,
    /// Keys that cannot be read, each with the reason.
    pub bad_keys: Box<[(KeyId, Fault)]>,
    /// Whether its requests are refused.
    pub suspended: bool,
}

/// A policy as it was read.
pub type Policy = Result<Arc<TenantConfig>, Box<[Fault]>>;

/// A key as it was stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The public half.
    pub id: KeyId,
    /// SHA-256 of the secret half.
    pub sha256: [u8; 32],
    /// What it may do.
    pub scopes: Arc<[Scope]>,
    /// The only named statements it may run.
    pub statements: Option<Arc<[String]>>,
    /// From which on it is good.
    pub not_before: Option<Timestamp>,
    /// After which it is refused.
    pub expires: Option<Timestamp>,
}

impl StoredTenant {
    /// True if nothing differs, and nothing is bad.
    pub fn is_same(&self, other: &Self) -> bool {
        // Equal policies are one and the same, see `Kept`.
        let same_policy = matches!((&self.policy, &other.policy), (Ok(one), Ok(other)) if Arc::ptr_eq(one, other));
        let no_bad_keys = self.bad_keys.is_empty() && other.bad_keys.is_empty();
        same_policy && no_bad_keys && self.suspended == other.suspended && self.keys == other.keys
    }

    /// One of its keys.
    pub fn key(&self, id: &str) -> Option<&StoredKey> {
        self.keys.iter().find(|key| key.id.as_str() == id)
    }
}

/// What a key may do, as it was read and as it is kept.
type Wanted = (Vec<String>, Option<Vec<String>>);
type Grant = (Arc<[Scope]>, Option<Arc<[String]>>);

/// What was read before and may come again.
#[derive(Default)]
pub(super) struct Kept {
    /// By the hash of its text: the text itself would be as large as the policy.
    policies: HashMap<[u8; 32], Weak<TenantConfig>>,
    grants: HashMap<Wanted, Grant>,
    /// When there are so many, those that nobody has any more are dropped.
    sweep_at: usize,
}

/// Different lists of scopes and statements that are remembered: a handful in practice.
const MAX_GRANTS: usize = 10_000;

impl Kept {
    /// The policy of a JSON text.
    pub(super) fn policy(&mut self, text: Option<&str>) -> Policy {
        let text = text.unwrap_or("{}");
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if let Some(known) = self.policies.get(&digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let policy = Arc::new(read_policy(text).map_err(Vec::into_boxed_slice)?);
        if self.policies.len() >= self.sweep_at.max(1_000) {
            self.policies.retain(|_, policy| policy.strong_count() > 0);
            self.sweep_at = self.policies.len() * 2;
        }
        self.policies.insert(digest, Arc::downgrade(&policy));
        Ok(policy)
    }

    fn grant(&mut self, scopes: Vec<String>, statements: Option<Vec<String>>) -> Result<Grant, String> {
        let wanted = (scopes, statements);
        if let Some(known) = self.grants.get(&wanted) {
            return Ok(known.clone());
        }
        let scopes: Result<Vec<Scope>, String> = wanted.0.iter().map(|scope| scope_of(scope)).collect();
        let grant = (Arc::from(scopes?), wanted.1.as_deref().map(Arc::from));
        if self.grants.len() >= MAX_GRANTS {
            self.grants.clear();
        }
        self.grants.insert(wanted, grant.clone());
        Ok(grant)
    }

    /// A key of a row: sha256, scopes, statements, expires, `not_before`, from column `at` on. Errors: with its path.
    pub(super) fn key(&mut self, id: &str, row: &Row, at: usize) -> Result<StoredKey, Fault> {
        let fault = |what: &str, message: String| Fault::new(format!("keys[{id}].{what}"), message);
        let column = |what: &str, error: &tokio_postgres::Error| fault(what, crate::base::chain(error));
        let sha256: &[u8] = row.try_get(at).map_err(|error| column("sha256", &error))?;
        let scopes: Vec<String> = row.try_get(at + 1).map_err(|error| column("scopes", &error))?;
        let statements = row.try_get(at + 2).map_err(|error| column("statements", &error))?;
        let expires = row.try_get(at + 3).map_err(|error| column("expires", &error))?;
        let not_before = row.try_get(at + 4).map_err(|error| column("not_before", &error))?;
        let sha256 = sha256.try_into().map_err(|_| fault("sha256", "must be 32 bytes".to_owned()))?;
        let (scopes, statements) = self.grant(scopes, statements).map_err(|message| fault("scopes", message))?;
        Ok(StoredKey { id: KeyId::new(id), sha256, scopes, statements, not_before, expires })
    }
}

/// Errors: no such scope.
pub(super) fn scope_of(text: &str) -> Result<Scope, String> {
    let quoted = serde_json::Value::String(text.to_owned());
    serde_json::from_value(quoted).map_err(|_| format!("`{text}` is none of sql:read, sql:write, redis"))
}
