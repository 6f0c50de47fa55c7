//! What is done with gradients before an optimizer sees them.

use super::{required_gradient, rows_of};
use crate::bindings::trainer::terrarium::guest::compute::ReduceAxis;
use crate::error::Result;
use crate::rowkernel::{Kernel, Layout};
use crate::tape::{Slot, Tape};
use crate::tensor::Tensor;

/// Scales all gradients by one factor such that their common norm is at most
/// `limit` (Pascanu et al. 2013). Call it after [`Tape::backward`] and before
/// [`Optimizer::emit`](super::Optimizer::emit). Returns the norm before, a
/// slot of one element; copy it to a tensor of yours to report it.
///
/// ```no_run
/// # use terrarium_sdk::{Result, Tape, Tensor, Var, optim};
/// # fn f(t: &mut Tape, loss: Var, params: &[Tensor], optimizer: &mut dyn optim::Optimizer) -> Result<()> {
/// t.backward(loss)?;
/// optim::clip_gradients(t, params, 1.0)?;
/// optimizer.emit(t)?;
/// # Ok(()) }
/// ```
pub fn clip_gradients(tape: &mut Tape, params: &[Tensor], limit: f32) -> Result<Slot> {
    let squares = tape.temporary(&[params.len().max(1) as u32]);
    tape.emit_fill(squares, 0.0);
    for (i, param) in params.iter().enumerate() {
        let grad = required_gradient(tape, param)?;
        let (rows, cols) = rows_of(param)?;
        let per_row = tape.temporary(&[rows]);
        let k = Kernel::new(cols);
        let e = k.input(Layout::Element);
        tape.emit_kernel(&k, rows, &[grad], &[(e.square().row_sum(), per_row, Layout::PerRow)])?;
        let total = tape.view(squares, i as u64, &[1])?;
        tape.emit_reduce(per_row, total, ReduceAxis::All, 1.0, false);
    }
    let (norm, factor) = (tape.temporary(&[1]), tape.temporary(&[1]));
    let k = Kernel::new(params.len().max(1) as u32);
    let length = k.input(Layout::Element).row_sum().sqrt();
    // 1 where the norm is 0: limit / 0 is infinite.
    let share = (limit / length).min(1.0);
    let stores = [(length, norm, Layout::PerRow), (share, factor, Layout::PerRow)];
    tape.emit_kernel(&k, 1, &[squares], &stores)?;
    for param in params {
        scale(tape, param, factor)?;
    }
    Ok(norm)
}

/// Replaces a gradient by itself times a scalar; others that share its buffer
/// keep theirs.
fn scale(tape: &mut Tape, param: &Tensor, factor: Slot) -> Result<()> {
    let grad = required_gradient(tape, param)?;
    let (rows, cols) = rows_of(param)?;
    let out = tape.temporary(param.shape());
    let k = Kernel::new(cols);
    let (e, f) = (k.input(Layout::Element), k.input(Layout::Scalar));
    tape.emit_kernel(&k, rows, &[grad, factor], &[(e * f, out, Layout::Element)])?;
    tape.set_gradient(param, out)
}

/// Sums gradients over several batches, for a step as of a larger one: one
/// graph that adds, and one that updates.
///
/// ```no_run
/// # use terrarium_sdk::{Result, Tape, Tensor, Var, optim::{Accumulator, Optimizer}};
/// # fn f(params: &[Tensor], optimizer: &mut dyn Optimizer, loss: impl Fn(&mut Tape) -> Result<Var>) -> Result<()> {
/// let sums = Accumulator::new(params)?;
/// let mut t = Tape::training();
/// let loss = loss(&mut t)?;
/// t.backward(loss)?;
/// sums.add(&mut t)?;
/// let add = t.record()?; // replay once for each of 4 batches
///
/// let mut t = Tape::training();
/// sums.take_mean(&mut t, 4)?;
/// optimizer.emit(&mut t)?;
/// let update = t.record()?; // then replay this
/// # Ok(()) }
/// ```
pub struct Accumulator {
    members: Vec<(Tensor, Tensor)>,
}

impl Accumulator {
    /// Sums of zero for each of `params`.
    pub fn new(params: &[Tensor]) -> Result<Self> {
        let member = |p: &Tensor| Ok((p.clone(), Tensor::zeros(p.shape())?));
        Ok(Self { members: params.iter().map(member).collect::<Result<_>>()? })
    }

    /// Appends: sums += the gradients of this tape.
    pub fn add(&self, tape: &mut Tape) -> Result<()> {
        for (param, sum) in &self.members {
            let grad = required_gradient(tape, param)?;
            let sum = tape.bind(sum);
            tape.emit_add(grad, sum)?;
        }
        Ok(())
    }

    /// Appends: gradients = sums / `count`, sums = 0. For a tape that has no
    /// loss of its own.
    pub fn take_mean(&self, tape: &mut Tape, count: u32) -> Result<()> {
        for (param, sum) in &self.members {
            let (rows, cols) = rows_of(param)?;
            let (sum, out) = (tape.bind(sum), tape.temporary(param.shape()));
            let k = Kernel::new(cols);
            let e = k.input(Layout::Element);
            let mean = e * (1.0 / count.max(1) as f32);
            tape.emit_kernel(&k, rows, &[sum], &[(mean, out, Layout::Element)])?;
            tape.emit_fill(sum, 0.0);
            tape.set_gradient(param, out)?;
        }
        Ok(())
    }
}
