//! `[databases.NAME.statements.STATEMENT]`: SQL that callers run by its name.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::rules::{check_name, range};
use super::{Fault, placeholders, units};

/// SQL that callers run by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct NamedStatement {
    /// The SQL text. Must not be empty.
    pub sql: String,
    /// The names of `$1`, `$2` … in this order; a caller gives parameters by them. Default: none.
    #[serde(default)]
    pub params: Vec<String>,
    /// Run READ ONLY (enforced by the server), whatever the key may do. Default: `false`.
    #[serde(default)]
    pub read_only: bool,
    /// How long an answer to GET may be kept by whoever asked (`Cache-Control: max-age`). Unset: it may not be kept.
    /// Unit: duration. Range: `1s..=365d`.
    #[serde(default, deserialize_with = "units::duration::deserialize_some")]
    #[schemars(with = "Option<String>")]
    pub max_age: Option<Duration>,
    /// What it is for, in a sentence.
    #[serde(default)]
    pub description: Option<String>,
}

/// Adds what is wrong with one statement to `faults`.
pub(super) fn check(path: &str, name: &str, statement: &NamedStatement, faults: &mut Vec<Fault>) {
    check_name(path, name, faults);
    if statement.sql.trim().is_empty() {
        faults.push(Fault::new(format!("{path}.sql"), "is empty"));
    }
    if let Some(age) = statement.max_age {
        range(format!("{path}.max_age"), age, Duration::from_secs(1)..=Duration::from_hours(365 * 24), faults);
    }
    let mut seen = BTreeSet::new();
    for (index, param) in statement.params.iter().enumerate() {
        let path = format!("{path}.params[{index}]");
        if !seen.insert(param) {
            faults.push(Fault::new(&path, format!("`{param}` stands twice")));
        }
        check_name(&path, param, faults);
    }
    check_placeholders(path, statement, faults);
}

/// Each placeholder has a name, and each name a placeholder: the server would refuse every call otherwise.
fn check_placeholders(path: &str, statement: &NamedStatement, faults: &mut Vec<Fault>) {
    // A text that cannot be read to its end is the server's to refuse.
    let Some(used) = placeholders::used(&statement.sql) else { return };
    let count = statement.params.len();
    for number in used.iter().filter(|number| !(1..=count).contains(number)) {
        faults.push(Fault::new(format!("{path}.sql"), format!("has `${number}`, and `params` names {count}")));
    }
    for (index, param) in statement.params.iter().enumerate().filter(|(index, _)| !used.contains(&(index + 1))) {
        let number = index + 1;
        faults.push(Fault::new(
            format!("{path}.params[{index}]"),
            format!("`{param}` is `${number}`, which stands nowhere in `sql`"),
        ));
    }
}
