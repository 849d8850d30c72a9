//! `hearth migrate`: makes the control database's schema, or brings it up to date.

use std::error::Error;

use clap::{Args, Subcommand};
use serde_json::json;

use super::control::{ControlArgs, block_on};
use super::print;
use super::table::table;
use crate::control::migrate;

/// What to migrate.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MigrateArgs {
    #[command(subcommand)]
    command: Option<MigrateCommand>,
    /// Try everything in a transaction and take it back.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Tell which steps are applied and which are not.
    Status(ControlArgs),
}

/// Runs `hearth migrate …`.
pub fn run(args: &MigrateArgs) -> Result<(), Box<dyn Error>> {
    match &args.command {
        Some(MigrateCommand::Status(control)) => status(control),
        None => apply(&args.control, args.dry_run),
    }
}

fn apply(args: &ControlArgs, dry_run: bool) -> Result<(), Box<dyn Error>> {
    let place = args.place()?;
    let made = block_on(async {
        let mut session = place.control.open().await?;
        migrate::run(&mut session.client, dry_run).await
    })?;
    if args.json {
        let steps: Vec<_> = made.iter().map(|step| json!({"version": step.version, "name": step.name})).collect();
        return print(&format!("{}\n", json!({"applied": steps, "dry_run": dry_run})));
    }
    if made.is_empty() {
        return print("The schema is up to date; nothing was changed.\n");
    }
    let told = if dry_run { "would be applied (and went well)" } else { "applied" };
    let lines: Vec<String> = made.iter().map(|step| format!("{} {}: {told}\n", step.version, step.name)).collect();
    print(&lines.concat())
}

fn status(args: &ControlArgs) -> Result<(), Box<dyn Error>> {
    let place = args.place()?;
    let steps = block_on(async {
        let session = place.control.open().await?;
        migrate::status(&session.client).await
    })?;
    if args.json {
        let told =
            |step: &migrate::Step| json!({"version": step.version, "name": step.name, "applied_at": step.applied_at});
        return print(&format!("{}\n", json!({"steps": steps.iter().map(told).collect::<Vec<_>>()})));
    }
    let row = |step: &migrate::Step| {
        let at = step.applied_at.map_or_else(|| "not yet: run `hearth migrate`".to_owned(), |at| at.to_string());
        [step.version.to_string(), step.name.clone(), at]
    };
    print(&table(["STEP", "NAME", "APPLIED"], &steps.iter().map(row).collect::<Vec<_>>()))
}
