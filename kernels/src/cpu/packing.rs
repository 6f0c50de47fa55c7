//! Operands of matrix products, laid out as the tiles of a product read them:
//! the left one in strips of rows, the right one in panels of columns, both
//! inner dimension first. bfloat16 becomes `f32` on the way.

use std::arch::x86_64::*;

use super::blocked::Micro;
use super::matmul::Matrix;
use crate::bf16;

/// An element of an operand.
pub(crate) trait Element: Copy + Send + Sync {
    /// The number.
    fn value(self) -> f32;

    /// Eight of them.
    ///
    /// # Safety
    /// AVX2; `from` has eight elements.
    unsafe fn eight(from: *const Self) -> __m256;
}

impl Element for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn eight(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Element for u16 {
    #[inline(always)]
    fn value(self) -> f32 {
        bf16::value(self)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn eight(from: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }
}

/// Rows ahead of the one that is copied, when it is asked for.
const AHEAD: usize = 8;

/// Floats that [`pack_left`] may write past the last strip's end.
pub(crate) const SLACK: usize = 8;

/// Copies rows of `a`, which has one strip's height or more, into strips of
/// `M::ROWS` rows, each strip inner dimension first; the last strip is as
/// narrow as the rows that are left.
///
/// # Safety
/// AVX2; the elements of `a` are inside its slice; `to` has room for
/// a.rows × a.cols floats and [`SLACK`].
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn pack_left<M: Micro, T: Element>(a: &Matrix<T>, to: *mut f32) {
    let depth = a.cols;
    if a.row_stride == 1 && a.col_stride != 1 {
        let (full, rest) = (a.rows / M::ROWS, a.rows % M::ROWS);
        for k in 0..depth {
            let column = a.data.as_ptr().wrapping_add(k.wrapping_mul(a.col_stride));
            prefetch(column.wrapping_add(AHEAD.wrapping_mul(a.col_stride)), a.rows);
            let mut target = to.wrapping_add(k.wrapping_mul(M::ROWS));
            let mut from = column;
            for _ in 0..full {
                // SAFETY: elements of a, and their places in the strip.
                unsafe { copy::<M, T>(from, target) };
                target = target.wrapping_add(M::ROWS.wrapping_mul(depth));
                from = from.wrapping_add(M::ROWS);
            }
            let target = to.wrapping_add((full * M::ROWS * depth).wrapping_add(k.wrapping_mul(rest)));
            for i in 0..rest {
                // SAFETY: as above.
                unsafe { *target.wrapping_add(i) = (*from.wrapping_add(i)).value() };
            }
        }
        return;
    }
    for top in (0..a.rows).step_by(M::ROWS) {
        let height = M::ROWS.min(a.rows - top);
        let rows = a.data.as_ptr().wrapping_add(top.wrapping_mul(a.row_stride));
        let target = to.wrapping_add(top.wrapping_mul(depth));
        let done = if height == M::ROWS && a.col_stride == 1 { depth / 8 * 8 } else { 0 };
        for k in (0..done).step_by(8) {
            for first in (0..M::ROWS).step_by(8) {
                let mut r = [_mm256_setzero_ps(); 8];
                for (i, r) in r[..8.min(M::ROWS - first)].iter_mut().enumerate() {
                    let row = rows.wrapping_add((first + i).wrapping_mul(a.row_stride));
                    // SAFETY: eight elements of a row of the strip.
                    *r = unsafe { T::eight(row.wrapping_add(k)) };
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
                let from = rows.wrapping_add(i * a.row_stride + k * a.col_stride);
                // SAFETY: an element of a, and its place in the strip.
                unsafe { *target.wrapping_add(k * height + i) = (*from).value() };
            }
        }
    }
}

/// Copies all of `b` into panels of `M::COLS` columns, each panel inner
/// dimension first and `stride` floats after the one before; columns that are
/// missing in the last become 0.
///
/// # Safety
/// AVX2; the elements of `b` are inside its slice; `to` has room for the
/// panels.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn pack_right<M: Micro, T: Element>(b: &Matrix<T>, to: *mut f32, stride: usize) {
    let depth = b.rows;
    let whole = b.cols / M::COLS;
    let from = b.data.as_ptr();
    let mut done = 0;
    if b.col_stride == 1 {
        for k in 0..depth {
            let row = from.wrapping_add(k.wrapping_mul(b.row_stride));
            prefetch(row.wrapping_add(AHEAD.wrapping_mul(b.row_stride)), b.cols);
            for panel in 0..whole {
                let target =
                    to.wrapping_add(panel.wrapping_mul(stride).wrapping_add(k.wrapping_mul(M::COLS)));
                let row = row.wrapping_add(panel.wrapping_mul(M::COLS));
                for j in (0..M::COLS).step_by(8) {
                    // SAFETY: eight elements of b, and their place.
                    unsafe { _mm256_storeu_ps(target.wrapping_add(j), T::eight(row.wrapping_add(j))) };
                }
            }
        }
        done = depth;
    } else if b.row_stride == 1 {
        done = depth / 8 * 8;
        for panel in 0..whole {
            let columns = from.wrapping_add((panel * M::COLS).wrapping_mul(b.col_stride));
            let target = to.wrapping_add(panel.wrapping_mul(stride));
            for k in (0..done).step_by(8) {
                for j in (0..M::COLS).step_by(8) {
                    let mut r = [_mm256_setzero_ps(); 8];
                    for (i, r) in r.iter_mut().enumerate() {
                        let column = columns.wrapping_add((j + i).wrapping_mul(b.col_stride));
                        // SAFETY: eight elements of a column of b.
                        *r = unsafe { T::eight(column.wrapping_add(k)) };
                    }
                    for (i, row) in transposed(r).into_iter().enumerate() {
                        // SAFETY: eight floats of a row of the panel.
                        unsafe { _mm256_storeu_ps(target.wrapping_add((k + i) * M::COLS + j), row) };
                    }
                }
            }
        }
    }
    for panel in 0..b.cols.div_ceil(M::COLS) {
        let width = M::COLS.min(b.cols - panel * M::COLS);
        for k in if width == M::COLS { done } else { 0 }..depth {
            for j in 0..M::COLS {
                let at = k * b.row_stride + (panel * M::COLS + j) * b.col_stride;
                // SAFETY: an element of b where there is one, and its place.
                unsafe {
                    *to.wrapping_add(panel * stride + k * M::COLS + j) =
                        if j < width { (*from.wrapping_add(at)).value() } else { 0.0 };
                }
            }
        }
    }
}

/// Copies a column of a strip.
///
/// # Safety
/// AVX2; `from` has, and `to` has room for, `M::ROWS` elements.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn copy<M: Micro, T: Element>(from: *const T, to: *mut f32) {
    // Read before anything is written, so that the copy needs no order.
    let mut column = [0f32; 16];
    for (i, element) in column[..M::ROWS].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *element = unsafe { (*from.wrapping_add(i)).value() };
    }
    // SAFETY: the caller's promise.
    unsafe { to.copy_from_nonoverlapping(column.as_ptr(), M::ROWS) };
}

/// Asks for the cache lines of a row that is soon read: rows lie too far apart
/// for the processor to foresee them.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn prefetch<T>(row: *const T, len: usize) {
    for at in (0..len).step_by(64 / size_of::<T>()) {
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at).cast());
    }
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
