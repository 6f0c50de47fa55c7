//! The tile interpreter of row kernels.
//!
//! Each instruction runs over a whole tile, so its dispatch is paid once per
//! some hundred elements, and its loop is vector code over registers that stay
//! in L1. A tile is much shorter than a page, so that what the next ones read
//! is fetched by the processor while this one computes. Where each operand
//! lies is found out once per launch, but for four sums per tile. All stores of
//! a tile come after all its reads, which is what makes in-place updates sound.

use std::cell::Cell;

use super::simd::{dot, larger, maximum, multiversion, smaller, sum};
use super::{Output, Split, math};
use crate::op::{BinaryOp, Layout, Reduction, UnaryOp};
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
    /// The registers of the task.
    Files,
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

/// Where an operand lies: floats from an origin on.
#[derive(Clone, Copy)]
struct Place {
    /// The tensor's first float, or null where the origin is an address.
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

    /// The address in a tile, and how many elements.
    #[inline(always)]
    fn at(&self, tile: Tile, files: *mut Line) -> (*const f32, usize) {
        let from = match self.origin {
            Origin::Fixed => self.base,
            Origin::Files => files.cast_const().cast(),
            Origin::Start => self.base.wrapping_add(tile.start),
            Origin::Row => self.base.wrapping_add(tile.row),
            Origin::Col => self.base.wrapping_add(tile.col),
        };
        let len = match self.length {
            Length::None => 0,
            Length::One => 1,
            Length::Tile => tile.rows * tile.cols,
            Length::Rows => tile.rows,
            Length::Cols => tile.cols,
        };
        (from.wrapping_add(self.offset), len)
    }

    /// # Safety
    /// [`Places::of`] made it for this program and these files, and nothing
    /// writes there while the slice is alive: an instruction's result is no
    /// operand of its own, and tasks store inside their own tiles, after the
    /// tile's reads.
    #[inline(always)]
    unsafe fn read<'a>(&self, tile: Tile, files: *mut Line) -> &'a [f32] {
        let (from, len) = self.at(tile, files);
        if len == 0 {
            return &[];
        }
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(from, len) }
    }
}

/// An instruction whose operands have places.
struct Ready<'a> {
    instruction: &'a Instruction,
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
        Place { base: std::ptr::null(), offset: line * LINE, origin: Origin::Files, length }
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

    fn ready(&self, list: &'a [Instruction]) -> Vec<Ready<'a>> {
        let ready = |instruction: &'a Instruction| {
            let mut sources = instruction.sources.each_ref().map(|source| self.of(source));
            match instruction.code {
                Code::Scalar(k) => sources[0] = self.input(k, 1, Origin::Fixed, Length::One),
                Code::Spread(k) => {
                    sources[0] = self.input(k, self.program.cols, Origin::Fixed, Length::Cols);
                }
                _ => {}
            }
            Ready { instruction, dst: self.register(instruction.dst), sources }
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
        let values = unsafe { place.read(tile, files) };
        // Of the tiles of a row the first stores what is one per row.
        let start = if *layout == Layout::Element { tile.start } else { tile.row };
        // SAFETY: tiles do not overlap, each belongs to one task, and no slice
        // of an input is alive here.
        unsafe { output.range(start, values.len()) }.copy_from_slice(values);
    }
}

multiversion! {
    /// Runs the instructions.
    ///
    /// # Safety
    /// Places are those of one program and of these files, which no one else
    /// uses; nor does anyone write what they read, or use what they write.
    unsafe fn execute(list: &[Ready], files: *mut Line, tile: Tile) = execute_body
}

