//! Tiles of 32 × 32 outputs for AMX: four registers of sums, two of the left operand's
//! rows and two of the right one's pairs. A step adds the products of sixteen pairs.
//!
//! `tdpbf16ps` sums the first and the second elements of sixteen pairs apart, and adds
//! both to the sum. It takes denormal numbers, in and out, for zero, as `vdpbf16ps`
//! does (Intel, *Instruction Set Extensions Programming Reference*).
//!
//! A left operand lies in rows, or is copied to rows: with as many pairs as a step
//! has, zeros where there are none, and [`APART`] pairs between two rows, which else
//! may all fall on the same lines of L1.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::{Cell, UnsafeCell};
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;

use super::amx::{self, Registers};
use super::attention::STRIDE;
use super::gemm_avx512::Weighed;
use super::matmul::Matrix;
use super::micro::{Blocks, ByRows, LyingByRows, Micro, PAST, ROUNDED, STORED, ToRows};
use super::packing::{Pair, Unit};
use super::tiles::Tile;

/// AMX's tile of pairs of bfloat16.
pub(crate) struct Amx;

/// Rows of a tile.
const ROWS: usize = 2 * amx::ROWS;
/// Columns of a tile.
const COLS: usize = 2 * VECTOR;
/// Pairs of a step.
const STEP: usize = 16;
/// Most pairs of the inner dimension that are packed at a time. On two cores of an
/// Emerald Rapids products of 1536 and more took 0.88 of the time of 512 pairs.
const DEPTH: usize = 1024;
/// Rows of a block.
const TALL: usize = 4 * ROWS;
/// Pairs between two rows of a copied left operand.
const APART: usize = 16;
/// Floats of a vector.
const VECTOR: usize = 16;

/// Two bfloat16s, the first in the lower half, of a left operand in rows.
pub(crate) struct RowPair;

impl Unit for RowPair {
    type Element = u16;
    const DEEP: usize = 2;
    const TO_ROWS: Option<ToRows<u16>> = Some(pack_rows);

