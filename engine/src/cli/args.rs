//! The command line, declared once: parsing, `--help` and completion come from
//! here.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use terrarium_sandbox::Level;

/// Evolve untrusted code behind glass.
#[derive(Debug, Parser)]
#[command(
    name = "terrarium",
    version,
    about = "Evolve untrusted code behind glass",
    long_about = "Evolve untrusted code behind glass.\n\n\
        A candidate program is compiled to WebAssembly in a jail, runs in a locked-down worker process, drives \
        compute kernels through one narrow interface, and is scored by the host. The search keeps what is better \
        beyond noise.",
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 candidate failed, 4 sandbox or device unavailable.\n\
        TASK is a template's name (gpt, circles) or a folder with a task.toml."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Search for a better candidate
    Run(Run),
    /// Continue a run that was interrupted
    Resume(Resume),
    /// Evaluate one candidate once
    Eval(Eval),
    /// Check a candidate without running it: evolve blocks, compiler, module gate
    Check(Check),
    /// Make a task of your own from a template
    Init(Init),
    /// Compare runs at equal budget, such as searches with controls
    Compare(Compare),
    /// Print a run's proposals as JSON lines, for `run --replay`
    Proposals(Proposals),
    /// Serve a run to an interactive agent (Model Context Protocol)
    Mcp(Mcp),
    /// Run a recorded winner again and compare every bit; check ledger and blobs
    Verify(Verify),
    /// Show a run as a table, and write its report
    Report(Report),
    /// Write a run's candidates and evaluations as Parquet, JSON lines, CSV and results.tsv
    Export(Export),
    /// Measure the sandbox, or search the problems with published figures
    Bench(Bench),
    /// Find or build the wasm compiler and the SDK, and prepare the corpus
    Setup(Setup),
    /// Own a device, and lend it to the workers of other commands
    Broker(Broker),
    /// Show what this machine offers and what is missing
    Doctor(Doctor),
}

/// Where data comes from, and on which device.
#[derive(Debug, Args)]
pub struct Common {
    /// A folder of your own text, instead of the default corpus
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The device: `cpu`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Use the device of the broker that listens there, instead [default: $TERRARIUM_BROKER]
    #[arg(long, value_name = "PATH", conflicts_with = "device")]
    pub broker: Option<PathBuf>,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}

/// How strongly the processes that meet untrusted code must be held.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct IsolationArgs {
    /// Refuse to work below this level: none, minimal, namespaces, strong, full [default: $TERRARIUM_REQUIRE_ISOLATION or namespaces]
    #[arg(long, value_name = "LEVEL")]
    pub require_isolation: Option<Level>,
    /// DANGEROUS: the same as --require-isolation none; candidates may then read your files
    #[arg(long, conflicts_with = "require_isolation")]
    pub allow_unjailed: bool,
}

/// `terrarium run`
#[derive(Debug, Args)]
pub struct Run {
    /// A template's name or a task's folder
    pub task: String,
    /// The run's folder; it must be new or empty [default: runs/TASK-NUMBER]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// All random numbers of the run follow from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Stop after this many selection evaluations
    #[arg(long, value_name = "N")]
    pub evals: Option<u32>,
    /// Generations, instead of the task's
    #[arg(long, value_name = "N")]
    pub generations: Option<u32>,
    /// Stop by the clock, such as 90s, 10m or 2h; such a run is not reproducible on another machine
    #[arg(long, value_name = "TIME", value_parser = super::values::duration)]
    pub wall: Option<std::time::Duration>,
    /// Proposers to use, instead of the task's: knobs, mutate, crossover, person, replay, and the task's models and commands
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub proposer: Vec<String>,
    /// Search without selection, to compare with: random or best-of-n
    #[arg(long, value_name = "CONTROL", value_parser = ["random", "best-of-n"])]
    pub control: Option<String>,
    /// Stop after so much fuel in selection evaluations (device fuel, where a device is used)
    #[arg(long, value_name = "N", value_parser = super::values::amount)]
    pub fuel: Option<u64>,
    /// Islands, instead of a number that fits the run
    #[arg(long, value_name = "N")]
    pub islands: Option<u32>,
    /// Make the proposals of this file, as `terrarium proposals` prints them
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// Start from this source instead of the task's own
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,
    #[command(flatten)]
    /// Shared options.
    pub workers: Workers,
    #[command(flatten)]
    /// Shared options.
    pub common: Common,
}

