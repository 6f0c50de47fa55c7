//! One generation of proposals.

use super::asking::Question;
use super::strategy::{Pick, View};
use super::{Halt, Loop};
use crate::candidate::{Call, Candidate, Origin, knobs_are_finite};
use crate::error::EngineError;
use crate::evaluate::Evaluate;
use crate::ids::{BlobId, CandidateId};
use crate::ledger::Event;
use crate::observer::RunEvent;
use crate::proposer::agent::{Agent, Brief, Reply};
use crate::proposer::{History, HistoryEntry, Proposal, Proposer};
use crate::seeds::{self, SplitMix64};
use crate::task::{MAX_TEXT_BYTES, SearchConfig};
use std::time::Duration;

/// How often a place in a generation is tried to be filled with something
/// that was not tried before.
const ATTEMPTS: u64 = 24;

/// Longest `note` of an origin, in characters.
const MAX_NOTE: usize = 300;

/// Others that an agent is shown beside the parent.
const RELATIVES: usize = 3;

/// How often those are looked at who may propose at any time.
const PAUSE: Duration = Duration::from_millis(100);

/// Names and weights of all proposers, agents last.
pub fn arms(
    config: &SearchConfig,
    proposers: &[&dyn Proposer],
    agents: &[&dyn Agent],
) -> Result<(Vec<String>, Vec<f64>), EngineError> {
    let names = proposers.iter().map(|p| p.name().to_owned());
    let arms: Vec<String> = names.chain(agents.iter().map(|a| a.name().to_owned())).collect();
    if let Some(name) = config.proposers.keys().find(|name| !arms.contains(name)) {
        return Err(EngineError::UnknownProposer { name: name.clone(), known: arms.join(", ") });
    }
    let all_equal = config.proposers.is_empty();
    let weight = |name: &String| {
        if all_equal { 1.0 } else { config.proposers.get(name).copied().unwrap_or(0.0) }
    };
    let weights = arms.iter().map(weight).collect();
    Ok((arms, weights))
}

/// Who fills a place.
#[allow(clippy::large_enum_variant)]
enum Filler {
    /// Whoever the bandit draws, among those that can be asked again.
    Pure,
    /// The agent with this number, with what it answered.
    Agent(usize, Option<Reply>),
}

/// A place of the generation: where its proposal starts from, and who makes it.
struct Slot {
    pick: Pick,
    filler: Filler,
}

impl<E: Evaluate> Loop<'_, '_, E> {
    /// Fills the generation with candidates that were never tried, as far as
    /// the proposers have any and the budget goes.
    pub(super) fn propose(&mut self, generation: u32) -> Result<Vec<usize>, Halt> {
        loop {
            let numbers = self.propose_once(generation)?;
            if !numbers.is_empty() || !self.someone_may_come() {
                return Ok(numbers);
            }
            if super::stop_requested(self.search.stop) {
                return Err(Halt::Drained);
            }
            if self.is_out_of_time() || self.search.folder.archive().next_recorded()?.is_some() {
                return Ok(numbers);
            }
            self.bench.flush()?;
            std::thread::sleep(PAUSE);
        }
    }

    fn propose_once(&mut self, generation: u32) -> Result<Vec<usize>, Halt> {
        let known = self.population.len();
        let slots = self.assign(generation, known)?;
        let mut numbers = Vec::new();
        let mut events = Vec::new();
        for (index, slot) in (0u32..).zip(slots) {
            let mut found = None;
            if let Filler::Agent(agent, reply) = slot.filler {
                let proposer = &self.arms[self.search.proposers.len() + agent];
                match self.proposal_of(proposer, reply, slot.pick.parent) {
                    Ok(proposal) => found = Some((proposal, slot.pick)),
                    Err(reason) => events.push(Event::Unused {
                        generation,
                        index,
                        proposer: proposer.clone(),
                        reason: cleaned_line(&reason),
                    }),
                }
            }
            // An agent that had nothing leaves its place to the others.
            let found = found.or_else(|| self.propose_one(generation, index, slot.pick, known));
            if let Some(((proposal, parent), pick)) = found {
                numbers.push(self.admit(generation, index, proposal, parent, pick, &mut events)?);
            }
        }
        self.archive_events(&events)?;
        for event in &events {
            if let Event::Unused { proposer, reason, .. } = event {
                self.observe(&RunEvent::Unused { proposer: proposer.clone(), reason: reason.clone() });
            }
        }
        for number in &numbers {
            self.observe(&RunEvent::Proposed { candidate: self.population.candidate(*number).clone() });
        }
        Ok(numbers)
    }

