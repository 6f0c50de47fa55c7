//! Operands of matrix products, laid out as the tiles of a product read them:
//! the left one in strips of rows, the right one in panels of columns, both
//! inner dimension first, in units of 32 bits. A unit is an `f32`, a bfloat16
//! that became one, or two bfloat16s that follow each other in the inner
//! dimension.

use std::arch::x86_64::*;

use super::gemm_avx512::{COLUMNS_OF_PAIRS, COLUMNS_OF_SINGLES, ROWS_OF_PAIRS, ROWS_OF_SINGLES};
use super::matmul::Matrix;
use super::micro::{Micro, Packing, ToPanels, ToRows};
use super::simd::ask;
use crate::bf16;

/// What a tile multiplies: 32 bits, handled as an `f32`.
pub(crate) trait Unit {
    /// What the operand's matrix holds.
    type Element: Copy + Send + Sync + 'static;

    /// Elements of the inner dimension in a unit.
    const DEEP: usize;
    /// Tiles can read such units where they lie in rows.
    const LIES: bool = false;
    /// AVX-512's tiles that pack a left operand of such units, in columns; the
    /// second ones read the right operand where it lies.
    const IN_COLUMNS: Option<[Packing<Self::Element>; 2]> = None;
    /// Copies a left operand of such units to rows, where that is what tiles read
    /// (see [`gemm_amx`](super::gemm_amx)).
    const TO_ROWS: Option<ToRows<Self::Element>> = None;
    /// Copies a right operand of such units to panels for a product, likewise.
    const TO_PANELS: Option<ToPanels<Self::Element>> = None;
    /// As [`Unit::IN_COLUMNS`], in rows.
    const IN_ROWS: Option<[Packing<Self::Element>; 2]> = None;

    /// The unit of the first `deep` of `DEEP` elements that lie `stride`
    /// apart; what is missing is 0.
    ///
    /// # Safety
    /// `from` has those elements.
    unsafe fn one(from: *const Self::Element, stride: usize, deep: usize) -> f32;

    /// Eight units that follow each other in memory.
    ///
    /// # Safety
    /// AVX2; `from` has 8 × `DEEP` elements.
    unsafe fn along(from: *const Self::Element) -> __m256;

    /// The units of eight neighbours in memory, elements of a unit `stride`
    /// apart.
    ///
    /// # Safety
    /// AVX2; each of the `DEEP` rows has eight elements.
    unsafe fn across(from: *const Self::Element, stride: usize) -> __m256;
}

impl Unit for f32 {
    type Element = f32;
    const DEEP: usize = 1;
    const LIES: bool = true;
    const IN_COLUMNS: Option<[Packing<f32>; 2]> = Some(COLUMNS_OF_SINGLES);
    const IN_ROWS: Option<[Packing<f32>; 2]> = Some(ROWS_OF_SINGLES);

    #[inline(always)]
    unsafe fn one(from: *const f32, _: usize, _: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *from }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn along(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across(from: *const f32, _: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }
}

/// A bfloat16 that becomes an `f32`.
impl Unit for u16 {
    type Element = u16;
    const DEEP: usize = 1;

