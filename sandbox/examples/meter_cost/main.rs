//! What metering costs: programs without metering, with wasmtime's fuel, with
//! its epochs and with ours, taken in turns in one process.
//!
//! ```sh
//! cargo run --release --example meter_cost                 # a table
//! cargo run --release --example meter_cost -- --json FILE  # and the figures as JSON
//! cargo run --release --example meter_cost -- --rounds 31 --only dot
//! ```
//!
//! Times are processor time of the thread. A ratio is the median over the
//! rounds of the quotient with the unmetered program of the same round; all
//! four must compute the same. Needs the compiler of `terrarium setup`.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use comfy_table::{CellAlignment, Table, presets};
use rustix::time::{ClockId, clock_gettime};
use terrarium_sandbox::meter::{FUEL_GET, FUEL_SET, MeterConfig, instrument};
use terrarium_sandbox::toolchain::{Compiler, Dirs, TARGET, TARGET_FEATURES, find};
use wasmtime::{Config, Engine, Instance, Module, Store, TypedFunc};

/// The programs, in Rust.
const KERNELS: &str = include_str!("kernels.rs");

/// What the table calls them, their export, and whether SIMD is on. The first
/// eight are the ones that the goal is set for; the others were written to
/// look for something worse.
const PROGRAMS: &[(&str, &str, bool)] = &[
    ("matmul", "matmul", false),
    ("dot", "dot", false),
    ("sha256", "sha256", false),
    ("sort", "sort", false),
    ("matmul simd", "matmul_simd", true),
    ("dot simd", "dot_simd", true),
    ("fib", "fib", false),
    ("calls", "calls", false),
    ("indirect calls", "indirect", false),
    ("axpy simd", "axpy_simd", true),
    ("byte scan", "scan", false),
    ("collatz", "collatz", false),
    ("interpreter", "interpret", false),
];

/// How many of them the goal is set for.
const GOAL: usize = 8;

/// Thread time that one run should take, in seconds.
const SAMPLE: f64 = 8e-3;

/// Fuel that no run uses up.
const PLENTY: i64 = 1 << 60;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Metering {
    None,
    Fuel,
    Epoch,
    Ours,
}

const METERINGS: [(Metering, &str); 4] = [
    (Metering::None, "none"),
    (Metering::Fuel, "wasmtime fuel"),
    (Metering::Epoch, "wasmtime epochs"),
    (Metering::Ours, "ours"),
];

struct Arguments {
    rounds: usize,
    only: Option<String>,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| bench(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let mut parsed = Arguments { rounds: 21, only: None, json: None };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let value = given.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--rounds" => parsed.rounds = value.parse()?,
            "--only" => parsed.only = Some(value),
            "--json" => parsed.json = Some(value.into()),
            _ => return Err(format!("unknown argument {flag}; there are --rounds, --only, --json").into()),
        }
    }
    if !(1..=10_000).contains(&parsed.rounds) {
        return Err(format!("--rounds {} is out of range: 1 to 10000", parsed.rounds).into());
    }
    Ok(parsed)
}

/// One program under one metering, loaded.
struct Loaded {
    store: Store<()>,
    run: TypedFunc<u32, f64>,
    meter: Option<(TypedFunc<i64, ()>, TypedFunc<(), i64>)>,
}

impl Loaded {
    fn new(metering: Metering, wasm: &[u8], export: &str) -> Outcome<Self> {
        let mut config = Config::new();
        config.wasm_relaxed_simd(false);
        config.consume_fuel(metering == Metering::Fuel).epoch_interruption(metering == Metering::Epoch);
        let engine = Engine::new(&config)?;
        let module = match metering {
            Metering::Ours => Module::new(&engine, instrument(wasm, &MeterConfig::default())?.module)?,
            _ => Module::new(&engine, wasm)?,
        };
        let mut store = Store::new(&engine, ());
        match metering {
            Metering::Fuel => store.set_fuel(PLENTY as u64)?,
            Metering::Epoch => store.set_epoch_deadline(1 << 40),
            Metering::None | Metering::Ours => {}
        }
        let instance = Instance::new(&mut store, &module, &[])?;
        let run = instance.get_typed_func(&mut store, export)?;
        let meter = match metering {
            Metering::Ours => Some((
                instance.get_typed_func(&mut store, FUEL_SET)?,
                instance.get_typed_func(&mut store, FUEL_GET)?,
            )),
            _ => None,
        };
        Ok(Self { store, run, meter })
    }

