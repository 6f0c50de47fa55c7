//! Row kernels against the reference: every function, random expressions,
//! every way of tiling, updates in place, elements of either type.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, close, widen};

const UNARY: [UnaryOp; 15] = [
    UnaryOp::Negate,
    UnaryOp::Absolute,
    UnaryOp::Reciprocal,
    UnaryOp::Square,
    UnaryOp::SquareRoot,
    UnaryOp::ReciprocalSquareRoot,
    UnaryOp::Exponential,
    UnaryOp::Logarithm,
    UnaryOp::Tanh,
    UnaryOp::Sigmoid,
    UnaryOp::Relu,
    UnaryOp::Step,
    UnaryOp::Sine,
    UnaryOp::Cosine,
    UnaryOp::Floor,
];
const BINARY: [BinaryOp; 8] = [
    BinaryOp::Add,
    BinaryOp::Subtract,
    BinaryOp::Multiply,
    BinaryOp::Divide,
    BinaryOp::Minimum,
    BinaryOp::Maximum,
    BinaryOp::LessThan,
    BinaryOp::Power,
];

/// The operands of a random kernel, one of each layout and a second element
/// input, with their numbers; elements are of either type.
fn operands(bench: &mut Bench, rows: usize, cols: usize) -> Vec<(Operand, Vec<f64>)> {
    let layouts = [Layout::Element, Layout::PerRow, Layout::PerCol, Layout::Scalar, Layout::Element];
    let shape = |layout| match layout {
        Layout::Element => vec![rows, cols],
        Layout::PerRow => vec![rows],
        Layout::PerCol => vec![cols],
        Layout::Scalar => vec![1],
    };
    let mut operand = |layout| {
        let half = layout == Layout::Element && bench.index(2) == 0;
        let (tensor, values) = bench.random_of(half, &shape(layout));
        (Operand { tensor, layout }, values)
    };
    layouts.map(&mut operand).into()
}

/// Random nodes over five inputs, kept in (−2, 2) so that errors stay small.
fn expression(bench: &mut Bench, cols: usize, length: usize, reduce: bool) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..5).map(Node::Input).collect();
    nodes.push(Node::Constant(0.3));
    // The last node of each step: those between (a sum over a row, a column's
    // number) are large, and a function of them would have large errors.
    let mut small: Vec<u32> = (0..6).collect();
    for _ in 0..length {
        let a = small[bench.index(small.len()) as usize];
        let b = small[bench.index(small.len()) as usize];
        let next = nodes.len() as u32;
        let tamed = Node::Unary { op: UnaryOp::Tanh, a: next };
        match bench.index(if reduce { 9 } else { 7 }) {
            0 => nodes.push(Node::Unary { op: UnaryOp::Sine, a }),
            1 => nodes.push(Node::Unary { op: UnaryOp::Sigmoid, a }),
            2 => nodes.push(Node::Binary { op: BinaryOp::Maximum, a, b }),
            3 => nodes.extend([Node::Binary { op: BinaryOp::Add, a, b }, tamed]),
            4 => nodes.extend([Node::Binary { op: BinaryOp::Multiply, a, b }, tamed]),
            5 => nodes.extend([Node::ColIndex, Node::Unary { op: UnaryOp::Cosine, a: next }]),
            // The condition is an input, so that rounding cannot flip it.
            6 => nodes.push(Node::Select { condition: a % 5, then: a, otherwise: b }),
            // A mean: a sum would multiply the errors by the columns.
            7 => nodes.extend([
                Node::Reduce { op: Reduction::Sum, a },
                Node::Constant(1.0 / cols as f32),
                Node::Binary { op: BinaryOp::Multiply, a: next, b: next + 1 },
            ]),
            _ => nodes.push(Node::Reduce { op: Reduction::Maximum, a }),
        }
        small.push(nodes.len() as u32 - 1);
    }
    nodes
}

