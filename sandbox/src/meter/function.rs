//! One function body: a plan of pieces is made in one pass over its
//! operators, then assembled.

use std::ops::Range;

use wasm_encoder::{BlockType, Encode, Instruction, ValType as EncodedType};
use wasmparser::{
    BinaryReader, FuncValidator, FunctionBody, Operator, OperatorsReader, ValType, WasmModuleResources,
};

use super::sections::{AddedTypes, value_type};
use super::{Context, FRAME_OPERATORS, Layout, MeterError, UNCHECKED, UNCOUNTED_FRAME};

/// Fixed part of the estimate of a frame, in bytes: return address, saved
/// registers, alignment.
const FRAME_BYTES: i64 = 64;
/// Declared locals per unit of fuel at function entry.
const LOCALS_PER_FUEL: u32 = 8;

/// A part of the new body.
enum Piece {
    /// Bytes of the original module.
    Copy(Range<usize>),
    /// The start of a segment.
    Charge { cost: i64, check: bool },
    /// An `i32` amount is on the stack: charge `unit` for each, and check.
    ChargeAmount { unit: u16 },
    /// Before a call; `check` if it leaves the module.
    BeforeCall { check: bool },
    /// After a call.
    AfterCall,
    /// `return`, from inside this many blocks.
    Return { depth: u32 },
}

/// A new body: its bytes without the length, and where it traps.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Offsets in `bytes` of the traps for exhausted fuel, ascending.
    pub(super) fuel_traps: Vec<u32>,
    /// Offsets in `bytes` of the traps for an exhausted stack, ascending.
    pub(super) stack_traps: Vec<u32>,
}

impl Body {
    /// A body of the original module.
    pub(super) fn unchanged(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), fuel_traps: Vec::new(), stack_traps: Vec::new() }
    }

    /// A body without locals, metering or traps.
    pub(super) fn bare(instructions: &[Instruction<'_>]) -> Self {
        let mut bytes = vec![0];
        for instruction in instructions {
            instruction.encode(&mut bytes);
        }
        Self { bytes, fuel_traps: Vec::new(), stack_traps: Vec::new() }
    }
}

/// A label that branches can name.
struct Label {
    is_loop: bool,
    is_if: bool,
    /// A live branch, or the end of the other arm of an `if`, goes to its end.
    joined: bool,
    /// The most that any path which reaches its end has charged unchecked.
    unchecked_at_end: i64,
    /// What was charged unchecked when it was entered.
    unchecked_at_start: i64,
    /// It lies in dead code.
    dead: bool,
}

/// What one pass over a body finds out.
pub(super) struct Plan {
    locals: Range<usize>,
    local_groups: u32,
    local_count: u32,
    results: Vec<ValType>,
    pieces: Vec<Piece>,
    has_loop: bool,
    has_amount: bool,
    /// It takes its frame from the stack counter.
    counts_frame: bool,
    frame_bytes: i32,
}

/// The pass.
struct Planner {
    pieces: Vec<Piece>,
    labels: Vec<Label>,
    /// Piece of the open segment.
    segment: usize,
    cost: i64,
    must_check: bool,
    /// The counter was checked after the open segment was charged.
    checked_within: bool,
    /// The most charged since the last check on any path to here.
    unchecked: i64,
    dead: bool,
    has_loop: bool,
    has_call: bool,
    has_amount: bool,
}

impl Planner {
    /// Ends the open segment: its cost is known now.
    fn close(&mut self) {
        if self.dead {
            return;
        }
        let check = self.must_check || self.unchecked + self.cost > UNCHECKED;
        self.unchecked = if check || self.checked_within { 0 } else { self.unchecked + self.cost };
        self.pieces[self.segment] = Piece::Charge { cost: self.cost, check };
        self.cost = 0;
    }

    /// Starts a segment here.
    fn open(&mut self, must_check: bool) {
        self.segment = self.pieces.len();
        self.must_check = must_check;
        self.checked_within = false;
        self.pieces.push(Piece::Charge { cost: 0, check: false });
    }

