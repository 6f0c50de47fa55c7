//! Matrix products for AVX2 with fused multiply-add, made for the small
//! dimensions of small models: only what must be contiguous is packed.
//!
//! A tile of 6 × 16 outputs stays in twelve registers while the inner
//! dimension runs (Goto and van de Geijn 2008; the tile is that of BLIS on
//! Haswell). The right operand is packed into panels of sixteen columns, the
//! left one into strips of six rows, unless few panels read it. Each output is
//! summed over the inner dimension in order, [`DEPTH`] products at a time,
//! wherever in the matrix it lies.

use std::arch::x86_64::*;
use std::cell::Cell;

use super::matmul::Matrix;
use super::micro::{Blocks, ByRows, LyingByRows, Micro};
use super::packing::transposed;
use super::tiles::{COLS, ROWS, Tile};

/// Inner dimension of a panel. A panel of 24 KiB leaves little of a 32 KiB L1
/// to the strips, which come from L2 at the pace of the products; the output
/// makes fewer trips through memory than with 16 KiB (17 % at depth 384).
const DEPTH: usize = 384;
/// Rows of the left operand that are packed at a time: 288 KiB, in L2.
const TALL: usize = 32 * ROWS;
/// Columns packed at a time.
const WIDE: usize = 512;
/// Columns up to which a transposed left operand is read where it lies.
const NARROW: usize = 32;
/// Columns from which a left operand with contiguous rows is packed: with rows
/// a large stride apart, what is read where it lies misses L1 and its TLB.
const PACKED: usize = 128;
/// Floats that packing may write past the last strip's end.
const SLACK: usize = 8 - ROWS;
/// Rows up to which a right operand with contiguous rows is read where it
/// lies.
const SHORT: usize = 24;

/// A row of a panel; also what aligns the panels.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; COLS]);

thread_local! {
    static PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// out (=|+=) alpha · a · b, with rows of `out` `out_stride` apart.
///
/// # Safety
/// The machine has AVX2 and FMA. Every element of `a` and `b` lies in its
/// slice. `out` is valid for reads and writes of a.rows × b.cols elements
/// with that stride, and no one else uses them meanwhile.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn product(
    a: Matrix,
    b: Matrix,
    out: *mut f32,
    out_stride: usize,
    alpha: f32,
    accumulate: bool,
) {
    let packs_a = match a.col_stride {
        1 => b.cols >= PACKED,
        _ => a.row_stride == 1 && b.cols > NARROW,
    };
    let packs_b = b.col_stride != 1 || a.rows > SHORT;
    let deepest = DEPTH.min(a.cols);
    let b_lines = deepest * WIDE.min(b.cols).div_ceil(COLS);
    let a_lines = if packs_a { (deepest * TALL + SLACK).div_ceil(COLS) } else { 0 };
    let mut panels = PANELS.take();
    if panels.len() < a_lines + b_lines {
        panels.resize(a_lines + b_lines, Line([0.0; COLS]));
    }
    let (b_panels, a_panels) = panels.split_at_mut(b_lines);
    for depth in (0..a.cols).step_by(DEPTH) {
        let k = DEPTH.min(a.cols - depth);
        let accumulate = accumulate || depth > 0;
        for left in (0..b.cols).step_by(WIDE) {
            let n = WIDE.min(b.cols - left);
            for (panel, lines) in b_panels.chunks_mut(k).take(n.div_ceil(COLS)).enumerate() {
                let col = panel * COLS;
                let width = COLS.min(n - col);
                if packs_b || width < COLS {
                    // SAFETY: AVX2, and elements inside b: the caller's
                    // promises.
                    unsafe { pack_panel(&b, depth, left + col, width, lines) };
                }
            }
            for top in (0..a.rows).step_by(TALL) {
                let m = TALL.min(a.rows - top);
                let mut source = Left {
                    data: a.data[top * a.row_stride + depth * a.col_stride..].as_ptr(),
                    strip: ROWS * a.row_stride,
                    row: a.row_stride,
                    col: a.col_stride,
                };
                if packs_a {
                    // A line has the size of sixteen floats and no padding.
                    let target = a_panels.as_mut_ptr().cast::<f32>();
                    // SAFETY: k · m floats and the slack fit, m being at most
                    // TALL; the elements read are inside a.
                    unsafe {
                        match a.col_stride {
                            1 => pack_rows(source, m, k, target),
                            _ => pack_strips(source, m, k, target),
                        }
                    };
                    source = Left { data: target, strip: ROWS * k, row: 1, col: ROWS };
                }
                for col in (0..n).step_by(COLS) {
                    let width = COLS.min(n - col);
                    let (right, right_stride) = if packs_b || width < COLS {
                        (b_panels[col / COLS * k..].as_ptr().cast::<f32>(), COLS)
                    } else {
                        (b.data[depth * b.row_stride + left + col..].as_ptr(), b.row_stride)
                    };
                    for strip in 0..m.div_ceil(ROWS) {
                        let height = ROWS.min(m - strip * ROWS);
                        let row = top + strip * ROWS;
                        let tile = Tile {
                            depth: k,
                            left: source.data.wrapping_add(strip * source.strip),
                            right,
                            right_stride,
                            next: right,
                            ahead: &[],
                            out: out.wrapping_add(row * out_stride + left + col),
                            out_stride,
                            rows: height,
                            width,
                            alpha,
                            accumulate,
                        };
                        // SAFETY: the tile's operands and outputs are inside
                        // a (or its copy), b (or its copy) and `out`.
                        unsafe {
                            if packs_a && right_stride == COLS {
                                // The last strip is packed as tightly as it is.
                                Avx2::RUN[0][height - 1](&tile);
                            } else {
                                let left_col = if packs_a { height } else { source.col };
                                LOOSE[height - 1](&tile, source.row, left_col);
                            }
                        }
                    }
                }
            }
        }
    }
    PANELS.set(panels);
}

