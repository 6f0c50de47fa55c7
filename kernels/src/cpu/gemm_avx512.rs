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
use super::matmul::Matrix;
use super::micro::{Blocks, ByRows, LyingByRows, Micro, PAST, Packing, ROUNDED, STORED};
use super::packing::prefetch_to_write;
use super::simd::second_cache;
use super::tiles::Tile;

/// AVX-512's tile of packed operands.
pub(crate) struct Avx512;

/// AVX-512's tile of packed pairs of bfloat16.
pub(crate) struct Avx512Bf16;

/// A tile's functions by rows less one, for left operands with these strides
/// from row to row and along the inner dimension; without any, for packed ones,
/// so many vectors of columns, and how it ends.
macro_rules! by_rows {
    ($tile:ident, $vectors:literal, $ends:ident) => {
        by_rows!($tile, $vectors, $ends, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    ($tile:ident, $vectors:literal, $ends:ident, $($rows:literal)*) => {
        &[$($tile::<$rows, $vectors, 1, $rows, $ends>),*]
    };
    ($tile:ident, strides $row:expr, $along:expr) => {
        &[
            $tile::<1, 2, { $row }, { $along }, STORED>,
            $tile::<2, 2, { $row }, { $along }, STORED>,
            $tile::<3, 2, { $row }, { $along }, STORED>,
            $tile::<4, 2, { $row }, { $along }, STORED>,
            $tile::<5, 2, { $row }, { $along }, STORED>,
            $tile::<6, 2, { $row }, { $along }, STORED>,
            $tile::<7, 2, { $row }, { $along }, STORED>,
            $tile::<8, 2, { $row }, { $along }, STORED>,
            $tile::<9, 2, { $row }, { $along }, STORED>,
            $tile::<10, 2, { $row }, { $along }, STORED>,
            $tile::<11, 2, { $row }, { $along }, STORED>,
            $tile::<12, 2, { $row }, { $along }, STORED>,
            $tile::<13, 2, { $row }, { $along }, STORED>,
            $tile::<14, 2, { $row }, { $along }, STORED>,
        ]
    };
}

/// [`lying`] by rows less one, and how it ends.
macro_rules! lying_by_rows {
    ($ends:ident) => {
        lying_by_rows!($ends, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    ($ends:ident, $($rows:literal)*) => {
        &[$(lying::<$rows, $ends>),*]
    };
}

impl Micro for Avx512 {
    const ROWS: usize = ROWS;
    const COLS: usize = COLS;
    const RUN: ByRows = &[by_rows!(singles, 2, STORED), by_rows!(singles, 2, PAST)];
    const LYING: Option<LyingByRows> = Some(&[lying_by_rows!(STORED), lying_by_rows!(PAST)]);
    const LYING_RIGHT: Option<ByRows> = Some(Self::RUN);
    const PACKS: bool = true;

    fn blocks() -> Blocks {
        blocks()
    }
}

impl Micro for Avx512Bf16 {
    const ROWS: usize = ROWS;
    const COLS: usize = COLS;
    const DEEP: usize = 2;
    const RUN: ByRows = &[by_rows!(pairs, 2, STORED), by_rows!(pairs, 2, PAST), by_rows!(pairs, 2, ROUNDED)];
    const LYING_RIGHT: Option<ByRows> = Some(&[
        by_rows!(pairs_by_rows, 2, STORED),
        by_rows!(pairs_by_rows, 2, PAST),
        by_rows!(pairs_by_rows, 2, ROUNDED),
    ]);
    const PACKS: bool = true;

    fn blocks() -> Blocks {
        blocks()
    }
}

/// The tiles that pack columns of `f32`.
pub(crate) const COLUMNS_OF_SINGLES: [Packing<f32>; 2] =
    [&[columns_of_singles::<STORED>, columns_of_singles::<PAST>]; 2];
/// The tiles that pack columns of bfloat16, in pairs.
pub(crate) const COLUMNS_OF_PAIRS: [Packing<u16>; 2] = [
    &[columns_of_pairs::<STORED>, columns_of_pairs::<PAST>, columns_of_pairs::<ROUNDED>],
    &[columns_by_rows::<STORED>, columns_by_rows::<PAST>, columns_by_rows::<ROUNDED>],
];
/// The tiles that pack rows of `f32`.
pub(crate) const ROWS_OF_SINGLES: [Packing<f32>; 2] =
    [&[rows_of_singles::<STORED>, rows_of_singles::<PAST>]; 2];
/// The tiles that pack rows of bfloat16, in pairs.
pub(crate) const ROWS_OF_PAIRS: [Packing<u16>; 2] = [
    &[rows_of_pairs::<STORED>, rows_of_pairs::<PAST>, rows_of_pairs::<ROUNDED>],
    &[rows_by_rows::<STORED>, rows_by_rows::<PAST>, rows_by_rows::<ROUNDED>],
];

/// A tile whose left operand may be attention's weights: rows [`STRIDE`] floats
/// apart, or [`Weighed::APART`] once they are units.
pub(crate) trait Weighed: Micro {
    /// Units from one row of weights to the next.
    const APART: usize;

    /// A tile of packed operands, of this pitch if in rows; or of half its columns.
    ///
    /// # Safety
    /// The instruction set; operands and outputs as [`Micro::RUN`] or
    /// [`Micro::LYING`] has them.
    unsafe fn packed(tile: &Tile, pitch: usize);

    /// A tile of rows of weights: units that follow each other.
    ///
    /// # Safety
    /// As [`Weighed::packed`].
    unsafe fn along(tile: &Tile);

    /// A tile of columns of weights, if tiles do not read rows.
    ///
    /// # Safety
    /// As [`Weighed::packed`].
    unsafe fn across(tile: &Tile);
}

/// [`Weighed`] by tables: rows of weights, columns of them, and at most half the
/// columns of a tile.
macro_rules! weighed {
    ($of:ty, $tile:ident, $apart:expr) => {
        impl Weighed for $of {
            const APART: usize = $apart;

            unsafe fn packed(tile: &Tile, _: usize) {
                const HALF: &[unsafe fn(&Tile)] = by_rows!($tile, 1, STORED);
                let run = if tile.width <= COLS / 2 { HALF } else { Self::RUN[STORED] };
                // SAFETY: the caller's promise.
                unsafe { run[tile.rows - 1](tile) };
            }

            unsafe fn along(tile: &Tile) {
                const RUN: &[unsafe fn(&Tile)] = by_rows!($tile, strides $apart, 1);
                // SAFETY: the caller's promise.
                unsafe { RUN[tile.rows - 1](tile) };
            }

            unsafe fn across(tile: &Tile) {
                const RUN: &[unsafe fn(&Tile)] = by_rows!($tile, strides 1, STRIDE);
                // SAFETY: the caller's promise.
                unsafe { RUN[tile.rows - 1](tile) };
            }
        }
    };
}

weighed!(Avx512, singles, STRIDE);
// A row of pairs has half as many units.
weighed!(Avx512Bf16, pairs, STRIDE / 2);

/// Rows of a tile.
const ROWS: usize = 14;
/// Columns of a tile.
const COLS: usize = 2 * VECTOR;
/// Bytes of L2 from which blocks are for processors whose L3 is far (Intel's).
const LARGE: usize = 1280 << 10;

/// [`Micro::blocks`]. A panel and a strip come from L2, at a fifth of its pace, and a
/// block's sums make few trips: in a training step (Zen 4, 1 MiB of L2) 1024 × 42
/// took 0.93 of the time of 384 × 96 in bfloat16 and 0.97 in `f32`; 2048 × 28 another
/// 0.98 of that. Low blocks are many, so that threads end together. Where L3 is far,
/// what a block reads is to be worth its way: on an Emerald Rapids (2 MiB of L2)
/// 512 × 112 took 0.85 of the time of 2048 × 28, and rows that are packed 0.88 to 0.97
/// of those that lie (1.01 on the Zen 4). There right operands are packed too, if each
/// of their rows has a page of its own: 0.86 of the time for 384 × 2048 × 1536 in a
/// step (1.05 for 384 × 2048 × 384, whose rows share pages).
fn blocks() -> Blocks {
    match second_cache() {
        LARGE.. => Blocks { depth: 512, copied: 512, tall: 112, lies: false, apart: PAGE },
        _ => Blocks { depth: 2048, copied: 2048, tall: 28, lies: true, apart: usize::MAX },
    }
}

/// Bytes of a page.
const PAGE: usize = 4096;

/// Floats of a vector.
const VECTOR: usize = 16;

/// Steps of the inner dimension between two lines of [`Tile::ahead`].
const APART: usize = 8;

/// Steps of the inner dimension by which a unit of all rows is packed before it
/// is used.
const EARLY: usize = 8;
/// Steps by which it is asked for before it is packed. (12 to 40, into L1 or L2,
/// made no difference that could be told; not at all took 1.03 to 1.07 of the time.)
const ASKED: usize = 16;

/// Adds a step of the inner dimension to sums of M × 16 · N outputs by `$step`
/// (sum, a unit of the left operand, units of the right one): units that `$load`
/// finds from `$right` on, and those that `$left` gives by row.
macro_rules! step {
    ($sums:ident, $n:tt, $right:ident, $stride:expr, $left:expr, $load:ident, $step:ident) => {
        // SAFETY: `right` has depth rows of so many vectors.
        let b = unsafe { $load::<$n>($right, $stride) };
        for (i, sums) in $sums.iter_mut().enumerate() {
            // SAFETY: the left operand has M rows.
            let a = _mm512_set1_ps(unsafe { *$left(i) });
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = $step(*sum, a, b);
            }
        }
    };
}

/// Defines a tile: sums of M × 16 · N outputs by `$step` (see [`step`]).
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident, $features:literal, $load:ident, $step:ident, $finish:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `left` has depth × M units, rows `ROW` and the inner dimension's
        /// steps `ALONG` apart, `right` depth rows of COLS; `out` has M rows of
        /// `width`, 16 · N at most. How it ends: [`STORED`].
        #[target_feature(enable = $features)]
        unsafe fn $name<
            const M: usize,
            const N: usize,
            const ROW: usize,
            const ALONG: usize,
            const ENDS: usize,
        >(
            tile: &Tile,
        ) {
            let mut sums = [[_mm512_setzero_ps(); N]; M];
            let (mut left, mut right, mut next) = (tile.left, tile.right, tile.next);
            for step in 0..tile.depth {
                ask::<M, ENDS>(tile, step, &mut next);
                step!(sums, N, right, tile.right_stride, |i| left.add(i * ROW), $load, $step);
                left = left.wrapping_add(ALONG);
                right = right.wrapping_add(tile.right_stride);
            }
            // SAFETY: the caller's promise.
            unsafe { $finish::<M, N, ENDS>(tile, sums) };
        }
    };
}

/// Elements of a row ahead of those that are packed, when they are asked for.
const SOON: usize = 64;

/// Defines a tile that packs its left operand on the way: the products leave idle
/// what this needs. `$pack` packs a unit of all rows, or by the last of four units
/// all four.
macro_rules! packing_tile {
    ($(#[$doc:meta])* $name:ident, $features:literal, $element:ty, $pack:ident, $load:ident, $step:ident, $finish:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `a` has ROWS rows of as many units as the tile is deep, and lies as
        /// [`Packing`] says; `left` has room for them and two floats, `right` has
        /// depth rows of COLS, `out` has ROWS rows of `width`. How it
        /// ends: [`STORED`].
        #[target_feature(enable = $features)]
        unsafe fn $name<const ENDS: usize>(tile: &Tile, a: &Matrix<$element>) {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            let packed = tile.left.cast_mut();
            let (mut left, mut right, mut next) = (tile.left, tile.right, tile.next);
            for unit in 0..EARLY.min(tile.depth) {
                // SAFETY: the caller's promise.
                unsafe { $pack(a, unit, packed) };
            }
            for step in 0..tile.depth {
                ask::<ROWS, ENDS>(tile, step, &mut next);
                if step + EARLY < tile.depth {
                    // SAFETY: the caller's promise.
                    unsafe { $pack(a, step + EARLY, packed) };
                }
                step!(sums, 2, right, tile.right_stride, |i| left.add(i), $load, $step);
                left = left.wrapping_add(ROWS);
                right = right.wrapping_add(tile.right_stride);
            }
            // SAFETY: the caller's promise.
            unsafe { $finish::<ROWS, 2, ENDS>(tile, sums) };
        }
    };
}

/// Asks for what is wanted after a step of the inner dimension.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask<const M: usize, const ENDS: usize>(tile: &Tile, step: usize, next: &mut *const f32) {
    _mm_prefetch::<_MM_HINT_T1>(next.cast());
    // A packed panel's lines lie side by side.
    *next = next.wrapping_add(if tile.right_stride == COLS { VECTOR } else { tile.right_stride });
    // The outputs are wanted when the loop is over, and not pushed out before.
    let steps = tile.depth - step;
    if ENDS == STORED && steps <= M {
        let row = tile.out.wrapping_add((steps - 1).wrapping_mul(tile.out_stride));
        prefetch_to_write(row);
        prefetch_to_write(row.wrapping_add(COLS - 1));
    }
    if step.is_multiple_of(APART)
        && let Some(line) = tile.ahead.get(step / APART)
    {
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
}

tile! {
    /// AVX-512F.
    singles, "avx512f", units, multiply_add, finish
}

tile! {
    /// AVX-512F and AVX-512 BF16.
    pairs, "avx512f,avx512bf16", units, multiply_add_pairs, finish_pairs
}

tile! {
    /// AVX-512F, BW and AVX-512 BF16. `right` lies in rows of bfloat16.
    pairs_by_rows, "avx512f,avx512bw,avx512bf16", interleaved, multiply_add_pairs, finish_interleaved
}

packing_tile! {
    /// AVX-512F.
    columns_of_singles, "avx512f", f32, pack_column, units, multiply_add, finish
}

packing_tile! {
    /// AVX-512F.
    rows_of_singles, "avx512f", f32, pack_rows, units, multiply_add, finish
}

packing_tile! {
    /// AVX-512F, BW and VL, and AVX-512 BF16.
    columns_of_pairs, "avx512f,avx512bw,avx512vl,avx512bf16", u16, pack_columns, units, multiply_add_pairs, finish_pairs
}

packing_tile! {
    /// AVX-512F and AVX-512 BF16.
    rows_of_pairs, "avx512f,avx512bf16", u16, pack_rows, units, multiply_add_pairs, finish_pairs
}

packing_tile! {
    /// AVX-512F, BW and VL, and AVX-512 BF16. `right` lies in rows of bfloat16.
    columns_by_rows, "avx512f,avx512bw,avx512vl,avx512bf16", u16, pack_columns, interleaved, multiply_add_pairs, finish_interleaved
}

packing_tile! {
    /// AVX-512F, BW and AVX-512 BF16. `right` lies in rows of bfloat16.
    rows_by_rows, "avx512f,avx512bw,avx512bf16", u16, pack_rows, interleaved, multiply_add_pairs, finish_interleaved
}

/// A bit for each row of a tile.
const OF_ROWS: u16 = u16::MAX >> (16 - ROWS);

/// Copies column `unit` to its place in a strip that is packed from `to` on,
/// and zeros to the two floats behind it.
///
/// # Safety
/// AVX-512F; the column has ROWS elements, and there is room.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pack_column(a: &Matrix, unit: usize, to: *mut f32) {
    let from = a.data.as_ptr().wrapping_add(unit.wrapping_mul(a.col_stride));
    ask_for_column(from.wrapping_add(ASKED.wrapping_mul(a.col_stride)));
    // SAFETY: the caller's promise; masked elements are not read.
    unsafe { _mm512_storeu_ps(to.wrapping_add(unit * ROWS), _mm512_maskz_loadu_ps(OF_ROWS, from)) };
}

/// As [`pack_column`], of the pairs of columns 2 · `unit` and the one after,
/// which is zero if there is none.
///
/// # Safety
/// AVX-512F, BW and VL; the columns have ROWS elements, and there is room.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_columns(a: &Matrix<u16>, unit: usize, to: *mut f32) {
    let first = a.data.as_ptr().wrapping_add((2 * unit).wrapping_mul(a.col_stride));
    let second = first.wrapping_add(a.col_stride);
    for column in [first, second] {
        ask_for_column(column.wrapping_add((2 * ASKED).wrapping_mul(a.col_stride)));
    }
    let of_second = if 2 * unit + 1 < a.cols { OF_ROWS } else { 0 };
    // The elements of the first column at even places, those of the second at
    // odd ones, which begin at 32.
    let order = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34,
        2, 33, 1, 32, 0,
    );
    // SAFETY: the caller's promise; masked elements are not read. (Vectors of
    // 512 bits would touch lines that no one needs.)
    unsafe {
        let first = _mm256_maskz_loadu_epi16(OF_ROWS, first.cast());
        let second = _mm256_maskz_loadu_epi16(of_second, second.cast());
        let pairs =
            _mm512_permutex2var_epi16(_mm512_castsi256_si512(first), order, _mm512_castsi256_si512(second));
        _mm512_storeu_si512(to.wrapping_add(unit * ROWS).cast(), pairs);
    }
}

