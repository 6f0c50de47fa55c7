//! Three autocorrelation inequalities: a step function f whose f∗f has
//!
//! 1. a small maximum beside (∫f)², f not negative;
//! 2. a large ‖f∗f‖² beside ‖f∗f‖₁·‖f∗f‖∞, f not negative;
//! 3. a small maximum beside (∫f)², f of either sign.
//!
//! Input: the inequality and the most steps as u32, a seed as u64,
//! little-endian. Output: the heights as f64, little-endian.
//!
//! From random functions an interior-point method climbs to local optima with
//! few steps; the best is split into finer steps and climbed from again.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::interior_point::{Program, Schedule};
use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START steps
/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    /// Uniform in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn search(inequality: u32, most: usize, seed: u64) -> Vec<f64> {
    let starts = knobs::integer("starts", 3, 1, 12, Logarithmic);
    let coarse = knobs::size("coarse_steps", 20, 5, 60, Logarithmic) as usize;
    let doublings = knobs::integer("doublings", 1, 0, 2, Linear);
    let mut random = Random(seed);
    let coarse = coarse.min(most);
    let mut best = (f64::NEG_INFINITY, vec![1.0; coarse]);
    for _ in 0..starts {
        let h = climb(inequality, start(inequality, coarse, &mut random), 1e-6);
        let value = merit(inequality, &h);
        if value > best.0 {
            best = (value, h);
        }
    }
    for _ in 0..doublings {
        if 2 * best.1.len() > most {
            break;
        }
        let jitter = knobs::number("split_jitter", 0.05, 0.0, 0.5, Linear);
        let fine = best.1.iter().flat_map(|h| [*h, *h]).map(|h| h + jitter * h.abs() * (random.next() - 0.5));
        let h = climb(inequality, fine.collect(), 1e-8);
        let value = merit(inequality, &h);
        if value > best.0 {
            best = (value, h);
        }
    }
    best.1
}

/// Random heights, more of them near the ends.
fn start(inequality: u32, n: usize, random: &mut Random) -> Vec<f64> {
    let edges = knobs::number("edges", 1.0, 0.0, 5.0, Linear);
    let noise = knobs::number("noise", 1.0, 0.05, 3.0, Logarithmic);
    let low = if inequality == 3 { -0.3 } else { 0.02 };
    (0..n)
        .map(|i| {
            let from_middle = (2.0 * (i as f64 + 0.5) / n as f64 - 1.0).abs();
            (1.0 + edges * from_middle.powi(4) + noise * (random.next() - 0.5)).max(low)
        })
        .collect()
}

fn convolution(h: &[f64]) -> Vec<f64> {
    let mut c = vec![0.0; 2 * h.len() - 1];
    for (i, a) in h.iter().enumerate() {
        for (sum, b) in c[i..].iter_mut().zip(h) {
            *sum += a * b;
        }
    }
    c
}

/// What is to be made large: the score, or its negative.
fn merit(inequality: u32, h: &[f64]) -> f64 {
    let c = convolution(h);
    let most = c.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = h.iter().sum();
    if inequality == 2 {
        square_norm(&c) / (sum * sum * most)
    } else {
        -2.0 * h.len() as f64 * most / (sum * sum)
    }
}

fn square_norm(c: &[f64]) -> f64 {
    let ends = c[0] * c[0] + c[c.len() - 1] * c[c.len() - 1];
    let inner: f64 = c.windows(2).map(|w| w[0] * w[0] + w[0] * w[1] + w[1] * w[1]).sum();
    (ends + inner) / 3.0
}

/// Climbs to a local optimum.
fn climb(inequality: u32, h: Vec<f64>, last: f64) -> Vec<f64> {
    if inequality == 2 { climb_norm(h, last) } else { climb_maximum(inequality, h, last) }
}

/// Pairs of heights whose product is in the k-th value of the convolution.
fn pairs(n: usize, k: usize, factor: f64) -> impl Iterator<Item = (usize, usize, f64)> {
    let (low, high) = ((k + 1).saturating_sub(n), k / 2);
    (low..=high).map(move |i| (i, k - i, if 2 * i == k { factor } else { 2.0 * factor }))
}

