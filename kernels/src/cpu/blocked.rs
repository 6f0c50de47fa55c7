//! Large matrix products, whose operands are packed once.
//!
//! First all threads pack the right operand, into panels as wide as a tile,
//! unless few blocks read it and it can be read where it lies. Then each task owns
//! a block of the output. Of a left operand in rows it reads `f32` where they lie,
//! if they do not all fall on the same lines of L1. Others are packed, for
//! [`Micro::DEPTH`] of the inner dimension at a time, which fit in L2: by the tiles
//! that read them first, where there are such, else before. It runs the tiles of
//! the block over them; a panel stays in L1 or L2 for all strips, which ask for the
//! next one on the way, and for what the task packs and finishes later. A block
//! stays in L2 from one depth to the next, and is finished there: bias,
//! activation, residual, rounding. What is large is stored past the caches (see
//! [`past`](super::past)). (Goto and van de Geijn 2008; Van Zee and van de Geijn
//! 2015.)
//!
//! Of a product with its own transpose, which is symmetric to the bit, the half below
//! the diagonal is multiplied, and the other one copied from it.
//!
//! Every output is summed over the inner dimension in order, in parts that
//! depend on the inner dimension alone, wherever in the matrix it lies.

use std::alloc::{Layout, handle_alloc_error};
use std::cell::Cell;

use super::Split;
use super::epilogue::Epilogue;
use super::matmul::Matrix;
use super::packing::{SLACK, Unit, pack_left, pack_right};
use super::past::{LARGE, published};
use super::product::{Results, SharedResults};
use super::rounding::widen;
use super::tasks::Stage;
use super::tiles::Tile;
use crate::pages::{ALIGN, Pages};

/// Most columns of a block.
const WIDE: usize = 768;
/// Fewest columns that a block is cut down to, for more tasks.
const NARROW: usize = 192;
/// Tasks that a large product is cut into at least.
const TASKS: usize = 8;
/// Multiply-adds of a task, at least, to be worth a hand-over.
const TASK_WORK: u64 = 1 << 20;
/// Most floats of a packed right operand (16 MiB, and what lies between its
/// panels); a wider one is taken in parts.
const PANELS: usize = 1 << 22;
/// Most of the inner dimension: then [`NARROW`] columns still fit.
pub(crate) const DEEPEST: usize = PANELS / NARROW;
/// Elements that a packing task copies, about.
const PACK: usize = 24_576;
/// Columns of rows that it copies.
const BROAD: usize = 1024;
/// Rows of blocks up to which a right operand is read where it lies: packing it
/// takes time that no product fills. In `f32` on two cores of a Zen 4 products of
/// 256 to 512 rows took 0.95 to 0.98 of the time, of 768 rows 0.99 to 1.02.
const FEW: usize = 19;
/// Bytes of a right operand up to which it is read where it lies by any number of
/// rows: it stays in L2. Products of 1024 and 2048 rows took 0.95 to 0.99 of the time
/// (0.73 to 0.83 in bfloat16 while others used the memory), with 0.75 MiB 0.85 to
/// 1.02, with more 0.99 to 1.02.
const SMALL: usize = 3 << 18;
/// Floats between two panels, so that what is written side by side does not
/// fall on few lines of a cache.
const APART: usize = 16;

/// How a tile ends: alpha times its sums are stored or accumulated.
pub(crate) const STORED: usize = 0;
/// They are stored past the caches: all columns exist, each row begins with a cache
/// line, and nothing is accumulated.
pub(crate) const PAST: usize = 1;
/// They are rounded to bfloat16 and stored as by [`PAST`]; alpha is at least 1 or
/// at most −1.
pub(crate) const ROUNDED: usize = 2;

/// A tile's functions by the ends that it has, from [`STORED`] on, and by its rows
/// less one.
pub(crate) type ByRows = &'static [&'static [unsafe fn(&Tile)]];
/// As [`ByRows`], with the elements from row to row of the left operand.
pub(crate) type LyingByRows = &'static [&'static [unsafe fn(&Tile, usize)]];

/// Tiles of [`Micro::ROWS`] rows, by their ends, that pack their left operand on the
/// way: columns, or rows of a multiple of four units.
pub(crate) type Packing<T> = &'static [unsafe fn(&Tile, &Matrix<T>)];

/// An instruction set's tile.
pub(crate) trait Micro {
    /// Rows of a tile, at most 16.
    const ROWS: usize;
    /// Columns of a tile, a multiple of 8.
    const COLS: usize;
    /// Elements of the inner dimension in a unit that it multiplies.
    const DEEP: usize = 1;
    /// Most units of the inner dimension that are packed at a time.
    const DEPTH: usize;
    /// Rows of a block: with [`Micro::DEPTH`] 150 to 230 KiB of the left
    /// operand, in L2.
    const TALL: usize;
    /// What computes a tile. Called through this table each is compiled alone;
    /// inlined into one function they would spill accumulators.
    const RUN: ByRows;
    /// As [`Micro::RUN`], for a left operand of `f32` that lies in rows, where
    /// that pays. (Pairs of bfloat16 gained nothing by it.)
    const LYING: Option<LyingByRows> = None;
    /// As [`Micro::RUN`], for a right operand that lies in rows.
    const LYING_RIGHT: Option<ByRows> = None;
    /// Whether [`Unit::IN_COLUMNS`] and [`Unit::IN_ROWS`] are its tiles too.
    const PACKS: bool = false;
}