#[inline(always)]
unsafe fn execute_body<const FMA: bool>(list: &[Ready], files: *mut Line, tile: Tile) {
    for ready in list {
        let (to, len) = ready.dst.at(tile, files);
        // SAFETY: the caller's promise; no operand is the result: the allocator
        // never gives it an operand's register.
        let dst = unsafe { std::slice::from_raw_parts_mut(to.cast_mut(), len) };
        let [a, b, c, d] = &ready.sources;
        // SAFETY: the caller's promise.
        let [a, b, c, d] =
            unsafe { [a.read(tile, files), b.read(tile, files), c.read(tile, files), d.read(tile, files)] };
        match ready.instruction.code {
            Code::Load => dst.copy_from_slice(a),
            Code::Constant(value) => dst.fill(value),
            Code::Scalar(_) => dst.fill(a[0]),
            Code::Spread(_) => {
                for line in dst.chunks_exact_mut(tile.cols) {
                    line.copy_from_slice(a);
                }
            }
            Code::ColIndex => {
                for line in dst.chunks_exact_mut(tile.cols) {
                    for (col, d) in (tile.col as u32..).zip(line) {
                        *d = col as f32;
                    }
                }
            }
            Code::Broadcast => {
                for (line, value) in dst.chunks_exact_mut(tile.cols).zip(a) {
                    line.fill(*value);
                }
            }
            Code::Unary(op) => unary::<FMA>(op, dst, a),
            Code::Binary(op) => binary(op, dst, a, b),
            Code::Select => {
                for (((d, a), b), c) in dst.iter_mut().zip(a).zip(b).zip(c) {
                    *d = if *a > 0.0 { *b } else { *c };
                }
            }
            Code::Products { subtract: false } => products(dst, [a, b, c, d], |x, y| x + y),
            Code::Products { subtract: true } => products(dst, [a, b, c, d], |x, y| x - y),
            Code::ProductThen { subtract: false } => product(dst, [a, b, c], |ab, c| ab + c),
            Code::ProductThen { subtract: true } => product(dst, [a, b, c], |ab, c| ab - c),
            Code::ThenProduct { subtract: false } => product(dst, [a, b, c], |ab, c| c + ab),
            Code::ThenProduct { subtract: true } => product(dst, [a, b, c], |ab, c| c - ab),
            Code::Sign => map(dst, a, sign),
            Code::Triple => triple(dst, a, b, c),
            Code::Gated(UnaryOp::Sigmoid) => gated(dst, [a, b, c], math::sigmoid::<FMA>),
            Code::Gated(UnaryOp::Tanh) => gated(dst, [a, b, c], math::tanh::<FMA>),
            Code::Gated(UnaryOp::Exponential) => gated(dst, [a, b, c], math::exp::<FMA>),
            Code::Gated(op) => {
                unary::<FMA>(op, dst, a);
                for (o, b) in dst.iter_mut().zip(b) {
                    *o *= b;
                }
                for (o, c) in dst.iter_mut().zip(c) {
                    *o *= c;
                }
            }
            Code::SignOfProducts { subtract: false } => products(dst, [a, b, c, d], |x, y| sign(x + y)),
            Code::SignOfProducts { subtract: true } => products(dst, [a, b, c, d], |x, y| sign(x - y)),
            Code::LessProducts { subtract: false } => less_products(dst, [a, b, c, d], |x, y| x + y),
            Code::LessProducts { subtract: true } => less_products(dst, [a, b, c, d], |x, y| x - y),
            Code::ByRow(op) => {
                let [left, right, ..] = &ready.sources;
                for (row, line) in dst.chunks_exact_mut(tile.cols).enumerate() {
                    let (a, b) = (of_row(left, a, row, tile), of_row(right, b, row, tile));
                    binary(op, line, a, b);
                }
            }
            Code::Dot => dots(dst, a, b, tile.cols),
            Code::Reduce(Reduction::Sum) => sums(dst, a, tile.cols),
            Code::Reduce(Reduction::Maximum) => maxima(dst, a, tile.cols),
        }
    }
}

// Functions of their own: inside the large one above their sums would not be
// kept in vectors.

