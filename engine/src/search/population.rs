//! All candidates of a run, and what is known of them.

use super::wave::Shared;
use crate::candidate::Candidate;
use crate::ids::CandidateId;
use crate::proposer::HistoryEntry;
use crate::task::Direction;
use std::collections::{BTreeMap, HashMap};
use terrarium_sandbox::{KnobRange, Outcome};

/// Longest diagnostics handed to a proposer, in characters.
const MAX_DIAGNOSTICS: usize = 4000;

struct Member {
    candidate: Candidate,
    /// Why it may not be built, if it may not.
    refusal: Option<String>,
    /// Selection evaluations by seed.
    results: BTreeMap<u64, Shared>,
}

/// All candidates, numbered in the order of proposal; the baseline is 0.
pub struct Population {
    direction: Direction,
    members: Vec<Member>,
    entries: Vec<HistoryEntry>,
    by_id: HashMap<CandidateId, usize>,
}

impl Population {
    pub fn new(direction: Direction) -> Self {
        Self { direction, members: Vec::new(), entries: Vec::new(), by_id: HashMap::new() }
    }

    pub fn direction(&self) -> Direction {
        self.direction
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Adds a candidate that is not yet there, and returns its number.
    pub fn add(&mut self, candidate: Candidate, source: String, refusal: Option<String>) -> usize {
        let number = self.members.len();
        self.by_id.insert(candidate.id.clone(), number);
        self.entries.push(HistoryEntry {
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
        });
        self.members.push(Member { candidate, refusal, results: BTreeMap::new() });
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

    pub fn source(&self, member: usize) -> &str {
        &self.entries[member].source
    }

    pub fn refusal(&self, member: usize) -> Option<&str> {
        self.members[member].refusal.as_deref()
    }

    /// What proposers see, in order of proposal.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The knobs as the candidate declared them on its first finished seed;
    /// empty if it never finished.
    pub fn knob_space(&self, member: usize) -> &[(String, KnobRange)] {
        let finished = self.members[member].results.values().find(|r| r.result.outcome.is_finished());
        finished.map_or(&[], |record| &record.result.knobs)
    }

    /// Evaluations on the selection split so far.
    pub fn selection_evaluations(&self) -> usize {
        self.members.iter().map(|member| member.results.len()).sum()
    }

    pub fn result(&self, member: usize, seed: u64) -> Option<&Shared> {
        self.members[member].results.get(&seed)
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

    /// Files a selection evaluation.
    pub fn learn(&mut self, number: usize, record: &Shared) {
        self.members[number].results.insert(record.key.seed, record.clone());
        let results = &self.members[number].results;
        let scores: Option<Vec<f64>> = results.values().map(|r| r.result.score).collect();
        let score = scores.filter(|s| !s.is_empty()).map(|s| crate::gate::mean_and_sd(&s).0);
        let seeds = results.len() as u32;
        let failure = self.failure(number).map(|o| (o.code().to_owned(), diagnostics(o)));
        let entry = &mut self.entries[number];
        entry.score = score;
        entry.seeds = seeds;
        (entry.outcome_code, entry.diagnostics) = match failure {
            Some((code, text)) => (code, Some(text)),
            None => (Outcome::Finished.code().to_owned(), None),
        };
    }

    /// Notes that the gate let it pass.
    pub fn accept(&mut self, member: usize) {
        self.entries[member].accepted = true;
    }

    /// The best `count` candidates that never failed, `without` left out,
    /// best mean score first.
    pub fn elites(&self, count: usize, without: usize) -> Vec<usize> {
        let scored = |(number, entry): (usize, &HistoryEntry)| Some((number, entry.score?));
        let mut ranked: Vec<(usize, f64)> = self
            .entries
            .iter()
            .enumerate()
            .filter_map(scored)
            .filter(|(number, _)| *number != without)
            .collect();
        ranked.sort_by(|a, b| self.direction.gain(b.1, a.1).total_cmp(&0.0).then(a.0.cmp(&b.0)));
        ranked.into_iter().take(count).map(|(number, _)| number).collect()
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