    /// Makes a candidate of a proposal.
    fn admit(
        &mut self,
        generation: u32,
        index: u32,
        proposal: Proposal,
        parent: usize,
        pick: Pick,
        events: &mut Vec<Event>,
    ) -> Result<usize, Halt> {
        let of_parent = self.population.candidate(parent).source.clone();
        let (source, source_id) = match proposal.source {
            Some(text) => {
                let id = BlobId::of(text.as_bytes());
                if self.population.text(&id).is_none() {
                    self.search.folder.blobs().put(text.as_bytes())?;
                }
                (text.into(), id)
            }
            None => (self.population.source(parent).clone(), of_parent.clone()),
        };
        let refusal = match source_id == of_parent {
            true => self.population.refusal(parent).map(str::to_owned),
            false => (self.search.admit)(self.population.source(parent), &source).err(),
        };
        let candidate = Candidate {
            id: CandidateId::of(&source_id, &proposal.knobs),
            source: source_id,
            knobs: proposal.knobs,
            parent: Some(proposal.parent),
            second_parent: proposal.second_parent,
            origin: cleaned(proposal.origin),
            generation,
        };
        events.push(Event::Proposed { index, candidate: candidate.clone(), island: pick.island });
        let number = self.population.add(candidate, source, refusal);
        self.homes.insert(number, pick.island);
        Ok(number)
    }

    /// Draws a parent for each place, and who is asked; asks the agents.
    fn assign(&mut self, generation: u32, known: usize) -> Result<Vec<Slot>, Halt> {
        let size = (self.config.generation_size as usize).min(self.evaluations_left());
        let pure = self.search.proposers.len();
        let weights = self.patient_weights();
        let mut slots = Vec::with_capacity(size);
        for place in 0..size as u32 {
            let seed = seeds::derive(self.run_seed, "place", &[u64::from(generation), u64::from(place)]);
            let mut rng = SplitMix64::new(seed);
            let incumbent = self.incumbent().member;
            let view = View::new(&self.population, incumbent, generation, self.config);
            let pick = self.strategy.pick(&view, place, &mut rng);
            let arm = match self.search.agents.is_empty() {
                true => None,
                false => self.bandit.draw(&weights, &mut rng),
            };
            let filler = match self.first_come(generation, place, pick, known)? {
                Some((agent, reply)) => Filler::Agent(agent, Some(reply)),
                None => match arm.and_then(|arm| arm.checked_sub(pure)) {
                    Some(agent) => Filler::Agent(agent, None),
                    None => Filler::Pure,
                },
            };
            slots.push(Slot { pick, filler });
        }
        self.ask_for(generation, known, &mut slots)?;
        Ok(slots)
    }

    /// Asks the agents of all places that have no answer yet.
    fn ask_for(&self, generation: u32, known: usize, slots: &mut [Slot]) -> Result<(), Halt> {
        let unanswered = |(place, slot): (usize, &Slot)| match slot.filler {
            Filler::Agent(agent, None) => Some((place, agent, slot.pick.parent)),
            _ => None,
        };
        let wanted: Vec<(usize, usize, usize)> = slots.iter().enumerate().filter_map(unanswered).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.bench.flush()?;
        let relatives: Vec<Vec<&HistoryEntry>> =
            wanted.iter().map(|(_, _, parent)| self.relatives(*parent)).collect();
        let questions: Vec<Question<'_>> = wanted
            .iter()
            .zip(&relatives)
            .map(|((place, agent, parent), relatives)| Question {
                agent: *agent,
                brief: self.brief(generation, *place as u32, *parent, relatives, known),
            })
            .collect();
        for ((place, agent, _), answer) in wanted.iter().zip(self.ask(&questions)?) {
            slots[*place].filler = Filler::Agent(*agent, answer);
        }
        Ok(())
    }

