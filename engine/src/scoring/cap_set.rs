//! Cap sets: points of the n-dimensional space over three elements, no three
//! on a line. The score is their number.
//!
//! A point is one byte per coordinate, each 0, 1 or 2; the output is any
//! number of different points. Three points are on a line exactly when they
//! sum to zero, so for each pair the third point of its line is looked up.

use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapSet {
    /// Dimensions: 1 to 8.
    pub n: u32,
}

impl Construction for CapSet {
    fn fault(&self) -> Option<Fault> {
        (!(1..=8).contains(&self.n)).then(|| {
            ("n", format!("n = {} is out of range: 1..=8", self.n), "for n = 8 the best known size is 512")
        })
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.n]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let n = self.n as usize;
        if output.is_empty() || !output.len().is_multiple_of(n) {
            return Err(format!("{} bytes are no whole number of points of {n} bytes", output.len()));
        }
        let points: Vec<&[u8]> = output.chunks(n).collect();
        let all = 3usize.pow(self.n);
        if points.len() > all {
            return Err(format!("{} points, but there are only {all}", points.len()));
        }
        let mut member = vec![false; all];
        for (at, point) in points.iter().enumerate() {
            if point.iter().any(|digit| *digit > 2) {
                return Err(format!("point {at} has a coordinate that is not 0, 1 or 2"));
            }
            if std::mem::replace(&mut member[number(point.iter().copied())], true) {
                return Err(format!("point {at} is given twice"));
            }
        }
        for (i, a) in points.iter().enumerate() {
            for (j, b) in points.iter().enumerate().skip(i + 1) {
                // −a − b modulo 3; different from both, as they differ.
                let third = number(a.iter().zip(*b).map(|(x, y)| (6 - x - y) % 3));
                if member[third] {
                    return Err(format!("points {i} and {j} are on a line with a third"));
                }
            }
        }
        Ok(points.len() as f64)
    }
}

fn number(digits: impl Iterator<Item = u8>) -> usize {
    digits.fold(0, |number, digit| 3 * number + usize::from(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(n: u32, points: &[&[u8]]) -> Result<f64, String> {
        CapSet { n }.value(&points.concat())
    }

    #[test]
    fn small_caps_are_known() {
        // The largest in two dimensions has 4 points; {0,1}ⁿ always is one.
        assert_eq!(value(2, &[&[0, 0], &[0, 1], &[1, 0], &[1, 1]]), Ok(4.0));
        let cube: Vec<u8> = (0..256u32).flat_map(|k| (0..8).map(move |d| (k >> d & 1) as u8)).collect();
        assert_eq!(CapSet { n: 8 }.value(&cube), Ok(256.0));
        // Checked against the definition: no cap of 5 points of the plane.
        for set in 0u32..512 {
            let points: Vec<[u8; 2]> =
                (0..9).filter(|k| set >> k & 1 == 1).map(|k: u8| [k / 3, k % 3]).collect();
            let line = points.iter().enumerate().any(|(i, a)| {
                points[..i]
                    .iter()
                    .enumerate()
                    .any(|(j, b)| points[..j].iter().any(|c| (0..2).all(|d| (a[d] + b[d] + c[d]) % 3 == 0)))
            });
            if set > 0 {
                assert_eq!(value(2, &points.iter().map(|p| p.as_slice()).collect::<Vec<_>>()).is_ok(), !line);
            }
            assert!(points.len() < 5 || line);
        }
    }

    #[test]
    fn cheats_are_worth_nothing() {
        assert!(value(2, &[&[0, 0], &[1, 1], &[2, 2]]).unwrap_err().contains("on a line"));
        assert!(value(2, &[&[0, 0], &[1, 0], &[0, 0]]).unwrap_err().contains("twice"));
        assert!(value(2, &[&[0, 3]]).unwrap_err().contains("not 0, 1 or 2"));
        assert!(value(2, &[&[0, 255]]).is_err());
        assert!(value(2, &[&[0, 0, 1]]).is_err());
        assert!(value(2, &[]).is_err());
        assert!(value(1, &[&[0; 4]]).unwrap_err().contains("only 3"));
    }
}
