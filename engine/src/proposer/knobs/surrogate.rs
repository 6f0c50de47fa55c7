//! A Gaussian process over the knobs: what a setting would score, and how
//! sure that is.
//!
//! C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine
//! Learning", 2006, chapters 2 and 5. The kernel is a product over knobs of
//! 1 + θ·k₁, divided by its greatest value (an ANOVA kernel, as in M. Stitson
//! and others, 1999): with a small θ knobs act one by one, with a large one
//! they act together. k₁ is 1 / (1 + (Δ/ℓ)²) where values have an order
//! (Rasmussen and Williams, 4.19, with α = 1), else 1 for equal options and 0
//! for others. A setting that is not known equals only itself. Each source has
//! an offset of its own.

use super::space::Space;

/// Length scales ℓ on the unit cube, interactions θ, and variances of the
/// noise relative to the signal's: what the likelihood chooses from.
const LENGTHS: [f64; 4] = [0.15, 0.3, 0.6, 1.2];
const INTERACTIONS: [f64; 3] = [0.05, 0.3, 2.0];
const NOISES: [f64; 4] = [1e-4, 0.01, 0.1, 0.6];
/// Rounds in which each of the three is chosen, the others fixed.
const ROUNDS: usize = 2;
/// Knobs whose factors are multiplied before one division.
const FACTORS: usize = 8;
/// Variance of the offsets of sources relative to the signal's.
const OFFSET: f64 = 1.0;

/// An observation.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    /// Its place in the cube; NaN where it has no such knob.
    pub at: Vec<f64>,
    /// Which source it has.
    pub source: usize,
    /// Its score; smaller is better.
    pub badness: f64,
    /// Over how many seeds it is a mean.
    pub seeds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    length: f64,
    interaction: f64,
    noise: f64,
}

/// A fitted process.
pub(super) struct Surrogate<'a> {
    ordered: Vec<bool>,
    observed: &'a [Observation],
    shape: Shape,
    /// Lower triangle of the Cholesky factor of the covariance, row by row.
    factor: Vec<f64>,
    /// Covariance⁻¹ · (badness − mean).
    weights: Vec<f64>,
    mean: f64,
    /// The signal's standard deviation.
    scale: f64,
    likelihood: f64,
}

impl<'a> Surrogate<'a> {
    /// The likeliest of the shapes, each of their numbers chosen in turn with
    /// the others fixed; none for fewer than two observations.
    pub fn fit(space: &Space<'_>, observed: &'a [Observation]) -> Option<Self> {
        if observed.len() < 2 {
            return None;
        }
        let shape = Shape { length: LENGTHS[2], interaction: INTERACTIONS[1], noise: NOISES[2] };
        let mut best = Self::with(space, observed, shape)?;
        let mut seen = vec![shape];
        for _ in 0..ROUNDS {
            let now = best.shape;
            best = best.or(space, &mut seen, LENGTHS.map(|length| Shape { length, ..now }));
            let now = best.shape;
            best = best.or(space, &mut seen, INTERACTIONS.map(|interaction| Shape { interaction, ..now }));
            let now = best.shape;
            best = best.or(space, &mut seen, NOISES.map(|noise| Shape { noise, ..now }));
        }
        Some(best)
    }

    /// The best of this and those of these shapes that were not yet seen.
    fn or<const N: usize>(self, space: &Space<'_>, seen: &mut Vec<Shape>, shapes: [Shape; N]) -> Self {
        let mut best = self;
        for shape in shapes {
            if seen.contains(&shape) {
                continue;
            }
            seen.push(shape);
            if let Some(fit) = Self::with(space, best.observed, shape)
                && fit.likelihood > best.likelihood
            {
                best = fit;
            }
        }
        best
    }

