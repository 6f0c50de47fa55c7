//! Metering: a guest module is rewritten so that it counts its own work and
//! its own call depth, and traps when either is used up.
//!
//! A check that can only *trap* costs almost nothing, because no register has
//! to survive it; an engine's own fuel check may *return* and costs float
//! loops a factor of two to four. So the counting is done in WebAssembly, in
//! the module, and is the same on every engine and optimisation level.
//!
//! # What is added
//!
//! Nothing of the guest is renumbered: two mutable globals (*fuel*, an `i64`,
//! and *stack*, an `i32`), two functions and a few types are appended to
//! their index spaces, where no guest instruction can name them. The two
//! functions are exported:
//!
//! - [`FUEL_GET`] `() -> i64`: the fuel that is left; negative after
//!   exhaustion, below zero by no more than the overshoot bound below and the
//!   charge that was refused (which, for a bulk operation, is its size).
//! - [`FUEL_SET`] `(i64)`: sets the fuel (a negative argument counts as 0) and
//!   gives back the whole stack. The host calls it between calls to the
//!   guest, also after a trap, and never while the guest is on the stack.
//!
//! They are not metered. A guest that exports a name containing
//! [`RESERVED`] is refused. The globals start at
//! [`MeterConfig::instantiation_fuel`] and [`MeterConfig::stack`], so that a
//! start function is metered too. All custom sections are dropped.
//!
//! # What is charged
//!
//! | what | fuel |
//! | --- | --- |
//! | entry of a function | 1 + declared locals / 8, rounded down |
//! | `nop`, `drop`, `block`, `else`, `end`, `return`, `unreachable` | 0 |
//! | `memory.fill`, `memory.copy`, `memory.init` | 1 + 1 per byte |
//! | `table.fill`, `table.copy`, `table.init`, `table.grow` | 1 + 1 per element |
//! | `memory.grow` | 1 + [`MeterConfig::page`] per page, also when it fails |
//! | `call` of an imported function | 1 + [`MeterConfig::host_call`] |
//! | `call` of a leaf | 1 + all of the leaf: its entry and each of its instructions once, those in dead code or in the other arm too |
//! | every other instruction | 1 |
//!
//! A call through a table costs 1 plus what the callee costs, also when the
//! callee is imported. On every path this is at least what wasmtime's own
//! default fuel is.
//!
//! A *leaf* is a function that has no loop, no instruction of dynamic size and
//! no call but of leaves, that nothing but a direct call can reach (it is not
//! exported, not the start function, not in a table or named by a global or a
//! segment), and that costs at most [`LEAF_FUEL`] as a whole. Its caller pays
//! for it; its body is left as it is.
//!
//! A *segment* is a run of instructions that is entered only at its first and
//! left only at its last (or by a trap, or inside a callee that traps): it
//! starts at the entry of a function, after `loop`, `if`, `else` and `br_if`,
//! and after an `end` that something branches to. Each segment is charged
//! whole when it starts. Work of dynamic size (the bulk instructions) is
//! charged right before it is done. Dead code is not charged.
//!
//! # Where the counter is checked
//!
//! `fuel -= cost; if fuel < 0 { unreachable }` stands
//!
//! - at the entry of every function that is no leaf and at every loop header,
//! - before every instruction of dynamic size, with that size charged,
//! - before every direct call of an imported function,
//! - at the start of each segment that would bring what was charged without a
//!   check, on any path within this function, above [`UNCHECKED`].
//!
//! Every infinite execution passes a loop header or a function entry
//! infinitely often (a cycle in the control flow graph of a function contains
//! a header, because WebAssembly only branches backwards to loops; a cycle in
//! the call graph contains an entry that is no leaf's, for a leaf calls only
//! what was a leaf before it), each turn of it costs at least 1, and the
//! counter is checked there: so every execution stops. Between two checks
//! in one frame at most [`UNCHECKED`] units are run on credit; a return can
//! carry that into the caller, which adds at most as much again, and so on.
//! The *overshoot* is therefore at most `UNCHECKED` × live frames, whose
//! number the stack meter bounds. No host function is called directly on an
//! exhausted counter. The counter cannot wrap: it starts in `0..=i64::MAX`
//! and one subtraction takes at most 2⁴⁸.
//!
//! In a function that has a loop the counter lives in a local, which is
//! written to the global before every call and at every exit, and read again
//! after every call (of imports too, because the host may re-enter the guest,
//! `cabi_realloc` for one). Elsewhere it is charged in the global. A trap of
//! the guest's own (`unreachable`, a division by zero) may therefore leave
//! the global at an older, higher value; at exhaustion it is exact.
//!
//! # The stack
//!
//! Whether a native stack overflows depends on how a compiler laid out its
//! frames. So that recursion ends at the same call everywhere, each function
//! that calls anything but leaves, or whose frame is estimated above
//! [`UNCOUNTED_FRAME`] bytes, takes the estimate from the *stack* global at
//! entry, traps when it goes below zero, and puts the old value back at its
//! single exit (bodies are wrapped in a block; `return` becomes a branch to
//! its end). The estimate in bytes is 64 + 8 per parameter, local and operand
//! of the highest operand stack (16 for a `v128` local, and for every operand
//! of a function that has `v128` operands) + 8 (16 with `v128` operands) per
//! [`FRAME_OPERATORS`] instructions of the body: values that a compiler
//! hoists out of loops or keeps to use again are bounded by the number of
//! instructions. The other functions call nothing but leaves: above the
//! counted frames lie at most one of theirs and a chain of leaves, whose
//! locals, instructions and number [`LEAF_FUEL`] bounds. Give the engine a
//! native stack of at least 4 × [`MeterConfig::stack`]; its own check stays
//! on behind this one. The worst function known then uses half of that stack
//! when the meter trips (`tests/frames.rs`).
//!
//! # Telling the traps apart
//!
//! Exhaustion looks like `unreachable`. [`Metered`] lists the offsets of the
//! added `unreachable` instructions in the new module, in the terms of
//! `wasmtime::FrameInfo::module_offset` of the innermost frame. Each stands
//! behind a store, so that a compiler cannot merge it with the branch before
//! it and with a trap of the guest's own. After exhaustion the stack counter
//! is −1.

