//! Islands of MAP-Elites cells: the default strategy.
//!
//! Each island keeps the best candidate of each kind and mostly improves its
//! own best. Every few generations the best moves on to the next island. An
//! island that has stopped improving, or whose candidates have become copies
//! of each other, is begun again.

use super::cells::Cells;
use super::{Pick, ResetReason, Shift, Strategy, View};
use crate::seeds::SplitMix64;
use crate::task::SearchConfig;
use std::collections::{BTreeMap, VecDeque};

/// Parents of so many latest candidates tell whether an island has collapsed.
const WATCHED: usize = 24;
/// An island with fewer effective parents than this lives off one candidate.
const FEWEST_PARENTS: f64 = 1.5;
/// … and fills no more cells than this.
const FEWEST_CELLS: usize = 2;
/// Seeds below which an elite's score is doubtful.
const SURE: u32 = 3;

#[derive(Default)]
struct Island {
    cells: Cells,
    best: Option<f64>,
    improved: u32,
    parents: VecDeque<usize>,
    /// Until this generation it looks elsewhere more often.
    restless_until: u32,
}

/// The strategy `islands`.
pub struct Islands {
    islands: Vec<Island>,
}

impl Islands {
    /// As many as the configuration says.
    pub fn new(config: &SearchConfig) -> Self {
        Self { islands: (0..config.island_count()).map(|_| Island::default()).collect() }
    }

    fn at(&mut self, island: u32) -> &mut Island {
        let count = self.islands.len();
        &mut self.islands[island as usize % count]
    }
}

impl Strategy for Islands {
    fn name(&self) -> &'static str {
        "islands"
    }

    fn pick(&mut self, view: &View<'_>, place: u32, rng: &mut SplitMix64) -> Pick {
        let count = self.islands.len() as u32;
        let island = (place + view.generation) % count;
        let here = self.at(island);
        let own_best = if count == 1 { None } else { here.cells.best(view) };
        let best = own_best.unwrap_or(view.incumbent);
        let restless = view.generation <= here.restless_until;
        let share = view.config.incumbent_share * if restless { 0.5 } else { 1.0 };
        if rng.unit() < share {
            return Pick { parent: best, island };
        }
        // Half of the others are near the top, half anywhere on the map.
        let mut elites: Vec<usize> = here.cells.elites().filter(|m| *m != best).collect();
        if !restless && rng.unit() < 0.5 {
            let badness = |m: &usize| view.entries()[*m].score.map(|s| view.direction().gain(0.0, s));
            elites.sort_by(|a, b| {
                badness(a).unwrap_or(f64::INFINITY).total_cmp(&badness(b).unwrap_or(f64::INFINITY))
            });
            elites.truncate(view.config.elites as usize);
        }
        elites.retain(|m| view.entries()[*m].score.is_some());
        let parent = elites.get(rng.below(elites.len())).copied().unwrap_or(best);
        Pick { parent, island }
    }

    fn file(&mut self, view: &View<'_>, member: usize, island: u32) {
        let here = self.at(island);
        here.cells.file(view, member);
        if let Some(parent) = view.entries()[member].parent.as_ref().and_then(|id| view.number(id)) {
            here.parents.push_back(parent);
            if here.parents.len() > WATCHED {
                here.parents.pop_front();
            }
        }
    }

    fn close(&mut self, view: &View<'_>) -> Vec<Shift> {
        let mut shifts = Vec::new();
        for island in &mut self.islands {
            island.cells.prune(view);
            let best = island.cells.best(view).and_then(|m| view.entries()[m].score);
            let improved = match (best, island.best) {
                (Some(new), Some(old)) => view.direction().better(new, old),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if improved {
                island.best = best;
                island.improved = view.generation;
            }
        }
        let count = self.islands.len();
        let every = view.config.migration_every.max(1);
        if count > 1 && view.generation.is_multiple_of(every) {
            let bests: Vec<Option<usize>> = self.islands.iter().map(|i| i.cells.best(view)).collect();
            for (from, best) in bests.into_iter().enumerate() {
                let to = (from + 1) % count;
                if let Some(member) = best {
                    self.islands[to].cells.file(view, member);
                    shifts.push(Shift::Migrated { from: from as u32, to: to as u32, member });
                }
            }
        }
        for number in 0..count {
            if let Some(reason) = self.islands[number].trouble(view) {
                // It begins with the best of its neighbour, or the incumbent.
                let neighbour = &self.islands[(number + 1) % count].cells;
                let founder = if count > 1 { neighbour.best(view) } else { None }.unwrap_or(view.incumbent);
                let mut fresh = Island {
                    improved: view.generation,
                    restless_until: view.generation + view.config.patience.div_ceil(2),
                    ..Island::default()
                };
                fresh.cells.file(view, founder);
                self.islands[number] = fresh;
                shifts.push(Shift::Reset { island: number as u32, reason, founder });
            }
        }
        shifts
    }

    fn doubtful(&self, view: &View<'_>) -> Vec<usize> {
        let mut doubtful: Vec<usize> = self
            .islands
            .iter()
            .filter_map(|island| island.cells.best(view))
            .filter(|m| *m != view.incumbent && view.entries()[*m].seeds < SURE)
            .collect();
        doubtful.dedup();
        doubtful
    }
}

impl Island {
    fn trouble(&self, view: &View<'_>) -> Option<ResetReason> {
        if view.generation.saturating_sub(self.improved) >= view.config.patience {
            return Some(ResetReason::Stagnation);
        }
        let full = self.parents.len() >= WATCHED && view.generation > self.restless_until;
        (full && self.cells.occupied() <= FEWEST_CELLS && effective(&self.parents) < FEWEST_PARENTS)
            .then_some(ResetReason::Collapse)
    }
}

/// How many different ones there are, by the inverse of Simpson's index.
fn effective(parents: &VecDeque<usize>) -> f64 {
    let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
    for parent in parents {
        *counts.entry(*parent).or_default() += 1.0;
    }
    let n = parents.len() as f64;
    1.0 / counts.values().map(|c| (c / n).powi(2)).sum::<f64>()
}