/// How many at a time.
#[derive(Debug, Args)]
pub struct Workers {
    /// Evaluations at a time; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Print one JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `terrarium resume`
#[derive(Debug, Args)]
pub struct Resume {
    /// The run's folder
    pub run: PathBuf,
    /// Stop by the clock, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = super::values::duration)]
    pub wall: Option<std::time::Duration>,
    #[command(flatten)]
    /// Shared options.
    pub workers: Workers,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}

/// `terrarium eval`
#[derive(Debug, Args)]
pub struct Eval {
    /// A template's name or a task's folder
    pub task: String,
    /// Seed of the evaluation
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Source to evaluate, instead of the task's own
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,
    /// A core wasm module to evaluate, instead of source
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    pub wasm: Option<PathBuf>,
    /// A knob's value
    #[arg(long = "knob", value_name = "NAME=VALUE", value_parser = super::values::pair)]
    pub knobs: Vec<(String, String)>,
    /// A limit, instead of the task's
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = super::values::pair)]
    pub limits: Vec<(String, String)>,
    /// Score on the final split instead of the selection split
    #[arg(long)]
    pub final_split: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// Shared options.
    pub common: Common,
}

/// `terrarium check`
#[derive(Debug, Args)]
pub struct Check {
    /// A template's name or a task's folder
    pub task: String,
    /// Source to check, instead of the task's own
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}

/// `terrarium init`
#[derive(Debug, Args)]
pub struct Init {
    /// Name of the new task, and of the folder that is made for it
    pub name: String,
    /// The template to start from
    #[arg(long, value_name = "TEMPLATE", default_value = "circles")]
    pub template: String,
}

/// `terrarium verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// The run's folder
    pub run: PathBuf,
    /// Repeat every evaluation, not the winner's only
    #[arg(long, conflicts_with = "candidate")]
    pub all: bool,
    /// Repeat the evaluations of this candidate
    #[arg(long, value_name = "ID")]
    pub candidate: Option<String>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}

/// `terrarium compare`
#[derive(Debug, Args)]
pub struct Compare {
    /// Folders of finished runs of one task
    #[arg(required = true, num_args = 2..)]
    pub runs: Vec<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `terrarium mcp`
#[derive(Debug, Args)]
pub struct Mcp {
    /// The run's folder
    pub run: PathBuf,
    /// Make the folder first, as a run of this task that only takes submissions
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,
    /// With --task: submissions at most, over which the error rate is divided
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub submissions: u32,
    /// With --task: all random numbers of the run follow from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Serve streamable HTTP at this port of 127.0.0.1 (0: any), instead of standard input and output
    #[arg(long, value_name = "PORT")]
    pub http: Option<u16>,
    /// Evaluations at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}

/// `terrarium proposals`
#[derive(Debug, Args)]
pub struct Proposals {
    /// The run's folder
    pub run: PathBuf,
}

/// `terrarium report`
#[derive(Debug, Args)]
pub struct Report {
    /// The run's folder
    pub run: PathBuf,
    /// Where to write the page [default: report.html in the run's folder]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `terrarium export`
#[derive(Debug, Args)]
pub struct Export {
    /// The run's folder
    pub run: PathBuf,
    /// Where to write the files [default: export in the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only these kinds of file
    #[arg(long, value_name = "FORMAT", num_args = 1.., value_delimiter = ',', value_parser = ["parquet", "jsonl", "csv", "tsv"])]
    pub format: Vec<String>,
}

/// `terrarium bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure
    #[arg(value_parser = ["sandbox", "loop", "tasks", "tax"])]
    pub name: String,
    /// loop: how many candidates
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub candidates: u32,
    /// loop: evaluations at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// sandbox: repetitions of the slow figures; tax: trainings of each size
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub repeat: usize,
    /// tasks: how long each problem is searched, such as 90s
    #[arg(long, value_name = "TIME", default_value = "100s", value_parser = super::values::duration)]
    pub wall_per_task: std::time::Duration,
    /// tasks: only these templates
    #[arg(long, value_name = "TEMPLATE", num_args = 1.., value_delimiter = ',')]
    pub only: Vec<String>,
    /// tasks: the seed of every search
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// tasks, loop: keep the run folders here [default: they go when it ends]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// tax: the template gpt as a core wasm module, where there is no compiler
    #[arg(long, value_name = "FILE")]
    pub wasm: Option<PathBuf>,
    /// tax: train on the device of the broker that listens there
    #[arg(long, value_name = "PATH")]
    pub broker: Option<PathBuf>,
    /// tax: a folder of your own text, instead of the default corpus
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}

/// `terrarium setup`
#[derive(Debug, Args)]
pub struct Setup {
    /// Only compiler and SDK, no corpus
    #[arg(long)]
    pub no_corpus: bool,
    /// Also a C compiler (clang and wasi-libc; about 50 MB are fetched where
    /// there is none)
    #[arg(long)]
    pub c: bool,
}

/// `terrarium broker`
#[derive(Debug, Args)]
pub struct Broker {
    /// The device: `cpu`, `cuda:0`, …
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Where to listen; other commands take it as --broker
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Quotas and shares of users, as in docs/broker.md
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `terrarium doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// Shared options.
    pub isolation: IsolationArgs,
}
