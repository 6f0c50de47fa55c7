//! `terrarium bench sandbox`: what the glass costs.
//!
//! All figures of one call are taken in one process on one machine. Slow ones
//! are medians of `--repeat` runs, fast ones of hundreds.

use super::args::Bench;
use super::failure::Failure;
use super::{Ended, exit, say, workshop};
use crate::EngineError;
use crate::evaluate::{Evaluate, Sandboxed, Split};
use crate::run::fresh_probe_secret;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use terrarium_sandbox::jail::{self, CompileLimits};
use terrarium_sandbox::toolchain::{self, Dirs, guest_rustc_args};
use terrarium_sandbox::{
    BuildError, Component, Evaluation, Job, Knobs, Limits, Outcome, Report, Sandbox, Source, World,
};

/// Name and version of the object.
pub const SCHEMA: &str = "terrarium-bench/1";

/// The smallest candidate: it returns its input.
pub(super) const ECHO: &str = "\
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Echo;
impl Function for Echo {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> { Ok(input.to_vec()) }
}
export_function!(Echo);
";

/// Calls the host as often as its input says.
const CALLER: &str = "\
use terrarium_sdk::{Function, Result, export_function, report};
#[derive(Default)]
struct Caller;
impl Function for Caller {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let n = u64::from_le_bytes(input.try_into().unwrap_or_default());
        for step in 0..n { report::metric(\"m\", step, 0.0); }
        Ok(Vec::new())
    }
}
export_function!(Caller);
";

/// Comes back at once with no input; else never: by a loop, or by filling
/// memory in bulk.
const STUCK: &str = "\
use std::hint::black_box;
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Stuck;
impl Function for Stuck {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        match input {
            [] => Ok(Vec::new()),
            [0] => loop { black_box(0); },
            _ => {
                let mut room = vec![0u8; 64 << 20];
                loop { black_box(&mut room[..]).fill(black_box(1)); }
            }
        }
    }
}
export_function!(Stuck);
";

/// One measured figure.
#[derive(Serialize)]
pub(super) struct Figure {
    name: &'static str,
    pub(super) median: f64,
    min: f64,
    max: f64,
    unit: &'static str,
    /// What it is compared with, measured in the same call.
    peer: Option<&'static str>,
    /// This by the peer's median.
    ratio: Option<f64>,
    #[serde(skip)]
    meaning: &'static str,
}

impl Figure {
    pub(super) fn new(
        name: &'static str,
        unit: &'static str,
        meaning: &'static str,
        mut values: Vec<f64>,
    ) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let (n, last) = (values.len(), values.len().saturating_sub(1));
        let median = if n % 2 == 1 { at(n / 2) } else { (at(n / 2) + at((n / 2).saturating_sub(1))) / 2.0 };
        Self { name, median, min: at(0), max: at(last), unit, peer: None, ratio: None, meaning }
    }

    pub(super) fn against(mut self, peer: &'static str, median: f64) -> Self {
        (self.peer, self.ratio) = (Some(peer), Some(self.median / median));
        self
    }
}

/// Measures.
pub fn bench(args: &Bench) -> Ended {
    if args.name == "loop" {
        return super::bench_loop::bench(args);
    }
    if args.name == "tax" {
        return super::bench_tax::bench(args);
    }
    if args.repeat == 0 || args.repeat > 10_000 {
        return Err(Failure::usage(format!("--repeat {} is out of range", args.repeat), "1 to 10000"));
    }
    let sandbox = workshop::sandbox(args.isolation, workshop::cores())?;
    let identity = sandbox.identity()?;
    let mut figures = Vec::new();
    from_source(&sandbox, args.repeat, &mut figures)?;
    jail_overhead(&sandbox, args.repeat * 2, &mut figures)?;
    warm_and_cold(&sandbox, args.repeat, &mut figures)?;
    batch(&sandbox, args.repeat, &mut figures)?;
    deadlines(&sandbox, args.repeat, &mut figures)?;
    host_calls(&sandbox, args.repeat, &mut figures)?;
    training(&sandbox, args.repeat.min(5), &mut figures)?;
    if args.json {
        say(
            serde_json::json!({ "schema": SCHEMA, "bench": args.name, "machine": identity, "figures": figures }),
        );
    } else {
        say(format_args!("{identity}"));
        say(table(&figures));
    }
    Ok(exit::OK)
}