mod function;
mod leaves;
mod sections;

use serde::{Deserialize, Serialize};
use wasmparser::{BinaryReaderError, FuncValidatorAllocations, Parser, ValidPayload, Validator};

use self::function::Body;
use self::leaves::Leaves;
use self::sections::{AddedTypes, Sections};

use crate::gate;

/// Name of the exported function `() -> i64` that reads the fuel.
pub const FUEL_GET: &str = "terrarium-fuel-get";
/// Name of the exported function `(i64)` that sets the fuel and resets the
/// stack.
pub const FUEL_SET: &str = "terrarium-fuel-set";
/// No export of a guest may contain this.
pub const RESERVED: &str = "terrarium-fuel";
/// Fuel that one frame may charge between two checks.
pub const UNCHECKED: i64 = 1000;
/// The most that a function which its callers pay for may cost.
pub const LEAF_FUEL: i64 = 128;
/// A function that calls nothing, and whose frame is estimated at no more
/// bytes than this, is not counted.
pub const UNCOUNTED_FRAME: i64 = 4096;
/// Instructions of a function for which a frame is estimated to hold one value
/// more.
pub const FRAME_OPERATORS: i64 = 8;

/// What metering charges, and what a module starts with. Part of the identity
/// of every result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeterConfig {
    /// Fuel that the start function may use.
    pub instantiation_fuel: u64,
    /// Bytes of estimated frames that may be live at once.
    pub stack: u32,
    /// Fuel per page of 64 KiB asked of `memory.grow`.
    pub page: u16,
    /// Fuel per direct call of an imported function.
    pub host_call: u16,
}

impl Default for MeterConfig {
    fn default() -> Self {
        Self { instantiation_fuel: 10_000_000, stack: 512 << 10, page: 4096, host_call: 100 }
    }
}

/// A metered module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metered {
    /// The module.
    pub module: Vec<u8>,
    /// Offsets in `module` of the traps that mean "out of fuel", ascending.
    pub out_of_fuel_offsets: Vec<u32>,
    /// Offsets in `module` of the traps that mean "stack exhausted",
    /// ascending.
    pub stack_depth_offsets: Vec<u32>,
    /// Functions that the module defines.
    pub functions: u32,
    /// Of these, the leaves: their callers pay for them.
    pub leaves: u32,
    /// Whether it has a start function; without one, instantiation runs no code
    /// of the guest's.
    pub starts: bool,
}

