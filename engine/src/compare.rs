//! Runs against each other at equal budget: did the search help?
//!
//! Runs are grouped by how they searched. Two groups are compared by the
//! final scores of their winners, on data that no decision saw, paired where
//! they started from the same seed: equal seeds mean equal final seeds. The
//! interval is Student's t over runs.

use crate::error::EngineError;
use crate::gate::{Gain, mean_and_sd};
use crate::ids::CandidateId;
use crate::run::RunFolder;
use crate::task::{Direction, StrategyKind};
use serde::Serialize;
use std::path::PathBuf;

/// Budgets count as equal when they differ by no more than this share.
const SAME_BUDGET: f64 = 0.1;

/// One finished run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunScore {
    /// Its folder.
    pub run: PathBuf,
    /// How it searched: `islands`, `random`, `best-of-n`, and who proposed.
    pub method: String,
    /// Its seed.
    pub seed: u64,
    /// Its winner.
    pub best: CandidateId,
    /// Mean final score of the winner.
    pub score: f64,
    /// Mean final score of the baseline.
    pub baseline: f64,
    /// Device fuel (or guest fuel) of selection evaluations.
    pub fuel: u64,
    /// Selection evaluations.
    pub evaluations: u64,
    /// Candidates.
    pub candidates: u64,
}

/// One method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// How many runs.
    pub runs: u64,
    /// Mean final score of its winners.
    pub mean: f64,
    /// Their standard deviation.
    pub sd: f64,
    /// Mean gain over the baseline; positive is better.
    pub gain: f64,
    /// Mean fuel.
    pub fuel: f64,
}

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The first is better: its interval lies above zero.
    Better,
    /// The second is better.
    Worse,
    /// The interval holds zero.
    Undecided,
    /// Fewer than two pairs.
    TooFew,
    /// The budgets differ by more than a tenth: nothing follows.
    UnequalBudgets,
}

/// Two methods against each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pairing {
    /// The first method.
    pub method: String,
    /// What it is compared with.
    pub against: String,
    /// By how much it is better, over runs; none for fewer than two pairs.
    pub gain: Option<Gain>,
    /// Whether each pair started from one seed.
    pub paired: bool,
    /// What follows.
    pub verdict: Verdict,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: String,
    /// The runs.
    pub runs: Vec<RunScore>,
    /// The methods, in order of first mention.
    pub methods: Vec<Method>,
    /// Each method against each later one.
    pub pairings: Vec<Pairing>,
}

fn unusable(message: String, hint: &str) -> EngineError {
    EngineError::Host { message, hint: hint.into() }
}

/// The final score of a finished run.
fn score_of(folder: &RunFolder) -> Result<RunScore, EngineError> {
    let path = folder.path().to_path_buf();
    let not_finished = || {
        unusable(
            format!("the run in {} has no final comparison", path.display()),
            "finish it with `terrarium resume`",
        )
    };
    let archive = folder.archive();
    let last = archive.final_comparison()?.ok_or_else(not_finished)?;
    let totals = archive.totals()?;
    let search = &folder.task().search;
    let kind = match search.strategy {
        StrategyKind::Islands => "search",
        StrategyKind::Random => "random",
        StrategyKind::BestOfN => "best-of-n",
    };
    let names: Vec<&str> = search.proposers.keys().map(String::as_str).collect();
    let method = if names.is_empty() { kind.to_owned() } else { format!("{kind} ({})", names.join(", ")) };
    Ok(RunScore {
        method,
        seed: folder.config().seed,
        best: last.best.candidate,
        score: last.best.mean.ok_or_else(not_finished)?,
        baseline: last.baseline.mean.ok_or_else(not_finished)?,
        fuel: archive.selection_fuel()?,
        evaluations: totals.selection_evaluations,
        candidates: totals.candidates,
        run: path,
    })
}

/// Compares finished runs of one task.
pub fn compare(folders: &[RunFolder]) -> Result<Comparison, EngineError> {
    let Some(first) = folders.first() else {
        return Err(unusable("there is nothing to compare".into(), "give two or more runs"));
    };
    let header = &first.task().header;
    for folder in folders {
        if folder.task().header != *header || folder.config().baseline != first.config().baseline {
            return Err(unusable(
                format!("{} is a run of another task or baseline", folder.path().display()),
                "runs of one task can be compared",
            ));
        }
        first.check_identity(&folder.config().identity)?;
    }
    let runs: Vec<RunScore> = folders.iter().map(score_of).collect::<Result<_, _>>()?;
    let mut names: Vec<&str> = Vec::new();
    for run in &runs {
        if !names.contains(&run.method.as_str()) {
            names.push(&run.method);
        }
    }
    let direction = header.metric.direction;
    let group = |name: &str| -> Vec<&RunScore> { runs.iter().filter(|r| r.method == name).collect() };
    let methods = names.iter().map(|name| method(name, &group(name), direction)).collect();
    let mut pairings = Vec::new();
    for (at, one) in names.iter().enumerate() {
        for other in &names[at + 1..] {
            pairings.push(pairing(&group(one), &group(other), direction));
        }
    }
    let (task, metric) = (header.name.clone(), header.metric.name.clone());
    Ok(Comparison { task, metric, methods, pairings, runs })
}

