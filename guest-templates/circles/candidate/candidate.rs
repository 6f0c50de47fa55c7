//! Packs n circles into the unit square so that the sum of their radii is
//! large.
//!
//! Input: n as u32, then a seed as u64, little-endian. Output: n times
//! (x, y, r) as f64, little-endian. The score is exact: circles must be inside
//! the square and disjoint with no tolerance at all.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START packing
#[derive(Clone, Copy)]
struct Circle {
    x: f64,
    y: f64,
    r: f64,
}

/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    /// Uniform in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The best packing of several starts.
fn pack(n: usize, seed: u64) -> Vec<Circle> {
    let starts = knobs::integer("starts", 6, 1, 60, Logarithmic);
    let jitter = knobs::number("jitter", 0.5, 0.0, 1.5, Linear);
    let mut random = Random(seed);
    let mut best = Vec::new();
    for _ in 0..starts {
        let mut circles = start(n, jitter, &mut random);
        relax(&mut circles);
        repair(&mut circles);
        if total(&circles) > total(&best) {
            best = circles;
        }
    }
    best
}

fn total(circles: &[Circle]) -> f64 {
    circles.iter().map(|c| c.r).sum()
}

/// A jittered square grid.
fn start(n: usize, jitter: f64, random: &mut Random) -> Vec<Circle> {
    let side = (n as f64).sqrt().ceil() as usize;
    let cell = 1.0 / side as f64;
    (0..n)
        .map(|i| {
            let mut place = |k: usize| {
                let shift = jitter * (random.next() - 0.5);
                ((k as f64 + 0.5 + shift) * cell).clamp(0.02, 0.98)
            };
            Circle { x: place(i % side), y: place(i / side), r: 0.4 * cell }
        })
        .collect()
}

/// Ascends Σr − penalty·Σ overlap², with the penalty growing.
fn relax(circles: &mut [Circle]) {
    let steps = knobs::integer("steps", 400, 50, 4000, Logarithmic);
    let rate = knobs::number("rate", 0.02, 0.001, 0.2, Logarithmic);
    let first = knobs::number("penalty_first", 2.0, 0.5, 50.0, Logarithmic);
    let last = knobs::number("penalty_last", 100.0, 20.0, 5000.0, Logarithmic);
    let n = circles.len();
    let mut slope = vec![(0.0, 0.0, 0.0); n];
    for step in 0..steps {
        let share = step as f64 / steps as f64;
        let penalty = first * (last / first).powf(share);
        let size = rate / penalty;
        slope.iter_mut().for_each(|s| *s = (0.0, 0.0, 1.0));
        for i in 0..n {
            let a = circles[i];
            for j in i + 1..n {
                let b = circles[j];
                let (dx, dy) = (a.x - b.x, a.y - b.y);
                let reach = a.r + b.r;
                let square = dx * dx + dy * dy;
                if square >= reach * reach {
                    continue;
                }
                let distance = square.sqrt().max(1e-9);
                let push = 2.0 * penalty * (reach - distance);
                let (ux, uy) = (dx / distance, dy / distance);
                slope[i].0 += push * ux;
                slope[i].1 += push * uy;
                slope[i].2 -= push;
                slope[j].0 -= push * ux;
                slope[j].1 -= push * uy;
                slope[j].2 -= push;
            }
            for (over, sx, sy) in [
                (a.r - a.x, 1.0, 0.0),
                (a.x + a.r - 1.0, -1.0, 0.0),
                (a.r - a.y, 0.0, 1.0),
                (a.y + a.r - 1.0, 0.0, -1.0),
            ] {
                if over > 0.0 {
                    let push = 2.0 * penalty * over;
                    slope[i].0 += push * sx;
                    slope[i].1 += push * sy;
                    slope[i].2 -= push;
                }
            }
        }
        for (c, s) in circles.iter_mut().zip(&slope) {
            c.x = (c.x + size * s.0).clamp(0.001, 0.999);
            c.y = (c.y + size * s.1).clamp(0.001, 0.999);
            c.r = (c.r + size * s.2).max(0.001);
        }
    }
}

/// Shrinks radii until the packing is valid, then grows each as far as the
/// others allow.
fn repair(circles: &mut [Circle]) {
    let n = circles.len();
    for i in 0..n {
        circles[i].r = circles[i].r.min(wall(circles[i]));
        for j in 0..i {
            let distance = distance(circles[i], circles[j]);
            let reach = circles[i].r + circles[j].r;
            if reach > distance {
                circles[i].r *= distance / reach;
                circles[j].r *= distance / reach;
            }
        }
    }
    for _ in 0..4 {
        for i in 0..n {
            let others = (0..n).filter(|&j| j != i);
            let room = others
                .map(|j| distance(circles[i], circles[j]) - circles[j].r)
                .fold(wall(circles[i]), f64::min);
            circles[i].r = room.max(0.0);
        }
    }
    // The verifier allows no overlap, so stay clear of rounding.
    circles.iter_mut().for_each(|c| c.r = (c.r - 1e-12).max(0.0));
}

fn wall(c: Circle) -> f64 {
    c.x.min(1.0 - c.x).min(c.y).min(1.0 - c.y)
}

fn distance(a: Circle, b: Circle) -> f64 {
    ((a.x - b.x).powi(2) + (a.y - b.y).powi(2)).sqrt()
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Packer;

impl Function for Packer {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Some((n, seed)) = input.split_first_chunk::<4>() else {
            return Err(Error::invalid("the input is 12 bytes: n as u32, then a seed as u64"));
        };
        let seed: [u8; 8] = seed.try_into().map_err(|_| Error::invalid("the seed is 8 bytes"))?;
        let n = u32::from_le_bytes(*n).min(10_000) as usize;
        let circles = pack(n, u64::from_le_bytes(seed));
        let values = circles.iter().flat_map(|c| [c.x, c.y, c.r]);
        Ok(values.flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Packer);