    #[inline(always)]
    unsafe fn one(from: *const u16, _: usize, _: usize) -> f32 {
        // SAFETY: the caller's promise.
        bf16::value(unsafe { *from })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn along(from: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across(from: *const u16, _: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { Self::along(from) }
    }
}

/// Two bfloat16s, the first in the lower half.
pub(crate) struct Pair;

impl Unit for Pair {
    type Element = u16;
    const DEEP: usize = 2;
    const LIES: bool = true;
    const IN_COLUMNS: Option<[Packing<u16>; 2]> = Some(COLUMNS_OF_PAIRS);
    const IN_ROWS: Option<[Packing<u16>; 2]> = Some(ROWS_OF_PAIRS);

    #[inline(always)]
    unsafe fn one(from: *const u16, stride: usize, deep: usize) -> f32 {
        // SAFETY: the caller's promise.
        let first = unsafe { *from };
        // SAFETY: there is a second one.
        let second = if deep > 1 { unsafe { *from.wrapping_add(stride) } } else { 0 };
        f32::from_bits(u32::from(second) << 16 | u32::from(first))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn along(from: *const u16) -> __m256 {
        // SAFETY: the caller's promise: sixteen elements.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across(from: *const u16, stride: usize) -> __m256 {
        // SAFETY: the caller's promise.
        let (first, second) =
            unsafe { (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.wrapping_add(stride).cast())) };
        let (low, high) = (_mm_unpacklo_epi16(first, second), _mm_unpackhi_epi16(first, second));
        _mm256_castsi256_ps(_mm256_set_m128i(high, low))
    }
}

/// Rows ahead of the one that is copied, when it is asked for: rows lie too far apart
/// for the processor to foresee them.
const AHEAD: usize = 8;
/// Rows of a panel ahead of the one that is written, likewise.
const WRITTEN: usize = 8;
/// Floats of a cache line.
const LINE: usize = 16;

/// Floats that [`pack_left`] may write past the last strip's end.
pub(crate) const SLACK: usize = 8;

/// Copies rows of `a`, which has one strip's height or more, into strips of
/// `M::ROWS` rows, each strip inner dimension first; the last strip is as
/// narrow as the rows that are left.
///
/// # Safety
/// AVX2; the elements of `a` are inside its slice; `to` has room for the
/// units of a.rows × a.cols elements and [`SLACK`].
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn pack_left<M: Micro, U: Unit>(a: &Matrix<U::Element>, to: *mut f32) {
    let depth = a.cols.div_ceil(U::DEEP);
    let stride = M::ROWS * depth;
    let along = a.col_stride.wrapping_mul(U::DEEP);
    let deep = |unit: usize| U::DEEP.min(a.cols - unit * U::DEEP);
    if a.row_stride == 1 && a.col_stride != 1 {
        let (full, rest) = (a.rows / M::ROWS, a.rows % M::ROWS);
        // Strips that have as many rows after their first as vectors take.
        let vectors = (a.rows + M::ROWS).saturating_sub(M::ROWS.next_multiple_of(8)) / M::ROWS;
        for k in 0..depth {
            let column = a.data.as_ptr().wrapping_add(k.wrapping_mul(along));
            for i in 0..U::DEEP {
                let ahead = (AHEAD * U::DEEP + i).wrapping_mul(a.col_stride);
                ask(column.wrapping_add(ahead), a.rows, false);
            }
            let mut target = to.wrapping_add(k.wrapping_mul(M::ROWS));
            let mut from = column;
            for strip in 0..full {
                // SAFETY: elements of a, and their places in the strip.
                unsafe {
                    if strip < vectors && k + 1 < depth {
                        // What is copied too much is written after this.
                        for i in (0..M::ROWS).step_by(8) {
                            let units = U::across(from.wrapping_add(i), a.col_stride);
                            _mm256_storeu_ps(target.wrapping_add(i), units);
                        }
                    } else {
                        copy::<M, U>(from, a.col_stride, deep(k), target);
                    }
                }
                target = target.wrapping_add(stride);
                from = from.wrapping_add(M::ROWS);
            }
            let target = to.wrapping_add((full * stride).wrapping_add(k.wrapping_mul(rest)));
            for i in 0..rest {
                // SAFETY: as above.
                unsafe { *target.wrapping_add(i) = U::one(from.wrapping_add(i), a.col_stride, deep(k)) };
            }
        }
        return;
    }
    for top in (0..a.rows).step_by(M::ROWS) {
        let height = M::ROWS.min(a.rows - top);
        let rows = a.data.as_ptr().wrapping_add(top.wrapping_mul(a.row_stride));
        let target = to.wrapping_add((top / M::ROWS).wrapping_mul(stride));
        let whole = a.cols / (8 * U::DEEP) * 8;
        let done = if height == M::ROWS && a.col_stride == 1 { whole } else { 0 };
        for k in (0..done).step_by(8) {
            let ahead = rows.wrapping_add(M::ROWS.wrapping_mul(a.row_stride)).wrapping_add(k * U::DEEP);
            for i in (0..M::ROWS).filter(|_| k.is_multiple_of(16)) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(i.wrapping_mul(a.row_stride)).cast());
            }
            for first in (0..M::ROWS).step_by(8).rev() {
                let mut r = [_mm256_setzero_ps(); 8];
                for (i, r) in r[..8.min(M::ROWS - first)].iter_mut().enumerate() {
                    let row = rows.wrapping_add((first + i).wrapping_mul(a.row_stride));
                    // SAFETY: eight units of a row of the strip.
                    *r = unsafe { U::along(row.wrapping_add(k * U::DEEP)) };
                }
                for (i, column) in transposed(r).into_iter().enumerate() {
                    // SAFETY: part of a column of the strip, and floats after
                    // it: the next column's, the next strip's, or the slack.
                    // They are written after this.
                    unsafe { _mm256_storeu_ps(target.wrapping_add((k + i) * M::ROWS + first), column) };
                }
            }
        }
        for k in done..depth {
            for i in 0..height {
                let from = rows.wrapping_add(i * a.row_stride + k * along);
                // SAFETY: elements of a, and their place in the strip.
                unsafe { *target.wrapping_add(k * height + i) = U::one(from, a.col_stride, deep(k)) };
            }
        }
    }
}

/// Copies all of `b` into panels of `M::COLS` columns, each panel inner
/// dimension first and `stride` floats after the one before; columns that are
/// missing in the last become 0. Past the caches if `past`.
///
/// # Safety
/// AVX2; the elements of `b` are inside its slice; `to` has room for the
/// panels. If `past`, `to` is aligned to 32 bytes and the stride a multiple of
/// them, and [`published`](super::past::published) is called before another
/// thread reads the panels.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn pack_right<M: Micro, U: Unit>(
    b: &Matrix<U::Element>,
    to: *mut f32,
    stride: usize,
    past: bool,
) {
    debug_assert!(!past || (to.cast::<__m256>().is_aligned() && stride.is_multiple_of(8)));
    let depth = b.rows.div_ceil(U::DEEP);
    let along = b.row_stride.wrapping_mul(U::DEEP);
    let whole = b.cols / M::COLS;
    let from = b.data.as_ptr();
    let mut done = 0;
    if b.col_stride == 1 {
        done = b.rows / U::DEEP;
        for k in 0..done {
            let row = from.wrapping_add(k.wrapping_mul(along));
            for i in 0..U::DEEP {
                let ahead = (AHEAD * U::DEEP + i).wrapping_mul(b.row_stride);
                ask(row.wrapping_add(ahead), b.cols, false);
            }
            for panel in 0..whole {
                let target =
                    to.wrapping_add(panel.wrapping_mul(stride).wrapping_add(k.wrapping_mul(M::COLS)));
                let row = row.wrapping_add(panel.wrapping_mul(M::COLS));
                for j in (0..M::COLS).step_by(LINE).filter(|_| !past) {
                    prefetch_to_write(target.wrapping_add(WRITTEN * M::COLS + j));
                }
                for j in (0..M::COLS).step_by(8) {
                    // SAFETY: eight units of b, and their place.
                    unsafe {
                        let units = U::across(row.wrapping_add(j), b.row_stride);
                        put(target.wrapping_add(j), units, past);
                    }
                }
            }
        }
    } else if b.row_stride == 1 {
        done = b.rows / (8 * U::DEEP) * 8;
        for panel in 0..whole {
            let columns = from.wrapping_add((panel * M::COLS).wrapping_mul(b.col_stride));
            let target = to.wrapping_add(panel.wrapping_mul(stride));
            for k in (0..done).step_by(8) {
                let ahead =
                    columns.wrapping_add(M::COLS.wrapping_mul(b.col_stride)).wrapping_add(k * U::DEEP);
                for j in (0..M::COLS).filter(|_| k.is_multiple_of(16)) {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(j.wrapping_mul(b.col_stride)).cast());
                }
                // A whole line at a time.
                for j in (0..M::COLS).step_by(LINE) {
                    let eight = |first: usize| {
                        let mut r = [_mm256_setzero_ps(); 8];
                        for (i, r) in r.iter_mut().enumerate() {
                            let column = columns.wrapping_add((first + i).wrapping_mul(b.col_stride));
                            // SAFETY: eight units of a column of b.
                            *r = unsafe { U::along(column.wrapping_add(k * U::DEEP)) };
                        }
                        transposed(r)
                    };
                    for (i, (low, high)) in eight(j).into_iter().zip(eight(j + 8)).enumerate() {
                        let to = target.wrapping_add((k + i) * M::COLS + j);
                        // SAFETY: sixteen floats of a row of the panel.
                        unsafe {
                            put(to, low, past);
                            put(to.wrapping_add(8), high, past);
                        }
                    }
                }
            }
        }
    }
    for panel in 0..b.cols.div_ceil(M::COLS) {
        let width = M::COLS.min(b.cols - panel * M::COLS);
        for k in if width == M::COLS { done } else { 0 }..depth {
            let deep = U::DEEP.min(b.rows - k * U::DEEP);
            for j in 0..M::COLS {
                let from = from.wrapping_add(k * along + (panel * M::COLS + j) * b.col_stride);
                // SAFETY: elements of b where there are some, and their place.
                unsafe {
                    *to.wrapping_add(panel * stride + k * M::COLS + j) =
                        if j < width { U::one(from, b.row_stride, deep) } else { 0.0 };
                }
            }
        }
    }
}

