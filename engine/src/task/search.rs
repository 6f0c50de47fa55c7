//! `[search]`: how long and how carefully to search.

use super::agents::{CommandConfig, ModelConfig};
use crate::evaluate::MOST_RUNGS;
use crate::ids::BlobId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which candidate is changed next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyKind {
    /// Islands of MAP-Elites cells.
    #[default]
    Islands,
    /// Control: any candidate that runs, each as likely.
    Random,
    /// Control: always the baseline.
    BestOfN,
}

/// What a feature measures. In TOML a word, or `{ metric = "…" }`, `{ knob = "…" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureKind {
    /// Length of the source.
    SourceBytes,
    /// Guest instructions of an evaluation.
    Fuel,
    /// Device fuel of an evaluation.
    DeviceFuel,
    /// Peak of the guest's memory.
    MemoryBytes,
    /// The last value of a metric that the candidate reports: its own claim.
    Metric(String),
    /// A knob's value.
    Knob(String),
}

/// One axis of the map of elites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureConfig {
    /// What is measured.
    pub name: FeatureKind,
    /// Where the first cell begins; with `high`, else cells are factors of √2
    /// around the baseline's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Where the last cell ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Number of cells, 1 to 64.
    #[serde(default = "seven")]
    pub cells: u16,
}

fn seven() -> u16 {
    7
}

/// A rung before the race: a cheap evaluation that thins the field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RungConfig {
    /// Share of the task's device fuel, 0 to 1: how long is trained.
    pub budget: f64,
    /// Share of the challengers that go on, 0 to 1.
    pub keep: f64,
}

/// How long and how carefully to search. The defaults suit a task whose
/// evaluation takes seconds on a machine with a few cores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Proposals per generation.
    pub generation_size: u32,
    /// Generations.
    pub generations: u32,
    /// Stop after this many selection evaluations, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evals: Option<u32>,
    /// Evaluations of the baseline from which the noise floor is measured.
    pub noise_seeds: u32,
    /// Most paired seeds on which one challenger is raced.
    pub race_seeds: u32,
    /// Fresh seeds of the final comparison.
    pub final_seeds: u32,
    /// Chance, over all races of the whole run, that one prefers what is not
    /// better. The final comparison, on seeds of its own, has to confirm it.
    pub alpha: f64,
    /// A challenger whose first paired difference is worse than this many
    /// standard deviations of the noise is dropped at once.
    pub drop_below: f64,
    /// Most challengers of one generation that are raced on further seeds.
    pub racers: u32,
    /// How many of the best candidates may be parents beside the incumbent.
    pub elites: u32,
    /// Share of proposals whose parent is the incumbent.
    pub incumbent_share: f64,
    /// Weight of each proposer; all equal when empty.
    pub proposers: BTreeMap<String, f64>,
    /// Learn which proposer pays per unit of cost; else weights alone decide.
    pub bandit: bool,
    /// Which candidate is changed next.
    pub strategy: StrategyKind,
    /// Islands; if not given, one for each 200 proposals, at most four.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub islands: Option<u32>,
    /// Generations between migrations.
    pub migration_every: u32,
    /// Generations without improvement after which an island is reset.
    pub patience: u32,
    /// Elites whose scores rest on few seeds and are evaluated once more, per
    /// generation.
    pub reevaluate: u32,
    /// Stop after so much device fuel (guest fuel, where no device is used)
    /// in selection evaluations, if given: what controls are compared at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Axes of the map of elites; length and fuel when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureConfig>,
    /// Rungs before the race, cheapest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<RungConfig>,
    /// Language models by the names that they have as proposers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelConfig>,
    /// Command-line agents by the names that they have as proposers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub commands: BTreeMap<String, CommandConfig>,
    /// Proposals to be replayed, among the run's blobs. Set by `--replay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<BlobId>,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            generation_size: 6,
            generations: 8,
            evals: None,
            noise_seeds: 5,
            race_seeds: 8,
            final_seeds: 5,
            alpha: 0.05,
            drop_below: 1.0,
            racers: 3,
            elites: 4,
            incumbent_share: 0.7,
            proposers: BTreeMap::new(),
            bandit: true,
            strategy: StrategyKind::Islands,
            islands: None,
            migration_every: 5,
            patience: 12,
            reevaluate: 1,
            fuel: None,
            features: Vec::new(),
            rungs: Vec::new(),
            models: BTreeMap::new(),
            commands: BTreeMap::new(),
            replay: None,
        }
    }
}