/// The left operand, or its copy: strips of up to [`ROWS`] rows.
#[derive(Clone, Copy)]
struct Left {
    data: *const f32,
    strip: usize,
    row: usize,
    col: usize,
}

/// A tile's functions by rows less one, and whether outputs go past the caches.
macro_rules! by_rows {
    ($tile:ident, $past:literal) => {
        &[
            $tile::<1, $past>,
            $tile::<2, $past>,
            $tile::<3, $past>,
            $tile::<4, $past>,
            $tile::<5, $past>,
            $tile::<6, $past>,
        ]
    };
}

/// AVX2's tile of packed operands.
pub(crate) struct Avx2;

impl Micro for Avx2 {
    const ROWS: usize = ROWS;
    const COLS: usize = COLS;
    const RUN: ByRows = &[by_rows!(packed, false), by_rows!(packed, true)];
    const LYING: Option<LyingByRows> = Some(&[by_rows!(lying, false), by_rows!(lying, true)]);

    fn blocks() -> Blocks {
        Blocks { depth: 384, copied: 384, tall: 96, lies: true, apart: usize::MAX }
    }
}

/// [`loose`] by rows less one.
pub(crate) const LOOSE: [unsafe fn(&Tile, usize, usize); ROWS] =
    [loose::<1>, loose::<2>, loose::<3>, loose::<4>, loose::<5>, loose::<6>];

/// Steps of the inner dimension that the loop over it takes at a time.
const UNROLLED: usize = 4;

/// # Safety
/// AVX2 and FMA; `left` has depth × M elements, `right` depth × COLS, `out` M
/// rows of `width`. If `PAST`, it ends as
/// [`PAST`](super::micro::PAST) says.
#[target_feature(enable = "avx2,fma")]
unsafe fn packed<const M: usize, const PAST: bool>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { asking::<M, PAST>(tile, 1, M) };
}

