//! Operands of AMX's tiles, as [`gemm_amx`](super::gemm_amx) reads them: in whole
//! steps, zeros where there is nothing. Rows of a left operand have [`APART`] pairs
//! between them, as else they may all fall on the same lines of L1. A right operand's
//! panels hold a register after the other, in one KiB each.

use std::arch::x86_64::*;

use super::matmul::Matrix;
use super::simd::ask;

/// Pairs of a step, and floats of a vector.
const VECTOR: usize = 16;
/// Columns of a panel.
const COLS: usize = 2 * VECTOR;
/// Pairs between two rows of a copied left operand.
const APART: usize = 16;
/// Rows ahead of the one that is copied, when it is asked for.
const AHEAD: usize = 16;

/// Units from row to row of a copied left operand of so many.
pub(crate) fn pitch(units: usize) -> usize {
    units.next_multiple_of(VECTOR) + APART
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
    let padded = a.cols.next_multiple_of(2 * VECTOR);
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
    let steps = a.cols / (2 * VECTOR);
    for step in 0..steps {
        for i in (0..whole).step_by(VECTOR) {
            let first = from.wrapping_add(i + (step * 2 * VECTOR).wrapping_mul(a.col_stride));
            // (A line has the elements of two.)
            for column in 0..if i.is_multiple_of(2 * VECTOR) { 2 * VECTOR } else { 0 } {
                let soon = first.wrapping_add((2 * VECTOR + column).wrapping_mul(a.col_stride));
                _mm_prefetch::<_MM_HINT_T0>(soon.cast());
            }
            let mut rows = [_mm512_setzero_si512(); VECTOR];
            for (k, both) in rows.iter_mut().enumerate() {
                let column = first.wrapping_add((2 * k).wrapping_mul(a.col_stride));
                // SAFETY: sixteen elements of two columns.
                *both = unsafe { pairs(column, a.col_stride) };
            }
            for (j, row) in transposed(rows).into_iter().enumerate() {
                let to = to.wrapping_add((i + j) * pitch + step * 2 * VECTOR);
                // SAFETY: a step of a row.
                unsafe { _mm512_storeu_si512(to.cast(), row) };
            }
        }
    }
    for i in 0..a.rows {
        let to = to.wrapping_add(i * pitch);
        for k in if i < whole { steps * 2 * VECTOR } else { 0 }..padded {
            // SAFETY: an element of a where there is one, and room for it.
            unsafe {
                let from = from.wrapping_add((i * a.row_stride).wrapping_add(k.wrapping_mul(a.col_stride)));
                *to.add(k) = if k < a.cols { *from } else { 0 };
            }
        }
    }
}