fn method(name: &str, runs: &[&RunScore], direction: Direction) -> Method {
    let of = |f: &dyn Fn(&RunScore) -> f64| -> Vec<f64> { runs.iter().map(|r| f(r)).collect() };
    let (mean, sd) = mean_and_sd(&of(&|r| r.score));
    Method {
        name: name.to_owned(),
        runs: runs.len() as u64,
        mean,
        sd,
        gain: mean_and_sd(&of(&|r| direction.gain(r.score, r.baseline))).0,
        fuel: mean_and_sd(&of(&|r| r.fuel as f64)).0,
    }
}

fn pairing(one: &[&RunScore], other: &[&RunScore], direction: Direction) -> Pairing {
    let partner = |run: &&RunScore| other.iter().find(|o| o.seed == run.seed).copied();
    let pairs: Vec<(&RunScore, &RunScore)> =
        one.iter().filter_map(|run| Some((*run, partner(run)?))).collect();
    let paired = pairs.len() >= 2;
    let gain = match paired {
        true => {
            let gains: Vec<f64> = pairs.iter().map(|(a, b)| direction.gain(a.score, b.score)).collect();
            Gain::of(&gains, 0.0)
        }
        false => unpaired(one, other, direction),
    };
    let fuel =
        |runs: &[&RunScore]| runs.iter().map(|r| r.fuel as f64).sum::<f64>() / runs.len().max(1) as f64;
    let (a, b) = (fuel(one), fuel(other));
    let verdict = match &gain {
        None => Verdict::TooFew,
        Some(_) if (a - b).abs() > SAME_BUDGET * a.max(b) => Verdict::UnequalBudgets,
        Some(gain) if gain.low > 0.0 => Verdict::Better,
        Some(gain) if gain.high < 0.0 => Verdict::Worse,
        Some(_) => Verdict::Undecided,
    };
    let name = |runs: &[&RunScore]| runs.first().map_or_else(String::new, |r| r.method.clone());
    Pairing { method: name(one), against: name(other), gain, paired, verdict }
}

/// Without common seeds: Welch's t interval (B. L. Welch, Biometrika 34, 1947).
fn unpaired(one: &[&RunScore], other: &[&RunScore], direction: Direction) -> Option<Gain> {
    if one.len() < 2 || other.len() < 2 {
        return None;
    }
    let summary = |runs: &[&RunScore]| {
        let scores: Vec<f64> = runs.iter().map(|r| r.score).collect();
        let (mean, sd) = mean_and_sd(&scores);
        (mean, sd * sd / scores.len() as f64, scores.len() as f64)
    };
    let ((a, va, na), (b, vb, nb)) = (summary(one), summary(other));
    let degrees = (va + vb).powi(2) / (va * va / (na - 1.0) + vb * vb / (nb - 1.0));
    Some(Gain::welch(direction.gain(a, b), (va + vb).sqrt(), degrees, (na.min(nb)) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Quadratic, new_run, run, small_search};
    use crate::observer::Unobserved;

    fn runs(home: &std::path::Path, kind: StrategyKind, null: bool, fuel: Option<u64>) -> Vec<RunFolder> {
        let one = |seed: u64| {
            let search = crate::task::SearchConfig {
                strategy: kind,
                fuel,
                generations: 30,
                final_seeds: 4,
                ..small_search()
            };
            let folder = new_run(&home.join(format!("{kind:?}-{seed}")), search, seed);
            run(&folder, &Quadratic { null, ..Quadratic::default() }, 2, &Unobserved).unwrap();
            folder
        };
        (1..=5).map(one).collect()
    }

    #[test]
    fn the_search_beats_its_controls_at_equal_fuel_where_there_is_something_to_find() {
        let home = tempfile::tempdir().unwrap();
        // A fuel budget of about a hundred evaluations: fuel is below 2³⁴ each.
        let fuel = Some(100 << 33);
        let mut all = runs(home.path(), StrategyKind::Islands, false, fuel);
        all.extend(runs(home.path(), StrategyKind::Random, false, fuel));
        all.extend(runs(home.path(), StrategyKind::BestOfN, false, fuel));
        let found = compare(&all).unwrap();
        assert_eq!(found.methods.len(), 3);
        for pairing in found.pairings.iter().filter(|p| p.method == "search") {
            assert!(pairing.paired);
            assert_eq!(pairing.verdict, Verdict::Better, "{pairing:?} {:?}", found.methods);
        }
    }

    #[test]
    fn unequal_budgets_and_other_tasks_are_not_compared() {
        let home = tempfile::tempdir().unwrap();
        let mut all = runs(home.path(), StrategyKind::Islands, false, Some(100 << 33));
        all.extend(runs(home.path(), StrategyKind::Random, false, Some(20 << 33)));
        let found = compare(&all).unwrap();
        assert_eq!(found.pairings[0].verdict, Verdict::UnequalBudgets);
        let task = crate::fake::task(small_search());
        let new = crate::run::NewRun { task: &task, source: "other", seed: 0, identity: "fake", data: None };
        all.push(RunFolder::create(&home.path().join("other"), &new).unwrap());
        assert!(compare(&all).unwrap_err().to_string().contains("another task"));
    }
}