/// Eight floats of a panel.
///
/// # Safety
/// AVX2; there is room for them, aligned to 32 bytes if `past`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn put(to: *mut f32, x: __m256, past: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if past {
            _mm256_stream_ps(to, x);
        } else {
            _mm256_storeu_ps(to, x);
        }
    }
}

/// Copies a column of a strip.
///
/// # Safety
/// AVX2; `from` has, and `to` has room for, `M::ROWS` units of `deep`
/// elements.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn copy<M: Micro, U: Unit>(from: *const U::Element, stride: usize, deep: usize, to: *mut f32) {
    // Read before anything is written, so that the copy needs no order.
    let mut column = [0f32; 16];
    for (i, unit) in column[..M::ROWS].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *unit = unsafe { U::one(from.wrapping_add(i), stride, deep) };
    }
    // SAFETY: the caller's promise.
    unsafe { to.copy_from_nonoverlapping(column.as_ptr(), M::ROWS) };
}

/// Asks for a cache line that is read later, into L2.
#[inline(always)]
pub(crate) fn prefetch_later<T>(at: *const T) {
    // SAFETY: SSE is part of the target; it takes any address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

/// Asks for a cache line that is soon written, as its only owner: packed
/// operands and results were last read by all threads, whose copies have to go
/// first.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(at: *const T) {
    // SAFETY: it changes nothing, and takes any address; a 64-bit processor that
    // does not know it does nothing.
    unsafe { std::arch::asm!("prefetchw [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) };
}

/// The transpose of eight rows of eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn transposed(mut r: [__m256; 8]) -> [__m256; 8] {
    // Pairs, quads, halves.
    let mut t = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..2 {
        let (a, b, c, d) = (t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
        r[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
        r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
        r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
        r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
    }
    for i in 0..4 {
        t[i] = _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]);
        t[i + 4] = _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]);
    }
    t
}

