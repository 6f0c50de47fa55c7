//! Circles in the unit square: zero tolerance, exact integers.
//!
//! A packing is 3·n little-endian `f64`: x, y, r for each circle. Centres are
//! rounded to the grid of multiples of 2⁻⁵⁰ (to nearest) and radii *down* to
//! it; the packing so rounded is what is judged and what is scored. It must
//! lie in the closed square, and no two circles may overlap; they may touch.
//! All of it is decided in 128-bit integers, so no tolerance is needed and
//! none is given: an overlap of one grid unit is refused.
//!
//! The squares compared are at most (2·2⁵⁰)² + (2·2⁵⁰)² < 2¹⁰⁴, far inside
//! `i128`.

use terrarium_sandbox::Outcome;

/// Grid units per unit of length.
pub const GRID: i128 = 1 << 50;

/// The most circles in one packing.
pub const MAX_CIRCLES: u32 = 4096;

/// What a candidate is called with: n as u32, then a seed as u64, both
/// little-endian.
pub fn input(n: u32, seed: u64) -> Vec<u8> {
    [n.to_le_bytes().as_slice(), &seed.to_le_bytes()].concat()
}

/// A circle on the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Circle {
    x: i128,
    y: i128,
    r: i128,
}

/// Sum of the radii of a valid packing of exactly `n` circles, from the bytes
/// that the candidate returned. Otherwise [`Outcome::InvalidOutput`], with
/// the first reason found.
pub fn score(output: &[u8], n: u32) -> Result<f64, Outcome> {
    let circles = parse(output, n).map_err(invalid)?;
    check(&circles).map_err(invalid)?;
    // n ≤ 2¹² radii of at most 2⁵⁰ units: the sum is exact in i128 and is
    // rounded to a double once.
    let sum: i128 = circles.iter().map(|circle| circle.r).sum();
    Ok(sum as f64 / GRID as f64)
}

fn invalid(reason: String) -> Outcome {
    Outcome::InvalidOutput { reason }
}

fn parse(output: &[u8], n: u32) -> Result<Vec<Circle>, String> {
    let wanted = n as usize * 24;
    if output.len() != wanted {
        return Err(format!(
            "{} bytes, but {n} circles of three little-endian f64 are {wanted} bytes",
            output.len()
        ));
    }
    output.as_chunks::<24>().0.iter().enumerate().map(|(index, bytes)| circle(index, bytes)).collect()
}

fn circle(index: usize, bytes: &[u8; 24]) -> Result<Circle, String> {
    let mut values = [0.0; 3];
    for (value, raw) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *value = f64::from_le_bytes(*raw);
    }
    for (value, name) in values.iter().zip(["x", "y", "r"]) {
        if !value.is_finite() {
            return Err(format!("circle {index}: {name} is not finite"));
        }
        if !(0.0..=1.0).contains(value) {
            return Err(format!("circle {index}: {name} = {value} is outside 0..=1"));
        }
    }
    // Scaling by a power of two is exact (subnormals scale up), and the
    // rounded values are at most 2⁵⁰: the casts are exact too.
    let scaled = |value: f64| value * GRID as f64;
    Ok(Circle {
        x: scaled(values[0]).round() as i128,
        y: scaled(values[1]).round() as i128,
        r: scaled(values[2]).floor() as i128,
    })
}

