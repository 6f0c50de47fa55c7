//! One generation of proposals.

use super::{Halt, Loop};
use crate::candidate::{Candidate, Origin, knobs_are_finite};
use crate::error::EngineError;
use crate::evaluate::Evaluate;
use crate::ids::{BlobId, CandidateId};
use crate::ledger::Event;
use crate::observer::RunEvent;
use crate::proposer::{History, Proposal, Proposer};
use crate::seeds::{self, SplitMix64};
use crate::task::{MAX_TEXT_BYTES, SearchConfig};

/// How often a place in a generation is tried to be filled with something
/// that was not tried before.
const ATTEMPTS: u64 = 24;

/// Longest `note` of an origin, in characters.
const MAX_NOTE: usize = 300;

/// The weight of each proposer, in their order.
pub fn weights(config: &SearchConfig, proposers: &[&dyn Proposer]) -> Result<Vec<f64>, EngineError> {
    let known: Vec<&str> = proposers.iter().map(|proposer| proposer.name()).collect();
    if let Some(name) = config.proposers.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(EngineError::UnknownProposer { name: name.clone(), known: known.join(", ") });
    }
    let all_equal = config.proposers.is_empty();
    let weight = |name: &&str| {
        if all_equal { 1.0 } else { config.proposers.get(*name).copied().unwrap_or(0.0) }
    };
    Ok(known.iter().map(weight).collect())
}

impl<E: Evaluate> Loop<'_, '_, E> {
    /// Fills the generation with candidates that were never tried, as far as
    /// the proposers have any and the evaluation budget goes.
    pub(super) fn propose(&mut self, generation: u32) -> Result<Vec<usize>, Halt> {
        let known = self.population.len();
        let size = (self.config.generation_size as usize).min(self.evaluations_left());
        let mut numbers = Vec::new();
        let mut events = Vec::new();
        for index in 0..size as u64 {
            let Some((proposal, parent)) = self.propose_one(generation, index, known) else {
                continue;
            };
            let source = proposal.source.unwrap_or_else(|| self.population.source(parent).to_owned());
            let source_id = self.search.folder.blobs().put(source.as_bytes())?;
            let refusal = (self.search.admit)(self.population.source(parent), &source).err();
            let candidate = Candidate {
                id: CandidateId::of(&source_id, &proposal.knobs),
                source: source_id,
                knobs: proposal.knobs,
                parent: Some(proposal.parent),
                second_parent: proposal.second_parent,
                origin: cleaned(&proposal.origin),
                generation,
            };
            events.push(Event::Proposed { index: index as u32, candidate: candidate.clone() });
            numbers.push(self.population.add(candidate, source, refusal));
        }
        self.archive_events(&events)?;
        for number in &numbers {
            self.observe(&RunEvent::Proposed { candidate: self.population.candidate(*number).clone() });
        }
        Ok(numbers)
    }

    /// A proposal that is new, and its parent's number. Proposers see only
    /// the first `known` candidates: what was there when the generation began.
    fn propose_one(&self, generation: u32, index: u64, known: usize) -> Option<(Proposal, usize)> {
        let entries = self.population.entries().get(..known)?;
        for attempt in 0..ATTEMPTS {
            let seed = seeds::derive(self.run_seed, "proposal", &[u64::from(generation), index, attempt]);
            let mut rng = SplitMix64::new(seed);
            let parent = self.pick_parent(&mut rng);
            let history = History {
                direction: self.population.direction(),
                entries,
                knob_space: self.population.knob_space(parent),
            };
            let mut weights = self.weights.clone();
            // The others are asked when the one that was drawn has nothing.
            while let Some(drawn) = rng.weighted(&weights) {
                weights[drawn] = 0.0;
                let proposer = self.search.proposers[drawn];
                if let Some(proposal) = proposer.propose(&history, &entries[parent], rng.next_u64()) {
                    if let Some(found) = self.acceptable(proposal) {
                        return Some(found);
                    }
                    break;
                }
            }
        }
        None
    }

    /// Whether a proposal can become a candidate: sound, and never tried.
    fn acceptable(&self, mut proposal: Proposal) -> Option<(Proposal, usize)> {
        let parent = self.population.number(&proposal.parent)?;
        if !knobs_are_finite(&proposal.knobs) {
            return None;
        }
        let source_id = match &proposal.source {
            Some(source) if source.len() as u64 > MAX_TEXT_BYTES => return None,
            Some(source) => BlobId::of(source.as_bytes()),
            None => self.population.candidate(parent).source.clone(),
        };
        if self.population.number(&CandidateId::of(&source_id, &proposal.knobs)).is_some() {
            return None;
        }
        proposal.second_parent = proposal.second_parent.filter(|id| self.population.number(id).is_some());
        Some((proposal, parent))
    }

    /// The incumbent mostly; else one of the elite, each as likely.
    fn pick_parent(&self, rng: &mut SplitMix64) -> usize {
        let incumbent = self.incumbent().member;
        if rng.unit() < self.config.incumbent_share {
            return incumbent;
        }
        let elites = self.population.elites(self.config.elites as usize, incumbent);
        elites.get(rng.below(elites.len())).copied().unwrap_or(incumbent)
    }
}

/// A proposer's words, made fit for a terminal and a page.
fn cleaned(origin: &Origin) -> Origin {
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
    Origin { proposer: clean(&origin.proposer), operator: clean(&origin.operator), note: clean(&origin.note) }
}
