//! The knobs as a unit cube: warping, rounding, sampling, densities.

use super::Observation;
use crate::seeds::SplitMix64;
use std::f64::consts::PI;
use terrarium_sandbox::{KnobRange, KnobScale, KnobValue, Knobs};

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

    /// As [`Self::encode`], but only what was given: another source may have
    /// other defaults.
    pub fn encode_given(&self, knobs: &Knobs) -> Vec<Option<f64>> {
        (0..self.axes.len())
            .map(|a| knobs.get(self.axes[a].0).map(|_| self.unit(a, &self.effective(a, knobs))))
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

    /// `lr 0.0003 → 0.0005, heads 2 → 4`.
    pub fn describe(&self, old: &Knobs, new: &Knobs) -> String {
        let show = |axis: usize, value: KnobValue| match (self.axes[axis].1, value) {
            (KnobRange::Choice { options, .. }, KnobValue::Choice(x)) => {
                options.get(x as usize).cloned().unwrap_or_default()
            }
            (_, KnobValue::Number(x)) => x.to_string(),
            (_, KnobValue::Integer(x)) => x.to_string(),
            (_, KnobValue::Choice(x)) => x.to_string(),
        };
        let changed = (0..self.axes.len()).filter_map(|a| {
            let (from, to) = (self.effective(a, old), self.effective(a, new));
            (from != to).then(|| format!("{} {} → {}", self.axes[a].0, show(a, from), show(a, to)))
        });
        changed.collect::<Vec<_>>().join(", ")
    }

    pub fn random(&self, rng: &mut SplitMix64) -> Vec<f64> {
        self.axes.iter().map(|_| rng.unit()).collect()
    }

    /// Moves one to three knobs a little; each really changes its value.
    pub fn step(&self, from: &[f64], rng: &mut SplitMix64) -> Vec<f64> {
        let mut at = from.to_vec();
        for _ in 0..1 + rng.below(3.min(self.axes.len())) {
            let axis = rng.below(self.axes.len());
            let before = self.value(axis, at[axis]);
            let mut width = 0.12;
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

    fn bandwidth(&self, observations: &[Observation]) -> f64 {
        let n = observations.len().max(1) as f64;
        (0.25 * n.powf(-1.0 / (self.axes.len() as f64 + 4.0))).clamp(0.04, 0.25)
    }

    /// A draw from the mixture: a kernel by weight, or the prior.
    pub fn sample(&self, observations: &[Observation], rng: &mut SplitMix64) -> Vec<f64> {
        let mut weights: Vec<f64> = observations.iter().map(|o| o.weight).collect();
        weights.push(0.5); // the prior
        let chosen = rng.weighted(&weights).and_then(|k| observations.get(k));
        let width = self.bandwidth(observations);
        (0..self.axes.len())
            .map(|a| match chosen.and_then(|o| o.at[a]) {
                Some(_) if self.options(a).is_some() && rng.unit() < width => rng.unit(),
                Some(u) if self.options(a).is_some() => u,
                Some(u) => truncated(u, width, rng),
                None => rng.unit(),
            })
            .collect()
    }

    /// Logarithm of the mixture's density at a point.
    pub fn log_density(&self, observations: &[Observation], at: &[f64]) -> f64 {
        let width = self.bandwidth(observations);
        let mut terms = vec![(0.5f64).ln()]; // the uniform prior
        let mut total = 0.5;
        for observation in observations {
            total += observation.weight;
            let mut sum = observation.weight.ln();
            for (a, u) in observation.at.iter().enumerate() {
                sum += match (u, self.options(a)) {
                    (None, _) => 0.0,
                    (Some(u), Some(n)) => {
                        let same = self.value(a, *u) == self.value(a, at[a]);
                        (width + if same { (1.0 - width) * n as f64 } else { 0.0 }).ln()
                    }
                    (Some(u), None) => {
                        let z = (at[a] - u) / width;
                        -0.5 * z * z - (width * (2.0 * PI).sqrt() * mass(*u, width)).ln()
                    }
                };
            }
            terms.push(sum);
        }
        let top = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + terms.iter().map(|t| (t - top).exp()).sum::<f64>().ln() - total.ln()
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

/// Mass of N(u, width²) on the unit interval, with the logistic approximation
/// of the normal distribution (error below 0.01).
fn mass(u: f64, width: f64) -> f64 {
    let cdf = |z: f64| 1.0 / (1.0 + (-1.702 * z).exp());
    cdf((1.0 - u) / width) - cdf(-u / width)
}