multiversion! { fn dots(dst: &mut [f32], a: &[f32], b: &[f32], cols: usize) = dots_body }
multiversion! { fn sums(dst: &mut [f32], a: &[f32], cols: usize) = sums_body }
multiversion! { fn maxima(dst: &mut [f32], a: &[f32], cols: usize) = maxima_body }

#[inline(always)]
fn dots_body<const FMA: bool>(dst: &mut [f32], a: &[f32], b: &[f32], cols: usize) {
    for (d, (a, b)) in dst.iter_mut().zip(a.chunks_exact(cols).zip(b.chunks_exact(cols))) {
        *d = dot::<FMA>(a, b);
    }
}

#[inline(always)]
fn sums_body<const FMA: bool>(dst: &mut [f32], a: &[f32], cols: usize) {
    for (d, line) in dst.iter_mut().zip(a.chunks_exact(cols)) {
        *d = sum::<FMA>(line);
    }
}

#[inline(always)]
fn maxima_body<const FMA: bool>(dst: &mut [f32], a: &[f32], cols: usize) {
    for (d, line) in dst.iter_mut().zip(a.chunks_exact(cols)) {
        *d = maximum(line);
    }
}

/// What one row of a tile reads: its elements, its value, or the uniform one.
#[inline(always)]
fn of_row<'a>(place: &Place, values: &'a [f32], row: usize, tile: Tile) -> &'a [f32] {
    match place.length {
        Length::Rows => &values[row..row + 1],
        Length::One => values,
        Length::None | Length::Tile | Length::Cols => &values[row * tile.cols..][..tile.cols],
    }
}

#[inline(always)]
fn map(dst: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32) {
    for (d, a) in dst.iter_mut().zip(a) {
        *d = f(*a);
    }
}

#[inline(always)]
fn zip(dst: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        // A uniform operand has one element. (So has each in a tile of one.)
        ([a], b) if dst.len() > 1 => dst.iter_mut().zip(b).for_each(|(d, b)| *d = f(*a, *b)),
        (a, [b]) if dst.len() > 1 => dst.iter_mut().zip(a).for_each(|(d, a)| *d = f(*a, *b)),
        (a, b) => {
            for ((d, a), b) in dst.iter_mut().zip(a).zip(b) {
                *d = f(*a, *b);
            }
        }
    }
}

/// f(a·b, c·d), where a and c may be uniform.
#[inline(always)]
fn products(dst: &mut [f32], [a, b, c, d]: [&[f32]; 4], f: impl Fn(f32, f32) -> f32) {
    let outputs = dst.iter_mut().zip(b).zip(d);
    match (a, c) {
        ([a], [c]) => outputs.for_each(|((o, b), d)| *o = f(a * b, c * d)),
        ([a], c) => outputs.zip(c).for_each(|(((o, b), d), c)| *o = f(a * b, c * d)),
        (a, [c]) => outputs.zip(a).for_each(|(((o, b), d), a)| *o = f(a * b, c * d)),
        (a, c) => outputs.zip(a).zip(c).for_each(|((((o, b), d), a), c)| *o = f(a * b, c * d)),
    }
}

#[inline(always)]
fn sign(x: f32) -> f32 {
    let (up, down) = (if x > 0.0 { 1.0 } else { 0.0 }, if -x > 0.0 { 1.0 } else { 0.0 });
    up - down
}

/// a·b·c.
#[inline(always)]
fn triple(dst: &mut [f32], a: &[f32], b: &[f32], c: &[f32]) {
    for (((o, a), b), c) in dst.iter_mut().zip(a).zip(b).zip(c) {
        *o = a * b * c;
    }
}

/// f(a)·b, and ·c if there is one.
#[inline(always)]
fn gated(dst: &mut [f32], [a, b, c]: [&[f32]; 3], f: impl Fn(f32) -> f32) {
    let outputs = dst.iter_mut().zip(a).zip(b);
    if c.is_empty() {
        outputs.for_each(|((o, a), b)| *o = f(*a) * b);
    } else {
        outputs.zip(c).for_each(|(((o, a), b), c)| *o = f(*a) * b * c);
    }
}

