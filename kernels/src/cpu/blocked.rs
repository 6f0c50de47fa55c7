//! Large matrix products, whose operands are packed once.
//!
//! First all threads pack the right operand, into panels as wide as a tile,
//! unless few blocks read it and it can be read where it lies. Then each task owns
//! a block of the output. Of a left operand in rows it reads `f32` where they lie,
//! if they do not all fall on the same lines of L1 and L3 is near, and AMX reads
//! bfloat16. Others are packed, for a part of the inner dimension at a time
//! ([`Blocks`](super::micro::Blocks)), which fits in L2: by the tiles
//! that read them first, where there are such, else before. It runs the tiles of
//! the block over them; a panel stays in L1 or L2 for all strips, which ask for the
//! next one on the way, and for what the task packs and finishes later. A block
//! stays in L2 from one depth to the next, and is finished there: bias,
//! activation, residual, rounding. Panels (but AMX's) and large results (but what AMX's
//! tiles round) are stored past the caches (see [`past`](super::past)). (Goto and van
//! de Geijn 2008; Van Zee and van de Geijn 2015.)
//!
//! Where AMX's left operand is copied and has few rows, a task has all of them and some
//! columns, which it packs alone, a part of the inner dimension at a time, so that all
//! stays in its core's L2.
//!
//! Of a product with its own transpose, which is symmetric to the bit, the half below
//! the diagonal is multiplied, and the other one copied from it.
//!
//! Every output is summed over the inner dimension in order, in parts that depend on
//! the inner dimension and on how the operands lie, wherever in the matrix it is.

mod cut;

use std::alloc::{Layout, handle_alloc_error};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use self::cut::{ALONE, LOW, NARROW, columns_alone, grid, part};
use super::Split;
use super::epilogue::Epilogue;
use super::matmul::Matrix;
use super::micro::{Blocks, LyingByRows, Micro, PAST, Packing, ROUNDED, STORED};
use super::packing::{SLACK, Unit, pack_left, pack_right};
use super::packing_amx::pitch;
use super::past::{LARGE, published};
use super::product::{Results, SharedResults};
use super::rounding::widen;
use super::tasks::Stage;
use super::tiles::Tile;
use crate::pages::{ALIGN, Pages};

