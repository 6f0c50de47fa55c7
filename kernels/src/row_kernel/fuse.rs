//! Fewer passes over a tile: instructions whose intermediate results nobody
//! else reads become one.
//!
//! Multiplications and additions keep their separate roundings, so that fusing
//! changes no bit of an element-wise result; a sum of products may be made
//! with fused multiply-adds.

use std::collections::HashMap;

use super::{Code, Instruction, Register, Source};
use crate::op::{BinaryOp, Layout, Reduction, UnaryOp};

/// Narrowest row for which an operation row by row pays.
const WIDE: usize = 32;

/// Rewrites a program with virtual registers (each written once), whose tiles
/// have `cols` columns.
pub(super) fn fuse(
    prologue: &mut Vec<Instruction>,
    body: &mut Vec<Instruction>,
    stores: &[(Register, Layout)],
    cols: usize,
) {
    spread_late(prologue, body);
    let mut uses = count(body, stores);
    let place: HashMap<usize, usize> = body
        .iter()
        .enumerate()
        .filter_map(|(at, i)| match i.dst {
            Register::Element(r) => Some((r, at)),
            Register::Row(_) => None,
        })
        .collect();
    for at in 0..body.len() {
        // What made a source, if only this instruction reads it.
        let only = |source: Option<Source>, uses: &HashMap<usize, usize>| match source {
            Some(Source::Register(Register::Element(r))) if uses.get(&r) == Some(&1) => {
                place.get(&r).map(|&made| (r, body[made]))
            }
            _ => None,
        };
        let [x, y, ..] = body[at].sources;
        let product = |source, uses: &HashMap<usize, usize>| {
            only(source, uses).filter(|(_, i)| i.code == Code::Binary(BinaryOp::Multiply))
        };
        let mut gone = Vec::new();
        let fused = match body[at].code {
            Code::Binary(BinaryOp::Subtract) if sign_of(body, &place, x, y, &uses).is_some() => {
                sign_of(body, &place, x, y, &uses).map(|(source, registers)| {
                    gone = registers;
                    (Code::Sign, [Some(source), None, None, None])
                })
            }
            Code::Binary(op @ (BinaryOp::Add | BinaryOp::Subtract)) => {
                let subtract = op == BinaryOp::Subtract;
                match (product(x, &uses), product(y, &uses)) {
                    (Some((p, a)), Some((q, b))) => {
                        gone = vec![p, q];
                        let ([a0, a1, ..], [b0, b1, ..]) = (ordered(a.sources), ordered(b.sources));
                        Some((Code::Products { subtract }, [a0, a1, b0, b1]))
                    }
                    (Some((p, a)), None) => {
                        gone = vec![p];
                        let [a0, a1, ..] = ordered(a.sources);
                        Some((Code::ProductThen { subtract }, [a0, a1, y, None]))
                    }
                    (None, Some((q, b))) => {
                        gone = vec![q];
                        let [b0, b1, ..] = ordered(b.sources);
                        Some((Code::ThenProduct { subtract }, [b0, b1, x, None]))
                    }
                    (None, None) => None,
                }
            }
            Code::Reduce(Reduction::Sum) => match only(x, &uses) {
                Some((r, Instruction { code: Code::Unary(UnaryOp::Square), sources: [a, ..], .. })) => {
                    gone = vec![r];
                    Some((Code::Dot, [a, a, None, None]))
                }
                Some((r, i)) if i.code == Code::Binary(BinaryOp::Multiply) && i.sources.iter().all(whole) => {
                    gone = vec![r];
                    Some((Code::Dot, i.sources))
                }
                _ => None,
            },
            _ => None,
        };
        if let Some((code, sources)) = fused {
            (body[at].code, body[at].sources) = (code, sources);
            for register in gone {
                uses.insert(register, 0);
            }
        }
    }
    if cols >= WIDE {
        read_rows(body);
    }
    sweep(prologue, body, stores);
}

/// Fuses what [`fuse`] left, for an interpreter that pays for each pass over a
/// tile. The bits stay the same: roundings and their order do. Registers are
/// virtual, each written once, so that an operand may be read later.
pub(super) fn fuse_further(
    prologue: &mut Vec<Instruction>,
    body: &mut Vec<Instruction>,
    stores: &[(Register, Layout)],
) {
    loop {
        let mut again = false;
        for at in 0..body.len() {
            let uses = count(body, stores);
            // What made a source, if only this instruction reads it.
            let only = |source: Option<Source>| match source {
                Some(Source::Register(Register::Element(r))) if uses.get(&r) == Some(&1) => {
                    body[..at].iter().rposition(|i| i.dst == Register::Element(r))
                }
                _ => None,
            };
            if let Some((gone, code, sources)) = fusion(body, at, only) {
                (body[at].code, body[at].sources) = (code, sources);
                for from in gone {
                    // Read by nobody from now on; swept below.
                    body[from].sources = [None; 4];
                    body[from].code = Code::Constant(0.0);
                }
                again = true;
            }
        }
        if !again {
            break;
        }
    }
    pair(body);
    sweep(prologue, body, stores);
}

