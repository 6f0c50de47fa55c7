//! What reports ask of an archive.

use super::Archive;
use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::evaluate::{EvaluationRecord, Split};
use crate::ids::CandidateId;
use crate::ledger::{Decision, Event, FinalComparison, ScoreSummary, StopReason};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// One candidate on the best-so-far curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestPoint {
    /// Position among the candidates, the baseline being 0.
    pub number: u32,
    /// The candidate.
    pub candidate: CandidateId,
    /// Its generation.
    pub generation: u32,
    /// Mean over its selection seeds; none if it failed on any.
    pub score: Option<f64>,
    /// On how many selection seeds it was evaluated.
    pub seeds: u32,
    /// Whether it became the incumbent.
    pub kept: bool,
    /// Mean selection score of the incumbent after it was decided.
    pub best: Option<f64>,
}

/// How often an outcome occurred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutcomeCount {
    /// The outcome's code.
    pub code: String,
    /// Evaluations.
    pub evaluations: u64,
    /// Candidates with at least one such evaluation.
    pub candidates: u64,
}

/// Where fuel and time went, over all evaluations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Candidates.
    pub candidates: u64,
    /// Evaluations on the selection split.
    pub selection_evaluations: u64,
    /// Evaluations on the final split.
    pub final_evaluations: u64,
    /// Evaluations that did not finish.
    pub failed_evaluations: u64,
    /// Guest instructions.
    pub fuel: u64,
    /// Device fuel, training and predictions together.
    pub device_fuel: u64,
    /// Device fuel by operation, largest first.
    pub device_profile: Vec<(String, u64)>,
    /// Wall-clock time of building, microseconds, cached builds left out.
    pub build_us: u64,
    /// … of training or of `call`.
    pub train_us: u64,
    /// … of held-out scoring.
    pub score_us: u64,
    /// … inside device kernels.
    pub kernel_us: u64,
    /// … of evaluations as a whole.
    pub evaluation_us: u64,
}

impl Archive {
    /// All events, parsed, in order.
    pub fn events(&self) -> Result<Vec<Event>, EngineError> {
        let parse = |entry: crate::ledger::LedgerEntry| {
            serde_json::from_str(&entry.text)
                .map_err(|e| EngineError::LedgerBroken { seq: entry.seq, what: e.to_string() })
        };
        self.ledger()?.into_iter().map(parse).collect()
    }

    /// Fuel of all selection evaluations, rungs included: device fuel, or
    /// guest fuel where no device was used.
    pub fn selection_fuel(&self) -> Result<u64, EngineError> {
        let fuel = |record: EvaluationRecord| {
            let usage = record.result.usage;
            let device = usage.device_fuel.saturating_add(usage.forward_device_fuel);
            if device > 0 { device } else { usage.fuel.unwrap_or(0) }
        };
        let all = self.evaluations()?.into_iter().filter(|r| r.key.split != Split::Final);
        Ok(all.map(fuel).fold(0, u64::saturating_add))
    }

    /// All decisions, in order.
    pub fn decisions(&self) -> Result<Vec<Decision>, EngineError> {
        Ok(self
            .events()?
            .into_iter()
            .filter_map(|e| if let Event::Decided(d) = e { Some(d) } else { None })
            .collect())
    }

    /// The baseline's scores from which the noise floor was measured.
    pub fn noise_floor(&self) -> Result<Option<ScoreSummary>, EngineError> {
        let found = |e| {
            if let Event::NoiseFloor { baseline } = e { Some(baseline) } else { None }
        };
        Ok(self.events()?.into_iter().find_map(found))
    }

    /// The final comparison, once the run has finished.
    pub fn final_comparison(&self) -> Result<Option<FinalComparison>, EngineError> {
        let found = |e| {
            if let Event::Final(comparison) = e { Some(comparison) } else { None }
        };
        Ok(self.events()?.into_iter().find_map(found))
    }

    /// Why the search ended before its last generation, if it did.
    pub fn stop_reason(&self) -> Result<Option<StopReason>, EngineError> {
        let found = |e| {
            if let Event::Stopped { reason, .. } = e { Some(reason) } else { None }
        };
        Ok(self.events()?.into_iter().find_map(found))
    }

    /// The incumbent as of the last event: the winner, once the run has
    /// finished. None before the baseline was recorded.
    pub fn incumbent(&self) -> Result<Option<CandidateId>, EngineError> {
        let mut incumbent = None;
        for event in self.events()? {
            match event {
                Event::Proposed { candidate, .. } if incumbent.is_none() => incumbent = Some(candidate.id),
                Event::Crowned { candidate, .. } => incumbent = Some(candidate),
                Event::Demoted { successor, .. } => incumbent = Some(successor),
                _ => {}
            }
        }
        Ok(incumbent)
    }

    /// A candidate by its id, or by the first digits of it if they are unique
    /// (at least four).
    pub fn find(&self, id: &str) -> Result<Option<Candidate>, EngineError> {
        if id.len() < 4 {
            return Ok(None);
        }
        let mut matching = self.beginning_with(id)?.into_iter();
        let found = matching.next();
        Ok(if matching.next().is_some() { None } else { found })
    }