    /// What an agent that comes first has for this place, if one has.
    fn first_come(
        &self,
        generation: u32,
        place: u32,
        pick: Pick,
        known: usize,
    ) -> Result<Option<(usize, Reply)>, Halt> {
        for (agent, _) in self.first_comers() {
            let relatives = self.relatives(pick.parent);
            let brief = self.brief(generation, place, pick.parent, &relatives, known);
            let mut replies = self.ask(&[Question { agent, brief }])?;
            if let Some(reply) = replies.pop().flatten() {
                return Ok(Some((agent, reply)));
            }
        }
        Ok(None)
    }

    fn first_comers(&self) -> impl Iterator<Item = (usize, &dyn Agent)> {
        let pure = self.search.proposers.len();
        let agents = self.search.agents.iter().copied().enumerate();
        agents.filter(move |(at, agent)| agent.comes_first() && self.weights[pure + at] > 0.0)
    }

    /// Whether somebody is asked who may answer the next time.
    pub(super) fn asks_agents(&self) -> bool {
        let pure = self.search.proposers.len();
        let mut agents = self.search.agents.iter().zip(&self.weights[pure..]);
        agents.any(|(agent, weight)| !agent.comes_first() && *weight > 0.0)
    }

    fn someone_may_come(&self) -> bool {
        self.first_comers().any(|(_, agent)| agent.may_come())
    }

    /// Weights, without those of agents that come by themselves.
    fn patient_weights(&self) -> Vec<f64> {
        let mut weights = self.weights.clone();
        for (at, agent) in self.search.agents.iter().enumerate() {
            if agent.comes_first() {
                weights[self.search.proposers.len() + at] = 0.0;
            }
        }
        weights
    }

