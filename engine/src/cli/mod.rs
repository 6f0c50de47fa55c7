//! The `terrarium` command: results on standard output, all else on standard
//! error.

mod agents;
mod args;
mod bench;
mod bench_loop;
mod bench_tasks;
mod bench_tax;
mod broker;
mod check;
mod compare;
mod doctor;
mod eval;
pub mod exit;
mod export;
mod failure;
mod init;
mod mcp;
mod progress;
mod report;
mod run;
mod setup;
mod values;
mod verify;
mod workshop;

use args::{Cli, Command};
use clap::{CommandFactory, FromArgMatches};
use failure::Failure;
use std::fmt::Write as _;
use terrarium_sandbox::Limits;

/// Runs the command line of this process; returns its exit code.
pub fn main() -> i32 {
    let command = Cli::command().mut_subcommand("eval", |eval| eval.after_help(limits_help()));
    let cli = match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
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
        Command::Mcp(args) => mcp::mcp(args),
        Command::Compare(args) => compare::compare(args),
        Command::Proposals(args) => compare::proposals(args),
        Command::Verify(args) => verify::verify(args),
        Command::Report(args) => report::report(args),
        Command::Export(args) => export::export(args),
        Command::Bench(args) if args.name == "tasks" => bench_tasks::bench(args),
        Command::Bench(args) => bench::bench(args),
        Command::Broker(args) => broker::broker(args),
        Command::Setup(args) => setup::setup(args),
        Command::Doctor(args) => doctor::doctor(args),
    };
    result.unwrap_or_else(|failure| {
        failure.print();
        failure.exit
    })
}

/// The table of limits, as `--help` shows it.
fn limits_help() -> String {
    let mut text = String::from("Limits (also the fields of [budget] in task.toml):\n");
    for field in Limits::FIELDS {
        let _ =
            writeln!(text, "  {:<20} {} [{}; default {}]", field.name, field.doc, field.unit, field.default);
    }
    text
}

/// What a command returns: its exit code, or why it ended early.
type Ended = Result<i32, Failure>;

/// Prints a line to standard output. A closed pipe is not an error: whoever
/// listened has heard enough.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