/// Which budget a metered trap says is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exhausted {
    /// The fuel.
    Fuel,
    /// The stack.
    Stack,
}

impl Metered {
    /// What a trap at this offset of [`Metered::module`] means; `None` for a
    /// trap of the guest's own.
    pub fn exhausted_at(&self, module_offset: usize) -> Option<Exhausted> {
        let offset = u32::try_from(module_offset).ok()?;
        if self.out_of_fuel_offsets.binary_search(&offset).is_ok() {
            Some(Exhausted::Fuel)
        } else if self.stack_depth_offsets.binary_search(&offset).is_ok() {
            Some(Exhausted::Stack)
        } else {
            None
        }
    }
}

/// Why a module was not metered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MeterError {
    /// Not a valid module of the accepted features; the gate says more.
    #[error("invalid module at offset {offset}: {message}; pass it through the gate first")]
    Invalid {
        /// Offset in the module, in bytes.
        offset: usize,
        /// What the validator said.
        message: String,
    },
    /// The guest exports a name that metering uses.
    #[error("export {name:?} uses the reserved name {RESERVED:?}; rename it")]
    ReservedExport {
        /// The name.
        name: String,
    },
    /// The configuration is out of range.
    #[error("{what} is {value}, the largest accepted value is {limit}")]
    Config {
        /// Which setting.
        what: String,
        /// Its value.
        value: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// The function has so many locals that no scratch local can be added.
    #[error("function {function} has too many locals to be metered; use fewer")]
    TooManyLocals {
        /// Index of the function, imports first.
        function: u32,
    },
    /// The metered module is too large.
    #[error("the metered module is too large ({bytes} bytes); split or shrink the program")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl From<BinaryReaderError> for MeterError {
    fn from(error: BinaryReaderError) -> Self {
        MeterError::Invalid { offset: error.offset(), message: error.message().to_owned() }
    }
}

/// Index spaces of the module being metered, and where the additions lie.
struct Layout {
    imported_functions: u32,
    first_added_type: u32,
    fuel_global: u32,
    stack_global: u32,
}

/// What a body is planned with.
struct Context<'a> {
    layout: Layout,
    leaves: Leaves,
    config: &'a MeterConfig,
}

/// Rewrites a core module so that it meters itself; see the module's
/// documentation for the rules. The module is validated on the way.
///
/// # Errors
///
/// [`MeterError`], for any bytes that are not a module which can be metered.
pub fn instrument(wasm: &[u8], config: &MeterConfig) -> Result<Metered, MeterError> {
    let bounded = |what: &str, value: u64, limit: u64| {
        if value > limit { Err(MeterError::Config { what: what.to_owned(), value, limit }) } else { Ok(()) }
    };
    bounded("instantiation_fuel", config.instantiation_fuel, i64::MAX as u64)?;
    bounded("stack", u64::from(config.stack), i32::MAX as u64)?;

    let mut validator = Validator::new_with_features(gate::accepted_features());
    let mut sections = Sections::default();
    let mut functions = Vec::new();
    let mut parser = Parser::new(0);
    parser.set_features(gate::accepted_features());
    for payload in parser.parse_all(wasm) {
        let payload = payload?;
        if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
            functions.push((function, body));
        } else {
            sections.note(&payload)?;
        }
    }
    let layout = sections.layout();
    let bodies = functions.iter().map(|(_, body)| body);
    let leaves = Leaves::find(layout.imported_functions, bodies, sections.named_functions())?;
    let with = Context { layout, leaves, config };

    let mut bodies = Vec::new();
    let mut added_types = AddedTypes::default();
    let mut allocations = FuncValidatorAllocations::default();
    for (function, body) in functions {
        let mut checker = function.into_validator(allocations);
        if with.leaves.cost(checker.index()).is_some() {
            checker.validate(&body)?;
            bodies.push(Body::unchanged(body.as_bytes()));
        } else {
            let plan = function::plan(&body, &mut checker, &with)?;
            bodies.push(plan.assemble(wasm, &with.layout, &mut added_types)?);
        }
        allocations = checker.into_allocations();
    }
    let leaves = with.leaves.count();
    let mut metered = sections.finish(wasm, bodies, &added_types, config)?;
    metered.leaves = leaves;
    Ok(metered)
}

#[cfg(test)]
mod tests;
