//! Who is asking, and what they may do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::error::AuthError;
use crate::config::Scope;
use crate::tenant::Tenant;

/// Of a name that somebody else gave, so much is kept. Unit: characters.
const MAX_NAME_CHARS: usize = 200;

/// Who is asking, and what they may do. Cheap to clone: all requests of one key share it.
#[derive(Clone)]
pub struct Principal(Arc<Grant>);

/// What an identity was granted.
pub struct Grant {
    /// On whose account.
    pub tenant: Arc<Tenant>,
    /// By which key, token or certificate.
    pub identity: Identity,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The only named statements it may run; `None`: all, and any SQL.
    pub statements: Option<Arc<[String]>>,
    /// PostgreSQL settings that each of its transactions has; no request may set these otherwise.
    pub settings: BTreeMap<String, String>,
}

/// Which key, token or certificate it was, for logs and for what belongs to one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How it was told.
    pub via: Via,
    /// The key's id; the issuer's name and the token's subject, `login/user_42`; or the certificate's name.
    pub name: Arc<str>,
}

/// How an identity was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// By an API key.
    Key,
    /// By a token.
    Token,
    /// By a client certificate.
    Certificate,
}

impl Via {
    /// As it stands in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}

impl Identity {
    /// An identity under a name that may come from outside: it cannot break a line, and is not longer than a line is wide.
    pub fn new(via: Via, name: &str) -> Self {
        let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let name: String = name.chars().take(MAX_NAME_CHARS).map(plain).collect();
        Self { via, name: name.into() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Deref for Principal {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.0
    }
}

impl From<Grant> for Principal {
    fn from(grant: Grant) -> Self {
        Self(Arc::new(grant))
    }
}

impl Grant {
    /// Errors: [`AuthError::Scope`] unless it has one of the scopes.
    pub fn needs(&self, one_of: &[Scope]) -> Result<(), AuthError> {
        if one_of.iter().any(|scope| self.has(*scope)) {
            return Ok(());
        }
        Err(AuthError::Scope(one_of.first().map_or("", |scope| scope.as_str())))
    }

    /// True if it has the scope.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Errors: [`AuthError::StatementsOnly`] if it may run named statements only.
    pub fn may_send_sql(&self) -> Result<(), AuthError> {
        self.statements.as_ref().map_or(Ok(()), |only| Err(AuthError::StatementsOnly(Arc::clone(only))))
    }

    /// True if it may run the named statement; whether there is one of this name is another question.
    pub fn may_run(&self, name: &str) -> bool {
        self.statements.as_ref().is_none_or(|only| only.iter().any(|allowed| allowed == name))
    }

    /// True if the setting's value comes from who is asking, and not from the request. PostgreSQL's names have no case.
    pub fn fixes_setting(&self, name: &str) -> bool {
        self.settings.keys().any(|fixed| fixed.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::TenantConfig;
    use crate::observe::Metrics;

    pub fn tenant(name: &str) -> Arc<Tenant> {
        let nothing = (BTreeMap::new(), BTreeMap::new());
        Arc::new(Tenant::new(name, &TenantConfig::default(), &nothing.0, &nothing.1, None, &Metrics::new(), None))
    }

    fn grant(statements: Option<Arc<[String]>>) -> Grant {
        let settings = BTreeMap::from([("app.user_id".to_owned(), "42".to_owned())]);
        let identity = Identity::new(Via::Key, "k");
        Grant { tenant: tenant("acme"), identity, scopes: vec![Scope::SqlRead], statements, settings }
    }

    #[test]
    fn a_key_for_named_statements_sends_no_sql_of_its_own() {
        let any = grant(None);
        assert_eq!((any.may_send_sql(), any.may_run("get_user")), (Ok(()), true));
        let some = grant(Some(["get_user".to_owned()].into()));
        assert!(some.may_run("get_user") && !some.may_run("GET_USER") && !some.may_run("add"));
        let told = some.may_send_sql().expect_err("named statements only").to_string();
        assert!(told.contains("(get_user)"), "{told}");
    }

    #[test]
    fn what_the_identity_sets_is_fixed_in_any_case() {
        let grant = grant(None);
        assert!(grant.fixes_setting("app.user_id") && grant.fixes_setting("APP.User_ID"));
        assert!(!grant.fixes_setting("app.user"));
    }

    #[test]
    fn a_name_from_outside_breaks_no_line() {
        let name = Identity::new(Via::Token, &format!("a\nb\u{1b}[0m{}", "x".repeat(500)));
        assert!(name.name.starts_with("a\u{fffd}b\u{fffd}[0m"), "{name}");
        assert_eq!(name.name.chars().count(), 200);
    }
}