    /// With this shape, the mean and the scale at their likeliest.
    fn with(space: &Space<'_>, observed: &'a [Observation], shape: Shape) -> Option<Self> {
        let n = observed.len();
        let ordered = (0..space.dimensions()).map(|axis| space.is_ordered(axis)).collect();
        let mut this = Self {
            ordered,
            observed,
            shape,
            factor: Vec::with_capacity(n * (n + 1) / 2),
            weights: Vec::new(),
            mean: 0.0,
            scale: 1.0,
            likelihood: f64::NEG_INFINITY,
        };
        for (i, one) in observed.iter().enumerate() {
            for other in &observed[..i] {
                let value = this.covariance(&one.at, one.source, other);
                this.factor.push(value);
            }
            this.factor.push(1.0 + OFFSET + shape.noise / one.seeds + 1e-9);
        }
        cholesky(&mut this.factor, n)?;
        // The mean at its likeliest: 1ᵀK⁻¹y / 1ᵀK⁻¹1.
        let ones = this.solve(&vec![1.0; n]);
        let total: f64 = ones.iter().sum();
        this.mean = ones.iter().zip(observed).map(|(w, o)| w * o.badness).sum::<f64>() / total;
        let centred: Vec<f64> = observed.iter().map(|o| o.badness - this.mean).collect();
        this.weights = this.solve(&centred);
        let square: f64 = this.weights.iter().zip(&centred).map(|(w, y)| w * y).sum();
        let variance = (square / n as f64).max(1e-300);
        this.scale = variance.sqrt();
        let determinant: f64 = (0..n).map(|i| this.factor[i * (i + 1) / 2 + i].ln()).sum();
        this.likelihood = -0.5 * n as f64 * variance.ln() - determinant;
        this.likelihood.is_finite().then_some(this)
    }

    /// Relative to the signal's variance.
    fn covariance(&self, at: &[f64], source: usize, other: &Observation) -> f64 {
        let Shape { length, interaction, .. } = self.shape;
        let (scale, top) = (1.0 / (length * length), 1.0 + interaction);
        let mut product = 1.0;
        // Fractions are multiplied a few at a time: one division for each.
        let pairs = at.chunks(FACTORS).zip(other.at.chunks(FACTORS)).zip(self.ordered.chunks(FACTORS));
        for ((a, b), ordered) in pairs {
            let (mut above, mut below) = (1.0, 1.0);
            for ((a, b), ordered) in a.iter().zip(b).zip(ordered) {
                let square = (a - b) * (a - b) * scale;
                if *ordered && square.is_finite() {
                    above *= square + top;
                    below *= (square + 1.0) * top;
                } else if a != b && !(a.is_nan() && b.is_nan()) {
                    below *= top;
                }
            }
            product *= above / below;
        }
        product + if source == other.source { OFFSET } else { 0.0 }
    }

    /// What a setting of the first source scores, and the standard deviation
    /// of that.
    pub fn predict(&self, at: &[f64]) -> (f64, f64) {
        let mut row: Vec<f64> = self.observed.iter().map(|o| self.covariance(at, 0, o)).collect();
        let mean = self.mean + row.iter().zip(&self.weights).map(|(k, w)| k * w).sum::<f64>();
        forward(&self.factor, &mut row);
        let left = 1.0 + OFFSET - row.iter().map(|v| v * v).sum::<f64>();
        (mean, self.scale * left.max(0.0).sqrt())
    }

    fn solve(&self, right: &[f64]) -> Vec<f64> {
        let mut x = right.to_vec();
        forward(&self.factor, &mut x);
        for i in (0..x.len()).rev() {
            x[i] /= self.factor[i * (i + 1) / 2 + i];
            let (value, row) = (x[i], i * (i + 1) / 2);
            for (j, entry) in x[..i].iter_mut().enumerate() {
                *entry -= self.factor[row + j] * value;
            }
        }
        x
    }
}

/// In place; none where the matrix is not positive definite.
fn cholesky(a: &mut [f64], n: usize) -> Option<()> {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * (i + 1) / 2);
        for j in 0..=i {
            let other = if j < i { &above[j * (j + 1) / 2..][..=j] } else { &[][..] };
            let sum = dot(&row[..j], if j < i { &other[..j] } else { &row[..j] });
            let value = row[j] - sum;
            row[j] = match j < i {
                true => value / other[j],
                false if value > 0.0 => value.sqrt(),
                false => return None,
            };
        }
    }
    Some(())
}

