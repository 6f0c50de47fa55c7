//! `terrarium bench loop`: how fast the whole loop goes round.
//!
//! A proposer without latency and candidates that are compiled already, so
//! that what is measured is the loop itself: propose, evaluate behind glass
//! (a locked-down worker process, a fresh store each), gate, archive, ledger.
//! Rates are taken over windows of the run, so that a loop that slows down as
//! the archive grows shows it.

use super::args::Bench;
use super::bench::{ECHO, Figure, SCHEMA, table};
use super::failure::Failure;
use super::{Ended, exit, say, workshop};
use crate::candidate::Origin;
use crate::error::EngineError;
use crate::evaluate::{BuildFacts, BuildFailure, BuildTime, Evaluate, Evaluated, HostError, Split};
use crate::observer::{RunEvent, RunObserver};
use crate::proposer::{History, HistoryEntry, Proposal, Proposer};
use crate::run::{NewRun, RunFolder};
use crate::search::{RunEnd, Search};
use crate::seeds::{self, SplitMix64};
use crate::task::Task;
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use terrarium_sandbox::{
    BuildError, Component, Evaluation, Job, KnobRange, KnobScale, KnobValue, Knobs, Limits, Outcome, Sandbox,
    Source, World,
};

/// Programs among which proposals choose: all are compiled before the clock
/// starts, and their workers are warm.
const PROGRAMS: usize = 4;

/// Proposals of a generation.
const GENERATION: u32 = 16;

const TASK: &str = r#"
[task]
name = "loop"
title = "The loop itself"
world = "function"
metric = { name = "score", direction = "minimize" }
candidate = "candidate.rs"
[budget]
wall_ms = 10000
[evaluator]
builtin = "circles"
n = 1
"#;

/// One of the programs, with a new value of its knob.
struct Immediate;

impl Proposer for Immediate {
    fn name(&self) -> &'static str {
        "instant"
    }

    fn propose(&self, _history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        let mut rng = SplitMix64::new(seed);
        let source = program(rng.below(PROGRAMS));
        Some(Proposal {
            source: Some(source),
            knobs: Knobs::from([("x".into(), KnobValue::Number(rng.unit()))]),
            parent: parent.candidate.clone(),
            second_parent: None,
            origin: Origin::new("instant", "uniform", String::new()),
        })
    }
}

fn program(number: usize) -> String {
    format!("// EVOLVE-BLOCK-START\nconst PROGRAM: usize = {number};\n// EVOLVE-BLOCK-END\n{ECHO}")
}

/// Calls the candidate in its worker, and scores its output with noise that
/// follows from the seed: most challengers lose their race, as in life.
struct Glass<'a>(&'a Sandbox);

impl Evaluate for Glass<'_> {
    type Built = Component;

    fn build(&self, source: &str) -> Result<Component, BuildFailure> {
        self.0.compile(Source::Rust(source), World::Function).map_err(|error| match error {
            BuildError::Candidate(outcome) => BuildFailure::Candidate(outcome),
            BuildError::Host(error) => {
                BuildFailure::Host(HostError { message: error.to_string(), hint: error.hint() })
            }
        })
    }

    fn facts(&self, built: &Component) -> BuildFacts {
        BuildFacts {
            component: built.id.clone(),
            wasm_bytes: built.wasm_bytes,
            code_bytes: built.code_bytes,
            cached: built.cached,
            time: BuildTime::default(),
        }
    }

    fn evaluate(
        &self,
        built: &Component,
        knobs: &Knobs,
        seed: u64,
        split: Split,
    ) -> Result<Evaluated, HostError> {
        let evaluation = Evaluation {
            seed,
            probe_key: 0,
            knobs: knobs.clone(),
            job: Job::Call { input: seed.to_le_bytes().to_vec() },
            limits: Limits { wall_ms: 10_000, ..Limits::default() },
        };
        let report = self
            .0
            .run(built, &evaluation)
            .map_err(|e| HostError { message: e.to_string(), hint: e.hint() })?;
        let x = if let Some(KnobValue::Number(x)) = knobs.get("x") { *x } else { 0.5 };
        let mut rng = SplitMix64::new(seeds::derive(seed, "noise", &[x.to_bits(), split.number()]));
        let range = KnobRange::Number { default: 0.5, low: 0.0, high: 1.0, scale: KnobScale::Linear };
        let finished = report.outcome == Outcome::Finished;
        Ok(Evaluated {
            score: finished.then(|| rng.unit()),
            outcome: report.outcome,
            usage: report.usage,
            knobs: vec![("x".into(), range)],
            metrics: report.metrics,
            log: report.log,
            timing: report.timing,
        })
    }

    fn identity(&self) -> String {
        "bench".into()
    }
}

