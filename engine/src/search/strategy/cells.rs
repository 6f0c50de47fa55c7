//! MAP-Elites: the best candidate of each kind.
//!
//! J.-B. Mouret, J. Clune, "Illuminating search spaces by mapping elites",
//! 2015: features that the task declares span a grid, and each cell holds the
//! best candidate that falls into it.

use super::View;
use crate::proposer::HistoryEntry;
use crate::task::{FeatureConfig, FeatureKind};
use std::collections::BTreeMap;
use terrarium_sandbox::KnobValue;

/// Coordinates in the grid, one for each feature.
pub type Cell = Vec<u16>;

/// The elites of one island.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    elites: BTreeMap<Cell, usize>,
}

impl Cells {
    /// Cells that hold somebody.
    pub fn occupied(&self) -> usize {
        self.elites.len()
    }

    /// The elites' numbers, in the order of their cells.
    pub fn elites(&self) -> impl Iterator<Item = usize> + '_ {
        self.elites.values().copied()
    }

    /// Files a candidate where it is better than who is there, or first.
    /// Without a score it has no place.
    pub fn file(&mut self, view: &View<'_>, member: usize) {
        let entries = view.entries();
        let Some(score) = entries[member].score else {
            return;
        };
        let cell = cell_of(&features(view), &entries[member], &entries[0]);
        let holder = self.elites.get(&cell).and_then(|holder| entries[*holder].score);
        if holder.is_none_or(|held| view.direction().better(score, held)) {
            self.elites.insert(cell, member);
        }
    }

    /// Lets go of elites that have failed since.
    pub fn prune(&mut self, view: &View<'_>) {
        self.elites.retain(|_, member| view.entries()[*member].score.is_some());
    }

    /// The best elite.
    pub fn best(&self, view: &View<'_>) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for member in self.elites() {
            if let Some(score) = view.entries()[member].score
                && best.is_none_or(|(_, so_far)| view.direction().better(score, so_far))
            {
                best = Some((member, score));
            }
        }
        best.map(|(member, _)| member)
    }
}

/// The task's features, or length and fuel relative to the baseline.
fn features(view: &View<'_>) -> Vec<FeatureConfig> {
    if !view.config.features.is_empty() {
        return view.config.features.clone();
    }
    let relative = |name| FeatureConfig { name, low: None, high: None, cells: 7 };
    vec![relative(FeatureKind::SourceBytes), relative(FeatureKind::Fuel)]
}

fn cell_of(features: &[FeatureConfig], entry: &HistoryEntry, baseline: &HistoryEntry) -> Cell {
    let place = |feature: &FeatureConfig| {
        let at = value(&feature.name, entry);
        let unit = match (feature.low, feature.high) {
            (Some(low), Some(high)) => (at - low) / (high - low),
            // Twice the baseline's is two cells up; a factor of √2 for each.
            _ => {
                let middle = f64::from(feature.cells / 2) + 0.5;
                let ratio = (at.max(1e-9) / value(&feature.name, baseline).max(1e-9)).log2() * 2.0;
                (middle + ratio) / f64::from(feature.cells)
            }
        };
        // NaN becomes 0: claims of a candidate may be anything.
        let cell = (unit * f64::from(feature.cells)).floor();
        (cell.max(0.0) as u16).min(feature.cells.saturating_sub(1))
    };
    features.iter().map(place).collect()
}

/// The value of a feature; 0 where the candidate has none.
fn value(name: &FeatureKind, entry: &HistoryEntry) -> f64 {
    let result = entry.record.as_ref().map(|record| &record.result);
    match name {
        FeatureKind::SourceBytes => entry.source.len() as f64,
        FeatureKind::Fuel => result.and_then(|r| r.usage.fuel).unwrap_or(0) as f64,
        FeatureKind::DeviceFuel => result.map_or(0, |r| r.usage.device_fuel) as f64,
        FeatureKind::MemoryBytes => result.map_or(0, |r| r.usage.peak_memory_bytes) as f64,
        FeatureKind::Metric(name) => {
            let last = result.and_then(|r| r.metrics.iter().rev().find(|m| m.name == *name));
            last.map_or(0.0, |m| m.value)
        }
        FeatureKind::Knob(name) => match entry.knobs.get(name) {
            Some(KnobValue::Number(v)) => *v,
            Some(KnobValue::Integer(v)) => *v as f64,
            Some(KnobValue::Choice(v)) => f64::from(*v),
            None => 0.0,
        },
    }
}
