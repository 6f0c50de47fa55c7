//! The tile interpreter of row kernels.
//!
//! Each instruction runs over a whole tile, so its dispatch is paid once per
//! some hundred elements, and its loop is vector code over registers that stay
//! in L1. A tile is much shorter than a page, so that what the next ones read
//! is fetched by the processor while this one computes. Where each operand
//! lies is found out once per launch, but for four sums per tile. All stores of
//! a tile come after all its reads, which is what makes in-place updates sound.

mod passes;

use std::cell::Cell;

use super::{Output, Split};
use crate::op::{Layout, Reduction};
use crate::row_kernel::{Code, Instruction, Program, Register, Source};
use crate::table::{Span, Table};

/// Elements of a task, at least a tile.
const TASK: usize = 16_384;

/// Most lines of registers that a thread keeps for the next program (4 MiB).
const KEPT: usize = 1 << 16;

/// Floats of a cache line, which no vector of a register straddles.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _floats: [f32; LINE],
}

thread_local! {
    /// The registers of a task: those of elements, then those of rows.
    static FILES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The part of the space that a tile covers.
#[derive(Clone, Copy)]
struct Tile {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
    /// Number of its first element.
    start: usize,
}

/// What an address moves with, from tile to tile.
#[derive(Clone, Copy)]
enum Origin {
    Fixed,
    Start,
    Row,
    Col,
}

/// How many elements lie there.
#[derive(Clone, Copy, PartialEq)]
enum Length {
    None,
    One,
    Tile,
    Rows,
    Cols,
}

/// A tile and the registers of its task, as places are found in them: without
/// a branch, since that is done for every operand of every tile.
struct Spot {
    files: *mut Line,
    /// By [`Origin`].
    moves: [usize; 4],
    /// By [`Length`].
    lengths: [usize; 5],
}

impl Spot {
    fn of(tile: Tile, files: *mut Line) -> Spot {
        let moves = [0, tile.start, tile.row, tile.col];
        Spot { files, moves, lengths: [0, 1, tile.rows * tile.cols, tile.rows, tile.cols] }
    }
}

/// Where an operand lies: floats from an origin on.
#[derive(Clone, Copy)]
struct Place {
    /// A tensor's first float, or null where the task's registers are meant.
    base: *const f32,
    offset: usize,
    origin: Origin,
    length: Length,
}

// SAFETY: an address and numbers; see `Place::at` for their use.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    const NOWHERE: Place =
        Place { base: std::ptr::null(), offset: 0, origin: Origin::Fixed, length: Length::None };

    /// The address, and how many elements.
    #[inline(always)]
    fn at(&self, spot: &Spot) -> (*const f32, usize) {
        let base = if self.base.is_null() { spot.files.cast_const().cast() } else { self.base };
        let from = base.wrapping_add(self.offset).wrapping_add(spot.moves[self.origin as usize]);
        (from, spot.lengths[self.length as usize])
    }

    /// # Safety
    /// [`Places::of`] made it for this program and these files, and nothing
    /// writes there while the slice is alive: an instruction's result is no
    /// operand of its own, and tasks store inside their own tiles.
    #[inline(always)]
    unsafe fn read<'a>(&self, spot: &Spot) -> &'a [f32] {
        let (from, len) = self.at(spot);
        // SAFETY: the caller's promise; nothing is read of no elements, and the
        // address is then that of the registers.
        unsafe { std::slice::from_raw_parts(from, len) }
    }
}

/// An instruction whose operands have places.
struct Ready {
    code: Code,
    dst: Place,
    sources: [Place; 4],
}

/// Makes places; all that they can ever name is inside the operands.
struct Places<'a> {
    program: &'a Program,
    inputs: Vec<(*const f32, usize)>,
    /// Lines of a register of elements, and of one of rows.
    lines: [usize; 2],
}