/// The smallest maximum of the convolution, for a sum of at least n.
fn climb_maximum(inequality: u32, h: Vec<f64>, last: f64) -> Vec<f64> {
    let first = knobs::number("barrier_first", 0.01, 1e-5, 1.0, Logarithmic);
    let factor = knobs::number("barrier_factor", 0.3, 0.05, 0.8, Linear);
    let hasty = knobs::flag("hasty", false);
    let n = h.len();
    let mean = h.iter().sum::<f64>() / n as f64;
    if mean <= 1e-6 {
        return h;
    }
    let mut x: Vec<f64> = h.iter().map(|v| 1.001 * v / mean).collect();
    if inequality == 1 {
        x.iter_mut().for_each(|v| *v = v.max(1e-4));
    }
    let most = convolution(&x).into_iter().fold(0.0, f64::max) / n as f64;
    let mut objective = vec![0.0; n + 1];
    objective[n] = -1.0;
    let mut program = Program::maximize(objective);
    for k in 0..2 * n - 1 {
        let products: Vec<_> = pairs(n, k, -1.0 / n as f64).collect();
        program.positive(0.0, &[(n, 1.0)], &products);
    }
    let total: Vec<(usize, f64)> = (0..n).map(|i| (i, 1.0 / n as f64)).collect();
    program.positive(-1.0, &total, &[]);
    for i in 0..n {
        if inequality == 1 {
            program.positive(0.0, &[(i, 1.0)], &[]);
        } else {
            program.positive(100.0, &[(i, 1.0)], &[]);
        }
    }
    x.push(1.01 * most);
    program.ascend(&mut x, Schedule { first, last, factor, steps: 150, hasty });
    x.pop();
    x
}

/// The largest norm: with c at most the convolution and at most 1, the norm of
/// c less λ·(Σh)² is made large, for λ the best quotient so far (W. Dinkelbach,
/// "On nonlinear fractional programming", 1967).
fn climb_norm(h: Vec<f64>, last: f64) -> Vec<f64> {
    let first = knobs::number("barrier_first_norm", 1e-3, 1e-6, 0.1, Logarithmic);
    let rounds = knobs::integer("rounds", 4, 1, 12, Linear);
    let factor = knobs::number("barrier_factor", 0.3, 0.05, 0.8, Linear);
    let n = h.len();
    let joints = 2 * n - 1;
    let goal = n + joints;
    let mut best = h;
    for _ in 0..rounds {
        let quotient = merit(2, &best);
        let most = convolution(&best).into_iter().fold(0.0, f64::max);
        // So that the convolution's maximum is a little below n.
        let scale = (0.998 * n as f64 / most).sqrt();
        let mut x: Vec<f64> = best.iter().map(|v| (scale * v).max(1e-5)).collect();
        let c = convolution(&x);
        x.extend(c.iter().map(|v| (0.999 * v / n as f64).min(0.999)));
        let mut objective = vec![0.0; goal + 1];
        objective[goal] = 1.0;
        let mut program = Program::maximize(objective);
        let size = 1.0 / n as f64;
        let mut norm = Vec::new();
        for k in 0..joints {
            let v = n + k;
            program.positive(0.0, &[(v, -1.0)], &pairs(n, k, size).collect::<Vec<_>>());
            program.positive(1.0, &[(v, -1.0)], &[]);
            program.positive(0.0, &[(v, 1.0)], &[]);
            norm.push((v, v, 2.0 / 3.0 * size));
            if k > 0 {
                norm.push((v - 1, v, size / 3.0));
            }
        }
        for i in 0..n {
            program.positive(0.0, &[(i, 1.0)], &[]);
            for j in 0..=i {
                let twice = if i == j { 1.0 } else { 2.0 };
                norm.push((j, i, -quotient * twice * size * size));
            }
        }
        program.positive(0.0, &[(goal, -1.0)], &norm);
        x.push(-10.0);
        x[goal] = program.slack(&x).min(0.0) - 1.0;
        let start = program.slack(&x);
        if start <= 0.0 {
            return best;
        }
        program.ascend(&mut x, Schedule { first, last, factor, steps: 80, hasty: false });
        x.truncate(n);
        if merit(2, &x) <= quotient + 1e-9 {
            break;
        }
        best = x;
    }
    best
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Stepper;

impl Function for Stepper {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok(input) = <&[u8; 16]>::try_from(input) else {
            return Err(Error::invalid("the input is 16 bytes: inequality and steps as u32, a seed as u64"));
        };
        let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let seed = u64::from(word(8)) | u64::from(word(12)) << 32;
        let heights = search(word(0), word(4).clamp(1, 2000) as usize, seed);
        Ok(heights.into_iter().flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Stepper);