    /// Seconds of this thread, and what was computed.
    fn run(&mut self, repeat: u32) -> Outcome<(f64, u64)> {
        if let Some((set, _)) = &self.meter {
            set.call(&mut self.store, PLENTY)?;
        }
        let start = thread_seconds();
        let result = self.run.call(&mut self.store, repeat)?;
        let seconds = thread_seconds() - start;
        if let Some((_, get)) = &self.meter
            && get.call(&mut self.store, ())? == PLENTY
        {
            return Err("the metered program was not metered".into());
        }
        Ok((seconds, result.to_bits()))
    }
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// What was measured of one program: per metering the seconds for one
/// repetition, and the ratios to the unmetered one, round by round.
struct Measured {
    name: &'static str,
    seconds: [Vec<f64>; 4],
    ratios: [Vec<f64>; 4],
}

fn measure(name: &'static str, export: &str, wasm: &[u8], rounds: usize) -> Outcome<Measured> {
    let mut loaded = Vec::new();
    for (metering, _) in METERINGS {
        loaded.push(Loaded::new(metering, wasm, export)?);
    }
    // As many repetitions as fill the time of a sample.
    let mut repeat = 1u32;
    while loaded[0].run(repeat)?.0 < SAMPLE / 4.0 && repeat < 1 << 24 {
        repeat *= 2;
    }
    let (seconds, _) = loaded[0].run(repeat)?;
    repeat = (f64::from(repeat) * SAMPLE / seconds).ceil() as u32;

    let mut measured = Measured { name, seconds: Default::default(), ratios: Default::default() };
    for round in 0..=rounds {
        let mut times = [0.0; 4];
        let mut results = [0; 4];
        for turn in 0..4 {
            // Each comes first equally often.
            let which = (turn + round) % 4;
            (times[which], results[which]) = loaded[which].run(repeat)?;
        }
        if results.iter().any(|result| *result != results[0]) {
            return Err(format!("{name}: metering changed the result").into());
        }
        if round == 0 {
            continue; // Caches and pages.
        }
        for (which, time) in times.iter().enumerate() {
            measured.seconds[which].push(time / f64::from(repeat));
            measured.ratios[which].push(time / times[0]);
        }
    }
    for values in measured.seconds.iter_mut().chain(&mut measured.ratios) {
        values.sort_by(f64::total_cmp);
    }
    Ok(measured)
}

/// Of sorted values.
fn median(values: &[f64]) -> f64 {
    let n = values.len();
    if n % 2 == 1 { values[n / 2] } else { (values[n / 2 - 1] + values[n / 2]) / 2.0 }
}

/// Compiles the kernels as a candidate is compiled, with or without SIMD.
fn compile(compiler: &Compiler, simd: bool) -> Outcome<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let (source, module) = (folder.path().join("kernels.rs"), folder.path().join("kernels.wasm"));
    std::fs::write(&source, KERNELS)?;
    let features = if simd { TARGET_FEATURES.to_owned() } else { TARGET_FEATURES.replace("+simd", "-simd") };
    let mut command = Command::new(&compiler.rustc);
    if !compiler.library_path.is_empty() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths(&compiler.library_path)?);
    }
    command
        .args(["--crate-type=cdylib", "--edition=2024", "--target", TARGET])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1", "-Cstrip=symbols"])
        .args(["-Clinker-flavor=wasm-ld", "-Clink-arg=--stack-first"])
        .arg(format!("-Ctarget-feature={features}"))
        .arg(format!("-Clinker={}", compiler.linker.display()))
        .arg(format!("--sysroot={}", compiler.sysroot.display()))
        .arg("-o")
        .args([&module, &source]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("the compiler: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(std::fs::read(&module)?)
}

fn bench(arguments: &Arguments) -> Outcome<()> {
    let toolchain = find(&Dirs::from_env()?).map_err(|e| format!("{e}; {}", e.hint()))?;
    let modules = [compile(&toolchain.compiler, false)?, compile(&toolchain.compiler, true)?];
    let mut all = Vec::new();
    for &(name, export, simd) in PROGRAMS {
        if arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            eprintln!("{name}");
            all.push(measure(name, export, &modules[usize::from(simd)], arguments.rounds)?);
        }
    }
    println!("{}", table(&all));
    if let Some(path) = &arguments.json {
        let machine =
            format!("{}; wasmtime 48.0.8; {}", toolchain.compiler.version, terrarium_kernels::cpu_kind());
        std::fs::write(path, serde_json::to_string_pretty(&json(&all, &machine))? + "\n")?;
    }
    Ok(())
}

