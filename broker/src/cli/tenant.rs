//! `hearth tenant`: tenants of the control database.

use std::error::Error;
use std::io::Read as _;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::control::{ControlArgs, Place, with_store};
use super::print;
use super::table::table;
use crate::control::{ControlError, Patch, StoredKeyRow, StoredTenantRow};

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List tenants in the order of their names.
    #[command(after_help = "Examples:\n  hearth tenant list\n  hearth tenant list --after acme --limit 1000 --json")]
    List {
        /// Begin after this name.
        #[arg(long, default_value = "", hide_default_value = true)]
        after: String,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Show a tenant, its policy and its keys.
    Show(NameArgs),
    /// Make a tenant. A policy has the fields of a tenant's section in docs/config.md.
    #[command(
        after_help = "Examples:\n  hearth tenant create acme --database app --cache main --set limits.requests_per_second=200\n  \
        hearth tenant create acme --policy acme.json\n  hearth key create acme --scopes sql:read"
    )]
    Create {
        /// The tenant's name.
        name: String,
        #[command(flatten)]
        policy: PolicyArgs,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Change a tenant's policy; what is not named stays. In force in every broker within a second.
    #[command(
        after_help = "Examples:\n  hearth tenant update acme --set limits.in_flight=50 --set 'settings=[\"app.*\"]'\n  \
        hearth tenant update acme --unset limits.burst\n  hearth tenant update acme --policy patch.json --if-version 12"
    )]
    Update {
        /// The tenant's name.
        name: String,
        #[command(flatten)]
        policy: PolicyArgs,
        /// Take a field away: its default holds again. Several times for several.
        #[arg(long, value_name = "FIELD")]
        unset: Vec<String>,
        /// Only if the tenant is still at this version, as `show` tells it.
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Take a tenant away, with its keys.
    Delete {
        /// The tenant's name.
        name: String,
        /// Do it.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Refuse a tenant's requests (403) until it is resumed. What runs runs to its end.
    Suspend(NameArgs),
    /// Let a suspended tenant's requests in again.
    Resume(NameArgs),
}

/// A tenant.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The tenant's name.
    name: String,
    #[command(flatten)]
    control: ControlArgs,
}

/// What a tenant may use, and how much.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// A file with the policy as JSON; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    policy: Option<String>,
    /// A database the tenant may use. Several times for several.
    #[arg(long, value_name = "NAME")]
    database: Vec<String>,
    /// A cache the tenant may use. Several times for several.
    #[arg(long, value_name = "NAME")]
    cache: Vec<String>,
    /// A field and its value, as JSON or as plain text: `limits.max_timeout=5s`. Several times for several.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
}

impl PolicyArgs {
    fn read(&self) -> Result<Value, Box<dyn Error>> {
        let mut policy = match self.policy.as_deref() {
            None => json!({}),
            Some(file) => {
                let text = if file == "-" {
                    let mut text = String::new();
                    std::io::stdin().read_to_string(&mut text)?;
                    text
                } else {
                    std::fs::read_to_string(file)
                        .map_err(|error| format!("cannot read the policy `{file}`: {error}"))?
                };
                serde_json::from_str(&text).map_err(|error| format!("the policy `{file}` is not JSON: {error}"))?
            }
        };
        for (field, names) in [("databases", &self.database), ("caches", &self.cache)] {
            if !names.is_empty() {
                set(&mut policy, field, json!(names));
            }
        }
        for pair in &self.set {
            let (field, text) = pair.split_once('=').ok_or_else(|| format!("`--set {pair}`: write FIELD=VALUE"))?;
            set(&mut policy, field, serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
        }
        Ok(policy)
    }
}

/// Sets a field by its path: `limits.in_flight`.
fn set(target: &mut Value, path: &str, value: Value) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    let field = fields.entry(first.to_owned()).or_insert(Value::Null);
    match rest {
        None => *field = value,
        Some(rest) => set(field, rest, value),
    }
}

/// Runs `hearth tenant …`.
pub fn run(command: &TenantCommand) -> Result<(), Box<dyn Error>> {
    match command {
        TenantCommand::List { after, limit, control } => list(after, *limit, control),
        TenantCommand::Show(args) => show(args),
        TenantCommand::Create { name, policy, control } => {
            let (place, policy) = (control.place()?, policy.read()?);
            if place.in_file.contains(name) {
                return Err(ControlError::InFile(name.clone()).into());
            }
            let made = with_store(&place, async |store| store.create(name, &policy, &place.known).await)?.stored;
            done(&made, control, "made; it has no key yet: `hearth key create` makes one")
        }
        TenantCommand::Update { name, policy, unset, if_version, control } => {
            let mut patch = policy.read()?;
            for field in unset {
                set(&mut patch, field, Value::Null);
            }
            if patch.as_object().is_some_and(Map::is_empty) {
                return Err(
                    "nothing to change: name fields with --set, --unset, --database, --cache or --policy".into()
                );
            }
            let patch = Patch { policy: Some(patch), suspended: None };
            update(name, &patch, if_version.as_ref().map(std::slice::from_ref), control, "changed")
        }
        TenantCommand::Delete { name, yes, control } => delete(name, *yes, control),
        TenantCommand::Suspend(args) => suspend(args, true, "suspended: its requests are refused"),
        TenantCommand::Resume(args) => suspend(args, false, "resumed"),
    }
}

