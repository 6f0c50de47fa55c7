//! One version of the program, and who proposed it.

use crate::ids::{BlobId, CandidateId};
use serde::{Deserialize, Serialize};
use terrarium_sandbox::{KnobValue, Knobs};

/// Who made a candidate, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `baseline`, `knobs`, `mutate`, `crossover`, `person` …
    pub proposer: String,
    /// The operator within the proposer, such as `model` or `swap-binary-op`.
    pub operator: String,
    /// One line for people: what was changed.
    pub note: String,
    /// What was asked of a model or an agent, and what that cost; none for
    /// proposers that cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
}

/// A call to a model or an agent from which a proposal came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The model or command, by its own name.
    pub model: String,
    /// The prompt, among the blobs.
    pub prompt: BlobId,
    /// What it spent.
    pub cost: Cost,
}

/// What calls spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Requests sent, repetitions included.
    pub requests: u64,
    /// Tokens read by the model.
    pub input_tokens: u64,
    /// Tokens written by the model.
    pub output_tokens: u64,
    /// Money, in millionths of the currency that prices are given in.
    pub micros: u64,
}

impl Cost {
    /// All tokens.
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.micros = self.micros.saturating_add(other.micros);
    }
}

impl Origin {
    /// Of the program that the task came with.
    pub fn baseline() -> Self {
        Self::new("baseline", "", String::new())
    }

    /// Of a proposer that made no call.
    pub fn new(proposer: &str, operator: &str, note: String) -> Self {
        Self { proposer: proposer.into(), operator: operator.into(), note, call: None }
    }

    /// Whether a person made it.
    pub fn is_person(&self) -> bool {
        self.proposer == "person"
    }
}

/// One version of the program: source, knob values and lineage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Content address of source and knobs.
    pub id: CandidateId,
    /// Where its source text lies among the blobs.
    pub source: BlobId,
    /// Values given to its knobs; the others take their defaults.
    pub knobs: Knobs,
    /// What it was made from; none for the baseline.
    pub parent: Option<CandidateId>,
    /// The other parent of a crossover.
    pub second_parent: Option<CandidateId>,
    /// Who made it.
    pub origin: Origin,
    /// In which generation; 0 for the baseline.
    pub generation: u32,
}

impl Candidate {
    /// The program that the task came with, with every knob at its default.
    pub fn baseline(source: BlobId) -> Self {
        let knobs = Knobs::new();
        Self {
            id: CandidateId::of(&source, &knobs),
            source,
            knobs,
            parent: None,
            second_parent: None,
            origin: Origin::baseline(),
            generation: 0,
        }
    }
}

/// Whether all knob values are finite, as canonical JSON needs.
pub fn knobs_are_finite(knobs: &Knobs) -> bool {
    knobs.values().all(|value| match value {
        KnobValue::Number(number) => number.is_finite(),
        KnobValue::Integer(_) | KnobValue::Choice(_) => true,
    })
}