/// Whether each node has one value per row.
fn per_row(nodes: &[Node]) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::new();
    for node in nodes {
        let flag = |n: u32| flags[n as usize];
        flags.push(match *node {
            Node::Input(k) => k == 1 || k == 3,
            Node::Constant(_) | Node::Reduce { .. } => true,
            Node::ColIndex => false,
            Node::Unary { a, .. } => flag(a),
            Node::Binary { a, b, .. } => flag(a) && flag(b),
            Node::Select { condition, then, otherwise } => flag(condition) && flag(then) && flag(otherwise),
        });
    }
    flags
}

/// Largest relative error of rounding to bfloat16, and a little.
const HALF_ULP: f64 = 1.01 / 256.0;

fn check_expression(seed: u64, rows: usize, cols: usize, length: usize, reduce: bool) {
    let mut bench = Bench::new(seed);
    let operands = operands(&mut bench, rows, cols);
    let nodes = expression(&mut bench, cols, length, reduce);
    let flags = per_row(&nodes);
    let (mut stores, mut wanted, mut halves) = (Vec::new(), Vec::new(), Vec::new());
    let last = nodes.len() - 1;
    for node in [last, last / 2, 0] {
        let (layout, shape) = match flags[node] {
            true if seed.is_multiple_of(2) => (Layout::PerRow, vec![rows]),
            _ => (Layout::Element, vec![rows, cols]),
        };
        let half = layout == Layout::Element && bench.index(2) == 0;
        let tensor = bench.zeros_of(half, &shape);
        stores.push(Store { node: node as u32, tensor, layout });
        wanted.push((node as u32, layout));
        halves.push(half);
    }
    let kernel = |inputs, stores| RowMap {
        rows: rows as u32,
        cols: cols as u32,
        inputs,
        nodes: nodes.clone(),
        stores,
    };
    bench.run(vec![kernel(operands.iter().map(|(o, _)| *o).collect(), stores.clone()).into()]);
    let values: Vec<(&[f64], Layout)> = operands.iter().map(|(o, v)| (v.as_slice(), o.layout)).collect();
    let want = reference::row_map(rows, cols, &values, &nodes, &wanted);
    for ((store, want), half) in stores.iter().zip(want).zip(&halves) {
        // Up to 15 functions deep, each at most doubling the error.
        let rounding = if *half { HALF_ULP } else { 0.0 };
        close(&bench.get(store.tensor), &want, 5e-4 + rounding);
    }
    // Between loading and storing bfloat16 changes nothing: the bits are those
    // of a kernel over the same numbers in float32, rounded.
    let mut float = |values: &[f64], shape: &[usize]| {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        bench.put(shape, &values)
    };
    let inputs = operands
        .iter()
        .map(|(operand, values)| Operand { tensor: float(values, &[values.len()]), ..*operand })
        .collect();
    let floats: Vec<Store> = stores
        .iter()
        .map(|store| {
            let len = if store.layout == Layout::Element { rows * cols } else { rows };
            Store { tensor: bench.zeros(&[len]), ..*store }
        })
        .collect();
    bench.run(vec![kernel(inputs, floats.clone()).into()]);
    for ((store, float), half) in stores.iter().zip(&floats).zip(halves) {
        let (got, mut want) = (bench.get(store.tensor), bench.get(float.tensor));
        if half {
            want = bench.rounded(&want);
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(&got) == bits(&want), "node {} differs from that of float32", store.node);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::bench::cases(60)))]

    #[test]
    fn narrow(seed: u64, rows in 1usize..300, cols in 1usize..40, length in 1usize..15, reduce: bool) {
        check_expression(seed, rows, cols, length, reduce);
    }

    #[test]
    fn wide(seed: u64, rows in 1usize..9, cols in 900usize..4000, length in 1usize..15, reduce: bool) {
        check_expression(seed, rows, cols, length, reduce);
    }
}