/// Most floats of a packed right operand (16 MiB, and what lies between its
/// panels); a wider one is taken in parts.
const PANELS: usize = 1 << 22;
/// Most of the inner dimension: then [`NARROW`] columns still fit.
pub(crate) const DEEPEST: usize = PANELS / NARROW;
/// Elements that a packing task copies, about.
const PACK: usize = 24_576;
/// Columns of rows that it copies.
const BROAD: usize = 1024;
/// Rows of a left operand up to which the right one is read where it lies: packing it
/// takes time that no product fills. In `f32` on two cores of a Zen 4 products of
/// 256 to 512 rows took 0.95 to 0.98 of the time, of 768 rows 0.99 to 1.02.
const FEW: usize = 532;
/// Bytes of a right operand up to which it is read where it lies by any number of
/// rows: it stays in L2. Products of 1024 and 2048 rows took 0.95 to 0.99 of the time
/// (0.73 to 0.83 in bfloat16 while others used the memory), with 0.75 MiB 0.85 to
/// 1.02, with more 0.99 to 1.02.
const SMALL: usize = 3 << 18;
/// Floats between two panels, so that what is written side by side does not
/// fall on few lines of a cache.
const APART: usize = 16;

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
    if M::IN_ROWS {
        let whole = a.cols.is_multiple_of(M::STEP * M::DEEP) && a.row_stride.is_multiple_of(M::DEEP);
        return match M::LYING {
            Some(tiles) if a.col_stride == 1 && whole => Left::Lies(tiles),
            _ => Left::Packed,
        };
    }
    match (a.row_stride, a.col_stride) {
        (1, 1) => Left::Packed,
        (1, _) => fresh(A::IN_COLUMNS),
        (row, 1) => match M::LYING {
            Some(tiles) if A::LIES && M::blocks().lies && scattered(M::ROWS, row) => Left::Lies(tiles),
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
        && bytes <= M::blocks().apart
        && (rows <= FEW || b.rows.saturating_mul(bytes) <= SMALL)
        && scattered(M::ROWS, bytes / size_of::<f32>())
}

/// [`Unit::TO_ROWS`].
///
/// # Safety
/// As it.
unsafe fn to_rows<A: Unit>(a: &Matrix<A::Element>, to: *mut f32) {
    if let Some(copy) = A::TO_ROWS {
        // SAFETY: the caller's promise.
        unsafe { copy(a, to) };
    }
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
    let (m, n, k) = (a.rows, b.cols, a.cols.div_ceil(M::DEEP).next_multiple_of(M::STEP));
    let right_lies = right_lies::<M, B>(&b, m);
    let left = left_of::<M, A>(&a, right_lies);
    let Blocks { depth, copied, .. } = M::blocks();
    let depth = if matches!(left, Left::Packed) { copied } else { depth };
    let deep = part(k, depth, M::STEP.max(8));
    let width = part(n, (PANELS / k / M::COLS).max(1) * M::COLS, M::COLS);
    let large = m * n * out.element() >= LARGE;
    // The last element too is inside.
    out.addr(start + m * n - 1);
    // Whether tiles have results, not sums, and those in whole lines.
    let whole = epilogue.is_none() && !accumulate && deep >= k;
    let lines = [out.addr(start), n * out.element()].iter().all(|bytes| bytes.is_multiple_of(ALIGN));
    let lines = large && whole && lines;
    let rounds = M::LYING.map_or(M::RUN.len(), <[_]>::len) > ROUNDED;
    let sums = match out {
        SharedResults::F32(_) if large && epilogue.is_some() && !accumulate => Sums::Aside,
        SharedResults::F32(_) => Sums::There { past: lines },
        SharedResults::Bf16(_) if lines && rounds && alpha.abs() >= 1.0 => Sums::Rounded,
        SharedResults::Bf16(_) => Sums::Aside,
    };
    let symmetric = is_transpose::<A, B>(&a, &b) && epilogue.is_none() && !accumulate && width >= n;
    let none = matches!(sums, Sums::Aside).then_some(Epilogue::NONE);
    let epilogue = epilogue.copied().or(none).map(|epilogue| Epilogue { past: large, ..epilogue });
    // (Of a symmetric one blocks share what they pack, and half of them is enough.)
    let alone = match left {
        Left::Packed if M::IN_ROWS && m <= ALONE && !symmetric => columns_alone::<M>(n, split.threads()),
        _ => None,
    };
    let mut right = Pages::NONE;
    if !right_lies && alone.is_none() {
        right = RIGHT.take();
        right = grown(right, width * k + width.div_ceil(M::COLS) * k.div_ceil(deep) * APART);
    }
    let product = Product::<M, A, B> {
        split,
        a,
        b,
        out,
        start,
        alpha,
        accumulate,
        epilogue,
        k,
        deep,
        sums,
        symmetric,
        left,
        right_lies,
        alone,
        panels: Packed(right.base().cast()),
        tile: PhantomData,
    };
    for left in (0..n).step_by(width) {
        let part = product.part(left, width.min(n - left));
        split.each(part.packs.tasks + part.down * part.across, |task| {
            // SAFETY: the caller's promise; each task is done once.
            unsafe {
                match task.checked_sub(part.packs.tasks) {
                    Some(task) => product.block(&part, task),
                    None => product.pack(&part, task),
                }
            }
        });
    }
    if symmetric {
        split.each(n.div_ceil(SQUARE), |task| {
            // SAFETY: the result is the caller's; each task has rows above the
            // diagonal of its own.
            unsafe {
                match out {
                    SharedResults::F32(out) => mirror(out.at(start), n, task * SQUARE),
                    SharedResults::Bf16(out) => mirror(out.at(start), n, task * SQUARE),
                }
            }
        });
    }
    if (1..=2 * PANELS).contains(&(right.bytes() / size_of::<f32>())) {
        RIGHT.set(right);
    }
}

/// Where tiles leave a block's sums.
#[derive(Clone, Copy)]
enum Sums {
    /// In memory of the task, from where the block is finished.
    Aside,
    /// In the output, past the caches or not.
    There { past: bool },
    /// In the output, rounded. (Its lines are whole, so all tiles are.)
    Rounded,
}

/// A product, and how it is made.
struct Product<'a, M, A: Unit, B: Unit> {
    split: Split<'a>,
    a: Matrix<'a, A::Element>,
    b: Matrix<'a, B::Element>,
    out: SharedResults,
    start: usize,
    alpha: f32,
    accumulate: bool,
    epilogue: Option<Epilogue<'a>>,
    /// The inner dimension in units, and how many are taken at a time.
    k: usize,
    deep: usize,
    sums: Sums,
    /// Blocks end at the diagonal.
    symmetric: bool,
    left: Left<A::Element>,
    right_lies: bool,
    /// Blocks have all rows and so many columns, which they pack by themselves.
    alone: Option<usize>,
    panels: Packed,
    tile: PhantomData<fn(M)>,
}