/// Copies a quarter of four units of all rows, those that `unit` is one of, to
/// their places in a strip that is packed from `to` on: of four rows, or of the
/// last two. (All rows at once would need more registers than sums leave.)
///
/// # Safety
/// AVX-512F; there are four units of ROWS rows, and room.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pack_rows<T>(a: &Matrix<T>, unit: usize, to: *mut f32) {
    const { assert!(ROWS == 14 && EARLY >= 4) };
    let (first, top) = (unit / 4 * 4, unit % 4 * 4);
    let skipped = first * (size_of::<f32>() / size_of::<T>());
    for top in [top, (top + 2).min(ROWS - 2)] {
        let row = a.data.as_ptr().wrapping_add(top.wrapping_mul(a.row_stride) + skipped);
        let rows = [row, row.wrapping_add(a.row_stride)];
        for row in rows {
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(SOON).cast());
        }
        let to = to.wrapping_add(first * ROWS + top);
        // SAFETY: the caller's promise: four units of two rows, and two floats of
        // four units.
        unsafe {
            let [a, b] = rows.map(|row| _mm_loadu_ps(row.cast()));
            let low = _mm_castps_pd(_mm_unpacklo_ps(a, b));
            let high = _mm_castps_pd(_mm_unpackhi_ps(a, b));
            _mm_storel_pd(to.cast(), low);
            _mm_storeh_pd(to.wrapping_add(ROWS).cast(), low);
            _mm_storel_pd(to.wrapping_add(2 * ROWS).cast(), high);
            _mm_storeh_pd(to.wrapping_add(3 * ROWS).cast(), high);
        }
    }
}

