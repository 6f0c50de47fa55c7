//! The sandbox as a caller meets it: one [`Sandbox`] for all tests of an
//! executable, guests by the name of their file, and small made-up data.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

use terrarium_sandbox::toolchain::{self, Dirs};
use terrarium_sandbox::{
    BuildError, Component, Evaluation, HeldOut, HeldOutScore, Job, Knobs, Limits, Outcome, Product, Report,
    Sandbox, Shards, Source, World,
};

use crate::command::terrarium;

/// The one sandbox of this test executable.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let dirs = Dirs::from_env().expect("folders");
        toolchain::install(&dirs, &mut |line| eprintln!("{line}"))
            .unwrap_or_else(|e| panic!("{e}; {}", e.hint()));
        Sandbox::builder()
            .dirs(dirs)
            .child_executable(terrarium())
            .build()
            .unwrap_or_else(|e| panic!("{e}; {}", e.hint()))
    })
}

/// The text of `tests/guests/NAME.rs`.
pub fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(name).with_extension("rs");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The candidate of a task template.
pub fn template(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../guest-templates")
        .join(name)
        .join("candidate/candidate.rs");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `tests/guests/NAME.rs`, built once for all tests of this executable.
pub fn guest(name: &str, world: World) -> Component {
    build(&source(name), world).unwrap_or_else(|outcome| panic!("guest {name}: {outcome}"))
}

/// Source, built once for all tests of this executable; or the outcome that
/// it has instead.
pub fn build(source: &str, world: World) -> Result<Component, Outcome> {
    type Built = Mutex<HashMap<(String, World), Result<Component, Outcome>>>;
    static BUILT: OnceLock<Built> = OnceLock::new();
    // Held while compiling: two tests that want one guest compile it once.
    let mut built = BUILT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let key = (source.to_owned(), world);
    built.entry(key).or_insert_with(|| outcome_of(sandbox().compile(Source::Rust(source), world))).clone()
}

/// A core module, built; or the outcome that it has instead.
pub fn build_wasm(wasm: &[u8], world: World) -> Result<Component, Outcome> {
    outcome_of(sandbox().compile(Source::Wasm(wasm), world))
}

fn outcome_of(result: Result<Component, BuildError>) -> Result<Component, Outcome> {
    match result {
        Ok(component) => Ok(component),
        Err(BuildError::Candidate(outcome)) => Err(outcome),
        Err(BuildError::Host(e)) => panic!("the host is in trouble: {e}; {}", e.hint()),
    }
}

/// Limits that a test's guest reaches soon.
pub fn small_limits() -> Limits {
    Limits {
        fuel: 2_000_000_000,
        wall_ms: 20_000,
        memory_bytes: 32 << 20,
        device_bytes: 64 << 20,
        ..Limits::default()
    }
}

/// One `call` with these limits.
pub fn call_with(component: &Component, input: &[u8], limits: Limits) -> Report {
    let evaluation = Evaluation {
        seed: 1,
        probe_key: 1,
        knobs: Knobs::new(),
        job: Job::Call { input: input.to_vec() },
        limits,
    };
    sandbox().run(component, &evaluation).unwrap_or_else(|e| panic!("the host is in trouble: {e}"))
}

/// One `call` with [`small_limits`].
pub fn call(component: &Component, input: &[u8]) -> Report {
    call_with(component, input, small_limits())
}

/// A small scoring: 4 batches of 4 windows of 16 tokens.
pub const SCORING: HeldOut = HeldOut { context: 16, rows: 4, windows: 16 };

/// Made-up English-like text, in shards that live as long as this process.
pub fn shards() -> Shards {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("train.bin"), text(1, 60_000)).expect("written");
        std::fs::write(folder.path().join("held_out.bin"), text(2, 20_000)).expect("written");
        folder
    });
    Shards {
        train: folder.path().join("train.bin"),
        held_out: folder.path().join("held_out.bin"),
        token_bytes: None,
    }
}

/// `bytes` of words drawn by a linear congruential generator (Knuth's MMIX).
pub fn text(seed: u64, bytes: usize) -> String {
    const WORDS: [&str; 12] = [
        "the ",
        "glass ",
        "holds ",
        "what ",
        "grows, ",
        "and ",
        "light ",
        "falls ",
        "on ",
        "leaves.\n",
        "fern ",
        "moss ",
    ];
    let mut state = seed;
    let mut out = String::new();
    while out.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(WORDS[(state >> 33) as usize % WORDS.len()]);
    }
    out.truncate(bytes);
    out
}

/// The evaluation of a trainer on [`shards`], scored as [`SCORING`] says.
pub fn training(probe_key: u64, limits: Limits) -> Evaluation {
    Evaluation {
        seed: 1,
        probe_key,
        knobs: Knobs::new(),
        job: Job::Train { shards: shards(), held_out: SCORING },
        limits,
    }
}

/// Runs a trainer with this key for the probes.
pub fn train_with(component: &Component, probe_key: u64, limits: Limits) -> Report {
    let evaluation = training(probe_key, limits);
    sandbox().run(component, &evaluation).unwrap_or_else(|e| panic!("the host is in trouble: {e}"))
}

/// Runs a trainer with [`small_limits`].
pub fn train(component: &Component) -> Report {
    train_with(component, 1, small_limits())
}

/// The score of a finished training.
pub fn held_out(report: &Report) -> &HeldOutScore {
    match (&report.outcome, &report.product) {
        (Outcome::Finished, Some(Product::HeldOut(score))) => score,
        other => panic!("expected a score, got {other:?}; log: {}", report.log),
    }
}

/// The bytes of a finished call.
pub fn output(report: &Report) -> &[u8] {
    match (&report.outcome, &report.product) {
        (Outcome::Finished, Some(Product::Output(bytes))) => bytes,
        other => panic!("expected output, got {other:?}; log: {}", report.log),
    }
}

/// Runs the `terrarium` command, with these variables set.
pub fn command(args: &[&str], set: &[(&str, &std::ffi::OsStr)]) -> Output {
    Command::new(terrarium()).args(args).envs(set.iter().copied()).output().expect("terrarium starts")
}

/// Process ids of the children of this process that play `role`.
pub fn children(role: &str) -> Vec<i32> {
    let me = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("list the processes").flatten();
    let mut found = Vec::new();
    for entry in processes {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if parent == Some(&me) && line.split(|&b| b == 0).any(|word| word == role.as_bytes()) {
            found.push(pid);
        }
    }
    found
}
