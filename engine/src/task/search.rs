//! `[search]`: how long and how carefully to search.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// Chance, over the whole run, that anything is kept that is not better.
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
        None
    }

    /// An upper bound on the challengers that the whole run can test, by
    /// which the error rate is divided.
    pub fn most_challengers(&self) -> u64 {
        let by_generations = u64::from(self.generations) * u64::from(self.generation_size);
        // Each challenger costs one evaluation at least.
        by_generations.min(u64::from(self.evals.unwrap_or(u32::MAX))).max(1)
    }
}
