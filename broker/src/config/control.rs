//! `[control]`: the database that holds tenants and keys beside the file.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::rules::range;
use super::{Fault, Secret, database_url, units};

/// A PostgreSQL database with tenants and keys beside those of the file, made by `hearth migrate` and kept by `hearth tenant`,
/// `hearth key` and the admin interface. Changes are in force within a second, without a reload. Unset: the file's tenants are all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct ControlConfig {
    /// `postgres://user@host:port/database`, as a database's `url`. Not through a pooler that shares sessions: changes are then
    /// found by `poll_interval` alone.
    pub url: String,
    /// The login role's password.
    pub password: Option<Secret>,
    /// Whether the broker refuses to start while the control database cannot be read. With `false` it starts with the file's
    /// tenants, and has the others once they can be read. Default: `true`.
    #[serde(default = "default_required")]
    pub required: bool,
    /// How often the broker looks for changes that it was not told of. Unit: duration. Default: `500ms`. Range: `100ms..=1m`.
    #[serde(default = "default_poll_interval", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub poll_interval: Duration,
    /// Longest time to open one connection, sign-in included. Unit: duration. Default: `5s`. Range: `10ms..=1m`.
    #[serde(default = "default_connect_timeout", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// The longest `limits.max_timeout` that a tenant there may have: database servers are told it as a backstop before its
    /// tenants are known. Unit: duration. Default: `5m`. Range: `1ms..=1h`.
    #[serde(default = "default_max_timeout", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub max_timeout: Duration,
}

fn default_required() -> bool {
    true
}

/// Half of the second within which changes are to be in force; one small query.
fn default_poll_interval() -> Duration {
    Duration::from_millis(500)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_max_timeout() -> Duration {
    Duration::from_mins(5)
}

impl ControlConfig {
    /// The control database at an address, and all else by default.
    pub fn at(url: &str, password: Option<Secret>) -> Self {
        Self {
            url: url.to_owned(),
            password,
            required: default_required(),
            poll_interval: default_poll_interval(),
            connect_timeout: default_connect_timeout(),
            max_timeout: default_max_timeout(),
        }
    }
}

/// Adds what is wrong with the section to `faults`.
pub(super) fn check(control: &ControlConfig, faults: &mut Vec<Fault>) {
    if let Err(message) = database_url(&control.url) {
        faults.push(Fault::new("control.url", message));
    }
    if let Some(Err(message)) = control.password.as_ref().map(Secret::reveal) {
        faults.push(Fault::new("control.password", message));
    }
    let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
    range("control.poll_interval", control.poll_interval, Duration::from_millis(100)..=minute, faults);
    range("control.connect_timeout", control.connect_timeout, Duration::from_millis(10)..=minute, faults);
    range("control.max_timeout", control.max_timeout, Duration::from_millis(1)..=hour, faults);
}
