//! What a run tells whoever watches it.

use crate::candidate::Candidate;
use crate::evaluate::EvaluationKey;
use crate::ids::CandidateId;
use crate::ledger::{Decision, FinalComparison, ScoreSummary, StopReason};
use serde::Serialize;

/// One thing that a progress display or a JSON line can show.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)]
pub enum RunEvent {
    /// The search begins, or begins again after an interruption.
    Started {
        /// The metric's name.
        metric: String,
        /// Generations at most.
        generations: u32,
        /// Proposals per generation.
        generation_size: u32,
        /// Evaluations that an earlier process recorded.
        recorded_evaluations: u64,
    },
    /// The noise floor was measured on the baseline.
    NoiseFloor {
        /// Scores of the baseline.
        baseline: ScoreSummary,
    },
    /// A generation begins.
    Generation {
        /// Its number, from 1.
        generation: u32,
        /// The incumbent.
        incumbent: CandidateId,
    },
    /// A candidate was proposed.
    Proposed {
        /// The candidate.
        candidate: Candidate,
    },
    /// A proposer that was asked had nothing that can be used.
    Unused {
        /// Its name.
        proposer: String,
        /// Why, in one line.
        reason: String,
    },
    /// A wave of evaluations is handed to the workers.
    Wave {
        /// Evaluations that have to be done.
        evaluations: u32,
        /// Evaluations that were found in the archive.
        recorded: u32,
    },
    /// An evaluation begins. Told from a worker's thread.
    EvaluationStarted {
        /// Which candidate.
        candidate: CandidateId,
        /// Which seed.
        seed: u64,
        /// `selection` or `final`.
        split: &'static str,
    },
    /// An evaluation was recorded. Told from a worker's thread.
    EvaluationFinished {
        /// Which candidate.
        candidate: CandidateId,
        /// Which seed.
        seed: u64,
        /// `selection` or `final`.
        split: &'static str,
        /// The outcome's code.
        outcome: &'static str,
        /// Score, if it finished.
        score: Option<f64>,
        /// Wall-clock time of the evaluation, without building.
        evaluation_us: u64,
    },
    /// A challenge was decided.
    Decided {
        /// The decision.
        decision: Decision,
    },
    /// There is a new incumbent.
    Crowned {
        /// In which generation.
        generation: u32,
        /// The new incumbent.
        candidate: CandidateId,
    },
    /// The search ended before its last generation.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// The final comparison was made.
    Final {
        /// The comparison.
        comparison: FinalComparison,
    },
}

impl RunEvent {
    pub(crate) fn evaluation_started(key: &EvaluationKey) -> Self {
        Self::EvaluationStarted { candidate: key.candidate.clone(), seed: key.seed, split: key.split.name() }
    }
}

/// Watches a run. Called from several threads; should return quickly.
pub trait RunObserver: Sync {
    /// Something happened.
    fn observe(&self, event: &RunEvent);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl RunObserver for Unobserved {
    fn observe(&self, _event: &RunEvent) {}
}
