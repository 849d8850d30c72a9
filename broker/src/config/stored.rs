//! A tenant's policy as the control database holds it: JSON with the fields of the file, read and checked by the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::validate::{check_statements, tenant_section};
use super::{Config, Fault, Scope, TenantConfig, read_section};

/// What policies may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The named statements of each database; `None`: not known here, and anything is taken.
    databases: Option<BTreeMap<String, BTreeSet<String>>>,
    caches: BTreeSet<String>,
    max_timeout: Option<Duration>,
}

impl Known {
    /// What a configuration has.
    pub fn of(config: &Config) -> Self {
        let statements = config
            .databases
            .iter()
            .map(|(name, database)| (name.clone(), database.statements.keys().cloned().collect::<BTreeSet<String>>()));
        Self {
            databases: Some(statements.collect()),
            caches: config.caches.keys().cloned().collect(),
            max_timeout: config.control.as_ref().map(|control| control.max_timeout),
        }
    }

    /// Where no configuration is at hand: names are for the brokers to check.
    pub fn anything() -> Self {
        Self::default()
    }

    pub(super) fn has_database(&self, name: &str) -> bool {
        self.databases.as_ref().is_none_or(|known| known.contains_key(name))
    }

    pub(super) fn has_cache(&self, name: &str) -> bool {
        self.databases.is_none() || self.caches.contains(name)
    }

    pub(super) fn declares(&self, database: &str, statement: &str) -> bool {
        self.databases.as_ref().is_none_or(|known| known.get(database).is_some_and(|names| names.contains(statement)))
    }
}

/// Reads a policy. Errors: unknown fields, and the first value of a wrong type; paths are those of a tenant's section.
pub fn read_policy(json: &str) -> Result<TenantConfig, Vec<Fault>> {
    // A list would be read as the fields' values in their order.
    if json.trim_start().starts_with('[') {
        return Err(vec![Fault::new("", "must be an object with the fields of a tenant's section")]);
    }
    let mut faults = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = read_section("", &mut reader, serde_json::Error::to_string, &mut faults);
    if let Ok(who) = serde_json::from_str::<Identities>(json) {
        for (field, _) in [("keys", who.keys), ("certificates", who.certificates)].iter().filter(|(_, it)| it.is_some())
        {
            faults.push(Fault::new(
                *field,
                "stand beside a policy and not in it; `hearth key create` adds a key to a tenant",
            ));
        }
    }
    read.filter(|_| faults.is_empty()).ok_or(faults)
}

/// Fields of a tenant's section that say who it is, and not what it may do.
#[derive(Deserialize)]
struct Identities {
    keys: Option<IgnoredAny>,
    certificates: Option<IgnoredAny>,
}

/// Every fault of a policy's meaning; paths are those of a tenant's section.
pub fn policy_faults(policy: &TenantConfig, known: &Known) -> Vec<Fault> {
    let mut faults = Vec::new();
    tenant_section("", policy, known, &mut faults);
    if let Some(most) = known.max_timeout.filter(|most| policy.limits.max_timeout > *most) {
        let message = format!("must be at most {most:?} (`control.max_timeout`), not {:?}", policy.limits.max_timeout);
        faults.push(Fault::new("limits.max_timeout", message));
    }
    faults
}

/// What is wrong with a key's named statements under a policy; paths are those of the key.
pub fn statement_faults(names: &[String], scopes: &[Scope], policy: &TenantConfig, known: &Known) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_statements("", names, scopes, policy, known, &mut faults);
    faults.into_iter().map(|fault| Fault::new(fault.path.trim_start_matches('.'), fault.message)).collect()
}

/// True for what may stand as a name in addresses.
pub fn is_name(text: &str) -> bool {
    let mut faults = Vec::new();
    super::rules::check_name("", text, &mut faults);
    faults.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    fn known() -> Known {
        let text = "[databases.app]\nurl = \"postgres://u@h/d\"\n[databases.app.statements.one]\nsql = \"SELECT 1\"\n\
                    [control]\nurl = \"postgres://u@h/c\"\nmax_timeout = \"2m\"";
        Known::of(&load_text(text, std::iter::empty()).expect("is good"))
    }

    fn told(json: &str) -> Vec<String> {
        let faults = read_policy(json).map(|policy| policy_faults(&policy, &known()));
        faults.unwrap_or_else(|faults| faults).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn a_policy_is_held_to_what_the_file_is_held_to() {
        let good = r#"{"databases": ["app"], "settings": ["app.*"], "limits": {"in_flight": 5, "max_timeout": "2m"}}"#;
        assert_eq!(told(good), [""; 0]);
        assert_eq!(told("{}"), [""; 0]);
        for (json, path) in [
            (r#"{"databases": ["app", "nope"]}"#, "databases[1]: there is no `[databases.nope]`"),
            (r#"{"caches": ["nope"]}"#, "caches[0]: there is no"),
            (r#"{"limits": {"in_flight": 0}}"#, "limits.in_flight: must be between 1"),
            (r#"{"limits": {"in_flight": "many"}}"#, "limits.in_flight: invalid type"),
            (r#"{"limits": {"max_timeout": "3m"}}"#, "limits.max_timeout: must be at most 120s"),
            (r#"{"limits": {"brust": 1}}"#, "limits.brust: is no known field"),
            (r#"{"keys": [{"id": "k", "sha256": "x", "scopes": []}]}"#, "keys: stand beside a policy"),
            (r#"{"settings": ["statement_timeout"]}"#, "settings[0]: `statement_timeout` must stay"),
            ("[]", "must be an object"),
            ("5", "invalid type"),
            ("{", "EOF"),
        ] {
            let told = told(json);
            assert!(told.first().is_some_and(|first| first.contains(path)), "{json}: {told:?}");
        }
        assert_eq!(policy_faults(&read_policy(r#"{"databases": ["x"]}"#).expect("reads"), &Known::anything()), []);
    }

    #[test]
    fn a_key_s_statements_must_be_declared() {
        let policy = read_policy(r#"{"databases": ["app"]}"#).expect("reads");
        let faults = |name: &str| statement_faults(&[name.to_owned()], &[Scope::SqlRead], &policy, &known());
        assert_eq!(faults("one"), []);
        assert_eq!(faults("two")[0].path, "statements[0]");
    }
}