    /// Records a live branch to the label that is `depth` labels out. The
    /// open segment must be closed.
    fn branch(&mut self, depth: u32) {
        let from_top = usize::try_from(depth).unwrap_or(usize::MAX);
        let unchecked = self.unchecked;
        // The validator has checked the depth before.
        if let Some(label) = self.labels.iter_mut().rev().nth(from_top)
            && !label.is_loop
        {
            label.joined = true;
            label.unchecked_at_end = label.unchecked_at_end.max(unchecked);
        }
    }

    fn enter(&mut self, is_loop: bool, is_if: bool) {
        self.labels.push(Label {
            is_loop,
            is_if,
            joined: false,
            unchecked_at_end: 0,
            unchecked_at_start: self.unchecked,
            dead: self.dead,
        });
    }

    /// The amount of a bulk operation is on the stack.
    fn amount(&mut self, unit: u16) {
        self.pieces.push(Piece::ChargeAmount { unit });
        self.has_amount = true;
        self.checked_within = true;
    }

    fn operator(&mut self, operator: &Operator<'_>, at: Range<usize>, with: &Context<'_>) {
        use Operator as O;
        if !self.dead {
            self.cost += operator_cost(operator);
        }
        match operator {
            O::Block { .. } => {
                self.copy(at);
                self.enter(false, false);
            }
            O::Loop { .. } => {
                self.close();
                self.copy(at);
                self.enter(true, false);
                if !self.dead {
                    self.has_loop = true;
                    self.open(true);
                }
            }
            O::If { .. } => {
                self.close();
                self.copy(at);
                self.enter(false, true);
                if !self.dead {
                    self.open(false);
                }
            }
            O::Else => {
                self.close();
                if !self.dead {
                    self.branch(0);
                }
                self.copy(at);
                if let Some(label) = self.labels.last_mut() {
                    label.is_if = false;
                    self.dead = label.dead;
                    self.unchecked = label.unchecked_at_start;
                }
                if !self.dead {
                    self.open(false);
                }
            }
            O::End => {
                let Some(label) = self.labels.last_mut() else {
                    return;
                };
                // An `if` without `else` is also left by its condition.
                if label.is_if && !label.dead {
                    label.joined = true;
                    label.unchecked_at_end = label.unchecked_at_end.max(label.unchecked_at_start);
                }
                if label.joined {
                    self.close();
                    if !self.dead {
                        self.branch(0);
                    }
                    if let Some(label) = self.labels.pop() {
                        self.unchecked = label.unchecked_at_end;
                    }
                    self.copy(at);
                    self.dead = false;
                    if !self.labels.is_empty() {
                        self.open(false);
                    }
                } else {
                    // Only reached by falling through, or not at all.
                    if self.labels.len() == 1 {
                        self.close();
                    }
                    self.labels.pop();
                    self.copy(at);
                }
            }
            O::Br { relative_depth } => {
                self.close();
                if !self.dead {
                    self.branch(*relative_depth);
                }
                self.copy(at);
                self.dead = true;
            }
            O::BrIf { relative_depth } => {
                self.close();
                if !self.dead {
                    self.branch(*relative_depth);
                }
                self.copy(at);
                if !self.dead {
                    self.open(false);
                }
            }
            O::BrTable { targets } => {
                self.close();
                if !self.dead {
                    for target in targets.targets().flatten() {
                        self.branch(target);
                    }
                    self.branch(targets.default());
                }
                self.copy(at);
                self.dead = true;
            }
            O::Return => {
                self.close();
                if self.dead {
                    self.copy(at);
                } else {
                    let depth = self.labels.len() as u32 - 1;
                    self.pieces.push(Piece::Return { depth });
                    self.dead = true;
                }
            }
            O::Unreachable => {
                self.close();
                self.copy(at);
                self.dead = true;
            }
            _ if self.dead => self.copy(at),
            O::Call { function_index } => {
                if let Some(cost) = with.leaves.cost(*function_index) {
                    self.cost += cost;
                    self.copy(at);
                    return;
                }
                let check = *function_index < with.layout.imported_functions;
                if check {
                    self.cost += i64::from(with.config.host_call);
                    self.checked_within = true;
                }
                self.call(at, check);
            }
            O::CallIndirect { .. } => self.call(at, false),
            O::MemoryFill { .. } | O::MemoryCopy { .. } | O::MemoryInit { .. } => {
                self.amount(1);
                self.copy(at);
            }
            O::TableFill { .. } | O::TableCopy { .. } | O::TableInit { .. } | O::TableGrow { .. } => {
                self.amount(1);
                self.copy(at);
            }
            O::MemoryGrow { .. } => {
                self.amount(with.config.page);
                self.copy(at);
            }
            _ => self.copy(at),
        }
    }

