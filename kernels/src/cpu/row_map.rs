//! The tile interpreter of row kernels.
//!
//! Each instruction runs over a whole tile, so its dispatch is paid once per
//! some hundred elements, and its loop is vector code over registers that stay
//! in L1. A tile is much shorter than a page, so that what the next ones read
//! is fetched by the processor while this one computes. Where each operand
//! lies is found out once per launch, but for a few sums per tile. A tile is
//! stored after its last read of what lies there, which is what makes in-place
//! updates sound. Numbers of bfloat16 are widened into registers by an
//! instruction, and rounded when a tile is stored.

mod passes;

use std::cell::Cell;

use super::moves::Moved;
use super::product::{Results, SharedResults};
use super::rounding::{narrow, widen};
use super::{Output, Split};
use crate::op::{DType, Layout, Reduction};
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
    /// A tensor's first number (bfloat16 where [`Place::halves`] reads it), or
    /// null where the task's registers are meant.
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

    /// Whether it is the same register.
    fn is(&self, register: &Place) -> bool {
        self.base.is_null() && self.length == register.length && self.offset == register.offset
    }

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

    /// As [`Place::read`], of an input of bfloat16.
    ///
    /// # Safety
    /// As [`Place::read`]; and the base is that of such an input.
    #[inline(always)]
    unsafe fn halves<'a>(&self, spot: &Spot) -> &'a [u16] {
        let from = self.base.cast::<u16>().wrapping_add(spot.moves[self.origin as usize]);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(from, spot.lengths[self.length as usize]) }
    }
}

/// An instruction whose operands have places.
struct Ready {
    code: Code,
    dst: Place,
    /// The other result, if the code has one.
    second: Place,
    sources: [Place; 4],
    /// What the code names besides.
    uniform: [Place; 4],
}