impl<'a> Places<'a> {
    fn new(program: &'a Program, inputs: Vec<(*const f32, usize)>) -> Places<'a> {
        let lines = [program.tile_rows * program.tile_cols, program.tile_rows].map(|len| len.div_ceil(LINE));
        Places { program, inputs, lines }
    }

    /// Lines of all registers.
    fn files(&self) -> usize {
        self.program.fused.element_registers * self.lines[0]
            + self.program.fused.row_registers * self.lines[1]
    }

    fn register(&self, register: Register) -> Place {
        let (line, length) = match register {
            Register::Element(slot) => {
                assert!(slot < self.program.fused.element_registers);
                (slot * self.lines[0], Length::Tile)
            }
            Register::Row(slot) => {
                assert!(slot < self.program.fused.row_registers);
                let first = self.program.fused.element_registers * self.lines[0];
                (first + slot * self.lines[1], Length::Rows)
            }
        };
        Place { base: std::ptr::null(), offset: line * LINE, origin: Origin::Fixed, length }
    }

    /// Input k, of at least `len` elements.
    fn input(&self, k: usize, len: usize, origin: Origin, length: Length) -> Place {
        let (base, has) = self.inputs[k];
        assert!(len <= has);
        Place { base, offset: 0, origin, length }
    }

    fn of(&self, source: &Option<Source>) -> Place {
        let Program { rows, cols, .. } = *self.program;
        match source {
            None => Place::NOWHERE,
            Some(Source::Register(register)) => self.register(*register),
            // A program outlives its places.
            Some(Source::Constant(value)) => {
                Place { base: value, offset: 0, origin: Origin::Fixed, length: Length::One }
            }
            Some(Source::ScalarInput(k)) => self.input(*k, 1, Origin::Fixed, Length::One),
            Some(Source::ElementInput(k)) => self.input(*k, rows * cols, Origin::Start, Length::Tile),
            Some(Source::RowInput(k)) => self.input(*k, rows, Origin::Row, Length::Rows),
            Some(Source::ColInput(k)) => self.input(*k, cols, Origin::Col, Length::Cols),
        }
    }

    fn ready(&self, list: &[Instruction]) -> Vec<Ready> {
        let ready = |instruction: &Instruction| {
            let mut sources = instruction.sources.each_ref().map(|source| self.of(source));
            match instruction.code {
                Code::Scalar(k) => sources[0] = self.input(k, 1, Origin::Fixed, Length::One),
                Code::Spread(k) => {
                    sources[0] = self.input(k, self.program.cols, Origin::Fixed, Length::Cols);
                }
                _ => {}
            }
            Ready { code: instruction.code, dst: self.register(instruction.dst), sources }
        };
        list.iter().map(ready).collect()
    }
}

pub(crate) fn run(split: Split, t: &Table, program: &Program, inputs: &[Span], stores: &[Span]) {
    let inputs: Vec<_> = inputs.iter().map(|&s| (t.f32_ptr(s).cast_const(), s.len)).collect();
    let stores: Vec<Output> = stores
        .iter()
        // SAFETY: the validator lists them as outputs of this step.
        .map(|&s| unsafe { Output::from_raw(t.f32_ptr(s), s.len) })
        .collect();
    let direct = direct(program, &inputs, &stores);
    let places = Places::new(program, inputs);
    let prologue = places.ready(&program.fused.prologue);
    let mut body = places.ready(&program.fused.body);
    if let (Some(k), Some(last)) = (direct, body.last_mut()) {
        assert!(program.rows * program.cols <= stores[k].len());
        let base = stores[k].at(0).cast_const();
        last.dst = Place { base, offset: 0, origin: Origin::Start, length: Length::Tile };
    }
    let results: Vec<(Place, Layout)> =
        program.fused.stores.iter().map(|(register, layout)| (places.register(*register), *layout)).collect();
    let needed = places.files();
    let down = program.rows.div_ceil(program.tile_rows);
    let across = program.cols.div_ceil(program.tile_cols);
    let tiles = down * across;
    let group = (TASK / (program.tile_rows * program.tile_cols)).max(1);
    split.each(tiles.div_ceil(group), |task| {
        let mut files = FILES.take();
        if files.len() < needed {
            files.resize(needed, Line { _floats: [0.0; LINE] });
        }
        let lines = files.as_mut_ptr();
        let whole = Tile { row: 0, rows: program.tile_rows, col: 0, cols: program.tile_cols, start: 0 };
        // SAFETY: made for this program; the files are as large as it needs,
        // and this task's alone.
        unsafe { execute(&prologue, lines, whole) };
        for index in task * group..((task + 1) * group).min(tiles) {
            let row = index / across * program.tile_rows;
            let col = index % across * program.tile_cols;
            let tile = Tile {
                row,
                rows: program.tile_rows.min(program.rows - row),
                col,
                cols: program.tile_cols.min(program.cols - col),
                start: row * program.cols + col,
            };
            // SAFETY: as above; what the last instruction writes directly is a
            // store's part of this tile, which is this task's alone, and the
            // range of no input (see `direct`).
            unsafe { execute(&body, lines, tile) };
            store(&results, lines, &stores, tile, direct);
        }
        if files.len() <= KEPT {
            FILES.set(files);
        }
    });
}

/// The store whose value the last instruction makes: that may write it where
/// it belongs, unless an input is the same range.
fn direct(program: &Program, inputs: &[(*const f32, usize)], stores: &[Output]) -> Option<usize> {
    let last = program.fused.body.last()?.dst;
    let mut of_last = program.fused.stores.iter().enumerate().filter(|(_, (register, _))| *register == last);
    let (k, (register, layout)) = of_last.next()?;
    let whole = matches!(register, Register::Element(_)) && *layout == Layout::Element;
    let base = stores[k].at(0).cast_const();
    let apart = inputs.iter().all(|(input, _)| *input != base);
    (whole && apart && of_last.next().is_none()).then_some(k)
}

fn store(
    results: &[(Place, Layout)],
    files: *mut Line,
    stores: &[Output],
    tile: Tile,
    direct: Option<usize>,
) {
    for (k, ((place, layout), output)) in results.iter().zip(stores).enumerate() {
        if direct == Some(k) || (*layout != Layout::Element && tile.col != 0) {
            continue;
        }
        // SAFETY: a register, which nothing writes meanwhile.
        let values = unsafe { place.read(&Spot::of(tile, files)) };
        // Of the tiles of a row the first stores what is one per row.
        let start = if *layout == Layout::Element { tile.start } else { tile.row };
        // SAFETY: tiles do not overlap, each belongs to one task, and no slice
        // of an input is alive here.
        unsafe { output.range(start, values.len()) }.copy_from_slice(values);
    }
}

/// Runs the instructions.
///
/// # Safety
/// Places are those of one program and of these files, which no one else
/// uses; nor does anyone write what they read, or use what they write.
unsafe fn execute(list: &[Ready], files: *mut Line, tile: Tile) {
    let spot = Spot::of(tile, files);
    let cols = tile.cols;
    for ready in list {
        let (to, len) = ready.dst.at(&spot);
        // SAFETY: the caller's promise; no operand is the result: the allocator
        // never gives it an operand's register.
        let dst = unsafe { std::slice::from_raw_parts_mut(to.cast_mut(), len) };
        // SAFETY: the caller's promise.
        let [a, b, c, d] = ready.sources.each_ref().map(|place| unsafe { place.read(&spot) });
        match ready.code {
            Code::Load => dst.copy_from_slice(a),
            Code::Constant(value) => dst.fill(value),
            Code::Scalar(_) => dst.fill(a[0]),
            Code::Spread(_) => dst.chunks_exact_mut(cols).for_each(|line| line.copy_from_slice(a)),
            Code::ColIndex => {
                for line in dst.chunks_exact_mut(cols) {
                    for (col, d) in (tile.col as u32..).zip(line) {
                        *d = col as f32;
                    }
                }
            }
            Code::Broadcast => {
                dst.chunks_exact_mut(cols).zip(a).for_each(|(line, value)| line.fill(*value));
            }
            Code::Unary(op) => passes::unary(op, dst, a),
            Code::Binary(op) => passes::binary(op, dst, [a, b], len),
            Code::ByRow(op) => passes::binary(op, dst, [a, b], cols),
            Code::Select => passes::select(dst, [a, b, c]),
            Code::Sign => passes::signs(dst, a),
            Code::Products { subtract } => passes::products(subtract, dst, [a, b, c, d]),
            Code::ProductThen { subtract } => passes::product_then(subtract, dst, [a, b, c]),
            Code::ThenProduct { subtract } => passes::then_product(subtract, dst, [a, b, c]),
            Code::Triple => passes::triple(dst, [a, b, c]),
            Code::Gated(op) => passes::gated(op, dst, [a, b, c]),
            Code::SignOfProducts { subtract } => passes::sign_of_products(subtract, dst, [a, b, c, d]),
            Code::LessProducts { subtract } => passes::less_products(subtract, dst, [a, b, c, d]),
            Code::Dot => passes::dots(dst, a, b, cols),
            Code::Reduce(Reduction::Sum) => passes::sums(dst, a, cols),
            Code::Reduce(Reduction::Maximum) => passes::maxima(dst, a, cols),
        }
    }
}
