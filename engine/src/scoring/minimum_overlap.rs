//! Erdős's minimum overlap problem, bounded from above by a step function
//! (J. K. Haugland, "The minimum overlap problem revisited", 2016).
//!
//! For h: [0, 2] → [0, 1] with integral 1, the bound is the largest overlap
//! ∫ h(x)·(1 − h(x + k)) dx over all shifts k, where both factors are zero
//! outside [0, 2]. Between multiples of the step's width it is linear in k, so
//! the largest value is at a multiple.
//!
//! The output is at most 2000 heights, little-endian `f64` in [0, 1], rounded
//! to multiples of U = 2⁻⁴⁰. They are scaled here to the integral 1; a
//! function that would then exceed 1 is refused. With the sum S, the scaled
//! overlap at shift k is (2·S·A − n·B) / 2·S², where A sums the heights that
//! meet a step and B the products: integers below 2¹¹⁰.

use super::numbers::{doubles, to_grid};
use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumOverlap {
    /// The most steps: 1 to 2000.
    pub most_steps: u32,
}

impl Construction for MinimumOverlap {
    fn fault(&self) -> Option<Fault> {
        super::autocorrelation::steps_fault(self.most_steps)
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.most_steps]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let heights = super::autocorrelation::heights(output, self.most_steps)?;
        if let Some(at) = heights.iter().position(|h| !(0.0..=1.0).contains(h)) {
            return Err(format!("height {at} is outside 0..=1"));
        }
        let h: Vec<i128> = heights.into_iter().map(|v| to_grid(v, 40)).collect();
        let n = h.len();
        let sum: i128 = h.iter().sum();
        if sum == 0 {
            return Err("all heights are zero".into());
        }
        // Height · n / (2 S) is the height once the integral is 1.
        if let Some(at) = h.iter().position(|v| v * n as i128 > 2 * sum) {
            return Err(format!("height {at} exceeds 1 once the integral is 1"));
        }
        let mut most = 0;
        for shift in 0..n {
            for (met, meets) in [(&h[..n - shift], &h[shift..]), (&h[shift..], &h[..n - shift])] {
                let plain: i128 = met.iter().sum();
                let products: i128 = met.iter().zip(meets).map(|(a, b)| a * b).sum();
                most = most.max(2 * sum * plain - n as i128 * products);
            }
        }
        Ok(most as f64 / (2 * sum * sum) as f64)
    }
}

/// Doubles, counted by the caller.
pub(super) fn any_count(output: &[u8], most: u32) -> Result<Vec<f64>, String> {
    let count = output.len() / 8;
    if count == 0 || count > most as usize {
        return Err(format!("{count} heights, but 1 to {most} are asked for"));
    }
    doubles(output, count, "heights")
}

#[cfg(test)]
mod tests {
    use super::super::numbers::bytes;
    use super::super::published::construction;
    use super::*;

    fn value(heights: &[f64]) -> Result<f64, String> {
        MinimumOverlap { most_steps: 2000 }.value(&bytes(heights.iter().copied()))
    }

    /// The published half, mirrored: 95 steps.
    fn published() -> Vec<f64> {
        let half = construction("erdos_overlap");
        half.iter().chain(half.iter().rev().skip(1)).copied().collect()
    }

    #[test]
    fn the_published_function_is_worth_what_was_published() {
        let score = value(&published()).unwrap();
        assert!((score - 0.380_923_035_1).abs() < 1e-9, "{score}");
        // The constant ½: the overlap without shift is ½.
        assert_eq!(value(&[0.5; 10]), Ok(0.5));
    }

    #[test]
    fn it_is_normalised_here() {
        // Half as high: scaled up to the integral 1, the same function.
        let score = value(&published()).unwrap();
        let low: Vec<f64> = published().iter().map(|h| h / 2.0).collect();
        assert!((value(&low).unwrap() - score).abs() < 1e-9);
        // Almost nothing, which unscaled would overlap almost nothing.
        assert!(value(&[1.0, 1e-9, 1e-9, 1e-9]).unwrap_err().contains("exceeds 1"));
        assert!(value(&[0.0; 4]).unwrap_err().contains("zero"));
    }

    #[test]
    fn cheats_are_worth_nothing() {
        for bad in [f64::NAN, -1e-12, 1.0 + 1e-12, f64::INFINITY] {
            let mut heights = published();
            heights[40] = bad;
            assert!(value(&heights).is_err(), "{bad}");
        }
        assert!(value(&[]).is_err());
        assert!(value(&[0.5; 2001]).is_err());
        assert!(MinimumOverlap { most_steps: 10 }.value(&[0; 79]).is_err());
    }
}
