//! From a run folder to [`ReportData`].
//!
//! The ledger is read entry by entry: one that cannot be parsed is left out,
//! and the break is reported, so that a damaged run can still be looked at.

use super::{Changes, LedgerFacts, Point, ProposerShare, ReportData, RunFacts, Spent, Status, Yardstick};
use crate::archive::OutcomeCount;
use crate::candidate::Candidate;
use crate::corpus::{Manifest, SCHEMA as CORPUS_SCHEMA};
use crate::diff;
use crate::error::EngineError;
use crate::evaluate::{EvaluationRecord, Split};
use crate::gate::mean_and_sd;
use crate::ids::CandidateId;
use crate::ledger::{Decision, Event, LedgerEntry, Ruling, first_break};
use crate::run::{DataSnapshot, RunFolder};
use crate::task::read_text;
use std::collections::{BTreeMap, HashMap, HashSet};
use terrarium_sandbox::{KnobRange, World};

impl ReportData {
    /// Reads a run. Fails where the archive itself cannot be read; whatever
    /// else is missing or broken is told in the report.
    pub fn of(folder: &RunFolder) -> Result<Self, EngineError> {
        let archive = folder.archive();
        let entries = archive.ledger()?;
        let story = Story::of(&entries);
        let candidates = archive.candidates()?;
        let evaluations = archive.evaluations()?;
        let at: HashMap<CandidateId, usize> =
            (0..).zip(&candidates).map(|(at, c)| (c.id.clone(), at)).collect();
        let points = points(&candidates, &evaluations, &story, &at);
        let winner = story.incumbent.as_ref().and_then(|id| at.get(id)).copied();
        let lineage = winner.map_or_else(Vec::new, |winner| lineage(&points, winner));
        let task = folder.task();
        Ok(Self {
            run: run_facts(folder, &story, &evaluations),
            metric: task.header.metric.clone(),
            xz: folder.config().data.as_ref().map(yardstick).unwrap_or_default(),
            lineage,
            changes: winner
                .map_or_else(Changes::default, |winner| changes(folder, &candidates, &evaluations, winner)),
            outcomes: outcomes(&evaluations),
            spent: spent(&evaluations, task.header.world),
            proposers: proposers(&points, &story, &at),
            ledger: ledger_facts(&entries),
            noise: story.noise,
            comparison: story.comparison,
            stopped: story.stopped,
            points,
        })
    }
}

/// What the ledger tells, as far as it can be read.
#[derive(Default)]
struct Story {
    noise: Option<crate::ledger::ScoreSummary>,
    comparison: Option<crate::ledger::FinalComparison>,
    stopped: Option<crate::ledger::StopReason>,
    incumbent: Option<CandidateId>,
    decisions: HashMap<CandidateId, Decision>,
    demoted: HashSet<CandidateId>,
    generations: u32,
    /// Who is incumbent once the generation with this number is over.
    by_generation: BTreeMap<u32, CandidateId>,
}

