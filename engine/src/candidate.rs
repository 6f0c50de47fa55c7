//! One version of the program, and who proposed it.

use crate::ids::{BlobId, CandidateId};
use serde::{Deserialize, Serialize};
use terrarium_sandbox::{KnobValue, Knobs};

/// Who made a candidate, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `baseline`, `knobs`, `mutate`, `crossover`, `person` …
    pub proposer: String,
    /// The operator within the proposer, such as `tpe` or `swap-binary-op`.
    pub operator: String,
    /// One line for people: what was changed.
    pub note: String,
}

impl Origin {
    /// Of the program that the task came with.
    pub fn baseline() -> Self {
        Self { proposer: "baseline".into(), operator: String::new(), note: String::new() }
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
