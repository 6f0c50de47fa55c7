//! Copies: casts, column windows and transposes. One code serves all element
//! types.

use super::Split;

const TASK: usize = 32_768;
/// Side of a transposed tile: two of them fit in L1.
const SIDE: usize = 32;

/// An output that tasks write in parts, of elements that are only moved.
#[derive(Clone, Copy)]
pub(crate) struct Moved<T> {
    base: *mut T,
    len: usize,
}
// SAFETY: as `Output`: an address whose use is unsafe.
unsafe impl<T: Send> Send for Moved<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Moved<T> {}

impl<T> Moved<T> {
    pub fn new(slice: &mut [T]) -> Moved<T> {
        Moved { base: slice.as_mut_ptr(), len: slice.len() }
    }

    /// # Safety
    /// `base..base + len` is memory that the step owns as an output.
    pub unsafe fn from_raw(base: *mut T, len: usize) -> Moved<T> {
        Moved { base, len }
    }

    /// Address of element `start`.
    ///
    /// # Panics
    /// If `start` leaves it.
    pub fn at(&self, start: usize) -> *mut T {
        assert!(start < self.len);
        // SAFETY: in bounds (checked).
        unsafe { self.base.add(start) }
    }

    /// # Safety
    /// Tasks take disjoint ranges.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }
}

/// dst = src, slices of it by `cast`.
pub(crate) fn convert<A: Copy + Sync, B: Copy + Send>(
    split: Split,
    src: &[A],
    dst: &mut [B],
    cast: impl Fn(&[A], &mut [B]) + Sync + Send,
) {
    let len = dst.len();
    let dst = Moved::new(dst);
    split.each(len.div_ceil(TASK), |task| {
        let start = task * TASK;
        let count = TASK.min(len - start);
        // SAFETY: tasks take disjoint ranges.
        cast(&src[start..start + count], unsafe { dst.range(start, count) });
    });
}

/// As [`convert`], of `count` slices of `width` elements, whose distances in src
/// and dst are `rows`.
///
/// # Safety
/// While it runs nothing else reads or writes the slices of dst.
pub(crate) unsafe fn convert_rows<A: Copy + Sync, B: Copy + Send>(
    split: Split,
    (src, dst): (&[A], Moved<B>),
    [count, width]: [usize; 2],
    rows: [usize; 2],
    cast: impl Fn(&[A], &mut [B]) + Sync + Send,
) {
    let group = (TASK / width).max(1);
    split.each(count.div_ceil(group), |task| {
        for i in task * group..((task + 1) * group).min(count) {
            // SAFETY: tasks take disjoint slices; the rest is the caller's promise.
            cast(&src[i * rows[0]..][..width], unsafe { dst.range(i * rows[1], width) });
        }
    });
}

/// Slices by a cast of elements.
pub(crate) fn each<A: Copy, B>(cast: impl Fn(A) -> B) -> impl Fn(&[A], &mut [B]) {
    move |src, dst| dst.iter_mut().zip(src).for_each(|(d, s)| *d = cast(*s))
}

/// One side of a column copy: columns in a row, and the first one used.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub cols: usize,
    pub col: usize,
}

/// dst[:, to.col..][..width] (=|+=) src[:, from.col..][..width]; `add` says how
/// elements are added, if they are.
#[allow(clippy::too_many_arguments)]
pub(crate) fn columns<T: Copy + Send + Sync>(
    split: Split,
    src: &[T],
    dst: &mut [T],
    rows: usize,
    from: Side,
    to: Side,
    width: usize,
    add: Option<fn(T, T) -> T>,
) {
    let group = (TASK / width).max(1);
    let dst = Moved::new(dst);
    split.each(rows.div_ceil(group), |task| {
        for row in task * group..((task + 1) * group).min(rows) {
            // SAFETY: rows do not overlap, and each belongs to one task.
            let d = unsafe { dst.range(row * to.cols + to.col, width) };
            let s = &src[row * from.cols + from.col..][..width];
            match add {
                None => d.copy_from_slice(s),
                Some(add) => d.iter_mut().zip(s).for_each(|(d, s)| *d = add(*d, *s)),
            }
        }
    });
}

/// Each [rows, cols] of the batch becomes [cols, rows].
pub(crate) fn transpose<T: Copy + Send + Sync>(
    split: Split,
    src: &[T],
    dst: &mut [T],
    batch: usize,
    rows: usize,
    cols: usize,
) {
    let strips = cols.div_ceil(SIDE);
    let dst = Moved::new(dst);
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
