//! Proposers that cannot be asked twice: models, command-line agents, people.
//!
//! They are slow, they may cost money, and the same question may get another
//! answer. So the search asks all those of a generation side by side, records
//! each answer before it acts on it, and never asks again for an answer that
//! it has.

use super::{History, HistoryEntry};
use crate::candidate::{Cost, Origin};
use crate::error::EngineError;
use crate::ids::{BlobId, CandidateId};
use crate::task::Header;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use terrarium_sandbox::Knobs;

/// All that an agent is told.
#[derive(Clone, Copy)]
pub struct Brief<'a> {
    /// The task.
    pub header: &'a Header,
    /// `TASK.md`; empty if there is none.
    pub guide: &'a str,
    /// What was tried before.
    pub history: History<'a>,
    /// What is to be changed.
    pub parent: &'a HistoryEntry,
    /// The best others, best first.
    pub relatives: &'a [&'a HistoryEntry],
    /// The generation under way.
    pub generation: u32,
    /// The place in it.
    pub place: u32,
    /// For whatever is random in the asking.
    pub seed: u64,
}

/// A proposal as an agent makes it: not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// The whole new source; none keeps the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Knob values that differ from the parent's.
    #[serde(default, skip_serializing_if = "Knobs::is_empty")]
    pub knobs: Knobs,
    /// What it was made from, if not from the parent that was offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CandidateId>,
    /// The other parent, of a crossover that is replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_parent: Option<CandidateId>,
    /// Who made it first, if it is replayed; then `knobs` are all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How it was made, in a word, such as `diff`.
    #[serde(default)]
    pub operator: String,
    /// What was changed, in a line.
    #[serde(default)]
    pub note: String,
}

/// What came of asking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The proposal, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<Draft>,
    /// Why there is none, for people and for the next prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// The model or command.
    #[serde(default)]
    pub model: String,
    /// The prompt, among the blobs; none if nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<BlobId>,
    /// What it spent.
    #[serde(default)]
    pub cost: Cost,
}

impl Reply {
    /// No proposal, and why.
    pub fn none(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), ..Self::default() }
    }
}

/// Why a request may not be made.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It could exceed the budget.
    #[error("the budget is used up: {0}")]
    Budget(String),
    /// The reservation could not be recorded.
    #[error(transparent)]
    Archive(#[from] EngineError),
}

/// What the search gives an agent for one call.
pub trait Desk: Sync {
    /// Sets aside what a request may cost at most, before it is sent.
    fn reserve(&self, most: Cost) -> Result<(), Refusal>;

    /// Replaces the latest reservation by what the request did cost.
    fn settle(&self, most: Cost, actual: Cost);

    /// Whether the run is to end now.
    fn stopped(&self) -> bool;

    /// Stores a text among the run's blobs.
    fn keep(&self, text: &str) -> Result<BlobId, EngineError>;
}

/// A proposer that cannot be asked twice.
pub trait Agent: Sync {
    /// Its name in `[search.proposers]` and in the archive.
    fn name(&self) -> &str;

    /// The most that all its calls of a run may spend.
    fn budget(&self) -> Budget {
        Budget::default()
    }

    /// Whether it is asked for each place first, and only takes those for
    /// which it has something: people and replayed files.
    fn comes_first(&self) -> bool {
        false
    }

    /// Whether it can ever have something again. Only asked of those that
    /// come first, when nobody else proposes.
    fn may_come(&self) -> bool {
        false
    }

    /// Asks. Returns soon after `desk` says stopped, and never later than its
    /// own deadline. For those that come first it returns at once, with
    /// nothing if there is nothing.
    fn ask(&self, brief: &Brief<'_>, desk: &dyn Desk) -> Result<Option<Reply>, EngineError>;
}

/// What all calls of one agent may spend in a run; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Requests, repetitions included.
    pub requests: Option<u64>,
    /// Tokens, read and written together.
    pub tokens: Option<u64>,
    /// Money, in millionths.
    pub micros: Option<u64>,
}

impl Budget {
    /// Which limit `spent` and `more` together would exceed, if any.
    pub fn exceeded(&self, spent: &Cost, more: &Cost) -> Option<String> {
        let mut sum = *spent;
        sum += *more;
        let over = |what: &str, used: u64, limit: Option<u64>| {
            limit
                .filter(|limit| used > *limit)
                .map(|limit| format!("another request could need {used} of {limit} {what}"))
        };
        over("requests", sum.requests, self.requests)
            .or_else(|| over("tokens", sum.tokens(), self.tokens))
            .or_else(|| over("millionths of money", sum.micros, self.micros))
    }
}

/// Sleeps until `end`, or until the run is to end. Tells whether it slept to
/// the end.
pub fn sleep_until(end: Instant, desk: &dyn Desk) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        if desk.stopped() {
            return false;
        }
        std::thread::sleep(left.min(std::time::Duration::from_millis(50)));
    }
}