#[test]
fn every_function() {
    let mut bench = Bench::new(11);
    let count = 3000;
    // Positive, so that logarithms and powers are defined.
    let a32: Vec<f32> = (0..count).map(|_| (bench.draw() + 1.1) * 3.0).collect();
    let b32: Vec<f32> = (0..count).map(|_| bench.draw() * 2.5).collect();
    let (a, b) = (bench.put(&[count], &a32), bench.put(&[count], &b32));
    let (a64, b64) = (widen(&a32), widen(&b32));
    let inputs = [(a64.as_slice(), Layout::Element), (b64.as_slice(), Layout::Element)];
    let unary = UNARY.map(|op| Node::Unary { op, a: 0 });
    let signed = [UnaryOp::Relu, UnaryOp::Step, UnaryOp::Tanh, UnaryOp::Floor, UnaryOp::Absolute]
        .map(|op| Node::Unary { op, a: 1 });
    let binary = BINARY.map(|op| Node::Binary { op, a: 0, b: 1 });
    let select = [Node::Select { condition: 1, then: 0, otherwise: 1 }];
    for node in unary.into_iter().chain(signed).chain(binary).chain(select) {
        let nodes = vec![Node::Input(0), Node::Input(1), node];
        let out = bench.zeros(&[count]);
        let element = |tensor| Operand { tensor, layout: Layout::Element };
        bench.run(vec![
            RowMap {
                rows: 1,
                cols: count as u32,
                inputs: vec![element(a), element(b)],
                nodes: nodes.clone(),
                stores: vec![Store { node: 2, tensor: out, layout: Layout::Element }],
            }
            .into(),
        ]);
        let want = reference::row_map(1, count, &inputs, &nodes, &[(2, Layout::Element)]);
        close(&bench.get(out), &want[0], 1e-6);
    }
}

/// softmax(x) written over x, in tiles of many rows, of one row and of a row
/// that is longer than a tile.
#[test]
fn in_place_softmax() {
    let shapes = [(700, 5), (3, 1000), (4, 5000), (40, 1025)];
    for ((rows, cols), half) in shapes.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        let mut bench = Bench::new(12);
        let (x, x64) = bench.random_of(half, &[rows, cols]);
        let totals = bench.zeros(&[rows]);
        let nodes = vec![
            Node::Input(0),
            Node::Reduce { op: Reduction::Maximum, a: 0 },
            Node::Binary { op: BinaryOp::Subtract, a: 0, b: 1 },
            Node::Unary { op: UnaryOp::Exponential, a: 2 },
            Node::Reduce { op: Reduction::Sum, a: 3 },
            Node::Binary { op: BinaryOp::Divide, a: 3, b: 4 },
        ];
        bench.run(vec![
            RowMap {
                rows: rows as u32,
                cols: cols as u32,
                inputs: vec![Operand { tensor: x, layout: Layout::Element }],
                nodes: nodes.clone(),
                stores: vec![
                    Store { node: 5, tensor: x, layout: Layout::Element },
                    Store { node: 4, tensor: totals, layout: Layout::PerRow },
                ],
            }
            .into(),
        ]);
        let stores = [(5, Layout::Element), (4, Layout::PerRow)];
        let want = reference::row_map(rows, cols, &[(&x64, Layout::Element)], &nodes, &stores);
        close(&bench.get(x), &want[0], if half { HALF_ULP } else { 1e-6 });
        close(&bench.get(totals), &want[1], 1e-5);
    }
}

#[test]
fn element_wise_in_place_over_many_tasks() {
    for (half_x, half_y) in [(false, false), (false, true), (true, true)] {
        in_place_over_many_tasks(half_x, half_y);
    }
}

