//! Scores, computed by the host from what a candidate produced.
//!
//! One module per kind of problem. Each is a configuration (the fields of
//! `[evaluator]` in `task.toml`) that implements [`Scoring`]: what the
//! candidate is asked, and what its answer is worth. A new problem is one
//! module, and one line in the list below.
//!
//! **Invariants.** Every score follows from integers, or from sums whose
//! rounding error is bounded and counted against the candidate; there is no
//! tolerance anywhere. An answer that is not finite, not of the right size or
//! not valid has no score, only a reason.

pub mod autocorrelation;
pub mod bin_packing;
pub mod cap_set;
pub mod circles;
pub mod heilbronn;
pub mod matrix_multiplication;
pub mod max_min_distance;
pub mod minimum_overlap;
mod numbers;
#[cfg(test)]
mod published;
pub mod tabular;

use crate::evaluate::{Program, Split};
use serde::{Deserialize, Serialize};
use terrarium_sandbox::{Job, Outcome, Product};

/// A field that is out of its range: its name, what is wrong, what to try.
pub type Fault = (&'static str, String, &'static str);

/// A problem of world `function`, as its task configures it.
pub trait Scoring {
    /// The first field that is out of its range.
    fn fault(&self) -> Option<Fault>;

    /// What the candidate is asked: each job runs in an instance of its own.
    /// Equal arguments give equal jobs.
    fn jobs(&self, seed: u64, split: Split) -> Vec<Job>;

    /// What the products of those jobs, in their order, are worth; or the
    /// first reason why they are worth nothing.
    fn score(&self, products: &[Product], seed: u64, split: Split) -> Result<f64, Outcome>;

    /// The same problem on instances that were published with figures and that
    /// no search sees; none where the problem has no instances.
    fn published_instances(&self) -> Option<EvaluatorConfig> {
        None
    }
}

/// A problem that asks for one construction: one call, one array.
pub trait Construction {
    /// As [`Scoring::fault`].
    fn fault(&self) -> Option<Fault>;

    /// The problem as the candidate is told it; a seed is appended.
    fn statement(&self) -> Vec<u32>;

    /// The value of an output, or why it is invalid.
    fn value(&self, output: &[u8]) -> Result<f64, String>;
}

impl<T: Construction> Scoring for T {
    fn fault(&self) -> Option<Fault> {
        Construction::fault(self)
    }

    fn jobs(&self, seed: u64, _: Split) -> Vec<Job> {
        let mut input: Vec<u8> = self.statement().into_iter().flat_map(u32::to_le_bytes).collect();
        input.extend(seed.to_le_bytes());
        vec![Job::Call { input }]
    }

    fn score(&self, products: &[Product], _: u64, _: Split) -> Result<f64, Outcome> {
        match products {
            [Product::Output(bytes)] => self.value(bytes).map_err(invalid),
            _ => Err(invalid("the candidate was not called exactly once".into())),
        }
    }
}

fn invalid(reason: String) -> Outcome {
    Outcome::InvalidOutput { reason }
}

/// One variant for each kind of problem.
macro_rules! evaluators {
    ($($(#[$doc:meta])* $name:ident($config:ty),)*) => {
        /// `[evaluator]`: how the answers of a `function` are scored.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "builtin", rename_all = "kebab-case")]
        pub enum EvaluatorConfig {
            $($(#[$doc])* $name($config),)*
            /// A program of the task's author, speaking JSON lines.
            Command(Program),
        }

        impl EvaluatorConfig {
            /// The problem; none where a program states and scores it.
            pub fn scoring(&self) -> Option<&dyn Scoring> {
                match self {
                    $(Self::$name(config) => Some(config),)*
                    Self::Command(_) => None,
                }
            }

            /// The first field that is out of its range.
            pub fn fault(&self) -> Option<Fault> {
                match self {
                    $(Self::$name(config) => Scoring::fault(config),)*
                    Self::Command(program) => program.fault(),
                }
            }
        }
    };
}

evaluators! {
    /// Disjoint circles; the score is the sum of their radii.
    Circles(circles::Circles),
    /// Points whose smallest triangle is large.
    Heilbronn(heilbronn::Heilbronn),
    /// Points whose distances differ little.
    MaxMinDistance(max_min_distance::MaxMinDistance),
    /// Erdős's minimum overlap of a step function.
    MinimumOverlap(minimum_overlap::MinimumOverlap),
    /// Autocorrelation inequalities of step functions.
    Autocorrelation(autocorrelation::Autocorrelation),
    /// Bins used for items that come one by one.
    BinPacking(bin_packing::BinPacking),
    /// Points of a space over three elements, no three on a line.
    CapSet(cap_set::CapSet),
    /// Multiplications with which two matrices are multiplied.
    MatrixMultiplication(matrix_multiplication::MatrixMultiplication),
    /// Predictions for rows whose labels the host keeps.
    Tabular(tabular::Tabular),
}
