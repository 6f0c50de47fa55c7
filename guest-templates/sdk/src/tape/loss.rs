//! Embeddings, reductions, and the loss.

use super::{Adjoint, Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op, ReduceAxis};
use crate::error::{Error, Result};
use crate::tensor::elements;

impl Tape {
    /// Rows of `table` [V, C] by `indices` (int32, any shape […]) → […, C].
    /// A copy of rows, and in the gradient a sorted sum of them: it costs the
    /// bytes that it moves, C numbers a row twice.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, table: &Tensor, tokens: Var) -> Result<()> {
    /// let table = t.param(table); // [256, 64]
    /// let x = t.gather(table, tokens)?; // int32 [8, 128] → [8, 128, 64]
    /// # let _ = x;
    /// # Ok(()) }
    /// ```
    pub fn gather(&mut self, table: Var, indices: Var) -> Result<Var> {
        let cols = match *self.shape(table) {
            [_, cols] => cols,
            _ => return Err(self.mismatch("gather", table, indices)),
        };
        let mut shape = self.shape(indices).to_vec();
        let count = u32::try_from(elements(&shape)).map_err(|_| Error::shape("gather: too many indices"))?;
        shape.push(cols);
        let (st, si) = (self.slot(table), self.slot(indices));
        let si = self.view(si, 0, &[count])?;
        let out = self.temporary(&shape);
        let flat = self.view(out, 0, &[count, cols])?;
        self.emit(Op::Gather(compute::Gather { table: st.raw(), indices: si.raw(), out: flat.raw() }));
        let y = self.add_var(out, self.needs_gradient(table));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(table) {
                    return Ok(());
                }
                let dy = t.buffer(adjoint, y)?;
                let dy = t.view(dy, 0, &[count, cols])?;
                let (dt, accumulate) = t.accumulator(table)?;
                t.emit(Op::ScatterAdd(compute::ScatterAdd {
                    src: dy.raw(),
                    indices: si.raw(),
                    table: dt.raw(),
                    accumulate,
                }));
                Ok(())
            }),
        );
        Ok(y)
    }

    /// The losses of next-token prediction, one per row, without ever storing
    /// the logits: x [..., C], weight [V, C], targets int32 with one entry
    /// per row (negative: ignored, loss 0) → `[rows]`. Logits are capped as
    /// softcap·tanh(z/softcap) (0: not capped). Its adjoint must be uniform,
    /// so finish with [`Tape::mean`] or [`Tape::sum`]. x and weight are both
    /// float32 or both bfloat16; losses and gradients are float32.
    /// so finish with [`Tape::mean`] or [`Tape::sum`].
    /// Costs 2·V·C flops a row; the gradient, which computes the logits again,
    /// three times that.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var, head: &Tensor, targets: Var) -> Result<()> {
    /// let head = t.param(head); // [256, 64]
    /// let losses = t.linear_cross_entropy(x, head, targets, 15.0)?; // [8, 128, 64] → [1024]
    /// let loss = t.mean(losses)?;
    /// t.backward(loss)?;
    /// # Ok(()) }
    /// ```
    pub fn linear_cross_entropy(&mut self, x: Var, weight: Var, targets: Var, softcap: f32) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x)?;
        if elements(self.shape(targets)) != u64::from(rows) {
            return Err(self.mismatch("linear_cross_entropy (targets)", x, targets));
        }
        let (sx, sw, st) = (self.slot(x), self.slot(weight), self.slot(targets));
        let sx = self.view(sx, 0, &[rows, cols])?;
        let st = self.view(st, 0, &[rows])?;
        let losses = self.temporary(&[rows]);
        let lse = self.temporary(&[rows]);
        self.emit(Op::LinearCrossEntropy(compute::LinearCrossEntropy {
            x: sx.raw(),
            weight: sw.raw(),
            targets: st.raw(),
            losses: losses.raw(),
            lse: lse.raw(),
            softcap,
        }));
        let needs = self.needs_gradient(x) || self.needs_gradient(weight);
        let y = self.add_var(losses, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let Adjoint::Uniform(grad_scale) = adjoint else {
                    return Err(Error::invalid(
                        "linear_cross_entropy: its losses must go straight into mean or sum",
                    ));
                };
                let dx = t.destination_of(x, t.slot_dtype(sx))?;
                let (dweight, accumulate) = match t.needs_gradient(weight) {
                    true => t.accumulator(weight)?,
                    false => {
                        let shape = t.shape(weight).to_vec();
                        (t.temporary(&shape), false)
                    }
                };
                let dx_flat = t.view(dx.slot, 0, &[rows, cols])?;
                t.emit(Op::LinearCrossEntropyBackward(compute::LinearCrossEntropyBackward {
                    x: sx.raw(),
                    weight: sw.raw(),
                    targets: st.raw(),
                    lse: lse.raw(),
                    dx: dx_flat.raw(),
                    dweight: dweight.raw(),
                    softcap,
                    grad_scale,
                    accumulate,
                }));
                t.deliver(dx)
            }),
        );
        Ok(y)
    }

    /// The mean of all elements, `[1]`.
    pub fn mean(&mut self, x: Var) -> Result<Var> {
        let count = elements(self.shape(x));
        self.total(x, 1.0 / count as f32)
    }

    /// The sum of all elements, `[1]`.
    pub fn sum(&mut self, x: Var) -> Result<Var> {
        self.total(x, 1.0)
    }

    /// The sum of all elements times a number, `[1]`: a mean over more rows
    /// than these, for instance.
    pub fn scaled_sum(&mut self, x: Var, scale: f32) -> Result<Var> {
        self.total(x, scale)
    }

    fn total(&mut self, x: Var, scale: f32) -> Result<Var> {
        let src = self.slot(x);
        let out = self.temporary(&[1]);
        self.emit_reduce(src, out, ReduceAxis::All, scale, false);
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| match adjoint {
                Adjoint::Uniform(value) => t.give_uniform(x, value * scale),
                Adjoint::Buffer(dy) => {
                    if !t.needs_gradient(x) {
                        return Ok(());
                    }
                    let (rows, cols) = t.rows_cols(x)?;
                    let kernel = crate::rowkernel::Kernel::new(cols);
                    let share = kernel.input(crate::rowkernel::Layout::Scalar) * scale;
                    let to = t.destination(x)?;
                    t.emit_kernel(
                        &kernel,
                        rows,
                        &[dy],
                        &[(share, to.slot, crate::rowkernel::Layout::Element)],
                    )?;
                    t.deliver(to)
                }
            }),
        );
        Ok(y)
    }
}
