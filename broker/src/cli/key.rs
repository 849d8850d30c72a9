//! `hearth key`: API keys, shown once. For the configuration file, or in the control database.

use std::error::Error;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::control::{ControlArgs, Place, with_store};
use super::print;
use super::tenant::key_table;
pub use crate::base::NewKey;
use crate::config::units::parse_duration;
use crate::control::{ControlError, KeyWish, MadeKey, Store};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key. Without a tenant: prints it once, and the line with its hash for the configuration file. With one: stores its hash
    /// in the control database, where every broker has it within a second.
    #[command(
        after_help = "Examples:\n  hearth key create --scopes sql:read --expires-in 90d\n  hearth key create acme --scopes sql:read,sql:write\n  \
        hearth key create acme --statements get_user,add_user --json\n  \
        hearth key create acme --not-before 2027-01-01T00:00:00Z\n  hearth key create --admin\n\n\
        To rotate a key of the configuration file: add the new one beside the old one, reload, and give it out. When the old one's\n\
        `last_used` in `GET /admin/v1/keys` stands still on every broker, take it out and reload. A key of the control database is\n\
        rotated by `hearth key rotate`; `hearth key list` shows when each was last used."
    )]
    Create(CreateArgs),
    /// List the keys of a tenant of the control database, the newest first, with when each was last used: brokers write that once a
    /// minute, and when they end. Secrets are kept nowhere.
    List {
        /// The tenant's name.
        tenant: String,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Make a key in another's place, with the same rights. The old one goes on for a while, so that nobody is refused meanwhile.
    #[command(
        after_help = "Examples:\n  hearth key rotate hk_x1y2z3 --overlap 48h\n  hearth key rotate hk_x1y2z3 --overlap 0s   (the old one ends now)"
    )]
    Rotate {
        /// The old key: its id, before the dot.
        key: String,
        /// How long the old one goes on.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        overlap: Duration,
        /// How long the new one is valid. Default: as long as the old one was.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Refuse a key from now on. In force in every broker within a second.
    Revoke {
        /// The key's id, before the dot.
        key: String,
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// The key to make.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The tenant of the control database whose key it is to be.
    #[arg(conflicts_with = "admin")]
    tenant: Option<String>,
    /// What the key may do: any of sql:read, sql:write, redis.
    #[arg(long, value_delimiter = ',', default_value = "sql:read,sql:write,redis", value_parser = ["sql:read", "sql:write", "redis"])]
    scopes: Vec<String>,
    /// The only named statements that the key may run. Default: all, and any SQL.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    statements: Option<Vec<String>>,
    /// How long the key is valid, counted from now, for example 90d. Default: for ever.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<Duration>,
    /// The moment before which the key is refused, for example 2027-01-01T00:00:00Z. Default: good at once.
    #[arg(long, value_name = "RFC 3339", value_parser = moment)]
    not_before: Option<Timestamp>,
    /// Make a key for the admin interface in place of a tenant's.
    #[arg(long)]
    admin: bool,
    #[command(flatten)]
    control: ControlArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is not a moment such as 2027-01-01T00:00:00Z"))
}

/// Runs `hearth key …`.
pub fn run(command: &KeyCommand) -> Result<(), Box<dyn Error>> {
    match command {
        KeyCommand::Create(args) => match &args.tenant {
            Some(tenant) => create(tenant, args),
            None => for_the_file(args),
        },
        KeyCommand::List { tenant, control } => {
            let place = control.place()?;
            let keys = with_store(&place, async |store| store.keys(tenant).await)?;
            if control.json {
                return print(&format!("{}\n", json!({"tenant": tenant, "keys": keys})));
            }
            print(&key_table(&keys))
        }
        KeyCommand::Rotate { key, overlap, expires_in, control } => {
            let key = public_half(key);
            let (tenant, made) = with_tenant(&control.place()?, key, async |store, tenant| {
                Ok(store.rotate_key(tenant, key, *overlap, *expires_in).await?.stored)
            })?;
            hand_out(&tenant, &made, control)
        }
        KeyCommand::Revoke { key, control } => {
            let key = public_half(key);
            let (tenant, row) = with_tenant(&control.place()?, key, async |store, tenant| {
                Ok(store.revoke_key(tenant, key).await?.stored)
            })?;
            if control.json {
                return print(&format!("{}\n", json!({"tenant": tenant, "id": row.id, "revoked_at": row.revoked_at})));
            }
            print(&format!("{key} of {tenant}: revoked\n"))
        }
    }
}

/// Whoever pastes the whole key means its id. The secret goes no further.
fn public_half(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

fn create(tenant: &str, args: &CreateArgs) -> Result<(), Box<dyn Error>> {
    let place = args.control.place()?;
    let (scopes, statements) = (args.scopes.clone(), args.statements.clone());
    let wish = KeyWish { scopes, statements, not_before: args.not_before, expires_in: args.expires_in };
    let made = with_store(&place, async |store| Ok(store.create_key(tenant, &wish, &place.known).await?.stored))?;
    hand_out(tenant, &made, &args.control)
}

/// Does something to a key whose tenant is not said.
fn with_tenant<T>(
    place: &Place,
    key: &str,
    work: impl AsyncFnOnce(&mut Store, &str) -> Result<T, ControlError>,
) -> Result<(String, T), Box<dyn Error>> {
    with_store(place, async |store| {
        let unknown = || {
            ControlError::KeyState(format!(
                "the control database has no key `{key}`; `hearth key list TENANT` lists a tenant's"
            ))
        };
        let tenant = store.tenant_of_key(key).await?.ok_or_else(unknown)?;
        let done = work(store, &tenant).await?;
        Ok((tenant, done))
    })
}

fn hand_out(tenant: &str, made: &MadeKey, control: &ControlArgs) -> Result<(), Box<dyn Error>> {
    if control.json {
        let mut told: Value = serde_json::to_value(&made.row)?;
        told["tenant"] = json!(tenant);
        told["key"] = json!(made.new.token());
        if let Some(old) = &made.old {
            told["replaced"] = json!({"id": old.id, "expires": old.expires});
        }
        return print(&format!("{told}\n"));
    }
    let from = made.row.not_before.map(|from| format!(" from {from} on")).unwrap_or_default();
    let expires = made.row.expires.map_or_else(|| "never expires".to_owned(), |end| format!("expires {end}"));
    let old = made.old.as_ref().and_then(|old| Some(format!("\n{} goes on until {}.\n", old.id, old.expires?)));
    print(&format!(
        "The key of {tenant}, shown only now:\n\n  {}\n\nIt may {}{from} and {expires}.\n{}",
        made.new.token(),
        made.row.scopes.join(", "),
        old.unwrap_or_default()
    ))
}

fn for_the_file(args: &CreateArgs) -> Result<(), Box<dyn Error>> {
    let key = NewKey::random();
    if args.admin {
        if args.control.json {
            return print(&format!("{}\n", json!({"key": key.secret, "sha256": key.sha256})));
        }
        return print(&format!(
            "The admin key, shown only now:\n\n  {}\n\nPut its hash into the configuration:\n\n  [server]\n  admin_key_sha256 = \"{}\"\n",
            key.secret, key.sha256
        ));
    }
    let quoted = |names: &[String]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let expires = match args.expires_in {
        None => None,
        Some(life) => Some(Timestamp::now().checked_add(i64::try_from(life.as_millis())?.milliseconds())?),
    };
    let not_before = args.not_before;
    if not_before.zip(expires).is_some_and(|(from, until)| from >= until) {
        return Err("--not-before must be before the key expires: it would never be good".into());
    }
    if args.control.json {
        let told = json!({"key": key.token(), "id": key.id, "sha256": key.sha256, "scopes": args.scopes,
            "statements": args.statements, "not_before": not_before, "expires": expires});
        return print(&format!("{told}\n"));
    }
    let statements = args.statements.as_ref().map(|names| format!(", statements = [{}]", quoted(names)));
    print(&format!(
        "The key, shown only now:\n\n  {}\n\nAdd its hash to the tenant's keys in the configuration:\n\n  \
         {{ id = \"{}\", sha256 = \"{}\", scopes = [{}]{}{}{} }}\n",
        key.token(),
        key.id,
        key.sha256,
        quoted(&args.scopes),
        statements.unwrap_or_default(),
        not_before.map(|from| format!(", not_before = \"{from}\"")).unwrap_or_default(),
        expires.map(|end| format!(", expires = \"{end}\"")).unwrap_or_default()
    ))
}