/// # Safety
/// As [`packed`], where `left` has M rows of depth elements, `row` apart.
#[target_feature(enable = "avx2,fma")]
unsafe fn lying<const M: usize, const PAST: bool>(tile: &Tile, row: usize) {
    // SAFETY: the caller's promise.
    unsafe { asking::<M, PAST>(tile, row, 1) };
}

/// As [`loose`] of a packed right operand, with what [`Tile`] says is wanted
/// later asked for.
///
/// # Safety
/// As [`packed`], where the rows of `left` are `row` and its columns `along`
/// apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn asking<const M: usize, const PAST: bool>(tile: &Tile, row: usize, along: usize) {
    for i in 0..if PAST { 0 } else { M } {
        // The outputs are wanted when the loop is over.
        let row = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride));
        _mm_prefetch::<_MM_HINT_T0>(row.cast());
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(COLS - 1).cast());
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let (mut left, mut right, mut next) = (tile.left, tile.right, tile.next);
    for group in 0..tile.depth / UNROLLED {
        if group.is_multiple_of(COLS / UNROLLED) {
            _mm_prefetch::<_MM_HINT_T0>(next.cast());
            next = next.wrapping_add(COLS);
            if let Some(line) = tile.ahead.get(group / (COLS / UNROLLED)) {
                _mm_prefetch::<_MM_HINT_T1>(line.cast());
            }
        }
        for step in 0..UNROLLED {
            let (left, right) = (left.wrapping_add(step * along), right.wrapping_add(step * COLS));
            // SAFETY: the caller's promise.
            unsafe { multiply(&mut sums, left, row, right) };
        }
        left = left.wrapping_add(UNROLLED * along);
        right = right.wrapping_add(UNROLLED * COLS);
    }
    for _ in 0..tile.depth % UNROLLED {
        // SAFETY: the caller's promise.
        unsafe { multiply(&mut sums, left, row, right) };
        left = left.wrapping_add(along);
        right = right.wrapping_add(COLS);
    }
    // SAFETY: the caller's promise.
    unsafe { finish::<M, PAST>(tile, sums) };
}

/// As [`packed`], with rows and columns of `left` these strides apart, and rows
/// of `right` as the tile says.
///
/// # Safety
/// As [`packed`].
#[target_feature(enable = "avx2,fma")]
unsafe fn loose<const M: usize>(tile: &Tile, left_row: usize, left_col: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let (mut left, mut right) = (tile.left, tile.right);
    for _ in 0..tile.depth {
        // SAFETY: the caller's promise.
        unsafe { multiply(&mut sums, left, left_row, right) };
        left = left.wrapping_add(left_col);
        right = right.wrapping_add(tile.right_stride);
    }
    // SAFETY: the caller's promise.
    unsafe { finish::<M, false>(tile, sums) };
}

/// sums += a column of M elements `stride` apart × a row of COLS elements.
///
/// # Safety
/// AVX2 and FMA; both are there.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const M: usize>(
    sums: &mut [[__m256; 2]; M],
    left: *const f32,
    stride: usize,
    right: *const f32,
) {
    // SAFETY: the caller's promise.
    let (b0, b1) = unsafe { (_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8))) };
    for (i, [low, high]) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let a = unsafe { _mm256_broadcast_ss(&*left.wrapping_add(i.wrapping_mul(stride))) };
        *low = _mm256_fmadd_ps(a, b0, *low);
        *high = _mm256_fmadd_ps(a, b1, *high);
    }
}

/// # Safety
/// AVX2 and FMA; `out` has M rows of `width`. If `PAST`, it ends
/// as [`PAST`](super::micro::PAST) says.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish<const M: usize, const PAST: bool>(tile: &Tile, sums: [[__m256; 2]; M]) {
    let alpha = _mm256_set1_ps(tile.alpha);
    for (i, [low, high]) in sums.into_iter().enumerate() {
        let row = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride));
        // SAFETY: the caller's promise; narrower rows go through a buffer.
        unsafe {
            if PAST {
                _mm256_stream_ps(row, _mm256_mul_ps(alpha, low));
                _mm256_stream_ps(row.add(8), _mm256_mul_ps(alpha, high));
            } else if tile.width == COLS {
                put(row, low, high, alpha, tile.accumulate);
            } else {
                let mut line = [0f32; COLS];
                line.as_mut_ptr().copy_from_nonoverlapping(row, tile.width);
                put(line.as_mut_ptr(), low, high, alpha, tile.accumulate);
                row.copy_from_nonoverlapping(line.as_ptr(), tile.width);
            }
        }
    }
}

