//! Matrix multiplication with few multiplications: a short sum of products of
//! three linear forms that is the tensor ⟨n, m, p⟩, over the integers.
//!
//! Input: n, m, p as u32, a seed as u64, little-endian. Output: for each term
//! the factors of A's entries, of B's and of the product's, row by row, each
//! number as two signed bytes: twice its real part, twice its imaginary part.
//!
//! A walk on the flip graph (M. Kauers, J. Moosbauer, "Flip graphs for matrix
//! multiplication", 2022), with factors −1, 0 and 1: of two terms that share a
//! factor, a⊗b⊗c + a⊗b′⊗c′ = a⊗(b ± b′)⊗c + a⊗b′⊗(c′ ∓ c). A term one of whose
//! factors becomes zero is gone. A walk starts from the plain sum, or from one
//! in blocks of 2×2 whose parts are found by walks. Where the walk is stuck, a term is split (Y.
//! Arai, Y. Ichikawa, K. Hukushima, "Adaptive flip graph algorithm", 2024).
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::knobs::{self, Linear, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

// EVOLVE-BLOCK-START decomposition
/// Places with factor 1, and places with factor −1.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form(u64, u64);

impl Form {
    fn negative(self) -> Self {
        Self(self.1, self.0)
    }

    /// How many places there are.
    fn weight(self) -> i32 {
        (self.0 | self.1).count_ones() as i32
    }

    fn is_zero(self) -> bool {
        self.0 | self.1 == 0
    }

    /// The sum, if all its factors are −1, 0 or 1.
    fn plus(self, other: Self) -> Option<Self> {
        if self.0 & other.0 | self.1 & other.1 != 0 {
            return None;
        }
        let (plus, minus) = (self.0 | other.0, self.1 | other.1);
        let both = plus & minus;
        Some(Self(plus ^ both, minus ^ both))
    }
}

/// Factors of A, of B, of the product.
type Term = [Form; 3];

/// Xorshift (G. Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) * n as u64 >> 32) as usize
    }
}

/// One term for each product of two entries.
fn plain(n: usize, m: usize, p: usize) -> Vec<Term> {
    let mut terms = Vec::new();
    for i in 0..n {
        for j in 0..m {
            for k in 0..p {
                terms.push([Form(1 << (i * m + j), 0), Form(1 << (j * p + k), 0), Form(1 << (i * p + k), 0)]);
            }
        }
    }
    terms
}

/// A sum made of smaller ones that walks find, then a walk from there.
fn search(n: usize, m: usize, p: usize, seed: u64) -> Vec<Term> {
    let steps = knobs::integer("flips", 300_000, 100_000, 10_000_000, Logarithmic);
    let blocks = knobs::flag("blocks", false);
    let mut random = Random(seed | 1);
    (0..8).for_each(|_| drop(random.next()));
    let start = if blocks { in_blocks(n, m, p, &mut random) } else { plain(n, m, p) };
    walk(start, steps, &mut random)
}

/// Blocks of 2×2: a sum for the matrices of blocks, times one for the blocks.
/// What is left over at the borders is multiplied plainly.
fn in_blocks(n: usize, m: usize, p: usize, random: &mut Random) -> Vec<Term> {
    let small = knobs::integer("small_flips", 100_000, 1_000, 300_000, Logarithmic);
    if n.min(m).min(p) < 2 {
        return plain(n, m, p);
    }
    let (rows, inner, columns) = (n / 2, m / 2, p / 2);
    let outer = walk(in_blocks(rows, inner, columns, random), small, random);
    let block = walk(plain(2, 2, 2), small, random);
    let mut terms = Vec::new();
    for o in &outer {
        for b in &block {
            terms.push([
                blown(o[0], inner, b[0], m),
                blown(o[1], columns, b[1], p),
                blown(o[2], columns, b[2], p),
            ]);
        }
    }
    let covered = |i: usize, j: usize, k: usize| i < 2 * rows && j < 2 * inner && k < 2 * columns;
    for (at, term) in plain(n, m, p).into_iter().enumerate() {
        if !covered(at / (m * p), at / p % m, at % p) {
            terms.push(term);
        }
    }
    terms
}

/// The product of a form over a matrix of blocks, `across` wide, and one over a
/// block of 2×2, in a matrix `width` wide.
fn blown(outer: Form, across: usize, block: Form, width: usize) -> Form {
    let mut all = Form(0, 0);
    for o in 0..64 {
        for b in 0..4 {
            let (row, column) = (o / across * 2 + b / 2, o % across * 2 + b % 2);
            let has = |form: u64, at: usize| form >> at & 1 == 1;
            let same = has(outer.0, o) && has(block.0, b) || has(outer.1, o) && has(block.1, b);
            let opposite = has(outer.0, o) && has(block.1, b) || has(outer.1, o) && has(block.0, b);
            if same {
                all.0 |= 1 << (row * width + column);
            } else if opposite {
                all.1 |= 1 << (row * width + column);
            }
        }
    }
    all
}

