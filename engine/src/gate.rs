//! The gate: may a challenger replace the incumbent?
//!
//! Challenger and incumbent are evaluated on the same seeds, and the paired
//! differences ("gains", positive is better) are tested with a one-sided
//! Student t-test at a few fixed looks: after 3, 4, 6, 8, 12, 16 … pairs.
//!
//! **Error control.** The chance that anything is accepted in a whole run in
//! which nothing is better is at most `alpha`. By Bonferroni's inequality,
//! which holds however the tests depend on one another (they share the
//! incumbent's scores), each look tests at `alpha / (looks · challengers)`,
//! where `challengers` bounds how many the run can test at all. Dropping a
//! challenger early only lowers the chance. The t-test assumes normal
//! differences. Those of equally good candidates are symmetric whatever the
//! noise, and for uniform, coarse, skewed and heavy-tailed noise the bound
//! still holds (a test below). Noise with two sharp peaks breaks it: a few
//! nearly equal differences look like proof, and at `alpha` = 0.05 races err
//! in about 13 % of runs. The final comparison, on seeds of its own, then
//! lets through one in eighty.
//!
//! **Zero variance.** A deterministic task gives the same difference on each
//! seed, for which t is not defined. If the task's noise floor is zero too,
//! the challenger is accepted exactly when it is strictly better on all
//! pairs. If the floor is not zero, equal differences are a coincidence (of
//! coarse scores, say), and √2 times the floor stands in for their deviation.

mod student;

use serde::{Deserialize, Serialize};

/// Fewest pairs that are ever judged.
pub const MIN_PAIRS: usize = 3;

/// Confidence of every reported interval.
pub const CONFIDENCE: f64 = 0.95;

/// Mean of paired differences with its Student t interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Mean difference, positive is better, in units of the metric.
    pub mean: f64,
    /// Lower end of the two-sided 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Standard deviation of the differences.
    pub sd: f64,
    /// Number of pairs.
    pub pairs: u32,
    /// One-sided p-value of "not better".
    pub p_value: f64,
}

impl Gain {
    /// The gain over these differences; none for fewer than two. `noise` is
    /// the standard deviation of one score of the baseline over seeds.
    pub fn of(gains: &[f64], noise: f64) -> Option<Self> {
        if gains.len() < 2 {
            return None;
        }
        let n = gains.len() as f64;
        let (mean, mut sd) = mean_and_sd(gains);
        if gains.iter().all(|gain| *gain == gains[0]) {
            sd = noise * std::f64::consts::SQRT_2;
        }
        let pairs = gains.len() as u32;
        if sd == 0.0 {
            let p_value = if mean > 0.0 { 0.0 } else { 1.0 };
            return Some(Self { mean, low: mean, high: mean, sd, pairs, p_value });
        }
        let error = sd / n.sqrt();
        let half = student::upper_quantile((1.0 - CONFIDENCE) / 2.0, n - 1.0) * error;
        let p_value = student::tail(mean / error, n - 1.0);
        Some(Self { mean, low: mean - half, high: mean + half, sd, pairs, p_value })
    }

    /// A gain of which only mean, standard error and degrees of freedom are
    /// known; `pairs` is the size of the smaller group.
    pub(crate) fn welch(mean: f64, error: f64, degrees: f64, pairs: u32) -> Self {
        if !(error > 0.0 && degrees.is_finite()) {
            let p_value = if mean > 0.0 { 0.0 } else { 1.0 };
            return Self { mean, low: mean, high: mean, sd: 0.0, pairs, p_value };
        }
        let half = student::upper_quantile((1.0 - CONFIDENCE) / 2.0, degrees) * error;
        let p_value = student::tail(mean / error, degrees);
        Self { mean, low: mean - half, high: mean + half, sd: error, pairs, p_value }
    }

    /// Whether the interval lies above zero.
    pub fn beats_noise(&self) -> bool {
        self.low > 0.0
    }
}

/// Mean and sample standard deviation (n - 1); the deviation of one value is 0.
pub fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    if values.iter().all(|v| *v == values[0]) {
        // Exactly zero, whatever the rounding of the mean.
        return (values[0], 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// What one look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better, beyond the threshold.
    Accept,
    /// More pairs may tell.
    Continue,
    /// Not better, or hopeless within the pairs that remain.
    Reject,
}

/// The sequential test of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    looks: Vec<usize>,
    threshold: f64,
    drop_below: f64,
    noise: f64,
}

impl Gate {
    /// A gate of at most `max_pairs` pairs per challenger that errs with
    /// probability `alpha` at most over `challengers` challengers. `noise` is
    /// the noise floor; `drop_below` as in `[search]`.
    pub fn new(max_pairs: u32, alpha: f64, challengers: u64, drop_below: f64, noise: f64) -> Self {
        let looks = looks(max_pairs as usize);
        let threshold = alpha / (looks.len() as f64 * challengers.max(1) as f64);
        Self { looks, threshold, drop_below, noise }
    }