/// d − f(a·b, c·d), where a and c may be uniform.
#[inline(always)]
fn less_products(dst: &mut [f32], [a, b, c, d]: [&[f32]; 4], f: impl Fn(f32, f32) -> f32) {
    let outputs = dst.iter_mut().zip(b).zip(d);
    match (a, c) {
        ([a], [c]) => outputs.for_each(|((o, b), d)| *o = d - f(a * b, c * d)),
        ([a], c) => outputs.zip(c).for_each(|(((o, b), d), c)| *o = d - f(a * b, c * d)),
        (a, [c]) => outputs.zip(a).for_each(|(((o, b), d), a)| *o = d - f(a * b, c * d)),
        (a, c) => outputs.zip(a).zip(c).for_each(|((((o, b), d), a), c)| *o = d - f(a * b, c * d)),
    }
}

/// f(a·b, c), where a and c may be uniform.
#[inline(always)]
fn product(dst: &mut [f32], [a, b, c]: [&[f32]; 3], f: impl Fn(f32, f32) -> f32) {
    let outputs = dst.iter_mut().zip(b);
    match (a, c) {
        ([a], [c]) => outputs.for_each(|(o, b)| *o = f(a * b, *c)),
        ([a], c) => outputs.zip(c).for_each(|((o, b), c)| *o = f(a * b, *c)),
        (a, [c]) => outputs.zip(a).for_each(|((o, b), a)| *o = f(a * b, *c)),
        (a, c) => outputs.zip(a).zip(c).for_each(|(((o, b), a), c)| *o = f(a * b, *c)),
    }
}

#[inline(always)]
fn unary<const FMA: bool>(op: UnaryOp, dst: &mut [f32], a: &[f32]) {
    match op {
        UnaryOp::Negate => map(dst, a, |x| -x),
        UnaryOp::Absolute => map(dst, a, f32::abs),
        UnaryOp::Reciprocal => map(dst, a, |x| 1.0 / x),
        UnaryOp::Square => map(dst, a, |x| x * x),
        UnaryOp::SquareRoot => map(dst, a, f32::sqrt),
        UnaryOp::ReciprocalSquareRoot => map(dst, a, |x| 1.0 / x.sqrt()),
        UnaryOp::Exponential => map(dst, a, math::exp::<FMA>),
        UnaryOp::Logarithm => map(dst, a, math::ln::<FMA>),
        UnaryOp::Tanh => map(dst, a, math::tanh::<FMA>),
        UnaryOp::Sigmoid => map(dst, a, math::sigmoid::<FMA>),
        // NaN stays NaN.
        UnaryOp::Relu => map(dst, a, |x| if x <= 0.0 { 0.0 } else { x }),
        UnaryOp::Step => map(dst, a, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        UnaryOp::Sine => map(dst, a, f32::sin),
        UnaryOp::Cosine => map(dst, a, f32::cos),
        UnaryOp::Floor => map(dst, a, f32::floor),
    }
}

#[inline(always)]
fn binary(op: BinaryOp, dst: &mut [f32], a: &[f32], b: &[f32]) {
    match op {
        BinaryOp::Add => zip(dst, a, b, |a, b| a + b),
        BinaryOp::Subtract => zip(dst, a, b, |a, b| a - b),
        BinaryOp::Multiply => zip(dst, a, b, |a, b| a * b),
        BinaryOp::Divide => zip(dst, a, b, |a, b| a / b),
        BinaryOp::Minimum => zip(dst, a, b, smaller),
        BinaryOp::Maximum => zip(dst, a, b, larger),
        BinaryOp::LessThan => zip(dst, a, b, |a, b| if a < b { 1.0 } else { 0.0 }),
        BinaryOp::Power => zip(dst, a, b, f32::powf),
    }
}