/// When each candidate was proposed.
struct Clock(Mutex<Vec<Instant>>);

impl RunObserver for Clock {
    fn observe(&self, event: &RunEvent) {
        if let RunEvent::Proposed { .. } = event
            && let Ok(mut times) = self.0.lock()
        {
            times.push(Instant::now());
        }
    }
}

/// Measures.
pub fn bench(args: &Bench) -> Ended {
    if !(100..=10_000_000).contains(&args.candidates) {
        return Err(Failure::usage(
            format!("--candidates {} is out of range", args.candidates),
            "100 to 10000000",
        ));
    }
    let sandbox = workshop::sandbox(args.isolation, workshop::cores())?;
    let identity = sandbox.identity()?;
    let glass = Glass(&sandbox);
    for number in 0..PROGRAMS {
        if let Err(error) = glass.build(&program(number)) {
            return Err(Failure::new(
                format!("the benchmark's own candidate: {error:?}"),
                "run `terrarium setup`",
            ));
        }
    }
    let home = tempfile::tempdir().map_err(|e| EngineError::io("create", &std::env::temp_dir(), e))?;
    let mut task = Task::parse(TASK, "bench")?;
    task.search.generation_size = GENERATION;
    task.search.generations = args.candidates.div_ceil(GENERATION);
    let source = program(0);
    let new = NewRun { task: &task, source: &source, seed: 1, identity: "bench", data: None };
    let run = args.out.clone().unwrap_or_else(|| home.path().join("run"));
    let folder = RunFolder::create(&run, &new)?;
    let clock = Clock(Mutex::default());
    let search = Search {
        folder: &folder,
        evaluator: &glass,
        proposers: &[&Immediate],
        agents: &[],
        guide: "",
        strategy: None,
        admit: &|_, _| Ok(()),
        observer: &clock,
        workers: args.workers.clamp(1, 1024),
        stop: &AtomicBool::new(false),
        wall: None,
    };
    let begun = Instant::now();
    let RunEnd::Finished(summary) = search.run()? else {
        return Ok(exit::FAILED);
    };
    let all = begun.elapsed().as_secs_f64();
    let times = clock.0.into_inner().unwrap_or_default();
    // Of a hundred candidates; of a generation, where there are few.
    let window = if args.candidates < 1000 { GENERATION as usize } else { 100 };
    let rates: Vec<f64> = times
        .chunks(window)
        .zip(times.chunks(window).skip(1))
        .map(|(one, next)| one.len() as f64 / (next[0] - one[0]).as_secs_f64())
        .collect();
    // The first window waits for workers to start; it is counted in `all`.
    let tenth = (rates.len() / 10).max(1);
    let (first, last) = (
        &rates[1.min(rates.len() - 1)..][..tenth.min(rates.len() - 1).max(1)],
        &rates[rates.len() - tenth..],
    );
    let first = Figure::new("first_tenth", "proposals/s", "windows in the first tenth", first.to_vec());
    let median = first.median;
    let figures = vec![
        Figure::new(
            "loop",
            "proposals/s",
            "the whole run, start and end included",
            vec![(summary.candidates - 1) as f64 / all],
        ),
        Figure::new("last_tenth", "proposals/s", "windows in the last tenth", last.to_vec())
            .against("first_tenth", median),
        first,
        Figure::new(
            "evaluations",
            "evaluations/s",
            "behind glass, the whole run",
            vec![summary.evaluations as f64 / all],
        ),
    ];
    if args.json {
        say(json!({ "schema": SCHEMA, "bench": args.name, "machine": identity, "figures": figures }));
    } else {
        say(format_args!(
            "{identity}; {} candidates, {} evaluations at a time",
            args.candidates, args.workers
        ));
        say(table(&figures));
    }
    Ok(exit::OK)
}
