//! What stands where in a configuration, to tell two of them apart: every path with a fingerprint of its value, never the value.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Secret;

/// Every path of a configuration as it was written, the environment's overrides included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline(BTreeMap<String, u64>);

/// How one configuration differs from another, by paths: `tenants.acme.limits.in_flight`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Only the new one says it.
    pub added: Vec<String>,
    /// Both say it, and not the same. A secret from a file or the environment counts by what it is there.
    pub changed: Vec<String>,
    /// Only the old one said it.
    pub removed: Vec<String>,
}

impl Changes {
    /// True where nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// How many paths differ.
    pub fn len(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len()
    }
}

impl Outline {
    /// The outline of a file's text with everything laid over it.
    pub(super) fn of(table: &Table) -> Self {
        let mut outline = Self::default();
        outline.table("", table);
        outline
    }

    /// What `after` says otherwise.
    pub fn changes(&self, after: &Self) -> Changes {
        let paths: BTreeSet<&String> = self.0.keys().chain(after.0.keys()).collect();
        let mut changes = Changes::default();
        for path in paths {
            match (self.0.get(path), after.0.get(path)) {
                (None, _) => changes.added.push(path.clone()),
                (_, None) => changes.removed.push(path.clone()),
                (old, new) if old != new => changes.changed.push(path.clone()),
                _ => {}
            }
        }
        changes
    }

    fn table(&mut self, path: &str, table: &Table) {
        for (key, value) in table {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.value(path, value);
        }
    }

    fn value(&mut self, path: String, value: &Value) {
        if let Some(secret) = elsewhere(value) {
            // Not to be had counts as a value too: it differs from every one that was.
            self.leaf(path, &(value.to_string(), secret.reveal()));
            return;
        }
        match value {
            // An empty table is still said: `[tenants.acme]` alone makes a tenant.
            Value::Table(table) if table.is_empty() => self.leaf(path, &"{}"),
            Value::Table(table) => self.table(&path, table),
            // What has an id is known by it, so that one more at the front does not look as if all had changed.
            Value::Array(items) if !items.is_empty() && items.iter().all(|item| id(item).is_some()) => {
                for item in items {
                    self.value(format!("{path}[{}]", id(item).unwrap_or_default()), item);
                }
            }
            other => self.leaf(path, &other.to_string()),
        }
    }

    fn leaf(&mut self, path: String, value: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        self.0.insert(path, hasher.finish());
    }
}

fn id(item: &Value) -> Option<&str> {
    item.as_table()?.get("id")?.as_str()
}

/// A secret that is kept in the environment or in a file: a table of one word, as [`Secret`] reads it.
fn elsewhere(value: &Value) -> Option<Secret> {
    let table = value.as_table().filter(|table| table.len() == 1)?;
    let is_place = |key: &str| table.get(key).is_some_and(Value::is_str);
    if !is_place("env") && !is_place("file") {
        return None;
    }
    Secret::deserialize(value.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(before: &str, after: &str) -> Changes {
        let of = |text: &str| Outline::of(&text.parse::<Table>().expect("is TOML"));
        of(before).changes(&of(after))
    }

    #[test]
    fn a_change_is_told_by_its_path_and_kind() {
        let before =
            "[tenants.a]\nlimits = { in_flight = 5, burst = 2 }\nkeys = [{ id = \"k1\", sha256 = \"x\" }]\n[caches.c]";
        let after = "[tenants.a]\nlimits = { in_flight = 6 }\nkeys = [{ id = \"k0\", sha256 = \"y\" }, { id = \"k1\", sha256 = \"x\" }]";
        assert_eq!(
            changes(before, after),
            Changes {
                added: vec!["tenants.a.keys[k0].id".to_owned(), "tenants.a.keys[k0].sha256".to_owned()],
                changed: vec!["tenants.a.limits.in_flight".to_owned()],
                removed: vec!["caches.c".to_owned(), "tenants.a.limits.burst".to_owned()],
            }
        );
        assert!(changes(before, before).is_empty());
    }

    #[test]
    fn a_secret_in_a_file_counts_by_what_stands_there() {
        let file = std::env::temp_dir().join(format!("hearth-outline-{}", std::process::id()));
        let text = format!("[databases.d]\npassword = {{ file = \"{}\" }}", file.display());
        let outline = |secret: &str| {
            std::fs::write(&file, secret).expect("writes");
            Outline::of(&text.parse::<Table>().expect("is TOML"))
        };
        let (one, same, other) = (outline("one"), outline("one\n"), outline("two"));
        std::fs::remove_file(&file).expect("was there");
        assert!(one.changes(&same).is_empty());
        assert_eq!(one.changes(&other).changed, ["databases.d.password"]);
        assert!(!format!("{other:?}").contains("two"));
    }
}