/// Columns of a product that are taken at a time, and the tasks for them.
struct Part {
    left: usize,
    cols: usize,
    packs: Packs,
    packed: Stage,
    /// Rows and columns of a block.
    tall: usize,
    wide: usize,
    /// Blocks of all those rows; low ones follow, of so many, so that threads end
    /// together.
    full: usize,
    low: usize,
    /// Blocks.
    down: usize,
    across: usize,
}

impl Part {
    /// The first row of the blocks in a line of them.
    fn row(&self, line: usize) -> usize {
        self.full.min(line) * self.tall + line.saturating_sub(self.full) * self.low
    }
}

/// Tasks that pack a right operand: each so many panels, of so many units of the
/// inner dimension.
struct Packs {
    group: usize,
    slice: usize,
    groups: usize,
    slices: usize,
    tasks: usize,
}

/// A task's block of the output, and where its sums are.
struct Block {
    task: usize,
    row: usize,
    /// In the part.
    col: usize,
    height: usize,
    width: usize,
    /// Its first element in the output.
    begin: usize,
    to: *mut f32,
    /// Elements from row to row.
    stride: usize,
}

impl<M: Micro, A: Unit, B: Unit> Product<'_, M, A, B> {
    fn part(&self, left: usize, cols: usize) -> Part {
        let (k, deep) = (self.k, self.deep);
        let panels = cols.div_ceil(M::COLS);
        // A task copies what lies together: some whole rows, or some columns.
        let group = match self.b.col_stride {
            1 => BROAD.div_ceil(M::COLS),
            _ => PACK.div_ceil(M::COLS * deep),
        };
        let group = group.min(panels);
        let unit = M::STEP.max(8);
        let slice = (PACK / (M::COLS * group) / unit * unit).clamp(unit, deep.max(unit));
        let (groups, slices) = (panels.div_ceil(group), deep.div_ceil(slice));
        let tasks =
            if self.right_lies || self.alone.is_some() { 0 } else { groups * slices * k.div_ceil(deep) };
        let ((tall, wide), low) = match self.alone {
            Some(wide) => ((self.a.rows, wide), self.a.rows),
            None => {
                let (tall, wide) = grid::<M>(self.a.rows, cols, k);
                ((tall, wide), (tall / 2).next_multiple_of(M::ROWS))
            }
        };
        let full = (self.a.rows / tall).saturating_sub(LOW);
        Part {
            left,
            cols,
            packs: Packs { group, slice, groups, slices, tasks },
            packed: Stage::default(),
            tall,
            wide,
            full,
            low,
            down: full + (self.a.rows - full * tall).div_ceil(low),
            across: cols.div_ceil(wide),
        }
    }

    /// Elements of `units` of the inner dimension from `depth` on.
    fn elements(&self, depth: usize, units: usize) -> usize {
        (units * M::DEEP).min(self.a.cols.saturating_sub(depth * M::DEEP))
    }

    /// Floats from row to row of a copied left operand, or from strip to strip by its
    /// rows.
    fn pitch(&self) -> usize {
        if M::IN_ROWS { pitch(self.deep) } else { self.deep }
    }

    /// Rows of the left operand, `d` units of them from `depth` on.
    fn part_of_a(&self, row: usize, height: usize, depth: usize, d: usize) -> Matrix<'_, A::Element> {
        let skipped = row * self.a.row_stride + depth * M::DEEP * self.a.col_stride;
        Matrix { data: &self.a.data[skipped..], rows: height, cols: self.elements(depth, d), ..self.a }
    }

    /// Where a panel of the part of the inner dimension from `depth` on, which is
    /// `d` deep, begins.
    fn panel(&self, part: &Part, depth: usize, panel: usize, d: usize) -> *mut f32 {
        let before = (depth * M::COLS + depth / self.deep * APART) * part.cols.div_ceil(M::COLS);
        self.panels.at(before + panel * (d * M::COLS + APART))
    }

    /// A task that packs.
    ///
    /// # Safety
    /// As [`product`]; no one else does this task.
    unsafe fn pack(&self, part: &Part, task: usize) {
        let Packs { group, slice, groups, slices, .. } = part.packs;
        let _task = part.packed.task();
        let (depth, first) = (task / groups / slices * self.deep, task % groups * group);
        let (d, row) = (self.deep.min(self.k - depth), task / groups % slices * slice);
        if row >= d {
            return;
        }
        let cols = (group * M::COLS).min(part.cols - first * M::COLS);
        let to = self.panel(part, depth, first, d).wrapping_add(row * M::COLS);
        let from = (depth + row, part.left + first * M::COLS);
        // SAFETY: the caller's promise; the places in the panels are this task's.
        unsafe { self.pack_part(from, slice.min(d - row), cols, to, d) };
        published();
    }

    /// Packs so many units of so many columns of the right operand, from a unit and a
    /// column on, into panels `d` deep.
    ///
    /// # Safety
    /// As [`product`]; `to` has room for them, in lines of its own.
    unsafe fn pack_part(
        &self,
        (unit, col): (usize, usize),
        units: usize,
        cols: usize,
        to: *mut f32,
        d: usize,
    ) {
        let (b, rows, stride) = (&self.b, self.elements(unit, units), d * M::COLS + APART);
        let skipped = unit * M::DEEP * b.row_stride + col * b.col_stride;
        let from = Matrix { data: b.data.get(skipped..).unwrap_or_default(), rows, cols, ..*b };
        // SAFETY: AVX2, by the caller; the part is inside b, and there is room for it.
        unsafe {
            if let Some(copy) = B::TO_PANELS {
                return copy(&from, units, to, stride);
            }
            if rows > 0 {
                pack_right::<M, B>(&from, to, stride, true);
            }
            for panel in 0..cols.div_ceil(M::COLS) {
                let (done, rest) = (rows.div_ceil(M::DEEP), units - rows.div_ceil(M::DEEP));
                to.add(panel * stride + done * M::COLS).write_bytes(0, rest * M::COLS);
            }
        }
    }

    /// Which rows, and which columns, a task's block has: rows by rows, or where a
    /// strip of rows meets all of a block's panels, columns by columns, so that those
    /// stay in L2 (2048 × 768 × 3072 on an Emerald Rapids: 0.75 of the time).
    fn place(&self, part: &Part, task: usize) -> (usize, usize) {
        match M::IN_ROWS {
            true => (task % part.down, task / part.down),
            false => (task / part.across, task % part.across),
        }
    }

    /// The rows of a task's block: large ones first.
    fn rows_of(&self, part: &Part, task: usize) -> Range<usize> {
        let (line, _) = self.place(part, task);
        let line = if self.symmetric { part.down - 1 - line } else { line };
        part.row(line)..part.row(line + 1).min(self.a.rows)
    }

    /// A task that makes a block.
    ///
    /// # Safety
    /// As [`Product::pack`].
    unsafe fn block(&self, part: &Part, task: usize) {
        let (rows, col) = (self.rows_of(part, task), self.place(part, task).1 * part.wide);
        let (row, height) = (rows.start, rows.len());
        let cols = match self.symmetric {
            true => part.cols.min((row + height).next_multiple_of(M::COLS)),
            false => part.cols,
        };
        let width = part.wide.min(cols.saturating_sub(col));
        if width == 0 {
            return;
        }
        let n = self.b.cols;
        let begin = self.start + row * n + part.left + col;
        let mut sums = SUMS.take();
        let (to, stride) = match (self.sums, self.out) {
            (Sums::There { .. }, SharedResults::F32(out)) => (out.at(begin), n),
            (Sums::Rounded, SharedResults::Bf16(out)) => (out.at(begin).cast(), n),
            _ => {
                let pitch = width + APART;
                sums = grown(sums, height * pitch);
                (sums.base().cast::<f32>(), pitch)
            }
        };
        let block = Block { task, row, col, height, width, begin, to, stride };
        if let SharedResults::Bf16(out) = self.out
            && self.accumulate
        {
            for i in 0..height {
                // SAFETY: a row of the block, which is this task's, and of its sums.
                unsafe {
                    let line = std::slice::from_raw_parts_mut(to.add(i * stride), width);
                    widen(out.range(begin + i * n, width), line);
                }
            }
        }
        let room = match self.left {
            Left::Lies(_) if !M::IN_ROWS => 0,
            Left::Lies(_) => M::ROWS * self.pitch(),
            _ => part.tall * self.pitch() + SLACK,
        };
        let strips = grown(LEFT.take(), room);
        let mut panels = Pages::NONE;
        if self.alone.is_some() {
            let floats = width.div_ceil(M::COLS) * (self.deep * M::COLS + APART);
            panels = grown(RIGHT.take(), floats);
        }
        // SAFETY: the instruction set, by the caller.
        let registers = unsafe { M::begin() };
        let mut ahead = AHEAD.take();
        for depth in (0..self.k).step_by(self.deep) {
            ahead.clear();
            self.wanted_after(part, &block, depth, &mut ahead);
            let d = self.deep.min(self.k - depth);
            let panels = match self.alone {
                Some(_) => panels.base().cast(),
                None => self.panel(part, depth, col / M::COLS, d),
            };
            // SAFETY: the caller's promise; there is room for the block's rows, and for
            // its columns where it packs them.
            unsafe {
                if self.alone.is_some() {
                    self.pack_part((depth, part.left + col), d, width, panels, d);
                }
                self.tiles(part, &block, depth, strips.base().cast(), panels, &ahead);
            }
        }
        drop(registers);
        LEFT.set(strips);
        AHEAD.set(ahead);
        if self.alone.is_some() {
            RIGHT.set(panels);
        }
        // SAFETY: the block is this task's, and its sums are complete.
        unsafe { self.finish(part, &block) };
        published();
        SUMS.set(sums);
    }

    /// Adds the lines that are wanted after the tiles of a block at `depth`.
    fn wanted_after(&self, part: &Part, block: &Block, depth: usize, lines: &mut Vec<*const u8>) {
        let (n, next) = (self.b.cols, depth + self.deep);
        if next < self.k {
            let d = self.deep.min(self.k - next);
            add_matrix(lines, &self.part_of_a(block.row, block.height, next, d));
            return;
        }
        // Strips of rows are wanted one by one.
        let by_strips = M::IN_ROWS && matches!(self.left, Left::Lies(_));
        if by_strips && block.height > M::ROWS {
            let (row, height) = (block.row + M::ROWS, block.height - M::ROWS);
            add_matrix(lines, &self.part_of_a(row, height, depth, self.deep));
        }
        // Another thread takes as many tasks meanwhile.
        let task = block.task + self.split.threads();
        if task < part.down * part.across {
            let rows = self.rows_of(part, task);
            let height = if by_strips { rows.len().min(M::ROWS) } else { rows.len() };
            add_matrix(lines, &self.part_of_a(rows.start, height, 0, self.deep));
        }
        for (from, size) in self.epilogue.iter().flat_map(|epilogue| epilogue.beside()) {
            let from = from.wrapping_add(block.begin * size);
            add_lines(lines, from, block.height, block.width * size, n * size);
        }
        if let (SharedResults::Bf16(out), Some(Epilogue { past: false, .. })) = (self.out, self.epilogue) {
            add_lines(lines, out.at(block.begin).cast_const(), block.height, block.width, n);
        }
    }

    /// The tiles of a block, for the inner dimension from `depth` on.
    ///
    /// # Safety
    /// As [`Product::pack`]; `strips` has room for so many units of the block's rows
    /// and [`SLACK`], unless they lie; `panels` are those of the block's columns, unless
    /// they lie.
    unsafe fn tiles(
        &self,
        part: &Part,
        block: &Block,
        depth: usize,
        strips: *mut f32,
        panels: *const f32,
        ahead: &[*const u8],
    ) {
        let d = self.deep.min(self.k - depth);
        let Block { row, col, height, width, to, stride, .. } = *block;
        // And the floats from row to row.
        let (rows_of_a, pitch_of_a) = match self.left {
            Left::Lies(_) => {
                let part = self.part_of_a(row, height, depth, d);
                (part.data.as_ptr().cast::<f32>(), self.a.row_stride / M::DEEP)
            }
            Left::Fresh(_) => (strips.cast_const(), d),
            Left::Packed if M::IN_ROWS => {
                // SAFETY: the instruction set, by the caller; the part is inside a,
                // and there is room for it.
                unsafe { to_rows::<A>(&self.part_of_a(row, height, depth, d), strips) };
                (strips.cast_const(), pitch(d))
            }
            Left::Packed => {
                // SAFETY: AVX2, by the caller; the part is inside a, and
                // there is room for it.
                unsafe { pack_left::<M, A>(&self.part_of_a(row, height, depth, d), strips) };
                (strips.cast_const(), d)
            }
        };
        let lying = match self.left {
            Left::Lies(run) => Some(run),
            _ if M::IN_ROWS => M::LYING,
            _ => None,
        };
        // Tiles that read all rows of a tile have them.
        let ragged = M::IN_ROWS && matches!(self.left, Left::Lies(_)) && !height.is_multiple_of(M::ROWS);
        let last = height / M::ROWS * M::ROWS;
        if ragged {
            // SAFETY: as above.
            unsafe { to_rows::<A>(&self.part_of_a(row + last, height - last, depth, d), strips) };
        }
        let run_packed = if self.right_lies { M::LYING_RIGHT.unwrap_or(M::RUN) } else { M::RUN };
        let (ends, ends_narrow, bytes) = match self.sums {
            Sums::Rounded => (ROUNDED, ROUNDED, size_of::<u16>()),
            Sums::There { past: true } => (PAST, STORED, size_of::<f32>()),
            Sums::There { past: false } | Sums::Aside => (STORED, STORED, size_of::<f32>()),
        };
        let (down, across) = (height.div_ceil(M::ROWS), width.div_ceil(M::COLS));
        let mut lines = ahead.chunks(ahead.len().div_ceil(down * across).max(1));
        part.packed.wait(part.packs.tasks);
        for tile in 0..down * across {
            // What stays in L1: a panel, or a strip of rows, whose lines lie far apart.
            let (i, j) = if M::IN_ROWS { (tile / across, tile % across) } else { (tile % down, tile / down) };
            let (i, j) = (i * M::ROWS, j * M::COLS);
            // And the floats from row to row, and what the first strip and
            // each after it ask for: a share of the panel after this.
            let (right, right_stride, next, share) = if self.right_lies {
                let stride = self.b.row_stride;
                let skipped = depth * M::DEEP * stride + part.left + col + j;
                let from = self.b.data[skipped..].as_ptr();
                let next = from.wrapping_add(M::COLS).cast::<f32>();
                // Another line of the row, or the other row of the pair.
                let share = if M::DEEP == 1 { M::COLS.div_ceil(down) } else { stride / 2 };
                (from.cast(), stride, next, share)
            } else {
                let from = panels.wrapping_add(j / M::COLS * (d * M::COLS + APART));
                (from, M::COLS, from.wrapping_add(d * M::COLS), (d * M::COLS).div_ceil(down))
            };
            let rows = M::ROWS.min(height - i);
            let (left, pitch_of_a) = match ragged && i == last {
                true => (strips.cast_const(), pitch(d)),
                false => (rows_of_a.wrapping_add(i * pitch_of_a), pitch_of_a),
            };
            let tile = Tile {
                depth: d,
                left,
                right,
                right_stride,
                next: next.wrapping_add(i / M::ROWS * share),
                out: to.wrapping_byte_add((i * stride + j) * bytes),
                out_stride: stride,
                ahead: lines.next().unwrap_or_default(),
                rows,
                width: M::COLS.min(width - j),
                alpha: self.alpha,
                accumulate: self.accumulate || depth > 0,
            };
            let ends = if tile.width == M::COLS { ends } else { ends_narrow };
            // SAFETY: the instruction set, by the caller; the
            // operands are packed, or lie as the tile reads them, or
            // there is room for what it packs; the outputs are this
            // task's.
            unsafe {
                match self.left {
                    _ if let Some(run) = lying => run[ends][rows - 1](&tile, pitch_of_a),
                    Left::Fresh(run) if j == 0 && rows == M::ROWS => {
                        run[ends](&tile, &self.part_of_a(row + i, rows, depth, d));
                    }
                    _ => {
                        if matches!(self.left, Left::Fresh(_)) && j == 0 {
                            let part = self.part_of_a(row + i, rows, depth, d);
                            pack_left::<M, A>(&part, tile.left.cast_mut());
                        }
                        run_packed[ends][rows - 1](&tile);
                    }
                }
            }
        }
        // SAFETY: the instruction set, by the caller; the outputs are this task's.
        unsafe { M::flush() };
    }

    /// What follows the sums of a block.
    ///
    /// # Safety
    /// As [`Product::pack`].
    unsafe fn finish(&self, part: &Part, block: &Block) {
        let Some(epilogue) = self.epilogue else { return };
        let Block { begin, width, to, stride, .. } = *block;
        for i in 0..block.height {
            let (at, col) = (begin + i * self.b.cols, part.left + block.col);
            // SAFETY: a row of the block, which is this task's.
            match (unsafe { self.out.range(at, width) }, self.sums) {
                (Results::F32(row), Sums::There { .. }) => {
                    epilogue.finish(row, Results::F32(&mut []), at, col);
                }
                (results, _) => {
                    // SAFETY: a row of the block's sums.
                    let row = unsafe { std::slice::from_raw_parts_mut(to.add(i * stride), width) };
                    epilogue.finish(row, results, at, col);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