/// Walks; the shortest sum that was met.
fn walk(start: Vec<Term>, steps: i64, random: &mut Random) -> Vec<Term> {
    let patience = knobs::integer("patience", 100_000, 1_000, 3_000_000, Logarithmic);
    let heat = knobs::number("heat", 2.0, 0.3, 20.0, Logarithmic);
    let spare = knobs::size("spare", 2, 0, 6, Linear) as usize;
    let mut terms = start;
    let mut best = terms.clone();
    let mut since = 0;
    for _ in 0..steps {
        since += 1;
        if flip(&mut terms, heat, random).is_some_and(|gone| gone > 0) && terms.len() < best.len() {
            best.clone_from(&terms);
            since = 0;
        }
        if since > patience {
            since = 0;
            if terms.len() < best.len() + spare {
                split(&mut terms, random);
            } else {
                terms.clone_from(&best);
            }
        }
    }
    best
}

/// Flips a random pair that shares a factor; how many terms went, or none if
/// no pair was found, a factor would leave −1..=1, or the terms would have become
/// much denser: sparse ones share more factors.
fn flip(terms: &mut Vec<Term>, heat: f64, random: &mut Random) -> Option<usize> {
    let count = terms.len();
    for _ in 0..60 {
        let (i, shared) = (random.below(count), random.below(3));
        let form = terms[i][shared];
        let negative = form.negative();
        let first = random.below(count);
        let matches = |j: &usize| *j != i && (terms[*j][shared] == form || terms[*j][shared] == negative);
        let Some(j) = (first..count).chain(0..first).find(matches) else {
            continue;
        };
        let (one, mut two) = (terms[i], terms[j]);
        let other = (shared + 1 + random.below(2)) % 3;
        let last = 3 - shared - other;
        if two[shared] != form {
            two[shared] = form;
            two[other] = two[other].negative();
        }
        let plus = random.next() & 1 << 40 == 0;
        let (b, c) =
            if plus { (two[other], one[last].negative()) } else { (two[other].negative(), one[last]) };
        let (sum, difference) = (one[other].plus(b)?, two[last].plus(c)?);
        let weight = |a: Form, b: Form| a.weight() + b.weight();
        let heavier = weight(sum, difference) - weight(one[other], two[last]);
        if heavier > 0 && random.unit() > (-f64::from(heavier) / heat).exp() {
            return None;
        }
        terms[i][other] = sum;
        terms[j] = two;
        terms[j][last] = difference;
        for at in [i.max(j), i.min(j)] {
            if at < terms.len() && (terms[at].iter().any(|form| form.is_zero()) || merge(terms, at)) {
                terms.swap_remove(at);
            }
        }
        return Some(count - terms.len());
    }
    None
}

/// Adds a term to another one that shares two factors with it; whether there
/// was one.
fn merge(terms: &mut [Term], at: usize) -> bool {
    let one = terms[at];
    for k in 0..terms.len() {
        let other = terms[k];
        let same = [0, 1, 2].map(|d| other[d] == one[d]);
        let opposite = [0, 1, 2].map(|d| other[d] == one[d].negative());
        for free in 0..3 {
            let (d, e) = ((free + 1) % 3, (free + 2) % 3);
            if k == at || !(same[d] || opposite[d]) || !(same[e] || opposite[e]) {
                continue;
            }
            let turned = opposite[d] != opposite[e];
            let added = if turned { one[free].negative() } else { one[free] };
            if let Some(sum) = other[free].plus(added)
                && !sum.is_zero()
            {
                terms[k][free] = sum;
                return true;
            }
        }
    }
    false
}

/// Writes a term as two, one of which shares a factor with another term.
fn split(terms: &mut Vec<Term>, random: &mut Random) {
    for _ in 0..1000 {
        let (i, j, at) = (random.below(terms.len()), random.below(terms.len()), random.below(3));
        let part = terms[j][at];
        if i == j || part == terms[i][at] {
            continue;
        }
        if let Some(rest) = terms[i][at].plus(part.negative())
            && !rest.is_zero()
        {
            let mut new = terms[i];
            new[at] = part;
            terms[i][at] = rest;
            terms.push(new);
            return;
        }
    }
}
// EVOLVE-BLOCK-END

/// The frame: bytes in, bytes out.
#[derive(Default)]
struct Multiplier;

impl Function for Multiplier {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let Ok(input) = <&[u8; 20]>::try_from(input) else {
            return Err(Error::invalid("the input is 20 bytes: n, m, p as u32, a seed as u64"));
        };
        let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let seed = u64::from(word(12)) | u64::from(word(16)) << 32;
        let [n, m, p] = [0, 4, 8].map(|at| word(at).clamp(1, 8) as usize);
        let mut out = Vec::new();
        for term in search(n, m, p, seed) {
            for (form, size) in term.iter().zip([n * m, m * p, n * p]) {
                for place in 0..size {
                    let factor = 2 * ((form.0 >> place & 1) as i8 - (form.1 >> place & 1) as i8);
                    out.extend([factor as u8, 0]);
                }
            }
        }
        Ok(out)
    }
}

export_function!(Multiplier);
