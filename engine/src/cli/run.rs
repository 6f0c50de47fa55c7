//! `terrarium run` and `terrarium resume`.

use super::args::{Resume, Run, Workers};
use super::failure::Failure;
use super::progress::Progress;
use super::{Ended, agents, exit, report, say, workshop};
use crate::EngineError;
use crate::evaluate::{Evaluate, Sandboxed};
use crate::evolve_block;
use crate::ids::BlobId;
use crate::observer::{RunEvent, RunObserver};
use crate::proposer::agent::Agent;
use crate::proposer::{Mutate, Replay};
use crate::run::{NewRun, RunFolder};
use crate::search::{RunEnd, Search};
use crate::task::{SearchConfig, StrategyKind};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use terrarium_sandbox::Sandbox;

/// Name and version of the lines of `--json`.
pub const SCHEMA: &str = "terrarium-run/1";

/// Starts a run.
pub fn run(args: &Run) -> Ended {
    workshop::check_device(&args.common)?;
    let mut loaded = workshop::load(&args.task, args.source.as_deref())?;
    let search = &mut loaded.task.search;
    search.evals = args.evals.or(search.evals);
    search.generations = args.generations.unwrap_or(search.generations);
    if !args.proposer.is_empty() {
        search.proposers = args.proposer.iter().map(|name| (name.clone(), 1.0)).collect();
    }
    search.fuel = args.fuel.or(search.fuel);
    search.islands = args.islands.or(search.islands);
    match args.control.as_deref() {
        Some("random") => search.strategy = StrategyKind::Random,
        Some(_) => search.strategy = StrategyKind::BestOfN,
        None => {}
    }
    let replay = match &args.replay {
        Some(path) => Some(replay_file(search, path, args)?),
        None => None,
    };
    // Known before anything is made on disk.
    let known = agents::known(search);
    if let Some(name) = search.proposers.keys().find(|name| !known.contains(name)) {
        return Err(Failure::usage(
            format!("there is no proposer `{name}`"),
            format!("the proposers are: {}", known.join(", ")),
        ));
    }
    evolve_block::parse(&loaded.source).map_err(|e| {
        Failure::new(
            format!("the task's own candidate: {e}"),
            "put the part that may change between EVOLVE-BLOCK-START and EVOLVE-BLOCK-END",
        )
    })?;
    let sandbox =
        workshop::sandbox_on(args.common.isolation, wanted(&args.workers)?, args.common.broker.as_deref())?;
    let corpus = workshop::data(&loaded.task, args.common.data.as_deref())?;
    let data = workshop::snapshot(corpus.as_ref())?;
    let identity = sandbox.identity()?;
    let out = match &args.out {
        Some(path) => path.clone(),
        None => fresh_folder(&loaded.task.header.name)?,
    };
    let new =
        NewRun { task: &loaded.task, source: &loaded.source, seed: args.seed, identity: &identity, data };
    let folder = RunFolder::create(&out, &new)?;
    if let Some(text) = replay {
        folder.blobs().put(text.as_bytes())?;
    }
    if let Some(guide) = &loaded.guide {
        folder.write_guide(guide)?;
    }
    go_on(&folder, &sandbox, &args.workers, args.wall)
}

/// Reads a file to be replayed: only what it holds is proposed, unless
/// others were asked for.
fn replay_file(search: &mut SearchConfig, path: &Path, args: &Run) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::from(EngineError::io("read", path, e)))?;
    let recorded = Replay::parse(&text, &path.display().to_string())?;
    search.replay = Some(BlobId::of(text.as_bytes()));
    if args.proposer.is_empty() {
        search.proposers = [("replay".to_owned(), 1.0)].into();
    } else {
        search.proposers.insert("replay".into(), 1.0);
    }
    if args.generations.is_none() {
        search.generations = search.generations.min(recorded.last_generation()).max(1);
    }
    Ok(text)
}

/// Continues a run.
pub fn resume(args: &Resume) -> Ended {
    let folder = RunFolder::open(&args.run)?;
    if let Some(data) = &folder.config().data {
        data.verify()?;
    }
    let sandbox = workshop::sandbox(args.isolation, wanted(&args.workers)?)?;
    go_on(&folder, &sandbox, &args.workers, args.wall)
}

/// `runs/TASK-1`, or the first number that is free.
fn fresh_folder(task: &str) -> Result<PathBuf, EngineError> {
    let root = PathBuf::from("runs");
    std::fs::create_dir_all(&root).map_err(|e| EngineError::io("create", &root, e))?;
    for number in 1u32.. {
        let path = root.join(format!("{task}-{number}"));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(EngineError::io("create", &path, e)),
        }
    }
    Err(EngineError::RunExists { path: root })
}