impl Story {
    fn of(entries: &[LedgerEntry]) -> Self {
        let mut story = Self::default();
        for event in entries.iter().filter_map(|entry| serde_json::from_str(&entry.text).ok()) {
            story.hear(event);
        }
        story
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Started { .. } | Event::Evaluated { .. } => {}
            Event::Proposed { candidate, .. } => {
                self.incumbent.get_or_insert(candidate.id);
            }
            Event::NoiseFloor { baseline } => self.noise = Some(baseline),
            Event::Decided(decision) => {
                self.generations = self.generations.max(decision.generation);
                self.decisions.insert(decision.candidate.clone(), decision);
            }
            Event::Crowned { generation, candidate, .. } => {
                self.by_generation.insert(generation, candidate.clone());
                self.incumbent = Some(candidate);
            }
            Event::Demoted { generation, candidate, successor } => {
                self.demoted.insert(candidate);
                self.by_generation.insert(generation, successor.clone());
                self.incumbent = Some(successor);
            }
            Event::Stopped { reason, .. } => self.stopped = Some(reason),
            Event::Final(comparison) => self.comparison = Some(comparison),
        }
    }

    fn status(&self, candidate: &Candidate) -> (Status, String) {
        if candidate.parent.is_none() && candidate.generation == 0 {
            return (Status::Baseline, String::new());
        }
        let Some(decision) = self.decisions.get(&candidate.id) else {
            return (Status::Pending, "not decided yet".into());
        };
        let reason = &decision.reason;
        match decision.ruling {
            Ruling::Kept if self.demoted.contains(&candidate.id) => {
                (Status::Kept, "kept, and demoted later: it failed on fresh seeds".into())
            }
            Ruling::Kept => (Status::Kept, reason.clone()),
            Ruling::Failed => (Status::Failed, reason.clone()),
            Ruling::Passed => {
                (Status::Discarded, format!("{reason}, but another of its generation was better still"))
            }
            Ruling::Dropped
            | Ruling::Outranked
            | Ruling::NotBetter
            | Ruling::OutOfBudget
            | Ruling::NoRival => (Status::Discarded, reason.clone()),
        }
    }
}

fn points(
    candidates: &[Candidate],
    evaluations: &[EvaluationRecord],
    story: &Story,
    at: &HashMap<CandidateId, usize>,
) -> Vec<Point> {
    let mut scores: HashMap<&CandidateId, Vec<Option<f64>>> = HashMap::new();
    let mut outcome: HashMap<&CandidateId, &'static str> = HashMap::new();
    for record in evaluations.iter().filter(|r| r.key.split == Split::Selection) {
        scores.entry(&record.key.candidate).or_default().push(record.result.score);
        let worst = outcome.entry(&record.key.candidate).or_insert("finished");
        if *worst == "finished" {
            *worst = record.result.outcome.code();
        }
    }
    let mean = |id: &CandidateId| -> Option<f64> {
        let all: Vec<f64> = scores.get(id)?.iter().copied().collect::<Option<_>>()?;
        (!all.is_empty()).then(|| mean_and_sd(&all).0)
    };
    let baseline = candidates.first().map(|c| &c.id);
    let point = |(index, candidate): (usize, &Candidate)| {
        let (status, reason) = story.status(candidate);
        let decision = story.decisions.get(&candidate.id);
        let before = story.by_generation.range(..candidate.generation).next_back().map(|(_, id)| id);
        let incumbent = if status == Status::Kept { Some(&candidate.id) } else { before.or(baseline) };
        let parents = [&candidate.parent, &candidate.second_parent];
        Point {
            index,
            id: candidate.id.short().to_owned(),
            generation: candidate.generation,
            proposer: candidate.origin.proposer.clone(),
            operator: candidate.origin.operator.clone(),
            note: for_people(&candidate.origin.note).to_owned(),
            parents: parents.into_iter().flatten().filter_map(|id| at.get(id)).copied().collect(),
            status,
            reason,
            score: mean(&candidate.id),
            seeds: scores.get(&candidate.id).map_or(0, |s| s.len() as u32),
            outcome: outcome.get(&candidate.id).copied().unwrap_or_default().to_owned(),
            gain: decision.and_then(|d| d.gain.clone()),
            incumbent: decision.and_then(|d| at.get(&d.incumbent)).copied(),
            best: incumbent.and_then(mean),
        }
    };
    candidates.iter().enumerate().map(point).collect()
}

/// From the baseline to `winner`, along first parents.
fn lineage(points: &[Point], winner: usize) -> Vec<usize> {
    let mut line = Vec::new();
    let mut next = Some(winner);
    // A parent stands before its child; anything else would be damage.
    while let Some(point) = next.and_then(|at| points.get(at)) {
        line.push(point.index);
        next = point.parents.first().copied().filter(|parent| *parent < point.index);
    }
    line.reverse();
    line
}