impl Ready {
    /// Whether operand k may lie where `result` is to lie, which is then
    /// updated: an operand that is not given means that to some passes.
    fn updates(&self, k: usize, result: &Place) -> bool {
        let uniform = |k: usize| self.sources[k].length == Length::One;
        match (self.code, k) {
            (Code::Binary(_) | Code::ByRow(_), _) => true,
            (Code::Products { .. } | Code::SignOfProducts { .. } | Code::LessProducts { .. }, 1 | 3) => {
                uniform(0) && uniform(2)
            }
            (Code::ProductThen { .. } | Code::ThenProduct { .. }, 1 | 2) => uniform(0),
            (Code::Twins { .. }, 1 | 3) => self.second.is(result),
            _ => false,
        }
    }
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
        assert!(self.program.input_types[k] == DType::F32);
        assert!(len <= has);
        Place { base, offset: 0, origin, length }
    }

    /// Input k of bfloat16, for [`Place::halves`].
    fn half(&self, k: usize) -> Place {
        let (base, has) = self.inputs[k];
        assert!(self.program.input_types[k] == DType::Bf16);
        assert!(self.program.rows * self.program.cols <= has);
        Place { base, offset: 0, origin: Origin::Start, length: Length::Tile }
    }

    fn of(&self, source: &Option<Source>) -> Place {
        source.as_ref().map_or(Place::NOWHERE, |source| self.source(source))
    }

    fn source(&self, source: &Source) -> Place {
        let Program { rows, cols, .. } = *self.program;
        match source {
            Source::Register(register) => self.register(*register),
            // A program outlives its places.
            Source::Constant(value) => {
                Place { base: value, offset: 0, origin: Origin::Fixed, length: Length::One }
            }
            Source::ScalarInput(k) => self.input(*k, 1, Origin::Fixed, Length::One),
            Source::ElementInput(k) => self.input(*k, rows * cols, Origin::Start, Length::Tile),
            Source::RowInput(k) => self.input(*k, rows, Origin::Row, Length::Rows),
            Source::ColInput(k) => self.input(*k, cols, Origin::Col, Length::Cols),
        }
    }

    fn ready(&self, list: &'a [Instruction]) -> Vec<Ready> {
        let ready = |instruction: &'a Instruction| {
            let mut sources = instruction.sources.each_ref().map(|source| self.of(source));
            let mut uniform = [Place::NOWHERE; 4];
            let mut second = Place::NOWHERE;
            match &instruction.code {
                Code::Widen(k) => sources[0] = self.half(*k),
                Code::Scalar(k) => sources[0] = self.input(*k, 1, Origin::Fixed, Length::One),
                Code::Spread(k) => {
                    sources[0] = self.input(*k, self.program.cols, Origin::Fixed, Length::Cols);
                }
                Code::Twins { factors: [f, g], second: register, .. } => {
                    second = self.register(*register);
                    uniform = [sources[0], sources[2], self.source(f), self.source(g)];
                }
                Code::ThenCube(factor) => uniform[0] = self.source(factor),
                Code::Shaped(_, named) => {
                    for (place, source) in uniform.iter_mut().zip(named) {
                        *place = self.of(source);
                    }
                }
                _ => {}
            }
            Ready { code: instruction.code, dst: self.register(instruction.dst), second, sources, uniform }
        };
        list.iter().map(ready).collect()
    }

    /// Lets instructions write results where they are stored; returns the
    /// stores that are left, to be copied at the end of a tile, and where from.
    ///
    /// A store may be an input's range too. Then no later instruction may read
    /// that input, and the one that writes there has to be one that can update.
    /// What is to be rounded is left.
    fn settle(&self, body: &mut [Ready], stores: &[SharedResults]) -> Vec<(Place, Layout, SharedResults)> {
        let fused = &self.program.fused;
        let mut copies = Vec::new();
        for ((register, layout), output) in fused.stores.iter().zip(stores) {
            let from = self.register(*register);
            let SharedResults::F32(floats) = output else {
                copies.push((from, *layout, *output));
                continue;
            };
            let base = floats.at(0).cast_const();
            let alone = fused.stores.iter().filter(|(other, _)| other == register).count() == 1;
            let whole = matches!(register, Register::Element(_)) && *layout == Layout::Element;
            // The register keeps this value to the end, so its last writer makes it.
            let made = fused
                .body
                .iter()
                .rposition(|i| i.results().any(|r| r == *register))
                .filter(|_| whole && alone);
            let settled = made.is_some_and(|made| {
                let (maker, later) = body[made..].split_first_mut().expect("has its maker");
                let is_read = |ready: &Ready| ready.sources.iter().any(|place| place.base == base);
                let own: Vec<usize> = (0..4).filter(|&k| maker.sources[k].base == base).collect();
                let updates = match own[..] {
                    [] => true,
                    [k] => maker.updates(k, &from),
                    _ => false,
                };
                if !updates || later.iter().any(is_read) {
                    return false;
                }
                assert!(self.program.rows * self.program.cols <= floats.len());
                let there = Place { base, offset: 0, origin: Origin::Start, length: Length::Tile };
                if maker.second.is(&from) {
                    maker.second = there;
                } else {
                    maker.dst = there;
                }
                own.iter().for_each(|&k| maker.sources[k] = Place::NOWHERE);
                for place in later.iter_mut().flat_map(|ready| &mut ready.sources) {
                    if place.is(&from) {
                        *place = there;
                    }
                }
                true
            });
            if !settled {
                copies.push((from, *layout, *output));
            }
        }
        copies
    }
}

pub(crate) fn run(split: Split, t: &Table, program: &Program, inputs: &[Span], stores: &[Span]) {
    let input = |(&span, dtype): (&Span, &DType)| match dtype {
        DType::Bf16 => (t.bf16_ptr(span).cast_const().cast(), span.len),
        _ => (t.f32_ptr(span).cast_const(), span.len),
    };
    let inputs: Vec<_> = inputs.iter().zip(&program.input_types).map(input).collect();
    // SAFETY: the validator lists them as outputs of this step.
    let output = |(&span, dtype): (&Span, &DType)| unsafe {
        match dtype {
            DType::Bf16 => SharedResults::Bf16(Moved::from_raw(t.bf16_ptr(span), span.len)),
            _ => SharedResults::F32(Output::from_raw(t.f32_ptr(span), span.len)),
        }
    };
    let stores: Vec<_> = stores.iter().zip(&program.store_types).map(output).collect();
    let places = Places::new(program, inputs);
    let prologue = places.ready(&program.fused.prologue);
    let mut body = places.ready(&program.fused.body);
    let copies = places.settle(&mut body, &stores);
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
            // SAFETY: as above; what is written to a store is this tile's
            // part, which is this task's alone, and no slice of an input that
            // lies there is alive (see `Places::settle`).
            unsafe { execute(&body, lines, tile) };
            for (from, layout, output) in &copies {
                store(from, *layout, output, tile, lines);
            }
        }
        if files.len() <= KEPT {
            FILES.set(files);
        }
    });
}

