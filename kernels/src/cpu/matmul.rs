//! Matrix products on the crate `gemm`.
//!
//! The output is cut into blocks by its shape; each block is one
//! single-threaded call. A block's bits depend on its own operands only, so
//! they do not depend on the number of threads.

use gemm::Parallelism;

#[cfg(target_arch = "x86_64")]
use super::blocked;
use super::epilogue::Epilogue;
#[cfg(target_arch = "x86_64")]
use super::gemm_avx2::{self, Avx2};
#[cfg(target_arch = "x86_64")]
use super::gemm_avx512::Avx512;
#[cfg(target_arch = "x86_64")]
use super::micro::Micro;
#[cfg(target_arch = "x86_64")]
use super::packing::Unit;
use super::product::Results;
#[cfg(target_arch = "x86_64")]
use super::product::SharedResults;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use super::{Output, Split};

/// Widest side of a block.
const BLOCK: usize = 512;
/// Narrowest side that a split leaves, so that packing pays.
const NARROW: usize = 64;
/// Multiply-adds that a block should have at least, to be worth a hand-over.
const BLOCK_WORK: u64 = 1 << 20;
/// Blocks that a large product is cut into at least.
const BLOCKS: usize = 16;

/// Columns from which our own product is used where the machine has AVX2;
/// narrower outputs would waste its vectors.
#[cfg(target_arch = "x86_64")]
const VECTOR: usize = 8;
/// Rows from which packing the right operand pays.
#[cfg(target_arch = "x86_64")]
const TALL: usize = 48;

/// A strided matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T = f32> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A dense `rows` × `cols` matrix, stored transposed if `transposed`.
    pub fn new(data: &'a [T], rows: usize, cols: usize, transposed: bool) -> Matrix<'a, T> {
        let (row_stride, col_stride) = if transposed { (1, rows) } else { (cols, 1) };
        Matrix { data, rows, cols, row_stride, col_stride }
    }

    /// `rows` × `cols` with rows `stride` apart.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Matrix<'a, T> {
        Matrix { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, of the same memory.
    pub fn t(self) -> Matrix<'a, T> {
        Matrix {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// Some of its columns.
    pub fn columns(self, cols: std::ops::Range<usize>) -> Matrix<'a, T> {
        let skipped = cols.start * self.col_stride;
        Matrix { data: &self.data[skipped..], cols: cols.len(), ..self }
    }

    /// # Panics
    /// If it leaves its slice.
    pub fn check(&self) {
        assert!(self.rows > 0 && self.cols > 0 && self.last() < self.data.len());
    }

    /// Its last element's place.
    fn last(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride
    }
}

/// out (=|+=) alpha · a · b for one block, on this thread. `out` is the block
/// with rows `out_stride` apart.
///
/// # Safety
/// `out` is valid for reads and writes of a.rows × b.cols elements with that
/// stride, and no one else uses them meanwhile.
///
/// # Panics
/// If a matrix leaves its slice or the inner dimensions differ.
pub(crate) unsafe fn block(
    a: Matrix,
    b: Matrix,
    out: *mut f32,
    out_stride: usize,
    alpha: f32,
    accumulate: bool,
) {
    assert_eq!(a.cols, b.rows);
    assert!(a.last() < a.data.len() && b.last() < b.data.len());
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Portable && b.cols >= VECTOR {
        // SAFETY: AVX2 and FMA were detected; both inputs lie inside their
        // slices (checked); the output is the caller's promise.
        unsafe { gemm_avx2::product(a, b, out, out_stride, alpha, accumulate) };
        return;
    }
    // SAFETY: both inputs lie inside their slices (checked); the output is
    // the caller's promise. Strides are below isize::MAX, as slices are.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            out_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// out (=|+=) a · b, as [`block`], with each output summed over the inner
/// dimension in order whatever the block's sides are.
///
/// # Safety
/// As [`block`].
///
/// # Panics
/// As [`block`].
pub(crate) unsafe fn steady_block(a: Matrix, b: Matrix, out: *mut f32, out_stride: usize, accumulate: bool) {
    assert_eq!(a.cols, b.rows);
    assert!(a.last() < a.data.len() && b.last() < b.data.len());
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Portable {
        // SAFETY: as in `block`.
        unsafe { gemm_avx2::product(a, b, out, out_stride, 1.0, accumulate) };
        return;
    }
    for i in 0..a.rows {
        // SAFETY: a row of the output, the caller's promise.
        let row = unsafe { std::slice::from_raw_parts_mut(out.add(i * out_stride), b.cols) };
        if !accumulate {
            row.fill(0.0);
        }
        for l in 0..a.cols {
            let factor = a.data[i * a.row_stride + l * a.col_stride];
            let line = b.data[l * b.row_stride..].iter().step_by(b.col_stride);
            for (o, b) in row.iter_mut().zip(line) {
                *o += factor * b;
            }
        }
    }
}

/// Whether a product is one for [`blocked`]: packing all of its operands pays.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_large(m: usize, n: usize, k: usize) -> bool {
    let work = (m as u64).saturating_mul(n as u64).saturating_mul(k as u64);
    level() != Level::Portable && m >= TALL && n >= VECTOR && k <= blocked::DEEPEST && work >= BLOCK_WORK
}

/// As [`batched`], for products that are large.
///
/// # Safety
/// [`is_large`] said so. `out` holds `batch` results, which no one else uses.
///
/// # Panics
/// If an operand does not hold `batch` matrices.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn large<A: Unit, B: Unit>(
    split: Split,
    batch: usize,
    a: Matrix<A::Element>,
    b: Matrix<B::Element>,
    out: SharedResults,
    alpha: f32,
    accumulate: bool,
    epilogue: Option<&Epilogue>,
) {
    // SAFETY: the instruction set was detected; the rest is the caller's
    // promise.
    unsafe {
        match level() {
            Level::Portable | Level::Avx2 => {
                large_by::<Avx2, A, B>(split, batch, a, b, out, alpha, accumulate, epilogue);
            }
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => {
                large_by::<Avx512, A, B>(split, batch, a, b, out, alpha, accumulate, epilogue);
            }
        }
    }
}