    #[inline(always)]
    unsafe fn one(from: *const u16, stride: usize, deep: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { Pair::one(from, stride, deep) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn along(from: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { Pair::along(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across(from: *const u16, stride: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { Pair::across(from, stride) }
    }
}

type Run = unsafe fn(&Tile, usize);

/// One function for any number of rows.
const fn by_rows(run: Run) -> [Run; ROWS] {
    [run; ROWS]
}

impl Micro for Amx {
    const ROWS: usize = ROWS;
    const COLS: usize = COLS;
    const DEEP: usize = 2;
    const STEP: usize = STEP;
    const RUN: ByRows = &[];
    const LYING: Option<LyingByRows> = Some(&[
        &by_rows(tile::<STORED, true>),
        &by_rows(tile::<PAST, true>),
        &by_rows(tile::<ROUNDED, true>),
    ]);
    const IN_ROWS: bool = true;

    fn blocks() -> Blocks {
        Blocks { depth: DEPTH, tall: TALL, lies: true, apart: usize::MAX }
    }

    unsafe fn flush() {
        // SAFETY: the caller's promise.
        LATE.with(|late| unsafe { late.finish(ROWS) });
    }

    unsafe fn begin() -> Option<Registers> {
        // Whoever panicked before has left no end.
        LATE.with(|late| late.end.set(None));
        // SAFETY: the caller's promise.
        Some(unsafe { Registers::configured() })
    }
}

impl Weighed for Amx {
    /// Rows begin with a cache line.
    const APART: usize = STRIDE / 2 / STEP * STEP + STEP;

    unsafe fn packed(of: &Tile, pitch: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile::<STORED, false>(of, pitch) };
    }

    unsafe fn along(of: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { tile::<STORED, false>(of, Self::APART) };
    }

    unsafe fn across(_: &Tile) {
        unreachable!("tiles of AMX read rows")
    }
}

/// Sums of a tile, row by row.
#[repr(C, align(64))]
struct Sums([f32; ROWS * COLS]);

/// The end of a tile whose sums are there.
#[derive(Clone, Copy)]
struct End {
    out: *mut f32,
    out_stride: usize,
    rows: usize,
    width: usize,
    alpha: f32,
    accumulate: bool,
    finish: unsafe fn(&End, *const f32, Range<usize>),
}

/// An end that waits: its rows are finished while the next tile multiplies, which has
/// nothing else for vectors to do.
struct Late {
    sums: UnsafeCell<Sums>,
    end: Cell<Option<End>>,
    /// Rows that are finished.
    done: Cell<usize>,
}

thread_local! {
    static LATE: Late = const {
        Late { sums: UnsafeCell::new(Sums([0.0; ROWS * COLS])), end: Cell::new(None), done: Cell::new(0) }
    };
}

impl Late {
    /// Finishes so many rows, if any are left.
    ///
    /// # Safety
    /// As [`finish`], of the tile that left its end.
    #[inline(always)]
    unsafe fn finish(&self, rows: usize) {
        let Some(end) = self.end.get() else { return };
        let done = self.done.get();
        let until = (done + rows).min(end.rows);
        // SAFETY: the caller's promise. No one else has a reference to the sums, which
        // are this thread's.
        unsafe { (end.finish)(&end, self.sums.get().cast(), done..until) };
        self.done.set(until);
        if until == end.rows {
            self.end.set(None);
        }
    }

    fn leave(&self, end: End) {
        self.end.set(Some(end));
        self.done.set(0);
    }
}

/// Loads the registers of sums from rows that lie `pitch` bytes apart.
///
/// # Safety
/// This thread's registers are configured; there are ROWS rows of COLS.
#[inline(always)]
unsafe fn load_sums(from: *const f32, pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm0, [{high} + {pitch}*1]",
            "tileloadd tmm1, [{high} + {pitch}*1 + 64]",
            "tileloadd tmm2, [{low} + {pitch}*1]",
            "tileloadd tmm3, [{low} + {pitch}*1 + 64]",
            high = in(reg) from,
            low = in(reg) from.wrapping_byte_add(amx::ROWS.wrapping_mul(pitch)),
            pitch = in(reg) pitch,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Stores them.
///
/// # Safety
/// As [`load_sums`].
#[inline(always)]
unsafe fn store_sums(to: *mut f32, pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{high} + {pitch}*1], tmm0",
            "tilestored [{high} + {pitch}*1 + 64], tmm1",
            "tilestored [{low} + {pitch}*1], tmm2",
            "tilestored [{low} + {pitch}*1 + 64], tmm3",
            high = in(reg) to,
            low = in(reg) to.wrapping_byte_add(amx::ROWS.wrapping_mul(pitch)),
            pitch = in(reg) pitch,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// AMX with bfloat16, AVX-512F and AVX-512 BF16; this thread's registers are
/// configured. `left` has 32 rows of depth units, `row` apart, `right` depth rows of
/// COLS, depth being a positive multiple of [`STEP`]; `out` has `rows` rows of `width`.
/// How it ends: [`STORED`]. If it is late, [`Micro::flush`] ends it, and it asks for
/// [`Tile::ahead`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const ENDS: usize, const IS_LATE: bool>(tile: &Tile, row: usize) {
    const PITCH: usize = COLS * size_of::<f32>();
    let (row, right_row) = (row * size_of::<f32>(), tile.right_stride * size_of::<f32>());
    let out_row = tile.out_stride.wrapping_mul(size_of::<f32>());
    let whole = tile.rows == ROWS && tile.width == COLS;
    // Whether sums begin with what is there, which all of a product's do then.
    let continued = ENDS == STORED && tile.accumulate && tile.alpha == 1.0;
    let steps = tile.depth / STEP;
    let share = ROWS.div_ceil(steps);
    let (mut left, mut right) = (tile.left, tile.right);
    let mut ahead = tile.ahead.iter();
    LATE.with(|late| {
        let mut here = MaybeUninit::<Sums>::uninit();
        // SAFETY: registers of sums, of this thread; they are loaded from whole rows
        // of the output, or from room for them.
        unsafe {
            if continued && whole {
                load_sums(tile.out, out_row);
            } else if continued {
                let room = here.as_mut_ptr().cast::<f32>();
                begin(tile, room);
                load_sums(room, PITCH);
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
        for _ in 0..steps {
            // SAFETY: the caller's promise: sixteen rows of 64 bytes each, of either
            // half of the left operand and of the right one.
            unsafe {
                asm!(
                    "tileloadd tmm6, [{right} + {pitch}*1]",
                    "tileloadd tmm4, [{left} + {row}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{right} + {pitch}*1 + 64]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{low} + {row}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    left = in(reg) left,
                    low = in(reg) left.wrapping_byte_add(amx::ROWS * row),
                    right = in(reg) right,
                    row = in(reg) row,
                    pitch = in(reg) right_row,
                    options(readonly, nostack, preserves_flags)
                );
                if IS_LATE {
                    late.finish(share);
                }
            }
            for line in ahead.by_ref().take(if IS_LATE { 2 } else { 0 }) {
                _mm_prefetch::<_MM_HINT_T1>(line.cast());
            }
            left = left.wrapping_add(STEP);
            right = right.wrapping_byte_add(STEP * right_row);
        }
        let accumulate = tile.accumulate && !continued;
        // SAFETY: whole rows of the output, or room for four registers.
        unsafe {
            if ENDS == STORED && whole && tile.alpha == 1.0 && !accumulate {
                return store_sums(tile.out, out_row);
            }
            let Tile { out, out_stride, rows, width, alpha, .. } = *tile;
            let end = End { out, out_stride, rows, width, alpha, accumulate, finish: finish::<ENDS> };
            if IS_LATE {
                // The steps have finished what was there.
                store_sums(late.sums.get().cast(), PITCH);
                late.leave(end);
            } else {
                let room = here.as_mut_ptr().cast::<f32>();
                store_sums(room, PITCH);
                finish::<ENDS>(&end, room, 0..rows);
            }
        }
    });
}

/// A bit for each column of a tile that exists, of either vector.
fn columns(width: usize) -> [u16; 2] {
    let columns = u32::MAX >> (COLS - width);
    [columns as u16, (columns >> VECTOR) as u16]
}

/// Copies what is there to the room for sums.
///
/// # Safety
/// As [`finish`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn begin(tile: &Tile, room: *mut f32) {
    let masks = columns(tile.width);
    for i in 0..ROWS {
        for (half, mask) in masks.into_iter().enumerate() {
            let at = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride)).wrapping_add(half * VECTOR);
            let mask = if i < tile.rows { mask } else { 0 };
            // SAFETY: masked elements are not read, the others are in row i of `out`.
            unsafe { _mm512_store_ps(room.add(i * COLS + half * VECTOR), _mm512_maskz_loadu_ps(mask, at)) };
        }
    }
}

/// # Safety
/// As [`tile`]; `sums` has [`ROWS`] rows of COLS, aligned to cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn finish<const ENDS: usize>(end: &End, sums: *const f32, rows: Range<usize>) {
    let alpha = _mm512_set1_ps(end.alpha);
    let masks = columns(end.width);
    for i in rows {
        // SAFETY: a row of the sums; masked elements are neither read nor written, the
        // others are in row i of `out`. Past the caches all are.
        unsafe {
            let sums = [0, VECTOR].map(|half| _mm512_load_ps(sums.add(i * COLS + half)));
            let results = sums.map(|sum| _mm512_mul_ps(alpha, sum));
            if ENDS == ROUNDED {
                let row = end.out.cast::<u16>().wrapping_add(i.wrapping_mul(end.out_stride));
                // Rounds as `bf16::round` does but takes denormal numbers for zero;
                // there are none: sums have none, and alpha makes none of them.
                let rounded = _mm512_cvtne2ps_pbh(results[1], results[0]);
                _mm512_stream_si512(row.cast(), transmute::<__m512bh, __m512i>(rounded));
                continue;
            }
            let row = end.out.wrapping_add(i.wrapping_mul(end.out_stride));
            for half in 0..2 {
                let at = row.wrapping_add(half * VECTOR);
                if ENDS == PAST {
                    _mm512_stream_ps(at, results[half]);
                } else if end.accumulate {
                    let before = _mm512_maskz_loadu_ps(masks[half], at);
                    _mm512_mask_storeu_ps(at, masks[half], _mm512_fmadd_ps(alpha, sums[half], before));
                } else {
                    _mm512_mask_storeu_ps(at, masks[half], results[half]);
                }
            }
        }
    }
}

/// Units from row to row of a copied left operand of so many.
pub(crate) fn pitch(units: usize) -> usize {
    units.next_multiple_of(STEP) + APART
}

/// Copies `a` to rows of [`pitch`]; what it does not have of a row's last step is 0.
///
/// # Safety
/// AVX-512F, BW and VL; the elements of `a` are inside its slice; `to` has room for
/// so many rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn pack_rows(a: &Matrix<u16>, to: *mut f32) {
    let (from, to) = (a.data.as_ptr(), to.cast::<u16>());
    let pitch = 2 * pitch(a.cols.div_ceil(2));
    let padded = a.cols.next_multiple_of(2 * STEP);
    if a.col_stride == 1 {
        for i in 0..a.rows {
            let (from, to) = (from.wrapping_add(i.wrapping_mul(a.row_stride)), to.wrapping_add(i * pitch));
            // SAFETY: a row of a, and room for it.
            unsafe {
                to.copy_from_nonoverlapping(from, a.cols);
                to.add(a.cols).write_bytes(0, padded - a.cols);
            }
        }
        return;
    }
    let whole = if a.row_stride == 1 { a.rows / VECTOR * VECTOR } else { 0 };
    let steps = a.cols / (2 * STEP);
    for step in 0..steps {
        for i in (0..whole).step_by(VECTOR) {
            let first = from.wrapping_add(i + (step * 2 * STEP).wrapping_mul(a.col_stride));
            // (A line has the elements of two.)
            for column in 0..if i.is_multiple_of(2 * VECTOR) { 2 * STEP } else { 0 } {
                let soon = first.wrapping_add((2 * STEP + column).wrapping_mul(a.col_stride));
                _mm_prefetch::<_MM_HINT_T0>(soon.cast());
            }
            let mut pairs = [_mm512_setzero_si512(); STEP];
            for (k, pairs) in pairs.iter_mut().enumerate() {
                let column = first.wrapping_add((2 * k).wrapping_mul(a.col_stride));
                // SAFETY: sixteen elements of two columns.
                unsafe {
                    let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(column.cast()));
                    let odd = column.wrapping_add(a.col_stride);
                    let odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.cast()));
                    *pairs = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                }
            }
            for (j, row) in transposed(pairs).into_iter().enumerate() {
                let to = to.wrapping_add((i + j) * pitch + step * 2 * STEP);
                // SAFETY: a step of a row.
                unsafe { _mm512_storeu_si512(to.cast(), row) };
            }
        }
    }
    for i in 0..a.rows {
        let to = to.wrapping_add(i * pitch);
        for k in if i < whole { steps * 2 * STEP } else { 0 }..padded {
            // SAFETY: an element of a where there is one, and room for it.
            unsafe {
                let from = from.wrapping_add((i * a.row_stride).wrapping_add(k.wrapping_mul(a.col_stride)));
                *to.add(k) = if k < a.cols { *from } else { 0 };
            }
        }
    }
}

