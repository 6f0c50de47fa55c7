//! Who is asked: a bandit that learns which proposer pays per unit of cost.
//!
//! Each proposer earns rewards at an unknown rate per unit of cost, a Poisson
//! process with a Gamma prior; the one whose rate, drawn from its posterior,
//! is largest is asked (Thompson, 1933). Old rewards fade, because what pays
//! early does not pay late. Every draw follows from the run's seed.

use crate::candidate::Origin;
use crate::ledger::Ruling;
use crate::seeds::SplitMix64;

/// What a proposal earns that passed the gate, and one that was at least
/// worth several seeds.
const PASSED: f64 = 1.0;
const RACED: f64 = 0.1;
/// Prior: so much reward in so much cost.
const PRIOR_REWARD: f64 = 1.0;
const PRIOR_COST: f64 = 4.0;
/// What remains of the past after each generation.
const MEMORY: f64 = 0.97;
/// Share of draws that ignore what was learned.
const CHANCE: f64 = 0.1;
/// An evaluation costs one; so many millionths of money cost as much.
const MICROS_PER_EVALUATION: f64 = 1_000.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Arm {
    reward: f64,
    cost: f64,
}

/// One arm for each proposer.
#[derive(Clone, Debug)]
pub struct Bandit {
    arms: Vec<Arm>,
    learns: bool,
}

impl Bandit {
    /// For so many proposers; without learning, weights alone decide.
    pub fn new(arms: usize, learns: bool) -> Self {
        Self { arms: vec![Arm::default(); arms], learns }
    }

    /// Which proposer to ask, by the user's weights and by what each earned.
    /// None when no weight is positive.
    pub fn draw(&self, weights: &[f64], rng: &mut SplitMix64) -> Option<usize> {
        if !self.learns || rng.unit() < CHANCE {
            return rng.weighted(weights);
        }
        let mut best: Option<(usize, f64)> = None;
        for (arm, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            let seen = self.arms.get(arm).copied().unwrap_or_default();
            let rate = gamma(PRIOR_REWARD + seen.reward, rng) / (PRIOR_COST + seen.cost) * weight;
            if best.is_none_or(|(_, top)| rate > top) {
                best = Some((arm, rate));
            }
        }
        best.map(|(arm, _)| arm)
    }

    /// What came of a proposal of this arm.
    pub fn learn(&mut self, arm: usize, ruling: Ruling, origin: &Origin) {
        let reward = match ruling {
            Ruling::Kept | Ruling::Passed => PASSED,
            Ruling::NotBetter => RACED,
            _ => 0.0,
        };
        let money = origin.call.as_ref().map_or(0, |call| call.cost.micros);
        if let Some(arm) = self.arms.get_mut(arm) {
            arm.reward += reward;
            arm.cost += 1.0 + money as f64 / MICROS_PER_EVALUATION;
        }
    }

    /// A generation is over.
    pub fn fade(&mut self) {
        for arm in &mut self.arms {
            arm.reward *= MEMORY;
            arm.cost *= MEMORY;
        }
    }
}

/// A draw from Gamma(`shape` ≥ 1, 1): G. Marsaglia, W. W. Tsang, "A simple
/// method for generating gamma variables", ACM TOMS 26(3), 2000.
fn gamma(shape: f64, rng: &mut SplitMix64) -> f64 {
    let d = shape.max(1.0) - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    // Accepts more than nine in ten draws; the bound is never met.
    for _ in 0..1000 {
        let x = (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos();
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - rng.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_pays_is_asked_more_and_nobody_is_forgotten() {
        let mut bandit = Bandit::new(3, true);
        let mut rng = SplitMix64::new(5);
        let mut asked = [0; 3];
        let free = Origin::new("p", "", String::new());
        for step in 0..600 {
            let arm = bandit.draw(&[1.0, 1.0, 0.0], &mut rng).unwrap();
            asked[arm] += 1;
            let pays = rng.unit() < [0.05, 0.4, 1.0][arm];
            bandit.learn(arm, if pays { Ruling::Kept } else { Ruling::Dropped }, &free);
            if step % 6 == 0 {
                bandit.fade();
            }
        }
        assert_eq!(asked[2], 0, "a weight of zero switches off");
        assert!(asked[1] > 2 * asked[0] && asked[0] > 20, "{asked:?}");
    }

    #[test]
    fn money_counts_as_cost() {
        use crate::candidate::{Call, Cost};
        let mut bandit = Bandit::new(2, true);
        let mut rng = SplitMix64::new(6);
        let mut dear = Origin::new("model", "", String::new());
        let cost = Cost { requests: 1, input_tokens: 1, output_tokens: 1, micros: 100_000 };
        dear.call = Some(Call { model: "m".into(), prompt: crate::ids::BlobId::of(b""), cost });
        for _ in 0..30 {
            bandit.learn(0, Ruling::Kept, &dear);
            bandit.learn(1, Ruling::Kept, &Origin::new("p", "", String::new()));
        }
        let cheap = (0..200).filter(|_| bandit.draw(&[1.0, 1.0], &mut rng) == Some(1)).count();
        assert!(cheap > 150, "{cheap}");
    }

    #[test]
    fn gamma_draws_have_mean_and_variance_of_their_shape() {
        let mut rng = SplitMix64::new(9);
        for shape in [1.0, 2.5, 20.0] {
            let draws: Vec<f64> = (0..20_000).map(|_| gamma(shape, &mut rng)).collect();
            let (mean, sd) = crate::gate::mean_and_sd(&draws);
            assert!((mean / shape - 1.0).abs() < 0.04, "{shape}: {mean}");
            assert!((sd * sd / shape - 1.0).abs() < 0.1, "{shape}: {sd}");
        }
    }
}
