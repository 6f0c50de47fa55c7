//! Reverse-mode differentiation of a row kernel, node by node.

use super::{BinaryOp, Expr, Kernel, Node, Reduction, UnaryOp};

impl Kernel {
    /// Appends the derivative of Σ output·seed to the kernel and returns, for
    /// each input operand, the expression of its share (`None`: the output
    /// does not depend on it).
    ///
    /// The share of an `Element` or `PerCol` input is one value per element
    /// (the caller sums a `PerCol` share over the rows); that of a `PerRow` or
    /// `Scalar` input is already summed over the row (the caller sums a
    /// `Scalar` share over the rows). Where the output is per row, so must
    /// `seed` be.
    pub fn gradients<'k>(&'k self, output: Expr<'k>, seed: Expr<'k>) -> Vec<Option<Expr<'k>>> {
        let count = output.id as usize + 1;
        let mut adjoint: Vec<Option<Expr<'k>>> = vec![None; count];
        adjoint[output.id as usize] = Some(seed);
        for id in (0..count).rev() {
            if let Some(g) = adjoint[id] {
                self.node_gradient(id as u32, g, &mut adjoint);
            }
        }
        let inputs = self.inputs.borrow().len();
        let mut shares = vec![None; inputs];
        for (id, share) in adjoint.iter().enumerate() {
            if let Node::Input(k) = self.entry(id as u32).node {
                shares[k as usize] = *share;
            }
        }
        shares
    }

    /// Hands the adjoint `g` of node `id` on to its operands.
    fn node_gradient<'k>(&'k self, id: u32, g: Expr<'k>, adjoint: &mut [Option<Expr<'k>>]) {
        let y = Expr { kernel: self, id };
        let mut give = |to: u32, share: Expr<'k>| self.accumulate(y, to, share, adjoint);
        match self.entry(id).node {
            Node::Input(_) | Node::Constant(_) | Node::ColIndex => {}
            Node::Unary(op, a) => {
                let x = Expr { kernel: self, id: a };
                let share = match op {
                    UnaryOp::Negate => -g,
                    UnaryOp::Absolute => g * x.select(1.0, -1.0),
                    UnaryOp::Reciprocal => -(g * y.square()),
                    UnaryOp::Square => 2.0 * g * x,
                    UnaryOp::SquareRoot => 0.5 * g / y,
                    UnaryOp::ReciprocalSquareRoot => -0.5 * g * (y * y.square()),
                    UnaryOp::Exponential => g * y,
                    UnaryOp::Logarithm => g / x,
                    UnaryOp::Tanh => g * (1.0 - y.square()),
                    UnaryOp::Sigmoid => g * (y * (1.0 - y)),
                    UnaryOp::Relu => g * x.step(),
                    UnaryOp::Sine => g * x.cos(),
                    UnaryOp::Cosine => -(g * x.sin()),
                    UnaryOp::Step | UnaryOp::Floor => return,
                };
                give(a, share);
            }
            Node::Binary(op, a, b) => {
                let (x, z) = (Expr { kernel: self, id: a }, Expr { kernel: self, id: b });
                match op {
                    BinaryOp::Add => {
                        give(a, g);
                        give(b, g);
                    }
                    BinaryOp::Subtract => {
                        give(a, g);
                        give(b, -g);
                    }
                    BinaryOp::Multiply => {
                        give(a, g * z);
                        give(b, g * x);
                    }
                    BinaryOp::Divide => {
                        give(a, g / z);
                        give(b, -(g * y / z));
                    }
                    // A tie goes to the first operand.
                    BinaryOp::Minimum => {
                        let second = z.less_than(x);
                        give(a, g * (1.0 - second));
                        give(b, g * second);
                    }
                    BinaryOp::Maximum => {
                        let second = x.less_than(z);
                        give(a, g * (1.0 - second));
                        give(b, g * second);
                    }
                    BinaryOp::LessThan => {}
                    BinaryOp::Power => {
                        give(a, g * z * x.pow(z - 1.0));
                        if self.value(b).is_none() {
                            give(b, g * y * x.ln());
                        }
                    }
                }
            }
            Node::Select(condition, a, b) => {
                let c = Expr { kernel: self, id: condition };
                give(a, c.select(g, 0.0));
                give(b, c.select(0.0, g));
            }
            Node::Reduce(Reduction::Sum, a) => give(a, g),
            // Every column that holds the maximum gets the whole share.
            Node::Reduce(Reduction::Maximum, a) => {
                let x = Expr { kernel: self, id: a };
                give(a, g * (1.0 - x.less_than(y)));
            }
        }
    }

    /// Adds `share`, which the node `from` owes, to the adjoint of `to`.
    fn accumulate<'k>(&'k self, from: Expr<'k>, to: u32, share: Expr<'k>, adjoint: &mut [Option<Expr<'k>>]) {
        if self.value(to).is_some() {
            return;
        }
        // A value that serves the whole row owes to each of its columns.
        let share = match !from.is_per_row() && self.entry(to).per_row {
            true => share.row_sum(),
            false => share,
        };
        let slot = &mut adjoint[to as usize];
        *slot = Some(match *slot {
            Some(before) => before + share,
            None => share,
        });
    }
}