fn store(from: &Place, layout: Layout, output: &SharedResults, tile: Tile, files: *mut Line) {
    // Of the tiles of a row the first stores what is one per row.
    let start = match layout {
        Layout::Element => tile.start,
        _ if tile.col == 0 => tile.row,
        _ => return,
    };
    // SAFETY: a register, which nothing writes meanwhile.
    let values = unsafe { from.read(&Spot::of(tile, files)) };
    // SAFETY: tiles do not overlap, each belongs to one task, and no slice of an
    // input is alive here.
    match unsafe { output.range(start, values.len()) } {
        Results::F32(to) => to.copy_from_slice(values),
        Results::Bf16(to) => narrow(values, to),
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
        // SAFETY: the caller's promise; an operand that the result updates has
        // no place.
        let from = |k: usize| unsafe { ready.sources[k].read(&spot) };
        let two = || [from(0), from(1)];
        let three = || [from(0), from(1), from(2)];
        let four = || [from(0), from(1), from(2), from(3)];
        // SAFETY: as above.
        let uniform = |k: usize| unsafe { ready.uniform[k].read(&spot) }.first().copied();
        match ready.code {
            Code::Load => dst.copy_from_slice(from(0)),
            // SAFETY: as above; `Places::half` made its place.
            Code::Widen(_) => widen(unsafe { ready.sources[0].halves(&spot) }, dst),
            Code::Constant(value) => dst.fill(value),
            Code::Scalar(_) => dst.fill(from(0)[0]),
            Code::Spread(_) => dst.chunks_exact_mut(cols).for_each(|line| line.copy_from_slice(from(0))),
            Code::ColIndex => passes::numbers(dst, tile.col, cols),
            Code::Broadcast => passes::broadcast(dst, from(0), cols),
            Code::Unary(op) => passes::unary(op, dst, from(0)),
            Code::Binary(op) => passes::binary(op, dst, two()),
            Code::ByRow(op) => passes::by_line(op, dst, two(), cols),
            Code::Select => passes::select(dst, three()),
            Code::Sign => passes::signs(dst, from(0)),
            Code::Products { subtract } => passes::products(subtract, dst, four()),
            Code::ProductThen { subtract } => passes::product_then(subtract, dst, three()),
            Code::ThenProduct { subtract } => passes::then_product(subtract, dst, three()),
            Code::Triple => passes::triple(dst, three()),
            Code::Gated(op) => passes::gated(op, dst, three()),
            Code::SignOfProducts { subtract } => passes::sign_of_products(subtract, dst, four()),
            Code::LessProducts { subtract } => passes::less_products(subtract, dst, four()),
            Code::Twins { sign, .. } => {
                let (to, len) = ready.second.at(&spot);
                // SAFETY: as the result above, which is elsewhere.
                let second = unsafe { std::slice::from_raw_parts_mut(to.cast_mut(), len) };
                let uniform = std::array::from_fn(|k| uniform(k).unwrap_or(0.0));
                passes::twins(sign, dst, second, [from(1), from(3)], uniform);
            }
            Code::ThenCube(_) => passes::then_cube(uniform(0).unwrap_or(1.0), dst, four()),
            // What is not there changes nothing, not even the sign of a zero.
            Code::Shaped(op, _) => {
                let [scale, plus, factor] =
                    [(0, 1.0), (1, -0.0), (2, 1.0)].map(|(k, none)| uniform(k).unwrap_or(none));
                passes::shaped(op, dst, two(), [scale, plus, factor]);
            }
            Code::Dot => passes::dots(dst, from(0), from(1), cols),
            Code::Reduce(Reduction::Sum) => passes::sums(dst, from(0), cols),
            Code::Reduce(Reduction::Maximum) => passes::maxima(dst, from(0), cols),
        }
    }
}