impl SearchConfig {
    /// The first field that is out of its range: its name, what is wrong, a
    /// hint.
    pub fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let whole = [
            ("generation_size", self.generation_size, 1, 10_000, "a few times the number of cores is usual"),
            ("generations", self.generations, 1, 1_000_000, "each generation builds on the last"),
            ("evals", self.evals.unwrap_or(u32::MAX), 1, u32::MAX, "leave it out for no limit"),
            (
                "noise_seeds",
                self.noise_seeds,
                2,
                1000,
                "a standard deviation needs two evaluations; five are usual",
            ),
            ("race_seeds", self.race_seeds, 3, 1000, "the gate needs at least three pairs"),
            ("final_seeds", self.final_seeds, 2, 1000, "an interval needs two pairs; five are usual"),
            ("racers", self.racers, 1, 10_000, "at least one challenger must be able to win"),
            ("islands", self.islands.unwrap_or(1), 1, 64, "leave it out for a number that fits the run"),
            ("migration_every", self.migration_every, 1, 1_000_000, "5 is usual"),
            ("patience", self.patience, 1, 1_000_000, "12 is usual"),
            ("reevaluate", self.reevaluate, 0, 1000, "1 is usual; 0 trusts first scores"),
            ("elites", self.elites, 0, 10_000, "0 lets only the incumbent be a parent"),
        ];
        for (name, value, low, high, hint) in whole {
            if !(low..=high).contains(&value) {
                return Some((name, format!("{name} = {value} is out of range: {low}..={high}"), hint));
            }
        }
        if !(self.alpha >= 1e-6 && self.alpha <= 0.5) {
            let what = format!("alpha = {} is out of range: 0.000001..=0.5", self.alpha);
            return Some(("alpha", what, "0.05 is usual"));
        }
        if !(self.drop_below >= 0.0 && self.drop_below.is_finite()) {
            let what = format!("drop_below = {} must be a finite number of at least 0", self.drop_below);
            return Some(("drop_below", what, "1.0 is usual; larger drops fewer challengers early"));
        }
        if !(0.0..=1.0).contains(&self.incumbent_share) {
            let what = format!("incumbent_share = {} is out of range: 0..=1", self.incumbent_share);
            return Some(("incumbent_share", what, "0.7 is usual"));
        }
        for (name, weight) in &self.proposers {
            if !(*weight >= 0.0 && weight.is_finite()) {
                let what =
                    format!("the weight of proposer `{name}` is {weight}: it must be finite and at least 0");
                return Some(("proposers", what, "0 switches a proposer off"));
            }
        }
        self.structure_fault()
    }

    fn structure_fault(&self) -> Option<(&'static str, String, &'static str)> {
        for feature in &self.features {
            let ordered = match (feature.low, feature.high) {
                (None, None) => true,
                (Some(low), Some(high)) => low < high && low.is_finite() && high.is_finite(),
                _ => false,
            };
            if !ordered || !(1..=64).contains(&feature.cells) {
                let what = format!("the feature {:?} has no usable range or number of cells", feature.name);
                return Some(("features", what, "give low < high, or neither, and 1 to 64 cells"));
            }
        }
        if self.features.len() > 4 {
            return Some((
                "features",
                "more than four features".into(),
                "a map needs few axes: two are usual",
            ));
        }
        let share = |v: f64| v > 0.0 && v <= 1.0;
        if self.rungs.len() > MOST_RUNGS || !self.rungs.iter().all(|r| share(r.budget) && share(r.keep)) {
            let what = format!("at most {MOST_RUNGS} rungs, each with a budget and a share kept of 0 to 1");
            return Some(("rungs", what, "such as rungs = [{ budget = 0.2, keep = 0.5 }]"));
        }
        for (name, model) in &self.models {
            if let Some(what) = model.fault() {
                return Some(("models", format!("model `{name}`: {what}"), "docs/proposers.md has examples"));
            }
        }
        for (name, command) in &self.commands {
            if let Some(what) = command.fault() {
                return Some((
                    "commands",
                    format!("agent `{name}`: {what}"),
                    "docs/proposers.md has examples",
                ));
            }
        }
        None
    }

    /// How many islands there are: one for each 200 proposals, at most four,
    /// unless the configuration says.
    pub fn island_count(&self) -> u32 {
        let proposals = u64::from(self.generations) * u64::from(self.generation_size);
        self.islands.unwrap_or_else(|| (proposals / 200).clamp(1, 4) as u32).max(1)
    }

    /// An upper bound on the challengers that the whole run can test, by
    /// which the error rate is divided.
    pub fn most_challengers(&self) -> u64 {
        let by_generations = u64::from(self.generations) * u64::from(self.generation_size);
        // Each challenger costs one evaluation at least.
        by_generations.min(u64::from(self.evals.unwrap_or(u32::MAX))).max(1)
    }
}