    fn history(&self, parent: usize, known: usize) -> History<'_> {
        let blind = self.strategy.is_blind();
        let entries = self.population.entries();
        History {
            direction: self.population.direction(),
            entries: &entries[..if blind { 1 } else { known }],
            knob_space: self.population.knob_space(parent),
            index: if blind { &self.nothing } else { self.population.index() },
        }
    }

    fn brief<'s>(
        &'s self,
        generation: u32,
        place: u32,
        parent: usize,
        relatives: &'s [&'s HistoryEntry],
        known: usize,
    ) -> Brief<'s> {
        Brief {
            header: &self.search.folder.task().header,
            guide: self.search.guide,
            history: self.history(parent, known),
            parent: &self.population.entries()[parent],
            relatives,
            generation,
            place,
            seed: seeds::derive(self.run_seed, "agent", &[u64::from(generation), u64::from(place)]),
        }
    }

    /// The best others with sources of their own.
    fn relatives(&self, parent: usize) -> Vec<&HistoryEntry> {
        if self.strategy.is_blind() {
            return Vec::new();
        }
        let entries = self.population.entries();
        let mut seen = vec![&entries[parent].source_id];
        let mut found = Vec::new();
        for number in self.population.index().best().take(64) {
            if found.len() < RELATIVES && !seen.contains(&&entries[number].source_id) {
                seen.push(&entries[number].source_id);
                found.push(&entries[number]);
            }
        }
        found
    }

    /// An agent's draft as a proposal, or why it is none.
    fn proposal_of(
        &self,
        proposer: &str,
        reply: Option<Reply>,
        parent: usize,
    ) -> Result<(Proposal, usize), String> {
        let reply = reply.ok_or("it had nothing to propose")?;
        let draft = reply.draft.ok_or(reply.problem)?;
        let parent = match &draft.parent {
            None => parent,
            Some(id) => {
                self.population.number(id).ok_or(format!("its parent {} is not in this run", id.short()))?
            }
        };
        let knobs = match draft.origin {
            Some(_) => draft.knobs,
            None => {
                let mut knobs = self.population.candidate(parent).knobs.clone();
                knobs.extend(draft.knobs);
                knobs
            }
        };
        let call = reply.prompt.map(|prompt| Call { model: reply.model, prompt, cost: reply.cost });
        let own = Origin { proposer: proposer.to_owned(), operator: draft.operator, note: draft.note, call };
        let origin = draft.origin.unwrap_or(own);
        let proposal = Proposal {
            source: draft.source,
            knobs,
            parent: self.population.id(parent),
            second_parent: draft.second_parent,
            origin,
        };
        self.acceptable(proposal)
    }

    /// A proposal that is new, and its parent's number. Proposers see only
    /// what was there when the generation began: the first `known`.
    fn propose_one(
        &mut self,
        generation: u32,
        index: u32,
        first: Pick,
        known: usize,
    ) -> Option<((Proposal, usize), Pick)> {
        let pure = self.search.proposers.len();
        let mut pick = first;
        for attempt in 0..ATTEMPTS {
            let counters = [u64::from(generation), u64::from(index), attempt];
            let mut rng = SplitMix64::new(seeds::derive(self.run_seed, "proposal", &counters));
            if attempt > 0 {
                let incumbent = self.incumbent().member;
                let view = View::new(&self.population, incumbent, generation, self.config);
                pick = self.strategy.pick(&view, index, &mut rng);
            }
            let history = self.history(pick.parent, known);
            let mut weights = self.weights[..pure].to_vec();
            // The others are asked when the one that was drawn has nothing.
            while let Some(drawn) = self.bandit.draw(&weights, &mut rng) {
                weights[drawn] = 0.0;
                let proposer = self.search.proposers[drawn];
                let parent = &self.population.entries()[pick.parent];
                if let Some(proposal) = proposer.propose(&history, parent, rng.next_u64()) {
                    if let Ok(found) = self.acceptable(proposal) {
                        return Some((found, pick));
                    }
                    break;
                }
            }
        }
        None
    }

    /// Whether a proposal can become a candidate: sound, and neither it nor a
    /// copy of it was ever tried. Nothing is compiled for this.
    fn acceptable(&self, mut proposal: Proposal) -> Result<(Proposal, usize), String> {
        let parent = self.population.number(&proposal.parent).ok_or("its parent is not in this run")?;
        if !knobs_are_finite(&proposal.knobs) {
            return Err("a knob's value is not finite".into());
        }
        let own = &self.population.candidate(parent).source;
        let (source_id, source) = match &proposal.source {
            Some(source) if source.len() as u64 > MAX_TEXT_BYTES => {
                return Err(format!("its source is longer than {MAX_TEXT_BYTES} bytes"));
            }
            Some(source) => (BlobId::of(source.as_bytes()), source.as_str()),
            None => (own.clone(), &**self.population.source(parent)),
        };
        if self.population.number(&CandidateId::of(&source_id, &proposal.knobs)).is_some() {
            return Err("it was tried before".into());
        }
        let knobs = serde_json::to_string(&proposal.knobs).unwrap_or_default();
        if source_id != *own && self.population.index().is_copy(&source_id, source, &knobs) {
            return Err("it is a copy, with other names, comments or layout, of one that was tried".into());
        }
        proposal.second_parent = proposal.second_parent.filter(|id| self.population.number(id).is_some());
        Ok((proposal, parent))
    }
}

fn cleaned_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect()
}

/// A proposer's words, made fit for a terminal and a page.
fn cleaned(origin: Origin) -> Origin {
    Origin {
        proposer: cleaned_line(&origin.proposer),
        operator: cleaned_line(&origin.operator),
        note: cleaned_line(&origin.note),
        call: origin.call.map(|call| Call { model: cleaned_line(&call.model), ..call }),
    }
}
