//! Process start to first answer, and nothing else: what a cold function pays. `client/measure` times and weighs it.

use std::io::{Write as _, stdout};

use hearth_client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = std::env::var("HEARTH_DATABASE").unwrap_or_else(|_| "app".to_owned());
    let answer: i64 = Client::from_env()?.db(&database).query("SELECT 1").read_only().fetch_scalar().await?;
    writeln!(stdout(), "{answer}")?;
    Ok(())
}