fn suspend(args: &NameArgs, suspended: bool, told: &str) -> Result<(), Box<dyn Error>> {
    update(&args.name, &Patch { policy: None, suspended: Some(suspended) }, None, &args.control, told)
}

fn update(
    name: &str,
    patch: &Patch,
    wanted: Option<&[i64]>,
    control: &ControlArgs,
    told: &str,
) -> Result<(), Box<dyn Error>> {
    let place = control.place()?;
    let changed = with_store(&place, async |store| store.update(name, patch, wanted, &place.known).await)?.stored;
    done(&changed, control, told)
}

fn delete(name: &str, yes: bool, control: &ControlArgs) -> Result<(), Box<dyn Error>> {
    let place: Place = control.place()?;
    with_store(&place, async |store| {
        if !yes {
            let keys = store.tenant(name).await?.key_count;
            let message = format!("this takes `{name}` away for good, with its {keys} key(s): say `--yes`");
            return Err(ControlError::KeyState(message));
        }
        store.delete(name, None).await
    })?;
    if control.json { print(&format!("{}\n", json!({"deleted": name}))) } else { print(&format!("{name}: deleted\n")) }
}

fn done(tenant: &StoredTenantRow, control: &ControlArgs, told: &str) -> Result<(), Box<dyn Error>> {
    if control.json {
        return print(&format!("{}\n", serde_json::to_string(tenant)?));
    }
    print(&format!("{}: {told} (version {})\n", tenant.name, tenant.version))
}

fn list(after: &str, limit: i64, control: &ControlArgs) -> Result<(), Box<dyn Error>> {
    let place = control.place()?;
    let tenants = with_store(&place, async |store| store.list(after, limit).await)?;
    if control.json {
        return print(&format!("{}\n", json!({ "tenants": tenants })));
    }
    let names = |policy: &Value, field: &str| {
        let names = policy[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(",")
    };
    let row = |tenant: &StoredTenantRow| {
        [
            tenant.name.clone(),
            state(tenant).to_owned(),
            tenant.key_count.to_string(),
            names(&tenant.policy, "databases"),
            names(&tenant.policy, "caches"),
            tenant.version.to_string(),
        ]
    };
    let rows: Vec<_> = tenants.iter().map(row).collect();
    let more = if i64::try_from(rows.len()).is_ok_and(|count| count == limit) {
        let last = tenants.last().map(|tenant| tenant.name.as_str()).unwrap_or_default();
        format!("There may be more: `--after {last}`.\n")
    } else {
        String::new()
    };
    print(&format!("{}{more}", table(["NAME", "STATE", "KEYS", "DATABASES", "CACHES", "VERSION"], &rows)))
}

fn state(tenant: &StoredTenantRow) -> &'static str {
    if tenant.suspended_at.is_some() { "suspended" } else { "active" }
}

fn show(args: &NameArgs) -> Result<(), Box<dyn Error>> {
    let place = args.control.place()?;
    let (tenant, keys) =
        with_store(&place, async |store| Ok((store.tenant(&args.name).await?, store.keys(&args.name).await?)))?;
    if args.control.json {
        let mut told = serde_json::to_value(&tenant)?;
        told["keys"] = serde_json::to_value(&keys)?;
        return print(&format!("{told}\n"));
    }
    print(&format!(
        "{}\n  state    {}\n  version  {}\n  made     {}\n  changed  {}\n  policy   {}\n\n{}",
        tenant.name,
        tenant.suspended_at.map_or_else(|| "active".to_owned(), |since| format!("suspended since {since}")),
        tenant.version,
        tenant.created_at,
        tenant.updated_at,
        serde_json::to_string_pretty(&tenant.policy)?.replace('\n', "\n           "),
        key_table(&keys),
    ))
}

/// Keys for people.
pub fn key_table(keys: &[StoredKeyRow]) -> String {
    if keys.is_empty() {
        return "No keys.\n".to_owned();
    }
    let row = |key: &StoredKeyRow| {
        [
            key.id.clone(),
            key.state.to_owned(),
            key.scopes.join(","),
            key.statements.as_ref().map_or_else(|| "any".to_owned(), |names| names.join(",")),
            key.not_before.map_or_else(|| "at once".to_owned(), |from| from.to_string()),
            key.expires.map_or_else(|| "never".to_owned(), |end| end.to_string()),
            key.last_used.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            key.created_at.to_string(),
            key.replaces.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    table(["KEY", "STATE", "SCOPES", "STATEMENTS", "GOOD FROM", "EXPIRES", "LAST USED", "MADE", "REPLACES"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_by_their_paths() {
        let mut policy = json!({"limits": {"burst": 1}});
        set(&mut policy, "limits.in_flight", json!(5));
        set(&mut policy, "limits.burst", Value::Null);
        set(&mut policy, "lanes", json!(false));
        assert_eq!(policy, json!({"limits": {"burst": null, "in_flight": 5}, "lanes": false}));
    }
}
