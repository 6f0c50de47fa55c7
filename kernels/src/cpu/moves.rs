//! Copies: casts, column windows and transposes. They move bits, so that one
//! code serves both element types.

use super::Split;
use crate::op::DType;

const TASK: usize = 32_768;
/// Side of a transposed tile: two of them fit in L1.
const SIDE: usize = 32;

/// An output of bits that tasks write in parts.
#[derive(Clone, Copy)]
struct Bits {
    base: *mut u32,
    len: usize,
}
// SAFETY: as `Output`: an address whose use is unsafe.
unsafe impl Send for Bits {}
// SAFETY: as above.
unsafe impl Sync for Bits {}

impl Bits {
    fn new(slice: &mut [u32]) -> Bits {
        Bits { base: slice.as_mut_ptr(), len: slice.len() }
    }

    /// # Safety
    /// Tasks take disjoint ranges.
    #[allow(clippy::mut_from_ref)]
    unsafe fn range(&self, start: usize, len: usize) -> &mut [u32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }
}

/// dst = src, cast. Float to integer goes towards zero, saturates, and turns
/// NaN into 0; integer to float rounds to nearest.
pub(crate) fn copy(split: Split, src: &[u32], dst: &mut [u32], from: DType, to: DType) {
    let len = dst.len();
    let dst = Bits::new(dst);
    split.each(len.div_ceil(TASK), |task| {
        let start = task * TASK;
        let count = TASK.min(len - start);
        // SAFETY: tasks take disjoint ranges.
        let dst = unsafe { dst.range(start, count) };
        let src = &src[start..start + count];
        match (from, to) {
            (DType::F32, DType::I32) => {
                for (d, s) in dst.iter_mut().zip(src) {
                    *d = f32::from_bits(*s) as i32 as u32;
                }
            }
            (DType::I32, DType::F32) => {
                for (d, s) in dst.iter_mut().zip(src) {
                    *d = (*s as i32 as f32).to_bits();
                }
            }
            _ => dst.copy_from_slice(src),
        }
    });
}

/// One side of a column copy: columns in a row, and the first one used.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub cols: usize,
    pub col: usize,
}

/// dst[:, to.col..][..width] (=|+=) src[:, from.col..][..width]; `accumulate`
/// names the type to add in. Integers wrap.
#[allow(clippy::too_many_arguments)]
pub(crate) fn columns(
    split: Split,
    src: &[u32],
    dst: &mut [u32],
    rows: usize,
    from: Side,
    to: Side,
    width: usize,
    accumulate: Option<DType>,
) {
    let group = (TASK / width).max(1);
    let dst = Bits::new(dst);
    split.each(rows.div_ceil(group), |task| {
        for row in task * group..((task + 1) * group).min(rows) {
            // SAFETY: rows do not overlap, and each belongs to one task.
            let d = unsafe { dst.range(row * to.cols + to.col, width) };
            let s = &src[row * from.cols + from.col..][..width];
            match accumulate {
                None => d.copy_from_slice(s),
                Some(DType::F32) => {
                    for (d, s) in d.iter_mut().zip(s) {
                        *d = (f32::from_bits(*d) + f32::from_bits(*s)).to_bits();
                    }
                }
                Some(DType::I32) => {
                    for (d, s) in d.iter_mut().zip(s) {
                        *d = d.wrapping_add(*s);
                    }
                }
            }
        }
    });
}

/// Each [rows, cols] of the batch becomes [cols, rows].
pub(crate) fn transpose(split: Split, src: &[u32], dst: &mut [u32], batch: usize, rows: usize, cols: usize) {
    let strips = cols.div_ceil(SIDE);
    let dst = Bits::new(dst);
    // A task writes a strip of SIDE rows of one output matrix: contiguous.
    split.each(batch * strips, |task| {
        let (member, first) = (task / strips, task % strips * SIDE);
        let height = SIDE.min(cols - first);
        let base = member * rows * cols;
        // SAFETY: strips tile the output without overlap.
        let strip = unsafe { dst.range(base + first * rows, height * rows) };
        let src = &src[base..base + rows * cols];
        let tiles = src.chunks(SIDE * cols).zip((0..rows).step_by(SIDE));
        for (band, row) in tiles {
            for (c, line) in strip.chunks_exact_mut(rows).enumerate() {
                let column = band[first + c..].iter().step_by(cols);
                for (d, s) in line[row..].iter_mut().zip(column) {
                    *d = *s;
                }
            }
        }
    });
}
