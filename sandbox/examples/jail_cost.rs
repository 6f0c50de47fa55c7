//! What each layer of the jail adds to one compiler call: the same call with
//! layers taken away, in turns, beside the compiler alone. Medians, and the
//! interquartile range of the difference to the bare call of the same round;
//! the last column is processor time of all processes, which other work on the
//! machine disturbs less.
//!
//! `cargo run --release --example jail_cost -- [ROUNDS] [LAUNCHER]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use terrarium_sandbox::jail::{self, CompileLimits};
use terrarium_sandbox::toolchain::{self, Dirs, Toolchain, guest_rustc_args};
use terrarium_sandbox::{Isolation, Level};

const SOURCE: &str = "\
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Echo;
impl Function for Echo {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> { Ok(input.to_vec()) }
}
export_function!(Echo);
";

/// What is masked in each way.
const MASKS: [&str; 5] =
    ["", "landlock", "seccomp", "namespaces,bubblewrap", "landlock,seccomp,namespaces,bubblewrap"];

fn main() -> Result<(), Box<dyn Error>> {
    terrarium_sandbox::child::run_if_child();
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(31), |text| text.parse())?;
    let launcher = arguments.next().map_or_else(|| PathBuf::from("/proc/self/exe"), PathBuf::from);
    let toolchain = toolchain::find(&Dirs::from_env()?)?;
    let folder = tempfile::tempdir()?;
    for name in ["in", "out", "tmp"] {
        std::fs::create_dir(folder.path().join(name))?;
    }
    std::fs::write(folder.path().join("in/candidate.rs"), SOURCE)?;
    let (mut bare, mut ways) = (Vec::new(), vec![Vec::new(); MASKS.len()]);
    let (mut bare_cpu, mut ways_cpu) = (Vec::new(), vec![Vec::new(); MASKS.len()]);
    for round in 0..=rounds {
        // The order turns, so that no way always follows the same one.
        let mut took = vec![0.0; MASKS.len() + 1];
        let mut cpu = took.clone();
        for step in 0..=MASKS.len() {
            let which = (step + round) % (MASKS.len() + 1);
            let (start, before) = (Instant::now(), processor_time());
            match MASKS.get(which) {
                None => compile_bare(&toolchain, folder.path())?,
                Some(mask) => {
                    let isolation = Isolation { require: Level::None, mask: mask.parse()? };
                    let limits = CompileLimits { isolation, ..CompileLimits::default() };
                    jail::compile(SOURCE, &toolchain, &limits, &launcher)?;
                }
            }
            took[which] = start.elapsed().as_secs_f64() * 1e3;
            cpu[which] = processor_time() - before;
        }
        if round > 0 {
            let alone = took[MASKS.len()];
            bare.push(alone);
            ways.iter_mut().zip(took).for_each(|(way, took)| way.push(took - alone));
            let alone = cpu[MASKS.len()];
            bare_cpu.push(alone);
            ways_cpu.iter_mut().zip(cpu).for_each(|(way, cpu)| way.push(cpu - alone));
        }
    }
    println!("{:<52} {:>8} {:>8} {:>8} {:>12}", "ms", "quarter", "median", "quarter", "processor");
    let line = |name: &str, values: &mut Vec<f64>, cpu: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        cpu.sort_by(f64::total_cmp);
        let at = |values: &[f64], part: usize| values[(values.len() - 1) * part / 4];
        let (low, median, high) = (at(values, 1), at(values, 2), at(values, 3));
        println!("{name:<52} {low:>8.2} {median:>8.2} {high:>8.2} {:>12.2}", at(cpu, 2));
    };
    line("the compiler alone", &mut bare, &mut bare_cpu);
    for ((mask, way), cpu) in MASKS.iter().zip(&mut ways).zip(&mut ways_cpu) {
        let missing = if mask.is_empty() { "nothing (the whole jail)" } else { mask };
        line(&format!("added without: {missing}"), way, cpu);
    }
    Ok(())
}

/// User and system time of the children that have ended, in milliseconds.
fn processor_time() -> f64 {
    // SAFETY: `rusage` is plain numbers, for which zero is a value; the pointer
    // is to a live one.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut used);
        used
    };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(used.ru_utime) + ms(used.ru_stime)
}

fn compile_bare(toolchain: &Toolchain, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(&toolchain.compiler.rustc);
    command
        .args(guest_rustc_args(toolchain, Path::new("in/candidate.rs"), Path::new("out/candidate.wasm")))
        .current_dir(folder)
        .env_clear()
        .env("TMPDIR", "tmp")
        .env("LC_ALL", "C");
    if !toolchain.compiler.library_path.is_empty() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths(&toolchain.compiler.library_path)?);
    }
    let output = command.output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}
