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
mod tests;