/// The transpose of sixteen rows of sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512i; VECTOR]) -> [__m512i; VECTOR] {
    // Pairs, quads, and the four quarters of a vector, twice.
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut q = t;
    for i in 0..4 {
        let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
        q[4 * i] = _mm512_unpacklo_epi64(a, c);
        q[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        q[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        q[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // q[4 i + j] has in quarter l element j + 4 l of rows 4 i to 4 i + 3.
    let mut out = q;
    for j in 0..4 {
        let [a, b, c, d] = [q[j], q[4 + j], q[8 + j], q[12 + j]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level};

    /// Both layouts of a left operand against what a place holds by definition.
    #[test]
    fn copied_rows_have_zeros_where_there_is_nothing() {
        if level() < Level::Avx512Bf16 {
            return;
        }
        for (rows, depth) in [(1, 1), (16, 32), (33, 31), (40, 64), (7, 100), (48, 65)] {
            let data: Vec<u16> = (0..rows * depth).map(|i| i as u16 + 1).collect();
            for transposed in [false, true] {
                let a = Matrix::new(&data, rows, depth, transposed);
                let pitch = 2 * pitch(depth.div_ceil(2));
                let mut to = vec![f32::from_bits(0x7fff_7fff); rows * pitch / 2];
                // SAFETY: the level; the matrix is dense in its slice, and there is room.
                unsafe { pack_rows(&a, to.as_mut_ptr()) };
                // SAFETY: a float is two of these, and any bits are one.
                let (_, got, _) = unsafe { to.align_to::<u16>() };
                for (i, row) in got.chunks_exact(pitch).enumerate() {
                    for (k, got) in row[..depth.next_multiple_of(2 * STEP)].iter().enumerate() {
                        let held = if k < depth { data[i * a.row_stride + k * a.col_stride] } else { 0 };
                        assert_eq!(*got, held, "{rows}×{depth} {transposed}: {i}, {k}");
                    }
                }
            }
        }
    }

    /// What a processor makes of a tile, bit by bit as its manual says: the first
    /// elements of pairs and the second are summed apart, and added to the sum.
    #[test]
    fn a_tile_adds_as_the_manual_says() {
        if level() < Level::Amx {
            return;
        }
        const STEPS: usize = 3;
        let number = |i: usize, seed: usize| ((i * 37 + seed * 11) % 101) as f32 / 7.0 - 6.0;
        let halves = |len: usize, seed: usize| -> Vec<u16> {
            (0..len).map(|i| crate::bf16::round(number(i, seed))).collect()
        };
        let (a, b) = (halves(ROWS * STEPS * 32, 1), halves(STEPS * 32 * COLS, 2));
        let a_at = |i: usize, k: usize| crate::bf16::value(a[i * STEPS * 32 + k]);
        // Pairs of rows, column by column.
        let b_at = |k: usize, j: usize| crate::bf16::value(b[(k / 2 * COLS + j) * 2 + k % 2]);
        for (rows, width, alpha, accumulate, late) in [
            (ROWS, COLS, 1.0, false, false),
            (ROWS, COLS, 1.0, true, true),
            (ROWS, COLS, 0.5, true, true),
            (21, 9, 1.0, true, false),
            (5, 30, 1.5, false, true),
        ] {
            let before: Vec<f32> = (0..ROWS * COLS).map(|i| number(i, 3)).collect();
            let mut out = before.clone();
            let tile_of = Tile {
                depth: STEPS * STEP,
                left: a.as_ptr().cast(),
                right: b.as_ptr().cast(),
                right_stride: COLS,
                next: std::ptr::null(),
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride: COLS,
                rows,
                width,
                alpha,
                accumulate,
            };
            // SAFETY: the level; operands and outputs are as sized above.
            unsafe {
                let _registers = Amx::begin();
                if late {
                    tile::<STORED, true>(&tile_of, STEPS * STEP);
                    Amx::flush();
                } else {
                    tile::<STORED, false>(&tile_of, STEPS * STEP);
                }
            }
            for (at, got) in out.iter().enumerate() {
                let (i, j) = (at / COLS, at % COLS);
                let mut sum = if accumulate && alpha == 1.0 { before[at] } else { 0.0 };
                for step in 0..STEPS {
                    let of = |odd: usize| {
                        (0..STEP)
                            .map(|pair| step * 32 + 2 * pair + odd)
                            .fold(0.0f32, |sum, k| a_at(i, k).mul_add(b_at(k, j), sum))
                    };
                    sum += of(0) + of(1);
                }
                let want = match (i < rows && j < width, accumulate && alpha != 1.0) {
                    (false, _) => before[at],
                    (true, true) => alpha.mul_add(sum, before[at]),
                    (true, false) => alpha * sum,
                };
                assert_eq!(got.to_bits(), want.to_bits(), "{rows}×{width}, {alpha}: {i}, {j}: {got} {want}");
            }
        }
    }
}