/// Solves L·x = b in place.
fn forward(factor: &[f64], x: &mut [f64]) {
    for i in 0..x.len() {
        let row = &factor[i * (i + 1) / 2..][..=i];
        x[i] = (x[i] - dot(&row[..i], &x[..i])) / row[i];
    }
}

/// In four sums, so that it is done in vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (whole, rest) = (a.chunks_exact(4).zip(b.chunks_exact(4)), a.len() / 4 * 4);
    for (a, b) in whole {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    let tail: f64 = a[rest..].iter().zip(&b[rest..]).map(|(x, y)| x * y).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use terrarium_sandbox::{KnobRange, KnobScale};

    fn unit(names: &[&str]) -> Vec<(String, KnobRange)> {
        let range = |_| KnobRange::Number { default: 0.0, low: 0.0, high: 1.0, scale: KnobScale::Linear };
        names.iter().map(|name| ((*name).to_owned(), range(name))).collect()
    }

    fn seen(at: &[f64], badness: f64) -> Observation {
        Observation { at: at.to_vec(), source: 0, badness, seeds: 1.0 }
    }

    #[test]
    fn a_factor_is_the_textbook_one_and_no_other_matrix_has_any() {
        // [[4, 2], [2, 5]] = L·Lᵀ with L = [[2, 0], [1, 2]].
        let mut a = vec![4.0, 2.0, 5.0];
        assert_eq!(cholesky(&mut a, 2), Some(()));
        assert_eq!(a, [2.0, 1.0, 2.0]);
        let mut x = vec![2.0, 5.0];
        forward(&a, &mut x);
        assert_eq!(x, [1.0, 2.0]);
        assert_eq!(cholesky(&mut [1.0, 2.0, 1.0], 2), None);
        assert_eq!(cholesky(&mut [f64::NAN], 1), None);
    }

    #[test]
    fn a_smooth_function_is_learned_and_what_is_far_off_is_uncertain() {
        let declared = unit(&["a", "b"]);
        let space = Space::new(&declared);
        let bowl = |a: f64, b: f64| (a - 0.3).powi(2) + 0.5 * (b - 0.8).powi(2);
        let points: Vec<Observation> = (0..25)
            .map(|k| (f64::from(k % 5) / 8.0, f64::from(k / 5) / 8.0))
            .map(|(a, b)| seen(&[a, b], bowl(a, b)))
            .collect();
        let model = Surrogate::fit(&space, &points).unwrap();
        let (mean, near) = model.predict(&[0.31, 0.31]);
        assert!((mean - bowl(0.31, 0.31)).abs() < 0.01, "{mean}");
        let (_, far) = model.predict(&[1.0, 1.0]);
        assert!(far > 5.0 * near, "{far} {near}");
    }

    #[test]
    fn noise_is_not_fitted_and_a_mean_over_more_seeds_counts_more() {
        let declared = unit(&["a"]);
        let space = Space::new(&declared);
        let mut points: Vec<Observation> =
            (0..20).map(|k| seen(&[f64::from(k) / 20.0], if k % 2 == 0 { 1.0 } else { 0.0 })).collect();
        let even = Surrogate::fit(&space, &points).unwrap().predict(&[0.5]).0;
        assert!((even - 0.5).abs() < 0.2, "{even}");
        points[10].seeds = 100.0;
        let (sure, _) = Surrogate::fit(&space, &points).unwrap().predict(&[0.5]);
        assert!(sure > even + 0.1, "{sure} {even}");
    }

    #[test]
    fn sources_differ_by_an_offset_and_share_what_knobs_do() {
        let declared = unit(&["a"]);
        let space = Space::new(&declared);
        let mut points: Vec<Observation> = (0..12)
            .map(|k| f64::from(k) / 12.0)
            .map(|a| Observation { source: 1, ..seen(&[a], 10.0 + (a - 0.6).powi(2)) })
            .collect();
        points.push(seen(&[0.0], 0.36));
        let model = Surrogate::fit(&space, &points).unwrap();
        let gain = model.predict(&[0.0]).0 - model.predict(&[0.6]).0;
        assert!((0.15..0.45).contains(&gain), "{gain}");
    }
}
