//! Row kernels on the card: compiled from PTX where that can be had, else the
//! program is sent along, and a block interprets it tile by tile.

use super::arguments::{CompiledRows, Instruction as Encoded, RowMap, RowStore};
use super::driver::{Address, Kernel, Module, Shape};
use super::{Cuda, THREADS, WARPS, address, ptx};
use crate::Error;
use crate::op::{BinaryOp, DType, Layout, Reduction, UnaryOp};
use crate::row_kernel::{Code, Instruction, Program, Register, Source};
use crate::table::{Span, Table};

/// Blocks for each multiprocessor.
const BLOCKS_EACH: usize = 4;
/// The same of a compiled kernel, whose blocks have less in flight.
const COMPILED_BLOCKS_EACH: usize = 8;
/// Most texts that are compiled for a device, which is one tenant's: each
/// takes the driver some 50 ms. Kernels beyond them are interpreted.
const MOST_COMPILED: usize = 128;

pub(super) fn run(
    cuda: &mut Cuda,
    t: &Table,
    program: &Program,
    inputs: &[Span],
    stores: &[Span],
) -> Result<(), Error> {
    match compiled(cuda, program)? {
        Some((kernel, whole_rows)) => launch(cuda, t, program, inputs, stores, kernel, whole_rows),
        None => interpret(cuda, t, program, inputs, stores),
    }
}

/// The kernel of a program, and whether it takes whole rows.
fn compiled(cuda: &mut Cuda, program: &Program) -> Result<Option<(Kernel, bool)>, Error> {
    if !cuda.driver.card.compiles {
        return Ok(None);
    }
    let key = key(program);
    if !cuda.row_kernels.contains_key(&key) {
        if cuda.row_kernels.len() >= MOST_COMPILED {
            return Ok(None);
        }
        let made = match ptx::emit(program) {
            Some(ptx::Text { text, whole_rows }) => {
                let module = Module::compile(&cuda.driver, &text, ptx::NAME)?;
                module.map(|module| (module, whole_rows))
            }
            None => None,
        };
        cuda.row_kernels.insert(key.clone(), made);
    }
    let known = cuda.row_kernels.get(&key).and_then(Option::as_ref);
    Ok(known.map(|(module, whole_rows)| (module.kernel(), *whole_rows)))
}

/// All that a program's text depends on.
fn key(program: &Program) -> Vec<u32> {
    let mut key = vec![u32::from(program.cols >= ptx::LEAST_COLS), u32::from(program.cols <= ptx::PIECE)];
    for instruction in program.plain.prologue.iter().chain(&program.plain.body).map(encode) {
        key.extend([instruction.code, instruction.dst_is_row, instruction.dst, instruction.operand]);
        key.extend(instruction.source_kind);
        key.extend(instruction.source);
    }
    for ((register, layout), dtype) in program.plain.stores.iter().zip(&program.store_types) {
        let (is_row, slot) = place(*register);
        let half = u32::from(*dtype == DType::Bf16);
        key.extend([is_row, slot, u32::from(*layout == Layout::Element), half]);
    }
    key
}

fn launch(
    cuda: &mut Cuda,
    t: &Table,
    program: &Program,
    inputs: &[Span],
    stores: &[Span],
    kernel: Kernel,
    whole_rows: bool,
) -> Result<(), Error> {
    let mut operands = [0; ptx::INPUTS + ptx::STORES];
    for (to, span) in operands.iter_mut().zip(inputs) {
        *to = address(t, *span);
    }
    for (to, span) in operands.iter_mut().skip(ptx::INPUTS).zip(stores) {
        *to = address(t, *span);
    }
    let pieces = if whole_rows { 1 } else { program.cols.div_ceil(ptx::PIECE) };
    let units = program.rows * pieces;
    let most = cuda.driver.card.multiprocessors as usize * COMPILED_BLOCKS_EACH;
    let blocks = units.div_ceil(WARPS as usize).min(most) as u64;
    let a = CompiledRows { operands, units: units as u64, pieces: pieces as u64, cols: program.cols as u64 };
    let shape = Shape { blocks, threads: THREADS as u32, shared_bytes: 0 };
    // SAFETY: the text reads inputs and writes stores within rows × cols, as
    // the program does, which is validated; the arguments are what it declares.
    unsafe { cuda.driver.launch(kernel, shape, a) }
}

