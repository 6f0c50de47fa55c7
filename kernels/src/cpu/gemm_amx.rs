//! Tiles of 32 × 32 outputs for AMX: four registers of sums, two of the left operand's
//! rows and two of the right one's pairs. A step adds the products of sixteen pairs.
//!
//! `tdpbf16ps` sums the first and the second elements of sixteen pairs apart, and adds
//! both to the sum. It takes denormal numbers, in and out, for zero, as `vdpbf16ps`
//! does (Intel, *Instruction Set Extensions Programming Reference*).
//!
//! A left operand lies in rows, or is copied to rows (see
//! [`packing_amx`](super::packing_amx)). A product's strip of rows stays in L1: its
//! panels, which all strips read, come from L2 and are loaded past L1
//! (`tileloaddt1`), where they would drive the strip out.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::{Cell, UnsafeCell};
use std::mem::{MaybeUninit, transmute};

use super::amx::{self, Registers};
use super::attention::STRIDE;
use super::gemm_avx512::Weighed;
use super::micro::{Blocks, ByRows, LyingByRows, Micro, PAST, ROUNDED, STORED, ToPanels, ToRows};
use super::packing::{Pair, Unit};
use super::packing_amx::{pack_panels, pack_rows};
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
/// As many of a left operand that is copied: what is copied at once, its panels and its
/// sums stay in L2 (1536 × 2048 × 384, tn: 0.8 of the time of all at once).
const COPIED: usize = 256;
/// Rows of a block.
const TALL: usize = 4 * ROWS;
/// Floats of a vector.
const VECTOR: usize = 16;

/// Two bfloat16s, the first in the lower half, of a left operand in rows.
pub(crate) struct RowPair;

impl Unit for RowPair {
    type Element = u16;
    const DEEP: usize = 2;
    const TO_ROWS: Option<ToRows<u16>> = Some(pack_rows);
    const TO_PANELS: Option<ToPanels<u16>> = Some(pack_panels);

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
        Blocks { depth: DEPTH, copied: COPIED, tall: TALL, lies: true, apart: usize::MAX }
    }

    unsafe fn flush() {
        LATE.with(|late| {
            let mut pending = late.take();
            for _ in 0..PARTS {
                // SAFETY: the caller's promise.
                unsafe { pending.finish() };
            }
        });
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
    finish: unsafe fn(&End, *const f32, usize),
}

/// An end that waits: its rows are finished while the next tile multiplies, which has
/// nothing else for vectors to do.
struct Late {
    sums: UnsafeCell<Sums>,
    end: Cell<Option<End>>,
}

thread_local! {
    static LATE: Late =
        const { Late { sums: UnsafeCell::new(Sums([0.0; ROWS * COLS])), end: Cell::new(None) } };
}

/// Rows of an end that are finished at once.
const AT_ONCE: usize = 4;
/// Parts that an end is finished in, and as many steps before the first: on an Emerald
/// Rapids 1.07 of the speed of beginning with the first step, at 384 deep.
const PARTS: usize = ROWS / AT_ONCE;
const EARLY: usize = 4;

/// An end that waited, and the next row to finish.
struct Pending<'a> {
    sums: &'a UnsafeCell<Sums>,
    end: Option<End>,
    next: usize,
}

impl Late {
    /// What waits, which no longer does.
    #[inline(always)]
    fn take(&self) -> Pending<'_> {
        Pending { sums: &self.sums, end: self.end.take(), next: 0 }
    }
}