/// Two sums of products of the same values are made in one pass.
fn pair(body: &mut Vec<Instruction>) {
    let uniform = |i: &Instruction| !whole(&i.sources[0]) && !whole(&i.sources[2]);
    let mut at = 0;
    while at < body.len() {
        let first = body[at];
        at += 1;
        let sign = match first.code {
            Code::Products { subtract: false } => false,
            Code::SignOfProducts { subtract: false } => true,
            _ => continue,
        };
        let [_, b, _, d] = first.sources;
        let twin = body[at..].iter().position(|i| {
            let same = i.sources[1] == b && i.sources[3] == d;
            i.code == Code::Products { subtract: false } && same && uniform(i)
        });
        if let Some(twin) = twin.filter(|_| uniform(&first))
            && let Instruction { sources: [Some(f), _, Some(g), _], dst, .. } = body[at + twin]
        {
            body.remove(at + twin);
            body[at - 1].code = Code::Twins { sign, factors: [f, g], second: dst };
        }
    }
}

/// What instruction `at` becomes together with those that made its operands,
/// whose places come first.
fn fusion(
    body: &[Instruction],
    at: usize,
    only: impl Fn(Option<Source>) -> Option<usize>,
) -> Option<(Vec<usize>, Code, [Option<Source>; 4])> {
    use BinaryOp::{Add, Multiply, Subtract};
    let Instruction { code, sources: [x, y, z, _], .. } = body[at];
    // A function with uniform numbers around it, but for its place.
    let shaped = |source| {
        let from = only(source)?;
        let [a, b, ..] = body[from].sources;
        match body[from].code {
            Code::Unary(op) if is_heavy(op) => Some((from, op, [None; 3], a)),
            Code::Shaped(op, around) if b.is_none() => Some((from, op, around, a)),
            _ => None,
        }
    };
    // A uniform number times something.
    let scaled = |source| {
        let from = only(source)?;
        let [k, a, ..] = ordered(body[from].sources);
        let scales = body[from].code == Code::Binary(Multiply) && !whole(&k) && whole(&a);
        scales.then_some((from, k?, a))
    };
    let either = [(x, y), (y, x)];
    match code {
        Code::Binary(Multiply) if whole(&x) && whole(&y) => either.into_iter().find_map(|(made, other)| {
            let from = only(made)?;
            let [a, b, c, _] = body[from].sources;
            let (code, sources) = match body[from].code {
                Code::Binary(Multiply) if whole(&a) && whole(&b) => (Code::Triple, [a, b, other, None]),
                Code::Unary(op) if is_heavy(op) => (Code::Gated(op), [a, other, None, None]),
                Code::Gated(op) if c.is_none() => (Code::Gated(op), [a, b, other, None]),
                Code::Shaped(op, [scale, plus, None]) if b.is_none() => {
                    (Code::Shaped(op, [scale, plus, None]), [a, other, None, None])
                }
                _ => return None,
            };
            Some((vec![from], code, sources))
        }),
        Code::Binary(op @ (Add | Multiply)) => either.into_iter().find_map(|(k, made)| {
            let (from, function, around, a) = shaped(made).filter(|_| !whole(&k))?;
            let around = match (op, around) {
                (Add, [scale, None, None]) => [scale, k, None],
                (Multiply, [scale, plus, None]) => [scale, plus, k],
                _ => return None,
            };
            Some((vec![from], Code::Shaped(function, around), [a, None, None, None]))
        }),
        Code::Unary(op) if is_heavy(op) => {
            let (from, k, a) = scaled(x)?;
            Some((vec![from], Code::Shaped(op, [Some(k), None, None]), [a, None, None, None]))
        }
        Code::Shaped(op, [scale, plus, None]) => {
            let (from, k, b) = scaled(y)?;
            Some((vec![from], Code::Shaped(op, [scale, plus, Some(k)]), [x, b, None, None]))
        }
        Code::ProductThen { subtract: false } | Code::ThenProduct { subtract: false } if whole(&z) => {
            either.into_iter().find_map(|(made, other)| {
                let ((first, k, a), second) = (scaled(made)?, only(other)?);
                let [b, c, ..] = body[second].sources;
                let c = match body[second].code {
                    Code::Unary(UnaryOp::Square) => b,
                    Code::Binary(Multiply) if whole(&b) && whole(&c) => c,
                    _ => return None,
                };
                Some((vec![first, second], Code::ThenCube(k), [a, b, c, z]))
            })
        }
        Code::Sign => only(x).and_then(|from| match body[from].code {
            Code::Products { subtract } => {
                Some((vec![from], Code::SignOfProducts { subtract }, body[from].sources))
            }
            _ => None,
        }),
        Code::Binary(Subtract) => only(y).and_then(|from| match body[from].code {
            Code::Products { subtract } if x == body[from].sources[3] => {
                Some((vec![from], Code::LessProducts { subtract }, body[from].sources))
            }
            _ => None,
        }),
        _ => None,
    }
}

