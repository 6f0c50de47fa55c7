//! Disjoint circles in a square or a rectangle: zero tolerance, exact integers.
//!
//! A packing is, for a rectangle, its width, then 3·n numbers: x, y, r for
//! each circle; all little-endian `f64`. Widths and centres are rounded to the
//! grid of multiples of 2⁻⁵⁰ (to nearest) and radii *down* to it; the packing
//! so rounded is what is judged and what is scored. It must lie in the closed
//! square of side 1, or in the closed rectangle of perimeter 4, and no two
//! circles may overlap; they may touch. All of it is decided in 128-bit
//! integers, so no tolerance is needed and none is given: an overlap of one
//! grid unit is refused.
//!
//! The squares compared are at most 2·(2·2⁵⁰)² < 2¹⁰⁴, far inside `i128`.

use super::numbers::{doubles, to_grid};
use super::{Construction, Fault};
use serde::{Deserialize, Serialize};

const BITS: i32 = 50;

/// Grid units per unit of length.
pub const GRID: i128 = 1 << BITS;

/// The most circles in one packing.
pub const MAX_CIRCLES: u32 = 4096;

/// What the circles are packed into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// The unit square.
    #[default]
    Square,
    /// A rectangle of perimeter 4, whose width is the candidate's choice.
    Rectangle,
}

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circles {
    /// How many circles: 1 to [`MAX_CIRCLES`].
    pub n: u32,
    /// What they are packed into.
    #[serde(default)]
    pub container: Container,
}

/// A circle on the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Circle {
    x: i128,
    y: i128,
    r: i128,
}

impl Construction for Circles {
    fn fault(&self) -> Option<Fault> {
        (!(1..=MAX_CIRCLES).contains(&self.n)).then(|| {
            let what = format!("n = {} is out of range: 1..={MAX_CIRCLES}", self.n);
            ("n", what, "26 and 32 have published records")
        })
    }

    fn statement(&self) -> Vec<u32> {
        vec![self.n, u32::from(self.container == Container::Rectangle)]
    }

    fn value(&self, output: &[u8]) -> Result<f64, String> {
        let sides = usize::from(self.container == Container::Rectangle);
        let values = doubles(output, sides + 3 * self.n as usize, "numbers of the packing")?;
        let (width, values) = values.split_at(sides);
        let (width, height) = match width {
            [] => (GRID, GRID),
            [width, ..] if !(0.0..=2.0).contains(width) => {
                return Err(format!("the width {width} is outside 0..=2"));
            }
            [width, ..] => (to_grid(*width, BITS), 2 * GRID - to_grid(*width, BITS)),
        };
        let circles = values.as_chunks::<3>().0.iter().enumerate().map(|(at, c)| circle(at, c));
        let circles = circles.collect::<Result<Vec<Circle>, String>>()?;
        check(&circles, width, height)?;
        // n ≤ 2¹² radii of at most 2⁵¹ units: the sum is exact and is rounded
        // to a double once.
        let sum: i128 = circles.iter().map(|circle| circle.r).sum();
        Ok(sum as f64 / GRID as f64)
    }
}

fn circle(index: usize, values: &[f64; 3]) -> Result<Circle, String> {
    for (value, name) in values.iter().zip(["x", "y", "r"]) {
        if !(0.0..=2.0).contains(value) {
            return Err(format!("circle {index}: {name} = {value} is outside 0..=2"));
        }
    }
    let [x, y, r] = *values;
    Ok(Circle { x: to_grid(x, BITS), y: to_grid(y, BITS), r: (r * GRID as f64).floor() as i128 })
}

