//! Knob proposals: a Gaussian process over what was tried, asked near the
//! parent, mixed with steps that ask nobody and a little chance.
//!
//! After D. Eriksson and others, "Scalable Global Optimization via Local
//! Bayesian Optimization" (TuRBO), NeurIPS 2019: candidates are changes of a
//! few knobs of the parent, and the one with the lowest confidence bound is
//! proposed. How much the bound counts what is not known is drawn for each
//! proposal, so that those of one generation differ.

pub(super) mod space;
mod surrogate;
pub(crate) use space::rounded;

use crate::candidate::Origin;
use crate::proposer::{History, HistoryEntry, Proposal, Proposer};
use crate::seeds::SplitMix64;
use space::Space;
use std::collections::BTreeSet;
use surrogate::{Observation, Surrogate};

/// Observations below which the model says nothing worth hearing.
const ENOUGH: usize = 4;
/// The latest and the best of the parent's own source that the model sees,
/// and the latest of others while its own are few.
const LATEST: usize = 64;
const BEST: usize = 32;
const OTHERS: usize = 32;
/// Best candidates that are looked through for them.
const LOOKED_AT: usize = 256;
/// Earlier candidates of the parent's source that are not proposed again;
/// those further back are found by the search.
const REMEMBERED: usize = 256;
/// The best of the parent's own source that settings are taken from.
const MATES: usize = 8;
/// Settings that the model is asked about first, and then, round by round,
/// around the most promising.
const DRAWS: usize = 96;
const ROUNDS: usize = 3;
const AROUND: usize = 32;
/// Most standard deviations by which what is not known is believed to be
/// better than expected.
const BOLDEST: f64 = 2.0;
/// Shares of proposals that are drawn anywhere and that are one step from the
/// parent; the model makes the others.
const ANYWHERE: f64 = 0.06;
const NEARBY: f64 = 0.14;
/// Tries to find an assignment that was not tried before.
const TRIES: usize = 64;

/// The proposer `knobs`.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnobSearch;

impl Proposer for KnobSearch {
    fn name(&self) -> &'static str {
        "knobs"
    }

    fn propose(&self, history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        let space = Space::new(history.knob_space);
        if space.dimensions() == 0 {
            return None;
        }
        let own = history.index.of_source(&parent.source_id);
        let known = own.iter().rev().take(REMEMBERED).filter_map(|n| history.entries.get(*n));
        let mut tried: BTreeSet<String> = known.map(|e| space.canonical(&e.knobs)).collect();
        tried.insert(space.canonical(&parent.knobs));
        let from = space.encode(&parent.knobs);
        let mut rng = SplitMix64::new(seed);
        let mut asked = false;
        for attempt in 0..TRIES {
            let choice = rng.unit();
            let (operator, at) = if choice < ANYWHERE || attempt > TRIES / 2 {
                ("random", space.scatter(&from, &mut rng))
            } else if choice < ANYWHERE + NEARBY || asked {
                ("local", space.step(&from, &mut rng))
            } else {
                asked = true;
                match modelled(history, parent, &space, &from, &mut rng) {
                    Some(at) => ("model", at),
                    None => ("local", space.step(&from, &mut rng)),
                }
            };
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

/// The setting near the parent that the model holds most promising.
fn modelled(
    history: &History<'_>,
    parent: &HistoryEntry,
    space: &Space<'_>,
    from: &[f64],
    rng: &mut SplitMix64,
) -> Option<Vec<f64>> {
    let observed = observations(history, parent, space);
    if observed.len() < ENOUGH {
        return None;
    }
    let model = Surrogate::fit(space, &observed)?;
    let mut good: Vec<&Observation> = observed.iter().filter(|o| o.source == 0).collect();
    good.sort_by(|a, b| a.badness.total_cmp(&b.badness));
    good.truncate(MATES);
    let boldness = BOLDEST * rng.unit();
    let bound = |at: &[f64]| {
        let (mean, deviation) = model.predict(at);
        mean - boldness * deviation
    };
    let mut best: Option<(f64, Vec<f64>)> = None;
    for k in 0..DRAWS + ROUNDS * AROUND {
        let at = match (&best, k % 4) {
            (Some((_, top)), _) if k >= DRAWS => space.step(top, rng),
            (_, 0) => space.scatter(from, rng),
            (_, 1) if !good.is_empty() => {
                let mate = &good[rng.below(good.len())].at;
                space.mix(from, mate, rng)
            }
            _ => space.step(from, rng),
        };
        let at = space.encode(&space.decode(&at));
        let value = bound(&at);
        if at != from && best.as_ref().is_none_or(|(top, _)| value < *top) {
            best = Some((value, at));
        }
    }
    best.map(|(_, at)| at)
}

/// What the model sees: of the parent's source, the latest and the best of
/// those among the best of all; of others the latest, while its own are few. A
/// failure counts as the worst score seen, and a score far worse than most
/// tells no more than that.
fn observations(history: &History<'_>, parent: &HistoryEntry, space: &Space<'_>) -> Vec<Observation> {
    let own = history.index.of_source(&parent.source_id);
    let best = history.index.best().take(LOOKED_AT).filter(|n| own.binary_search(n).is_ok()).take(BEST);
    let numbers: BTreeSet<usize> = own.iter().rev().take(LATEST).copied().chain(best).collect();
    let mut chosen: Vec<&HistoryEntry> =
        numbers.into_iter().filter_map(|number| history.entries.get(number)).collect();
    if chosen.len() < OTHERS {
        let others = history.entries.iter().rev().filter(|e| e.source_id != parent.source_id);
        chosen.extend(others.take(OTHERS));
    }
    let badness =
        |e: &HistoryEntry| e.score.filter(|s| s.is_finite()).map(|score| history.direction.gain(0.0, score));
    let mut known: Vec<f64> = chosen.iter().filter_map(|e| badness(e)).collect();
    known.sort_by(f64::total_cmp);
    let (Some(top), Some(middle)) = (known.first(), known.get(known.len() / 2)) else {
        return Vec::new();
    };
    let worst = (middle + 2.0 * (middle - top)).min(known[known.len() - 1]);
    let mut sources = vec![&parent.source_id];
    let mut observed = Vec::with_capacity(chosen.len());
    for entry in chosen {
        let source = sources.iter().position(|s| **s == entry.source_id).unwrap_or_else(|| {
            sources.push(&entry.source_id);
            sources.len() - 1
        });
        let at = match source {
            0 => space.encode(&entry.knobs),
            _ => space.encode_given(&entry.knobs),
        };
        let badness = badness(entry).unwrap_or(worst).min(worst);
        observed.push(Observation { at, source, badness, seeds: f64::from(entry.seeds.max(1)) });
    }
    observed
}

#[cfg(test)]
mod tests;
