//! From a TOML file and the environment to a [`Config`], with every fault at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserializer;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Config, ConfigError, Fault, IdentityConfig, NamedStatement, Outline, folder, validate::validate};

/// Environment variables that override the file start so: `HEARTH__SERVER__LISTEN=0.0.0.0:8432`.
const ENV_PREFIX: &str = "HEARTH__";
/// Holds a whole configuration file, for platforms that hand out secrets as environment variables.
const ENV_TEXT: &str = "HEARTH_CONFIG_TOML";

/// Reads a file, lays the environment over it, and checks the whole.
pub fn load_file(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.display().to_string(), source })?;
    load_below(path.parent().unwrap_or(Path::new("")), &text, std::env::vars())
}

/// Reads the configuration from `HEARTH_CONFIG_TOML`; `None` when that is not set.
pub fn load_env_text() -> Option<Result<Config, ConfigError>> {
    std::env::var(ENV_TEXT).ok().map(|text| load_text(&text, std::env::vars()))
}

/// Reads TOML text, lays `env` over it, and checks the whole.
pub fn load_text(text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    load_below(Path::new(""), text, env)
}

/// As [`load_text`]; relative paths in the text begin at `base`.
fn load_below(base: &Path, text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let mut table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Invalid(vec![Fault::new("", syntax(text, &error))]))?;
    overlay(&mut table, env);
    let mut faults = Vec::new();
    let config = read(table, base, &mut faults);
    // Checks of meaning would repeat what a section that did not even read has said already.
    if faults.is_empty() {
        validate(&config, &mut faults);
    }
    if faults.is_empty() {
        return Ok(config);
    }
    faults.sort();
    faults.dedup();
    Err(ConfigError::Invalid(faults))
}

/// One line with its number and no echo of the text: a secret may stand in it.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    format!("line {line} is not TOML: {}", error.message())
}

fn overlay(table: &mut Table, env: impl Iterator<Item = (String, String)>) {
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        set(table, &path, literal(&text));
    }
}

/// Numbers, booleans, arrays and tables as TOML writes them; everything else is text.
fn literal(text: &str) -> Value {
    let typed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    match typed {
        Some(value @ (Value::Integer(_) | Value::Boolean(_) | Value::Array(_) | Value::Table(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

fn set(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let entry = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            if let Value::Table(inner) = entry {
                set(inner, rest, value);
            }
        }
    }
}

/// Reads each section by itself, so that a fault in one hides none in another.
fn read(mut table: Table, base: &Path, faults: &mut Vec<Fault>) -> Config {
    gather(&mut table, base, faults);
    let outline = Outline::of(&table);
    let mut statements = statements(&mut table, faults);
    let mut config = Config {
        outline,
        server: table
            .remove("server")
            .map_or_else(Default::default, |v| section("server", v, faults).unwrap_or_default()),
        log: table.remove("log").map_or_else(Default::default, |v| section("log", v, faults).unwrap_or_default()),
        databases: named("databases", table.remove("databases"), faults),
        caches: named("caches", table.remove("caches"), faults),
        fleet: table.remove("fleet").map_or_else(Default::default, |v| section("fleet", v, faults).unwrap_or_default()),
        tenants: named("tenants", table.remove("tenants"), faults),
        identity: identity(table.remove("identity"), faults),
        control: table.remove("control").and_then(|v| section("control", v, faults)),
    };
    for (name, database) in &mut config.databases {
        database.statements = statements.remove(name).unwrap_or_default();
    }
    for key in table.keys() {
        faults.push(Fault::new(
            key.as_str(),
            "is no section; there are server, log, databases, caches, fleet, tenants, identity and control",
        ));
    }
    config
}

/// Each issuer is read by itself, as a section is.
fn identity(value: Option<Value>, faults: &mut Vec<Fault>) -> IdentityConfig {
    let Some(mut value) = value else { return IdentityConfig::default() };
    let issuers = value.as_table_mut().and_then(|table| table.remove("jwt"));
    let read: IdentityConfig = section("identity", value, faults).unwrap_or_default();
    IdentityConfig { jwt: named("identity.jwt", issuers, faults), ..read }
}

/// Adds what stands in folders to the databases' tables.
fn gather(table: &mut Table, base: &Path, faults: &mut Vec<Fault>) {
    let Some(Value::Table(databases)) = table.get_mut("databases") else { return };
    for (name, database) in databases {
        if let Value::Table(database) = database {
            folder::gather(database, base, &format!("databases.{name}"), faults);
        }
    }
}

/// Each database's statements. Each statement is read by itself, as a section is.
fn statements(table: &mut Table, faults: &mut Vec<Fault>) -> BTreeMap<String, BTreeMap<String, NamedStatement>> {
    let Some(Value::Table(databases)) = table.get_mut("databases") else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for (name, database) in databases {
        let Value::Table(database) = database else { continue };
        let path = format!("databases.{name}.statements");
        found.insert(name.clone(), named(&path, database.remove("statements"), faults));
    }
    found
}

fn named<T: DeserializeOwned>(name: &str, value: Option<Value>, faults: &mut Vec<Fault>) -> BTreeMap<String, T> {
    let entries = match value {
        None => return BTreeMap::new(),
        Some(Value::Table(entries)) => entries,
        Some(_) => {
            faults.push(Fault::new(name, format!("must hold named tables, as in `[{name}.example]`")));
            return BTreeMap::new();
        }
    };
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.clone(), section(&format!("{name}.{key}"), value, faults)?)))
        .collect()
}

fn section<T: DeserializeOwned>(path: &str, value: Value, faults: &mut Vec<Fault>) -> Option<T> {
    read_section(path, value, |error| without_value(error.message()), faults)
}

/// Reads one section. Every unknown key is a fault, and so is the first value of a wrong type.
pub(super) fn read_section<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    path: &str,
    from: D,
    message: impl FnOnce(&D::Error) -> String,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(from, &mut track);
    let below = |inner: &str| if path.is_empty() { inner.to_owned() } else { format!("{path}.{inner}") };
    let read = serde_ignored::deserialize(tracked, |unknown| {
        faults.push(Fault::new(below(&unknown.to_string()), "is no known field"));
    });
    match read {
        Ok(section) => Some(section),
        Err(error) => {
            let inner = track.path().to_string();
            let path = if inner == "." { path.to_owned() } else { below(&inner) };
            faults.push(Fault::new(path, message(&error)));
            None
        }
    }
}

/// `invalid type: string "…", expected u32`: a secret may stand in the wrong place, and what is told stands in logs.
fn without_value(message: &str) -> String {
    const TEXT: &str = ": string \"";
    match (message.find(TEXT), message.rfind("\", expected")) {
        (Some(begin), Some(end)) => format!("{}: string{}", &message[..begin], &message[end + 1..]),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
