//! Where commands find the control database, and how they run against it.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;

use super::ConfigArgs;
use super::serve::load;
use crate::config::{ControlConfig, Known, Secret};
use crate::control::{Control, ControlError, Store};

/// The control database's password, where its address has none.
const PASSWORD: &str = "HEARTH_CONTROL_PASSWORD";

/// Where the control database is.
#[derive(Debug, Clone, Args)]
pub struct ControlArgs {
    /// The control database: `postgres://role@host/database`, with its password in `HEARTH_CONTROL_PASSWORD`. Without it the
    /// configuration's `[control]` is taken, and policies are checked against the configuration's databases.
    #[arg(long, env = "HEARTH_CONTROL_URL", value_name = "URL", hide_env_values = true)]
    pub control_url: Option<String>,
    /// The configuration file, for its `[control]`.
    #[arg(long, short, env = "HEARTH_CONFIG", default_value = "hearth.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON for programs in place of text for people.
    #[arg(long)]
    pub json: bool,
}

/// What a command works on.
pub struct Place {
    /// The control database.
    pub control: Control,
    /// What policies may name.
    pub known: Known,
    /// Tenants of the configuration file.
    pub in_file: Vec<String>,
}

impl ControlArgs {
    /// Finds the control database. Errors: none is named, or the configuration is not good.
    pub fn place(&self) -> Result<Place, Box<dyn Error>> {
        if let Some(url) = &self.control_url {
            let password = std::env::var_os(PASSWORD).map(|_| Secret::Env { env: PASSWORD.to_owned() });
            let control = Control::new(&ControlConfig::at(url, password)).map_err(ControlError::Settings)?;
            return Ok(Place { control, known: Known::anything(), in_file: Vec::new() });
        }
        let config = load(&ConfigArgs { config: self.config.clone() })?;
        let section = config.control.as_ref().ok_or(ControlError::NotConfigured)?;
        let control = Control::new(section).map_err(ControlError::Settings)?;
        Ok(Place { control, known: Known::of(&config), in_file: config.tenants.keys().cloned().collect() })
    }
}

/// Runs something that waits for the database.
pub fn block_on<T>(work: impl Future<Output = Result<T, ControlError>>) -> Result<T, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work)?)
}

/// Runs one thing against the store.
pub fn with_store<T>(
    place: &Place,
    work: impl AsyncFnOnce(&mut Store) -> Result<T, ControlError>,
) -> Result<T, Box<dyn Error>> {
    block_on(async {
        let mut store = place.control.store().await?;
        work(&mut store).await
    })
}