/// Copies `b` into panels of two registers' columns, each `stride` floats after the one
/// before and of so many units, whole steps: step by step the rows of pairs of the
/// first register, then those of the second. What `b` does not have is 0.
///
/// # Safety
/// AVX-512F, BW and VL; the elements of `b` are inside its slice; `to` has room for
/// the panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn pack_panels(b: &Matrix<u16>, units: usize, to: *mut f32, stride: usize) {
    debug_assert!(units.is_multiple_of(VECTOR) && b.rows <= 2 * units);
    let from = b.data.as_ptr();
    let at = |row: usize, col: usize| {
        from.wrapping_add(row.wrapping_mul(b.row_stride).wrapping_add(col.wrapping_mul(b.col_stride)))
    };
    let place = |panel: usize, step: usize, half: usize| {
        to.wrapping_add(panel.wrapping_mul(stride) + (2 * step + half) * VECTOR * VECTOR)
    };
    let (steps, whole) = match (b.row_stride, b.col_stride) {
        (_, 1) | (1, _) => (b.rows / (2 * VECTOR), b.cols / COLS),
        _ => (0, 0),
    };
    for step in 0..steps {
        for pair in (0..VECTOR).filter(|_| b.col_stride == 1) {
            let row = step * 2 * VECTOR + 2 * pair;
            ask(at(row + AHEAD, 0), b.cols, false);
            ask(at(row + AHEAD + 1, 0), b.cols, false);
            for panel in 0..whole {
                for half in 0..2 {
                    let to = place(panel, step, half).wrapping_add(pair * VECTOR);
                    let from = at(row, panel * COLS + half * VECTOR);
                    // SAFETY: sixteen elements of two rows, and their place.
                    unsafe { _mm512_storeu_si512(to.cast(), pairs(from, b.row_stride)) };
                }
            }
        }
    }
    for panel in (0..whole).filter(|_| b.col_stride != 1) {
        for step in 0..steps {
            for half in 0..2 {
                let mut columns = [_mm512_setzero_si512(); VECTOR];
                for (j, column) in columns.iter_mut().enumerate() {
                    let from = at(step * 2 * VECTOR, panel * COLS + half * VECTOR + j);
                    ask(from.wrapping_add(COLS.wrapping_mul(b.col_stride)), 1, false);
                    // SAFETY: a step of a column.
                    *column = unsafe { _mm512_loadu_si512(from.cast()) };
                }
                let to = place(panel, step, half);
                for (pair, row) in transposed(columns).into_iter().enumerate() {
                    // SAFETY: a row of the step.
                    unsafe { _mm512_storeu_si512(to.wrapping_add(pair * VECTOR).cast(), row) };
                }
            }
        }
    }
    for panel in 0..b.cols.div_ceil(COLS) {
        for step in if panel < whole { steps } else { 0 }..units / VECTOR {
            for i in 0..2 * VECTOR * VECTOR {
                let (half, pair, j) = (i / (VECTOR * VECTOR), i / VECTOR % VECTOR, i % VECTOR);
                let (row, col) = (2 * (step * VECTOR + pair), panel * COLS + half * VECTOR + j);
                let element = |row: usize| match row < b.rows && col < b.cols {
                    // SAFETY: an element of b.
                    true => u32::from(unsafe { *at(row, col) }),
                    false => 0,
                };
                let unit = element(row + 1) << 16 | element(row);
                // SAFETY: its place.
                unsafe { *place(panel, step, 0).wrapping_add(i) = f32::from_bits(unit) };
            }
        }
    }
}

/// Sixteen pairs of neighbours in columns, `stride` elements apart.
///
/// # Safety
/// AVX-512F; `from` has sixteen elements, and so has the place `stride` after it.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pairs(from: *const u16, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    let [even, odd] = [from, from.wrapping_add(stride)]
        .map(|row| _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(row.cast()) }));
    _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd))
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
                    for (k, got) in row[..depth.next_multiple_of(2 * VECTOR)].iter().enumerate() {
                        let held = if k < depth { data[i * a.row_stride + k * a.col_stride] } else { 0 };
                        assert_eq!(*got, held, "{rows}×{depth} {transposed}: {i}, {k}");
                    }
                }
            }
        }
    }
    /// All layouts of a right operand, likewise.
    #[test]
    fn panels_have_zeros_where_there_is_nothing() {
        if level() < Level::Avx512Bf16 {
            return;
        }
        const SPACE: u16 = 0x7fff;
        for (depth, cols) in [(1, 1), (32, 32), (31, 33), (64, 40), (100, 70), (65, 96)] {
            let data: Vec<u16> = (0..2 * depth * cols).map(|i| i as u16 + 1).collect();
            let dense = Matrix::new(&data, depth, cols, false);
            let turned = Matrix::new(&data, depth, cols, true);
            let neither = Matrix { row_stride: 2 * cols, col_stride: 2, ..dense };
            for b in [dense, turned, neither] {
                let units = depth.next_multiple_of(2 * VECTOR) / 2;
                let (panels, stride) = (cols.div_ceil(COLS), units * COLS + APART);
                let mut to = vec![SPACE; panels * 2 * stride];
                // SAFETY: the level; the matrix is in its slice, and there is room.
                unsafe { pack_panels(&b, units, to.as_mut_ptr().cast(), stride) };
                let mut want = vec![SPACE; to.len()];
                for (k, j) in (0..2 * units).flat_map(|k| (0..panels * COLS).map(move |j| (k, j))) {
                    let (pair, half) = (k / 2, j % COLS / VECTOR);
                    let row = (pair / VECTOR * 2 + half) * VECTOR + pair % VECTOR;
                    let at = 2 * (j / COLS * stride + row * VECTOR + j % VECTOR) + k % 2;
                    let is_there = k < depth && j < cols;
                    want[at] = if is_there { data[k * b.row_stride + j * b.col_stride] } else { 0 };
                }
                assert!(to == want, "{depth}×{cols}, strides {} {}", b.row_stride, b.col_stride);
            }
        }
    }
}
