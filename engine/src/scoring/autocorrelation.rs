//! Three autocorrelation inequalities, each bounded by a step function
//! (M. Matolcsi, C. Vinuesa, "Improved bounds on the supremum of
//! autoconvolutions", 2010; AlphaEvolve, 2025, appendix B).
//!
//! For f on [-¼, ¼] with n steps of heights h, f∗f is piecewise linear, and
//! its values at the joints are the convolution c of the heights, scaled. With
//! S = Σ h the scores are
//!
//! 1. 2n · max c / S², heights not negative, to be made small;
//! 2. ‖f∗f‖² / (‖f∗f‖₁ · ‖f∗f‖∞), heights not negative, to be made large: with
//!    c continued by zeros, Σ (c² + c·c′ + c′²)/3 over neighbours c, c′, divided
//!    by Σ c · max c;
//! 3. 2n · max c / S², heights of either sign, S not zero, to be made small.
//!
//! Heights are divided by the largest in size and rounded to multiples of
//! 2⁻⁴⁰; the convolution is exact (below 2⁹¹). In (2) the squares are summed
//! as doubles: all terms are positive, so the error is below 2⁻³⁹ of the sum,
//! and that much is taken off.

use super::minimum_overlap::any_count;
use super::numbers::to_grid;
use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

/// The most steps that any task may allow.
pub const MOST_STEPS: u32 = 2000;

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Autocorrelation {
    /// Which of the three.
    pub inequality: u32,
    /// The most steps: 1 to 2000.
    pub most_steps: u32,
}

/// Whether a task may ask for that many steps.
pub(super) fn steps_fault(most_steps: u32) -> Option<Fault> {
    (!(1..=MOST_STEPS).contains(&most_steps)).then(|| {
        let what = format!("most_steps = {most_steps} is out of range: 1..={MOST_STEPS}");
        ("most_steps", what, "the score takes time quadratic in the steps")
    })
}

/// 1 to `most` finite heights.
pub(super) fn heights(output: &[u8], most: u32) -> Result<Vec<f64>, String> {
    any_count(output, most)
}

impl Construction for Autocorrelation {
    fn fault(&self) -> Option<Fault> {
        if !(1..=3).contains(&self.inequality) {
            let what = format!("inequality = {} is out of range: 1..=3", self.inequality);
            return Some(("inequality", what, "1, 2 or 3"));
        }
        steps_fault(self.most_steps)
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.inequality, self.most_steps]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let heights = heights(output, self.most_steps)?;
        if self.inequality != 3
            && let Some(at) = heights.iter().position(|h| *h < 0.0)
        {
            return Err(format!("height {at} is negative"));
        }
        let largest = heights.iter().fold(0.0, |most: f64, h| most.max(h.abs()));
        if largest == 0.0 {
            return Err("all heights are zero".into());
        }
        let h: Vec<i128> = heights.iter().map(|v| to_grid(v / largest, 40)).collect();
        let sum: i128 = h.iter().sum();
        if sum == 0 {
            return Err("the heights sum to zero".into());
        }
        let c = convolution(&h);
        let most = c.iter().copied().max().unwrap_or(0);
        if self.inequality == 2 {
            return Ok(square_norm(&c) / (sum * sum) as f64 / most as f64);
        }
        Ok((2 * h.len() as i128 * most) as f64 / (sum * sum) as f64)
    }
}

fn convolution(h: &[i128]) -> Vec<i128> {
    let mut c = vec![0i128; 2 * h.len() - 1];
    // Products are below 2⁸⁰, and are made of factors that fit in i64.
    for (i, a) in h.iter().enumerate() {
        for (sum, b) in c[i..].iter_mut().zip(h) {
            *sum += i128::from(*a as i64) * i128::from(*b as i64);
        }
    }
    c
}

/// Σ (c² + c·c′ + c′²)/3 over neighbours, rounded down.
fn square_norm(c: &[i128]) -> f64 {
    let padded = || [0].into_iter().chain(c.iter().copied()).chain([0]).map(|v| v as f64);
    let sum: f64 = padded().zip(padded().skip(1)).map(|(a, b)| a * a + a * b + b * b).sum();
    sum / 3.0 * (1.0 - 2f64.powi(-39))
}

#[cfg(test)]
mod tests {
    use super::super::numbers::bytes;
    use super::super::published::construction;
    use super::*;

    fn value(inequality: u32, heights: &[f64]) -> Result<f64, String> {
        Autocorrelation { inequality, most_steps: 2000 }.value(&bytes(heights.iter().copied()))
    }

    #[test]
    fn published_functions_are_worth_what_was_published() {
        for (inequality, published) in [(1, 1.505_293_968_4), (2, 0.896_279_944_1), (3, 1.455_642_795_3)] {
            let score = value(inequality, &construction(&format!("autocorrelation_{inequality}"))).unwrap();
            assert!((score - published).abs() < 2e-10, "{inequality}: {score}");
        }
    }

    #[test]
    fn one_step_is_known_by_hand_and_scale_does_not_matter() {
        // f∗f is a triangle: max 2, and ∫t² / (∫t · max) = ⅔.
        assert_eq!(value(1, &[7.0; 5]), Ok(2.0));
        assert_eq!(value(3, &[-7.0; 5]), Ok(2.0));
        let two_thirds = value(2, &[1e-30]).unwrap();
        assert!((two_thirds - 2.0 / 3.0).abs() < 1e-11 && two_thirds < 2.0 / 3.0);
        let heights = construction("autocorrelation_1");
        let scaled: Vec<f64> = heights.iter().map(|h| h * 1e200).collect();
        assert!((value(1, &scaled).unwrap() - value(1, &heights).unwrap()).abs() < 1e-9);
    }

    #[test]
    fn cheats_are_worth_nothing() {
        for inequality in [1, 2, 3] {
            for bad in [f64::NAN, f64::INFINITY] {
                assert!(value(inequality, &[1.0, bad, 1.0]).is_err());
            }
            assert!(value(inequality, &[]).is_err());
            assert!(value(inequality, &[0.0; 3]).unwrap_err().contains("zero"));
            assert!(value(inequality, &[1.0; 2001]).unwrap_err().contains("2001 heights"));
        }
        assert!(value(1, &[1.0, -1e-12]).unwrap_err().contains("height 1 is negative"));
        assert!(value(2, &[1.0, -1e-12]).is_err());
        assert!(value(3, &[1.0, -1.0]).unwrap_err().contains("sum to zero"));
        // A peak whose square overflows is a peak like any other.
        assert_eq!(value(1, &[f64::MAX]), Ok(2.0));
    }
}
