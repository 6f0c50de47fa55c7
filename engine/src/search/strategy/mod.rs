//! Which candidate is changed next: the part of the search that is replaced
//! most often, behind one trait.
//!
//! A strategy sees results only through [`View`] and keeps whatever state it
//! likes. It must be deterministic: `resume` builds a new one and makes the
//! same calls again. What is *kept* is not its business: that is the gate's.

mod cells;
mod controls;
mod islands;

pub use cells::Cells;
pub use controls::{BestOfN, RandomWalk};
pub use islands::Islands;

use super::population::Population;
use crate::proposer::HistoryEntry;
use crate::seeds::SplitMix64;
use crate::task::{Direction, SearchConfig, StrategyKind};
use serde::{Deserialize, Serialize};

/// What a strategy may look at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    population: &'a Population,
    /// Number of the candidate that is to be beaten.
    pub incumbent: usize,
    /// The generation under way, from 1.
    pub generation: u32,
    /// The task's `[search]`.
    pub config: &'a SearchConfig,
}

impl<'a> View<'a> {
    pub(super) fn new(
        population: &'a Population,
        incumbent: usize,
        generation: u32,
        config: &'a SearchConfig,
    ) -> Self {
        Self { population, incumbent, generation, config }
    }

    /// All candidates, by number; 0 is the baseline.
    pub fn entries(&self) -> &'a [HistoryEntry] {
        self.population.entries()
    }

    /// The number of a candidate.
    pub fn number(&self, id: &crate::ids::CandidateId) -> Option<usize> {
        self.population.number(id)
    }

    /// Numbers of those that never failed, best mean score first.
    pub fn best(&self) -> impl Iterator<Item = usize> + 'a {
        self.population.index().best()
    }

    /// Which scores are better.
    pub fn direction(&self) -> Direction {
        self.population.direction()
    }
}

/// Where a proposal starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Number of the parent.
    pub parent: usize,
    /// The island that the child belongs to.
    pub island: u32,
}

/// Why an island was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// Its best did not improve for long.
    Stagnation,
    /// Its candidates became copies of each other.
    Collapse,
}

/// Something that a strategy did to its population, for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// A candidate was copied to another island.
    Migrated {
        /// Where it lives.
        from: u32,
        /// Where it also lives now.
        to: u32,
        /// Its number.
        member: usize,
    },
    /// An island was emptied and begun again.
    Reset {
        /// Which.
        island: u32,
        /// Why.
        reason: ResetReason,
        /// Number of the candidate that it begins with.
        founder: usize,
    },
}

/// Decides what is changed next.
pub trait Strategy: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Where the proposal for this place of the generation starts from.
    fn pick(&mut self, view: &View<'_>, place: u32, rng: &mut SplitMix64) -> Pick;

    /// A candidate of this island was decided about.
    fn file(&mut self, view: &View<'_>, member: usize, island: u32);

    /// The generation is over.
    fn close(&mut self, view: &View<'_>) -> Vec<Shift>;

    /// Candidates whose scores rest on too few seeds for what depends on
    /// them, most important first.
    fn doubtful(&self, _view: &View<'_>) -> Vec<usize> {
        Vec::new()
    }

    /// Whether proposers are told nothing of what was tried: controls.
    fn is_blind(&self) -> bool {
        false
    }
}

/// The strategy that the configuration asks for.
pub fn configured(config: &SearchConfig) -> Box<dyn Strategy> {
    match config.strategy {
        StrategyKind::Islands => Box::new(Islands::new(config)),
        StrategyKind::Random => Box::new(RandomWalk),
        StrategyKind::BestOfN => Box::new(BestOfN),
    }
}