fn interpret(
    cuda: &mut Cuda,
    t: &Table,
    program: &Program,
    inputs: &[Span],
    stores: &[Span],
) -> Result<(), Error> {
    let list: Vec<Encoded> = program.plain.prologue.iter().chain(&program.plain.body).map(encode).collect();
    let inputs: Vec<Address> = inputs.iter().map(|&span| address(t, span)).collect();
    let stores: Vec<RowStore> = program
        .plain
        .stores
        .iter()
        .zip(&program.store_types)
        .zip(stores)
        .map(|(((register, layout), dtype), &span)| {
            let (_, slot) = place(*register);
            let kind = match (layout, dtype) {
                (Layout::Element, DType::Bf16) => 2,
                (Layout::Element, _) => 0,
                _ => 1,
            };
            RowStore { dst: address(t, span), kind, slot }
        })
        .collect();

    let tiles = program.rows.div_ceil(program.tile_rows) * program.cols.div_ceil(program.tile_cols);
    let blocks = tiles.min(cuda.driver.card.multiprocessors as usize * BLOCKS_EACH);
    let element_words = program.plain.element_registers * program.tile_rows * program.tile_cols;
    let row_words = program.plain.row_registers * program.tile_rows;
    let fits = (element_words + row_words) * 4 <= cuda.driver.card.shared_bytes;
    let scratch_words = if fits { 0 } else { blocks * element_words };

    // One buffer: scratch, then inputs, stores and instructions, each aligned
    // to 16 bytes.
    let parts = [scratch_words * 4, size_of_val(&*inputs), size_of_val(&*stores), size_of_val(&*list)];
    let mut starts = [0usize; 4];
    for i in 1..4 {
        starts[i] = starts[i - 1] + parts[i - 1].next_multiple_of(16);
    }
    let buffer = cuda.scratch(starts[3] + parts[3])?;
    let [scratch, at_inputs, at_stores, at_list] = starts.map(|start| buffer + start as Address);
    cuda.driver.upload(at_inputs, &inputs)?;
    cuda.driver.upload(at_stores, &stores)?;
    cuda.driver.upload(at_list, &list)?;
    let a = RowMap {
        instructions: at_list,
        inputs: at_inputs,
        stores: at_stores,
        scratch: if fits { 0 } else { scratch },
        rows: program.rows as u64,
        cols: program.cols as u64,
        tile_rows: program.tile_rows as u64,
        tile_cols: program.tile_cols as u64,
        prologue: program.plain.prologue.len() as u32,
        body: program.plain.body.len() as u32,
        store_count: stores.len() as u32,
        element_registers: program.plain.element_registers as u32,
        row_registers: program.plain.row_registers as u32,
    };
    let shared = if fits { element_words + row_words } else { row_words } * 4;
    // SAFETY: the program is validated: every source is an input, or a
    // register below the counts; the buffer holds what the addresses name.
    unsafe { cuda.launch("row_map", blocks, shared.max(4), a) }
}

fn place(register: Register) -> (u32, u32) {
    match register {
        Register::Element(slot) => (0, slot as u32),
        Register::Row(slot) => (1, slot as u32),
    }
}

fn encode(instruction: &Instruction) -> Encoded {
    let (dst_is_row, dst) = place(instruction.dst);
    let (code, operand) = code(instruction.code);
    let sources = instruction.sources.map(|source| match source {
        None => (0, 0),
        Some(Source::Register(Register::Element(slot))) => (1, slot as u32),
        Some(Source::Register(Register::Row(slot))) => (2, slot as u32),
        Some(Source::ElementInput(k)) => (3, k as u32),
        Some(Source::RowInput(k)) => (4, k as u32),
        Some(Source::ColInput(k)) => (5, k as u32),
        Some(Source::Constant(value)) => (6, value.to_bits()),
        Some(Source::ScalarInput(k)) => (7, k as u32),
    });
    Encoded {
        code,
        dst_is_row,
        dst,
        source_kind: sources.map(|(kind, _)| kind),
        source: sources.map(|(_, at)| at),
        operand,
    }
}

/// The number of a code in row_map.cu, and its operand.
fn code(code: Code) -> (u32, u32) {
    match code {
        Code::Load => (0, 0),
        Code::Constant(value) => (1, value.to_bits()),
        Code::Scalar(k) => (2, k as u32),
        Code::Spread(k) => (3, k as u32),
        Code::ColIndex => (4, 0),
        Code::Broadcast => (5, 0),
        Code::Select => (6, 0),
        Code::Reduce(Reduction::Sum) => (7, 0),
        Code::Reduce(Reduction::Maximum) => (8, 0),
        Code::Unary(op) => {
            let at = match op {
                UnaryOp::Negate => 0,
                UnaryOp::Absolute => 1,
                UnaryOp::Reciprocal => 2,
                UnaryOp::Square => 3,
                UnaryOp::SquareRoot => 4,
                UnaryOp::ReciprocalSquareRoot => 5,
                UnaryOp::Exponential => 6,
                UnaryOp::Logarithm => 7,
                UnaryOp::Tanh => 8,
                UnaryOp::Sigmoid => 9,
                UnaryOp::Relu => 10,
                UnaryOp::Step => 11,
                UnaryOp::Sine => 12,
                UnaryOp::Cosine => 13,
                UnaryOp::Floor => 14,
            };
            (9 + at, 0)
        }
        // Where an operand lies says whether it is of its row.
        Code::Binary(op) | Code::ByRow(op) => {
            let at = match op {
                BinaryOp::Add => 0,
                BinaryOp::Subtract => 1,
                BinaryOp::Multiply => 2,
                BinaryOp::Divide => 3,
                BinaryOp::Minimum => 4,
                BinaryOp::Maximum => 5,
                BinaryOp::LessThan => 6,
                BinaryOp::Power => 7,
            };
            (24 + at, 0)
        }
        Code::Products { subtract } => (32 + u32::from(subtract), 0),
        Code::ProductThen { subtract } => (34 + u32::from(subtract), 0),
        Code::ThenProduct { subtract } => (36 + u32::from(subtract), 0),
        Code::Sign => (38, 0),
        Code::Dot => (39, 0),
        Code::Widen(k) => (40, k as u32),
        Code::Triple
        | Code::Gated(_)
        | Code::SignOfProducts { .. }
        | Code::LessProducts { .. }
        | Code::Twins { .. }
        | Code::ThenCube(_)
        | Code::Shaped(..) => unreachable!("not in a plain listing"),
    }
}