    /// After how many pairs the gate looks, ascending.
    pub fn looks(&self) -> &[usize] {
        &self.looks
    }

    /// The p-value below which a look accepts.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Whether a challenger whose first paired difference is `gain` is a
    /// clear loser. Without noise one difference tells all.
    pub fn is_clear_loser(&self, gain: f64) -> bool {
        if self.noise == 0.0 {
            gain <= 0.0
        } else {
            gain < -self.drop_below * self.noise * std::f64::consts::SQRT_2
        }
    }

    /// Judges the paired differences so far.
    pub fn judge(&self, gains: &[f64]) -> Verdict {
        if gains.len() < MIN_PAIRS {
            return Verdict::Continue;
        }
        let Some(gain) = Gain::of(gains, self.noise) else {
            return Verdict::Continue;
        };
        if gain.p_value <= self.threshold && gain.mean > 0.0 {
            return Verdict::Accept;
        }
        if gain.mean <= 0.0 || self.is_hopeless(&gain) {
            return Verdict::Reject;
        }
        Verdict::Continue
    }

    /// Whether, were the mean and deviation seen so far the true ones, the
    /// last look would miss its critical value by more than a factor of two.
    fn is_hopeless(&self, gain: &Gain) -> bool {
        let last = self.looks.last().copied().unwrap_or(MIN_PAIRS) as f64;
        let projected = gain.mean / gain.sd * last.sqrt();
        2.0 * projected < student::upper_quantile(self.threshold, last - 1.0)
    }
}