/// Whether a function takes so long that a pass of its own is no loss, and a
/// pass for what follows is one.
fn is_heavy(op: UnaryOp) -> bool {
    matches!(op, UnaryOp::Sigmoid | UnaryOp::Tanh | UnaryOp::Exponential)
}

/// Drops what was swallowed and is read by nobody, and then what only that had
/// read.
fn sweep(prologue: &mut Vec<Instruction>, body: &mut Vec<Instruction>, stores: &[(Register, Layout)]) {
    loop {
        let before = body.len();
        let uses = count(body, stores);
        let read = |i: &Instruction| match i.dst {
            Register::Element(r) => uses.contains_key(&r),
            Register::Row(_) => true,
        };
        body.retain(read);
        prologue.retain(read);
        if body.len() == before {
            break;
        }
    }
}

/// How often each element register is read.
fn count(body: &[Instruction], stores: &[(Register, Layout)]) -> HashMap<usize, usize> {
    let read = body.iter().flat_map(|i| i.sources.into_iter().flatten());
    let registers = read.filter_map(|source| match source {
        Source::Register(register) => Some(register),
        _ => None,
    });
    let mut uses = HashMap::new();
    for register in registers.chain(stores.iter().map(|(register, _)| *register)) {
        if let Register::Element(r) = register {
            *uses.entry(r).or_insert(0) += 1;
        }
    }
    uses
}

/// Uniform values are read where they are, not spread over a tile first, by
/// the instructions that can.
fn spread_late(prologue: &[Instruction], body: &mut [Instruction]) {
    let uniform: HashMap<usize, Source> = prologue
        .iter()
        .filter_map(|i| match (i.dst, i.code) {
            (Register::Element(r), Code::Constant(value)) => Some((r, Source::Constant(value))),
            (Register::Element(r), Code::Scalar(k)) => Some((r, Source::ScalarInput(k))),
            _ => None,
        })
        .collect();
    for instruction in body {
        if let (Code::Binary(_), Register::Element(_)) = (instruction.code, instruction.dst) {
            for source in instruction.sources.iter_mut().flatten() {
                if let Source::Register(Register::Element(r)) = source
                    && let Some(late) = uniform.get(r)
                {
                    *source = *late;
                }
            }
        }
    }
}