    fn call(&mut self, at: Range<usize>, check: bool) {
        self.has_call = true;
        self.pieces.push(Piece::BeforeCall { check });
        self.copy(at);
        self.pieces.push(Piece::AfterCall);
    }

    fn copy(&mut self, at: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Copy(last)) if last.end == at.start => last.end = at.end,
            _ => self.pieces.push(Piece::Copy(at)),
        }
    }
}

/// What a function costs on entry, from the number of its declared locals.
pub(super) fn entry_cost(locals: u32) -> i64 {
    1 + i64::from(locals / LOCALS_PER_FUEL)
}

/// The static cost of an operator, as in the table of the module's
/// documentation.
pub(super) fn operator_cost(operator: &Operator<'_>) -> i64 {
    match operator {
        Operator::Nop
        | Operator::Drop
        | Operator::Block { .. }
        | Operator::Else
        | Operator::End
        | Operator::Return
        | Operator::Unreachable => 0,
        _ => 1,
    }
}

fn slot_bytes(ty: ValType) -> i64 {
    if ty == ValType::V128 { 16 } else { 8 }
}

/// Validates a body and plans what becomes of it.
pub(super) fn plan<R: WasmModuleResources>(
    body: &FunctionBody<'_>,
    checker: &mut FuncValidator<R>,
    with: &Context<'_>,
) -> Result<Plan, MeterError> {
    let function = checker.index();
    let mut reader: BinaryReader<'_> = body.get_binary_reader();
    checker.read_locals(&mut reader)?;
    let local_count = checker.len_locals();
    // The scratch locals must fit the format's limit.
    if local_count > 49_990 {
        return Err(MeterError::TooManyLocals { function });
    }
    let mut groups = body.get_binary_reader();
    let local_groups = groups.read_var_u32()?;
    let locals = groups.original_position()..reader.original_position();

    let (params, results) = {
        let resources = checker.resources();
        resources
            .type_index_of_function(function)
            .and_then(|index| resources.sub_type_at(index))
            .map(|ty| ty.unwrap_func())
            .map(|ty| (ty.params().len() as u32, ty.results().to_vec()))
            .ok_or_else(|| MeterError::Invalid {
                offset: body.range().start,
                message: format!("function {function} has no type"),
            })?
    };
    let slots: i64 = (0..local_count).filter_map(|local| checker.get_local_type(local)).map(slot_bytes).sum();

    let mut planner = Planner {
        pieces: Vec::new(),
        labels: Vec::new(),
        segment: 0,
        cost: entry_cost(local_count - params.min(local_count)),
        must_check: true,
        checked_within: false,
        unchecked: 0,
        dead: false,
        has_loop: false,
        has_call: false,
        has_amount: false,
    };
    planner.enter(false, false);
    planner.open(true);

    let mut height = 0;
    let mut has_vectors = false;
    let mut operators = 0i64;
    let mut reader = OperatorsReader::new(reader);
    while !reader.eof() {
        let start = reader.original_position();
        let operator = reader.read()?;
        checker.op(start, &operator)?;
        height = height.max(checker.operand_stack_height());
        has_vectors |= checker.get_operand_type(0) == Some(Some(ValType::V128));
        operators += 1;
        planner.operator(&operator, start..reader.original_position(), with);
    }
    reader.finish()?;

    let value_bytes = if has_vectors { 16 } else { 8 };
    let frame =
        FRAME_BYTES + slots + value_bytes * i64::from(height) + operators / FRAME_OPERATORS * value_bytes;
    Ok(Plan {
        locals,
        local_groups,
        local_count,
        results,
        pieces: planner.pieces,
        has_loop: planner.has_loop,
        has_amount: planner.has_amount,
        counts_frame: planner.has_call || frame > UNCOUNTED_FRAME,
        frame_bytes: i32::try_from(frame).unwrap_or(i32::MAX),
    })
}

