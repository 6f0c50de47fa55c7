//! What proposes: the contract between the search and every proposer.

pub mod agent;
pub mod change;
pub mod command;
pub mod crossover;
pub mod index;
pub mod knobs;
pub mod model;
pub mod moves;
pub mod mutate;
pub mod person;
pub mod replay;
pub mod rust_source;

pub use command::CommandAgent;
pub use crossover::Crossover;
pub use index::Index;
pub use knobs::KnobSearch;
pub use model::Model;
pub use mutate::Mutate;
pub use person::Person;
pub use replay::Replay;

use crate::candidate::Origin;
use crate::evaluate::EvaluationRecord;
use crate::ids::{BlobId, CandidateId};
use crate::task::Direction;
use std::sync::Arc;
use terrarium_sandbox::{KnobRange, Knobs};

/// A change to a parent, not yet evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The new source text; none keeps the parent's.
    pub source: Option<String>,
    /// All knob values of the new candidate.
    pub knobs: Knobs,
    /// What was changed.
    pub parent: CandidateId,
    /// The other parent of a crossover.
    pub second_parent: Option<CandidateId>,
    /// Who proposes, and how.
    pub origin: Origin,
}

/// What was tried before, as a proposer sees it.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Which scores are better.
    pub direction: Direction,
    /// Every candidate so far, in the order in which they were proposed.
    pub entries: &'a [HistoryEntry],
    /// The knobs as the parent declared them.
    pub knob_space: &'a [(String, KnobRange)],
    /// Lookups over the entries; it may know of further ones, of the same
    /// generation.
    pub index: &'a Index,
}

impl<'a> History<'a> {
    /// The best entries, best first; those of the generation under way left out.
    pub fn best(&self) -> impl Iterator<Item = &'a HistoryEntry> {
        let entries = self.entries;
        self.index.best().filter_map(move |number| entries.get(number))
    }
}

/// One candidate of the past.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// Its id.
    pub candidate: CandidateId,
    /// Its source text.
    pub source: Arc<str>,
    /// The source's address.
    pub source_id: BlobId,
    /// Its knob values.
    pub knobs: Knobs,
    /// Mean score over its selection seeds; none if it failed on any.
    pub score: Option<f64>,
    /// On how many selection seeds it was evaluated.
    pub seeds: u32,
    /// Code of its outcome: of the failure if there was one.
    pub outcome_code: String,
    /// Whether the gate let it pass.
    pub accepted: bool,
    /// What went wrong, with a hint, if something did. Hostile text, bounded.
    pub diagnostics: Option<String>,
    /// Who proposed it.
    pub origin: Origin,
    /// What it was made from; none for the baseline.
    pub parent: Option<CandidateId>,
    /// Its first evaluation that finished, else its first: what it used.
    pub record: Option<Arc<EvaluationRecord>>,
}

/// Something that proposes changes.
pub trait Proposer: Sync {
    /// Its name in `[search.proposers]` and in the archive.
    fn name(&self) -> &'static str;

    /// A change to `parent`, or none when it has nothing to propose now. It
    /// must be a pure function of its arguments: resuming a run calls it
    /// again and relies on the same answer.
    fn propose(&self, history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal>;
}
