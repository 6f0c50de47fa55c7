//! The knobs as a unit cube: warping, rounding, sampling, densities.

use crate::seeds::SplitMix64;
use std::f64::consts::PI;
use terrarium_sandbox::{KnobRange, KnobScale, KnobValue, Knobs};

/// Changes that a description names.
const MOST_NAMED: usize = 6;

/// The knobs that can be varied.
pub(in crate::proposer) struct Space<'a> {
    axes: Vec<(&'a str, &'a KnobRange)>,
}

/// `x` to four significant digits, so that differences are easy to read and
/// equal settings get equal ids.
pub(crate) fn rounded(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

fn logarithmic(scale: KnobScale, low: f64) -> bool {
    scale == KnobScale::Logarithmic && low > 0.0
}

fn to_unit(x: f64, low: f64, high: f64, scale: KnobScale) -> f64 {
    let x = x.clamp(low, high);
    let u = if logarithmic(scale, low) {
        (x / low).ln() / (high / low).ln()
    } else {
        (x / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)
    };
    if u.is_finite() { u.clamp(0.0, 1.0) } else { 0.5 }
}

fn from_unit(u: f64, low: f64, high: f64, scale: KnobScale) -> f64 {
    let x = if logarithmic(scale, low) {
        (low.ln() * (1.0 - u) + high.ln() * u).exp()
    } else {
        low * (1.0 - u) + high * u
    };
    x.clamp(low, high)
}

impl<'a> Space<'a> {
    /// Leaves out what cannot vary: one value, no options, a range upside
    /// down or not finite.
    pub fn new(declared: &'a [(String, KnobRange)]) -> Self {
        let varies = |range: &KnobRange| match range {
            KnobRange::Number { low, high, .. } => low.is_finite() && high.is_finite() && low < high,
            KnobRange::Integer { low, high, .. } => low < high,
            KnobRange::Choice { options, .. } => options.len() > 1,
        };
        let axes = declared.iter().filter(|(_, r)| varies(r)).map(|(n, r)| (n.as_str(), r)).collect();
        Self { axes }
    }

    pub fn dimensions(&self) -> usize {
        self.axes.len()
    }

    /// A knob's name and range.
    pub fn axis(&self, axis: usize) -> (&'a str, &'a KnobRange) {
        self.axes[axis]
    }

    /// The value that takes effect: the given one, or the default.
    pub fn effective(&self, axis: usize, knobs: &Knobs) -> KnobValue {
        let (name, range) = self.axes[axis];
        match (range, knobs.get(name)) {
            (KnobRange::Number { low, high, .. }, Some(KnobValue::Number(x))) if x.is_finite() => {
                KnobValue::Number(x.clamp(*low, *high))
            }
            (KnobRange::Integer { low, high, .. }, Some(KnobValue::Integer(x))) => {
                KnobValue::Integer(*x.clamp(low, high))
            }
            (KnobRange::Choice { options, .. }, Some(KnobValue::Choice(x)))
                if (*x as usize) < options.len() =>
            {
                KnobValue::Choice(*x)
            }
            (KnobRange::Number { default, .. }, _) => KnobValue::Number(*default),
            (KnobRange::Integer { default, .. }, _) => KnobValue::Integer(*default),
            (KnobRange::Choice { default, .. }, _) => KnobValue::Choice(*default),
        }
    }

    /// Where a value stands in its range.
    pub fn unit(&self, axis: usize, value: &KnobValue) -> f64 {
        match (self.axes[axis].1, value) {
            (KnobRange::Number { low, high, scale, .. }, KnobValue::Number(x)) if x.is_finite() => {
                to_unit(*x, *low, *high, *scale)
            }
            (KnobRange::Integer { low, high, scale, .. }, KnobValue::Integer(x)) => {
                to_unit(*x as f64, *low as f64, *high as f64, *scale)
            }
            (KnobRange::Choice { options, .. }, KnobValue::Choice(x)) => {
                (f64::from(*x) + 0.5) / options.len().max(1) as f64
            }
            _ => 0.5,
        }
    }

    /// A point of the cube; choices take the middle of their slice.
    pub fn encode(&self, knobs: &Knobs) -> Vec<f64> {
        (0..self.axes.len()).map(|a| self.unit(a, &self.effective(a, knobs))).collect()
    }

    /// As [`Self::encode`], but only what was given, NaN for the rest: another
    /// source may have other defaults.
    pub fn encode_given(&self, knobs: &Knobs) -> Vec<f64> {
        (0..self.axes.len())
            .map(|a| match knobs.contains_key(self.axes[a].0) {
                true => self.unit(a, &self.effective(a, knobs)),
                false => f64::NAN,
            })
            .collect()
    }

    fn options(&self, axis: usize) -> Option<usize> {
        match self.axes[axis].1 {
            KnobRange::Choice { options, .. } => Some(options.len()),
            _ => None,
        }
    }

    /// The value at this place of its range.
    pub fn value(&self, axis: usize, u: f64) -> KnobValue {
        match self.axes[axis].1 {
            KnobRange::Number { low, high, scale, .. } => {
                KnobValue::Number(rounded(from_unit(u, *low, *high, *scale)).clamp(*low, *high))
            }
            KnobRange::Integer { low, high, scale, .. } => {
                let x = from_unit(u, *low as f64, *high as f64, *scale).round();
                KnobValue::Integer((x as i64).clamp(*low, *high))
            }
            KnobRange::Choice { options, .. } => {
                let last = options.len().saturating_sub(1);
                KnobValue::Choice(((u * options.len() as f64) as usize).min(last) as u32)
            }
        }
    }

    /// Knob values at a point. Those equal to the default are left out, so
    /// that equal settings have equal ids.
    pub fn decode(&self, at: &[f64]) -> Knobs {
        let none = Knobs::new();
        (0..self.axes.len())
            .map(|a| (a, self.value(a, at[a])))
            .filter(|(a, value)| *value != self.effective(*a, &none))
            .map(|(a, value)| (self.axes[a].0.to_owned(), value))
            .collect()
    }

    /// All values that take effect, as text that is equal exactly when they are.
    pub fn canonical(&self, knobs: &Knobs) -> String {
        (0..self.axes.len()).map(|a| format!("{:?};", self.effective(a, knobs))).collect()
    }

    /// `lr 0.0003 → 0.0005, heads 2 → 4`; of many changes the largest.
    pub fn describe(&self, old: &Knobs, new: &Knobs) -> String {
        let show = |axis: usize, value: KnobValue| match (self.axes[axis].1, value) {
            (KnobRange::Choice { options, .. }, KnobValue::Choice(x)) => {
                options.get(x as usize).cloned().unwrap_or_default()
            }
            (_, KnobValue::Number(x)) => x.to_string(),
            (_, KnobValue::Integer(x)) => x.to_string(),
            (_, KnobValue::Choice(x)) => x.to_string(),
        };
        let mut changed: Vec<(f64, String)> = (0..self.axes.len())
            .filter_map(|a| {
                let (from, to) = (self.effective(a, old), self.effective(a, new));
                let far = (self.unit(a, &from) - self.unit(a, &to)).abs();
                let text = format!("{} {} → {}", self.axes[a].0, show(a, from.clone()), show(a, to.clone()));
                (from != to).then_some((far, text))
            })
            .collect();
        if changed.len() > MOST_NAMED {
            changed.sort_by(|a, b| b.0.total_cmp(&a.0));
        }
        let more = changed.len().saturating_sub(MOST_NAMED);
        changed.truncate(MOST_NAMED);
        let mut text = changed.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ");
        if more > 0 {
            text += &format!(", and {more} more");
        }
        text
    }

    #[cfg(test)]
    pub fn random(&self, rng: &mut SplitMix64) -> Vec<f64> {
        self.axes.iter().map(|_| rng.unit()).collect()
    }

    /// Whether a knob's values have an order.
    pub fn is_ordered(&self, axis: usize) -> bool {
        self.options(axis).is_none()
    }

    /// Draws some knobs anew, from one to all, small numbers as likely as large.
    pub fn scatter(&self, from: &[f64], rng: &mut SplitMix64) -> Vec<f64> {
        let count = (self.axes.len() as f64 + 1.0).powf(rng.unit()) as usize;
        let mut at = from.to_vec();
        for _ in 0..count {
            at[rng.below(self.axes.len())] = rng.unit();
        }
        at
    }

    /// Each knob from one or the other; from the other at a rate that is drawn.
    pub fn mix(&self, from: &[f64], other: &[f64], rng: &mut SplitMix64) -> Vec<f64> {
        let share = (self.axes.len() as f64).powf(-rng.unit());
        from.iter().zip(other).map(|(a, b)| if rng.unit() < share { *b } else { *a }).collect()
    }

    /// Moves one to three knobs, a little or further; each really changes its
    /// value.
    pub fn step(&self, from: &[f64], rng: &mut SplitMix64) -> Vec<f64> {
        let mut at = from.to_vec();
        for _ in 0..1 + rng.below(3.min(self.axes.len())) {
            let axis = rng.below(self.axes.len());
            let before = self.value(axis, at[axis]);
            let mut width = 0.06 * 4f64.powf(rng.unit());
            for _ in 0..12 {
                at[axis] = match self.options(axis) {
                    Some(_) => rng.unit(),
                    None => truncated(at[axis], width, rng),
                };
                if self.value(axis, at[axis]) != before {
                    break;
                }
                width *= 1.5;
            }
        }
        at
    }
}

/// A normal draw around `u` truncated to the unit interval.
fn truncated(u: f64, width: f64, rng: &mut SplitMix64) -> f64 {
    for _ in 0..32 {
        let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
        let x = u + width * radius * (2.0 * PI * rng.unit()).cos();
        if (0.0..=1.0).contains(&x) {
            return x;
        }
    }
    rng.unit()
}
