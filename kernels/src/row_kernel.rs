//! Row kernels: an expression that a guest wrote becomes a program for the
//! tile interpreter.
//!
//! A node has a *rate*: `Element` (a value per element) or `Row` (one per
//! row; constants and scalars are of this rate too). An operation runs at the
//! rate of its fastest operand, and slower operands are broadcast once. Dead
//! nodes are dropped, and chains whose middles nobody reads are fused. There is
//! no machine code made at run time: a worker's lock-down forbids executable
//! memory, so a just-in-time compiler could not run where guests do. How
//! near kernels come to loops written by hand is measured by
//! `examples/rows.rs`; where that counts the built-in operations are better.
//! Registers are given out by a linear scan; a result
//! never shares a register with an operand of its own instruction.
//!
//! Everything is computed in `f32`. An input of bfloat16 is widened into a
//! register by an instruction of its own, and a store of it is rounded when a
//! tile is stored, so kernels without one are as if there were none.

mod fuse;

use crate::Error;
use crate::TensorId;
use crate::cost::{PER_INSTRUCTION, PER_ROW, binary_weight, unary_weight};
use crate::error::fail;
use crate::op::{BinaryOp, DType, Layout, Node, Reduction, RowMap, UnaryOp};

/// Most nodes of a row kernel.
pub const MAX_NODES: usize = 256;
/// Most inputs of a row kernel.
pub const MAX_INPUTS: usize = 16;
/// Most stores of a row kernel.
pub const MAX_STORES: usize = 8;
/// Elements of a tile: eight registers of it fit in a 32 KiB L1 cache.
pub const TILE: usize = 1024;
/// Elements of a tile of a kernel of few nodes, whose registers are few: its
/// dispatch is then paid more seldom.
const LONG_TILE: usize = 4096;
/// Most element nodes of such a kernel.
const FEW: usize = 4;
/// Most columns × live values of a kernel that reduces, since it holds whole
/// rows.
pub const MAX_ROW_VALUES: usize = 1 << 22;

/// A register: of the element file or of the row file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Register {
    Element(usize),
    Row(usize),
}

/// Where an instruction reads.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Source {
    Register(Register),
    /// Element input k of `f32`, straight from its tensor.
    ElementInput(usize),
    /// Per-row input k.
    RowInput(usize),
    /// Per-column input k; only in tiles of a single row.
    ColInput(usize),
    /// The same everywhere; only of element instructions that can take one.
    Constant(f32),
    /// Scalar input k, as [`Source::Constant`].
    ScalarInput(usize),
}

/// What an instruction does. Operands are in [`Instruction::sources`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Code {
    Load,
    /// Element input k, of bfloat16.
    Widen(usize),
    Constant(f32),
    /// Scalar input k, everywhere.
    Scalar(usize),
    /// Per-column input k, once per row.
    Spread(usize),
    ColIndex,
    /// A row value to every element of its row.
    Broadcast,
    Unary(UnaryOp),
    Binary(BinaryOp),
    Select,
    Reduce(Reduction),
    /// a·b ± c·d; a and c may be uniform.
    Products {
        subtract: bool,
    },
    /// a·b ± c; a and c may be uniform.
    ProductThen {
        subtract: bool,
    },
    /// c ± a·b; a and c may be uniform.
    ThenProduct {
        subtract: bool,
    },
    /// 1, 0 or −1.
    Sign,
    /// Σ a·b of each row.
    Dot,
    /// As `Binary`, with an operand of row rate.
    ByRow(BinaryOp),
    /// a·b·c, the first two first. This and what follows is made for
    /// processors only (see [`Program::fused`]).
    Triple,
    /// op(a)·b, and ·c if there is one.
    Gated(UnaryOp),
    /// 1, 0 or −1 as a·b ± c·d is; a and c may be uniform.
    SignOfProducts {
        subtract: bool,
    },
    /// d − (a·b ± c·d); a and c may be uniform.
    LessProducts {
        subtract: bool,
    },
    /// a·b + c·d or its sign, and f·b + g·d in a register of its own, of uniform
    /// a and c, f and g.
    Twins {
        sign: bool,
        factors: [Source; 2],
        second: Register,
    },
    /// d + (factor·a)·(b·c), of a uniform factor.
    ThenCube(Source),
    /// (plus + op(scale·a))·(factor·b), of what there is; of the uniform scale,
    /// plus and factor in this order.
    Shaped(UnaryOp, [Option<Source>; 3]),
}

