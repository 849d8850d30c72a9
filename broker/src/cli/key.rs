//! `hearth key`: API keys, shown once.

use std::error::Error;

use clap::{Args, Subcommand};
use jiff::{Timestamp, ToSpan};

use super::print;
pub use crate::base::NewKey;
use crate::config::units::parse_duration;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key: prints it once, and the line with its hash for the configuration file.
    Create(CreateArgs),
}

/// The key to make.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What the key may do: any of sql:read, sql:write, redis.
    #[arg(long, value_delimiter = ',', default_value = "sql:read,sql:write,redis", value_parser = ["sql:read", "sql:write", "redis"])]
    scopes: Vec<String>,
    /// How long the key is valid, for example 90d. Default: for ever.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// Make a key for the admin interface in place of a tenant's.
    #[arg(long)]
    admin: bool,
}

/// Runs `hearth key …`.
pub fn run(command: &KeyCommand) -> Result<(), Box<dyn Error>> {
    let KeyCommand::Create(args) = command;
    let key = NewKey::random();
    if args.admin {
        return print(&format!(
            "The admin key, shown only now:\n\n  {}\n\nPut its hash into the configuration:\n\n  [server]\n  admin_key_sha256 = \"{}\"\n",
            key.secret, key.sha256
        ));
    }
    let scopes = args.scopes.iter().map(|scope| format!("\"{scope}\"")).collect::<Vec<_>>().join(", ");
    let expires = match &args.expires_in {
        None => String::new(),
        Some(text) => {
            let span = i64::try_from(parse_duration(text)?.as_millis())?.milliseconds();
            format!(", expires = \"{}\"", Timestamp::now().checked_add(span)?)
        }
    };
    print(&format!(
        "The key, shown only now:\n\n  {}\n\nAdd its hash to the tenant's keys in the configuration:\n\n  \
         {{ id = \"{}\", sha256 = \"{}\", scopes = [{scopes}]{expires} }}\n",
        key.token(),
        key.id,
        key.sha256
    ))
}
