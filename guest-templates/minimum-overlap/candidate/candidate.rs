//! Erdős's minimum overlap problem: a step function h: [0, 2] → [0, 1] with
//! integral 1 whose largest overlap ∫ h(x)·(1 − h(x + k)) dx over all shifts k
//! is small.
//!
//! Input: the most steps as u32, a seed as u64, little-endian. Output: the
//! heights as f64, little-endian.
//!
//! Heights are symmetric about the middle. From random smooth functions an
//! interior-point method climbs to local optima with few steps; the best is
//! split into finer steps and climbed from again.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::interior_point::{Program, Schedule};
use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START overlap
/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    /// Uniform in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Heights of the whole function, an odd number of steps.
fn search(most: usize, seed: u64) -> Vec<f64> {
    let starts = knobs::integer("starts", 4, 1, 40, Logarithmic);
    let coarse = knobs::size("coarse_half", 13, 4, 30, Logarithmic) as usize;
    let fine = knobs::size("fine_half", 26, 4, 140, Logarithmic) as usize;
    let coarse = coarse.min(most.div_ceil(2)).max(1);
    let fine = fine.min(most.div_ceil(2)).max(coarse);
    let mut random = Random(seed);
    let mut best = (f64::INFINITY, vec![0.5; coarse]);
    for _ in 0..starts {
        let half = climb(start(coarse, &mut random), 1e-7);
        let value = overlap(&whole(&half));
        if value < best.0 {
            best = (value, half);
        }
    }
    let finer = climb(resampled(&best.1, fine), 1e-11);
    if overlap(&whole(&finer)) < best.0 { whole(&finer) } else { whole(&best.1) }
}

/// A half, its last step in the middle, mirrored.
fn whole(half: &[f64]) -> Vec<f64> {
    half.iter().chain(half.iter().rev().skip(1)).copied().collect()
}

/// Random waves about one half.
fn start(half: usize, random: &mut Random) -> Vec<f64> {
    let waves = knobs::integer("waves", 6, 1, 20, Linear);
    let height = knobs::number("wave_height", 0.4, 0.02, 1.0, Logarithmic);
    let mut h = vec![0.5; half];
    for wave in 1..=waves {
        let size = height * (random.next() - 0.5) / (wave as f64).sqrt();
        let phase = 6.3 * random.next();
        for (i, v) in h.iter_mut().enumerate() {
            *v += size * (phase + std::f64::consts::PI * wave as f64 * i as f64 / half as f64).cos();
        }
    }
    h.iter_mut().for_each(|v| *v = v.clamp(0.02, 0.9));
    h
}

/// The same function with another number of steps.
fn resampled(half: &[f64], to: usize) -> Vec<f64> {
    let (from, to_whole) = ((2 * half.len() - 1) as f64, (2 * to - 1) as f64);
    let h = whole(half);
    let at = |i: usize| ((i as f64 + 0.5) * from / to_whole) as usize;
    (0..to).map(|i| h[at(i).min(h.len() - 1)].clamp(0.001, 0.99)).collect()
}

/// The largest overlap, once the integral is 1.
fn overlap(h: &[f64]) -> f64 {
    let n = h.len();
    let sum: f64 = h.iter().sum();
    let scale = 0.5 * n as f64 / sum;
    let shifted = |k: usize| -> f64 {
        let plain: f64 = h[..n - k].iter().sum();
        let products: f64 = h[..n - k].iter().zip(&h[k..]).map(|(a, b)| a * b).sum();
        2.0 / n as f64 * (scale * plain - scale * scale * products)
    };
    (0..n).map(shifted).fold(0.0, f64::max)
}

/// Climbs to a local optimum of the half's heights.
fn climb(half: Vec<f64>, last: f64) -> Vec<f64> {
    let first = knobs::number("barrier_first", 1e-3, 1e-6, 0.1, Logarithmic);
    let factor = knobs::number("barrier_factor", 0.3, 0.05, 0.8, Linear);
    let hasty = knobs::flag("hasty", false);
    let m = half.len();
    let n = 2 * m - 1;
    let mirrored = |i: usize| i.min(n - 1 - i);
    // The sum may differ from n/2 by a little; the verifier scales it.
    let room = 1e-4 * n as f64;
    let sum: f64 = whole(&half).iter().sum();
    let mut x: Vec<f64> = half.iter().map(|v| v * 0.5 * n as f64 / sum).collect();
    if x.iter().any(|v| *v >= 0.999) {
        return half;
    }
    let level = m;
    let mut objective = vec![0.0; m + 1];
    objective[level] = -1.0;
    let mut program = Program::maximize(objective);
    let unit = 2.0 / n as f64;
    for k in 0..n {
        let linear: Vec<(usize, f64)> =
            [(level, 1.0)].into_iter().chain((0..n - k).map(|i| (mirrored(i), -unit))).collect();
        let products: Vec<(usize, usize, f64)> =
            (0..n - k).map(|i| (mirrored(i), mirrored(i + k), unit)).collect();
        program.positive(0.0, &linear, &products);
    }
    let total: Vec<(usize, f64)> = (0..n).map(|i| (mirrored(i), 1.0)).collect();
    let less: Vec<(usize, f64)> = total.iter().map(|(i, f)| (*i, -f)).collect();
    program.positive(room - 0.5 * n as f64, &total, &[]);
    program.positive(room + 0.5 * n as f64, &less, &[]);
    for i in 0..m {
        program.positive(0.0, &[(i, 1.0)], &[]);
        program.positive(0.999_5, &[(i, -1.0)], &[]);
    }
    x.push(1.5);
    program.ascend(&mut x, Schedule { first, last, factor, steps: 200, hasty });
    x.pop();
    x
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Stepper;

impl Function for Stepper {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok([a, b, c, d, seed @ ..]) = <[u8; 12]>::try_from(input) else {
            return Err(Error::invalid("the input is 12 bytes: the most steps as u32, a seed as u64"));
        };
        let most = u32::from_le_bytes([a, b, c, d]).clamp(1, 2000) as usize;
        let heights = search(most, u64::from_le_bytes(seed));
        Ok(heights.into_iter().map(|h| h.clamp(0.0, 1.0)).flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Stepper);