/// One step of the interpreter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    pub code: Code,
    pub dst: Register,
    pub sources: [Option<Source>; 4],
}

impl Instruction {
    /// The registers that it writes.
    pub fn results(&self) -> impl Iterator<Item = Register> {
        let second = match self.code {
            Code::Twins { second, .. } => Some(second),
            _ => None,
        };
        [Some(self.dst), second].into_iter().flatten()
    }
}

/// A compiled row kernel over `rows` × `cols`, cut into tiles of `tile_rows`
/// × `tile_cols` (a row of tiles has one tile where `tile_rows` > 1).
#[derive(Debug)]
pub(crate) struct Program {
    pub rows: usize,
    pub cols: usize,
    pub tile_rows: usize,
    pub tile_cols: usize,
    /// Element types of the inputs, and of the stores.
    pub input_types: Vec<DType>,
    pub store_types: Vec<DType>,
    /// For a card, which keeps values in registers.
    pub plain: Listing,
    /// The same bits in fewer passes over a tile.
    pub fused: Listing,
    /// Weighted flops of the whole launch.
    pub flops: u64,
}

/// Instructions, and where they leave what is stored.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Run once per task: what is the same for every tile.
    pub prologue: Vec<Instruction>,
    /// Run once per tile.
    pub body: Vec<Instruction>,
    /// Register and layout of each store, in order.
    pub stores: Vec<(Register, Layout)>,
    pub element_registers: usize,
    pub row_registers: usize,
}

