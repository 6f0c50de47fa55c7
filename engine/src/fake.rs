//! A sandbox stand-in for tests: a noisy quadratic, with failures.
//!
//! A source is a few lines `bias = NUMBER`, `broken`, `slow`; its score on a
//! seed is (x - 0.7)² + bias + noise · N(0, 1), where x is its knob and the
//! normal deviate follows from candidate, seed and split.

use crate::candidate::Origin;
use crate::evaluate::{BuildFacts, BuildFailure, Evaluate, Evaluated, HostError, Split};
use crate::observer::{RunEvent, RunObserver};
use crate::proposer::{History, HistoryEntry, Proposal, Proposer};
use crate::run::{NewRun, RunFolder};
use crate::search::{RunEnd, Search};
use crate::seeds::SplitMix64;
use crate::task::{SearchConfig, Task};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use terrarium_sandbox::{KnobRange, KnobScale, KnobValue, Knobs, Metric, Outcome, Phase, Usage};

pub const TASK: &str = r#"
[task]
name = "quadratic"
title = "A noisy quadratic"
world = "function"
metric = { name = "loss", direction = "minimize" }
candidate = "lib.rs"
[evaluator]
builtin = "circles"
n = 1
"#;

pub fn task(search: SearchConfig) -> Task {
    let mut task = Task::parse(TASK, "fake").unwrap();
    task.search = search;
    task
}

pub fn small_search() -> SearchConfig {
    SearchConfig {
        generations: 5,
        generation_size: 4,
        final_seeds: 3,
        noise_seeds: 4,
        ..SearchConfig::default()
    }
}

pub fn new_run(path: &Path, search: SearchConfig, seed: u64) -> RunFolder {
    let task = task(search);
    let new = NewRun { task: &task, source: "bias = 0.5\n", seed, identity: "fake", data: None };
    RunFolder::create(path, &new).unwrap()
}

pub struct Quadratic {
    pub noise: f64,
    /// Whether knob and source matter at all.
    pub null: bool,
    /// Host failure at this evaluation, counted from 0.
    pub fail_at: u64,
    /// Most milliseconds that an evaluation takes, at random.
    pub jitter_ms: u64,
    pub evaluations: AtomicU64,
    pub builds: AtomicU64,
}

impl Default for Quadratic {
    fn default() -> Self {
        Self {
            noise: 0.01,
            null: false,
            fail_at: u64::MAX,
            jitter_ms: 0,
            evaluations: AtomicU64::new(0),
            builds: AtomicU64::new(0),
        }
    }
}

pub struct Program {
    bias: f64,
    text: String,
}

fn hashed(parts: &[&[u8]]) -> SplitMix64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    SplitMix64::new(u64::from_le_bytes(first))
}

impl Evaluate for Quadratic {
    type Built = Program;

    fn build(&self, source: &str) -> Result<Program, BuildFailure> {
        self.builds.fetch_add(1, Ordering::Relaxed);
        if source.contains("broken") {
            return Err(BuildFailure::Candidate(Outcome::CompileError { diagnostics: Vec::new() }));
        }
        let bias = source.lines().filter_map(|line| line.strip_prefix("bias = ")?.parse::<f64>().ok());
        Ok(Program { bias: bias.sum(), text: source.to_owned() })
    }

    fn facts(&self, built: &Program) -> BuildFacts {
        BuildFacts { component: built.text.clone(), ..BuildFacts::default() }
    }