fn run_facts(folder: &RunFolder, story: &Story, evaluations: &[EvaluationRecord]) -> RunFacts {
    let config = folder.config();
    let header = &folder.task().header;
    let device = config.identity.rsplit("; ").find_map(|part| part.strip_prefix("device "));
    let times = || evaluations.iter().map(|r| r.finished_unix_ms);
    RunFacts {
        task: header.name.clone(),
        title: header.title.clone(),
        folder: folder.path().to_path_buf(),
        engine: config.engine.clone(),
        seed: config.seed,
        identity: config.identity.clone(),
        device: device.unwrap_or(&config.identity).to_owned(),
        held_out_files: header.world == World::Trainer,
        generations_planned: folder.task().search.generations,
        generations: story.generations,
        recorded_unix_ms: times().min().zip(times().max()),
    }
}

/// From the `corpus.json` beside the shards; a folder without one has none.
fn yardstick(data: &DataSnapshot) -> Yardstick {
    let manifest = data
        .last
        .parent()
        .and_then(|folder| read_text(&folder.join("corpus.json")).ok())
        .and_then(|text| serde_json::from_str::<Manifest>(&text).ok())
        .filter(|manifest| manifest.schema == CORPUS_SCHEMA);
    let sound = |bits: Option<f64>| bits.filter(|b| b.is_finite() && *b > 0.0);
    manifest.map_or_else(Yardstick::default, |m| Yardstick {
        selection: sound(m.xz_bits_per_byte.val),
        last: sound(m.xz_bits_per_byte.final_split),
    })
}

fn changes(
    folder: &RunFolder,
    candidates: &[Candidate],
    evaluations: &[EvaluationRecord],
    winner: usize,
) -> Changes {
    let (Some(baseline), Some(winner)) = (candidates.first(), candidates.get(winner)) else {
        return Changes::default();
    };
    let declared = |candidate: &Candidate| -> Vec<(String, KnobRange)> {
        let of = |r: &&EvaluationRecord| r.key.candidate == candidate.id && !r.result.knobs.is_empty();
        evaluations.iter().find(of).map_or_else(Vec::new, |r| r.result.knobs.clone())
    };
    let mut space = declared(winner);
    for (name, range) in declared(baseline) {
        if !space.iter().any(|(known, _)| *known == name) {
            space.push((name, range));
        }
    }
    let knobs = diff::knob_changes(&baseline.knobs, &winner.knobs, &space);
    match (folder.source(baseline), folder.source(winner)) {
        (Ok(old), Ok(new)) => Changes { source: diff::unified(&old, &new), knobs, missing: None },
        (Err(error), _) | (_, Err(error)) => {
            Changes { source: Vec::new(), knobs, missing: Some(error.to_string()) }
        }
    }
}

fn outcomes(evaluations: &[EvaluationRecord]) -> Vec<OutcomeCount> {
    let mut counts: BTreeMap<&'static str, (u64, HashSet<&CandidateId>)> = BTreeMap::new();
    for record in evaluations {
        let count = counts.entry(record.result.outcome.code()).or_default();
        count.0 += 1;
        count.1.insert(&record.key.candidate);
    }
    let mut counts: Vec<OutcomeCount> = counts
        .into_iter()
        .map(|(code, (evaluations, candidates))| OutcomeCount {
            code: code.to_owned(),
            evaluations,
            candidates: candidates.len() as u64,
        })
        .collect();
    // Stable: equal counts stay in order of their codes.
    counts.sort_by_key(|count| std::cmp::Reverse(count.evaluations));
    counts
}