impl Listing {
    /// Gives out registers.
    fn new((mut prologue, mut body, mut stores): Emitted) -> Listing {
        let (element_registers, row_registers) = allocate(&mut prologue, &mut body, &mut stores);
        Listing { prologue, body, stores, element_registers, row_registers }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rate {
    Element,
    Row,
}

/// Operands of a node, in order.
fn operands(node: &Node) -> Vec<u32> {
    match *node {
        Node::Input(_) | Node::Constant(_) | Node::ColIndex => vec![],
        Node::Unary { a, .. } | Node::Reduce { a, .. } => vec![a],
        Node::Binary { a, b, .. } => vec![a, b],
        Node::Select { condition, then, otherwise } => vec![condition, then, otherwise],
    }
}

fn check(op: &RowMap) -> Result<(), Error> {
    if op.rows == 0 || op.cols == 0 {
        return fail!(InvalidArgument, "rows {} × cols {} is empty", op.rows, op.cols);
    }
    for (what, count, most) in [
        ("nodes", op.nodes.len(), MAX_NODES),
        ("inputs", op.inputs.len(), MAX_INPUTS),
        ("stores", op.stores.len(), MAX_STORES),
    ] {
        if count > most {
            return fail!(InvalidArgument, "{count} {what}, at most {most}; split the kernel");
        }
    }
    if op.stores.is_empty() {
        return fail!(InvalidArgument, "the kernel stores nothing");
    }
    for (index, node) in op.nodes.iter().enumerate() {
        if let Node::Input(k) = node
            && *k as usize >= op.inputs.len()
        {
            return fail!(InvalidArgument, "node {index} reads input {k} of {}", op.inputs.len());
        }
        if let Some(a) = operands(node).into_iter().find(|&a| a as usize >= index) {
            return fail!(InvalidArgument, "node {index} uses node {a}, which is not before it");
        }
    }
    Ok(())
}

fn rates(op: &RowMap) -> Vec<Rate> {
    let mut rates: Vec<Rate> = Vec::with_capacity(op.nodes.len());
    for node in &op.nodes {
        let rate = match node {
            Node::Input(k) => match op.inputs[*k as usize].layout {
                Layout::Element | Layout::PerCol => Rate::Element,
                Layout::PerRow | Layout::Scalar => Rate::Row,
            },
            Node::ColIndex => Rate::Element,
            Node::Constant(_) | Node::Reduce { .. } => Rate::Row,
            other if operands(other).iter().any(|&a| rates[a as usize] == Rate::Element) => Rate::Element,
            _ => Rate::Row,
        };
        rates.push(rate);
    }
    rates
}

/// Checks a row kernel (but not its tensors) and compiles it for tensors of
/// these types, of which bfloat16 counts for `Element` operands only.
pub(crate) fn compile(op: &RowMap, dtype: impl Fn(TensorId) -> DType) -> Result<Program, Error> {
    check(op)?;
    let input_types: Vec<DType> = op.inputs.iter().map(|input| dtype(input.tensor)).collect();
    let rates = rates(op);
    for store in &op.stores {
        let Some(&rate) = rates.get(store.node as usize) else {
            return fail!(InvalidArgument, "a store names node {} of {}", store.node, op.nodes.len());
        };
        match store.layout {
            Layout::Element => {}
            Layout::PerRow if rate == Rate::Row => {}
            Layout::PerRow => {
                return fail!(
                    InvalidArgument,
                    "node {} has a value per element and cannot be stored per row; reduce it",
                    store.node
                );
            }
            Layout::PerCol | Layout::Scalar => {
                return fail!(InvalidArgument, "a store's layout is Element or PerRow");
            }
        }
    }
    let mut live = vec![false; op.nodes.len()];
    for store in &op.stores {
        live[store.node as usize] = true;
    }
    for index in (0..op.nodes.len()).rev() {
        if live[index] {
            for a in operands(&op.nodes[index]) {
                live[a as usize] = true;
            }
        }
    }
    let shape = Shape::of(op, &rates, &live);
    let (mut prologue, mut body, stores) = Emitter::emit(op, &input_types, &rates, &live, &shape);
    fuse::fuse(&mut prologue, &mut body, &stores, shape.tile_cols);
    let unfused = (prologue.clone(), body.clone(), stores.clone());
    let plain = Listing::new(unfused.clone());
    fuse::fuse_further(&mut prologue, &mut body, &stores);
    let mut fused = Listing::new((prologue, body, stores));
    // Operands that are read later may live longer.
    let too_many = |listing: &Listing| {
        shape.reduces && listing.element_registers.saturating_mul(shape.tile_cols) > MAX_ROW_VALUES
    };
    if too_many(&fused) {
        fused = Listing::new(unfused);
    }
    let registers = plain.element_registers;
    if too_many(&plain) {
        return fail!(
            InvalidArgument,
            "{} columns × {} live values exceed {MAX_ROW_VALUES}; split the kernel or the columns",
            shape.cols,
            registers
        );
    }
    let codes: Vec<Code> = plain.body.iter().map(|instruction| instruction.code).collect();
    Ok(Program {
        rows: shape.rows,
        cols: shape.cols,
        tile_rows: shape.tile_rows,
        tile_cols: shape.tile_cols,
        input_types,
        store_types: op.stores.iter().map(|store| dtype(store.tensor)).collect(),
        plain,
        fused,
        flops: flops(op, &rates).saturating_add(overhead(&shape, &codes, registers)),
    })
}

fn flops(op: &RowMap, rates: &[Rate]) -> u64 {
    let rows = u64::from(op.rows);
    let elements = rows * u64::from(op.cols);
    op.nodes.iter().zip(rates).fold(0u64, |sum, (node, rate)| {
        let weight = match node {
            Node::Unary { op, .. } => unary_weight(*op),
            Node::Binary { op, .. } => binary_weight(*op),
            Node::Select { .. } | Node::Reduce { .. } => 1,
            Node::Input(_) | Node::Constant(_) | Node::ColIndex => 0,
        };
        let wide = *rate == Rate::Element || matches!(node, Node::Reduce { .. });
        let count = if wide { elements } else { rows };
        sum.saturating_add(weight.saturating_mul(count))
    })
}

/// Registers of a tile that stay in a second-level cache, in bytes.
const NEAR: usize = 1 << 18;
/// Registers of a tile that stay in any cache.
const IN_CACHE: usize = 1 << 20;

/// What the interpreter costs beyond the arithmetic: instructions that are
/// begun, rows that are gone through one by one, column numbers that are made,
/// and registers that do not fit a cache.
fn overhead(shape: &Shape, body: &[Code], registers: usize) -> u64 {
    let (rows, cols) = (shape.rows as u64, shape.cols as u64);
    let elements = rows.saturating_mul(cols);
    let tiles = rows.div_ceil(shape.tile_rows as u64).saturating_mul(cols.div_ceil(shape.tile_cols as u64));
    let count = |is: fn(&Code) -> bool| body.iter().filter(|code| is(code)).count() as u64;
    let by_row = count(|code| {
        matches!(code, Code::Broadcast | Code::ByRow(_) | Code::Dot | Code::Reduce(_) | Code::Spread(_))
    });
    let numbers = count(|code| matches!(code, Code::ColIndex));
    let held = registers.saturating_mul(shape.tile_rows * shape.tile_cols).saturating_mul(4);
    let far = if held <= NEAR {
        0
    } else if held <= IN_CACHE {
        8
    } else {
        48
    };
    let instructions = body.len() as u64;
    let begun = instructions.saturating_mul(tiles).saturating_mul(PER_INSTRUCTION);
    let along = by_row.saturating_mul(rows).saturating_mul(PER_ROW);
    let each = numbers.saturating_mul(4).saturating_add(instructions.saturating_mul(far));
    begun.saturating_add(along).saturating_add(elements.saturating_mul(each))
}

/// The iteration space after flattening, and its tiles.
struct Shape {
    rows: usize,
    cols: usize,
    tile_rows: usize,
    tile_cols: usize,
    reduces: bool,
}

impl Shape {
    fn of(op: &RowMap, rates: &[Rate], live: &[bool]) -> Shape {
        let nodes = || op.nodes.iter().zip(live).filter(|(_, live)| **live).map(|(node, _)| node);
        let reduces = nodes().any(|n| matches!(n, Node::Reduce { .. }));
        let element_wise = rates.iter().zip(live).any(|(r, live)| *live && *r == Rate::Element)
            || op.stores.iter().any(|s| s.layout == Layout::Element)
            || reduces;
        let needs_rows = reduces
            || op.stores.iter().any(|s| s.layout == Layout::PerRow)
            || nodes().any(|n| match n {
                Node::ColIndex => true,
                Node::Input(k) => {
                    matches!(op.inputs[*k as usize].layout, Layout::PerRow | Layout::PerCol)
                }
                _ => false,
            });
        let (mut rows, mut cols) = (op.rows as usize, op.cols as usize);
        if !element_wise {
            cols = 1;
        } else if !needs_rows {
            // Element-wise throughout: one long row. An Element store exists,
            // so the product is the length of a tensor.
            (rows, cols) = (1, rows.saturating_mul(cols));
        }
        let wide = rates.iter().zip(live).filter(|(rate, live)| **live && **rate == Rate::Element);
        let tile = if wide.count() <= FEW { LONG_TILE } else { TILE };
        let (tile_rows, tile_cols) = if cols > tile {
            (1, if reduces { cols } else { tile })
        } else {
            ((tile / cols).min(rows), cols)
        };
        Shape { rows, cols, tile_rows, tile_cols, reduces }
    }
}

/// Emits instructions with virtual registers: every result its own.
struct Emitter<'a> {
    shape: &'a Shape,
    /// Of the inputs.
    types: &'a [DType],
    prologue: Vec<Instruction>,
    body: Vec<Instruction>,
    elements: usize,
    rows: usize,
    /// The column numbers, once some node asked for them.
    columns: Option<Source>,
    /// Inputs of bfloat16 that were widened.
    widened: [Option<Source>; MAX_INPUTS],
    /// Where each node's value lies, at element and at row rate.
    as_element: Vec<Option<Source>>,
    as_row: Vec<Option<Source>>,
}

type Emitted = (Vec<Instruction>, Vec<Instruction>, Vec<(Register, Layout)>);

impl<'a> Emitter<'a> {
    fn emit(op: &RowMap, types: &'a [DType], rates: &[Rate], live: &[bool], shape: &'a Shape) -> Emitted {
        let count = op.nodes.len();
        let mut this = Emitter {
            shape,
            types,
            prologue: Vec::new(),
            body: Vec::new(),
            elements: 0,
            rows: 0,
            columns: None,
            widened: [None; MAX_INPUTS],
            as_element: vec![None; count],
            as_row: vec![None; count],
        };
        for index in (0..count).filter(|&i| live[i]) {
            this.node(op, rates, index);
        }
        let mut stores = Vec::with_capacity(op.stores.len());
        for store in &op.stores {
            let index = store.node as usize;
            let (source, rate) = match store.layout {
                Layout::Element => (this.element(op, index), Rate::Element),
                _ => (this.row(op, index), Rate::Row),
            };
            let register = match source {
                Source::Register(register) => register,
                input => this.push(false, Code::Load, rate, [Some(input), None, None, None]),
            };
            stores.push((register, store.layout));
        }
        (this.prologue, this.body, stores)
    }