impl Plan {
    /// Writes the new body.
    pub(super) fn assemble(
        &self,
        wasm: &[u8],
        layout: &Layout,
        types: &mut AddedTypes,
    ) -> Result<Body, MeterError> {
        let wrapped = self.has_loop || self.counts_frame;
        let mut out = Assembler {
            bytes: Vec::new(),
            fuel_traps: Vec::new(),
            stack_traps: Vec::new(),
            fuel_global: layout.fuel_global,
            stack_global: layout.stack_global,
            fuel: self.local_count,
            amount: self.local_count + 1,
            saved_stack: self.local_count + 2,
            local_counter: self.has_loop,
        };
        let integers: u32 = if self.counts_frame { 2 } else { u32::from(self.has_amount) };
        (self.local_groups + 1 + u32::from(integers > 0)).encode(&mut out.bytes);
        out.bytes.extend_from_slice(&wasm[self.locals.clone()]);
        1u32.encode(&mut out.bytes);
        EncodedType::I64.encode(&mut out.bytes);
        if integers > 0 {
            integers.encode(&mut out.bytes);
            EncodedType::I32.encode(&mut out.bytes);
        }

        if self.counts_frame {
            out.take_frame(self.frame_bytes);
        }
        if self.has_loop {
            out.reload();
        }
        if wrapped {
            let ty = match self.results.as_slice() {
                [] => BlockType::Empty,
                [ty] => BlockType::Result(value_type(*ty)?),
                results => BlockType::FunctionType(layout.first_added_type + types.block(results)?),
            };
            out.push(&Instruction::Block(ty));
        }
        for piece in &self.pieces {
            match piece {
                Piece::Copy(range) => out.bytes.extend_from_slice(&wasm[range.clone()]),
                Piece::Charge { cost, check } => out.charge(*cost, *check),
                Piece::ChargeAmount { unit } => out.charge_amount(*unit),
                Piece::BeforeCall { check } => out.before_call(*check),
                Piece::AfterCall if self.has_loop => out.reload(),
                Piece::AfterCall => {}
                Piece::Return { depth } if wrapped => out.push(&Instruction::Br(*depth)),
                Piece::Return { .. } => out.push(&Instruction::Return),
            }
        }
        if wrapped {
            if self.has_loop {
                out.flush();
            }
            if self.counts_frame {
                out.give_frame();
            }
            out.push(&Instruction::End);
        }
        Ok(Body { bytes: out.bytes, fuel_traps: out.fuel_traps, stack_traps: out.stack_traps })
    }
}

/// Writes instructions and notes where the traps are.
struct Assembler {
    bytes: Vec<u8>,
    fuel_traps: Vec<u32>,
    stack_traps: Vec<u32>,
    fuel_global: u32,
    stack_global: u32,
    /// Scratch local, `i64`; the counter itself if `local_counter`.
    fuel: u32,
    /// Scratch local, `i32`.
    amount: u32,
    /// Scratch local, `i32`: the stack counter as it was at entry.
    saved_stack: u32,
    /// The counter lives in the local between calls.
    local_counter: bool,
}

impl Assembler {
    fn push(&mut self, instruction: &Instruction<'_>) {
        instruction.encode(&mut self.bytes);
    }

    fn flush(&mut self) {
        self.push(&Instruction::LocalGet(self.fuel));
        self.push(&Instruction::GlobalSet(self.fuel_global));
    }

