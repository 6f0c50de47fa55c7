//! The `terrarium` command: results on standard output, all else on standard
//! error.

mod args;
mod bench;
mod check;
mod eval;
pub mod exit;
mod failure;
mod init;
mod progress;
mod report;
mod run;
mod setup;
mod values;
mod verify;
mod workshop;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;

/// Runs the command line of this process; returns its exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE } else { exit::OK };
        }
    };
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Resume(args) => run::resume(args),
        Command::Eval(args) => eval::eval(args),
        Command::Check(args) => check::check(args),
        Command::Init(args) => init::init(args),
        Command::Verify(args) => verify::verify(args),
        Command::Report(args) => report::report(args),
        Command::Bench(args) => bench::bench(args),
        Command::Setup(args) => setup::setup(args),
        Command::Doctor(args) => setup::doctor(args),
    };
    result.unwrap_or_else(|failure| {
        failure.print();
        failure.exit
    })
}

/// What a command returns: its exit code, or why it ended early.
type Ended = Result<i32, Failure>;

/// Prints a line to standard output. A closed pipe is not an error: whoever
/// listened has heard enough.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
