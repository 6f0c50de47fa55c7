//! Learning-rate schedules: a factor for the share of the budget that is used.

use std::f64::consts::PI;

/// How the rate falls at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// In a straight line.
    Linear,
    /// Along half a cosine (Loshchilov & Hutter 2017).
    Cosine,
}

/// Warm-up, a plateau at 1, warm-down.
/// ```
/// use terrarium_sdk::schedule::{Decay, Schedule};
/// let schedule = Schedule { warmup: 0.1, warmdown: 0.5, floor: 0.0, decay: Decay::Linear };
/// assert_eq!(schedule.at(0.05), 0.5);
/// assert_eq!(schedule.at(0.3), 1.0);
/// assert_eq!(schedule.at(0.75), 0.5);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Share of the budget over which the factor rises from 0 to 1.
    pub warmup: f64,
    /// Share of the budget, at its end, over which the factor falls.
    pub warmdown: f64,
    /// The factor at the very end, 0 to 1.
    pub floor: f64,
    /// How it falls.
    pub decay: Decay,
}

impl Schedule {
    /// Always 1.
    pub const CONSTANT: Schedule = Schedule { warmup: 0.0, warmdown: 0.0, floor: 1.0, decay: Decay::Linear };

    /// The factor when `progress` (0 to 1) of the budget is used.
    pub fn at(&self, progress: f64) -> f64 {
        let progress = progress.clamp(0.0, 1.0);
        if progress < self.warmup {
            // Never quite 0: the first step should count.
            return (progress / self.warmup).max(0.01);
        }
        let left = 1.0 - progress;
        if left >= self.warmdown {
            return 1.0;
        }
        let share = match self.decay {
            Decay::Linear => left / self.warmdown,
            Decay::Cosine => 0.5 - 0.5 * (PI * left / self.warmdown).cos(),
        };
        self.floor + (1.0 - self.floor) * share
    }
}
