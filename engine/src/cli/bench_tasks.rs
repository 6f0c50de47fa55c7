//! `terrarium bench tasks`: the problems with published figures, each searched
//! without a model for a stated time, beside what was published.
//!
//! Every problem is a template with a section `[published]`. It is searched
//! with the proposers of its `[search]` on all cores. Where one construction
//! is asked for, the best one counts that any evaluation made: it was verified
//! exactly, and its candidate, knobs and seed are given, so it can be made
//! again. Where a rule for fresh data is asked for, the search's winner is
//! scored on published instances, and on held-out ones of other sizes, neither
//! of which the search saw.

use super::args::Bench;
use super::failure::Failure;
use super::{Ended, exit, say, workshop};
use crate::EngineError;
use crate::archive::Archive;
use crate::candidate::Candidate;
use crate::evaluate::{BuildFailure, Evaluate, Sandboxed, Split};
use crate::evolve_block;
use crate::observer::Unobserved;
use crate::proposer::{Crossover, KnobSearch, Mutate, Proposer};
use crate::run::{NewRun, RunFolder};
use crate::scoring::Scoring;
use crate::search::{RunEnd, RunSummary, Search};
use crate::task::{self, Direction, LoadedTask, PublishedFigure};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use terrarium_sandbox::{Knobs, Sandbox};

/// Name and version of the object.
pub const SCHEMA: &str = "terrarium-bench-tasks/1";

/// Where the best figure comes from, to make it again.
#[derive(Debug, Serialize)]
struct Provenance {
    /// Content address of source and knobs.
    candidate: String,
    /// Seed of the evaluation; none where several were averaged.
    seed: Option<u64>,
    /// Who proposed it.
    proposer: String,
    /// Its knobs; the others have their defaults.
    knobs: Knobs,
    /// Whether its source is the template's own.
    template_source: bool,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    task: String,
    metric: String,
    direction: Direction,
    /// Of the template as it stands: the mean over seeds, or on the published
    /// instances.
    baseline: f64,
    /// What the search found.
    ours: f64,
    published: PublishedFigure,
    /// How much better `ours` is than what was published; negative if worse.
    gain: f64,
    /// The winner's mean on held-out instances, where there are any.
    held_out: Option<f64>,
    /// The template's on the same.
    held_out_baseline: Option<f64>,
    evaluations: u64,
    candidates: u64,
    seconds: f64,
    provenance: Provenance,
}

/// Searches all problems, or those named.
pub fn bench(args: &Bench) -> Ended {
    let root = task::templates_root();
    let mut wanted = Vec::new();
    for name in task::templates(&root) {
        let loaded = task::load(&name, &root)?;
        if loaded.task.published.is_some() && (args.only.is_empty() || args.only.contains(&name)) {
            wanted.push(loaded);
        }
    }
    if let Some(name) = args.only.iter().find(|name| !wanted.iter().any(|t| t.task.header.name == **name)) {
        return Err(Failure::usage(
            format!("`{name}` is no template with a published figure"),
            "leave out --only to see all",
        ));
    }
    let workers = workshop::cores();
    let sandbox = workshop::sandbox(args.isolation, workers)?;
    let home = tempfile::tempdir().map_err(|e| EngineError::io("create", &std::env::temp_dir(), e))?;
    let keep = args.out.clone().unwrap_or_else(|| home.path().to_path_buf());
    let mut lines = Vec::new();
    for loaded in &wanted {
        let name = &loaded.task.header.name;
        eprintln!("{name}: {}", loaded.task.header.title);
        let line = one(&sandbox, loaded, &keep.join(name), args.wall_per_task, workers, args.seed)?;
        eprintln!("  {} -> {} in {:.0} s", shown(line.baseline), shown(line.ours), line.seconds);
        lines.push(line);
    }
    if args.json {
        say(serde_json::json!({
            "schema": SCHEMA,
            "bench": args.name,
            "machine": sandbox.identity()?,
            "workers": workers,
            "wall_per_task_s": args.wall_per_task.as_secs(),
            "seed": args.seed,
            "tasks": lines,
        }));
    } else {
        say(table(&lines));
    }
    Ok(exit::OK)
}

