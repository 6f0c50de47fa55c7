//! Places n points so that their largest distance is small beside their
//! smallest.
//!
//! Input: n as u32, the dimensions as u32 (2 or 3), a seed as u64,
//! little-endian. Output: n times the coordinates, as f64, little-endian.
//!
//! With all squared distances at least 1, the largest is made small by an
//! interior-point method, from many starts; the best is disturbed and climbed
//! from again.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::interior_point::{Program, Schedule};
use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START points
/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    /// Uniform in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() * n as f64) as usize).min(n - 1)
    }
}

/// The best of several starts, and of hops from the best of each. Coordinates
/// lie one after the other.
fn spread(n: usize, dimensions: usize, seed: u64) -> Vec<f64> {
    let climbs = knobs::integer("climbs", 8, 2, 200, Logarithmic);
    let hops = knobs::integer("hops", 3, 0, 60, Linear);
    let moved = knobs::number("moved", 0.3, 0.02, 1.0, Logarithmic);
    let jump = knobs::number("jump", 0.5, 0.0, 1.0, Linear);
    let mut random = Random(seed);
    let mut best = (f64::INFINITY, Vec::new());
    let mut left = climbs;
    while left > 0 {
        let mut x = start(n, dimensions, &mut random);
        climb(&mut x, dimensions, 1e-8);
        left -= 1;
        let mut current = (ratio(&x, dimensions), x);
        for _ in 0..hops.min(left) {
            left -= 1;
            let mut x = current.1.clone();
            let wide = distances(&x, dimensions).1.sqrt();
            if random.next() < jump {
                let which = random.below(n);
                for side in &mut x[which * dimensions..(which + 1) * dimensions] {
                    *side = wide * (random.next() - 0.5);
                }
            } else {
                x.iter_mut().for_each(|side| *side += moved * (random.next() - 0.5));
            }
            climb(&mut x, dimensions, 1e-8);
            let new = ratio(&x, dimensions);
            if new < current.0 {
                current = (new, x);
            }
        }
        if current.0 < best.0 {
            best = current;
        }
    }
    climb(&mut best.1, dimensions, 1e-14);
    best.1
}

/// Points one after the other, each the one of some draws from a ball that is
/// farthest from all before it.
fn start(n: usize, dimensions: usize, random: &mut Random) -> Vec<f64> {
    let draws = knobs::integer("draws", 10, 1, 100, Logarithmic);
    let mut x: Vec<f64> = Vec::new();
    while x.len() < n * dimensions {
        let mut best = (-1.0, Vec::new());
        let mut left = draws;
        while left > 0 {
            let point: Vec<f64> = (0..dimensions).map(|_| 2.0 * random.next() - 1.0).collect();
            if point.iter().map(|v| v * v).sum::<f64>() > 1.0 {
                continue;
            }
            left -= 1;
            let away = |other: &[f64]| other.iter().zip(&point).map(|(a, b)| (a - b) * (a - b)).sum();
            let nearest: f64 = x.chunks(dimensions).map(away).fold(f64::INFINITY, f64::min);
            if nearest > best.0 {
                best = (nearest, point);
            }
        }
        x.extend(best.1);
    }
    x
}

/// The smallest and the largest squared distance.
fn distances(x: &[f64], dimensions: usize) -> (f64, f64) {
    let points: Vec<&[f64]> = x.chunks(dimensions).collect();
    let (mut least, mut most) = (f64::INFINITY, 0f64);
    for (i, a) in points.iter().enumerate() {
        for b in &points[..i] {
            let square: f64 = a.iter().zip(*b).map(|(x, y)| (x - y) * (x - y)).sum();
            (least, most) = (least.min(square), most.max(square));
        }
    }
    (least, most)
}

fn ratio(x: &[f64], dimensions: usize) -> f64 {
    let (least, most) = distances(x, dimensions);
    if least > 0.0 { most / least } else { f64::INFINITY }
}

/// Climbs to a local optimum.
fn climb(x: &mut Vec<f64>, dimensions: usize, last: f64) {
    let first = knobs::number("barrier_first", 0.01, 1e-5, 1.0, Logarithmic);
    let factor = knobs::number("barrier_factor", 0.3, 0.05, 0.8, Linear);
    let hasty = knobs::flag("hasty", false);
    let (least, most) = distances(x, dimensions);
    if least.is_nan() || least <= 0.0 {
        return;
    }
    let n = x.len() / dimensions;
    // Strictly apart, and about the origin.
    let scale = 1.001 / least.sqrt();
    for d in 0..dimensions {
        let middle = (0..n).map(|i| x[i * dimensions + d]).sum::<f64>() / n as f64;
        for i in 0..n {
            let side = &mut x[i * dimensions + d];
            *side = (*side - middle) * scale;
        }
    }
    let widest = x.len();
    let mut objective = vec![0.0; widest + 1];
    objective[widest] = -1.0;
    let mut program = Program::maximize(objective);
    for i in 0..n {
        for j in 0..i {
            let mut square = Vec::new();
            for d in 0..dimensions {
                let (a, b) = (i * dimensions + d, j * dimensions + d);
                square.extend([(a, a, 1.0), (b, b, 1.0), (a, b, -2.0)]);
            }
            program.positive(-1.0, &[], &square);
            square.iter_mut().for_each(|term| term.2 = -term.2);
            program.positive(0.0, &[(widest, 1.0)], &square);
        }
    }
    x.push(1.01 * most * scale * scale);
    program.ascend(x, Schedule { first: first * most * scale * scale, last, factor, steps: 150, hasty });
    x.pop();
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Spreader;

impl Function for Spreader {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok(input) = <&[u8; 16]>::try_from(input) else {
            return Err(Error::invalid("the input is 16 bytes: n and dimensions as u32, a seed as u64"));
        };
        let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let seed = u64::from(word(8)) | u64::from(word(12)) << 32;
        let (n, dimensions) = (word(0).clamp(2, 64) as usize, word(4).clamp(2, 3) as usize);
        // The verifier takes coordinates up to 16 in size.
        let coordinates = spread(n, dimensions, seed).into_iter().map(|v| v.clamp(-16.0, 16.0));
        Ok(coordinates.flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Spreader);
