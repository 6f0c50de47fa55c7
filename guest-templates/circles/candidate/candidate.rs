//! Packs n circles so that the sum of their radii is large: into the unit
//! square, or into a rectangle of perimeter 4 whose width is free.
//!
//! Input: n as u32, the container as u32 (0 square, 1 rectangle), a seed as
//! u64, little-endian. Output: for a rectangle its width, then n times
//! (x, y, r), as f64, little-endian. The score is exact: circles must be inside
//! and disjoint with no tolerance at all.
//!
//! Centres and radii are found together: from a start with small circles, an
//! interior-point method climbs to a local optimum; the best one is then
//! disturbed and climbed from again (basin hopping).
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::interior_point::{Program, Schedule};
use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START packing
#[derive(Clone, Copy)]
struct Circle {
    x: f64,
    y: f64,
    r: f64,
}

#[derive(Clone, Default)]
struct Packing {
    width: f64,
    circles: Vec<Circle>,
}

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

/// The best packing of several starts, and of hops from the best of each.
fn pack(n: usize, rectangle: bool, seed: u64) -> Packing {
    let climbs = knobs::integer("climbs", 10, 2, 150, Logarithmic);
    let hops = knobs::integer("hops", 4, 0, 60, Linear);
    let moved = knobs::number("moved", 0.1, 0.02, 0.5, Logarithmic);
    let jump = knobs::number("jump", 0.5, 0.0, 1.0, Linear);
    let mut random = Random(seed);
    let mut best = Packing::default();
    let mut left = climbs;
    while left > 0 {
        let mut current = climb(start(n, rectangle, &mut random), rectangle);
        left -= 1;
        for _ in 0..hops.min(left) {
            left -= 1;
            let tried = climb(disturb(&current, moved, jump, &mut random), rectangle);
            if total(&tried) > total(&current) {
                current = tried;
            }
        }
        if total(&current) > total(&best) {
            best = current;
        }
    }
    polish(&mut best, rectangle);
    best
}

fn total(packing: &Packing) -> f64 {
    packing.circles.iter().map(|c| c.r).sum()
}

/// Rows of centres, jittered, alternately shifted.
fn start(n: usize, rectangle: bool, random: &mut Random) -> Packing {
    let jitter = knobs::number("jitter", 0.8, 0.0, 3.0, Linear);
    let shift = knobs::number("row_shift", 0.5, 0.0, 0.5, Linear);
    let width = if rectangle { 0.7 + 0.6 * random.next() } else { 1.0 };
    let height = if rectangle { 2.0 - width } else { 1.0 };
    let rows = ((n as f64 * height / width).sqrt().ceil() as usize).max(1);
    let columns = n.div_ceil(rows);
    let centres = (0..n).map(|i| {
        let (row, column) = (i / columns, i % columns);
        let mut place = |k: f64, cells: usize, side: f64| {
            let shifted = k + 0.5 + jitter * (random.next() - 0.5);
            (shifted / cells as f64).clamp(0.02, 0.98) * side
        };
        let across = column as f64 + if row % 2 == 1 { shift } else { 0.0 };
        Circle { x: place(across, columns, width), y: place(row as f64, rows, height), r: 0.0 }
    });
    Packing { width, circles: centres.collect() }
}

/// Some circles moved a little, or put anywhere.
fn disturb(packing: &Packing, moved: f64, jump: f64, random: &mut Random) -> Packing {
    let mut changed = packing.clone();
    let count = changed.circles.len();
    let (width, height) = sides(packing.width);
    if random.next() < jump {
        let which = random.below(count);
        changed.circles[which].x = random.next() * width;
        changed.circles[which].y = random.next() * height;
    } else {
        for circle in &mut changed.circles {
            circle.x = (circle.x + moved * (random.next() - 0.5)).clamp(0.01 * width, 0.99 * width);
            circle.y = (circle.y + moved * (random.next() - 0.5)).clamp(0.01 * height, 0.99 * height);
        }
    }
    changed
}

fn sides(width: f64) -> (f64, f64) {
    if width == 1.0 { (1.0, 1.0) } else { (width, 2.0 - width) }
}

/// Climbs to a local optimum from these centres.
fn climb(packing: Packing, rectangle: bool) -> Packing {
    let first = knobs::number("barrier_first", 0.01, 1e-4, 0.3, Logarithmic);
    let factor = knobs::number("barrier_factor", 0.3, 0.05, 0.8, Linear);
    let steps = knobs::size("newton_steps", 60, 20, 200, Logarithmic) as usize;
    let hasty = knobs::flag("hasty", true);
    let mut packing = packing;
    shrink(&mut packing, 0.4);
    // Of circles far apart nothing is asked; should they meet, they are cut.
    let near = knobs::number("near", 2.2, 1.5, 6.0, Linear);
    let spacing = 1.0 / (packing.circles.len() as f64).sqrt();
    ascend(&mut packing, rectangle, near * spacing, Schedule { first, last: 1e-7, factor, steps, hasty });
    shrink(&mut packing, 1.0);
    packing
}