fn one(
    sandbox: &Sandbox,
    loaded: &LoadedTask,
    out: &Path,
    wall: Duration,
    workers: usize,
    seed: u64,
) -> Result<Line, Failure> {
    let begun = Instant::now();
    evolve_block::parse(&loaded.source)
        .map_err(|e| Failure::new(format!("the task's own candidate: {e}"), "mend the template"))?;
    let identity = sandbox.identity()?;
    let new = NewRun { task: &loaded.task, source: &loaded.source, seed, identity: &identity, data: None };
    let folder = RunFolder::create(out, &new)?;
    let evaluator = Sandboxed::new(sandbox, &loaded.task, None, folder.probe_secret()?)?;
    let mutate = Mutate::default();
    let proposers: [&dyn Proposer; 3] = [&KnobSearch, &mutate, &Crossover];
    let search = Search {
        folder: &folder,
        evaluator: &evaluator,
        proposers: &proposers,
        agents: &[],
        guide: "",
        strategy: None,
        admit: &|parent, child| evolve_block::check_edit(parent, child).map_err(|e| e.to_string()),
        observer: &Unobserved,
        workers,
        stop: &AtomicBool::new(false),
        wall: Some(wall),
    };
    let summary = match search.run()? {
        RunEnd::Finished(summary) => summary,
        RunEnd::Drained => return Err(Failure::new("the search was stopped", "start again")),
    };
    let header = &loaded.task.header;
    let missing = |what: &str| Failure::new(format!("`{}` has no {what}", header.name), "mend the template");
    let published = loaded.task.published.clone().ok_or_else(|| missing("published figure"))?;
    let evaluator_config = loaded.task.evaluator.clone().ok_or_else(|| missing("evaluator"))?;
    let (baseline, ours, held_out, held_out_baseline, provenance) =
        match evaluator_config.scoring().and_then(Scoring::published_instances) {
            None => {
                let baseline = summary.comparison.baseline.mean;
                let (score, seed, candidate) = best_construction(folder.archive(), header.metric.direction)?
                    .ok_or_else(|| missing("finished evaluation"))?;
                (baseline, Some(score), None, None, provenance(&folder, &candidate, Some(seed)))
            }
            Some(on_published) => {
                let mut task = loaded.task.clone();
                task.evaluator = Some(on_published);
                let best = winner(&folder, &summary)?;
                let baseline = scored(sandbox, &task, &folder, &folder.baseline())?;
                let ours = scored(sandbox, &task, &folder, &best)?;
                let (new, old) = (summary.comparison.best.mean, summary.comparison.baseline.mean);
                (baseline, ours, new, old, provenance(&folder, &best, None))
            }
        };
    let (baseline, ours) = (
        baseline.ok_or_else(|| missing("baseline that finishes"))?,
        ours.ok_or_else(|| missing("winner that finishes"))?,
    );
    Ok(Line {
        task: header.name.clone(),
        metric: header.metric.name.clone(),
        direction: header.metric.direction,
        baseline,
        ours,
        gain: header.metric.direction.gain(ours, published.value),
        published,
        held_out,
        held_out_baseline,
        evaluations: summary.evaluations,
        candidates: summary.candidates,
        seconds: begun.elapsed().as_secs_f64(),
        provenance,
    })
}

/// The best score of all evaluations, with its seed and its candidate; of
/// equal ones the first.
fn best_construction(
    archive: &Archive,
    direction: Direction,
) -> Result<Option<(f64, u64, Candidate)>, EngineError> {
    let mut best: Option<(f64, &crate::evaluate::EvaluationKey)> = None;
    let evaluations = archive.evaluations()?;
    for record in &evaluations {
        if let Some(score) = record.result.score
            && best.is_none_or(|(so_far, _)| direction.better(score, so_far))
        {
            best = Some((score, &record.key));
        }
    }
    let Some((score, key)) = best else {
        return Ok(None);
    };
    let candidate = archive.candidates()?.into_iter().find(|c| c.id == key.candidate);
    Ok(candidate.map(|candidate| (score, key.seed, candidate)))
}

fn winner(folder: &RunFolder, summary: &RunSummary) -> Result<Candidate, EngineError> {
    let candidates = folder.archive().candidates()?;
    Ok(candidates.into_iter().find(|c| c.id == summary.best).unwrap_or_else(|| folder.baseline()))
}

/// The candidate's score on another form of the task.
fn scored(
    sandbox: &Sandbox,
    task: &task::Task,
    folder: &RunFolder,
    candidate: &Candidate,
) -> Result<Option<f64>, EngineError> {
    let evaluator = Sandboxed::new(sandbox, task, None, folder.probe_secret()?)?;
    let built = match evaluator.build(&folder.source(candidate)?) {
        Ok(built) => built,
        Err(BuildFailure::Candidate(_)) => return Ok(None),
        Err(BuildFailure::Host(error)) => return Err(error.into()),
    };
    let result = evaluator.evaluate(&built, &candidate.knobs, 0, Split::Selection)?;
    Ok(result.normalised().score)
}

fn provenance(folder: &RunFolder, candidate: &Candidate, seed: Option<u64>) -> Provenance {
    Provenance {
        candidate: candidate.id.to_string(),
        seed,
        proposer: candidate.origin.proposer.clone(),
        knobs: candidate.knobs.clone(),
        template_source: candidate.source == folder.baseline().source,
    }
}

/// As many digits as tell scores apart.
fn shown(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e9 { format!("{value}") } else { format!("{value:.10}") }
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["task", "", "baseline", "ours", "best published", "gain", "held out", "s", "source"]);
    for line in lines {
        let arrow = if line.direction == Direction::Maximize { "↑" } else { "↓" };
        let gain = if line.gain == 0.0 { "0".to_owned() } else { format!("{:+.1e}", line.gain) };
        table.add_row([
            line.task.clone(),
            arrow.to_owned(),
            shown(line.baseline),
            shown(line.ours),
            shown(line.published.value),
            gain,
            line.held_out.map(shown).unwrap_or_default(),
            format!("{:.0}", line.seconds),
            line.published.source.split(',').next().unwrap_or_default().to_owned(),
        ]);
    }
    for column in 2..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
