//! Heilbronn's problem: places n points so that the smallest triangle among
//! them is large, as a share of the region's area.
//!
//! Input: n as u32, the region as u32 (0: the triangle (0,0), (1,0), (0,1);
//! 1: the points' own convex hull), a seed as u64, little-endian. Output: n
//! times (x, y) as f64, little-endian.
//!
//! Points are first moved one by one wherever that helps the smallest
//! triangle. Then the orientations of all triangles are kept, and an
//! interior-point method climbs to a local optimum. The best is disturbed and
//! climbed from again.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::interior_point::{Program, Schedule};
use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START points
type Point = [f64; 2];

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

/// The best of several starts, and of hops from the best of each.
fn spread(n: usize, convex: bool, seed: u64) -> Vec<Point> {
    let climbs = knobs::integer("climbs", 60, 10, 1500, Logarithmic);
    let hops = knobs::integer("hops", 10, 0, 100, Linear);
    let moved = knobs::integer("points_moved", 2, 1, 5, Linear);
    let trials = knobs::integer("trials", 200, 20, 2000, Logarithmic);
    let mut random = Random(seed);
    let mut best = (-1.0, Vec::new());
    let mut left = climbs;
    while left > 0 {
        let mut points: Vec<Point> = (0..n).map(|_| anywhere(convex, &mut random)).collect();
        settle(&mut points, convex, trials, &mut random);
        climb(&mut points, convex, 1e-9);
        left -= 1;
        let mut current = (value(&points, convex), points);
        for _ in 0..hops.min(left) {
            left -= 1;
            let mut points = current.1.clone();
            for _ in 0..moved {
                points[random.below(n)] = anywhere(convex, &mut random);
            }
            settle(&mut points, convex, trials, &mut random);
            climb(&mut points, convex, 1e-9);
            let new = value(&points, convex);
            if new > current.0 {
                current = (new, points);
            }
        }
        if current.0 > best.0 {
            best = current;
        }
    }
    climb(&mut best.1, convex, 1e-16);
    best.1
}

/// A place in the region; the square for points that make their own.
fn anywhere(convex: bool, random: &mut Random) -> Point {
    let (x, y) = (random.next(), random.next());
    if convex || x + y < 1.0 { [x, y] } else { [1.0 - x, 1.0 - y] }
}

fn doubled_area(a: Point, b: Point, c: Point) -> f64 {
    (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
}

/// The smallest triangle with this point, doubled.
fn smallest_with(points: &[Point], which: usize, at: Point) -> f64 {
    let mut smallest = f64::INFINITY;
    for (i, a) in points.iter().enumerate() {
        for (j, b) in points.iter().enumerate().skip(i + 1) {
            if i != which && j != which {
                smallest = smallest.min(doubled_area(at, *a, *b).abs());
            }
        }
    }
    smallest
}

/// The score.
fn value(points: &[Point], convex: bool) -> f64 {
    let smallest =
        (0..points.len()).map(|i| smallest_with(points, i, points[i])).fold(f64::INFINITY, f64::min);
    let whole = if convex { hull(points).windows(2).map(|w| shoelace(points, w)).sum() } else { 1.0 };
    smallest / whole
}

fn shoelace(points: &[Point], w: &[usize]) -> f64 {
    let (a, b) = (points[w[0]], points[w[1]]);
    a[0] * b[1] - a[1] * b[0]
}

/// The corners of the convex hull, against the clock, the first repeated.
fn hull(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| points[*a].partial_cmp(&points[*b]).unwrap_or(std::cmp::Ordering::Equal));
    let mut all: Vec<usize> = Vec::new();
    for pass in 0..2 {
        let start = all.len();
        for &p in &order {
            while all.len() >= start + 2
                && doubled_area(points[all[all.len() - 2]], points[all[all.len() - 1]], points[p]) <= 0.0
            {
                all.pop();
            }
            all.push(p);
        }
        if pass == 0 {
            all.pop();
        }
        order.reverse();
    }
    all
}

/// Moves one point at a time, by steps that shrink, to where its smallest
/// triangle is larger.
fn settle(points: &mut [Point], convex: bool, trials: i64, random: &mut Random) {
    let wide = knobs::number("first_step", 0.3, 0.02, 1.0, Logarithmic);
    let narrow = knobs::number("last_step", 0.02, 0.001, 0.2, Logarithmic);
    for trial in 0..trials {
        let step = wide * (narrow / wide).powf(trial as f64 / trials as f64);
        let which = random.below(points.len());
        let mut to = points[which];
        for side in &mut to {
            *side = (*side + step * (random.next() - 0.5)).clamp(0.0, 1.0);
        }
        if !convex && to[0] + to[1] > 1.0 {
            continue;
        }
        if smallest_with(points, which, to) > smallest_with(points, which, points[which]) {
            points[which] = to;
        }
    }
}