    fn evaluate(
        &self,
        built: &Program,
        knobs: &Knobs,
        seed: u64,
        split: Split,
    ) -> Result<Evaluated, HostError> {
        if self.evaluations.fetch_add(1, Ordering::SeqCst) >= self.fail_at {
            return Err(HostError { message: "the fake host fell over".into(), hint: "stand it up".into() });
        }
        let json = serde_json::to_vec(knobs).unwrap();
        let mut rng = hashed(&[built.text.as_bytes(), &json, &seed.to_le_bytes(), split.name().as_bytes()]);
        if self.jitter_ms > 0 {
            let mut jitter = hashed(&[&json, &seed.to_le_bytes(), &std::process::id().to_le_bytes()]);
            std::thread::sleep(Duration::from_millis(jitter.below(self.jitter_ms as usize) as u64));
        }
        let x = if let Some(KnobValue::Number(x)) = knobs.get("x") { *x } else { 0.0 };
        if x > 0.95 {
            return Ok(Evaluated::failed(Outcome::Trap {
                phase: Phase::Train,
                trap: "edge".into(),
                backtrace: vec![],
            }));
        }
        let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * rng.unit()).cos();
        let signal = if self.null { 1.0 } else { (x - 0.7).powi(2) + built.bias };
        let range = KnobRange::Number { default: 0.0, low: -1.0, high: 1.0, scale: KnobScale::Linear };
        Ok(Evaluated {
            score: Some(signal + self.noise * normal),
            usage: Usage { fuel: Some(rng.next_u64() >> 30), ..Usage::default() },
            knobs: vec![("x".into(), range)],
            metrics: vec![Metric {
                name: "loss".into(),
                step: 1,
                value: if seed.is_multiple_of(2) { f64::NAN } else { 0.1 },
            }],
            log: format!("x is {x}"),
            ..Evaluated::failed(Outcome::Finished)
        })
    }

    fn identity(&self) -> String {
        "fake".into()
    }
}

fn origin(proposer: &str, operator: &str) -> Origin {
    Origin::new(proposer, operator, String::new())
}

/// Moves the knob at random.
pub struct Walk;

impl Proposer for Walk {
    fn name(&self) -> &'static str {
        "walk"
    }

    fn propose(&self, history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        assert!(!history.entries.is_empty());
        let mut rng = SplitMix64::new(seed);
        let mut knobs = parent.knobs.clone();
        knobs.insert("x".into(), KnobValue::Number(rng.unit() * 2.0 - 1.0));
        Some(Proposal {
            source: None,
            knobs,
            parent: parent.candidate.clone(),
            second_parent: None,
            origin: origin("walk", "uniform"),
        })
    }
}

/// Edits the source: mostly for the better, sometimes it breaks it.
pub struct Edit;

impl Proposer for Edit {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn propose(&self, _history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        let mut rng = SplitMix64::new(seed);
        let line = match rng.below(4) {
            0 => "broken\n".to_owned(),
            1 => "forbidden\n".to_owned(),
            _ => format!("bias = {}\n", rng.unit() * 0.2 - 0.15),
        };
        Some(Proposal {
            source: Some(format!("{}{line}", parent.source)),
            knobs: parent.knobs.clone(),
            parent: parent.candidate.clone(),
            second_parent: None,
            origin: origin("edit", "line"),
        })
    }
}

/// Refuses edits that contain `forbidden`.
pub fn admit(_parent: &str, child: &str) -> Result<(), String> {
    if child.contains("forbidden") { Err("the edit is forbidden".into()) } else { Ok(()) }
}

/// Calls a closure on every event.
pub struct Tell<F: Fn(&RunEvent) + Sync>(pub F);

impl<F: Fn(&RunEvent) + Sync> RunObserver for Tell<F> {
    fn observe(&self, event: &RunEvent) {
        (self.0)(event);
    }
}

/// Runs to the end with the fake proposers.
pub fn run(
    folder: &RunFolder,
    evaluator: &Quadratic,
    workers: usize,
    observer: &dyn RunObserver,
) -> Result<RunEnd, crate::EngineError> {
    run_until(folder, evaluator, workers, observer, &AtomicBool::new(false), None)
}

pub fn run_until(
    folder: &RunFolder,
    evaluator: &Quadratic,
    workers: usize,
    observer: &dyn RunObserver,
    stop: &AtomicBool,
    wall: Option<Duration>,
) -> Result<RunEnd, crate::EngineError> {
    let search = Search {
        folder,
        evaluator,
        proposers: &[&Walk, &Edit],
        agents: &[],
        guide: "",
        strategy: None,
        admit: &admit,
        observer,
        workers,
        stop,
        wall,
    };
    search.run()
}
