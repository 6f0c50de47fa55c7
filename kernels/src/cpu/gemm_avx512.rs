//! Tiles of 14 × 32 outputs for AVX-512: 28 accumulators, two vectors of the
//! right operand, and the left one broadcast (the tile is that of BLIS on
//! Skylake-X). One multiplies `f32`, the other pairs of bfloat16. Attention has
//! half as wide ones too, for the keys beside what its mask hides.
//!
//! `vdpbf16ps` adds two products of a pair to an `f32` sum, twice as fast as
//! widened numbers are multiplied. It takes denormal numbers, in and out, for
//! zero (Intel, *Instruction Set Extensions Programming Reference*): sums
//! below 2⁻¹²⁶ are lost, which no other level does.

use std::arch::x86_64::*;

use super::attention::STRIDE;
use super::blocked::{ByRows, LyingByRows, Micro};
use super::packing::prefetch_to_write;
use super::tiles::Tile;

/// AVX-512's tile of packed operands.
pub(crate) struct Avx512;

/// AVX-512's tile of packed pairs of bfloat16.
pub(crate) struct Avx512Bf16;

/// A tile's functions by rows less one, for left operands with these strides
/// from row to row and along the inner dimension; without any, for packed ones,
/// so many vectors of columns, and whether the outputs go past the caches.
macro_rules! by_rows {
    ($tile:ident, $vectors:literal, $past:literal) => {
        by_rows!($tile, $vectors, $past, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    ($tile:ident, $vectors:literal, $past:literal, $($rows:literal)*) => {
        &[$($tile::<$rows, $vectors, 1, $rows, $past>),*]
    };
    ($tile:ident, $row:expr, $along:expr) => {
        &[
            $tile::<1, 2, { $row }, { $along }, false>,
            $tile::<2, 2, { $row }, { $along }, false>,
            $tile::<3, 2, { $row }, { $along }, false>,
            $tile::<4, 2, { $row }, { $along }, false>,
            $tile::<5, 2, { $row }, { $along }, false>,
            $tile::<6, 2, { $row }, { $along }, false>,
            $tile::<7, 2, { $row }, { $along }, false>,
            $tile::<8, 2, { $row }, { $along }, false>,
            $tile::<9, 2, { $row }, { $along }, false>,
            $tile::<10, 2, { $row }, { $along }, false>,
            $tile::<11, 2, { $row }, { $along }, false>,
            $tile::<12, 2, { $row }, { $along }, false>,
            $tile::<13, 2, { $row }, { $along }, false>,
            $tile::<14, 2, { $row }, { $along }, false>,
        ]
    };
}

/// [`lying`] by rows less one, and whether the outputs go past the caches.
macro_rules! lying_by_rows {
    ($past:literal) => {
        lying_by_rows!($past, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    ($past:literal, $($rows:literal)*) => {
        &[$(lying::<$rows, $past>),*]
    };
}

impl Micro for Avx512 {
    const ROWS: usize = 14;
    const COLS: usize = 32;
    const DEPTH: usize = DEPTH;
    const TALL: usize = TALL;
    const RUN: ByRows = [by_rows!(singles, 2, false), by_rows!(singles, 2, true)];
    const LYING: Option<LyingByRows> = Some([lying_by_rows!(false), lying_by_rows!(true)]);
}

impl Micro for Avx512Bf16 {
    const ROWS: usize = 14;
    const COLS: usize = 32;
    const DEEP: usize = 2;
    const DEPTH: usize = DEPTH;
    const TALL: usize = TALL;
    const RUN: ByRows = [by_rows!(pairs, 2, false), by_rows!(pairs, 2, true)];
}

/// A tile whose left operand may be attention's weights: rows [`STRIDE`] floats
/// apart.
pub(crate) trait Weighed: Micro {
    /// As [`Micro::RUN`], for rows of them: units that follow each other.
    const ALONG: &'static [unsafe fn(&Tile)];
    /// As [`Micro::RUN`], for columns of them.
    const ACROSS: &'static [unsafe fn(&Tile)];
    /// As [`Micro::RUN`], for packed operands and at most half its columns.
    const HALF: &'static [unsafe fn(&Tile)];
}

impl Weighed for Avx512 {
    const ALONG: &'static [unsafe fn(&Tile)] = by_rows!(singles, STRIDE, 1);
    const ACROSS: &'static [unsafe fn(&Tile)] = by_rows!(singles, 1, STRIDE);
    const HALF: &'static [unsafe fn(&Tile)] = by_rows!(singles, 1, false);
}

/// A row of pairs has half as many units.
impl Weighed for Avx512Bf16 {
    const ALONG: &'static [unsafe fn(&Tile)] = by_rows!(pairs, STRIDE / 2, 1);
    const ACROSS: &'static [unsafe fn(&Tile)] = by_rows!(pairs, 1, STRIDE);
    const HALF: &'static [unsafe fn(&Tile)] = by_rows!(pairs, 1, false);
}

/// Of [`Micro::DEPTH`]: a panel and a strip come from L2, at a fifth of its
/// pace, and a block's sums make few trips. In a training step (Zen 4, 1 MiB
/// of L2) 1024 × 42 took 0.93 of the time of 384 × 96 in bfloat16 and 0.97 in
/// `f32`; 2048 × 28 another 0.98 of that.
const DEPTH: usize = 2048;
/// Of [`Micro::TALL`]. Low blocks are many, so that threads end together.
const TALL: usize = 28;

/// Floats of a vector.
const VECTOR: usize = 16;

/// Steps of the inner dimension between two lines of [`Tile::ahead`].
const APART: usize = 8;

/// Defines a tile: sums of M × 16 · N outputs, each step of the inner dimension by
/// `$step` (sum, a unit of the left operand, units of the right one).
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident, $features:literal, $step:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `left` has depth × M units, rows `ROW` and the inner dimension's
        /// steps `ALONG` apart, `right` depth × COLS; `out` has M rows of
        /// `width`, 16 · N at most. If `PAST`, as [`Micro::RUN`] says.
        #[target_feature(enable = $features)]
        unsafe fn $name<
            const M: usize,
            const N: usize,
            const ROW: usize,
            const ALONG: usize,
            const PAST: bool,
        >(
            tile: &Tile,
        ) {
            let mut sums = [[_mm512_setzero_ps(); N]; M];
            let (mut left, mut right, mut next) = (tile.left, tile.right, tile.next);
            for step in 0..tile.depth {
                ask::<M, PAST>(tile, step, &mut next);
                let mut b = [_mm512_setzero_ps(); N];
                for (half, b) in b.iter_mut().enumerate() {
                    // SAFETY: `right` has depth rows of two vectors.
                    *b = unsafe { _mm512_loadu_ps(right.add(half * VECTOR)) };
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `left` has depth columns of M units.
                    let a = _mm512_set1_ps(unsafe { *left.add(i * ROW) });
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = $step(*sum, a, b);
                    }
                }
                left = left.wrapping_add(ALONG);
                right = right.wrapping_add(Avx512::COLS);
            }
            // SAFETY: the caller's promise.
            unsafe { finish::<M, N, PAST>(tile, sums) };
        }
    };
}

/// Asks for what is wanted after a step of the inner dimension.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask<const M: usize, const PAST: bool>(tile: &Tile, step: usize, next: &mut *const f32) {
    _mm_prefetch::<_MM_HINT_T1>(next.cast());
    *next = next.wrapping_add(VECTOR);
    // The outputs are wanted when the loop is over, and not pushed out before.
    let steps = tile.depth - step;
    if !PAST && steps <= M {
        let row = tile.out.wrapping_add((steps - 1).wrapping_mul(tile.out_stride));
        prefetch_to_write(row);
        prefetch_to_write(row.wrapping_add(Avx512::COLS - 1));
    }
    if step.is_multiple_of(APART)
        && let Some(line) = tile.ahead.get(step / APART)
    {
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
}

tile! {
    /// AVX-512F.
    singles, "avx512f", multiply_add
}

tile! {
    /// AVX-512F and AVX-512 BF16.
    pairs, "avx512f,avx512bf16", multiply_add_pairs
}

/// Row i of a left operand that lies is so many rows behind one of the bases,
/// every third row: what an address can add.
const ROWS_OF: [(usize, usize); 14] = [
    (0, 0),
    (0, 1),
    (0, 2),
    (1, 0),
    (0, 4),
    (1, 2),
    (2, 0),
    (1, 4),
    (0, 8),
    (3, 0),
    (2, 4),
    (1, 8),
    (4, 0),
    (3, 4),
];

/// AVX-512F's tile of a left operand that lies in rows.
///
/// # Safety
/// `left` has M rows of depth elements, `row` apart, `right` depth × COLS;
/// `out` has M rows of `width`. If `PAST`, as [`Micro::RUN`] says.
#[target_feature(enable = "avx512f")]
unsafe fn lying<const M: usize, const PAST: bool>(tile: &Tile, row: usize) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let mut bases = [0, 3, 6, 9, 12].map(|i| tile.left.wrapping_add(i * row));
    let (mut right, mut next) = (tile.right, tile.next);
    for step in 0..tile.depth {
        ask::<M, PAST>(tile, step, &mut next);
        let mut b = [_mm512_setzero_ps(); 2];
        for (half, b) in b.iter_mut().enumerate() {
            // SAFETY: `right` has depth rows of two vectors.
            *b = unsafe { _mm512_loadu_ps(right.add(half * VECTOR)) };
        }
        for (sums, (base, times)) in sums.iter_mut().zip(ROWS_OF) {
            // SAFETY: `left` has M rows.
            let a = _mm512_set1_ps(unsafe { *bases[base].add(times * row) });
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = multiply_add(*sum, a, b);
            }
        }
        bases = bases.map(|base| base.wrapping_add(1));
        right = right.wrapping_add(Avx512::COLS);
    }
    // SAFETY: the caller's promise.
    unsafe { finish::<M, 2, PAST>(tile, sums) };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(sum: __m512, a: __m512, b: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, sum)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_add_pairs(sum: __m512, a: __m512, b: __m512) -> __m512 {
    // SAFETY: vectors of 512 bits, of which any are pairs of bfloat16.
    let (a, b) =
        unsafe { (std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) };
    _mm512_dpbf16_ps(sum, a, b)
}

/// # Safety
/// AVX-512F; `out` has M rows of `width`. If `PAST`, as [`Micro::RUN`] says.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish<const M: usize, const N: usize, const PAST: bool>(tile: &Tile, sums: [[__m512; N]; M]) {
    let alpha = _mm512_set1_ps(tile.alpha);
    // A bit for each column that exists, of either vector.
    let columns = u32::MAX >> (Avx512::COLS - tile.width);
    let masks = [columns as u16, (columns >> VECTOR) as u16];
    for (i, halves) in sums.into_iter().enumerate() {
        for (half, sum) in halves.into_iter().enumerate() {
            let at = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride)).wrapping_add(half * VECTOR);
            // SAFETY: masked elements are neither read nor written; the others
            // are in row i of `out`. Past the caches all are.
            unsafe {
                if PAST {
                    _mm512_stream_ps(at, _mm512_mul_ps(alpha, sum));
                    continue;
                }
                let value = if tile.accumulate {
                    _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(masks[half], at))
                } else {
                    _mm512_mul_ps(alpha, sum)
                };
                _mm512_mask_storeu_ps(at, masks[half], value);
            }
        }
    }
}