fn check(circles: &[Circle], width: i128, height: i128) -> Result<(), String> {
    for (index, c) in circles.iter().enumerate() {
        if c.x - c.r < 0 || c.y - c.r < 0 || c.x + c.r > width || c.y + c.r > height {
            return Err(format!("circle {index} leaves the container"));
        }
    }
    for (i, a) in circles.iter().enumerate() {
        for (j, b) in circles.iter().enumerate().skip(i + 1) {
            let (dx, dy, reach) = (a.x - b.x, a.y - b.y, a.r + b.r);
            if dx * dx + dy * dy < reach * reach {
                return Err(format!("circles {i} and {j} overlap"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::numbers::bytes;
    use super::super::published::construction;
    use super::*;

    fn score(circles: &[[f64; 3]]) -> Result<f64, String> {
        let problem = Circles { n: circles.len() as u32, container: Container::Square };
        problem.value(&bytes(circles.iter().flatten().copied()))
    }

    fn refused(circles: &[[f64; 3]]) -> String {
        score(circles).expect_err("should be refused")
    }

    const UNIT: f64 = 1.0 / (1u64 << 50) as f64;

    #[test]
    fn touching_is_allowed_and_one_grid_unit_of_overlap_is_not() {
        let touching = [[0.25, 0.25, 0.25], [0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.75, 0.75, 0.25]];
        assert_eq!(score(&touching), Ok(1.0));
        // Moved towards its neighbour by one grid unit, away from no wall.
        let overlap = [[0.25 + UNIT, 0.25, 0.25], [0.75, 0.25, 0.25]];
        assert!(refused(&overlap).contains("circles 0 and 1 overlap"));
        let outside = [[0.25, 0.25, 0.25 + UNIT]];
        assert!(refused(&outside).contains("circle 0 leaves"));
        // Less than a grid unit is rounded away, downwards for a radius.
        let hair = [[0.25, 0.25, 0.25 + UNIT / 4.0]];
        assert_eq!(score(&hair), Ok(0.25));
    }

    #[test]
    fn a_diagonal_contact_is_judged_exactly() {
        // A 3-4-5 triangle: centres 0.5 apart, radii that sum to 0.5 exactly.
        let contact = [[0.25, 0.25, 0.25], [0.25 + 0.3, 0.25 + 0.4, 0.25]];
        // 0.3 and 0.4 are not multiples of the grid; whichever way they are
        // rounded, the integers decide, and one unit less of radius fits.
        let shy = [[0.25, 0.25, 0.25 - 2.0 * UNIT], contact[1]];
        assert!(score(&shy).is_ok());
        let greedy = [[0.25, 0.25, 0.25], [0.25 + 0.3 - 2.0 * UNIT, 0.25 + 0.4 - 2.0 * UNIT, 0.25]];
        assert!(refused(&greedy).contains("overlap"));
    }

    #[test]
    fn a_circle_hidden_inside_another_or_of_radius_zero_inside_is_an_overlap() {
        assert!(refused(&[[0.5, 0.5, 0.5], [0.5, 0.5, 0.1]]).contains("overlap"));
        assert!(refused(&[[0.5, 0.5, 0.5], [0.5, 0.5, 0.0]]).contains("overlap"));
        // Outside of all circles a point is valid and worth nothing.
        assert_eq!(score(&[[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]), Ok(0.5));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(refused(&[[f64::NAN, 0.5, 0.1]]).contains("not finite"));
        assert!(refused(&[[0.5, f64::INFINITY, 0.1]]).contains("not finite"));
        assert!(refused(&[[0.5, 0.5, -0.1]]).contains("outside 0..=2"));
        assert!(refused(&[[0.5, 0.5, 1e300]]).contains("outside 0..=2"));
        assert!(refused(&[[-1e-300, 0.5, 0.0]]).contains("outside 0..=2"));
        for length in [0, 23, 25, 48] {
            assert!(Circles { n: 1, container: Container::Square }.value(&vec![0; length]).is_err());
        }
    }

    fn packing(name: &str) -> Vec<[f64; 3]> {
        construction(name).as_chunks::<3>().0.to_vec()
    }

    #[test]
    fn published_packings_are_judged_as_published() {
        for (name, published) in [("circles_26", 2.635_862_756), ("circles_32", 2.937_944_526)] {
            let circles = packing(name);
            let value = score(&circles).unwrap();
            assert!((value - published).abs() < 1e-9, "{value:.12}");
            // Any radius but a hair larger breaks it: some neighbour is tight.
            let mut grown = circles.clone();
            grown.iter_mut().for_each(|circle| circle[2] += 1e-7);
            assert!(score(&grown).is_err());
            // A circle more, or one less, is not the problem that was set.
            let raw = bytes(circles.iter().flatten().copied());
            for n in [circles.len() - 1, circles.len() + 1] {
                let other = Circles { n: n as u32, container: Container::Square };
                assert!(other.value(&raw).is_err());
            }
        }
    }

    #[test]
    fn a_rectangle_has_perimeter_four() {
        let problem = |n| Circles { n, container: Container::Rectangle };
        let circles = packing("circles_rectangle_21");
        // As published, the rectangle is the circles' bounding box.
        let right = circles.iter().map(|c| c[0] + c[2]).fold(0.0, f64::max);
        let upper = circles.iter().map(|c| c[1] + c[2]).fold(0.0, f64::max);
        let width = right + (2.0 - right - upper) / 2.0;
        let packed = |width: f64| {
            problem(21).value(&bytes([width].into_iter().chain(circles.iter().flatten().copied())))
        };
        let value = packed(width).unwrap();
        assert!((value - 2.365_832_133_4).abs() < 1e-9, "{value}");
        assert!(packed(width - 1e-6).unwrap_err().contains("leaves"));
        assert!(packed(width + 1e-6).unwrap_err().contains("leaves"));
        for bad in [f64::NAN, -0.1, 2.1, f64::INFINITY] {
            assert!(packed(bad).is_err());
        }
        assert_eq!(problem(1).value(&bytes([1.0, 0.5, 0.5, 0.5])), Ok(0.5));
    }
}