/// Three corners of the hull, against the clock, that span a large triangle.
fn frame(points: &[Point]) -> [usize; 3] {
    let hull = hull(points);
    let mut best = (0.0, [0, 1, 2]);
    for i in 0..hull.len() - 1 {
        for j in i + 1..hull.len() - 1 {
            for k in j + 1..hull.len() - 1 {
                let area = doubled_area(points[hull[i]], points[hull[j]], points[hull[k]]);
                if area > best.0 {
                    best = (area, [hull[i], hull[j], hull[k]]);
                }
            }
        }
    }
    best.1
}

/// The affine map that takes the frame to (0,0), (1,0), (0,1).
fn framed(points: &[Point], frame: [usize; 3]) -> Vec<Point> {
    let [a, b, c] = frame.map(|i| points[i]);
    let whole = doubled_area(a, b, c);
    points.iter().map(|p| [doubled_area(a, *p, c) / whole, doubled_area(a, b, *p) / whole]).collect()
}

/// Climbs to a local optimum; orientations (and the hull) stay as they are.
fn climb(points: &mut Vec<Point>, convex: bool, last: f64) {
    let first = knobs::number("barrier_first", 1e-3, 1e-6, 0.1, Logarithmic);
    let factor = knobs::number("barrier_factor", 0.2, 0.05, 0.8, Linear);
    let hasty = knobs::flag("hasty", false);
    let n = points.len();
    let (level, side) = (2 * n, 2 * n + 1);
    let mut start = points.clone();
    // Shares of areas do not change under affine maps. What such a map could
    // do is ruled out: the frame stays (0,0), (side,0), (0,side).
    let fixed = if convex { frame(points) } else { [n; 3] };
    if convex {
        start = framed(points, fixed);
        let whole: f64 = hull(&start).windows(2).map(|w| shoelace(&start, w)).sum();
        let scale = 0.99 / whole.max(1e-9).sqrt();
        start.iter_mut().flatten().for_each(|v| *v *= scale);
    } else {
        start.iter_mut().flatten().for_each(|v| *v = (1.0 + 3e4 * *v) / 30_003.0);
    }
    // The variable of a coordinate, if it is not fixed at zero.
    let variable = |v: usize| match (v / 2, v % 2) {
        (i, _) if i == fixed[0] => None,
        (i, d) if i == fixed[1] => (d == 0).then_some(side),
        (i, d) if i == fixed[2] => (d == 1).then_some(side),
        _ => Some(v),
    };
    let products = |terms: &[(usize, usize, f64)]| -> Vec<(usize, usize, f64)> {
        terms.iter().filter_map(|(a, b, f)| Some((variable(*a)?, variable(*b)?, *f))).collect()
    };
    let mut objective = vec![0.0; side + 1];
    objective[level] = 1.0;
    let mut program = Program::maximize(objective);
    let mut smallest = f64::INFINITY;
    for i in 0..n {
        for j in 0..i {
            for k in 0..j {
                let area = doubled_area(start[i], start[j], start[k]);
                smallest = smallest.min(area.abs());
                let s = if area < 0.0 { -1.0 } else { 1.0 };
                let (a, b, c) = (2 * i, 2 * j, 2 * k);
                let area = products(&[
                    (a, b + 1, s),
                    (b, c + 1, s),
                    (c, a + 1, s),
                    (a + 1, b, -s),
                    (b + 1, c, -s),
                    (c + 1, a, -s),
                ]);
                program.positive(0.0, &[(level, -1.0)], &area);
            }
        }
    }
    if convex {
        let mut area = Vec::new();
        for w in hull(&start).windows(2) {
            let (a, b) = (2 * w[0], 2 * w[1]);
            area.extend(products(&[(a, b + 1, -1.0), (a + 1, b, 1.0)]));
        }
        program.positive(1.0, &[], &area);
    } else {
        for i in 0..n {
            program.positive(0.0, &[(2 * i, 1.0)], &[]);
            program.positive(0.0, &[(2 * i + 1, 1.0)], &[]);
            program.positive(1.0, &[(2 * i, -1.0), (2 * i + 1, -1.0)], &[]);
        }
    }
    let mut x: Vec<f64> = start.iter().flatten().copied().collect();
    x.push(0.5 * smallest);
    x.push(if convex { start[fixed[1]][0] } else { 0.0 });
    program.ascend(&mut x, Schedule { first, last, factor, steps: 100, hasty });
    let at = |v: usize| variable(v).map_or(0.0, |v| x[v]);
    *points = (0..n).map(|i| [at(2 * i), at(2 * i + 1)]).collect();
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Spreader;

impl Function for Spreader {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok(input) = <&[u8; 16]>::try_from(input) else {
            return Err(Error::invalid("the input is 16 bytes: n and region as u32, a seed as u64"));
        };
        let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let seed = u64::from(word(8)) | u64::from(word(12)) << 32;
        let points = spread(word(0).clamp(3, 64) as usize, word(4) == 1, seed);
        Ok(points.into_iter().flatten().flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Spreader);