impl Pending<'_> {
    /// Finishes [`AT_ONCE`] rows, if any are left.
    ///
    /// # Safety
    /// As [`finish`], of the tile that left its end.
    #[inline(always)]
    unsafe fn finish(&mut self) {
        if let Some(end) = &self.end
            && self.next < end.rows
        {
            // SAFETY: the caller's promise. No one else has a reference to the sums,
            // which are this thread's.
            unsafe { (end.finish)(end, self.sums.get().cast(), self.next) };
            self.next += AT_ONCE;
        }
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

/// A step of a tile, whose panel is read by one of the two instructions, the second
/// register's columns so many bytes after the first one's.
macro_rules! multiply {
    ($load:literal, $second:literal, $left:expr, $low:expr, $row:expr, $right:expr, $pitch:expr) => {
        asm!(
            concat!($load, " tmm6, [{right} + {pitch}*1]"),
            "tileloadd tmm4, [{left} + {row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            concat!($load, " tmm7, [{right} + {pitch}*1 + ", $second, "]"),
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{low} + {row}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            left = in(reg) $left,
            low = in(reg) $low,
            right = in(reg) $right,
            row = in(reg) $row,
            pitch = in(reg) $pitch,
            options(readonly, nostack, preserves_flags)
        )
    };
}

/// # Safety
/// AMX with bfloat16, AVX-512F and AVX-512 BF16; this thread's registers are
/// configured. `left` has 32 rows of depth units, `row` apart, `right` depth rows of
/// COLS, depth being a positive multiple of [`STEP`]; `out` has `rows` rows of `width`.
/// How it ends: [`STORED`]. If it is late, [`Micro::flush`] ends it, and it asks for
/// [`Tile::ahead`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const ENDS: usize, const OF_PRODUCT: bool>(tile: &Tile, row: usize) {
    const PITCH: usize = COLS * size_of::<f32>();
    let (row, right_row) = (row * size_of::<f32>(), tile.right_stride * size_of::<f32>());
    let out_row = tile.out_stride.wrapping_mul(size_of::<f32>());
    let whole = tile.rows == ROWS && tile.width == COLS;
    // Whether sums begin with what is there, which all of a product's do then.
    let continued = ENDS == STORED && tile.accumulate && tile.alpha == 1.0;
    let steps = tile.depth / STEP;
    // What waits is finished when its sums have arrived, a little at a time: many
    // stores at once would keep the panel's lines waiting.
    let (first, every, share) = match steps / (EARLY + PARTS) {
        0 => (0, 1, PARTS.div_ceil(steps)),
        every => (EARLY * every, every, 1),
    };
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
        let mut pending = OF_PRODUCT.then(|| late.take());
        for step in 0..steps {
            // SAFETY: the caller's promise: sixteen rows of 64 bytes each, of either
            // half of the left operand and of the right one.
            unsafe {
                let low = left.wrapping_byte_add(amx::ROWS * row);
                if OF_PRODUCT {
                    multiply!("tileloaddt1", "1024", left, low, row, right, VECTOR * size_of::<f32>());
                } else {
                    multiply!("tileloadd", "64", left, low, row, right, right_row);
                }
                if let Some(pending) = pending.as_mut().filter(|_| step >= first && step % every == 0) {
                    (0..share).for_each(|_| pending.finish());
                }
            }
            for line in ahead.by_ref().take(if OF_PRODUCT { 2 } else { 0 }) {
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
            if OF_PRODUCT {
                // The steps have finished what was there.
                store_sums(late.sums.get().cast(), PITCH);
                late.end.set(Some(end));
            } else {
                let room = here.as_mut_ptr().cast::<f32>();
                store_sums(room, PITCH);
                (0..rows).step_by(AT_ONCE).for_each(|first| finish::<ENDS>(&end, room, first));
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

/// Finishes [`AT_ONCE`] rows, as far as there are so many.
///
/// # Safety
/// As [`tile`]; `sums` has [`ROWS`] rows of COLS, aligned to cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn finish<const ENDS: usize>(end: &End, sums: *const f32, first: usize) {
    let alpha = _mm512_set1_ps(end.alpha);
    let row = |i: usize| {
        // SAFETY: a row of the sums.
        let sums = [0, VECTOR].map(|half| unsafe { _mm512_load_ps(sums.add(i * COLS + half)) });
        (sums, sums.map(|sum| _mm512_mul_ps(alpha, sum)), i.wrapping_mul(end.out_stride))
    };
    if ENDS == ROUNDED {
        let mut store = |i: usize| {
            let (_, results, at) = row(i);
            // Rounds as `bf16::round` does but takes denormal numbers for zero; there
            // are none: sums have none, and alpha makes none of them.
            let rounded = _mm512_cvtne2ps_pbh(results[1], results[0]);
            // SAFETY: row i of `out`.
            unsafe {
                let to = end.out.cast::<u16>().wrapping_add(at);
                _mm512_store_si512(to.cast(), transmute::<__m512bh, __m512i>(rounded));
            }
        };
        match end.rows - first {
            AT_ONCE.. => (first..first + AT_ONCE).for_each(&mut store),
            rest => (first..first + rest).for_each(&mut store),
        }
        return;
    }
    let masks = columns(end.width);
    for i in first..end.rows.min(first + AT_ONCE) {
        let (sums, results, at) = row(i);
        for half in 0..2 {
            let at = end.out.wrapping_add(at + half * VECTOR);
            // SAFETY: masked elements are neither read nor written, the others are in
            // row i of `out`. Past the caches all are.
            unsafe {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level};

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
        // Pairs of rows: of all columns, or of one register's after the other's, step by step.
        let b_at = |late: bool, k: usize, j: usize| {
            let (pair, half) = (k / 2, j / VECTOR);
            let unit = match late {
                false => pair * COLS + j,
                true => ((pair / STEP * 2 + half) * STEP + pair % STEP) * VECTOR + j % VECTOR,
            };
            crate::bf16::value(b[2 * unit + k % 2])
        };
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
                            .fold(0.0f32, |sum, k| a_at(i, k).mul_add(b_at(late, k, j), sum))
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
