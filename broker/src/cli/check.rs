//! `hearth check`: every fault of a configuration at once.

use std::error::Error;

use super::{ConfigArgs, print};
use crate::broker::Broker;
use crate::cli::serve::load;

/// Checks the configuration, the secrets and the certificates it names; opens no connection.
pub fn run(args: &ConfigArgs) -> Result<(), Box<dyn Error>> {
    let config = load(args)?;
    // Building the broker resolves addresses and certificates; Redis' pool wants a runtime to be built in.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    Broker::new(&config)?;
    print(&format!(
        "The configuration is good: {} database(s), {} cache(s), {} tenant(s), {} key(s).\n",
        config.databases.len(),
        config.caches.len(),
        config.tenants.len(),
        config.tenants.values().map(|tenant| tenant.keys.len()).sum::<usize>(),
    ))
}