/// Asks for the one or two cache lines of a column's elements.
#[inline]
#[target_feature(enable = "avx512f")]
fn ask_for_column<T>(column: *const T) {
    _mm_prefetch::<_MM_HINT_T0>(column.cast());
    _mm_prefetch::<_MM_HINT_T0>(column.wrapping_add(ROWS - 1).cast());
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
/// `left` has M rows of depth elements, `row` apart, `right` depth rows of COLS;
/// `out` has M rows of `width`. How it ends: [`STORED`].
#[target_feature(enable = "avx512f")]
unsafe fn lying<const M: usize, const ENDS: usize>(tile: &Tile, row: usize) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let mut bases = [0, 3, 6, 9, 12].map(|i| tile.left.wrapping_add(i * row));
    let (mut right, mut next) = (tile.right, tile.next);
    for step in 0..tile.depth {
        ask::<M, ENDS>(tile, step, &mut next);
        let left = |i: usize| {
            let (base, times) = ROWS_OF[i];
            bases[base].wrapping_add(times * row)
        };
        step!(sums, 2, right, tile.right_stride, left, units, multiply_add);
        bases = bases.map(|base| base.wrapping_add(1));
        right = right.wrapping_add(tile.right_stride);
    }
    // SAFETY: the caller's promise.
    unsafe { finish::<M, 2, ENDS>(tile, sums) };
}