/// The geometric mean over the programs of one metering's ratios.
fn geometric_mean(all: &[Measured], which: usize) -> f64 {
    let logs: f64 = all.iter().map(|program| median(&program.ratios[which]).ln()).sum();
    (logs / all.len() as f64).exp()
}

fn table(all: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["program", "unmetered", "wasmtime fuel", "wasmtime epochs", "ours", "range of ours"]);
    for program in all {
        let ratio = |which: usize| format!("{:.2}", median(&program.ratios[which]));
        let ours = &program.ratios[3];
        table.add_row([
            program.name.to_owned(),
            format!("{:.1} µs", median(&program.seconds[0]) * 1e6),
            ratio(1),
            ratio(2),
            ratio(3),
            format!("{:.2}–{:.2}", ours[0], ours[ours.len() - 1]),
        ]);
    }
    for (name, programs) in means(all) {
        let mean = |which: usize| format!("{:.2}", geometric_mean(programs, which));
        table.add_row([name.to_owned(), String::new(), mean(1), mean(2), mean(3), String::new()]);
    }
    for column in 1..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Over which programs a mean is taken.
fn means(all: &[Measured]) -> Vec<(&'static str, &[Measured])> {
    match all.get(..GOAL) {
        Some(goal) if all.len() == PROGRAMS.len() => {
            vec![("geometric mean of the first eight", goal), ("geometric mean of all", all)]
        }
        _ => vec![("geometric mean", all)],
    }
}

/// In the form of `terrarium bench`: the ratio is to the unmetered program.
fn json(all: &[Measured], machine: &str) -> serde_json::Value {
    let mut figures = Vec::new();
    for program in all {
        for (which, (metering, name)) in METERINGS.iter().enumerate() {
            let seconds = &program.seconds[which];
            let metered = *metering != Metering::None;
            figures.push(serde_json::json!({
                "name": format!("{}, {name}", program.name),
                "median": median(seconds) * 1e6,
                "min": seconds[0] * 1e6,
                "max": seconds[seconds.len() - 1] * 1e6,
                "unit": "us",
                "peer": metered.then(|| format!("{}, none", program.name)),
                "ratio": metered.then(|| median(&program.ratios[which])),
            }));
        }
    }
    for (over, programs) in means(all) {
        for (which, (_, name)) in METERINGS.iter().enumerate().skip(1) {
            let mut medians: Vec<f64> =
                programs.iter().map(|program| median(&program.ratios[which])).collect();
            medians.sort_by(f64::total_cmp);
            figures.push(serde_json::json!({
                "name": format!("{over}, {name}"),
                "median": geometric_mean(programs, which),
                "min": medians.first(),
                "max": medians.last(),
                "unit": "fraction",
                "peer": null,
                "ratio": null,
            }));
        }
    }
    serde_json::json!({ "schema": "terrarium-bench/1", "bench": "metering", "machine": machine, "figures": figures })
}