    fn push(&mut self, once: bool, code: Code, rate: Rate, sources: [Option<Source>; 4]) -> Register {
        let dst = match rate {
            Rate::Element => {
                self.elements += 1;
                Register::Element(self.elements - 1)
            }
            Rate::Row => {
                self.rows += 1;
                Register::Row(self.rows - 1)
            }
        };
        let list = if once { &mut self.prologue } else { &mut self.body };
        list.push(Instruction { code, dst, sources });
        dst
    }

    fn node(&mut self, op: &RowMap, rates: &[Rate], index: usize) {
        let node = &op.nodes[index];
        let code = match *node {
            // Placed where they are first used, at the rate that is needed.
            Node::Constant(_) => return,
            Node::Input(k) => {
                let k = k as usize;
                let source = match op.inputs[k].layout {
                    Layout::Element if self.types[k] == DType::Bf16 => match self.widened[k] {
                        Some(made) => made,
                        None => {
                            let none = [None; 4];
                            let made = self.push(false, Code::Widen(k), Rate::Element, none);
                            *self.widened[k].insert(Source::Register(made))
                        }
                    },
                    Layout::Element => Source::ElementInput(k),
                    Layout::PerCol if self.shape.tile_rows == 1 => Source::ColInput(k),
                    Layout::PerCol => {
                        let none = [None; 4];
                        Source::Register(self.push(true, Code::Spread(k), Rate::Element, none))
                    }
                    Layout::PerRow => {
                        self.as_row[index] = Some(Source::RowInput(k));
                        return;
                    }
                    Layout::Scalar => return,
                };
                self.as_element[index] = Some(source);
                return;
            }
            Node::ColIndex => {
                // One register does for all of them.
                if let Some(made) = self.columns {
                    self.as_element[index] = Some(made);
                    return;
                }
                let whole_rows = self.shape.tile_cols == self.shape.cols;
                let register = self.push(whole_rows, Code::ColIndex, Rate::Element, [None; 4]);
                self.columns = Some(Source::Register(register));
                self.as_element[index] = self.columns;
                return;
            }
            Node::Unary { op, .. } => Code::Unary(op),
            Node::Binary { op, .. } => Code::Binary(op),
            Node::Select { .. } => Code::Select,
            Node::Reduce { op, .. } => Code::Reduce(op),
        };
        let wide = rates[index] == Rate::Element || matches!(code, Code::Reduce(_));
        let mut sources = [None; 4];
        for (source, a) in sources.iter_mut().zip(operands(node)) {
            let a = a as usize;
            *source = Some(if wide { self.element(op, a) } else { self.row(op, a) });
        }
        let register = self.push(false, code, rates[index], sources);
        match register {
            Register::Element(_) => self.as_element[index] = Some(Source::Register(register)),
            Register::Row(_) => self.as_row[index] = Some(Source::Register(register)),
        }
    }