/// Places of lines in L1, by their addresses.
const PLACES: usize = 64;
/// Floats of a cache line.
const LINE: usize = 16;

thread_local! {
    static RIGHT: Cell<Pages> = const { Cell::new(Pages::NONE) };
    static LEFT: Cell<Pages> = const { Cell::new(Pages::NONE) };
    static SUMS: Cell<Pages> = const { Cell::new(Pages::NONE) };
    static AHEAD: Cell<Vec<*const u8>> = const { Cell::new(Vec::new()) };
}

/// Memory that has room for so many floats: this, or other.
fn grown(memory: Pages, floats: usize) -> Pages {
    let bytes = floats * size_of::<f32>();
    if memory.bytes() >= bytes {
        return memory;
    }
    drop(memory);
    // As a vector that cannot grow.
    let refused = || handle_alloc_error(Layout::array::<f32>(floats).expect("fewer than a matrix may have"));
    Pages::zeroed(bytes).unwrap_or_else(refused)
}

/// A packed operand, which all tasks read.
#[derive(Clone, Copy)]
struct Packed(*mut f32);
// SAFETY: an address; packing tasks write disjoint parts, and only when all
// are done do other tasks read them.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

impl Packed {
    fn at(&self, float: usize) -> *mut f32 {
        self.0.wrapping_add(float)
    }
}

/// Adds the cache lines of `rows` rows of `cols` elements.
fn add_lines<T>(lines: &mut Vec<*const u8>, from: *const T, rows: usize, cols: usize, stride: usize) {
    for row in 0..rows {
        let from = from.wrapping_add(row * stride).cast::<u8>();
        lines.extend((0..cols * size_of::<T>()).step_by(ALIGN).map(|at| from.wrapping_add(at)));
    }
}

/// Adds the cache lines of a matrix, in the order in which they lie.
fn add_matrix<T>(lines: &mut Vec<*const u8>, of: &Matrix<T>) {
    match of.col_stride {
        1 => add_lines(lines, of.data.as_ptr(), of.rows, of.cols, of.row_stride),
        _ => add_lines(lines, of.data.as_ptr(), of.cols, of.rows, of.col_stride),
    }
}

/// Equal parts of `whole`, each at most `most` and a multiple of `unit`.
fn part(whole: usize, most: usize, unit: usize) -> usize {
    whole.div_ceil(whole.div_ceil(most)).next_multiple_of(unit)
}

/// Rows and columns of a block, by the shape alone.
fn grid<M: Micro>(m: usize, n: usize, k: usize) -> (usize, usize) {
    let cols = M::COLS;
    let tall = part(m, M::TALL, M::ROWS);
    let mut wide = part(n, WIDE, cols);
    while wide > NARROW && m.div_ceil(tall) * n.div_ceil(wide) < TASKS {
        let half = part(n, wide.div_ceil(2), cols);
        if half >= wide || (tall as u64 * half as u64).saturating_mul(k as u64) < TASK_WORK {
            break;
        }
        wide = half;
    }
    (tall, wide)
}

/// Where tiles read the left operand.
#[derive(Clone, Copy)]
enum Left<T: 'static> {
    /// Where it lies.
    Lies(LyingByRows),
    /// Where the first ones, these, pack it.
    Fresh(Packing<T>),
    /// Where the task that multiplies it packs it before.
    Packed,
}

fn left_of<M: Micro, A: Unit>(a: &Matrix<A::Element>, right_lies: bool) -> Left<A::Element> {
    let fresh = |tiles: Option<[Packing<_>; 2]>| match tiles {
        Some(tiles) if M::PACKS => Left::Fresh(tiles[usize::from(right_lies)]),
        _ => Left::Packed,
    };
    match (a.row_stride, a.col_stride) {
        (1, 1) => Left::Packed,
        (1, _) => fresh(A::IN_COLUMNS),
        (row, 1) => match M::LYING {
            Some(tiles) if A::LIES && scattered(M::ROWS, row) => Left::Lies(tiles),
            _ if a.cols.is_multiple_of(4 * A::DEEP) => fresh(A::IN_ROWS),
            _ => Left::Packed,
        },
        _ => Left::Packed,
    }
}

/// Whether tiles read the right operand where it lies, for so many rows of the
/// left one: whole tiles of it, in whole cache lines, which do not all fall on the
/// same ones.
fn right_lies<M: Micro, B: Unit>(b: &Matrix<B::Element>, rows: usize) -> bool {
    let bytes = b.row_stride.wrapping_mul(size_of::<B::Element>());
    M::LYING_RIGHT.is_some()
        && B::LIES
        && b.col_stride == 1
        && b.cols.is_multiple_of(M::COLS)
        && b.rows.is_multiple_of(M::DEEP)
        && b.data.as_ptr().addr().is_multiple_of(ALIGN)
        && bytes.is_multiple_of(ALIGN)
        && (rows <= FEW * M::TALL || b.rows.saturating_mul(bytes) <= SMALL)
        && scattered(M::ROWS, bytes / size_of::<f32>())
}

