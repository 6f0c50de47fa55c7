//! Cap sets: many points of the n-dimensional space over three elements, no
//! three on a line.
//!
//! Input: n as u32, a seed as u64, little-endian. Output: the points, one byte
//! (0, 1 or 2) per coordinate.
//!
//! The cap is made of whole orbits of a random group of symmetries: signed
//! permutations of the coordinates. Orbits are added where they fit, some are
//! taken out again, and others are tried (iterated greedy search).
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START cap
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

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The space: points are numbers in base 3.
struct Space {
    n: usize,
    size: usize,
    /// Third points of lines, for the lower and the upper half of the digits.
    low: Vec<u16>,
    high: Vec<u16>,
    split: usize,
}

impl Space {
    fn new(n: usize) -> Self {
        let split = 3usize.pow(n as u32 / 2);
        let rest = 3usize.pow((n - n / 2) as u32);
        Self { n, size: split * rest, low: thirds(split), high: thirds(rest), split }
    }

    /// The third point of the line through two.
    fn third(&self, a: usize, b: usize) -> usize {
        let (split, rest) = (self.split, self.size / self.split);
        let low = self.low[a % split * split + b % split] as usize;
        low + split * self.high[a / split * rest + b / split] as usize
    }

    fn digits(&self, mut point: usize) -> Vec<u8> {
        let mut digits = vec![0; self.n];
        for digit in &mut digits {
            *digit = (point % 3) as u8;
            point /= 3;
        }
        digits
    }
}

fn thirds(size: usize) -> Vec<u16> {
    let mut table = Vec::with_capacity(size * size);
    for a in 0..size {
        for b in 0..size {
            let (mut a, mut b, mut unit, mut third) = (a, b, 1, 0);
            while unit < size {
                third += (6 - a % 3 - b % 3) % 3 * unit;
                (a, b, unit) = (a / 3, b / 3, unit * 3);
            }
            table.push(third as u16);
        }
    }
    table
}

/// The image of every point under a random symmetry whose permutation is made
/// of cycles of one length.
fn symmetry(space: &Space, random: &mut Random) -> Vec<u16> {
    let longest = knobs::integer("longest_cycle", 4, 1, 8, Linear) as usize;
    let signs = knobs::number("sign_chance", 0.2, 0.0, 1.0, Linear);
    let n = space.n;
    let mut order: Vec<usize> = (0..n).collect();
    random.shuffle(&mut order);
    let cycle = 1 + random.below(longest.min(n));
    let mut to: Vec<usize> = (0..n).collect();
    for part in order.chunks(cycle) {
        for (k, from) in part.iter().enumerate() {
            to[*from] = part[(k + 1) % part.len()];
        }
    }
    let flips: Vec<bool> = (0..n).map(|_| random.next() < signs).collect();
    let image = |point: usize| -> u16 {
        let digits = space.digits(point);
        let moved = (0..n).map(|d| {
            let digit = usize::from(digits[d]);
            (if flips[d] { (3 - digit) % 3 } else { digit }) * 3usize.pow(to[d] as u32)
        });
        moved.sum::<usize>() as u16
    };
    (0..space.size).map(image).collect()
}

/// The orbits of a group, without those that hold a line.
fn orbits(space: &Space, generators: &[Vec<u16>]) -> Vec<Vec<u16>> {
    let mut seen = vec![false; space.size];
    let mut all = Vec::new();
    for point in 0..space.size {
        if seen[point] {
            continue;
        }
        seen[point] = true;
        let mut orbit = vec![point as u16];
        let mut next = 0;
        while next < orbit.len() {
            for generator in generators {
                let image = generator[orbit[next] as usize];
                if !std::mem::replace(&mut seen[image as usize], true) {
                    orbit.push(image);
                }
            }
            next += 1;
        }
        if !holds_line(space, &orbit) {
            all.push(orbit);
        }
    }
    all
}

fn holds_line(space: &Space, orbit: &[u16]) -> bool {
    let mut member = vec![false; space.size];
    orbit.iter().for_each(|p| member[*p as usize] = true);
    // Every line has an image through the first point.
    let first = orbit[0] as usize;
    orbit[1..].iter().any(|p| member[space.third(first, *p as usize)])
}

