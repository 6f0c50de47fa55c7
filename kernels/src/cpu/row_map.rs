//! The tile interpreter of row kernels.
//!
//! Each instruction runs over a whole tile, so its dispatch is paid once per
//! about a thousand elements, and its loop is vector code over registers that
//! stay in L1. All stores of a tile come after all its reads, which is what
//! makes in-place updates sound.

use std::cell::Cell;

use super::simd::{dot, larger, maximum, multiversion, smaller, sum};
use super::{Output, Split, math};
use crate::op::{BinaryOp, Layout, Reduction, UnaryOp};
use crate::row_kernel::{Code, Instruction, MAX_INPUTS, MAX_STORES, Program, Register, Source};
use crate::table::{Span, Table};

/// Elements of a task, at least a tile.
const TASK: usize = 16_384;

/// Most floats of a program whose registers a thread keeps for the next.
const KEPT: usize = 1 << 20;

/// Floats of a cache line, which no vector of a register straddles.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _floats: [f32; LINE],
}

/// The value of an instruction, in a tile.
#[derive(Default)]
struct Values(Vec<Line>);

impl Values {
    fn get(&self, len: usize) -> &[f32] {
        assert!(len.div_ceil(LINE) <= self.0.len());
        // SAFETY: a line is sixteen floats and nothing else, and there are
        // enough of them (checked); the property tests read every element.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }

    fn get_mut(&mut self, len: usize) -> &mut [f32] {
        assert!(len.div_ceil(LINE) <= self.0.len());
        // SAFETY: as in `get`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// The registers of a task, each on its own, so that the result is taken out
/// while the operands are read.
#[derive(Default)]
struct Files {
    element: Vec<Values>,
    row: Vec<Values>,
}

thread_local! {
    static FILES: Cell<Files> = const { Cell::new(Files { element: Vec::new(), row: Vec::new() }) };
}

impl Files {
    fn grow(&mut self, program: &Program) {
        let size = |file: &mut Vec<Values>, count: usize, len: usize| {
            if file.len() < count {
                file.resize_with(count, Values::default);
            }
            for Values(lines) in &mut file[..count] {
                if lines.len() < len.div_ceil(LINE) {
                    lines.resize(len.div_ceil(LINE), Line { _floats: [0.0; LINE] });
                }
            }
        };
        let tile = program.tile_rows * program.tile_cols;
        size(&mut self.element, program.element_registers, tile);
        size(&mut self.row, program.row_registers, program.tile_rows);
    }
}

/// An input that may be the very range of a store, so never a long-lived `&`.
#[derive(Clone, Copy)]
struct Input {
    base: *const f32,
    len: usize,
}

// SAFETY: an address and a length; see `Input::range` for its use.
unsafe impl Send for Input {}
// SAFETY: as above.
unsafe impl Sync for Input {}

impl Input {
    /// # Safety
    /// No store to the range happens while the slice is alive. Tasks only
    /// store inside their own tiles, after the tile's reads.
    unsafe fn range<'a>(self, start: usize, len: usize) -> &'a [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), not written (the caller's promise).
        unsafe { std::slice::from_raw_parts(self.base.add(start), len) }
    }
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

pub(crate) fn run(split: Split, t: &Table, program: &Program, inputs: &[Span], stores: &[Span]) {
    let inputs: Vec<Input> = inputs.iter().map(|&s| Input { base: t.f32_ptr(s), len: s.len }).collect();
    let stores: Vec<Output> = stores
        .iter()
        // SAFETY: the validator lists them as outputs of this step.
        .map(|&s| unsafe { Output::from_raw(t.f32_ptr(s), s.len) })
        .collect();
    let direct = direct(program, &inputs, &stores);
    let down = program.rows.div_ceil(program.tile_rows);
    let across = program.cols.div_ceil(program.tile_cols);
    let tiles = down * across;
    let group = (TASK / (program.tile_rows * program.tile_cols)).max(1);
    split.each(tiles.div_ceil(group), |task| {
        let mut files = FILES.take();
        files.grow(program);
        let whole = Tile { row: 0, rows: program.tile_rows, col: 0, cols: program.tile_cols, start: 0 };
        execute(&program.prologue, &mut files, &inputs, whole, None, &[]);
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
            // SAFETY: tiles do not overlap, each belongs to one task, and the
            // output is the range of no input (see `direct`).
            let out = direct.map(|k| unsafe { stores[k].range(tile.start, tile.rows * tile.cols) });
            let next = tile.start + program.tile_rows * program.tile_cols;
            let mut ahead = [std::ptr::null(); MAX_INPUTS + MAX_STORES];
            let mut count = 0;
            let ranges = inputs.iter().map(|i| (i.base, i.len));
            for (base, len) in ranges.chain(stores.iter().map(|s| (s.at(0).cast_const(), s.len()))) {
                // Those of a value per element. In place, a store is an input.
                if len > next && !ahead[..count].contains(&base.wrapping_add(next)) {
                    ahead[count] = base.wrapping_add(next);
                    count += 1;
                }
            }
            execute(&program.body, &mut files, &inputs, tile, out, &ahead[..count]);
            store(program, &files, &stores, tile, direct);
        }
        if program.tile_rows * program.tile_cols * program.element_registers <= KEPT {
            FILES.set(files);
        }
    });
}

/// The store whose value the last instruction makes: that may write it where
/// it belongs, unless an input is the same range.
fn direct(program: &Program, inputs: &[Input], stores: &[Output]) -> Option<usize> {
    let last = program.body.last()?.dst;
    let mut of_last = program.stores.iter().enumerate().filter(|(_, (register, _))| *register == last);
    let (k, (register, layout)) = of_last.next()?;
    let whole = matches!(register, Register::Element(_)) && *layout == Layout::Element;
    let base = stores[k].at(0).cast_const();
    let apart = inputs.iter().all(|input| input.base != base);
    (whole && apart && of_last.next().is_none()).then_some(k)
}

fn store(program: &Program, files: &Files, stores: &[Output], tile: Tile, direct: Option<usize>) {
    for (k, ((register, layout), output)) in program.stores.iter().zip(stores).enumerate() {
        if direct == Some(k) {
            continue;
        }
        match (register, layout) {
            (Register::Element(slot), Layout::Element) => {
                let count = tile.rows * tile.cols;
                // SAFETY: tiles do not overlap, each belongs to one task, and
                // no slice of an input is alive here.
                let out = unsafe { output.range(tile.start, count) };
                out.copy_from_slice(files.element[*slot].get(count));
            }
            (Register::Row(slot), _) if tile.col == 0 => {
                // SAFETY: as above; of the tiles of a row the first stores.
                let out = unsafe { output.range(tile.row, tile.rows) };
                out.copy_from_slice(files.row[*slot].get(tile.rows));
            }
            _ => {}
        }
    }
}

fn read<'a>(source: &'a Option<Source>, files: &'a Files, inputs: &[Input], tile: Tile) -> &'a [f32] {
    // SAFETY (all ranges): the slices end before the tile is stored.
    match *source {
        None => &[],
        Some(Source::Constant(ref value)) => std::slice::from_ref(value),
        // SAFETY: see above; a scalar is never the range of a store.
        Some(Source::ScalarInput(k)) => unsafe { inputs[k].range(0, 1) },
        Some(Source::Register(Register::Element(s))) => files.element[s].get(tile.rows * tile.cols),
        Some(Source::Register(Register::Row(s))) => files.row[s].get(tile.rows),
        // SAFETY: see above.
        Some(Source::ElementInput(k)) => unsafe { inputs[k].range(tile.start, tile.rows * tile.cols) },
        // SAFETY: see above.
        Some(Source::RowInput(k)) => unsafe { inputs[k].range(tile.row, tile.rows) },
        // SAFETY: see above.
        Some(Source::ColInput(k)) => unsafe { inputs[k].range(tile.col, tile.cols) },
    }
}

multiversion! {
    /// Runs the instructions; the last one's result goes to `out`, if given.
    /// Meanwhile as many elements from each address in `ahead` are asked for.
    fn execute(
        list: &[Instruction],
        files: &mut Files,
        inputs: &[Input],
        tile: Tile,
        out: Option<&mut [f32]>,
        ahead: &[*const f32],
    ) = execute_body
}

#[inline(always)]
fn execute_body<const FMA: bool>(
    list: &[Instruction],
    files: &mut Files,
    inputs: &[Input],
    tile: Tile,
    mut out: Option<&mut [f32]>,
    ahead: &[*const f32],
) {
    let share = (tile.rows * tile.cols).div_ceil(list.len().max(1));
    for (at, instruction) in list.iter().enumerate() {
        for &from in ahead {
            prefetch(from.wrapping_add(at * share), share);
        }
        // The result leaves its file while the operands are read: the
        // allocator never gives it an operand's register.
        let (mut result, len) = match instruction.dst {
            Register::Element(s) => (std::mem::take(&mut files.element[s]), tile.rows * tile.cols),
            Register::Row(s) => (std::mem::take(&mut files.row[s]), tile.rows),
        };
        let dst = match &mut out {
            Some(out) if at + 1 == list.len() => &mut out[..len],
            _ => result.get_mut(len),
        };
        let [a, b, c, d] = instruction.sources.each_ref().map(|source| read(source, files, inputs, tile));
        match instruction.code {
            Code::Load => dst.copy_from_slice(a),
            Code::Constant(value) => dst.fill(value),
            // SAFETY: a scalar is never the range of a store.
            Code::Scalar(k) => dst.fill(unsafe { inputs[k].range(0, 1) }[0]),
            Code::Spread(k) => {
                // SAFETY: a per-column input is never the range of a store.
                let row = unsafe { inputs[k].range(0, tile.cols) };
                for line in dst.chunks_exact_mut(tile.cols) {
                    line.copy_from_slice(row);
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
            Code::Sign => map(dst, a, |x| {
                let (up, down) = (if x > 0.0 { 1.0 } else { 0.0 }, if -x > 0.0 { 1.0 } else { 0.0 });
                up - down
            }),
            Code::ByRow(op) => {
                let [left, right, ..] = instruction.sources;
                for (row, line) in dst.chunks_exact_mut(tile.cols).enumerate() {
                    let (a, b) = (of_row(&left, a, row, tile), of_row(&right, b, row, tile));
                    binary(op, line, a, b);
                }
            }
            Code::Dot => {
                let lines = a.chunks_exact(tile.cols).zip(b.chunks_exact(tile.cols));
                for (d, (a, b)) in dst.iter_mut().zip(lines) {
                    *d = dot::<FMA>(a, b);
                }
            }
            Code::Reduce(Reduction::Sum) => {
                for (d, line) in dst.iter_mut().zip(a.chunks_exact(tile.cols)) {
                    *d = sum(line);
                }
            }
            Code::Reduce(Reduction::Maximum) => {
                for (d, line) in dst.iter_mut().zip(a.chunks_exact(tile.cols)) {
                    *d = maximum(line);
                }
            }
        }
        match instruction.dst {
            Register::Element(s) => files.element[s] = result,
            Register::Row(s) => files.row[s] = result,
        }
    }
}

/// Asks for `len` elements that are read soon, to be brought into L2: a tile is
/// too short for the processor to foresee the next.
#[inline(always)]
fn prefetch(from: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it may be given any
        // address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, len);
}

/// What one row of a tile reads: its elements, its value, or the uniform one.
#[inline(always)]
fn of_row<'a>(source: &Option<Source>, values: &'a [f32], row: usize, tile: Tile) -> &'a [f32] {
    match source {
        Some(Source::Register(Register::Row(_)) | Source::RowInput(_)) => &values[row..row + 1],
        Some(Source::Constant(_) | Source::ScalarInput(_)) => values,
        _ => &values[row * tile.cols..][..tile.cols],
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
