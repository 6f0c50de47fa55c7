//! Evaluating a candidate: the door between the search and the sandbox.

mod command;
mod sandboxed;

pub use command::{CommandEvaluator, Program};
pub use sandboxed::Sandboxed;

use crate::ids::{BlobId, CandidateId};
use serde::{Deserialize, Serialize};
use std::fmt;
use terrarium_sandbox::{KnobRange, Knobs, Metric, Outcome, Timing, Usage};

/// Which data an evaluation is scored on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Split {
    /// What the search decides by.
    Selection,
    /// What no decision ever saw; scored once, at the end.
    Final,
    /// The data of selection on a part of the budget: a rung before the race,
    /// 0 to [`MOST_RUNGS`] - 1.
    Rung(u8),
}

/// Most rungs before the race.
pub const MOST_RUNGS: usize = 4;

const RUNGS: [&str; MOST_RUNGS] = ["rung-0", "rung-1", "rung-2", "rung-3"];

impl From<Split> for String {
    fn from(split: Split) -> Self {
        split.name().to_owned()
    }
}

impl TryFrom<String> for Split {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let rung = |at: usize| Self::Rung(at as u8);
        [Self::Selection, Self::Final]
            .into_iter()
            .chain((0..MOST_RUNGS).map(rung))
            .find(|split| split.name() == name)
            .ok_or_else(|| format!("`{name}` is not a split"))
    }
}

impl Split {
    /// A number for seeds: 0 for selection, as it was before there were rungs.
    pub fn number(self) -> u64 {
        match self {
            Self::Selection => 0,
            Self::Final => 1,
            Self::Rung(rung) => 2 + u64::from(rung),
        }
    }

    /// Its name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Final => "final",
            Self::Rung(rung) => RUNGS.get(usize::from(rung)).copied().unwrap_or("rung"),
        }
    }
}

/// Where building a component spent its time, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildTime {
    /// The compiler.
    pub rustc_us: u64,
    /// Gate, metering, encoding and machine code.
    pub codegen_us: u64,
    /// Request to answer.
    pub total_us: u64,
}

/// What is known of a built component. None of it is part of the ledger: it
/// may differ between processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFacts {
    /// The component's content address.
    pub component: String,
    /// Size of the core module in bytes.
    pub wasm_bytes: u64,
    /// Size of the machine code in bytes.
    pub code_bytes: u64,
    /// Whether it came from the cache.
    pub cached: bool,
    /// Where the time went.
    pub time: BuildTime,
}

/// The sandbox or the machine failed; the candidate is not to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// What happened.
    pub message: String,
    /// What to try.
    pub hint: String,
}

/// Why there is no component.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildFailure {
    /// The candidate's doing: it does not compile, or was rejected.
    Candidate(Outcome),
    /// The host's.
    Host(HostError),
}

/// What came of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// How it ended.
    pub outcome: Outcome,
    /// The host's score; present exactly when the outcome is `Finished`.
    pub score: Option<f64>,
    /// Deterministic use of resources.
    pub usage: Usage,
    /// The knobs that the candidate declared.
    pub knobs: Vec<(String, KnobRange)>,
    /// The candidate's own claims.
    pub metrics: Vec<Metric>,
    /// The candidate's log, bounded and cleaned.
    pub log: String,
    /// Wall-clock time. Not deterministic.
    pub timing: Timing,
}

impl Evaluated {
    /// An evaluation that ended before anything ran.
    pub fn failed(outcome: Outcome) -> Self {
        Self {
            outcome,
            score: None,
            usage: Usage::default(),
            knobs: Vec::new(),
            metrics: Vec::new(),
            log: String::new(),
            timing: Timing::default(),
        }
    }

    /// Enforces what the rest of the engine relies on: a score exactly when
    /// finished, finite, with one zero; and knob ranges that JSON can hold.
    pub fn normalised(mut self) -> Self {
        if self.outcome.is_finished() {
            match self.score {
                // Adding zero turns -0.0 into 0.0 and changes nothing else.
                Some(score) if score.is_finite() => self.score = Some(score + 0.0),
                other => {
                    let what = other.map_or("there is no score".to_owned(), |s| format!("the score is {s}"));
                    self.outcome = Outcome::NotFinite { what };
                    self.score = None;
                }
            }
        } else {
            self.score = None;
        }
        self.knobs.retain(|(_, range)| match range {
            KnobRange::Number { default, low, high, .. } => {
                default.is_finite() && low.is_finite() && high.is_finite()
            }
            KnobRange::Integer { .. } | KnobRange::Choice { .. } => true,
        });
        self
    }
}

/// Builds and evaluates candidates; shared by all evaluation threads.
pub trait Evaluate: Sync {
    /// A built component.
    type Built: Send + Sync;

    /// Source to component.
    fn build(&self, source: &str) -> Result<Self::Built, BuildFailure>;

    /// What is known of a component.
    fn facts(&self, built: &Self::Built) -> BuildFacts;

    /// One evaluation; blocks. Equal arguments give equal answers but for
    /// `timing`, or `resume` and `verify` will say that they do not.
    fn evaluate(
        &self,
        built: &Self::Built,
        knobs: &Knobs,
        seed: u64,
        split: Split,
    ) -> Result<Evaluated, HostError>;

    /// Everything beside candidate, task and data that scores depend on:
    /// compiler, sandbox version, kind of device. Frozen in `run.toml`.
    fn identity(&self) -> String;
}

/// Which evaluation: each is done once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EvaluationKey {
    /// The candidate.
    pub candidate: CandidateId,
    /// The data.
    pub split: Split,
    /// The seed.
    pub seed: u64,
}

impl fmt::Display for EvaluationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on seed {} ({})", self.candidate.short(), self.seed, self.split.name())
    }
}

/// A recorded evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationRecord {
    /// Which.
    pub key: EvaluationKey,
    /// What came of it.
    pub result: Evaluated,
    /// What is known of the component; none if it was never built.
    pub build: Option<BuildFacts>,
    /// When it was recorded, milliseconds since 1970. Not deterministic.
    pub finished_unix_ms: u64,
}

impl EvaluationRecord {
    /// BLAKE3 of all deterministic fields: equal exactly when they are equal
    /// to the last bit.
    pub fn digest(&self) -> BlobId {
        let result = &self.result;
        let metrics: Vec<_> = result.metrics.iter().map(|m| (&m.name, m.step, m.value.to_bits())).collect();
        let text = serde_json::to_vec(&(
            (&self.key.candidate, self.key.split, self.key.seed),
            &result.outcome,
            result.score.map(f64::to_bits),
            &result.usage,
            &result.knobs,
            metrics,
            &result.log,
        ));
        BlobId::of(&text.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(score: Option<f64>) -> Evaluated {
        Evaluated { score, ..Evaluated::failed(Outcome::Finished) }.normalised()
    }

    #[test]
    fn only_finite_scores_are_finished() {
        assert_eq!(finished(Some(1.5)).score, Some(1.5));
        for bad in [None, Some(f64::NAN), Some(f64::INFINITY)] {
            let result = finished(bad);
            assert_eq!((result.score, result.outcome.code()), (None, "not-finite"));
        }
        assert!(finished(Some(-0.0)).score.is_some_and(|s| s.is_sign_positive()));
        let failed = Evaluated { score: Some(1.0), ..Evaluated::failed(Outcome::TableLimit { limit: 1 }) };
        assert_eq!(failed.normalised().score, None);
    }
}