pub(super) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["figure", "median", "min", "max", "unit", "what it is"]);
    for f in figures {
        let number = |v: f64| format!("{v:.4}");
        table.add_row([
            f.name.to_owned(),
            number(f.median),
            number(f.min),
            number(f.max),
            f.unit.to_owned(),
            f.meaning.to_owned(),
        ]);
    }
    for column in 1..=3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn build(sandbox: &Sandbox, source: &str) -> Result<Component, Failure> {
    sandbox.compile(Source::Rust(source), World::Function).map_err(|e| match e {
        BuildError::Host(e) => e.into(),
        BuildError::Candidate(outcome) => {
            Failure::new(format!("the benchmark's own candidate: {outcome}"), "run `terrarium setup` again")
        }
    })
}

fn call(sandbox: &Sandbox, component: &Component, input: &[u8]) -> Result<(Report, f64), Failure> {
    let evaluation = Evaluation {
        seed: 0,
        probe_key: 0,
        knobs: Knobs::new(),
        job: Job::Call { input: input.to_vec() },
        limits: Limits { host_calls: 1 << 40, fuel: 1 << 50, ..Limits::default() },
    };
    let start = Instant::now();
    let report = sandbox.run(component, &evaluation)?;
    let took = start.elapsed().as_secs_f64();
    if !report.outcome.is_finished() {
        return Err(Failure::new(format!("the benchmark's own candidate: {}", report.outcome), ""));
    }
    Ok((report, took))
}