    fn reload(&mut self) {
        self.push(&Instruction::GlobalGet(self.fuel_global));
        self.push(&Instruction::LocalSet(self.fuel));
    }

    fn read_counter(&mut self) {
        if self.local_counter {
            self.push(&Instruction::LocalGet(self.fuel));
        } else {
            self.push(&Instruction::GlobalGet(self.fuel_global));
        }
    }

    /// Stores the counter that is on the stack.
    fn write_counter(&mut self) {
        if self.local_counter {
            self.push(&Instruction::LocalSet(self.fuel));
        } else {
            self.push(&Instruction::GlobalSet(self.fuel_global));
        }
    }

    /// `counter -= cost`.
    fn subtract(&mut self, cost: i64) {
        self.read_counter();
        self.push(&Instruction::I64Const(cost));
        self.push(&Instruction::I64Sub);
        self.write_counter();
    }

    /// Charges `cost` and traps if less is there.
    ///
    /// The old value is what is compared, so that the new one is not needed
    /// before the end of the segment: in a loop only one of the two then
    /// occupies a register.
    fn check(&mut self, cost: i64) {
        self.read_counter();
        self.push(&Instruction::I64Const(cost));
        self.push(&Instruction::I64LtS);
        self.push(&Instruction::If(BlockType::Empty));
        if cost != 0 {
            self.subtract(cost);
        }
        if self.local_counter {
            self.flush();
        }
        let at = self.trap();
        self.fuel_traps.push(at);
        if cost != 0 {
            self.subtract(cost);
        }
    }

    /// Ends an `if` with a trap, and says where it is.
    ///
    /// The store is what keeps the trap where it is: a branch to a block that
    /// does nothing but trap becomes, in Cranelift, a conditional trap at the
    /// place of the branch. When the guest's code after the check only traps
    /// as well, that place would be shared by both.
    fn trap(&mut self) -> u32 {
        self.push(&Instruction::I32Const(-1));
        self.push(&Instruction::GlobalSet(self.stack_global));
        let at = self.bytes.len() as u32;
        self.push(&Instruction::Unreachable);
        self.push(&Instruction::End);
        at
    }

    fn charge(&mut self, cost: i64, check: bool) {
        if cost == 0 && !check {
            return;
        }
        if check {
            self.check(cost);
        } else {
            self.subtract(cost);
        }
    }

    fn charge_amount(&mut self, unit: u16) {
        self.push(&Instruction::LocalSet(self.amount));
        self.read_counter();
        self.push(&Instruction::LocalGet(self.amount));
        self.push(&Instruction::I64ExtendI32U);
        if unit != 1 {
            self.push(&Instruction::I64Const(i64::from(unit)));
            self.push(&Instruction::I64Mul);
        }
        self.push(&Instruction::I64Sub);
        self.write_counter();
        self.check(0);
        self.push(&Instruction::LocalGet(self.amount));
    }

    fn before_call(&mut self, check: bool) {
        if check {
            self.check(0);
        }
        if self.local_counter {
            self.flush();
        }
    }

    fn take_frame(&mut self, bytes: i32) {
        self.push(&Instruction::GlobalGet(self.stack_global));
        self.push(&Instruction::LocalTee(self.saved_stack));
        self.push(&Instruction::I32Const(bytes));
        self.push(&Instruction::I32Sub);
        self.push(&Instruction::LocalTee(self.amount));
        self.push(&Instruction::GlobalSet(self.stack_global));
        self.push(&Instruction::LocalGet(self.amount));
        self.push(&Instruction::I32Const(0));
        self.push(&Instruction::I32LtS);
        self.push(&Instruction::If(BlockType::Empty));
        let at = self.trap();
        self.stack_traps.push(at);
    }

    /// Callees have left the counter as they found it, so this is an addition
    /// that need not wait for what they stored.
    fn give_frame(&mut self) {
        self.push(&Instruction::LocalGet(self.saved_stack));
        self.push(&Instruction::GlobalSet(self.stack_global));
    }
}