fn in_place_over_many_tasks(half_x: bool, half_y: bool) {
    let mut bench = Bench::new(13);
    let (x, x64) = bench.random_of(half_x, &[5, 40_000]);
    let (y, y64) = bench.random_of(half_y, &[200_000]);
    let element = |tensor| Operand { tensor, layout: Layout::Element };
    bench.run(vec![
        RowMap {
            rows: 200,
            cols: 1000,
            inputs: vec![element(x), element(y)],
            nodes: vec![
                Node::Input(0),
                Node::Input(1),
                Node::Binary { op: BinaryOp::Add, a: 0, b: 1 },
                Node::Binary { op: BinaryOp::Multiply, a: 0, b: 1 },
            ],
            stores: vec![
                Store { node: 2, tensor: x, layout: Layout::Element },
                Store { node: 3, tensor: y, layout: Layout::Element },
            ],
        }
        .into(),
    ]);
    let pairs = || x64.iter().zip(&y64);
    let tolerance = |half| if half { HALF_ULP } else { 1e-6 };
    close(&bench.get(x), &pairs().map(|(x, y)| x + y).collect::<Vec<_>>(), tolerance(half_x));
    close(&bench.get(y), &pairs().map(|(x, y)| x * y).collect::<Vec<_>>(), tolerance(half_y));
}

/// NaN is neither hidden nor a panic.
#[test]
fn nan_spreads() {
    let mut bench = Bench::new(14);
    let values = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY];
    let x = bench.put(&[1, 4], &values);
    for (op, half) in UNARY.into_iter().flat_map(|op| [(op, false), (op, true)]) {
        let out = bench.zeros_of(half, &[1, 4]);
        bench.run(vec![
            RowMap {
                rows: 1,
                cols: 4,
                inputs: vec![Operand { tensor: x, layout: Layout::Element }],
                nodes: vec![Node::Input(0), Node::Unary { op, a: 0 }],
                stores: vec![Store { node: 1, tensor: out, layout: Layout::Element }],
            }
            .into(),
        ]);
        let got = bench.get(out);
        assert!(op == UnaryOp::Step || got[0].is_nan(), "{op:?} hides NaN: {got:?}");
    }
    for (op, swap) in [BinaryOp::Minimum, BinaryOp::Maximum].map(|op| [(op, 0), (op, 1)]).concat() {
        let out = bench.zeros(&[1, 4]);
        bench.run(vec![
            RowMap {
                rows: 1,
                cols: 4,
                inputs: vec![Operand { tensor: x, layout: Layout::Element }],
                nodes: vec![
                    Node::Input(0),
                    Node::Constant(0.0),
                    Node::Binary { op, a: swap, b: 1 - swap },
                    Node::Reduce { op: Reduction::Maximum, a: 2 },
                ],
                stores: vec![Store { node: 3, tensor: out, layout: Layout::Element }],
            }
            .into(),
        ]);
        assert!(bench.get(out)[0].is_nan());
    }
}