/// Whether `b` is the transpose of `a`, of the same memory.
fn is_transpose<A: Unit, B: Unit>(a: &Matrix<A::Element>, b: &Matrix<B::Element>) -> bool {
    let of_a = (a.data.as_ptr().addr(), size_of::<A::Element>());
    of_a == (b.data.as_ptr().addr(), size_of::<B::Element>())
        && (a.rows, a.row_stride, a.col_stride) == (b.cols, b.col_stride, b.row_stride)
}

/// Rows, and columns, of a square that is transposed at once.
const SQUARE: usize = 32;

/// Copies what is below the diagonal of an n × n matrix to its place above, for rows
/// `top..top + SQUARE`.
///
/// # Safety
/// `base` has n × n elements; no one else writes those rows above the diagonal, or
/// anything below it.
unsafe fn mirror<T: Copy>(base: *mut T, n: usize, top: usize) {
    for left in (top..n).step_by(SQUARE) {
        for i in top..n.min(top + SQUARE) {
            for j in left.max(i + 1)..n.min(left + SQUARE) {
                // SAFETY: elements of the matrix, the caller's promise.
                unsafe { *base.add(i * n + j) = *base.add(j * n + i) };
            }
        }
    }
}

/// Whether rows so many floats apart leave room in L1 for what passes through
/// between two uses of a line: of eight lines on a place they take seven.
fn scattered(rows: usize, stride: usize) -> bool {
    let mut lines = [0; PLACES];
    (0..rows).all(|row| {
        let place = row.wrapping_mul(stride) / LINE % PLACES;
        lines[place] += 1;
        lines[place] < 8
    })
}