/// The transpose of `rows` × `cols` elements.
///
/// # Safety
/// AVX2; `from` and `to` have as many.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn turn(from: &[f32], rows: usize, cols: usize, to: &mut [f32]) {
    debug_assert!(from.len() == rows * cols && to.len() == rows * cols);
    let (tall, wide) = (rows / 8 * 8, cols / 8 * 8);
    for i in (0..tall).step_by(8) {
        for j in (0..wide).step_by(8) {
            // SAFETY: eight elements of eight rows of either.
            unsafe {
                let rows_of = std::array::from_fn(|l| _mm256_loadu_ps(from.as_ptr().add((i + l) * cols + j)));
                for (l, row) in transposed(rows_of).into_iter().enumerate() {
                    _mm256_storeu_ps(to.as_mut_ptr().add((j + l) * rows + i), row);
                }
            }
        }
    }
    for i in 0..rows {
        for j in if i < tall { wide } else { 0 }..cols {
            to[j * rows + i] = from[i * cols + j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm_avx2::Avx2;
    use crate::cpu::gemm_avx512::{Avx512, Avx512Bf16};
    use crate::cpu::simd::{Level, level};

    /// Numbers as an element type, all different.
    trait Counted: Copy {
        fn at(index: usize) -> Self;
    }

    impl Counted for f32 {
        fn at(index: usize) -> f32 {
            index as f32 + 1.0
        }
    }

    impl Counted for u16 {
        fn at(index: usize) -> u16 {
            // Numbers, none of which is a NaN.
            (index % 0x7000) as u16 + 1
        }
    }

    /// The unit of elements `0..` of `from`, two at most.
    fn unit<U: Unit>(from: &[U::Element]) -> u32 {
        // SAFETY: `from` has as many elements as are asked for.
        unsafe { U::one(from.as_ptr(), 1, from.len()) }.to_bits()
    }

    /// Both operands of every layout against what a place holds by definition.
    /// The layouts of AVX-512 are made with AVX2, so they are tested with it.
    fn check<M: Micro, U: Unit>(rows: usize, depth: usize)
    where
        U::Element: Counted,
    {
        let units = depth.div_ceil(U::DEEP);
        for transposed in [false, true] {
            let data: Vec<U::Element> = (0..rows * depth).map(U::Element::at).collect();
            let a = Matrix::new(&data, rows, depth, transposed);
            let held = |row: usize, unit_: usize| {
                let elements: Vec<U::Element> = (unit_ * U::DEEP..((unit_ + 1) * U::DEEP).min(depth))
                    .map(|k| data[row * a.row_stride + k * a.col_stride])
                    .collect();
                unit::<U>(&elements)
            };
            let mut left = vec![f32::NAN; rows * units + SLACK];
            // SAFETY: AVX2 was detected; the matrix is dense in its slice, and
            // there is room.
            unsafe { pack_left::<M, U>(&a, left.as_mut_ptr()) };
            for row in 0..rows {
                let top = row / M::ROWS * M::ROWS;
                let height = M::ROWS.min(rows - top);
                for k in 0..units {
                    let got = left[top * units + k * height + row - top].to_bits();
                    assert_eq!(got, held(row, k), "left {rows}×{depth} {transposed}: {row}, {k}");
                }
            }
            let stride = units * M::COLS + 16;
            let mut right = vec![f32::NAN; stride * rows.div_ceil(M::COLS)];
            // SAFETY: as above.
            unsafe { pack_right::<M, U>(&a.t(), right.as_mut_ptr(), stride, false) };
            for column in 0..rows.next_multiple_of(M::COLS) {
                for k in 0..units {
                    let at = column / M::COLS * stride + k * M::COLS + column % M::COLS;
                    let expected = if column < rows { held(column, k) } else { 0 };
                    assert_eq!(
                        right[at].to_bits(),
                        expected,
                        "right {rows}×{depth} {transposed}: {column}, {k}"
                    );
                }
            }
        }
    }

    #[test]
    fn matrices_are_turned() {
        if level() == Level::Portable {
            return;
        }
        for (rows, cols) in [(1, 1), (8, 16), (64, 32), (7, 30), (20, 9)] {
            let from: Vec<f32> = (0..rows * cols).map(f32::at).collect();
            let mut to = vec![0.0; rows * cols];
            // SAFETY: AVX2 was detected; both are as long.
            unsafe { turn(&from, rows, cols, &mut to) };
            for (at, x) in from.iter().enumerate() {
                assert_eq!(to[at % cols * rows + at / cols], *x, "{rows}×{cols}");
            }
        }
    }

    #[test]
    fn packed_operands_lie_as_tiles_read_them() {
        if level() == Level::Portable {
            return;
        }
        for (rows, depth) in [(1, 1), (6, 8), (14, 16), (29, 17), (33, 41), (70, 100), (98, 31)] {
            check::<Avx2, f32>(rows, depth);
            check::<Avx2, u16>(rows, depth);
            check::<Avx512, f32>(rows, depth);
            check::<Avx512, u16>(rows, depth);
            check::<Avx512Bf16, Pair>(rows, depth);
        }
    }
}
