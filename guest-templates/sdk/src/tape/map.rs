//! Elementwise and row-wise expressions, differentiated automatically.

use super::emit::operands;
use super::{Slot, Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op, ReduceAxis};
use crate::error::{Error, Result};
use crate::rowkernel::{BinaryOp, Expr, Kernel, Layout};
use crate::tensor::{Dtype, elements};

/// An expression of its operands; each call must build the same one.
pub type RowFunction<'f> = &'f dyn for<'k> Fn(&[Expr<'k>]) -> Expr<'k>;

impl Tape {
    /// y = f(inputs) for each element. The first operand must be an
    /// `Element` one; its shape [..., cols] sets the rows and columns, and
    /// the others are laid over it: `Element` (as many elements), `PerRow`
    /// (one value per row), `PerCol` (one per column), `Scalar` (one).
    /// `Element` operands are float32 or bfloat16, the others float32; the
    /// arithmetic is in float32.
    ///
    /// The result has the first operand's shape; if `f` is one value per row
    /// (it ends in a reduction), the shape without the last dimension.
    /// The gradient is derived from the expression.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Var, rowkernel::Layout::*};
    /// # fn f(t: &mut Tape, x: Var, bias: Var) -> Result<Var> {
    /// // softmax over the last dimension, with a bias
    /// t.map(&[(x, Element), (bias, PerCol)], &|e| {
    ///     let z = e[0] + e[1];
    ///     let p = (z - z.row_max()).exp();
    ///     p / p.row_sum()
    /// })
    /// # }
    /// ```
    pub fn map(&mut self, inputs: &[(Var, Layout)], f: RowFunction<'_>) -> Result<Var> {
        self.map_as(inputs, Dtype::Float32, f)
    }

