//! The `hearth` binary: flags to a command, and the one place that sets an exit code.

use std::process::ExitCode;

use clap::Parser;
use hearth_broker::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::tell(error.as_ref());
            ExitCode::FAILURE
        }
    }
}