/// Chains that an interpreter makes in one pass: gates, products of three,
/// signs and differences of sums of products, with uniform factors and without,
/// written over what they read.
#[test]
fn chains() {
    use BinaryOp::{Add, Multiply, Subtract};
    let two = |op, a, b| Node::Binary { op, a, b };
    let gate = |op| vec![Node::Unary { op, a: 0 }, two(Multiply, 5, 0), two(Multiply, 6, 1)];
    let triple = vec![two(Multiply, 0, 1), two(Multiply, 2, 5)];
    // sign(x·f + y·g) and z − (sign·f + g·z), as an optimizer takes a step.
    let sign = |op, f, g| {
        vec![
            two(Multiply, f, 0),
            two(Multiply, g, 1),
            two(op, 5, 6),
            Node::Unary { op: UnaryOp::Negate, a: 7 },
            Node::Unary { op: UnaryOp::Step, a: 7 },
            Node::Unary { op: UnaryOp::Step, a: 8 },
            two(Subtract, 9, 10),
            two(Multiply, f, 11),
            two(Multiply, g, 2),
            two(op, 12, 13),
            two(Subtract, 2, 14),
        ]
    };
    let mut cases = vec![triple];
    cases.extend([UnaryOp::Sigmoid, UnaryOp::Tanh, UnaryOp::Exponential].map(gate));
    for op in [Add, Subtract] {
        // Nodes 0 to 2 have a value per element, 3 and 4 one for all.
        cases.extend([(3, 4), (3, 2), (1, 4), (1, 2)].map(|(f, g)| sign(op, f, g)));
    }
    for (case, chain) in cases.into_iter().enumerate() {
        let count = [1, 17, 5000][case % 3];
        let mut bench = Bench::new(20 + case as u64);
        let tensors = [count, count, count, 1, 1].map(|len| bench.random(&[len]));
        let layouts = [Layout::Element, Layout::Element, Layout::Element, Layout::Scalar, Layout::Scalar];
        let mut nodes: Vec<Node> = (0..5).map(Node::Input).collect();
        nodes.extend(chain);
        let last = nodes.len() as u32 - 1;
        let operands: Vec<Operand> = tensors
            .iter()
            .zip(layouts)
            .map(|((tensor, _), layout)| Operand { tensor: *tensor, layout })
            .collect();
        let target = tensors[2].0;
        bench.run(vec![
            RowMap {
                rows: 1,
                cols: count as u32,
                inputs: operands,
                nodes: nodes.clone(),
                stores: vec![Store { node: last, tensor: target, layout: Layout::Element }],
            }
            .into(),
        ]);
        let inputs: Vec<_> =
            tensors.iter().zip(layouts).map(|((_, values), layout)| (&values[..], layout)).collect();
        let want = reference::row_map(1, count, &inputs, &nodes, &[(last, Layout::Element)]);
        close(&bench.get(target), &want[0], 1e-6);
    }
}

/// Runs each node in a kernel of its own, where nothing can be fused; returns
/// the numbers of each.
fn one_by_one(bench: &mut Bench, rows: u32, cols: u32, inputs: &[Operand], nodes: &[Node]) -> Vec<Vec<f32>> {
    let mut made: Vec<Operand> = Vec::new();
    for node in nodes {
        let (operands, alone) = match *node {
            Node::Input(k) => {
                made.push(inputs[k as usize]);
                continue;
            }
            Node::Unary { op, a } => (vec![a], Node::Unary { op, a: 0 }),
            Node::Binary { op, a, b } => (vec![a, b], Node::Binary { op, a: 0, b: 1 }),
            ref other => unreachable!("{other:?}"),
        };
        let mut chain: Vec<Node> = (0..operands.len() as u32).map(Node::Input).collect();
        chain.push(alone);
        let tensor = bench.zeros(&[rows as usize, cols as usize]);
        let stores = vec![Store { node: operands.len() as u32, tensor, layout: Layout::Element }];
        let inputs = operands.iter().map(|&a| made[a as usize]).collect();
        bench.run(vec![RowMap { rows, cols, inputs, nodes: chain, stores }.into()]);
        made.push(Operand { tensor, layout: Layout::Element });
    }
    made.iter().map(|operand| bench.get(operand.tensor)).collect()
}