/// As [`large`], with this tile.
///
/// # Safety
/// As [`large`]; and the machine has the tile's instruction set.
///
/// # Panics
/// As [`large`].
#[cfg(target_arch = "x86_64")]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn large_by<M: Micro, A: Unit, B: Unit>(
    split: Split,
    batch: usize,
    a: Matrix<A::Element>,
    b: Matrix<B::Element>,
    out: SharedResults,
    alpha: f32,
    accumulate: bool,
    epilogue: Option<&Epilogue>,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows);
    for member in 0..batch {
        let a = Matrix { data: &a.data[member * m * k..], ..a };
        let b = Matrix { data: &b.data[member * k * n..], ..b };
        assert!(a.last() < a.data.len() && b.last() < b.data.len());
        let start = member * m * n;
        // SAFETY: the matrices lie in their slices; the rest is the caller's
        // promise.
        unsafe { blocked::product::<M, A, B>(split, a, b, out, start, alpha, accumulate, epilogue) };
    }
}

/// Block sides for an m × n product of depth k. By shape alone.
fn partition(m: usize, n: usize, k: usize) -> (usize, usize) {
    let (mut rows, mut cols) = (m.min(BLOCK), n.min(BLOCK));
    loop {
        let blocks = m.div_ceil(rows) * n.div_ceil(cols);
        let work = (rows as u64).saturating_mul(cols as u64).saturating_mul(k as u64);
        if blocks >= BLOCKS || work / 2 < BLOCK_WORK {
            return (rows, cols);
        }
        if rows >= cols && rows > NARROW {
            rows = rows.div_ceil(2).next_multiple_of(16);
        } else if cols > NARROW {
            cols = cols.div_ceil(2).next_multiple_of(16);
        } else {
            return (rows, cols);
        }
    }
}

/// out (=|+=) alpha · a · b for each of `batch` dense products; `a` and `b`
/// describe the first, and the others follow in their slices. `epilogue` then
/// finishes each block.
#[allow(clippy::too_many_arguments)]
pub(crate) fn batched(
    split: Split,
    batch: usize,
    a: Matrix,
    b: Matrix,
    out: &mut [f32],
    alpha: f32,
    accumulate: bool,
    epilogue: Option<&Epilogue>,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    #[cfg(target_arch = "x86_64")]
    if is_large(m, n, k) {
        // SAFETY: `is_large` found AVX2; the matrices and the output are dense
        // and hold `batch` products.
        unsafe {
            let out = SharedResults::F32(Output::new(out));
            large::<f32, f32>(split, batch, a, b, out, alpha, accumulate, epilogue);
        }
        return;
    }
    let (rows, cols) = partition(m, n, k);
    let (down, across) = (m.div_ceil(rows), n.div_ceil(cols));
    // Small members of a batch are grouped, so that a task is worth it.
    let work = (rows as u64).saturating_mul(cols as u64).saturating_mul(k as u64).max(1);
    let group = usize::try_from((BLOCK_WORK / work).max(1)).unwrap_or(1);
    let blocks = batch * down * across;
    let out = Output::new(out);
    split.each(blocks.div_ceil(group), |task| {
        for index in task * group..((task + 1) * group).min(blocks) {
            let (member, rest) = (index / (down * across), index % (down * across));
            let (row, col) = (rest / across * rows, rest % across * cols);
            let a_block =
                Matrix { data: &a.data[member * m * k + row * a.row_stride..], rows: rows.min(m - row), ..a };
            let b_block =
                Matrix { data: &b.data[member * k * n + col * b.col_stride..], cols: cols.min(n - col), ..b };
            // SAFETY: blocks tile the output without overlap, each is written
            // by this task alone, and row `row + rows − 1` ends inside it.
            unsafe {
                block(a_block, b_block, out.at(member * m * n + row * n + col), n, alpha, accumulate);
            }
            if let Some(epilogue) = epilogue {
                for i in 0..a_block.rows {
                    let start = (member * m + row + i) * n + col;
                    // SAFETY: a row of the block, which is this task's.
                    let line = unsafe { out.range(start, b_block.cols) };
                    epilogue.finish(line, Results::F32(&mut []), start, col);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_cover_and_stay_in_range() {
        for (m, n, k) in [(1, 1, 1), (2048, 1536, 384), (64, 256, 2048), (1, 100_000, 64), (7, 3, 9)] {
            let (rows, cols) = partition(m, n, k);
            assert!(rows >= 1 && cols >= 1 && rows <= BLOCK && cols <= BLOCK);
        }
        let (rows, cols) = partition(2048, 1536, 384);
        assert!(2048usize.div_ceil(rows) * 1536usize.div_ceil(cols) >= BLOCKS);
    }
}
