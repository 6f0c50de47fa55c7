//! The sandbox inside another program: compile a stranger's source, call it
//! with some bytes, and learn how that ended.
//!
//! ```sh
//! cargo run --release --example embed            # a program that reverses its input
//! cargo run --release --example embed FILE.rs    # your own
//! ```

use std::error::Error;
use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_sandbox::{
    BuildError, Evaluation, Job, Knobs, Limits, Outcome, Product, Sandbox, Source, World,
};

const REVERSE: &str = "\
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Reverse;
impl Function for Reverse {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        Ok(input.iter().rev().copied().collect())
    }
}
export_function!(Reverse);
";

fn main() -> Result<(), Box<dyn Error>> {
    // This executable is started again for each jail, compiler and worker.
    terrarium_sandbox::child::run_if_child();

    let source = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(path)?,
        None => REVERSE.to_owned(),
    };
    let dirs = Dirs::from_env()?;
    toolchain::install(&dirs, &mut |step| eprintln!("{step}"))?;
    let sandbox = Sandbox::builder().dirs(dirs).build()?;

    let component = match sandbox.compile(Source::Rust(&source), World::Function) {
        Ok(component) => component,
        Err(BuildError::Candidate(outcome)) => return refused(&outcome),
        Err(BuildError::Host(error)) => return Err(error.into()),
    };
    let evaluation = Evaluation {
        seed: 0,
        probe_key: 0,
        knobs: Knobs::new(),
        job: Job::Call { input: b"terrarium".to_vec() },
        limits: Limits { fuel: 100_000_000, wall_ms: 1_000, ..Limits::default() },
    };
    let report = sandbox.run(&component, &evaluation)?;
    match report.product {
        Some(Product::Output(bytes)) => println!("{}", String::from_utf8_lossy(&bytes).escape_debug()),
        _ => return refused(&report.outcome),
    }
    eprintln!("fuel {:?}, {} µs", report.usage.fuel, report.timing.total_us);
    Ok(())
}

fn refused(outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    println!("{outcome}");
    eprintln!("hint: {}", outcome.hint());
    Ok(())
}
