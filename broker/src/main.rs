//! The `hearth` binary: flags to a command, and the one place that sets an exit code.

use std::process::ExitCode;

use clap::Parser;
use hearth_broker::cli::{self, Cli};
use mimalloc::MiMalloc;

/// A request is a few dozen small allocations; this one took a tenth off the processor time of each (`bin/bench`).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
