//! Row kernels: expressions over the elements of a row, written as Rust.
//!
//! A kernel is a list of nodes in static single assignment form (at most 256)
//! that the host evaluates for every element of a [rows, cols] space. This
//! module builds that list from ordinary arithmetic, and [`gradient`] turns
//! one into the kernel of its derivative, so that a new activation, norm,
//! gate or loss is one closure:
//!
//! ```
//! use terrarium_sdk::rowkernel::{Kernel, Layout};
//! let k = Kernel::new(64);
//! let x = k.input(Layout::Element);
//! let y = x.relu().square() + 0.1 * x; // leaky squared ReLU
//! assert!(!y.is_per_row());
//! ```
//!
//! [`gradient`]: Kernel::gradients

mod gradient;

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::bindings::trainer::terrarium::guest::compute;

pub use compute::{BinaryOp, Layout, Reduction, UnaryOp};

/// One node; operands are numbers of earlier nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Input(u32),
    Constant(f32),
    Unary(UnaryOp, u32),
    Binary(BinaryOp, u32, u32),
    Select(u32, u32, u32),
    Reduce(Reduction, u32),
    ColIndex,
}

#[derive(Clone, Copy)]
struct Entry {
    node: Node,
    /// One value for the whole row (a reduction, a constant, …)?
    per_row: bool,
}

/// A kernel under construction, over rows of `cols` elements.
pub struct Kernel {
    cols: u32,
    nodes: RefCell<Vec<Entry>>,
    inputs: RefCell<Vec<Layout>>,
}

/// A value in a kernel. Copy it freely; equal expressions are computed once.
#[derive(Clone, Copy)]
pub struct Expr<'k> {
    kernel: &'k Kernel,
    id: u32,
}

impl Kernel {
    /// An empty kernel over rows of `cols` elements.
    pub fn new(cols: u32) -> Self {
        Self { cols, nodes: RefCell::default(), inputs: RefCell::default() }
    }