/// What optimizers and activations are made of, over what is there: elements,
/// 0 to 2 and what was made before, and uniform values, 3 and 4.
fn idiom(bench: &mut Bench, nodes: &mut Vec<Node>) {
    let mut element = |nodes: &Vec<Node>| match bench.index(nodes.len() - 4) as u32 {
        made @ 3.. => made + 4,
        input => input,
    };
    let (x, y, z) = (element(nodes), element(nodes), element(nodes));
    let (f, g) = (3 + bench.index(2) as u32, 3 + bench.index(2) as u32);
    let function = [UnaryOp::Tanh, UnaryOp::Sigmoid, UnaryOp::Exponential][bench.index(3) as usize];
    let plus = [BinaryOp::Add, BinaryOp::Subtract][bench.index(2) as usize];
    let swap = bench.index(2) == 0;
    let one = |nodes: &mut Vec<Node>, op, a| {
        nodes.push(Node::Unary { op, a });
        nodes.len() as u32 - 1
    };
    let two = |nodes: &mut Vec<Node>, op, a, b| {
        let (a, b) = if swap { (b, a) } else { (a, b) };
        nodes.push(Node::Binary { op, a, b });
        nodes.len() as u32 - 1
    };
    let times = BinaryOp::Multiply;
    match bench.index(8) {
        // Per row and per column.
        0 => drop(two(nodes, plus, x, 5 + u32::from(swap))),
        1 => drop(two(nodes, [BinaryOp::Maximum, times, plus][bench.index(3) as usize], x, y)),
        // f·x ± y.
        2 => {
            let product = two(nodes, times, f, x);
            two(nodes, plus, product, y);
        }
        // f·x ± g·y, and again with other factors.
        3 => {
            let (a, b) = (two(nodes, times, f, x), two(nodes, times, g, y));
            two(nodes, plus, a, b);
            let (a, b) = (two(nodes, times, g, x), two(nodes, times, f, y));
            two(nodes, BinaryOp::Add, a, b);
        }
        // Lion: the sign of f·x + g·y, the step, and f·x + f·y.
        4 => {
            let (a, b) = (two(nodes, times, f, x), two(nodes, times, g, y));
            let way = two(nodes, plus, a, b);
            let back = one(nodes, UnaryOp::Negate, way);
            let (up, down) = (one(nodes, UnaryOp::Step, way), one(nodes, UnaryOp::Step, back));
            nodes.push(Node::Binary { op: BinaryOp::Subtract, a: up, b: down });
            let (a, b) = (two(nodes, times, f, up + 2), two(nodes, times, g, z));
            let step = two(nodes, BinaryOp::Add, a, b);
            nodes.push(Node::Binary { op: BinaryOp::Subtract, a: z, b: step });
            let (a, b) = (two(nodes, times, f, x), two(nodes, times, f, y));
            two(nodes, BinaryOp::Add, a, b);
        }
        // z + (f·x)·(y·y).
        5 => {
            let (a, b) = (two(nodes, times, f, x), one(nodes, UnaryOp::Square, y));
            let cube = two(nodes, times, a, b);
            two(nodes, plus, cube, z);
        }
        // (g + function(f·x))·(f·y), or the parts of it.
        6 => {
            let mut made = x;
            if bench.index(2) == 0 {
                made = two(nodes, times, f, made);
            }
            made = one(nodes, function, made);
            if bench.index(2) == 0 {
                made = two(nodes, BinaryOp::Add, g, made);
            }
            match bench.index(3) {
                0 => drop(two(nodes, times, f, made)),
                1 => drop(two(nodes, times, y, made)),
                _ => {
                    let scaled = two(nodes, times, f, y);
                    two(nodes, times, scaled, made);
                }
            }
        }
        // function(x)·y·z and x·y·z.
        _ => {
            let first = if swap { x } else { one(nodes, function, x) };
            let product = two(nodes, times, first, y);
            two(nodes, times, product, z);
        }
    }
}