    /// From the candidate back to the baseline, along first parents.
    pub fn lineage(&self, id: &CandidateId) -> Result<Vec<Candidate>, EngineError> {
        let by_id: HashMap<_, _> = self.candidates()?.into_iter().map(|c| (c.id.clone(), c)).collect();
        let mut line = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(id.clone());
        while let Some(candidate) = next.and_then(|id| by_id.get(&id)) {
            if !seen.insert(&candidate.id) {
                return Err(self.damaged(format!("candidate {} is its own ancestor", candidate.id.short())));
            }
            line.push(candidate.clone());
            next = candidate.parent.clone();
        }
        Ok(line)
    }

    /// Every candidate with its score and the incumbent's at that time.
    pub fn best_so_far(&self) -> Result<Vec<BestPoint>, EngineError> {
        let mut scores: HashMap<CandidateId, Vec<Option<f64>>> = HashMap::new();
        for record in self.evaluations()? {
            if record.key.split == Split::Selection {
                scores.entry(record.key.candidate).or_default().push(record.result.score);
            }
        }
        let mean = |id: &CandidateId| -> Option<f64> {
            let all: Option<Vec<f64>> = scores.get(id)?.iter().copied().collect();
            all.filter(|s| !s.is_empty()).map(|s| crate::gate::mean_and_sd(&s).0)
        };
        let mut kept = HashSet::new();
        // Who is incumbent once the generation with this number is over.
        let mut by_generation: BTreeMap<u32, CandidateId> = BTreeMap::new();
        for event in self.events()? {
            match event {
                Event::Crowned { generation, candidate, .. } => {
                    kept.insert(candidate.clone());
                    by_generation.insert(generation, candidate);
                }
                Event::Demoted { generation, successor, .. } => {
                    drop(by_generation.insert(generation, successor))
                }
                _ => {}
            }
        }
        let candidates = self.candidates()?;
        let baseline = candidates.first().map(|c| c.id.clone());
        let point = |(number, candidate): (u32, Candidate)| {
            // A kept candidate is best from its own point on; its siblings
            // are compared with their generation's incumbent.
            let before = by_generation.range(..candidate.generation).next_back().map(|(_, id)| id);
            let rival =
                if kept.contains(&candidate.id) { Some(&candidate.id) } else { before.or(baseline.as_ref()) };
            BestPoint {
                number,
                generation: candidate.generation,
                score: mean(&candidate.id),
                seeds: scores.get(&candidate.id).map_or(0, |s| s.len() as u32),
                kept: number == 0 || kept.contains(&candidate.id),
                best: rival.and_then(mean),
                candidate: candidate.id,
            }
        };
        Ok((0..).zip(candidates).map(point).collect())
    }

    /// Outcomes, most frequent first.
    pub fn outcomes(&self) -> Result<Vec<OutcomeCount>, EngineError> {
        let mut counts: BTreeMap<&'static str, (u64, HashSet<CandidateId>)> = BTreeMap::new();
        for record in self.evaluations()? {
            let entry = counts.entry(record.result.outcome.code()).or_default();
            entry.0 += 1;
            entry.1.insert(record.key.candidate);
        }
        let mut counts: Vec<_> = counts
            .into_iter()
            .map(|(code, (evaluations, candidates))| OutcomeCount {
                code: code.to_owned(),
                evaluations,
                candidates: candidates.len() as u64,
            })
            .collect();
        counts.sort_by(|a, b| b.evaluations.cmp(&a.evaluations).then_with(|| a.code.cmp(&b.code)));
        Ok(counts)
    }

    /// Where fuel and time went.
    pub fn totals(&self) -> Result<Totals, EngineError> {
        let mut totals = Totals { candidates: self.candidates()?.len() as u64, ..Totals::default() };
        let mut profile: BTreeMap<String, u64> = BTreeMap::new();
        for record in self.evaluations()? {
            totals.add(&record);
            for (operation, fuel) in record.result.usage.device_profile {
                let sum = profile.entry(operation).or_default();
                *sum = sum.saturating_add(fuel);
            }
        }
        totals.device_profile = profile.into_iter().collect();
        totals.device_profile.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(totals)
    }
}

impl Totals {
    fn add(&mut self, record: &EvaluationRecord) {
        let (usage, timing) = (&record.result.usage, &record.result.timing);
        match record.key.split {
            Split::Selection | Split::Rung(_) => self.selection_evaluations += 1,
            Split::Final => self.final_evaluations += 1,
        }
        self.failed_evaluations += u64::from(!record.result.outcome.is_finished());
        let build = record.build.as_ref().filter(|b| !b.cached).map_or(0, |b| b.time.total_us);
        for (sum, more) in [
            (&mut self.fuel, usage.fuel.unwrap_or(0)),
            (&mut self.device_fuel, usage.device_fuel.saturating_add(usage.forward_device_fuel)),
            (&mut self.build_us, build),
            (&mut self.train_us, timing.train_us),
            (&mut self.score_us, timing.score_us),
            (&mut self.kernel_us, timing.kernel_us),
            (&mut self.evaluation_us, timing.total_us),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