/// How many evaluations at a time.
fn wanted(workers: &Workers) -> Result<usize, Failure> {
    let wanted = workers.workers.unwrap_or_else(workshop::cores);
    if (1..=1024).contains(&wanted) {
        return Ok(wanted);
    }
    Err(Failure::usage(format!("--workers {wanted} is out of range"), "1 to 1024; as many as cores is usual"))
}

/// Only edits inside the evolve blocks are evaluated.
pub(super) fn admit(parent: &str, child: &str) -> Result<(), String> {
    evolve_block::check_edit(parent, child).map_err(|e| e.to_string())
}

fn go_on(folder: &RunFolder, sandbox: &Sandbox, workers: &Workers, wall: Option<Duration>) -> Ended {
    let data = folder.config().data.as_ref();
    let evaluator = Sandboxed::new(sandbox, folder.task(), data, folder.probe_secret()?)?;
    let progress = Progress::new(folder.task(), workers.json);
    let json_lines = JsonLines;
    let observer: &dyn RunObserver = if workers.json { &json_lines } else { &progress };
    if workers.json {
        say(
            json!({ "schema": SCHEMA, "event": "opened", "run": folder.path(), "task": folder.task().header.name, "seed": folder.config().seed, "identity": evaluator.identity() }),
        );
    } else {
        eprintln!("run folder {}", folder.path().display());
    }
    let mutate = Mutate::default();
    let proposers = agents::pure(&mutate);
    let own = agents::of_run(folder)?;
    let asked: Vec<&dyn Agent> = own.iter().map(|agent| &**agent).collect();
    let guide = folder.guide();
    let search = Search {
        folder,
        evaluator: &evaluator,
        proposers: &proposers,
        agents: &asked,
        guide: &guide,
        strategy: None,
        admit: &admit,
        observer,
        workers: wanted(workers)?,
        stop: interrupt_flag()?,
        wall,
    };
    let ended = search.run();
    progress.close();
    match ended? {
        RunEnd::Drained => {
            eprintln!(
                "interrupted; nothing is lost. Continue with: terrarium resume {}",
                folder.path().display()
            );
            Ok(exit::INTERRUPTED)
        }
        RunEnd::Finished(summary) => {
            let page = report::write(folder, None)?;
            if workers.json {
                say(json!({
                    "schema": SCHEMA,
                    "event": "finished",
                    "run": folder.path(),
                    "baseline": { "candidate": summary.comparison.baseline.candidate, "score": summary.comparison.baseline.mean, "scores": summary.comparison.baseline.scores },
                    "best": {
                        "candidate": summary.best,
                        "score": summary.comparison.best.mean,
                        "scores": summary.comparison.best.scores,
                        "gain": summary.comparison.gain,
                        "interval": summary.comparison.gain.as_ref().map(|g| [g.low, g.high]),
                        "beats_noise": summary.comparison.beats_noise,
                    },
                    "kept": summary.kept,
                    "noise": summary.noise,
                    "generations": summary.generations,
                    "candidates": summary.candidates,
                    "evaluations": summary.evaluations,
                    "stopped": summary.stopped,
                    "ledger": summary.ledger_head,
                    "report": page,
                }));
            } else {
                report::show(folder)?;
                say(format_args!("report  {}", page.display()));
                say(format_args!("verify  terrarium verify {}", folder.path().display()));
            }
            Ok(exit::OK)
        }
    }
}

/// Every event as one line of JSON on standard output.
struct JsonLines;

impl RunObserver for JsonLines {
    fn observe(&self, event: &RunEvent) {
        if let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(event) {
            fields.insert("schema".into(), SCHEMA.into());
            say(serde_json::Value::Object(fields));
        }
    }
}

/// Set by the first interrupt; the second ends the process.
fn interrupt_flag() -> Result<&'static AtomicBool, Failure> {
    static STOP: AtomicBool = AtomicBool::new(false);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    ctrlc::set_handler(|| {
        STOP.store(true, Ordering::SeqCst);
        if COUNT.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(exit::INTERRUPTED);
        }
        eprintln!("\nfinishing what runs; interrupt again to stop at once");
    })
    .map_err(|e| Failure::new(format!("cannot listen for interrupts: {e}"), ""))?;
    Ok(&STOP)
}
