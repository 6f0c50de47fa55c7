//! All candidates of a run, and what is known of them.

use super::wave::Shared;
use crate::candidate::Candidate;
use crate::ids::{BlobId, CandidateId};
use crate::proposer::{HistoryEntry, Index};
use crate::task::Direction;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use terrarium_sandbox::{KnobRange, Outcome};

/// Longest diagnostics handed to a proposer, in characters.
const MAX_DIAGNOSTICS: usize = 4000;

struct Member {
    candidate: Candidate,
    /// Why it may not be built, if it may not.
    refusal: Option<String>,
    /// Selection evaluations by seed.
    results: BTreeMap<u64, Shared>,
    /// Evaluations on the rungs before the race: rung and seed.
    rungs: BTreeMap<(u8, u64), Shared>,
}

/// All candidates, numbered in the order of proposal; the baseline is 0.
pub struct Population {
    direction: Direction,
    members: Vec<Member>,
    entries: Vec<HistoryEntry>,
    by_id: HashMap<CandidateId, usize>,
    sources: HashMap<BlobId, Arc<str>>,
    index: Index,
    selection_evaluations: usize,
    fuel: u64,
}

impl Population {
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            members: Vec::new(),
            entries: Vec::new(),
            by_id: HashMap::new(),
            sources: HashMap::new(),
            index: Index::new(direction),
            selection_evaluations: 0,
            fuel: 0,
        }
    }

    pub fn direction(&self) -> Direction {
        self.direction
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Adds a candidate that is not yet there, and returns its number.
    pub fn add(&mut self, candidate: Candidate, source: Arc<str>, refusal: Option<String>) -> usize {
        let number = self.members.len();
        self.by_id.insert(candidate.id.clone(), number);
        // One copy of each text.
        let source = self.sources.entry(candidate.source.clone()).or_insert(source).clone();
        let entry = HistoryEntry {
            candidate: candidate.id.clone(),
            source,
            source_id: candidate.source.clone(),
            knobs: candidate.knobs.clone(),
            score: None,
            seeds: 0,
            outcome_code: "not-evaluated".into(),
            accepted: false,
            diagnostics: None,
            origin: candidate.origin.clone(),
            parent: candidate.parent.clone(),
            record: None,
        };
        self.index.add(&entry);
        self.entries.push(entry);
        self.members.push(Member { candidate, refusal, results: BTreeMap::new(), rungs: BTreeMap::new() });
        number
    }

    pub fn number(&self, id: &CandidateId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    pub fn candidate(&self, member: usize) -> &Candidate {
        &self.members[member].candidate
    }

    pub fn id(&self, member: usize) -> CandidateId {
        self.members[member].candidate.id.clone()
    }

    pub fn source(&self, member: usize) -> &Arc<str> {
        &self.entries[member].source
    }

    /// The text of a source that some candidate has.
    pub fn text(&self, id: &BlobId) -> Option<&Arc<str>> {
        self.sources.get(id)
    }

    pub fn refusal(&self, member: usize) -> Option<&str> {
        self.members[member].refusal.as_deref()
    }

    /// What proposers see, in order of proposal.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The knobs as the candidate declared them on its first finished seed;
    /// empty if it never finished.
    pub fn knob_space(&self, member: usize) -> &[(String, KnobRange)] {
        let results = &self.members[member].results;
        let finished = results.values().find(|r| r.result.outcome.is_finished());
        finished.map_or(&[], |record| &record.result.knobs)
    }

    /// Evaluations on the selection split so far, rungs included.
    pub fn selection_evaluations(&self) -> usize {
        self.selection_evaluations
    }

    /// What these evaluations used: device fuel, or guest fuel where no
    /// device was used.
    pub fn fuel(&self) -> u64 {
        self.fuel
    }

    pub fn result(&self, member: usize, seed: u64) -> Option<&Shared> {
        self.members[member].results.get(&seed)
    }

    /// Its result on a rung.
    pub fn rung_result(&self, member: usize, rung: u8, seed: u64) -> Option<&Shared> {
        self.members[member].rungs.get(&(rung, seed))
    }

    pub fn score(&self, member: usize, seed: u64) -> Option<f64> {
        self.result(member, seed)?.result.score
    }

    /// How it failed on this seed, if it did.
    pub fn failure_on(&self, member: usize, seed: u64) -> Option<&Outcome> {
        self.result(member, seed)
            .map(|record| &record.result.outcome)
            .filter(|outcome| !outcome.is_finished())
    }

    /// The first failure by seed, if any.
    pub fn failure(&self, member: usize) -> Option<&Outcome> {
        let failed = |record: &&Shared| !record.result.outcome.is_finished();
        self.members[member].results.values().find(failed).map(|record| &record.result.outcome)
    }

    /// Files an evaluation on a rung.
    pub fn learn_on_rung(&mut self, number: usize, rung: u8, record: &Shared) {
        self.count(record);
        self.members[number].rungs.insert((rung, record.key.seed), record.clone());
        if !record.result.outcome.is_finished() {
            let entry = &mut self.entries[number];
            entry.outcome_code = record.result.outcome.code().to_owned();
            entry.diagnostics = Some(diagnostics(&record.result.outcome));
            entry.record.get_or_insert_with(|| record.clone());
            self.index.learn(number, &self.entries[number]);
        }
    }

    fn count(&mut self, record: &Shared) {
        let usage = &record.result.usage;
        let device = usage.device_fuel.saturating_add(usage.forward_device_fuel);
        let fuel = if device > 0 { device } else { usage.fuel.unwrap_or(0) };
        self.fuel = self.fuel.saturating_add(fuel);
        self.selection_evaluations += 1;
    }

    /// Files a selection evaluation.
    pub fn learn(&mut self, number: usize, record: &Shared) {
        if self.members[number].results.insert(record.key.seed, record.clone()).is_none() {
            self.count(record);
        }
        let results = &self.members[number].results;
        let scores: Option<Vec<f64>> = results.values().map(|r| r.result.score).collect();
        let score = scores.filter(|s| !s.is_empty()).map(|s| crate::gate::mean_and_sd(&s).0);
        let seeds = results.len() as u32;
        let first = results.values().find(|r| r.result.outcome.is_finished()).or(results.values().next());
        let first = first.cloned();
        let failure = self.failure(number).map(|o| (o.code(), diagnostics(o)));
        let entry = &mut self.entries[number];
        entry.score = score;
        entry.seeds = seeds;
        entry.record = first;
        let (code, text) = match failure {
            Some((code, text)) => (code, Some(text)),
            None => (Outcome::Finished.code(), None),
        };
        if entry.outcome_code != code {
            code.clone_into(&mut entry.outcome_code);
        }
        entry.diagnostics = text;
        self.index.learn(number, &self.entries[number]);
    }

    /// Notes that the gate let it pass.
    pub fn accept(&mut self, member: usize) {
        self.entries[member].accepted = true;
    }
}

fn diagnostics(outcome: &Outcome) -> String {
    let mut text = outcome.to_string();
    if let Outcome::CompileError { diagnostics } = outcome {
        for diagnostic in diagnostics.iter().take(5) {
            text.push('\n');
            text.push_str(&diagnostic.rendered);
        }
    }
    if !outcome.hint().is_empty() {
        text.push_str("\nhint: ");
        text.push_str(outcome.hint());
    }
    text.chars().take(MAX_DIAGNOSTICS).collect()
}
