//! The interpreter's program with a number for each value: its registers are
//! used again and again, PTX's are not.

use std::collections::HashMap;

use crate::op::{BinaryOp, Layout, UnaryOp};
use crate::row_kernel::{Code, Program, Register, Source};

/// Whether a value is one for each element or one for each row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Element,
    Row,
}

/// Where an operand comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    Value(usize),
    ElementInput(usize),
    RowInput(usize),
    ColInput(usize),
    ScalarInput(usize),
    /// Bits.
    Constant(u32),
}

impl From {
    /// The input that is read.
    pub fn input(self) -> Option<usize> {
        match self {
            From::ElementInput(k) | From::RowInput(k) | From::ColInput(k) | From::ScalarInput(k) => Some(k),
            From::Value(_) | From::Constant(_) => None,
        }
    }
}

/// An instruction and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub kind: Kind,
    pub code: Code,
    pub from: [Option<From>; 4],
}

impl Value {
    pub fn sources(&self) -> impl Iterator<Item = From> + '_ {
        let scalar = match self.code {
            Code::Scalar(k) => Some(From::ScalarInput(k)),
            _ => None,
        };
        self.from.iter().flatten().copied().chain(scalar)
    }
}

/// Of a store, the value and the layout.
pub(super) type Stored = (usize, Layout);

/// All values in the order in which they are made, and all stores. `None` where
/// an instruction has no PTX.
pub(super) fn number(program: &Program) -> Option<(Vec<Value>, Vec<Stored>)> {
    let mut values = Vec::new();
    let mut now: HashMap<(bool, usize), usize> = HashMap::new();
    let key = |register: Register| match register {
        Register::Element(slot) => (false, slot),
        Register::Row(slot) => (true, slot),
    };
    for instruction in program.plain.prologue.iter().chain(&program.plain.body) {
        let mut from = [None; 4];
        for (to, source) in from.iter_mut().zip(&instruction.sources) {
            *to = match *source {
                None => None,
                Some(Source::Register(register)) => Some(From::Value(*now.get(&key(register))?)),
                Some(Source::ElementInput(k)) => Some(From::ElementInput(k)),
                Some(Source::RowInput(k)) => Some(From::RowInput(k)),
                Some(Source::ColInput(k)) => Some(From::ColInput(k)),
                Some(Source::ScalarInput(k)) => Some(From::ScalarInput(k)),
                Some(Source::Constant(value)) => Some(From::Constant(value.to_bits())),
            };
        }
        let mut code = instruction.code;
        match code {
            Code::Unary(UnaryOp::Sine | UnaryOp::Cosine)
            | Code::Binary(BinaryOp::Power)
            | Code::ByRow(BinaryOp::Power) => return None,
            // The type is the input's, and asked for where it is loaded.
            Code::Widen(k) => (code, from[0]) = (Code::Load, Some(From::ElementInput(k))),
            // A column's value, read where it is used.
            Code::Spread(k) => (code, from[0]) = (Code::Load, Some(From::ColInput(k))),
            _ => {}
        }
        let kind = if super::is_row(instruction.dst) { Kind::Row } else { Kind::Element };
        now.insert(key(instruction.dst), values.len());
        values.push(Value { kind, code, from });
    }
    let stores =
        program.plain.stores.iter().map(|(register, layout)| Some((*now.get(&key(*register))?, *layout)));
    let stores = stores.collect::<Option<Vec<_>>>()?;
    Some((values, stores))
}

/// Element values that `wanted` needs, in order.
pub(super) fn elements_of(values: &[Value], wanted: &[From]) -> Vec<usize> {
    let mut needed = vec![false; values.len()];
    let mut open: Vec<From> = wanted.to_vec();
    while let Some(from) = open.pop() {
        if let From::Value(id) = from
            && values[id].kind == Kind::Element
            && !needed[id]
        {
            needed[id] = true;
            open.extend(values[id].sources());
        }
    }
    (0..values.len()).filter(|&id| needed[id]).collect()
}

/// Row values that a reduction needs before it can be made.
pub(super) fn needs(values: &[Value], reduction: usize) -> Vec<usize> {
    let wanted: Vec<From> = values[reduction].sources().collect();
    let elements = elements_of(values, &wanted);
    let sources = elements.iter().flat_map(|&id| values[id].sources()).chain(wanted.iter().copied());
    sources
        .filter_map(|from| match from {
            From::Value(id) if values[id].kind == Kind::Row => Some(id),
            _ => None,
        })
        .collect()
}

/// What these values read for each element, each once.
pub(super) fn loads(values: &[Value], needed: &[usize], wanted: &[From]) -> Vec<From> {
    let mut found: Vec<From> = Vec::new();
    for from in needed.iter().flat_map(|&id| values[id].sources()).chain(wanted.iter().copied()) {
        if matches!(from, From::ElementInput(_) | From::ColInput(_)) && !found.contains(&from) {
            found.push(from);
        }
    }
    found
}