/// # Safety
/// AVX2 and FMA; `row` has COLS elements.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn put(row: *mut f32, low: __m256, high: __m256, alpha: __m256, accumulate: bool) {
    for (half, sum) in [low, high].into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let at = row.add(8 * half);
            let value = if accumulate {
                _mm256_fmadd_ps(alpha, sum, _mm256_loadu_ps(at))
            } else {
                _mm256_mul_ps(alpha, sum)
            };
            _mm256_storeu_ps(at, value);
        }
    }
}

/// Copies m × depth elements strip by strip, each strip column by column, as
/// many rows in a column as the strip has.
///
/// # Safety
/// `from` has m × depth elements with rows 1 apart, and `to` room for them.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_strips(from: Left, m: usize, depth: usize, to: *mut f32) {
    let (full, rest) = (m / ROWS, m % ROWS);
    for k in 0..depth {
        let column = from.data.wrapping_add(k.wrapping_mul(from.col));
        for strip in 0..full {
            // SAFETY: strips of ROWS × depth floats, then the rest: m × depth.
            unsafe {
                let target =
                    to.add(strip.wrapping_mul(ROWS).wrapping_mul(depth).wrapping_add(k.wrapping_mul(ROWS)));
                target.copy_from_nonoverlapping(column.add(strip.wrapping_mul(ROWS)), ROWS);
            }
        }
        if rest > 0 {
            // SAFETY: as above.
            unsafe {
                let target = to.add(full * ROWS * depth + k * rest);
                target.copy_from_nonoverlapping(column.add(full * ROWS), rest);
            }
        }
    }
}

/// As [`pack_strips`] for rows of contiguous elements.
///
/// # Safety
/// AVX2; `from` has m × depth elements with columns 1 apart, and `to` room for
/// them and for [`SLACK`] more.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_rows(from: Left, m: usize, depth: usize, to: *mut f32) {
    let whole = depth / 8 * 8;
    for (strip, top) in (0..m).step_by(ROWS).enumerate() {
        let height = ROWS.min(m - top);
        let rows = from.data.wrapping_add(top.wrapping_mul(from.row));
        let target = to.wrapping_add(strip.wrapping_mul(ROWS).wrapping_mul(depth));
        let done = if height == ROWS { whole } else { 0 };
        for k in (0..done).step_by(8) {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, r) in r[..ROWS].iter_mut().enumerate() {
                // SAFETY: eight elements of a row of the strip.
                *r = unsafe { _mm256_loadu_ps(rows.wrapping_add(i.wrapping_mul(from.row)).wrapping_add(k)) };
            }
            for (i, column) in transposed(r).into_iter().enumerate() {
                // SAFETY: a column of six, and two floats more: the next
                // column's, the next strip's, or the slack. They are written
                // after this.
                unsafe { _mm256_storeu_ps(target.wrapping_add((k + i) * ROWS), column) };
            }
        }
        for k in done..depth {
            for i in 0..height {
                // SAFETY: an element of `from`, and its place in the strip.
                unsafe {
                    *target.wrapping_add(k * height + i) = *rows.wrapping_add(i * from.row + k);
                }
            }
        }
    }
}