/// 3, 4, 6, 8, 12, 16, 24 … up to `max`, and `max` itself.
fn looks(max: usize) -> Vec<usize> {
    let max = max.max(MIN_PAIRS);
    let mut looks = vec![MIN_PAIRS];
    let (mut small, mut large) = (4, 6);
    while small < max {
        looks.push(small);
        if large < max {
            looks.push(large);
        }
        (small, large) = (small * 2, large * 2);
    }
    if looks.last() != Some(&max) {
        looks.push(max);
    }
    looks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::SplitMix64;

    fn normal(rng: &mut SplitMix64) -> f64 {
        // Box–Muller.
        let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * rng.unit()).cos()
    }

    #[test]
    fn looks_rise_to_the_maximum() {
        assert_eq!(looks(3), [3]);
        assert_eq!(looks(5), [3, 4, 5]);
        assert_eq!(looks(8), [3, 4, 6, 8]);
        assert_eq!(looks(20), [3, 4, 6, 8, 12, 16, 20]);
        assert_eq!(looks(0), [3]);
    }

    #[test]
    fn an_interval_is_the_textbook_one() {
        // Differences 1, 2, 3: mean 2, sd 1, t(0.025; 2) = 4.3027.
        let gain = Gain::of(&[1.0, 2.0, 3.0], 0.1).unwrap();
        assert!((gain.low - (2.0 - 4.302_65 / 3f64.sqrt())).abs() < 1e-4);
        assert!((gain.high - (2.0 + 4.302_65 / 3f64.sqrt())).abs() < 1e-4);
        assert_eq!(Gain::of(&[1.0], 0.1), None);
    }

    #[test]
    fn without_noise_strictly_better_on_all_pairs_is_accepted_and_equal_is_not() {
        let gate = Gate::new(8, 0.05, 100, 1.0, 0.0);
        assert_eq!(gate.judge(&[1e-12; 3]), Verdict::Accept);
        assert_eq!(gate.judge(&[1e-12; 2]), Verdict::Continue);
        assert_eq!(gate.judge(&[0.0; 3]), Verdict::Reject);
        assert_eq!(gate.judge(&[-1.0; 3]), Verdict::Reject);
        assert!(gate.is_clear_loser(0.0) && !gate.is_clear_loser(1e-15));
    }

    #[test]
    fn equal_differences_of_a_noisy_task_are_no_proof() {
        let gate = Gate::new(8, 0.05, 100, 1.0, 1.0);
        assert_ne!(gate.judge(&[1.0; 3]), Verdict::Accept);
        assert!(gate.is_clear_loser(-1.5) && !gate.is_clear_loser(-1.4));
    }

    #[test]
    fn a_large_gain_passes_early_and_a_loss_is_rejected_early() {
        let gate = Gate::new(8, 0.05, 48, 1.0, 0.01);
        assert_eq!(gate.judge(&[1.0, 1.01, 0.99]), Verdict::Accept);
        assert_eq!(gate.judge(&[0.01, -0.02, -0.01]), Verdict::Reject);
    }

    #[test]
    fn pure_noise_is_accepted_no_oftener_than_stated() {
        // 2,000 runs of 20 challengers against one incumbent each, nothing
        // better: at most alpha = 20 % of the runs may keep something.
        let (runs, challengers) = (2000, 20);
        let gate = Gate::new(8, 0.2, challengers, 1.0, 1.0);
        let mut rng = SplitMix64::new(7);
        let mut erred = 0;
        for _ in 0..runs {
            let incumbent: Vec<f64> = (0..8).map(|_| normal(&mut rng)).collect();
            let accepted = (0..challengers).any(|_| {
                let gains: Vec<f64> = incumbent.iter().map(|i| normal(&mut rng) - i).collect();
                accepts(&gate, &gains)
            });
            erred += usize::from(accepted);
        }
        assert!(erred <= 400, "{erred} of {runs} runs kept noise");
    }

    type Shape = fn(&mut SplitMix64) -> f64;

    /// At the defaults: in which share of 2,000 runs races prefer something
    /// though nothing is better, and how often the final comparison would
    /// confirm it.
    fn errors(shape: Shape) -> (f64, f64) {
        let (runs, challengers) = (2000, 48);
        let config = crate::task::SearchConfig::default();
        let mut rng = SplitMix64::new(5);
        let mut draw = |count: u32| -> Vec<f64> { (0..count).map(|_| shape(&mut rng)).collect() };
        let (mut raced, mut confirmed) = (0, 0);
        for _ in 0..runs {
            let noise = mean_and_sd(&draw(config.noise_seeds)).1;
            let gate = Gate::new(config.race_seeds, config.alpha, challengers, config.drop_below, noise);
            let incumbent = draw(config.race_seeds);
            let mut gains = |count: u32, than: &[f64]| -> Vec<f64> {
                draw(count).iter().zip(than).map(|(new, old)| new - old).collect()
            };
            raced +=
                usize::from((0..challengers).any(|_| accepts(&gate, &gains(config.race_seeds, &incumbent))));
            for _ in 0..10 {
                let zeros = [0.0; 5];
                let baseline = gains(config.final_seeds, &zeros);
                let gain = Gain::of(&gains(config.final_seeds, &baseline), noise);
                confirmed += usize::from(gain.is_some_and(|gain| gain.beats_noise()));
            }
        }
        (raced as f64 / f64::from(runs), confirmed as f64 / f64::from(10 * runs))
    }

    #[test]
    fn noise_of_any_shape_is_kept_by_one_run_in_five_hundred_at_most() {
        let shapes: [(&str, f64, Shape); 8] = [
            ("normal", 0.05, normal),
            ("uniform", 0.05, |rng| rng.unit()),
            ("coarse", 0.05, |rng| normal(rng).round()),
            ("exponential", 0.05, |rng| -(1.0 - rng.unit()).ln()),
            ("log-normal", 0.05, |rng| (1.5 * normal(rng)).exp()),
            ("Cauchy", 0.05, |rng| (std::f64::consts::PI * (rng.unit() - 0.5)).tan()),
            ("two values", 0.05, |rng| f64::from(rng.unit() < 0.5)),
            ("two peaks", 0.15, |rng| f64::from(rng.unit() < 0.5) + 0.001 * normal(rng)),
        ];
        for (name, most, shape) in shapes {
            let (raced, confirmed) = errors(shape);
            println!("{name}: races err in {raced:.4} of runs, final comparisons {confirmed:.4}");
            assert!(raced <= most, "{name}: {raced}");
            assert!(confirmed <= 0.03, "{name}: {confirmed}");
            assert!(raced * confirmed <= 1.0 / 500.0, "{name}: {raced} · {confirmed}");
        }
    }

    #[test]
    fn a_gain_of_four_deviations_is_found_almost_always() {
        let gate = Gate::new(8, 0.05, 48, 1.0, 1.0);
        let mut rng = SplitMix64::new(11);
        let found = (0..200)
            .filter(|_| {
                let gains: Vec<f64> = (0..8)
                    .map(|_| 4.0 * std::f64::consts::SQRT_2 + normal(&mut rng) - normal(&mut rng))
                    .collect();
                accepts(&gate, &gains)
            })
            .count();
        assert!(found >= 190, "{found} of 200");
    }

    fn accepts(gate: &Gate, gains: &[f64]) -> bool {
        if gate.is_clear_loser(gains[0]) {
            return false;
        }
        for look in gate.looks() {
            match gate.judge(&gains[..*look]) {
                Verdict::Accept => return true,
                Verdict::Reject => return false,
                Verdict::Continue => {}
            }
        }
        false
    }
}
