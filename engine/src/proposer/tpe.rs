//! Knob proposals by a tree-structured Parzen estimator, mixed with small
//! steps from the parent and a little chance.
//!
//! J. Bergstra, R. Bardenet, Y. Bengio, B. Kégl, "Algorithms for
//! Hyper-Parameter Optimization", NeurIPS 2011: observations are split at the
//! quantile γ into good and bad, each side is turned into a density, and of
//! many draws from the good one that with the largest ratio l/g is proposed.
//! The densities here are mixtures of product kernels over all knobs at once,
//! as in S. Falkner, A. Klein, F. Hutter, "BOHB", ICML 2018, on the unit
//! cube (logarithmic knobs are warped first), with a uniform prior.

pub(super) mod space;
pub(crate) use space::rounded;

use crate::candidate::Origin;
use crate::proposer::{History, HistoryEntry, Proposal, Proposer};
use crate::seeds::SplitMix64;
use space::Space;
use std::collections::BTreeSet;

/// Share of the observations that counts as good.
const GAMMA: f64 = 0.2;
/// Draws of which the best is proposed.
const DRAWS: usize = 48;
/// Observations below which the densities say nothing worth hearing.
const ENOUGH: usize = 8;
/// The latest of the parent's own source, and the best, that are looked at.
const LATEST: usize = 256;
const BEST: usize = 64;
/// The latest of other sources that are looked at.
const OTHERS: usize = 256;
/// Tries to find an assignment that was not tried before.
const TRIES: usize = 64;

/// The proposer `knobs`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tpe;

/// An observation: its place in the cube (none where it has no such knob) and
/// its weight.
pub(in crate::proposer) struct Observation {
    at: Vec<Option<f64>>,
    weight: f64,
}

impl Proposer for Tpe {
    fn name(&self) -> &'static str {
        "knobs"
    }

    fn propose(&self, history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        let space = Space::new(history.knob_space);
        if space.dimensions() == 0 {
            return None;
        }
        let from = space.encode(&parent.knobs);
        let mut tried: BTreeSet<String> =
            observed(history, parent).into_iter().map(|e| space.canonical(&e.knobs)).collect();
        tried.insert(space.canonical(&parent.knobs));
        let (good, bad) = split(history, parent, &space);
        let mut rng = SplitMix64::new(seed);
        for attempt in 0..TRIES {
            let (operator, at) = draw(&space, &good, &bad, &from, &mut rng, attempt);
            let knobs = space.decode(&at);
            if tried.contains(&space.canonical(&knobs)) {
                continue;
            }
            let note = space.describe(&parent.knobs, &knobs);
            return Some(Proposal {
                source: None,
                knobs,
                parent: parent.candidate.clone(),
                second_parent: None,
                origin: Origin::new("knobs", operator, note),
            });
        }
        None
    }
}

/// Entries with the parent's source: the latest, and the best among the best
/// of all, so that the estimate costs the same however long the run is.
fn observed<'h>(history: &History<'h>, parent: &HistoryEntry) -> Vec<&'h HistoryEntry> {
    let own = history.index.of_source(&parent.source_id);
    let best = history.index.best().take(LATEST).filter(|n| own.binary_search(n).is_ok()).take(BEST);
    let numbers: BTreeSet<usize> = own.iter().rev().take(LATEST).copied().chain(best).collect();
    numbers.into_iter().filter_map(|number| history.entries.get(number)).collect()
}

fn draw(
    space: &Space<'_>,
    good: &[Observation],
    bad: &[Observation],
    from: &[f64],
    rng: &mut SplitMix64,
    attempt: usize,
) -> (&'static str, Vec<f64>) {
    let informed = good.len() + bad.len() >= ENOUGH && !good.is_empty();
    let choice = rng.unit();
    if choice < 0.08 || attempt > TRIES / 2 {
        return ("random", space.random(rng));
    }
    if !informed {
        return ("local", space.step(from, rng));
    }
    if choice < 0.2 {
        return ("local", space.step(from, rng));
    }
    let ratio = |at: &[f64]| space.log_density(good, at) - space.log_density(bad, at);
    let mut best: Option<(f64, Vec<f64>)> = None;
    for k in 0..DRAWS {
        let at = match k % 8 {
            0 => space.step(from, rng),
            1 => space.random(rng),
            _ => space.sample(good, rng),
        };
        let value = ratio(&at);
        if best.as_ref().is_none_or(|(top, _)| value > *top) {
            best = Some((value, at));
        }
    }
    ("tpe", best.map_or_else(|| space.random(rng), |(_, at)| at))
}

/// Good and bad observations. Scores are compared within one source only;
/// candidates of other sources count half, and only while those of the
/// parent's own are few. A failure is worse than every score.
fn split(
    history: &History<'_>,
    parent: &HistoryEntry,
    space: &Space<'_>,
) -> (Vec<Observation>, Vec<Observation>) {
    let own = observed(history, parent);
    let mut groups: Vec<(&HistoryEntry, Vec<&HistoryEntry>)> = Vec::new();
    if own.len() < 2 * ENOUGH {
        let others = history.entries.iter().rev().take(OTHERS);
        for entry in others.rev().filter(|e| e.source_id != parent.source_id) {
            match groups.iter_mut().find(|(first, _)| first.source_id == entry.source_id) {
                Some((_, group)) => group.push(entry),
                None => groups.push((entry, vec![entry])),
            }
        }
    }
    if let Some(first) = own.first() {
        groups.push((first, own.clone()));
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (first, mut group) in groups {
        let is_own = first.source_id == parent.source_id;
        if !is_own && group.len() < 4 {
            continue;
        }
        let badness = |e: &HistoryEntry| match e.score.filter(|s| s.is_finite()) {
            Some(score) => history.direction.gain(0.0, score),
            None => f64::INFINITY,
        };
        group.sort_by(|a, b| badness(a).total_cmp(&badness(b)));
        let scored = group.iter().filter(|e| badness(e).is_finite()).count();
        let cut = ((group.len() as f64 * GAMMA).ceil() as usize).max(2.min(scored)).min(scored);
        for (rank, entry) in group.into_iter().enumerate() {
            let at = if is_own {
                space.encode(&entry.knobs).into_iter().map(Some).collect()
            } else {
                space.encode_given(&entry.knobs)
            };
            let observation = Observation { at, weight: if is_own { 1.0 } else { 0.5 } };
            if rank < cut { good.push(observation) } else { bad.push(observation) }
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests;