/// Source → score of the smallest candidate, nothing cached: first with no
/// process there, then one candidate right after another.
fn from_source(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    let nonce = fresh_probe_secret()?;
    let (mut total, mut rustc, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = Vec::new();
    for i in 0..repeat * 2 {
        if i < repeat {
            sandbox.drain();
        }
        let source = format!("{ECHO}// {nonce:x} {i}\n");
        let start = Instant::now();
        let component = build(sandbox, &source)?;
        call(sandbox, &component, b"echo")?;
        let all = start.elapsed().as_secs_f64() * 1e3;
        if i >= repeat {
            next.push(all);
            continue;
        }
        let compiler = component.timing.rustc_us as f64 / 1e3;
        total.push(all);
        rustc.push(compiler);
        ours.push(all - compiler);
    }
    let rustc = Figure::new("jailed_rustc", "ms", "of it, the compiler in its jail", rustc);
    let peer = rustc.median;
    figures.push(
        Figure::new("source_to_score", "ms", "smallest candidate, nothing cached", total)
            .against("jailed_rustc", peer),
    );
    figures.push(rustc);
    figures.push(Figure::new("source_to_score_ours", "ms", "of it, everything but the compiler", ours));
    let meaning = "the same right after another: processes were started ahead";
    figures.push(Figure::new("next_source_to_score", "ms", meaning, next));
    Ok(())
}

/// The same compiler call without a jail, in one that was put in place while
/// the call before it ran (as for each candidate of a search but the first
/// two), and in one that is put in place for it; taken in turns.
fn jail_overhead(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    let host = |e: &dyn std::fmt::Display| {
        Failure::new(format!("the jail's benchmark: {e}"), "run `terrarium doctor`")
    };
    let toolchain = toolchain::find(&Dirs::from_env().map_err(|e| host(&e))?).map_err(|e| host(&e))?;
    let limits = CompileLimits::default();
    let launcher = Path::new("/proc/self/exe");
    let folder = tempfile::tempdir().map_err(|e| host(&e))?;
    for name in ["in", "out", "tmp"] {
        std::fs::create_dir(folder.path().join(name)).map_err(|e| host(&e))?;
    }
    let source = folder.path().join("in/candidate.rs");
    std::fs::write(&source, ECHO).map_err(|e| host(&e))?;
    let arguments =
        guest_rustc_args(&toolchain, Path::new("in/candidate.rs"), Path::new("out/candidate.wasm"));
    let plain = || -> Result<f64, Failure> {
        let start = Instant::now();
        let mut command = Command::new(&toolchain.compiler.rustc);
        command
            .args(&arguments)
            .current_dir(folder.path())
            .env_clear()
            .env("TMPDIR", "tmp")
            .env("LC_ALL", "C");
        if let Ok(path) = std::env::join_paths(&toolchain.compiler.library_path)
            && !path.is_empty()
        {
            command.env("LD_LIBRARY_PATH", path);
        }
        let output = command.output().map_err(|e| host(&e))?;
        if !output.status.success() {
            return Err(host(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let nonce = fresh_probe_secret()?;
    let ahead = |round: usize| -> Result<f64, Failure> {
        let component = build(sandbox, &format!("{ECHO}// {nonce:x} jail {round}\n"))?;
        Ok(component.timing.rustc_us as f64 / 1e3)
    };
    let first = || -> Result<f64, Failure> {
        let start = Instant::now();
        jail::compile(ECHO, &toolchain, &limits, launcher).map_err(|e| host(&e))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut took = [const { Vec::new() }; 3];
    for round in 0..repeat + 2 {
        // The order turns, so that no way always follows the same one.
        let mut now = [0.0; 3];
        for way in (0..3).map(|step| (step + round) % 3) {
            now[way] = match way {
                0 => plain()?,
                1 => ahead(round)?,
                _ => first()?,
            };
        }
        if round >= 2 {
            took.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
        }
    }
    let [outside, inside, at_first] = took;
    let more = |with: &[f64]| with.iter().zip(&outside).map(|(with, without)| with / without - 1.0).collect();
    let meaning = "what the jail adds to a search's calls of the compiler, of their time";
    figures.push(Figure::new("jail_overhead", "fraction", meaning, more(&inside)));
    let meaning = "what it adds where nothing is ready";
    figures.push(Figure::new("jail_overhead_first", "fraction", meaning, more(&at_first)));
    let outside =
        Figure::new("unjailed_rustc", "ms", "the same call of the compiler without a jail", outside);
    let against = |figure: Figure| figure.against("unjailed_rustc", outside.median);
    figures.push(against(Figure::new("jailed_call", "ms", "the same call in a jail that was ready", inside)));
    figures.push(against(Figure::new("first_jailed_call", "ms", "in one that was not", at_first)));
    figures.push(outside);
    Ok(())
}

/// A worker's cold start, a warm request, and an instantiation.
fn warm_and_cold(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    let echo = build(sandbox, ECHO)?;
    let mut cold = Vec::new();
    for _ in 0..repeat * 5 {
        sandbox.drain();
        cold.push(call(sandbox, &echo, b"echo")?.1 * 1e3);
    }
    let mut next = Vec::new();
    for _ in 0..repeat * 5 {
        sandbox.drain();
        call(sandbox, &echo, b"echo")?;
        // Less than any candidate's compiler takes.
        std::thread::sleep(Duration::from_millis(50));
        // Another ceiling, so that the worker which is there does not fit.
        let limits = Limits { table_elements: Limits::default().table_elements - 1, ..Limits::default() };
        let start = Instant::now();
        sandbox.run(&echo, &Evaluation { limits, ..Evaluation::call("echo") })?;
        next.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let (mut warm, mut instantiate) = (Vec::new(), Vec::new());
    for _ in 0..repeat * 200 {
        let (report, took) = call(sandbox, &echo, b"echo")?;
        warm.push(took * 1e6);
        instantiate.push(report.timing.instantiate_us as f64);
    }
    figures.push(Figure::new(
        "instantiate",
        "us",
        "fresh store, instance and fuel set, in the worker",
        instantiate,
    ));
    figures.push(Figure::new("cold_worker", "ms", "process start, load, lock-down, first answer", cold));
    let meaning = "the same where the process was started ahead";
    figures.push(Figure::new("next_worker", "ms", meaning, next));
    figures.push(Figure::new("warm_request", "us", "request to answer of a waiting worker", warm));
    Ok(())
}

/// Evaluations of the smallest candidate a second, sent ahead to one worker.
/// Two processes share the work: by the time that the worker itself reports,
/// and by the clock.
fn batch(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    const COUNT: usize = 2_000;
    let echo = build(sandbox, ECHO)?;
    let all = vec![Evaluation::call("echo"); COUNT];
    let (mut by_clock, mut by_worker) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        let start = Instant::now();
        let reports = sandbox.run_many(&echo, &all)?;
        by_clock.push(COUNT as f64 / start.elapsed().as_secs_f64());
        let inside: u64 = reports.iter().map(|r| r.timing.instantiate_us + r.timing.train_us).sum();
        by_worker.push(COUNT as f64 * 1e6 / inside.max(1) as f64);
    }
    let by_worker =
        Figure::new("evaluations_in_worker", "1/s", "of it, instantiation and call alone", by_worker);
    let peer = by_worker.median;
    let meaning = "smallest candidate, sent ahead through one worker, by the clock";
    figures.push(Figure::new("evaluations", "1/s", meaning, by_clock).against("evaluations_in_worker", peer));
    figures.push(by_worker);
    Ok(())
}

/// How long after its deadline a guest that is stuck is gone, and the caller
/// told so.
fn deadlines(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    const WALL_MS: u64 = 100;
    let stuck = build(sandbox, STUCK)?;
    let late = |way: u8| -> Result<Vec<f64>, Failure> {
        let mut late = Vec::new();
        for _ in 0..repeat {
            // The worker is there already, so that its start is not counted.
            call(sandbox, &stuck, &[])?;
            let limits = Limits { fuel: 1 << 60, wall_ms: WALL_MS, ..Limits::default() };
            let evaluation = Evaluation { limits, ..Evaluation::call(vec![way]) };
            let start = Instant::now();
            let report = sandbox.run(&stuck, &evaluation)?;
            let took = start.elapsed().as_secs_f64() * 1e3;
            if !matches!(report.outcome, Outcome::Deadline { .. }) {
                return Err(Failure::new(
                    format!("the benchmark's endless candidate: {}", report.outcome),
                    "",
                ));
            }
            late.push(took - WALL_MS as f64);
        }
        Ok(late)
    };
    for (name, meaning, way) in [
        ("deadline_loop", "from a loop's deadline to its worker killed and reaped", 0),
        ("deadline_bulk", "the same while memory is filled in bulk", 1),
    ] {
        figures.push(Figure::new(name, "ms", meaning, late(way)?));
    }
    Ok(())
}

/// One call into the host, with a string argument.
fn host_calls(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    const CALLS: u64 = 200_000;
    let caller = build(sandbox, CALLER)?;
    let mut each = Vec::new();
    for _ in 0..repeat {
        let (none, _) = call(sandbox, &caller, &0u64.to_le_bytes())?;
        let (many, _) = call(sandbox, &caller, &CALLS.to_le_bytes())?;
        let spent = many.timing.train_us.saturating_sub(none.timing.train_us);
        each.push(spent as f64 * 1e3 / CALLS as f64);
    }
    figures.push(Figure::new("host_call", "ns", "one call into the host with a string argument", each));
    Ok(())
}

/// Share of the default GPT's training that is not spent in kernels.
fn training(sandbox: &Sandbox, repeat: usize, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    let loaded = workshop::load("gpt", None)?;
    let corpus = workshop::data(&loaded.task, None)?;
    let data = workshop::snapshot(corpus.as_ref())?;
    let evaluator = Sandboxed::new(sandbox, &loaded.task, data.as_ref(), fresh_probe_secret()?)?;
    let host = |e: crate::evaluate::HostError| Failure::from(EngineError::from(e));
    let built = match evaluator.build(&loaded.source) {
        Ok(built) => built,
        Err(crate::evaluate::BuildFailure::Host(e)) => return Err(host(e)),
        Err(crate::evaluate::BuildFailure::Candidate(outcome)) => {
            return Err(Failure::new(format!("the template gpt: {outcome}"), "run `terrarium setup` again"));
        }
    };
    let mut shares = Vec::new();
    for seed in 0..repeat as u64 {
        let result = evaluator.evaluate(&built, &Knobs::new(), seed, Split::Selection).map_err(host)?;
        let (all, kernels) = (result.timing.train_us as f64, result.timing.train_kernel_us as f64);
        shares.push((all - kernels) / all);
    }
    figures.push(Figure::new(
        "tax",
        "fraction",
        "share of the default GPT's training outside kernels",
        shares,
    ));
    Ok(())
}
