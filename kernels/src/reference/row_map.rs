//! Row kernels, a node at a time over the whole space.

use crate::op::{BinaryOp, Layout, Node, Reduction, UnaryOp};

fn unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Negate => -x,
        UnaryOp::Absolute => x.abs(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Square => x * x,
        UnaryOp::SquareRoot => x.sqrt(),
        UnaryOp::ReciprocalSquareRoot => 1.0 / x.sqrt(),
        UnaryOp::Exponential => x.exp(),
        UnaryOp::Logarithm => x.ln(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Relu => x.max(0.0),
        UnaryOp::Step => f64::from(x > 0.0),
        UnaryOp::Sine => x.sin(),
        UnaryOp::Cosine => x.cos(),
        UnaryOp::Floor => x.floor(),
    }
}

fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Subtract => a - b,
        BinaryOp::Multiply => a * b,
        BinaryOp::Divide => a / b,
        BinaryOp::Minimum => a.min(b),
        BinaryOp::Maximum => a.max(b),
        BinaryOp::LessThan => f64::from(a < b),
        BinaryOp::Power => a.powf(b),
    }
}

/// Every node's value at every element of [rows, cols]; a value per row is
/// the same along its row. Returns the value of each node of `stores`, at
/// every element, or the first column of it for a store per row.
pub fn row_map(
    rows: usize,
    cols: usize,
    inputs: &[(&[f64], Layout)],
    nodes: &[Node],
    stores: &[(u32, Layout)],
) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    let each = |f: &dyn Fn(usize) -> f64| (0..rows * cols).map(f).collect::<Vec<f64>>();
    for node in nodes {
        let value = |n: u32| &values[n as usize];
        let next = match *node {
            Node::Input(k) => {
                let (data, layout) = inputs[k as usize];
                each(&|i| match layout {
                    Layout::Element => data[i],
                    Layout::PerRow => data[i / cols],
                    Layout::PerCol => data[i % cols],
                    Layout::Scalar => data[0],
                })
            }
            Node::Constant(x) => each(&|_| f64::from(x)),
            Node::ColIndex => each(&|i| (i % cols) as f64),
            Node::Unary { op, a } => each(&|i| unary(op, value(a)[i])),
            Node::Binary { op, a, b } => each(&|i| binary(op, value(a)[i], value(b)[i])),
            Node::Select { condition, then, otherwise } => each(&|i| {
                if value(condition)[i] > 0.0 { value(then)[i] } else { value(otherwise)[i] }
            }),
            Node::Reduce { op, a } => {
                let reduced: Vec<f64> = value(a)
                    .chunks(cols)
                    .map(|row| match op {
                        Reduction::Sum => row.iter().sum(),
                        Reduction::Maximum => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    })
                    .collect();
                each(&|i| reduced[i / cols])
            }
        };
        values.push(next);
    }
    let stored = |&(node, layout): &(u32, Layout)| {
        let value = &values[node as usize];
        match layout {
            Layout::Element => value.clone(),
            _ => value.iter().copied().step_by(cols).collect(),
        }
    };
    stores.iter().map(stored).collect()
}
