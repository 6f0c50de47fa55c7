//! What came of a run: a page of HTML, and a summary for a terminal.
//!
//! [`ReportData::of`] reads a run folder, also of a run that is going on, was
//! interrupted or is damaged, into plain values; [`page()`] and
//! [`terminal::render`] show them. Neither reads anything else, and neither
//! fails.
//!
//! Names, notes, sources and failures come from candidates and proposers and
//! are not trusted: they pass through [`crate::diff::cleaned`], and maud
//! escapes them. The page has no script, asks for nothing over the network,
//! and forbids both by a content security policy of its own.

mod data;
mod figures;
mod page;
mod plot;
mod provenance;
mod sections;
mod table;
pub mod terminal;
mod verdict;

pub use page::page;
pub use verdict::{Standing, Verdict};

use crate::archive::OutcomeCount;
use crate::diff::{DiffLine, KnobChange};
use crate::gate::Gain;
use crate::ledger::{FinalComparison, ScoreSummary, StopReason};
use crate::task::Metric;
use std::path::PathBuf;

/// All that a report shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportData {
    /// Which run it is.
    pub run: RunFacts,
    /// What is improved.
    pub metric: Metric,
    /// The baseline's scores from which the noise floor was measured; none
    /// before that was done.
    pub noise: Option<ScoreSummary>,
    /// The comparison on data and seeds that no decision saw; none before the
    /// run has finished.
    pub comparison: Option<FinalComparison>,
    /// Why the search ended before its last generation, if it did.
    pub stopped: Option<StopReason>,
    /// What a general compressor makes of the same files.
    pub xz: Yardstick,
    /// Every candidate, in the order in which they were proposed.
    pub points: Vec<Point>,
    /// From the baseline to the winner, as positions in `points`.
    pub lineage: Vec<usize>,
    /// What distinguishes the winner from the baseline.
    pub changes: Changes,
    /// Outcomes of evaluations, most frequent first.
    pub outcomes: Vec<OutcomeCount>,
    /// Where fuel and time went.
    pub spent: Spent,
    /// Who proposed, most proposals first.
    pub proposers: Vec<ProposerShare>,
    /// The state of the ledger.
    pub ledger: LedgerFacts,
}

/// Which run it is.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFacts {
    /// The task's name.
    pub task: String,
    /// The task's title.
    pub title: String,
    /// The run's folder, for the commands shown.
    pub folder: PathBuf,
    /// Which engine made it.
    pub engine: String,
    /// The seed that everything follows from.
    pub seed: u64,
    /// Compiler, sandbox and device.
    pub identity: String,
    /// The kind of device, such as `cpu x86-64-v3`.
    pub device: String,
    /// Whether candidates are scored on held-out files (and not only on seeds).
    pub held_out_files: bool,
    /// Generations that were asked for.
    pub generations_planned: u32,
    /// Generations in which a decision was made.
    pub generations: u32,
    /// When the first and the last evaluation were recorded, milliseconds
    /// since 1970.
    pub recorded_unix_ms: Option<(u64, u64)>,
}

/// `xz -9` on the held-out files, in bits per byte; none where it is not
/// known or where scores are something else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Yardstick {
    /// On the files that selection scores on.
    pub selection: Option<f64>,
    /// On the files of the final comparison.
    pub last: Option<f64>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The program that the task came with.
    Baseline,
    /// It passed the gate and became the incumbent.
    Kept,
    /// It finished, and something else was kept.
    Discarded,
    /// An evaluation did not finish.
    Failed,
    /// Not decided yet.
    Pending,
}

impl Status {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Kept => "kept",
            Self::Discarded => "discarded",
            Self::Failed => "failed",
            Self::Pending => "pending",
        }
    }
}

/// One candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Position among the candidates, the baseline being 0.
    pub index: usize,
    /// The first digits of its id.
    pub id: String,
    /// Its generation; 0 for the baseline.
    pub generation: u32,
    /// Who proposed it.
    pub proposer: String,
    /// How.
    pub operator: String,
    /// What was changed, in a line.
    pub note: String,
    /// Positions of its parents: none, one, or two for a crossover.
    pub parents: Vec<usize>,
    /// What became of it.
    pub status: Status,
    /// Why, in a line.
    pub reason: String,
    /// Mean over its selection seeds; none if it failed on any or has none.
    pub score: Option<f64>,
    /// On how many selection seeds it was evaluated.
    pub seeds: u32,
    /// `finished`, or the code of its first failure; empty before it was
    /// evaluated.
    pub outcome: String,
    /// Paired gain over the incumbent of its time.
    pub gain: Option<Gain>,
    /// The position of that incumbent.
    pub incumbent: Option<usize>,
    /// Mean selection score of the incumbent that it was compared with; its
    /// own if it was kept.
    pub best: Option<f64>,
}

/// What distinguishes the winner from the baseline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Unified diff of the sources.
    pub source: Vec<DiffLine>,
    /// Knobs whose values differ.
    pub knobs: Vec<KnobChange>,
    /// Why there is no diff, if a source could not be read.
    pub missing: Option<String>,
}

/// Where fuel and time went, over all evaluations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Evaluations on the selection split.
    pub selection_evaluations: u64,
    /// Evaluations on the final split.
    pub final_evaluations: u64,
    /// Evaluations that did not finish.
    pub failed_evaluations: u64,
    /// Guest instructions, where they were counted.
    pub fuel: u64,
    /// Device fuel of training and predictions together.
    pub device_fuel: u64,
    /// Device fuel by operation, largest first.
    pub device_profile: Vec<(String, u64)>,
    /// Wall-clock time by phase, microseconds, in order of a candidate's
    /// life. Phases of evaluations that ran side by side are added up.
    pub phases: Vec<(&'static str, u64)>,
    /// Wall-clock time of training, or of `call`, microseconds …
    pub train_us: u64,
    /// … of it inside device kernels.
    pub train_kernel_us: u64,
}

/// What one proposer contributed.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposerShare {
    /// Its name.
    pub name: String,
    /// Candidates that it proposed.
    pub proposals: u64,
    /// Of them, how many did not finish.
    pub failed: u64,
    /// Of them, how many became the incumbent, and were not demoted later.
    pub kept: u64,
    /// Sum of the selection gains of those kept, in units of the metric.
    pub gain: f64,
    /// That sum as a share of all proposers' (0 to 1); none if nothing was
    /// kept.
    pub share: Option<f64>,
}

/// The state of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerFacts {
    /// Events.
    pub events: u64,
    /// Hash of the last one.
    pub head: String,
    /// Which event breaks the chain and why, if one does.
    pub broken: Option<String>,
}

impl ReportData {
    /// The winner so far: the last of its lineage.
    pub fn winner(&self) -> Option<&Point> {
        self.lineage.last().and_then(|at| self.points.get(*at))
    }

    /// How many candidates have this status.
    pub fn count(&self, status: Status) -> usize {
        self.points.iter().filter(|p| p.status == status).count()
    }
}

#[cfg(test)]
mod tests;