/// Goes on to the last digits, then steps back far enough for rounding.
fn polish(packing: &mut Packing, rectangle: bool) {
    shrink(packing, 0.999_99);
    ascend(
        packing,
        rectangle,
        2.0,
        Schedule { first: 1e-7, last: 1e-16, factor: 0.3, steps: 120, hasty: false },
    );
    shrink(packing, 1.0);
    packing.circles.iter_mut().for_each(|c| c.r = (c.r - 4e-15).max(0.0));
}

/// Radii that fit these centres, times `share`: those that a packing has, cut
/// where they are too large, or if it has none, half the way to the nearest.
fn shrink(packing: &mut Packing, share: f64) {
    let (width, height) = sides(packing.width);
    let circles = &mut packing.circles;
    let fresh = share < 0.9;
    let old = circles.clone();
    for i in 0..old.len() {
        let c = old[i];
        let mut r = c.x.min(width - c.x).min(c.y).min(height - c.y);
        for (j, other) in old.iter().enumerate() {
            if j != i {
                let distance = ((c.x - other.x).powi(2) + (c.y - other.y).powi(2)).sqrt();
                let part = if fresh { 0.5 } else { c.r / (c.r + other.r) };
                r = r.min(distance * part);
            }
        }
        circles[i].r = share * if fresh { r } else { r.min(c.r) };
    }
}

/// The problem over x, y, r of each circle (and the width), from a strictly
/// feasible packing; circles farther apart than `near` may overlap.
fn ascend(packing: &mut Packing, rectangle: bool, near: f64, schedule: Schedule) {
    let n = packing.circles.len();
    let mut objective = [0.0, 0.0, 1.0].repeat(n);
    let mut x: Vec<f64> = packing.circles.iter().flat_map(|c| [c.x, c.y, c.r]).collect();
    if rectangle {
        objective.push(0.0);
        x.push(packing.width);
    }
    let mut program = Program::maximize(objective);
    let wide = 3 * n;
    for i in 0..n {
        let (cx, cy, r) = (3 * i, 3 * i + 1, 3 * i + 2);
        program.positive(0.0, &[(cx, 1.0), (r, -1.0)], &[]);
        program.positive(0.0, &[(cy, 1.0), (r, -1.0)], &[]);
        program.positive(0.0, &[(r, 1.0)], &[]);
        if rectangle {
            program.positive(0.0, &[(cx, -1.0), (r, -1.0), (wide, 1.0)], &[]);
            program.positive(2.0, &[(cy, -1.0), (r, -1.0), (wide, -1.0)], &[]);
        } else {
            program.positive(1.0, &[(cx, -1.0), (r, -1.0)], &[]);
            program.positive(1.0, &[(cy, -1.0), (r, -1.0)], &[]);
        }
        for j in 0..i {
            let (a, b) = (packing.circles[i], packing.circles[j]);
            if (a.x - b.x).hypot(a.y - b.y) > near {
                continue;
            }
            let (dx, dy, dr) = (3 * j, 3 * j + 1, 3 * j + 2);
            program.positive(
                0.0,
                &[],
                &[
                    (cx, cx, 1.0),
                    (dx, dx, 1.0),
                    (cx, dx, -2.0),
                    (cy, cy, 1.0),
                    (dy, dy, 1.0),
                    (cy, dy, -2.0),
                    (r, r, -1.0),
                    (dr, dr, -1.0),
                    (r, dr, -2.0),
                ],
            );
        }
    }
    program.ascend(&mut x, schedule);
    for (circle, values) in packing.circles.iter_mut().zip(x.chunks(3)) {
        *circle = Circle { x: values[0], y: values[1], r: values[2] };
    }
    if rectangle {
        packing.width = x[wide];
    }
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Packer;

impl Function for Packer {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok(input) = <&[u8; 16]>::try_from(input) else {
            return Err(Error::invalid("the input is 16 bytes: n and container as u32, a seed as u64"));
        };
        let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let seed = u64::from(word(8)) | u64::from(word(12)) << 32;
        let rectangle = word(4) == 1;
        let packing = pack(word(0).clamp(1, 200) as usize, rectangle, seed);
        let width = rectangle.then_some(packing.width);
        let values = width.into_iter().chain(packing.circles.iter().flat_map(|c| [c.x, c.y, c.r]));
        Ok(values.flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Packer);