/// A row of units.
///
/// # Safety
/// AVX-512F; `right` has so many vectors.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn units<const N: usize>(right: *const f32, _: usize) -> [__m512; N] {
    let mut b = [_mm512_setzero_ps(); N];
    for (half, b) in b.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *b = unsafe { _mm512_loadu_ps(right.add(half * VECTOR)) };
    }
    b
}

/// The pairs of two rows of bfloat16, which lie `stride` bfloat16s apart: by turns
/// four of the first vector and four of the second, as [`finish_interleaved`] expects.
///
/// # Safety
/// AVX-512F and BW; each row has COLS elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleaved<const N: usize>(right: *const f32, stride: usize) -> [__m512; N] {
    let right = right.cast::<u16>();
    // SAFETY: the caller's promise.
    let (first, second) =
        unsafe { (_mm512_loadu_si512(right.cast()), _mm512_loadu_si512(right.wrapping_add(stride).cast())) };
    let halves = [_mm512_unpacklo_epi16(first, second), _mm512_unpackhi_epi16(first, second)];
    std::array::from_fn(|half| _mm512_castsi512_ps(halves[half]))
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
/// AVX-512F; `out` has M rows of `width`. How it ends: [`STORED`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish<const M: usize, const N: usize, const ENDS: usize>(tile: &Tile, sums: [[__m512; N]; M]) {
    let alpha = _mm512_set1_ps(tile.alpha);
    // A bit for each column that exists, of either vector.
    let columns = u32::MAX >> (COLS - tile.width);
    let masks = [columns as u16, (columns >> VECTOR) as u16];
    for (i, halves) in sums.into_iter().enumerate() {
        for (half, sum) in halves.into_iter().enumerate() {
            let at = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride)).wrapping_add(half * VECTOR);
            // SAFETY: masked elements are neither read nor written; the others
            // are in row i of `out`. Past the caches all are.
            unsafe {
                if ENDS == PAST {
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

/// [`finish`], of outputs that may be bfloat16. `vcvtne2ps2bf16` rounds as
/// [`bf16::round`](crate::bf16::round) does but takes denormal numbers for zero;
/// there are none: sums have none, and alpha makes none of them.
///
/// # Safety
/// As [`finish`], with AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn finish_pairs<const M: usize, const N: usize, const ENDS: usize>(
    tile: &Tile,
    sums: [[__m512; N]; M],
) {
    if ENDS != ROUNDED {
        // SAFETY: the caller's promise.
        unsafe { finish::<M, N, ENDS>(tile, sums) };
        return;
    }
    let alpha = _mm512_set1_ps(tile.alpha);
    let out = tile.out.cast::<u16>();
    for (i, halves) in sums.into_iter().enumerate() {
        let (low, high) = (_mm512_mul_ps(alpha, halves[0]), _mm512_mul_ps(alpha, halves[N - 1]));
        // SAFETY: vectors of 512 bits, and row i of `out`, which is a cache line.
        unsafe {
            let row = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_stream_si512(out.wrapping_add(i.wrapping_mul(tile.out_stride)).cast(), row);
        }
    }
}

/// [`finish_pairs`], of sums in the order of [`interleaved`].
///
/// # Safety
/// As [`finish_pairs`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn finish_interleaved<const M: usize, const N: usize, const ENDS: usize>(
    tile: &Tile,
    mut sums: [[__m512; N]; M],
) {
    let low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    let high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for halves in &mut sums {
        let [first, second] = [0, N - 1].map(|half| _mm512_castps_pd(halves[half]));
        let ordered = [low, high].map(|order| _mm512_permutex2var_pd(first, order, second));
        *halves = std::array::from_fn(|half| _mm512_castpd_ps(ordered[half]));
    }
    // SAFETY: the caller's promise.
    unsafe { finish_pairs::<M, N, ENDS>(tile, sums) };
}
