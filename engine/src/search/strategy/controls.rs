//! What a search must beat to be worth its name, at equal budget.

use super::{Pick, Shift, Strategy, View};
use crate::seeds::SplitMix64;

/// `--control random`: changes of changes, without selection. The parent is
/// any candidate that runs, each as likely, and proposers see no scores.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomWalk;

impl Strategy for RandomWalk {
    fn name(&self) -> &'static str {
        "random"
    }

    fn pick(&mut self, view: &View<'_>, _place: u32, rng: &mut SplitMix64) -> Pick {
        let entries = view.entries();
        // Most candidates run: a few draws find one, else it is the baseline.
        let drawn = (0..32).map(|_| rng.below(entries.len())).find(|n| entries[*n].score.is_some());
        Pick { parent: drawn.unwrap_or(0), island: 0 }
    }

    fn file(&mut self, _view: &View<'_>, _member: usize, _island: u32) {}

    fn close(&mut self, _view: &View<'_>) -> Vec<Shift> {
        Vec::new()
    }

    fn is_blind(&self) -> bool {
        true
    }
}

/// `--control best-of-n`: N independent changes of the baseline, of which the
/// best is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct BestOfN;

impl Strategy for BestOfN {
    fn name(&self) -> &'static str {
        "best-of-n"
    }

    fn pick(&mut self, _view: &View<'_>, _place: u32, _rng: &mut SplitMix64) -> Pick {
        Pick { parent: 0, island: 0 }
    }

    fn file(&mut self, _view: &View<'_>, _member: usize, _island: u32) {}

    fn close(&mut self, _view: &View<'_>) -> Vec<Shift> {
        Vec::new()
    }

    fn is_blind(&self) -> bool {
        true
    }
}