fn spent(evaluations: &[EvaluationRecord], world: World) -> Spent {
    let mut spent = Spent::default();
    let mut profile: BTreeMap<&str, u64> = BTreeMap::new();
    // Every evaluation of a component carries the time of its one build.
    let mut builds: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut start, mut score, mut whole) = (0u64, 0u64, 0u64);
    for record in evaluations {
        let (usage, timing) = (&record.result.usage, &record.result.timing);
        match record.key.split {
            Split::Selection => spent.selection_evaluations += 1,
            Split::Final => spent.final_evaluations += 1,
        }
        spent.failed_evaluations += u64::from(!record.result.outcome.is_finished());
        if let Some(build) = record.build.as_ref().filter(|build| !build.cached) {
            let longest = builds.entry(&build.component).or_default();
            *longest = build.time.total_us.max(*longest);
        }
        for (sum, more) in [
            (&mut spent.fuel, usage.fuel.unwrap_or(0)),
            (&mut spent.device_fuel, usage.device_fuel.saturating_add(usage.forward_device_fuel)),
            (&mut spent.train_us, timing.train_us),
            (&mut spent.train_kernel_us, timing.train_kernel_us),
            (&mut start, timing.instantiate_us.saturating_add(timing.init_us)),
            (&mut score, timing.score_us),
            (&mut whole, timing.total_us),
        ] {
            *sum = sum.saturating_add(more);
        }
        for (operation, fuel) in &usage.device_profile {
            let sum = profile.entry(operation).or_default();
            *sum = sum.saturating_add(*fuel);
        }
    }
    spent.device_profile = profile.into_iter().map(|(name, fuel)| (name.to_owned(), fuel)).collect();
    spent.device_profile.sort_by_key(|(_, fuel)| std::cmp::Reverse(*fuel));
    let build = builds.values().fold(0u64, |sum, us| sum.saturating_add(*us));
    let rest = whole.saturating_sub(start).saturating_sub(spent.train_us).saturating_sub(score);
    spent.phases = match world {
        World::Trainer => {
            let outside = spent.train_us.saturating_sub(spent.train_kernel_us);
            vec![
                ("building", build),
                ("starting", start),
                ("training, in kernels", spent.train_kernel_us),
                ("training, outside kernels", outside),
                ("scoring held-out text", score),
                ("everything else", rest),
            ]
        }
        World::Function | World::Command => {
            vec![
                ("building", build),
                ("starting", start),
                ("calling", spent.train_us),
                ("everything else", score.saturating_add(rest)),
            ]
        }
    };
    spent.phases.retain(|(_, us)| *us > 0);
    spent
}

fn proposers(points: &[Point], story: &Story, at: &HashMap<CandidateId, usize>) -> Vec<ProposerShare> {
    let demoted: HashSet<usize> = story.demoted.iter().filter_map(|id| at.get(id)).copied().collect();
    let mut shares: BTreeMap<&str, ProposerShare> = BTreeMap::new();
    for point in points.iter().filter(|p| p.status != Status::Baseline) {
        let share = shares.entry(&point.proposer).or_insert_with(|| ProposerShare {
            name: point.proposer.clone(),
            proposals: 0,
            failed: 0,
            kept: 0,
            gain: 0.0,
            share: None,
        });
        share.proposals += 1;
        share.failed += u64::from(point.status == Status::Failed);
        if point.status == Status::Kept && !demoted.contains(&point.index) {
            share.kept += 1;
            share.gain += point.gain.as_ref().map_or(0.0, |gain| gain.mean.max(0.0));
        }
    }
    let mut shares: Vec<ProposerShare> = shares.into_values().collect();
    let total: f64 = shares.iter().map(|s| s.gain).sum();
    if total > 0.0 && total.is_finite() {
        shares.iter_mut().for_each(|share| share.share = Some(share.gain / total));
    }
    shares.sort_by_key(|share| std::cmp::Reverse(share.proposals));
    shares
}

fn ledger_facts(entries: &[LedgerEntry]) -> LedgerFacts {
    LedgerFacts {
        events: entries.len() as u64,
        head: entries.last().map(|entry| entry.hash.clone()).unwrap_or_default(),
        broken: first_break(entries).map(|(seq, what)| format!("event {seq}: {what}")),
    }
}

/// A proposer's note without the mark at its end by which `mutate` knows a
/// place in the source again.
fn for_people(note: &str) -> &str {
    note.rsplit_once(" [site ").map_or(note, |(before, _)| before)
}