fn check(circles: &[Circle]) -> Result<(), String> {
    for (index, c) in circles.iter().enumerate() {
        if c.x - c.r < 0 || c.y - c.r < 0 || c.x + c.r > GRID || c.y + c.r > GRID {
            return Err(format!("circle {index} leaves the unit square"));
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
    use super::*;

    fn bytes(circles: &[[f64; 3]]) -> Vec<u8> {
        circles.iter().flatten().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn refused(circles: &[[f64; 3]]) -> String {
        score(&bytes(circles), circles.len() as u32).expect_err("should be refused").to_string()
    }

    const UNIT: f64 = 1.0 / (1u64 << 50) as f64;

    #[test]
    fn touching_is_allowed_and_one_grid_unit_of_overlap_is_not() {
        let touching = [[0.25, 0.25, 0.25], [0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.75, 0.75, 0.25]];
        assert_eq!(score(&bytes(&touching), 4), Ok(1.0));
        // Moved towards its neighbour by one grid unit, away from no wall.
        let overlap = [[0.25 + UNIT, 0.25, 0.25], [0.75, 0.25, 0.25]];
        assert!(refused(&overlap).contains("circles 0 and 1 overlap"));
        let outside = [[0.25, 0.25, 0.25 + UNIT]];
        assert!(refused(&outside).contains("circle 0 leaves"));
        // Less than a grid unit is rounded away, downwards for a radius.
        let hair = [[0.25, 0.25, 0.25 + UNIT / 4.0]];
        assert_eq!(score(&bytes(&hair), 1), Ok(0.25));
    }

    #[test]
    fn a_diagonal_contact_is_judged_exactly() {
        // A 3-4-5 triangle: centres 0.5 apart, radii that sum to 0.5 exactly.
        let contact = [[0.25, 0.25, 0.25], [0.25 + 0.3, 0.25 + 0.4, 0.25]];
        // 0.3 and 0.4 are not multiples of the grid; whichever way they are
        // rounded, the integers decide, and one unit less of radius fits.
        let shy = [[0.25, 0.25, 0.25 - 2.0 * UNIT], contact[1]];
        assert!(score(&bytes(&shy), 2).is_ok());
        let greedy = [[0.25, 0.25, 0.25], [0.25 + 0.3 - 2.0 * UNIT, 0.25 + 0.4 - 2.0 * UNIT, 0.25]];
        assert!(refused(&greedy).contains("overlap"));
    }

    #[test]
    fn a_circle_hidden_inside_another_or_of_radius_zero_inside_is_an_overlap() {
        assert!(refused(&[[0.5, 0.5, 0.5], [0.5, 0.5, 0.1]]).contains("overlap"));
        assert!(refused(&[[0.5, 0.5, 0.5], [0.5, 0.5, 0.0]]).contains("overlap"));
        // Outside of all circles a point is valid and worth nothing.
        assert_eq!(score(&bytes(&[[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]), 2), Ok(0.5));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(refused(&[[f64::NAN, 0.5, 0.1]]).contains("x is not finite"));
        assert!(refused(&[[0.5, f64::INFINITY, 0.1]]).contains("y is not finite"));
        assert!(refused(&[[0.5, 0.5, -0.1]]).contains("outside 0..=1"));
        assert!(refused(&[[0.5, 0.5, 1e300]]).contains("outside 0..=1"));
        assert!(refused(&[[-1e-300, 0.5, 0.0]]).contains("outside 0..=1"));
        for length in [0, 23, 25, 48] {
            assert!(matches!(score(&vec![0; length], 1), Err(Outcome::InvalidOutput { .. })));
        }
    }

    /// The 26 circles of AlphaEvolve (google-deepmind/alphaevolve_results,
    /// mathematical_results notebook, Apache-2.0 / CC-BY-4.0): sum 2.63586…
    const PUBLISHED_26: [[f64; 3]; 26] = [
        [0.68180423, 0.90401948, 0.09598051040194801],
        [0.90598057, 0.49972596, 0.094019420598057],
        [0.08464495, 0.08464502, 0.084644941535505],
        [0.4818405, 0.1034156, 0.10341558965844],
        [0.48234279, 0.89652324, 0.10347674965232401],
        [0.88928295, 0.11071646, 0.11071644892835401],
        [0.07852351, 0.50033803, 0.07852350214764901],
        [0.27330428, 0.1051224, 0.10512238948776001],
        [0.38153556, 0.70211016, 0.115517618448237],
        [0.13252625, 0.70386646, 0.132047406795258],
        [0.59610341, 0.72720176, 0.10051153994884501],
        [0.59576502, 0.2725969, 0.10054788994521],
        [0.88902242, 0.88902318, 0.11097680890231801],
        [0.68087256, 0.09573004, 0.095730030426996],
        [0.53098174, 0.49996661, 0.13587084641291403],
        [0.90742967, 0.68631006, 0.09257029074297],
        [0.74197859, 0.40386139, 0.095943250405674],
        [0.08471273, 0.91528735, 0.08471263152873601],
        [0.76300349, 0.7598366, 0.069494603050539],
        [0.27358888, 0.89472069, 0.105279299472069],
        [0.13242993, 0.29639184, 0.132426596757339],
        [0.90745313, 0.31316575, 0.092546580745341],
        [0.76284098, 0.23948486, 0.06975189302481001],
        [0.38095848, 0.29797266, 0.115741008425898],
        [0.74207757, 0.59573774, 0.09593309040669],
        [0.27141024, 0.50032568, 0.114361818563817],
    ];

    #[test]
    fn the_published_packing_of_26_is_judged_as_published() {
        let score = score(&bytes(&PUBLISHED_26), 26).unwrap();
        let plain: f64 = PUBLISHED_26.iter().map(|c| c[2]).sum();
        assert!((score - plain).abs() < 1e-12, "{score} against {plain}");
        assert!((score - 2.635_862_756).abs() < 1e-9, "{score:.12}");
        // Any radius but a hair larger breaks it: some neighbour is tight.
        let mut grown = PUBLISHED_26;
        for circle in &mut grown {
            circle[2] += 1e-7;
        }
        assert!(super::score(&bytes(&grown), 26).is_err());
    }
}
