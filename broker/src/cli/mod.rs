//! What a person starts: serve, check, key, tenant, migrate, dev, and the configuration's reference.

pub mod check;
pub mod control;
pub mod dev;
pub mod files;
pub mod key;
pub mod migrate;
pub mod serve;
mod table;
pub mod tenant;

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A connection broker for code that cannot keep a connection: warm PostgreSQL and Redis pools behind stateless HTTP.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, about, long_about = None, after_help = "Start with `hearth dev`: it needs no configuration and prints calls to paste.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker with a configuration file.
    ///
    /// Environment variables lie over the file: `HEARTH__SERVER__LISTEN=0.0.0.0:8432`. Without a file the whole configuration
    /// may stand in `HEARTH_CONFIG_TOML`. SIGTERM and Ctrl-C drain: requests in flight finish, new ones get 503.
    Serve(ConfigArgs),
    /// Check a configuration and tell every fault at once, with its path. Connects to nothing.
    Check(ConfigArgs),
    /// Make, list, rotate and revoke API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Make and change tenants in the control database.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Make the schema `hearth` in the control database, or bring it up to date. As often as one likes, from several places at once.
    #[command(
        after_help = "Examples:\n  hearth migrate --dry-run\n  hearth migrate --control-url postgres://owner@db.internal/control\n  hearth migrate status"
    )]
    Migrate(migrate::MigrateArgs),
    /// Run a private PostgreSQL, Redis and broker to try things on; everything is gone when it ends.
    ///
    /// Needs PostgreSQL's and Redis' server programs on this machine, running or not; `bin/dev` installs them.
    Dev(dev::DevArgs),
    /// Print the fingerprint by which the audit log knows a statement.
    Fingerprint {
        /// The statement; its literals, comments, case and white space do not count.
        sql: String,
    },
    /// Print the reference of every configuration field (docs/config.md).
    ConfigReference,
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file.
    #[arg(long, short, env = "HEARTH_CONFIG", default_value = "hearth.toml", value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Key(command) => key::run(&command),
        Command::Tenant(command) => tenant::run(&command),
        Command::Migrate(args) => migrate::run(&args),
        Command::Dev(args) => dev::run(&args),
        Command::Fingerprint { sql } => print(&format!("{:016x}\n", crate::query::fingerprint::fingerprint(&sql))),
        Command::ConfigReference => print(&crate::config::document::markdown()),
    }
}

/// Writes to standard output; a reader that has gone away is no fault of ours.
pub fn print(text: &str) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tells a person what went wrong, with its causes.
pub fn tell(error: &dyn Error) {
    let mut text = format!("hearth: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}\n  caused by: {cause}");
        source = cause.source();
    }
    // Nobody to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