/// A cap, and for each point how many of its pairs it is on a line with.
struct Cap<'a> {
    space: &'a Space,
    points: Vec<u16>,
    blocked: Vec<u16>,
}

impl Cap<'_> {
    /// Adds an orbit if it fits.
    fn add(&mut self, orbit: &[u16]) -> bool {
        if orbit.iter().any(|p| self.blocked[*p as usize] > 0) {
            return false;
        }
        let before = self.points.len();
        for p in orbit {
            if self.blocked[*p as usize] > 0 {
                while self.points.len() > before {
                    self.take_last();
                }
                return false;
            }
            for q in &self.points {
                self.blocked[self.space.third(*p as usize, *q as usize)] += 1;
            }
            self.points.push(*p);
        }
        // A point of the orbit may have been blocked by later ones.
        if orbit.iter().any(|p| self.blocked[*p as usize] > 0) {
            while self.points.len() > before {
                self.take_last();
            }
            return false;
        }
        true
    }

    fn take_last(&mut self) {
        if let Some(p) = self.points.pop() {
            for q in &self.points {
                self.blocked[self.space.third(p as usize, *q as usize)] -= 1;
            }
        }
    }

    fn remove(&mut self, orbit: &[u16]) {
        for p in orbit {
            if let Some(at) = self.points.iter().position(|q| q == p) {
                let last = self.points.len() - 1;
                self.points.swap(at, last);
                self.take_last();
            }
        }
    }
}

fn search(n: usize, seed: u64) -> Vec<Vec<u8>> {
    let groups = knobs::integer("groups", 4, 1, 100, Logarithmic);
    let generators = knobs::integer("generators", 2, 1, 4, Linear);
    let rounds = knobs::integer("rounds", 20, 1, 60, Logarithmic);
    let removed = knobs::integer("removed", 3, 1, 20, Logarithmic);
    let by_size = knobs::number("by_size", 1.0, 0.0, 4.0, Linear);
    let mut random = Random(seed);
    let space = Space::new(n);
    let mut best: Vec<u16> = Vec::new();
    for _ in 0..groups {
        let group: Vec<Vec<u16>> = (0..generators).map(|_| symmetry(&space, &mut random)).collect();
        let orbits = orbits(&space, &group);
        let mut cap = Cap { space: &space, points: Vec::new(), blocked: vec![0; space.size] };
        let mut inside: Vec<usize> = Vec::new();
        for _ in 0..rounds {
            let before = (cap.points.len(), inside.clone());
            let mut out = Vec::new();
            for _ in 0..removed {
                if !inside.is_empty() {
                    let gone = inside.swap_remove(random.below(inside.len()));
                    cap.remove(&orbits[gone]);
                    out.push(gone);
                }
            }
            let mut order: Vec<(f64, usize)> = orbits
                .iter()
                .enumerate()
                .filter(|(_, orbit)| cap.blocked[orbit[0] as usize] == 0)
                .map(|(at, orbit)| (random.next() * (orbit.len() as f64).powf(by_size), at))
                .collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            for (_, at) in order {
                if !inside.contains(&at) && !out.contains(&at) && cap.add(&orbits[at]) {
                    inside.push(at);
                }
            }
            for at in out {
                if cap.add(&orbits[at]) {
                    inside.push(at);
                }
            }
            if cap.points.len() < before.0 {
                while !cap.points.is_empty() {
                    cap.take_last();
                }
                inside = before.1;
                for at in &inside {
                    cap.add(&orbits[*at]);
                }
            }
        }
        if cap.points.len() > best.len() {
            best = cap.points;
        }
    }
    best.iter().map(|p| space.digits(*p as usize)).collect()
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Finder;

impl Function for Finder {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok([a, b, c, d, seed @ ..]) = <[u8; 12]>::try_from(input) else {
            return Err(Error::invalid("the input is 12 bytes: n as u32, a seed as u64"));
        };
        let n = u32::from_le_bytes([a, b, c, d]).clamp(1, 8) as usize;
        Ok(search(n, u64::from_le_bytes(seed)).concat())
    }
}

export_function!(Finder);