    /// The next input operand, laid over the row as `layout` says.
    pub fn input(&self, layout: Layout) -> Expr<'_> {
        let mut inputs = self.inputs.borrow_mut();
        inputs.push(layout);
        let per_row = matches!(layout, Layout::PerRow | Layout::Scalar);
        self.push(Node::Input(inputs.len() as u32 - 1), per_row)
    }

    /// Elements of a row.
    pub fn cols(&self) -> u32 {
        self.cols
    }

    /// The layouts of the inputs so far.
    pub fn layouts(&self) -> Vec<Layout> {
        self.inputs.borrow().clone()
    }

    /// A constant.
    pub fn constant(&self, value: f32) -> Expr<'_> {
        self.push(Node::Constant(value), true)
    }

    /// The number of the column, from 0.
    pub fn col_index(&self) -> Expr<'_> {
        self.push(Node::ColIndex, false)
    }

    fn push(&self, node: Node, per_row: bool) -> Expr<'_> {
        let mut nodes = self.nodes.borrow_mut();
        let id = match nodes.iter().position(|e| e.node == node) {
            Some(id) => id,
            None => {
                nodes.push(Entry { node, per_row });
                nodes.len() - 1
            }
        };
        Expr { kernel: self, id: id as u32 }
    }

    fn entry(&self, id: u32) -> Entry {
        self.nodes.borrow()[id as usize]
    }

    fn unary(&self, op: UnaryOp, a: u32) -> Expr<'_> {
        self.push(Node::Unary(op, a), self.entry(a).per_row)
    }

    fn value(&self, id: u32) -> Option<f32> {
        match self.entry(id).node {
            Node::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// Binary nodes, with the identities that derivatives produce folded.
    fn binary(&self, op: BinaryOp, a: u32, b: u32) -> Expr<'_> {
        let keep = |id| Expr { kernel: self, id };
        match (op, self.value(a), self.value(b)) {
            (BinaryOp::Multiply, Some(1.0), _) | (BinaryOp::Add, Some(0.0), _) => return keep(b),
            (BinaryOp::Multiply | BinaryOp::Divide, _, Some(1.0))
            | (BinaryOp::Add | BinaryOp::Subtract, _, Some(0.0)) => return keep(a),
            (BinaryOp::Multiply, Some(x), Some(y)) => return self.constant(x * y),
            (BinaryOp::Add, Some(x), Some(y)) => return self.constant(x + y),
            _ => {}
        }
        self.push(Node::Binary(op, a, b), self.entry(a).per_row && self.entry(b).per_row)
    }

    fn reduce(&self, op: Reduction, a: u32) -> Expr<'_> {
        if self.entry(a).per_row {
            // The same value in every column.
            return match op {
                Reduction::Sum => self.binary(BinaryOp::Multiply, a, self.constant(self.cols as f32).id),
                Reduction::Maximum => Expr { kernel: self, id: a },
            };
        }
        self.push(Node::Reduce(op, a), true)
    }

    /// The nodes that `outputs` need, in the host's form, and where each
    /// output is among them.
    pub(crate) fn lower(&self, outputs: &[u32]) -> (Vec<compute::Node>, Vec<u32>) {
        let nodes = self.nodes.borrow();
        let mut needed = vec![false; nodes.len()];
        for &output in outputs {
            needed[output as usize] = true;
        }
        for id in (0..nodes.len()).rev() {
            if needed[id] {
                let mut mark = |a: u32| needed[a as usize] = true;
                match nodes[id].node {
                    Node::Input(_) | Node::Constant(_) | Node::ColIndex => {}
                    Node::Unary(_, a) | Node::Reduce(_, a) => mark(a),
                    Node::Binary(_, a, b) => {
                        mark(a);
                        mark(b);
                    }
                    Node::Select(c, a, b) => {
                        mark(c);
                        mark(a);
                        mark(b);
                    }
                }
            }
        }
        let mut number = vec![0u32; nodes.len()];
        let mut out = Vec::new();
        for (id, entry) in nodes.iter().enumerate() {
            if !needed[id] {
                continue;
            }
            number[id] = out.len() as u32;
            let at = |a: u32| number[a as usize];
            out.push(match entry.node {
                Node::Input(k) => compute::Node::Input(k),
                Node::Constant(value) => compute::Node::Constant(value),
                Node::Unary(op, a) => compute::Node::Unary(compute::UnaryNode { op, a: at(a) }),
                Node::Binary(op, a, b) => {
                    compute::Node::Binary(compute::BinaryNode { op, a: at(a), b: at(b) })
                }
                Node::Select(c, a, b) => compute::Node::Select(compute::SelectNode {
                    condition: at(c),
                    then: at(a),
                    otherwise: at(b),
                }),
                Node::Reduce(op, a) => compute::Node::Reduce(compute::ReduceNode { op, a: at(a) }),
                Node::ColIndex => compute::Node::ColIndex,
            });
        }
        (out, outputs.iter().map(|&id| number[id as usize]).collect())
    }
}

/// One-argument functions as methods.
macro_rules! unary_methods {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(self) -> Self {
            self.kernel.unary(UnaryOp::$op, self.id)
        }
    )*};
}

impl<'k> Expr<'k> {
    unary_methods! {
        /// |x|
        abs = Absolute;
        /// 1/x
        recip = Reciprocal;
        /// x²
        square = Square;
        /// √x
        sqrt = SquareRoot;
        /// 1/√x
        rsqrt = ReciprocalSquareRoot;
        /// eˣ
        exp = Exponential;
        /// ln x
        ln = Logarithm;
        /// Hyperbolic tangent.
        tanh = Tanh;
        /// 1/(1+e⁻ˣ)
        sigmoid = Sigmoid;
        /// max(x, 0)
        relu = Relu;
        /// 1 where x > 0, else 0; its derivative is taken as 0.
        step = Step;
        /// Sine, in radians.
        sin = Sine;
        /// Cosine, in radians.
        cos = Cosine;
        /// The greatest whole number not above x; its derivative is taken as 0.
        floor = Floor;
    }