/// Row values are read where they are, not broadcast over a tile first.
fn read_rows(body: &mut [Instruction]) {
    let mut spread: HashMap<usize, Source> = HashMap::new();
    for instruction in body {
        match (instruction.code, instruction.dst) {
            (Code::Broadcast, Register::Element(r)) => {
                if let [Some(row), ..] = instruction.sources {
                    spread.insert(r, row);
                }
            }
            (Code::Binary(op), Register::Element(_)) => {
                for source in instruction.sources.iter_mut().flatten() {
                    if let Source::Register(Register::Element(r)) = source
                        && let Some(row) = spread.get(r)
                    {
                        *source = *row;
                        instruction.code = Code::ByRow(op);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a source has a value per element.
fn whole(source: &Option<Source>) -> bool {
    !matches!(source, Some(Source::Constant(_) | Source::ScalarInput(_)))
}

/// A uniform factor first.
fn ordered(sources: [Option<Source>; 4]) -> [Option<Source>; 4] {
    let [a, b, ..] = sources;
    if whole(&a) && !whole(&b) { [b, a, None, None] } else { sources }
}

/// step(a) − step(−a): a, and the registers between.
fn sign_of(
    body: &[Instruction],
    place: &HashMap<usize, usize>,
    x: Option<Source>,
    y: Option<Source>,
    uses: &HashMap<usize, usize>,
) -> Option<(Source, Vec<usize>)> {
    let made = |source: Option<Source>, op: UnaryOp| match source {
        Some(Source::Register(Register::Element(r))) if uses.get(&r) == Some(&1) => {
            let instruction = body.get(*place.get(&r)?)?;
            (instruction.code == Code::Unary(op)).then_some((r, instruction.sources[0]))
        }
        _ => None,
    };
    let (up, a) = made(x, UnaryOp::Step)?;
    let (down, negated) = made(y, UnaryOp::Step)?;
    let (minus, b) = made(negated, UnaryOp::Negate)?;
    (a == b).then_some((a?, vec![up, down, minus]))
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::{Code, Source};
    use crate::TensorId;
    use crate::op::{BinaryOp, DType, Layout, Node, Operand, RowMap, Store, UnaryOp};

    /// Codes of the fused listing of a kernel over element inputs and two
    /// scalars, which stores the last node and the others that are named.
    fn codes(chain: &[Node], others: &[u32]) -> Vec<Code> {
        let tensor = TensorId::from_bits(0);
        let layouts = [Layout::Element, Layout::Element, Layout::Element, Layout::Scalar, Layout::Scalar];
        let inputs = layouts.map(|layout| Operand { tensor, layout }).to_vec();
        let mut nodes: Vec<Node> = (0..5).map(Node::Input).collect();
        nodes.extend_from_slice(chain);
        let stored = [nodes.len() as u32 - 1].into_iter().chain(others.iter().copied());
        let stores = stored.map(|node| Store { node, tensor, layout: Layout::Element }).collect();
        let op = RowMap { rows: 1, cols: 4096, inputs, nodes, stores };
        let program = compile(&op, |_| DType::F32).expect("a kernel");
        program.fused.body.iter().map(|i| i.code).collect()
    }

    #[test]
    fn chains_take_few_passes() {
        use BinaryOp::{Add, Multiply, Subtract};
        let two = |op, a, b| Node::Binary { op, a, b };
        let one = |op, a| Node::Unary { op, a };
        let swiglu = [one(UnaryOp::Sigmoid, 0), two(Multiply, 0, 5), two(Multiply, 6, 1)];
        assert_eq!(codes(&swiglu, &[]), [Code::Gated(UnaryOp::Sigmoid)]);
        assert_eq!(codes(&[two(Multiply, 0, 1), two(Multiply, 5, 2)], &[]), [Code::Triple]);
        let mut lion = vec![
            two(Multiply, 3, 1),
            two(Multiply, 4, 2),
            two(Add, 5, 6),
            one(UnaryOp::Negate, 7),
            one(UnaryOp::Step, 7),
            one(UnaryOp::Step, 8),
            two(Subtract, 9, 10),
            two(Multiply, 3, 11),
            two(Multiply, 4, 0),
            two(Add, 12, 13),
            two(Subtract, 0, 14),
        ];
        let expected = [Code::SignOfProducts { subtract: false }, Code::LessProducts { subtract: false }];
        assert_eq!(codes(&lion, &[]), expected);
        // With the new momentum.
        lion.extend([two(Multiply, 4, 1), two(Multiply, 3, 2), two(Add, 16, 17)]);
        let [twins, step] = codes(&lion, &[15])[..] else { panic!("{:?}", codes(&lion, &[15])) };
        assert!(matches!(twins, Code::Twins { sign: true, .. }), "{twins:?}");
        assert_eq!(step, Code::LessProducts { subtract: false });
    }

    #[test]
    fn functions_take_their_uniform_surroundings() {
        use BinaryOp::{Add, Multiply};
        let two = |op, a, b| Node::Binary { op, a, b };
        let one = |op, a| Node::Unary { op, a };
        let [k, h] = [3, 4].map(|k| Some(Source::ScalarInput(k)));
        let tanh = |around| Code::Shaped(UnaryOp::Tanh, around);
        // h·x·(h + tanh(k·(x + k·x·x²))), as GELU is.
        let gelu = [
            one(UnaryOp::Square, 0),
            two(Multiply, 3, 0),
            two(Multiply, 6, 5),
            two(Add, 0, 7),
            two(Multiply, 3, 8),
            one(UnaryOp::Tanh, 9),
            two(Add, 4, 10),
            two(Multiply, 4, 0),
            two(Multiply, 12, 11),
        ];
        assert_eq!(codes(&gelu, &[]), [Code::ThenCube(k.expect("a scalar")), tanh([k, h, h])]);
        // h·tanh(k·x).
        let cap = [two(Multiply, 3, 0), one(UnaryOp::Tanh, 5), two(Multiply, 6, 4)];
        assert_eq!(codes(&cap, &[]), [tanh([k, None, h])]);
        // A sum with a uniform number after a product with one is another sum.
        let late = [one(UnaryOp::Tanh, 0), two(Multiply, 3, 5), two(Add, 4, 6)];
        assert!(!codes(&late, &[]).contains(&tanh([None, h, k])));
        // What is stored too is made on its own.
        assert_eq!(codes(&cap, &[6]).len(), 2);
    }

    /// What someone else reads too is made on its own.
    #[test]
    fn a_value_that_is_read_twice_stays() {
        use BinaryOp::{Add, Multiply};
        let two = |op, a, b| Node::Binary { op, a, b };
        let chain = [two(Multiply, 0, 1), two(Multiply, 5, 2), two(Add, 5, 6)];
        assert!(!codes(&chain, &[]).contains(&Code::Triple));
    }
}