/// A kernel makes what its nodes make one by one, to the bit, wherever it may
/// write: over its inputs too, and over what an earlier store has read. That is
/// the processor's promise; a card has fused forms of its own.
fn check_bits(seed: u64, rows: usize, cols: usize, length: usize) {
    if Bench::on_cuda() {
        return;
    }
    let mut bench = Bench::new(seed);
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, 3e38];
    let layouts = [
        Layout::Element,
        Layout::Element,
        Layout::Element,
        Layout::Scalar,
        Layout::Scalar,
        Layout::PerRow,
        Layout::PerCol,
    ];
    let inputs = layouts.map(|layout| {
        let shape = match layout {
            Layout::Element => vec![rows, cols],
            Layout::PerRow => vec![rows],
            Layout::PerCol => vec![cols],
            Layout::Scalar => vec![1],
        };
        let count = shape.iter().product();
        let mut values: Vec<f32> = (0..count).map(|_| bench.draw()).collect();
        if layout == Layout::Element {
            for _ in 0..count.div_ceil(50) {
                let (at, of) = (bench.index(count) as usize, bench.index(special.len()) as usize);
                values[at] = special[of];
            }
        }
        if layout == Layout::Element && bench.index(2) == 0 {
            return Operand { tensor: bench.put_halves(&shape, &values), layout };
        }
        Operand { tensor: bench.put(&shape, &values), layout }
    });
    let mut nodes: Vec<Node> = (0..7).map(Node::Input).collect();
    for _ in 0..length {
        idiom(&mut bench, &mut nodes);
    }
    let want = one_by_one(&mut bench, rows as u32, cols as u32, &inputs, &nodes);
    // Up to three of the last nodes, each over an input or somewhere else.
    let mut stores: Vec<Store> = Vec::new();
    let count = 1 + bench.index(3) as usize;
    for over in &inputs[..count] {
        let node = nodes.len() - 1 - bench.index((nodes.len() - 7).min(8)) as usize;
        let elsewhere = bench.index(3) == 0;
        let half = bench.index(2) == 0;
        let tensor = if elsewhere { bench.zeros_of(half, &[rows, cols]) } else { over.tensor };
        stores.push(Store { node: node as u32, tensor, layout: Layout::Element });
    }
    bench.run(vec![
        RowMap {
            rows: rows as u32,
            cols: cols as u32,
            inputs: inputs.to_vec(),
            nodes: nodes.clone(),
            stores: stores.clone(),
        }
        .into(),
    ]);
    for store in &stores {
        let mut want = want[store.node as usize].clone();
        if bench.is_half(store.tensor) {
            want = bench.rounded(&want);
        }
        for (at, (got, want)) in bench.get(store.tensor).iter().zip(&want).enumerate() {
            // Which of two NaN an operation hands on is the processor's affair.
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "{store:?}, element {at}: {got:e}, not {want:e}\n{nodes:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::bench::cases(200)))]

    #[test]
    fn to_the_bit_in_long_rows(seed: u64, rows in 1usize..4, cols in 1usize..9000, length in 1usize..5) {
        check_bits(seed, rows, cols, length);
    }

    #[test]
    fn to_the_bit_in_short_rows(seed: u64, rows in 1usize..200, cols in 1usize..70, length in 1usize..5) {
        check_bits(seed, rows, cols, length);
    }
}

/// An element of bfloat16 counts two bytes in the account, and costs less.
#[test]
fn halves_are_half_the_bytes() {
    let mut device = Bench::device();
    let mut moved = |from, to| {
        let [x, y] = [from, to].map(|dtype| device.alloc(dtype, &[16, 64]).unwrap());
        let inputs = vec![Operand { tensor: x, layout: Layout::Element }];
        let stores = vec![Store { node: 0, tensor: y, layout: Layout::Element }];
        let op = RowMap { rows: 16, cols: 64, inputs, nodes: vec![Node::Input(0)], stores };
        let graph = device.prepare(vec![op.into()]).unwrap();
        (graph.account()[0].bytes, graph.cost())
    };
    let (whole, cost) = moved(DType::F32, DType::F32);
    assert_eq!(whole, 2 * 4 * 16 * 64);
    for (from, to) in [(DType::Bf16, DType::F32), (DType::F32, DType::Bf16)] {
        let (bytes, less) = moved(from, to);
        assert_eq!(bytes, whole * 3 / 4);
        assert!(less < cost, "{less} and {cost}");
    }
    assert_eq!(moved(DType::Bf16, DType::Bf16).0, whole / 2);
}