    /// x·sigmoid(x) (SiLU, Swish).
    pub fn silu(self) -> Self {
        self * self.sigmoid()
    }

    /// The tanh form of GELU (Hendrycks & Gimpel 2016).
    pub fn gelu(self) -> Self {
        let inner = 0.797_884_6 * (self + 0.044_715 * self * self.square());
        0.5 * self * (1.0 + inner.tanh())
    }

    /// The smaller of two values.
    pub fn min(self, other: impl Operand<'k>) -> Self {
        let other = other.expr(self.kernel);
        self.kernel.binary(BinaryOp::Minimum, self.id, other.id)
    }

    /// The greater of two values.
    pub fn max(self, other: impl Operand<'k>) -> Self {
        let other = other.expr(self.kernel);
        self.kernel.binary(BinaryOp::Maximum, self.id, other.id)
    }

    /// 1 where self < other, else 0; its derivative is taken as 0.
    pub fn less_than(self, other: impl Operand<'k>) -> Self {
        let other = other.expr(self.kernel);
        self.kernel.binary(BinaryOp::LessThan, self.id, other.id)
    }

    /// self raised to `exponent`; the base must be positive unless the
    /// exponent is a whole number.
    pub fn pow(self, exponent: impl Operand<'k>) -> Self {
        let exponent = exponent.expr(self.kernel);
        self.kernel.binary(BinaryOp::Power, self.id, exponent.id)
    }

    /// `then` where self > 0, else `otherwise`.
    pub fn select(self, then: impl Operand<'k>, otherwise: impl Operand<'k>) -> Self {
        let (a, b) = (then.expr(self.kernel), otherwise.expr(self.kernel));
        let per_row = self.is_per_row() && a.is_per_row() && b.is_per_row();
        self.kernel.push(Node::Select(self.id, a.id, b.id), per_row)
    }

    /// The sum over the row.
    pub fn row_sum(self) -> Self {
        self.kernel.reduce(Reduction::Sum, self.id)
    }

    /// The mean over the row.
    pub fn row_mean(self) -> Self {
        self.row_sum() * (1.0 / self.kernel.cols as f32)
    }

    /// The maximum over the row.
    pub fn row_max(self) -> Self {
        self.kernel.reduce(Reduction::Maximum, self.id)
    }

    /// True if the value is the same in every column of a row.
    pub fn is_per_row(self) -> bool {
        self.kernel.entry(self.id).per_row
    }

    pub(crate) fn id(self) -> u32 {
        self.id
    }
}

/// What may stand beside an expression: another one, or a number.
pub trait Operand<'k> {
    /// As a node of `kernel`.
    fn expr(self, kernel: &'k Kernel) -> Expr<'k>;
}

impl<'k> Operand<'k> for Expr<'k> {
    fn expr(self, _: &'k Kernel) -> Expr<'k> {
        self
    }
}

impl<'k> Operand<'k> for f32 {
    fn expr(self, kernel: &'k Kernel) -> Expr<'k> {
        kernel.constant(self)
    }
}

macro_rules! operators {
    ($($Trait:ident, $method:ident, $op:ident;)*) => {$(
        impl<'k, T: Operand<'k>> $Trait<T> for Expr<'k> {
            type Output = Expr<'k>;
            fn $method(self, other: T) -> Expr<'k> {
                let other = other.expr(self.kernel);
                self.kernel.binary(BinaryOp::$op, self.id, other.id)
            }
        }
        impl<'k> $Trait<Expr<'k>> for f32 {
            type Output = Expr<'k>;
            fn $method(self, other: Expr<'k>) -> Expr<'k> {
                let first = other.kernel.constant(self);
                other.kernel.binary(BinaryOp::$op, first.id, other.id)
            }
        }
    )*};
}

operators! {
    Add, add, Add;
    Sub, sub, Subtract;
    Mul, mul, Multiply;
    Div, div, Divide;
}

impl<'k> Neg for Expr<'k> {
    type Output = Expr<'k>;
    fn neg(self) -> Expr<'k> {
        self.kernel.unary(UnaryOp::Negate, self.id)
    }
}