/// out (=|+=) alpha · a · b, finished by `epilogue`. The result has rows
/// b.cols apart, and begins at element `start` of `out`.
///
/// # Safety
/// The machine has AVX2, FMA, and what `M` needs. Every element of `a` and `b`
/// lies in its slice, and the result in `out`, whose part no one else uses.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product<M: Micro, A: Unit, B: Unit>(
    split: Split,
    a: Matrix<A::Element>,
    b: Matrix<B::Element>,
    out: SharedResults,
    start: usize,
    alpha: f32,
    accumulate: bool,
    epilogue: Option<&Epilogue>,
) {
    const { assert!(A::DEEP == M::DEEP && B::DEEP == M::DEEP) };
    // The inner dimension is counted in units.
    let (m, n, k) = (a.rows, b.cols, a.cols.div_ceil(M::DEEP));
    let elements = |depth: usize, d: usize| (d * M::DEEP).min(a.cols - depth * M::DEEP);
    let past = m * n * out.element() >= LARGE;
    let deep = part(k, M::DEPTH, 8);
    // Whether tiles end what they sum up.
    let whole = deep >= k && !accumulate;
    // Whether they round results, and whether a block's sums are elsewhere than those.
    let (rounds, aside) = match out {
        SharedResults::F32(_) => (false, past && epilogue.is_some() && !accumulate),
        SharedResults::Bf16(out) => {
            let lines = out.at(start).addr().is_multiple_of(ALIGN) && n.is_multiple_of(M::COLS);
            let plain = whole && epilogue.is_none() && alpha.abs() >= 1.0;
            let rounds = M::RUN.len() > ROUNDED && past && lines && plain;
            (rounds, !rounds)
        }
    };
    let symmetric = is_transpose::<A, B>(&a, &b) && !accumulate && epilogue.is_none();
    let none = aside.then_some(Epilogue::NONE);
    let epilogue = epilogue.copied().or(none).map(|epilogue| Epilogue { past, ..epilogue });
    let most = (PANELS / k / M::COLS).max(1) * M::COLS;
    let width = part(n, most, M::COLS);
    let right_lies = right_lies::<M, B>(&b, m);
    let mut right = RIGHT.take();
    if !right_lies {
        right = grown(right, width * k + width.div_ceil(M::COLS) * k.div_ceil(deep) * APART);
    }
    let panels = Packed(right.base().cast());
    // Whether blocks end at the diagonal.
    let symmetric = symmetric && width >= n;
    let left_operand = left_of::<M, A>(&a, right_lies);
    let run_packed = if right_lies { M::LYING_RIGHT.unwrap_or(M::RUN) } else { M::RUN };
    let part_of_a = |row: usize, height: usize, depth: usize, d: usize| {
        let skipped = row * a.row_stride + depth * M::DEEP * a.col_stride;
        Matrix { data: &a.data[skipped..], rows: height, cols: elements(depth, d), ..a }
    };
    for left in (0..n).step_by(width) {
        let cols = width.min(n - left);
        let count = cols.div_ceil(M::COLS);
        // A task copies what lies together: some whole rows, or some columns.
        let group = match b.col_stride {
            1 => BROAD.div_ceil(M::COLS),
            _ => PACK.div_ceil(M::COLS * deep),
        };
        let group = group.min(count);
        let slice = (PACK / (M::COLS * group) / 8 * 8).clamp(8, deep.max(8));
        let (groups, slices) = (count.div_ceil(group), deep.div_ceil(slice));
        let packs = if right_lies { 0 } else { groups * slices * k.div_ceil(deep) };
        // Where a panel of the part from `depth` on, which is `d` deep, begins.
        let place = |depth: usize, panel: usize, d: usize| {
            (depth * M::COLS + depth / deep * APART) * count + panel * (d * M::COLS + APART)
        };
        let past_panels = cols * k * size_of::<f32>() >= LARGE;
        let packed = Stage::default();
        let pack = |task: usize| {
            let _task = packed.task();
            let (depth, first) = (task / groups / slices * deep, task % groups * group);
            let (d, row) = (deep.min(k - depth), task / groups % slices * slice);
            if row >= d {
                return;
            }
            let here = (group * M::COLS).min(cols - first * M::COLS);
            let skipped = (depth + row) * M::DEEP * b.row_stride + (left + first * M::COLS) * b.col_stride;
            let rows = elements(depth + row, slice.min(d - row));
            let part = Matrix { data: &b.data[skipped..], rows, cols: here, ..b };
            let to = panels.at(place(depth, first, d) + row * M::COLS);
            // SAFETY: AVX2, by the caller; the part is inside b, and its places
            // in the panels are this task's. Those lie in lines of their own.
            unsafe { pack_right::<M, B>(&part, to, d * M::COLS + APART, past_panels) };
            published();
        };
        let (tall, wide) = grid::<M>(m, cols, k);
        let across = cols.div_ceil(wide);
        let down = m.div_ceil(tall);
        // The row of a task's block: large ones first.
        let row_of = |task: usize| {
            let at = task / across;
            tall * if symmetric { down - 1 - at } else { at }
        };
        split.each(packs + down * across, |task| {
            let Some(task) = task.checked_sub(packs) else { return pack(task) };
            let (row, col) = (row_of(task), task % across * wide);
            let height = tall.min(m - row);
            let end = if symmetric { cols.min((row + height).next_multiple_of(M::COLS)) } else { cols };
            let width = wide.min(end.saturating_sub(col));
            if width == 0 {
                return;
            }
            let begin = start + row * n + left + col;
            let mut sums = SUMS.take();
            // Floats from one row of them to the next.
            let pitch = width + APART;
            let (to, stride) = match out {
                // The last element too is inside.
                SharedResults::F32(out) if !aside => {
                    out.at(begin + (height - 1) * n + width - 1);
                    (out.at(begin), n)
                }
                SharedResults::Bf16(out) if rounds => {
                    out.at(begin + (height - 1) * n + width - 1);
                    (out.at(begin).cast(), n)
                }
                _ => {
                    sums = grown(sums, height * pitch);
                    (sums.base().cast::<f32>(), pitch)
                }
            };
            if let SharedResults::Bf16(out) = out {
                for i in (0..height).filter(|_| accumulate) {
                    // SAFETY: a row of the block, which is this task's, and of
                    // its sums.
                    unsafe {
                        let line = std::slice::from_raw_parts_mut(to.add(i * pitch), width);
                        widen(out.range(begin + i * n, width), line);
                    }
                }
            }
            let room = if matches!(left_operand, Left::Lies(_)) { 0 } else { tall * deep + SLACK };
            let strips = grown(LEFT.take(), room);
            let mut ahead = AHEAD.take();
            for depth in (0..k).step_by(deep) {
                let d = deep.min(k - depth);
                // And the floats from row to row.
                let (rows_of_a, pitch_of_a) = match left_operand {
                    Left::Lies(_) => {
                        let from = part_of_a(row, height, depth, d).data.as_ptr();
                        (from.cast::<f32>(), a.row_stride)
                    }
                    Left::Fresh(_) => (strips.base().cast::<f32>().cast_const(), d),
                    Left::Packed => {
                        let to = strips.base().cast::<f32>();
                        // SAFETY: AVX2, by the caller; the part is inside a, and
                        // there is room for it.
                        unsafe { pack_left::<M, A>(&part_of_a(row, height, depth, d), to) };
                        (to.cast_const(), d)
                    }
                };
                ahead.clear();
                if depth + deep < k {
                    let d = deep.min(k - depth - deep);
                    add_matrix(&mut ahead, &part_of_a(row, height, depth + deep, d));
                } else {
                    // Another thread takes as many tasks meanwhile.
                    let task = task + split.threads();
                    if task < down * across {
                        let row = row_of(task);
                        add_matrix(&mut ahead, &part_of_a(row, tall.min(m - row), 0, deep));
                    }
                    for (from, size) in epilogue.iter().flat_map(|epilogue| epilogue.beside()) {
                        add_lines(
                            &mut ahead,
                            from.wrapping_add(begin * size),
                            height,
                            width * size,
                            n * size,
                        );
                    }
                    if let SharedResults::Bf16(out) = out
                        && !past
                    {
                        add_lines(&mut ahead, out.at(begin).cast_const(), height, width, n);
                    }
                }
                let tiles = height.div_ceil(M::ROWS) * width.div_ceil(M::COLS);
                let mut lines = ahead.chunks(ahead.len().div_ceil(tiles).max(1));
                packed.wait(packs);
                let lines_of_rows = to.addr().is_multiple_of(ALIGN) && stride.is_multiple_of(LINE);
                let past = past && !aside && whole && lines_of_rows;
                let bytes = if rounds { size_of::<u16>() } else { size_of::<f32>() };
                for j in (0..width).step_by(M::COLS) {
                    let strips = height.div_ceil(M::ROWS);
                    // And the floats from row to row, and what the first strip and
                    // each after it ask for: a share of the panel after this.
                    let (right, right_stride, next, share) = if right_lies {
                        let skipped = depth * M::DEEP * b.row_stride + left + col + j;
                        let from = b.data[skipped..].as_ptr();
                        let next = from.wrapping_add(M::COLS).cast::<f32>();
                        // Another line of the row, or the other row of the pair.
                        let share = if M::DEEP == 1 { M::COLS.div_ceil(strips) } else { b.row_stride / 2 };
                        (from.cast(), b.row_stride, next, share)
                    } else {
                        let from = panels.at(place(depth, (col + j) / M::COLS, d)).cast_const();
                        (from, M::COLS, from.wrapping_add(d * M::COLS), (d * M::COLS).div_ceil(strips))
                    };
                    for i in (0..height).step_by(M::ROWS) {
                        let rows = M::ROWS.min(height - i);
                        let tile = Tile {
                            depth: d,
                            left: rows_of_a.wrapping_add(i * pitch_of_a),
                            right,
                            right_stride,
                            next: next.wrapping_add(i / M::ROWS * share),
                            out: to.wrapping_byte_add((i * stride + j) * bytes),
                            out_stride: stride,
                            ahead: lines.next().unwrap_or_default(),
                            width: M::COLS.min(width - j),
                            alpha,
                            accumulate: accumulate || depth > 0,
                        };
                        let ends = match tile.width == M::COLS {
                            _ if rounds => ROUNDED,
                            true if past => PAST,
                            _ => STORED,
                        };
                        // SAFETY: the instruction set, by the caller; the
                        // operands are packed, or lie as the tile reads them, or
                        // there is room for what it packs; the outputs are this
                        // task's.
                        unsafe {
                            match left_operand {
                                Left::Lies(run) => run[ends][rows - 1](&tile, pitch_of_a),
                                Left::Fresh(run) if j == 0 && rows == M::ROWS => {
                                    run[ends](&tile, &part_of_a(row + i, rows, depth, d));
                                }
                                _ => {
                                    if matches!(left_operand, Left::Fresh(_)) && j == 0 {
                                        let part = part_of_a(row + i, rows, depth, d);
                                        pack_left::<M, A>(&part, tile.left.cast_mut());
                                    }
                                    run_packed[ends][rows - 1](&tile);
                                }
                            }
                        }
                    }
                }
            }
            LEFT.set(strips);
            AHEAD.set(ahead);
            if let Some(epilogue) = epilogue {
                for i in 0..height {
                    let at = begin + i * n;
                    // SAFETY: a row of the block, which is this task's.
                    match unsafe { out.range(at, width) } {
                        Results::F32(row) if !aside => {
                            epilogue.finish(row, Results::F32(&mut []), at, left + col);
                        }
                        results => {
                            // SAFETY: a row of the block's sums.
                            let row = unsafe { std::slice::from_raw_parts_mut(to.add(i * pitch), width) };
                            epilogue.finish(row, results, at, left + col);
                        }
                    }
                }
            }
            published();
            SUMS.set(sums);
        });
    }
    if symmetric {
        split.each(n.div_ceil(SQUARE), |task| {
            let top = task * SQUARE;
            // SAFETY: the last element too is in the output; each task has rows
            // above the diagonal of its own.
            unsafe {
                match out {
                    SharedResults::F32(out) => {
                        out.at(start + n * n - 1);
                        mirror(out.at(start), n, top);
                    }
                    SharedResults::Bf16(out) => {
                        out.at(start + n * n - 1);
                        mirror(out.at(start), n, top);
                    }
                }
            }
        });
    }
    if right.bytes() / size_of::<f32>() <= 2 * PANELS {
        RIGHT.set(right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16;
    use crate::cpu::Output;
    use crate::cpu::epilogue::Pre;
    use crate::cpu::gemm_avx2::Avx2;
    use crate::cpu::gemm_avx512::{Avx512, Avx512Bf16};
    use crate::cpu::moves::Moved;
    use crate::cpu::packing::Pair;
    use crate::cpu::product::Numbers;
    use crate::cpu::simd::{Level, level};
    use crate::cpu::team::Team;
    use crate::op::Activation;

    /// Values that bfloat16 holds exactly.
    fn filled(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 64.0 - 0.75).collect()
    }

    fn bits(values: &[f32]) -> Vec<u16> {
        values.iter().map(|&x| bf16::round(x)).collect()
    }

    /// Each element type of each operand, stored either way, against `f64`.
    #[allow(clippy::too_many_arguments)]
    fn check<M: Micro>(m: usize, n: usize, k: usize, trans_a: bool, trans_b: bool, accumulate: bool) {
        let split = Split { team: None };
        let (a, b, before) = (filled(m * k, 1), filled(k * n, 2), filled(m * n + 5, 3));
        let (a_bits, b_bits) = (bits(&a), bits(&b));
        let (a, b) = (Matrix::new(&a, m, k, trans_a), Matrix::new(&b, k, n, trans_b));
        let (ha, hb) = (Matrix::new(&a_bits, m, k, trans_a), Matrix::new(&b_bits, k, n, trans_b));
        let (start, alpha) = (3, 0.5);
        let exact: Vec<f64> = (0..m * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                let term = |l: usize| {
                    f64::from(a.data[i * a.row_stride + l * a.col_stride])
                        * f64::from(b.data[l * b.row_stride + j * b.col_stride])
                };
                let sum: f64 = (0..k).map(term).sum();
                0.5 * sum + if accumulate { f64::from(before[start + at]) } else { 0.0 }
            })
            .collect();
        let compare = |what: &str, got: &[f32], bound: f64| {
            assert_eq!(got[..start], before[..start], "{what}: before the output");
            assert_eq!(got[start + m * n..], before[start + m * n..], "{what}: after the output");
            for (at, (got, exact)) in got[start..].iter().zip(&exact).enumerate() {
                let error = (f64::from(*got) - exact).abs();
                let bound = bound * exact.abs() + 2e-6 * (k as f64 + 4.0);
                assert!(
                    error < bound,
                    "{what} {m}×{n}×{k} {trans_a} {trans_b} {accumulate}, {at}: {got} and {exact}"
                );
            }
        };
        let wide = |run: &dyn Fn(SharedResults)| {
            let mut out = before.clone();
            run(SharedResults::F32(Output::new(&mut out)));
            out
        };
        // SAFETY: the level was checked; operands are dense in their
        // slices, and the outputs have m × n elements from `start`.
        let ff = |to| unsafe { product::<M, f32, f32>(split, a, b, to, start, alpha, accumulate, None) };
        // SAFETY: see above.
        let hf = |to| unsafe { product::<M, u16, f32>(split, ha, b, to, start, alpha, accumulate, None) };
        // SAFETY: see above.
        let fh = |to| unsafe { product::<M, f32, u16>(split, a, hb, to, start, alpha, accumulate, None) };
        // SAFETY: see above.
        let hh = |to| unsafe { product::<M, u16, u16>(split, ha, hb, to, start, alpha, accumulate, None) };
        compare("f32", &wide(&ff), 0.0);
        compare("bf16 · f32", &wide(&hf), 0.0);
        compare("f32 · bf16", &wide(&fh), 0.0);
        compare("bf16", &wide(&hh), 0.0);
        let mut out = bits(&before);
        hh(SharedResults::Bf16(Moved::new(&mut out)));
        let out: Vec<f32> = out.iter().map(|&x| bf16::value(x)).collect();
        compare("bf16 to bf16", &out, 1.0 / 256.0);
        if level() < Level::Avx512Bf16 {
            return;
        }
        let pairs = |to| {
            // SAFETY: see above.
            unsafe { product::<Avx512Bf16, Pair, Pair>(split, ha, hb, to, start, alpha, accumulate, None) }
        };
        compare("pairs", &wide(&pairs), 0.0);
        let mut out = bits(&before);
        pairs(SharedResults::Bf16(Moved::new(&mut out)));
        let out: Vec<f32> = out.iter().map(|&x| bf16::value(x)).collect();
        compare("pairs to bf16", &out, 1.0 / 256.0);
    }

    #[test]
    fn products_match_their_definition() {
        if level() == Level::Portable {
            return;
        }
        for (m, n, k) in
            // (Rows of 1024 are packed, as they would fall on the same lines.)
            [
                (1, 8, 3),
                (6, 16, 8),
                (13, 17, 9),
                (97, 50, 400),
                (200, 100, 30),
                (64, 790, 17),
                (45, 40, 1024),
                (50, 70, 5001),
            ]
        {
            for way in 0..8 {
                check::<Avx2>(m, n, k, way & 1 > 0, way & 2 > 0, way & 4 > 0);
                if level() >= Level::Avx512 {
                    check::<Avx512>(m, n, k, way & 1 > 0, way & 2 > 0, way & 4 > 0);
                }
            }
        }
    }

    /// What a product writes, from a line's begin on: its result and the values
    /// before the activation, as bits.
    fn written<T: Copy + Default>(len: usize, run: impl Fn(&mut [T], &mut [T])) -> [Vec<T>; 2] {
        let mut room = [0; 2].map(|_| vec![T::default(); len + 64]);
        let [out, pre] = room.each_mut().map(|room| {
            let skipped = room.as_ptr().align_offset(ALIGN);
            &mut room[skipped..][..len]
        });
        run(out, pre);
        [out.to_vec(), pre.to_vec()]
    }

    /// Large results have the bits of the same rows by small products, which do
    /// not go past the caches; where rows begin with cache lines and where they
    /// do not, and where alpha makes denormal numbers of the sums.
    fn check_large<M: Micro, U: Unit>(of: impl Fn(&[f32]) -> Vec<U::Element>) {
        let team = Team::new(2).unwrap();
        let split = Split { team: Some(&team) };
        let (m, k, part) = (1100, 9, 100);
        let rows = [(512, 0), (512, 3), (520, 0), (516, 16)];
        let scales = [(0.5, 1.0), (1.0 / 64.0, (-60f32).exp2()), (-1.0, 1.0)];
        for ((n, start), (alpha, scale)) in
            rows.into_iter().flat_map(|rows| scales.map(|scale| (rows, scale)))
        {
            assert!(m * n * 2 >= LARGE && part * n * 4 < LARGE);
            let len = start + m * n + 5;
            let scaled = |len, seed| of(&filled(len, seed).iter().map(|x| x * scale).collect::<Vec<_>>());
            let (a, b) = (scaled(m * k, 1), scaled(k * n, 2));
            let (bias, other) = (filled(n, 3), filled(len, 4));
            let ends = |pre| {
                let plain = Epilogue { pre, activation: Activation::Gelu, ..Epilogue::NONE };
                let backward = Epilogue { pre: Pre::Read(Numbers::F32(&other)), ..plain };
                [None, Some(Epilogue { bias: &bias, residual: &other, ..plain }), Some(backward)]
            };
            let run = |out: SharedResults, pre: SharedResults, end: usize, rows: usize| {
                for row in (0..m).step_by(rows) {
                    let a = Matrix::new(&a[row * k..], rows, k, false);
                    let (b, start) = (Matrix::new(&b, k, n, false), start + row * n);
                    let end = ends(Pre::Stored(pre))[end];
                    // SAFETY: the level was checked; operands are dense in
                    // their slices, and the outputs have m × n elements.
                    unsafe { product::<M, U, U>(split, a, b, out, start, alpha, false, end.as_ref()) };
                }
            };
            for end in 0..3 {
                let wide = |rows| {
                    written(len, |out, pre| {
                        let [out, pre] = [out, pre].map(|of| SharedResults::F32(Output::new(of)));
                        run(out, pre, end, rows);
                    })
                };
                assert_eq!(wide(m), wide(part), "{n} from {start}, end {end}, {alpha} {scale}");
                let halves = |rows| {
                    written(len, |out, pre| {
                        let [out, pre] = [out, pre].map(|of| SharedResults::Bf16(Moved::new(of)));
                        run(out, pre, end, rows);
                    })
                };
                assert_eq!(halves(m), halves(part), "{n} from {start}, end {end}, {alpha} {scale}, rounded");
            }
        }
    }

    #[test]
    fn large_results_have_the_bits_of_small_ones() {
        if level() == Level::Portable {
            return;
        }
        check_large::<Avx2, f32>(<[f32]>::to_vec);
        if level() >= Level::Avx512 {
            check_large::<Avx512, f32>(<[f32]>::to_vec);
        }
        if level() == Level::Avx512Bf16 {
            check_large::<Avx512Bf16, Pair>(bits);
        }
    }

    const PAGE: usize = 4096;

    /// Elements that end where memory ends.
    struct Last<T> {
        map: *mut u8,
        bytes: usize,
        data: *mut T,
        len: usize,
    }

    impl<T: Copy> Last<T> {
        fn new(from: &[T]) -> Last<T> {
            let bytes = size_of_val(from).next_multiple_of(PAGE);
            // SAFETY: a new mapping, whose last page no one may touch.
            let map = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let wanted = libc::PROT_READ | libc::PROT_WRITE;
                let map = libc::mmap(std::ptr::null_mut(), bytes + PAGE, wanted, flags, -1, 0);
                assert_ne!(map, libc::MAP_FAILED);
                assert_eq!(libc::mprotect(map.byte_add(bytes), PAGE, libc::PROT_NONE), 0);
                map.cast::<u8>()
            };
            let data = map.wrapping_add(bytes - size_of_val(from)).cast::<T>();
            // SAFETY: the end of what may be touched, aligned as the page's end is.
            unsafe { data.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
            Last { map, bytes, data, len: from.len() }
        }

        fn all(&self) -> &[T] {
            // SAFETY: elements of the mapping, written by `new`.
            unsafe { std::slice::from_raw_parts(self.data, self.len) }
        }
    }

    impl<T> Drop for Last<T> {
        fn drop(&mut self) {
            // SAFETY: the mapping of `new`.
            unsafe { libc::munmap(self.map.cast(), self.bytes + PAGE) };
        }
    }

    /// However its operands lie, be they packed or not, a product has the same
    /// bits, and reads nothing behind them.
    fn check_lying<M: Micro, U: Unit>(reads_right: bool, of: impl Fn(&[f32]) -> Vec<U::Element>)
    where
        U::Element: Default,
    {
        let team = Team::new(2).unwrap();
        let split = Split { team: Some(&team) };
        // The last three: more than one part of the inner dimension, the first of
        // them in a right operand that is not small for many rows; and more than one
        // of the columns.
        for (m, n, k) in [
            (14, 32, 1),
            (20, 48, 9),
            (45, 64, 23),
            (30, 40, 24),
            (300, 96, 40),
            (600, 64, 31),
            (540, 64, 6200),
            (30, 64, 4104),
            (20, 1056, 4101),
        ] {
            let (a, b) = (of(&filled(m * k, 1)), of(&filled(k * n, 2)));
            let turned = |from: &[U::Element], rows: usize, cols: usize| -> Vec<U::Element> {
                (0..rows * cols).map(|at| from[at % rows * cols + at / rows]).collect()
            };
            let (a_columns, b_columns) = (Last::new(&turned(&a, m, k)), Last::new(&turned(&b, k, n)));
            let (a, b_last) = (Last::new(&a), Last::new(&b));
            let (a, a_columns) =
                (Matrix::new(a.all(), m, k, false), Matrix::new(a_columns.all(), m, k, true));
            let b_columns = Matrix::new(b_columns.all(), k, n, true);
            let run = |a: Matrix<U::Element>, b: Matrix<U::Element>| {
                let mut out = vec![0.0; m * n];
                let to = SharedResults::F32(Output::new(&mut out));
                // SAFETY: the level was checked; operands are dense in their
                // slices, and the outputs have m × n elements.
                unsafe { product::<M, U, U>(split, a, b, to, 0, 0.5, false, None) };
                out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let expected = run(a, b_columns);
            assert_eq!(run(a_columns, b_columns), expected, "{m}×{n}×{k}");
            // At the begin of a line, past it, and at the end of memory.
            let mut room = [0, 1].map(|_| vec![U::Element::default(); b.len() + 128]);
            let mut all = vec![b_last.all()];
            for (skipped, room) in room.iter_mut().enumerate() {
                let at = room.as_ptr().align_offset(ALIGN) + skipped;
                room[at..][..b.len()].copy_from_slice(&b);
                all.push(&room[at..][..b.len()]);
            }
            for b in all {
                let b = Matrix::new(b, k, n, false);
                let line = b.data.as_ptr().addr().is_multiple_of(ALIGN);
                let whole = n % M::COLS == 0 && k % M::DEEP == 0;
                let few = m <= FEW * M::TALL || size_of_val(b.data) <= SMALL;
                let lies = reads_right && line && whole && few;
                assert_eq!(right_lies::<M, U>(&b, m), lies);
                for a in [a, a_columns] {
                    assert_eq!(run(a, b), expected, "{m}×{n}×{k}, {} {line}", a.col_stride);
                }
            }
        }
    }

    #[test]
    fn operands_that_lie_give_the_bits_of_packed_ones() {
        if level() == Level::Portable {
            return;
        }
        check_lying::<Avx2, f32>(false, <[f32]>::to_vec);
        check_lying::<Avx2, u16>(false, bits);
        if level() >= Level::Avx512 {
            let columns = Matrix::new(&[0.0; 6], 2, 3, true);
            assert!(matches!(left_of::<Avx512, f32>(&columns, false), Left::Fresh(_)));
            check_lying::<Avx512, f32>(true, <[f32]>::to_vec);
            check_lying::<Avx512, u16>(false, bits);
        }
        if level() == Level::Avx512Bf16 {
            let rows = Matrix::new(&[0; 16], 2, 8, false);
            assert!(matches!(left_of::<Avx512Bf16, Pair>(&rows, false), Left::Fresh(_)));
            check_lying::<Avx512Bf16, Pair>(true, bits);
        }
    }

    /// A product with its own transpose has the bits of one with a copy of it.
    fn check_symmetric<M: Micro, U: Unit>(of: impl Fn(&[f32]) -> Vec<U::Element>) {
        let team = Team::new(2).unwrap();
        let split = Split { team: Some(&team) };
        // The last ones go past the caches, in `f32` and in bfloat16.
        for (n, k) in [(1, 3), (45, 20), (100, 9), (384, 31), (200, 4200), (600, 8), (544, 12), (800, 6)] {
            let a = of(&filled(n * k, 1));
            let copy = a.clone();
            for transposed in [false, true] {
                let (left, right) = (Matrix::new(&a, n, k, transposed), Matrix::new(&a, k, n, !transposed));
                let copied = Matrix { data: &copy, ..right };
                assert!(is_transpose::<U, U>(&left, &right) && !is_transpose::<U, U>(&left, &copied));
                let run = |right: Matrix<U::Element>, to: SharedResults| {
                    // SAFETY: the level was checked; operands are dense in their
                    // slices, and the outputs have n × n elements.
                    unsafe { product::<M, U, U>(split, left, right, to, 0, 1.5, false, None) };
                };
                let wide = |right| {
                    written(n * n, |out, _| run(right, SharedResults::F32(Output::new(out))))
                        .map(|values| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
                };
                assert_eq!(wide(right), wide(copied), "{n} {k} {transposed}");
                let halves =
                    |right| written(n * n, |out, _| run(right, SharedResults::Bf16(Moved::new(out))));
                assert_eq!(halves(right), halves(copied), "{n} {k} {transposed}, rounded");
            }
        }
    }

    #[test]
    fn products_with_their_own_transposes_have_the_bits_of_others() {
        if level() == Level::Portable {
            return;
        }
        check_symmetric::<Avx2, f32>(<[f32]>::to_vec);
        check_symmetric::<Avx2, u16>(bits);
        if level() >= Level::Avx512 {
            check_symmetric::<Avx512, f32>(<[f32]>::to_vec);
        }
        if level() == Level::Avx512Bf16 {
            check_symmetric::<Avx512Bf16, Pair>(bits);
        }
    }

    #[test]
    fn rows_on_the_same_lines_are_seen() {
        for (stride, expected) in [
            (384, true),
            (512, true),
            (1000, true),
            (1024, false),
            (1025, false),
            (1040, true),
            (2048, false),
        ] {
            assert_eq!(scattered(14, stride), expected, "{stride}");
        }
        // Fewer rows than lines on a place.
        assert!(scattered(6, 1024));
    }

    #[test]
    fn blocks_cover_and_stay_in_range() {
        for (m, n, k) in [(1, 1, 1), (2048, 1536, 384), (64, 256, 2048), (1, 100_000, 64), (384, 384, 2048)] {
            let (tall, wide) = grid::<Avx2>(m, n, k);
            assert!(tall >= 1 && wide >= 1 && tall <= Avx2::TALL && wide <= WIDE);
            assert!(tall % 6 == 0 && wide % 16 == 0);
        }
        let (tall, wide) = grid::<Avx2>(384, 384, 2048);
        assert!(384usize.div_ceil(tall) * 384usize.div_ceil(wide) >= TASKS);
    }
}
