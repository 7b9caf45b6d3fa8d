//! The `backfill` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    backfill::cli::main()
}
