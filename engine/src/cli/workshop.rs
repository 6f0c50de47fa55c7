//! What most commands need: folders, the sandbox, the task, the data.

use super::args::{Common, IsolationArgs};
use super::failure::Failure;
use crate::corpus::{self, Corpus};
use crate::run::DataSnapshot;
use crate::task::{self, DataConfig, LoadedTask, Task};
use std::path::Path;
use terrarium_sandbox::toolchain::Dirs;
use terrarium_sandbox::{Isolation, Level, Sandbox, SandboxConfig, probe};

/// Cores of this machine that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Opens the sandbox for `workers` evaluations at a time, which share the
/// cores; `RAYON_NUM_THREADS` overrides the threads of each. Results depend on
/// neither. A stale SDK is built again on the way. A machine below the required
/// isolation is refused before anything is made on disk.
pub fn sandbox(args: IsolationArgs, workers: usize) -> Result<Sandbox, Failure> {
    sandbox_on(args, workers, None)
}

/// The same, with the device of the broker that listens at `broker`, or at
/// `TERRARIUM_BROKER` where that is set.
pub fn sandbox_on(args: IsolationArgs, workers: usize, broker: Option<&Path>) -> Result<Sandbox, Failure> {
    terrarium_sandbox::toolchain::ensure(&Dirs::from_env()?, &mut progress)?;
    without_compiler(args, workers, broker)
}

/// The same for modules that are compiled already: nothing here looks for a
/// compiler or an SDK.
pub fn without_compiler(
    args: IsolationArgs,
    workers: usize,
    broker: Option<&Path>,
) -> Result<Sandbox, Failure> {
    let mut config = SandboxConfig::new(Dirs::from_env()?);
    config.isolation = isolation(args)?;
    check_isolation(&config)?;
    config.broker = broker.map(Path::to_owned).or_else(broker_from_env);
    config.workers = config.workers.max(workers);
    config.threads_per_worker = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|n| n.parse().ok())
        .filter(|n| (1..=1024).contains(n))
        .unwrap_or_else(|| (cores() / workers.max(1)).clamp(1, 64));
    Ok(Sandbox::open(config)?)
}

/// What the command line and the environment ask for.
pub fn isolation(args: IsolationArgs) -> Result<Isolation, Failure> {
    let mut isolation = Isolation::from_env().map_err(|e| {
        Failure::usage(
            e.to_string(),
            "see TERRARIUM_REQUIRE_ISOLATION and TERRARIUM_MASK in docs/isolation.md",
        )
    })?;
    if let Some(level) = args.require_isolation {
        isolation.require = level;
    }
    if args.allow_unjailed {
        isolation.require = Level::None;
    }
    Ok(isolation)
}

fn check_isolation(config: &SandboxConfig) -> Result<(), Failure> {
    match probe::require(&config.exe, config.isolation) {
        Ok(level) if level >= Level::DEFAULT => Ok(()),
        Ok(level) => {
            eprintln!("warning: isolation is only `{level}`: candidates can read the files of this user");
            Ok(())
        }
        Err(why) => Err(Failure::unavailable(
            why,
            "`terrarium doctor` shows each layer and what to try; --require-isolation LEVEL takes less",
        )),
    }
}

fn broker_from_env() -> Option<std::path::PathBuf> {
    std::env::var_os("TERRARIUM_BROKER").filter(|path| !path.is_empty()).map(Into::into)
}

/// Shows one step of something slow.
pub fn progress(line: &str) {
    eprintln!("  {line}");
}

/// Refuses a device that workers of this build cannot use.
pub fn check_device(common: &Common) -> Result<(), Failure> {
    if let Some(path) = common.broker.clone().or_else(broker_from_env) {
        return terrarium_sandbox::broker::kind(&path).map(drop).map_err(|e| {
            let hint = "start one with `terrarium broker --device cuda:0 --socket PATH`";
            let mut failure = Failure::new(e.to_string(), hint);
            failure.exit = super::exit::UNAVAILABLE;
            failure
        });
    }
    if common.device == "cpu" {
        return Ok(());
    }
    let (what, hint) = terrarium_sandbox::device::unavailable(&common.device);
    let mut failure = Failure::new(what, hint);
    failure.exit = super::exit::UNAVAILABLE;
    Err(failure)
}

/// Loads a task, with another source where one is given.
pub fn load(task: &str, source: Option<&Path>) -> Result<LoadedTask, Failure> {
    let mut loaded = task::load(task, &task::templates_root())?;
    if let Some(path) = source {
        loaded.source = task::read_text(path)?;
    }
    Ok(loaded)
}

/// The data of a task, if it trains on any: the default corpus or the user's.
pub fn data(task: &Task, own: Option<&Path>) -> Result<Option<Corpus>, Failure> {
    let Some(DataConfig::Corpus { vocabulary }) = task.data else {
        return match own {
            None => Ok(None),
            Some(_) => Err(Failure::usage(
                format!("the task `{}` trains on no data", task.header.name),
                "leave out --data",
            )),
        };
    };
    let dirs = Dirs::from_env()?;
    let corpus = match own {
        Some(path) => corpus::from_dir(path, &dirs, &mut progress)?,
        None => corpus::default_corpus(&dirs, &mut progress)?,
    };
    let corpus = corpus::with_vocabulary(corpus, vocabulary, &dirs, &mut progress)?;
    if own.is_some() {
        for line in &corpus.skipped {
            eprintln!("  skipped {line}");
        }
    }
    Ok(Some(corpus))
}

/// The corpus as a run records it.
pub fn snapshot(corpus: Option<&Corpus>) -> Result<Option<DataSnapshot>, Failure> {
    Ok(match corpus {
        Some(c) => Some(DataSnapshot::take(&c.train, &c.val, &c.final_split, c.token_bytes.as_deref())?),
        None => None,
    })
}