    /// As [`Tape::map`], stored as float32 or, for products that take it next,
    /// as bfloat16: half the bytes, and no cast. A value per row is float32.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Dtype, Result, Tape, Var, rowkernel::Layout::*};
    /// # fn f(t: &mut Tape, gate: Var, x: Var, w: Var) -> Result<Var> {
    /// let inputs = [(gate, Element), (x, Element)];
    /// let h = t.map_as(&inputs, Dtype::Bfloat16, &|e| e[0].silu() * e[1])?;
    /// t.linear(h, w) // a bfloat16 weight
    /// # }
    /// ```
    pub fn map_as(&mut self, inputs: &[(Var, Layout)], result: Dtype, f: RowFunction<'_>) -> Result<Var> {
        let Some(&(first, Layout::Element)) = inputs.first() else {
            return Err(Error::invalid("map: the first operand must be an Element one"));
        };
        let (rows, cols) = self.rows_cols(first)?;
        for &(x, layout) in inputs {
            let want = expected_len(layout, rows, cols);
            if elements(self.shape(x)) != want {
                return Err(Error::shape(format!(
                    "map: an operand of shape {:?} laid as {layout:?} over {rows} rows of {cols} needs {want} elements",
                    self.shape(x)
                )));
            }
        }
        let layouts: Vec<Layout> = inputs.iter().map(|i| i.1).collect();
        let slots: Vec<Slot> = inputs.iter().map(|i| self.slot(i.0)).collect();

        let kernel = Kernel::new(cols);
        let args: Vec<Expr<'_>> = layouts.iter().map(|&l| kernel.input(l)).collect();
        let output = f(&args);
        let mut shape = self.shape(first).to_vec();
        let layout = match output.is_per_row() {
            true => {
                shape.pop();
                if shape.is_empty() {
                    shape.push(1);
                }
                Layout::PerRow
            }
            false => Layout::Element,
        };
        if layout == Layout::PerRow && result != Dtype::Float32 {
            return Err(Error::invalid("map_as: a value per row is stored as float32; cast it"));
        }
        let out = self.temporary_of(result, &shape);
        self.emit_kernel(&kernel, rows, &slots, &[(output, out, layout)])?;

        let wanted: Vec<bool> = inputs.iter().map(|i| self.needs_gradient(i.0)).collect();
        let y = self.add_var(out, wanted.contains(&true));
        if !self.training || !self.needs_gradient(y) {
            return Ok(y);
        }
        let seed = kernel.input(layout);
        let shares = kernel.gradients(output, seed);
        let mut targets = Vec::new();
        let mut ids = Vec::new();
        for (at, share) in shares.iter().take(inputs.len()).enumerate() {
            if let (true, Some(share)) = (wanted[at], share) {
                let same = share.id() == seed.id() && layout == layouts[at];
                targets.push(Target { var: inputs[at].0, layout: layouts[at], same });
                if !same {
                    ids.push(share.id());
                }
            }
        }
        let (nodes, numbers) = kernel.lower(&ids);
        let mut all_layouts = layouts;
        all_layouts.push(layout);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = match layout {
                    Layout::Element => t.buffer_as_it_is(adjoint, y),
                    _ => t.buffer(adjoint, y)?,
                };
                let mut slots = slots;
                slots.push(dy);
                t.map_backward(rows, cols, operands(&slots, &all_layouts), nodes, numbers, targets, dy)
            }),
        );
        Ok(y)
    }

    /// [`Tape::map`] with every operand an `Element` one.
    /// One pass over the operands, a few flops for each element.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, gate: Var, x: Var) -> Result<()> {
    /// let y = t.map_elements(&[gate, x], &|e| e[0].silu() * e[1])?; // SwiGLU's middle
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn map_elements(&mut self, inputs: &[Var], f: RowFunction<'_>) -> Result<Var> {
        let inputs: Vec<(Var, Layout)> = inputs.iter().map(|&x| (x, Layout::Element)).collect();
        self.map(&inputs, f)
    }

    /// a + b, of equal shapes.
    /// One pass; three numbers moved for each element.
    pub fn add(&mut self, a: Var, b: Var) -> Result<Var> {
        self.map_elements(&[a, b], &|e| e[0] + e[1])
    }

    /// a·b, element by element, of equal shapes.
    /// One pass; three numbers moved for each element.
    pub fn mul(&mut self, a: Var, b: Var) -> Result<Var> {
        self.map_elements(&[a, b], &|e| e[0] * e[1])
    }

    /// factor·x
    /// One pass; two numbers moved for each element.
    pub fn scale(&mut self, x: Var, factor: f32) -> Result<Var> {
        self.map_elements(&[x], &|e| factor * e[0])
    }

    #[allow(clippy::too_many_arguments)]
    fn map_backward(
        &mut self,
        rows: u32,
        cols: u32,
        mut inputs: Vec<compute::Operand>,
        mut nodes: Vec<compute::Node>,
        numbers: Vec<u32>,
        targets: Vec<Target>,
        dy: Slot,
    ) -> Result<()> {
        let mut numbers = numbers.into_iter();
        let mut stores: Vec<compute::Store> = Vec::new();
        let mut after = Vec::new();
        for target in targets {
            let x = target.var;
            if target.same {
                after.push(After::Share(x));
                continue;
            }
            let node = numbers.next().unwrap_or(0);
            // A gradient that is there is added to by the kernel itself.
            if target.layout == Layout::Element
                && inputs.len() < MAX_INPUTS
                && nodes.len() + 2 <= MAX_NODES
                && let Some(sum) = self.sum_so_far(x)?
                && stores.iter().all(|store| store.tensor != sum.raw())
            {
                let at = nodes.len() as u32;
                nodes.push(compute::Node::Input(inputs.len() as u32));
                nodes.push(compute::Node::Binary(compute::BinaryNode { op: BinaryOp::Add, a: at, b: node }));
                inputs.push(compute::Operand { tensor: sum.raw(), layout: Layout::Element });
                stores.push(compute::Store { node: at + 1, tensor: sum.raw(), layout: Layout::Element });
                continue;
            }
            let (layout, slot) = match target.layout {
                Layout::Element | Layout::PerRow => {
                    let dtype = match target.layout {
                        Layout::Element => self.gradient_dtype(x),
                        _ => Dtype::Float32,
                    };
                    let to = self.destination_of(x, dtype)?;
                    let slot = to.slot;
                    after.push(After::Deliver(to));
                    (target.layout, slot)
                }
                Layout::PerCol => {
                    let slot = self.temporary(&[rows, cols]);
                    after.push(After::Reduce(x, slot, ReduceAxis::Rows));
                    (Layout::Element, slot)
                }
                Layout::Scalar => {
                    let slot = self.temporary(&[rows]);
                    after.push(After::Reduce(x, slot, ReduceAxis::All));
                    (Layout::PerRow, slot)
                }
            };
            stores.push(compute::Store { node, tensor: slot.raw(), layout });
        }
        if !stores.is_empty() {
            self.emit(Op::RowMap(compute::RowMap { rows, cols, inputs, nodes, stores }));
        }
        for step in after {
            match step {
                After::Share(x) => self.contribute(x, dy)?,
                After::Deliver(to) => self.deliver(to)?,
                After::Reduce(x, src, axis) => {
                    let (dst, add) = self.accumulator(x)?;
                    self.emit_reduce(src, dst, axis, 1.0, add);
                }
            }
        }
        Ok(())
    }
}

/// The host's limits for a row kernel.
const MAX_INPUTS: usize = 16;
const MAX_NODES: usize = 256;

/// An operand that gets a share of the gradient.
struct Target {
    var: Var,
    layout: Layout,
    /// The share is the adjoint itself (a sum): nothing to compute.
    same: bool,
}

/// What to do with a share once the kernel has run.
enum After {
    Share(Var),
    Deliver(super::backward::Destination),
    Reduce(Var, Slot, ReduceAxis),
}

fn expected_len(layout: Layout, rows: u32, cols: u32) -> u64 {
    match layout {
        Layout::Element => u64::from(rows) * u64::from(cols),
        Layout::PerRow => u64::from(rows),
        Layout::PerCol => u64::from(cols),
        Layout::Scalar => 1,
    }
}
