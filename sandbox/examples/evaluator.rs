//! An evaluator for another evolution engine: one candidate in, one line of
//! JSON out, whatever the candidate does.
//!
//! The problem is sorting numbers. An answer must be right; the score of a
//! right one is what a comparison sort needs, n·log2(n), by the instructions
//! that it used. Instructions are counted, not timed, so that equal candidates
//! score equally on any machine and under any load.
//!
//! ```sh
//! cargo run --release --example evaluator < candidate.rs
//! cargo run --release --example evaluator candidate.rs
//! ```
//!
//! Exit status 0: the line says it all, also of a candidate that fails. 1: the
//! host is in trouble.

use serde::Serialize;
use std::error::Error;
use std::io::Read;
use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_sandbox::{
    BuildError, Evaluation, Limits, Outcome, Product, Report, Sandbox, Source, World, clean,
};

/// Lists to sort.
const CASES: u64 = 8;
/// Numbers in each.
const LENGTH: u64 = 1_000;
/// Longest source that is read.
const MAX_SOURCE: u64 = 256 << 10;

/// The line.
#[derive(Serialize)]
struct Line {
    schema: &'static str,
    /// Higher is better; none where there was no right answer.
    score: Option<f64>,
    outcome: Outcome,
    /// Instructions of all cases together.
    fuel: u64,
    /// What the candidate said, cleaned and bounded.
    log: String,
    /// One thing to try, for whoever writes the next candidate.
    hint: &'static str,
}

fn main() -> Result<(), Box<dyn Error>> {
    // This executable is started again for each jail, compiler and worker.
    terrarium_sandbox::child::run_if_child();

    let mut source = String::new();
    match std::env::args().nth(1) {
        Some(path) => std::fs::File::open(path)?.take(MAX_SOURCE).read_to_string(&mut source)?,
        None => std::io::stdin().take(MAX_SOURCE).read_to_string(&mut source)?,
    };
    let dirs = Dirs::from_env()?;
    toolchain::install(&dirs, &mut |step| eprintln!("{step}"))?;
    let sandbox = Sandbox::builder().dirs(dirs).build()?;
    let line = match sandbox.compile(Source::Rust(&source), World::Function) {
        Ok(component) => {
            let limits = Limits { fuel: 50_000_000, wall_ms: 2_000, ..Limits::default() };
            let cases: Vec<Vec<u32>> = (0..CASES).map(numbers).collect();
            let evaluations: Vec<Evaluation> =
                cases.iter().map(|case| Evaluation::call(bytes(case)).with_limits(limits.clone())).collect();
            verdict(&cases, &sandbox.run_many(&component, &evaluations)?)
        }
        Err(BuildError::Candidate(outcome)) => line(None, outcome, 0, String::new()),
        Err(BuildError::Host(error)) => return Err(error.into()),
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

fn line(score: Option<f64>, outcome: Outcome, fuel: u64, log: String) -> Line {
    let hint = outcome.hint();
    Line { schema: "terrarium-evaluator/1", score, outcome, fuel, log, hint }
}

/// The first case that is not right decides; else the score of all together.
fn verdict(cases: &[Vec<u32>], reports: &[Report]) -> Line {
    let fuel = reports.iter().filter_map(|report| report.usage.fuel).sum();
    let said: String = reports.iter().map(|report| report.log.as_str()).collect();
    let log = clean(&said, 2_000);
    for (case, report) in cases.iter().zip(reports) {
        let wrong = match (&report.outcome, &report.product) {
            (Outcome::Finished, Some(Product::Output(output))) => {
                let mut sorted = case.clone();
                sorted.sort_unstable();
                (*output != bytes(&sorted)).then(|| Outcome::InvalidOutput {
                    reason: "the output is not the input's numbers in ascending order".into(),
                })
            }
            (outcome, _) => Some(outcome.clone()),
        };
        if let Some(outcome) = wrong {
            return line(None, outcome, fuel, log);
        }
    }
    let needed = (CASES * LENGTH) as f64 * (LENGTH as f64).log2();
    line(Some(needed / fuel.max(1) as f64), Outcome::Finished, fuel, log)
}

/// The `n`-th list: xorshift64* (Vigna, ACM TOMS 2016), upper half.
fn numbers(n: u64) -> Vec<u32> {
    let mut state = n + 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    };
    (0..LENGTH).map(|_| next()).collect()
}

fn bytes(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}