/// Copies columns `col..col + width` of rows `depth..depth + lines.len()` of
/// `b` into a panel; missing columns become 0.
///
/// # Safety
/// AVX2; the elements are inside `b`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_panel(b: &Matrix, depth: usize, col: usize, width: usize, lines: &mut [Line]) {
    let from = b.data[depth * b.row_stride + col * b.col_stride..].as_ptr();
    if b.col_stride == 1 && width == COLS {
        for (k, line) in lines.iter_mut().enumerate() {
            // SAFETY: a row of the panel, inside b.
            let row = unsafe { &*from.wrapping_add(k.wrapping_mul(b.row_stride)).cast::<[f32; COLS]>() };
            line.0 = *row;
        }
        return;
    }
    let mut done = 0;
    if b.row_stride == 1 && width == COLS {
        let (blocks, _) = lines.as_chunks_mut::<8>();
        for (block, lines) in blocks.iter_mut().enumerate() {
            for half in 0..2 {
                let corner = from.wrapping_add(block * 8 + half * 8 * b.col_stride);
                // SAFETY: eight columns of eight contiguous elements of b.
                unsafe { transpose_8(corner, b.col_stride, lines, half * 8) };
            }
        }
        done = blocks.len() * 8;
    }
    for (k, line) in lines.iter_mut().enumerate().skip(done) {
        line.0 = [0.0; COLS];
        for (j, value) in line.0[..width].iter_mut().enumerate() {
            // SAFETY: an element of b.
            *value = unsafe { *from.wrapping_add(k * b.row_stride + j * b.col_stride) };
        }
    }
}

/// lines[i][at + j] = from[j · stride + i], for i and j below 8.
///
/// # Safety
/// AVX2; `from` has those elements.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn transpose_8(from: *const f32, stride: usize, lines: &mut [Line; 8], at: usize) {
    let mut r = [_mm256_setzero_ps(); 8];
    for (j, r) in r.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *r = unsafe { _mm256_loadu_ps(from.wrapping_add(j.wrapping_mul(stride))) };
    }
    for (line, t) in lines.iter_mut().zip(transposed(r)) {
        let target = line.0[at..at + 8].as_mut_ptr();
        // SAFETY: eight floats of the line.
        unsafe { _mm256_storeu_ps(target, t) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level};

    fn filled(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn check(m: usize, n: usize, k: usize, trans_a: bool, trans_b: bool, alpha: f32, accumulate: bool) {
        let (a, b) = (filled(m * k, 1), filled(k * n, 2));
        let a = Matrix::new(&a, m, k, trans_a);
        let b = Matrix::new(&b, k, n, trans_b);
        let stride = n + 3;
        let before = filled(m * stride, 3);
        let mut out = before.clone();
        // SAFETY: the level was checked; the matrices are dense in their
        // slices, and `out` holds m rows `stride` apart.
        unsafe { product(a, b, out.as_mut_ptr(), stride, alpha, accumulate) };
        for (i, (line, old)) in out.chunks(stride).zip(before.chunks(stride)).enumerate() {
            assert_eq!(line[n..], old[n..], "outside the output");
            for j in 0..n {
                let exact: f64 = (0..k)
                    .map(|l| {
                        f64::from(a.data[i * a.row_stride + l * a.col_stride])
                            * f64::from(b.data[l * b.row_stride + j * b.col_stride])
                    })
                    .sum();
                let start = if accumulate { f64::from(old[j]) } else { 0.0 };
                let exact = start + f64::from(alpha) * exact;
                let error = (f64::from(line[j]) - exact).abs();
                assert!(error < 2e-6 * (k as f64 + 4.0), "{m}×{n}×{k}, {i},{j}: {} and {exact}", line[j]);
            }
        }
    }

    #[test]
    fn products_match_their_definition() {
        if level() == Level::Portable {
            return;
        }
        for m in [1, 2, 5, 6, 13, 64, 70, 101] {
            for n in [1, 15, 16, 17, 32, 50, 273] {
                for k in [1, 7, 8, 19, 400] {
                    for way in 0..4 {
                        let (trans_a, trans_b) = (way & 1 > 0, way & 2 > 0);
                        check(m, n, k, trans_a, trans_b, 1.0, false);
                        check(m, n, k, trans_a, trans_b, 0.5, true);
                    }
                }
            }
        }
    }
}
