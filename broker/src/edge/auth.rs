//! From an API key to a principal.
//!
//! A key is `id.secret`. The id is public and finds the entry; the secret is 256 random bits, so its plain SHA-256 is
//! enough to keep, and it is compared in constant time.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::base::KeyId;
use crate::broker::{Broker, Key};
use crate::config::Scope;
use crate::tenant::Tenant;

/// Who is asking, and what they may do.
#[derive(Clone)]
pub struct Principal {
    /// On whose account.
    pub tenant: Arc<Tenant>,
    /// By which key.
    pub key: KeyId,
    /// What the key may do.
    pub scopes: Arc<[Scope]>,
    /// The only named statements the key may run; `None`: all, and any SQL.
    pub statements: Option<Arc<[String]>>,
}

/// Why a caller is not let in. The texts do not tell whether an id exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization` header.
    #[error("send the API key as `Authorization: Bearer <key>`")]
    Missing,
    /// The header is not a bearer key.
    #[error("the Authorization header is not `Bearer <key>` with a key such as `hk_….…`")]
    Malformed,
    /// No such key, or a wrong secret.
    #[error("the API key is not valid")]
    Invalid,
    /// The key was valid once.
    #[error("the API key has expired")]
    Expired,
    /// The key is good and its tenant is not let in.
    #[error("the tenant of this API key is suspended")]
    Suspended,
    /// The key lacks a scope.
    #[error("the API key has no scope `{0}`")]
    Scope(&'static str),
    /// The key is for some named statements, and this is none of them.
    #[error("the API key may run its named statements ({}) and no other SQL", .0.join(", "))]
    StatementsOnly(Arc<[String]>),
}

impl Principal {
    /// Errors: [`AuthError::Scope`] unless the key has one of the scopes.
    pub fn needs(&self, one_of: &[Scope]) -> Result<(), AuthError> {
        if one_of.iter().any(|scope| self.has(*scope)) {
            return Ok(());
        }
        Err(AuthError::Scope(one_of.first().map_or("", |scope| scope.as_str())))
    }

    /// True if the key has the scope.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Errors: [`AuthError::StatementsOnly`] if the key may run named statements only.
    pub fn may_send_sql(&self) -> Result<(), AuthError> {
        self.statements.as_ref().map_or(Ok(()), |only| Err(AuthError::StatementsOnly(Arc::clone(only))))
    }

    /// True if the key may run the named statement; whether there is one of this name is another question.
    pub fn may_run(&self, name: &str) -> bool {
        self.statements.as_ref().is_none_or(|only| only.iter().any(|allowed| allowed == name))
    }
}

/// Who sent these headers.
pub fn principal(broker: &Broker, headers: &HeaderMap) -> Result<Principal, AuthError> {
    let (id, secret) = bearer(headers)?;
    let offered: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
    let Some((id, key)) = broker.keys.get_key_value(id) else {
        return stored(broker, id, &offered);
    };
    if !bool::from(offered.ct_eq(&key.sha256)) {
        return Err(AuthError::Invalid);
    }
    admitted(id, key)
}

/// The same for a key of the control database.
fn stored(broker: &Broker, id: &str, offered: &[u8; 32]) -> Result<Principal, AuthError> {
    let found = broker.directory.key(id);
    // As much work for an unknown id as for a known one, so that the answer's time does not tell them apart.
    let is_right = bool::from(offered.ct_eq(&found.as_ref().map_or([0; 32], |found| found.sha256)));
    let found = found.filter(|_| is_right).ok_or(AuthError::Invalid)?;
    if found.is_suspended() {
        return Err(AuthError::Suspended);
    }
    let (id, key) = found.resolve(id, broker).ok_or(AuthError::Invalid)?;
    admitted(&id, &key)
}

/// The secret was right.
fn admitted(id: &KeyId, key: &Key) -> Result<Principal, AuthError> {
    if key.expires.is_some_and(|expires| Timestamp::now() >= expires) {
        return Err(AuthError::Expired);
    }
    Ok(Principal {
        tenant: Arc::clone(&key.tenant),
        key: id.clone(),
        scopes: Arc::clone(&key.scopes),
        statements: key.statements.clone(),
    })
}

/// Errors unless the headers carry the admin key. Without one configured nothing is asked: loopback only, as validated.
pub fn admin(broker: &Broker, headers: &HeaderMap) -> Result<(), AuthError> {
    let Some(wanted) = broker.admin_key else { return Ok(()) };
    let offered: [u8; 32] = Sha256::digest(token(headers)?.as_bytes()).into();
    if bool::from(offered.ct_eq(&wanted)) { Ok(()) } else { Err(AuthError::Invalid) }
}

fn bearer(headers: &HeaderMap) -> Result<(&str, &str), AuthError> {
    token(headers)?.split_once('.').ok_or(AuthError::Malformed)
}

fn token(headers: &HeaderMap) -> Result<&str, AuthError> {
    let value = headers.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
    let text = value.to_str().map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = text.trim().split_once(' ').ok_or(AuthError::Malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(AuthError::Malformed) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::TenantConfig;
    use crate::observe::Metrics;

    #[test]
    fn a_key_for_named_statements_sends_no_sql_of_its_own() {
        let tenant = Tenant::new("acme", &TenantConfig::default(), &BTreeMap::new(), &BTreeMap::new(), &Metrics::new());
        let any = Principal {
            tenant: Arc::new(tenant),
            key: KeyId::new("k"),
            scopes: [Scope::SqlRead].into(),
            statements: None,
        };
        assert_eq!((any.may_send_sql(), any.may_run("get_user")), (Ok(()), true));

        let some = Principal { statements: Some(["get_user".to_owned()].into()), ..any };
        assert!(some.may_run("get_user") && !some.may_run("GET_USER") && !some.may_run("add"));
        let told = some.may_send_sql().expect_err("named statements only").to_string();
        assert!(told.contains("(get_user)"), "{told}");
    }
}
