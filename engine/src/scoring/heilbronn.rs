//! Heilbronn's problem: n points whose smallest triangle is as large as
//! possible, as a share of the region's area.
//!
//! Points are 2·n little-endian `f64`, each within [-2, 2], rounded to the
//! grid of multiples of 2⁻⁵⁰; what is on the grid is judged, in 128-bit
//! integers (doubled areas are below 2·(2⁵³)² = 2¹⁰⁷). The region is either
//! the convex hull of the points themselves or a triangle. The share does not
//! change under affine maps, so the triangle is (0,0), (1,0), (0,1), whose
//! corners lie on the grid; an equilateral one with its lower side from (0,0)
//! to (1,0) is mapped to it by (x, y) → (x − y/√3, 2y/√3).

use super::numbers::{doubles, to_grid};
use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

const BITS: i32 = 50;
const GRID: i128 = 1 << BITS;

/// Where the points lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// In the triangle (0,0), (1,0), (0,1), borders included.
    Triangle,
    /// Anywhere; areas are shares of the convex hull's.
    Convex,
}

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heilbronn {
    /// How many points: 3 to 256.
    pub n: u32,
    /// Where they lie.
    pub region: Region,
}

type Point = (i128, i128);

impl Construction for Heilbronn {
    fn fault(&self) -> Option<Fault> {
        (!(3..=256).contains(&self.n)).then(|| {
            ("n", format!("n = {} is out of range: 3..=256", self.n), "11, 13 and 14 have published records")
        })
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.n, u32::from(self.region == Region::Convex)]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let values = doubles(output, 2 * self.n as usize, "coordinates")?;
        if let Some(at) = values.iter().position(|v| v.abs() > 2.0) {
            return Err(format!("coordinate {at} is outside -2..=2"));
        }
        let points: Vec<Point> =
            values.as_chunks::<2>().0.iter().map(|p| (to_grid(p[0], BITS), to_grid(p[1], BITS))).collect();
        let whole = match self.region {
            Region::Triangle => {
                let outside = |p: &Point| p.0 < 0 || p.1 < 0 || p.0 + p.1 > GRID;
                if let Some(at) = points.iter().position(outside) {
                    return Err(format!("point {at} lies outside the triangle"));
                }
                GRID * GRID
            }
            Region::Convex => doubled_hull_area(&points),
        };
        if whole == 0 {
            return Err("all points lie on one line".into());
        }
        // Both are integers below 2¹⁰⁷: two roundings and one division.
        Ok(smallest_doubled_area(&points) as f64 / whole as f64)
    }
}

/// Twice the signed area of a triangle.
fn cross(a: Point, b: Point, c: Point) -> i128 {
    (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
}

fn smallest_doubled_area(points: &[Point]) -> i128 {
    let mut smallest = i128::MAX;
    for (i, a) in points.iter().enumerate() {
        for (j, b) in points.iter().enumerate().skip(i + 1) {
            for c in &points[j + 1..] {
                smallest = smallest.min(cross(*a, *b, *c).abs());
            }
        }
    }
    smallest
}

/// Twice the area of the convex hull, by Andrew's monotone chain.
fn doubled_hull_area(points: &[Point]) -> i128 {
    let mut sorted = points.to_vec();
    sorted.sort_unstable();
    let mut area = 0;
    for upper in [false, true] {
        let mut chain: Vec<Point> = Vec::new();
        for point in &sorted {
            while let [.., a, b] = chain[..]
                && (cross(a, b, *point) <= 0) != upper
            {
                chain.pop();
            }
            chain.push(*point);
        }
        // The area between chain and axis, counted with its sign.
        let below: i128 = chain.windows(2).map(|w| (w[1].0 - w[0].0) * (w[0].1 + w[1].1)).sum();
        area += if upper { below } else { -below };
    }
    area
}

#[cfg(test)]
mod tests {
    use super::super::numbers::bytes;
    use super::super::published::construction;
    use super::*;

    fn value(n: u32, region: Region, values: &[f64]) -> Result<f64, String> {
        Heilbronn { n, region }.value(&bytes(values.iter().copied()))
    }

    /// From the published equilateral triangle to ours, clear of rounding.
    fn eleven() -> Vec<f64> {
        let root = 3f64.sqrt();
        construction("heilbronn_triangle_11")
            .chunks(2)
            .flat_map(|p| {
                let (x, y) = (p[0] - p[1] / root, 2.0 * p[1] / root);
                let shrink = 1.0 - 1e-13;
                [1e-14 + shrink * x.max(0.0), 1e-14 + shrink * y.max(0.0)]
            })
            .collect()
    }

    #[test]
    fn published_points_are_worth_what_was_published() {
        let triangle = value(11, Region::Triangle, &eleven()).unwrap();
        assert!((triangle - 0.036_529_889_9).abs() < 1e-9, "{triangle}");
        for (n, expected) in [(13, 0.030_936_889_0), (14, 0.027_835_571_5)] {
            let points = construction(&format!("heilbronn_convex_{n}"));
            let score = value(n, Region::Convex, &points).unwrap();
            assert!((score - expected).abs() < 1e-9, "{n}: {score}");
            // An affine map changes nothing but roundings.
            let mapped: Vec<f64> =
                points.chunks(2).flat_map(|p| [0.3 * p[0] - 0.2 * p[1], 0.7 * p[1] - 0.1]).collect();
            assert!((value(n, Region::Convex, &mapped).unwrap() - score).abs() < 1e-12);
        }
    }

    #[test]
    fn cheats_are_worth_nothing() {
        let good = eleven();
        let with = |at: usize, v: f64| {
            let mut points = good.clone();
            points[at] = v;
            value(11, Region::Triangle, &points)
        };
        assert!(with(0, f64::NAN).unwrap_err().contains("not finite"));
        assert!(with(0, -1e-12).unwrap_err().contains("outside the triangle"));
        assert!(with(3, 1.0 + 1e-12).unwrap_err().contains("outside the triangle"));
        assert!(with(3, 1e18).unwrap_err().contains("-2..=2"));
        assert!(value(11, Region::Triangle, &good[..20]).is_err());
        assert!(value(10, Region::Triangle, &good).is_err());
        // A duplicate makes a triangle of no area.
        let mut twice = good.clone();
        (twice[0], twice[1]) = (twice[2], twice[3]);
        assert_eq!(value(11, Region::Triangle, &twice), Ok(0.0));
        assert!(value(3, Region::Convex, &[0.0, 0.0, 1.0, 1.0, 0.5, 0.5]).unwrap_err().contains("one line"));
        assert!(value(3, Region::Convex, &[0.5; 6]).is_err());
    }

    #[test]
    fn the_hull_is_the_hull() {
        let square = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0];
        assert_eq!(value(4, Region::Convex, &square), Ok(0.5));
        // A point on a side and one inside change the hull not at all.
        let points: Vec<Point> = [(0, 0), (4, 0), (4, 4), (0, 4), (2, 0), (1, 2)].into();
        assert_eq!(doubled_hull_area(&points), 32);
    }
}