    /// A value that is the same everywhere, if node `index` is one.
    fn uniform(op: &RowMap, index: usize) -> Option<Code> {
        match op.nodes[index] {
            Node::Constant(value) => Some(Code::Constant(value)),
            Node::Input(k) if op.inputs[k as usize].layout == Layout::Scalar => {
                Some(Code::Scalar(k as usize))
            }
            _ => None,
        }
    }

    /// Node `index` with a value per element.
    fn element(&mut self, op: &RowMap, index: usize) -> Source {
        if let Some(source) = self.as_element[index] {
            return source;
        }
        let register = match Self::uniform(op, index) {
            Some(code) => self.push(true, code, Rate::Element, [None; 4]),
            None => {
                let row = self.row(op, index);
                self.push(false, Code::Broadcast, Rate::Element, [Some(row), None, None, None])
            }
        };
        self.as_element[index] = Some(Source::Register(register));
        Source::Register(register)
    }

    /// Node `index`, which is of row rate, with a value per row.
    fn row(&mut self, op: &RowMap, index: usize) -> Source {
        if let Some(source) = self.as_row[index] {
            return source;
        }
        // Nodes are emitted in order, so one that has no value yet is uniform.
        let code = Self::uniform(op, index).unwrap_or(Code::Constant(f32::NAN));
        let source = Source::Register(self.push(true, code, Rate::Row, [None; 4]));
        self.as_row[index] = Some(source);
        source
    }
}

/// Replaces virtual registers by real ones; returns how many of each file.
fn allocate(
    prologue: &mut [Instruction],
    body: &mut [Instruction],
    stores: &mut [(Register, Layout)],
) -> (usize, usize) {
    use std::collections::HashMap;
    // Results of the prologue and stored values are held to the end.
    let held = usize::MAX;
    let mut last: HashMap<(bool, usize), usize> = HashMap::new();
    let key = |register: Register| match register {
        Register::Element(v) => (true, v),
        Register::Row(v) => (false, v),
    };
    for (at, instruction) in body.iter().enumerate() {
        for source in instruction.sources.iter().flatten() {
            if let Source::Register(register) = source {
                last.insert(key(*register), at);
            }
        }
    }
    for instruction in prologue.iter() {
        last.insert(key(instruction.dst), held);
    }
    for (register, _) in stores.iter() {
        last.insert(key(*register), held);
    }
    let mut real: HashMap<(bool, usize), usize> = HashMap::new();
    let mut free: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
    let mut counts = [0usize; 2];
    let mut place =
        |register: Register, real: &mut HashMap<(bool, usize), usize>, free: &mut [Vec<usize>; 2]| {
            let file = usize::from(key(register).0);
            let slot = free[file].pop().unwrap_or_else(|| {
                counts[file] += 1;
                counts[file] - 1
            });
            real.insert(key(register), slot);
            renamed(register, slot)
        };
    for instruction in prologue.iter_mut() {
        instruction.dst = place(instruction.dst, &mut real, &mut free);
    }
    for (at, instruction) in body.iter_mut().enumerate() {
        let dst = place(instruction.dst, &mut real, &mut free);
        let unused = !last.contains_key(&key(instruction.dst));
        let virtual_dst = key(instruction.dst);
        instruction.dst = dst;
        if let Code::Twins { second, .. } = &mut instruction.code {
            // Both are read, or there would be one instruction less.
            *second = place(*second, &mut real, &mut free);
        }
        let mut ended: Vec<(bool, usize)> = Vec::new();
        for source in instruction.sources.iter_mut().flatten() {
            if let Source::Register(register) = source {
                let name = key(*register);
                if last.get(&name) == Some(&at) && !ended.contains(&name) {
                    ended.push(name);
                }
                *register = renamed(*register, real[&name]);
            }
        }
        if unused {
            ended.push(virtual_dst);
        }
        for name in ended {
            free[usize::from(name.0)].push(real[&name]);
        }
    }
    for (register, _) in stores.iter_mut() {
        *register = renamed(*register, real[&key(*register)]);
    }
    (counts[1], counts[0])
}

fn renamed(register: Register, slot: usize) -> Register {
    match register {
        Register::Element(_) => Register::Element(slot),
        Register::Row(_) => Register::Row(slot),
    }
}
