//! n points whose largest distance is as small as possible beside their
//! smallest: the score is the square of the ratio.
//!
//! Points are n·d little-endian `f64`, each within [-16, 16], rounded to the
//! grid of multiples of 2⁻⁵⁰. Squared distances are integers below
//! 3·(2⁵⁵)² < 2¹¹²; the ratio is rounded at the end only.

use super::numbers::{doubles, to_grid};
use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxMinDistance {
    /// How many points: 2 to 1024.
    pub n: u32,
    /// In how many dimensions: 2 or 3.
    pub dimensions: u32,
}

impl Construction for MaxMinDistance {
    fn fault(&self) -> Option<Fault> {
        if !(2..=1024).contains(&self.n) {
            let what = format!("n = {} is out of range: 2..=1024", self.n);
            return Some(("n", what, "16 in two dimensions and 14 in three have published records"));
        }
        (!(2..=3).contains(&self.dimensions)).then(|| {
            ("dimensions", format!("dimensions = {} is out of range: 2..=3", self.dimensions), "2 or 3")
        })
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.n, self.dimensions]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let dimensions = self.dimensions as usize;
        let values = doubles(output, self.n as usize * dimensions, "coordinates")?;
        if let Some(at) = values.iter().position(|v| v.abs() > 16.0) {
            return Err(format!("coordinate {at} is outside -16..=16"));
        }
        let grid: Vec<i128> = values.into_iter().map(|v| to_grid(v, 50)).collect();
        let points: Vec<&[i128]> = grid.chunks(dimensions).collect();
        let (mut least, mut most) = (i128::MAX, 0);
        for (i, a) in points.iter().enumerate() {
            for (j, b) in points.iter().enumerate().skip(i + 1) {
                let square: i128 = a.iter().zip(*b).map(|(x, y)| (x - y) * (x - y)).sum();
                if square == 0 {
                    return Err(format!("points {i} and {j} are the same"));
                }
                (least, most) = (least.min(square), most.max(square));
            }
        }
        Ok(most as f64 / least as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbers::bytes;
    use super::super::published::construction;
    use super::*;

    fn value(n: u32, dimensions: u32, values: &[f64]) -> Result<f64, String> {
        MaxMinDistance { n, dimensions }.value(&bytes(values.iter().copied()))
    }

    #[test]
    fn published_points_are_worth_what_was_published() {
        let flat = value(16, 2, &construction("max_min_distance_16_2d")).unwrap();
        assert!((flat - 12.889_266_112_0).abs() < 1e-8, "{flat}");
        let solid = value(14, 3, &construction("max_min_distance_14_3d")).unwrap();
        assert!((solid - 4.165_849_767_2).abs() < 1e-8, "{solid}");
    }

    #[test]
    fn cheats_are_worth_nothing() {
        let good = construction("max_min_distance_16_2d");
        let with = |at: usize, v: f64| {
            let mut points = good.clone();
            points[at] = v;
            value(16, 2, &points)
        };
        assert!(with(0, f64::NAN).unwrap_err().contains("not finite"));
        assert!(with(0, f64::INFINITY).is_err());
        assert!(with(0, 1e300).unwrap_err().contains("-16..=16"));
        assert!(value(15, 2, &good).is_err());
        assert!(value(16, 3, &good).is_err());
        let mut twice = good.clone();
        (twice[0], twice[1]) = (twice[2], twice[3]);
        assert!(value(16, 2, &twice).unwrap_err().contains("0 and 1 are the same"));
        // A hair apart, which the grid does not resolve, is the same too.
        twice[0] += 1e-17;
        assert!(value(16, 2, &twice).unwrap_err().contains("the same"));
        assert_eq!(value(3, 2, &[0.0, 0.0, 3.0, 0.0, 3.0, 4.0]), Ok(25.0 / 9.0));
    }
}
