//! Gradients: who owes what to whom, and where it is written.
//!
//! A variable's gradient is written by the first operation that contributes
//! to it and added to by the others. A contribution that is an existing
//! buffer (the gradient of a sum, a reshape) is shared without a copy; when a
//! second one arrives it is added to the buffer, or to a copy if someone else
//! has yet to read it. So the gradient of a residual stream is one buffer, from
//! its end to its beginning.
//!
//! A gradient has the elements of its value: that of a bfloat16 activation is
//! bfloat16 where whoever writes it can, and is rounded once more by each that
//! adds to it; those of parameters, and of what was cast from float32, are
//! float32. Operations that write some columns each (queries, keys and values
//! of one projection) share one buffer, and what none of them wrote is 0.

use std::ops::Range;

use super::{Slot, Tape, Var};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Tensor, elements};

/// What arrives at a value from those who used it.
#[derive(Clone, Copy, Debug)]
pub enum Adjoint {
    /// One value per element.
    Buffer(Slot),
    /// The same, known value for each element (losses start so).
    Uniform(f32),
}

/// How a value's adjoint becomes contributions to its operands.
pub(super) type Rule = Box<dyn FnOnce(&mut Tape, Adjoint) -> Result<()>>;

#[derive(Clone, Copy)]
pub(super) struct Gradient {
    adjoint: Adjoint,
    /// Whether the buffer is this variable's alone, so that it may be added to.
    own: bool,
}

/// Columns of a gradient that have been written, in a buffer of the shape of the
/// value, whose rows are `cols` long.
pub(super) struct Columns {
    slot: Slot,
    cols: u32,
    written: Vec<Range<u32>>,
}

/// Where an operation that cannot accumulate writes its contribution.
pub(super) struct Destination {
    var: Var,
    pub(super) slot: Slot,
    add: bool,
}

impl Tape {
    /// Appends the operations that compute the gradient of Σ `loss` with
    /// respect to every parameter. Called again for another loss, of values
    /// made since, it adds to the gradients that are there: a large batch in
    /// parts, whose activations never live at the same time.
    pub fn backward(&mut self, loss: Var) -> Result<()> {
        self.backward_all(&[loss])
    }

    /// As [`Tape::backward`], of the sum of several losses. Each goes straight
    /// to its own operations, so that a cross-entropy may stand beside losses
    /// of your own.
    pub fn backward_all(&mut self, losses: &[Var]) -> Result<()> {
        if !self.training {
            return Err(Error::invalid("backward on a tape for inference: use Tape::training"));
        }
        for &loss in losses {
            self.give_uniform(loss, 1.0)?;
        }
        while let Some((var, rule)) = self.rules.pop() {
            self.settle(var)?;
            if let Some(gradient) = self.vars[var.0 as usize].gradient {
                rule(self, gradient.adjoint)?;
            }
            self.vars[var.0 as usize].passed_on = true;
        }
        self.complete_banks()
    }

    /// Rows that nothing contributed to have a gradient of zero.
    fn complete_banks(&mut self) -> Result<()> {
        for at in 0..self.params.len() {
            let rows = std::mem::take(&mut self.params[at].rows);
            if rows.is_empty() {
                continue;
            }
            if self.params[at].whole {
                return Err(Error::invalid("a parameter bank is used both whole and by row: choose one"));
            }
            let bank = self.params[at].var;
            let Some(home) = self.vars[bank.0 as usize].home else {
                self.params[at].rows = rows;
                continue;
            };
            let row_shape = self.slot_shape(home)[1..].to_vec();
            // Zeroed once: a later loss may write them, or leave them.
            let complete = self.vars[bank.0 as usize].gradient.is_some();
            for (index, row) in rows.iter().enumerate() {
                let touched = row.is_some_and(|v| self.vars[v.0 as usize].gradient.is_some());
                if !touched && !complete {
                    let len = elements(&row_shape);
                    let slot = self.view(home, index as u64 * len, &row_shape)?;
                    self.emit_fill(slot, 0.0);
                }
            }
            self.vars[bank.0 as usize].gradient =
                Some(Gradient { adjoint: Adjoint::Buffer(home), own: true });
            self.params[at].rows = rows;
        }
        Ok(())
    }

    /// The gradient of a parameter, after [`Tape::backward`]. A parameter
    /// that the loss does not depend on has none.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, loss: Var, w: &Tensor) -> Result<()> {
    /// t.backward(loss)?;
    /// if let Some(gradient) = t.gradient_of(w)? {
    ///     let kept = Tensor::zeros(w.shape())?;
    ///     let to = t.bind(&kept);
    ///     t.emit_copy(gradient, to)?; // read it after a replay
    /// }
    /// # Ok(()) }
    /// ```
    pub fn gradient_of(&mut self, param: &Tensor) -> Result<Option<Slot>> {
        let Some(at) = self.params.iter().position(|p| p.tensor.raw() == param.raw()) else {
            return Ok(None);
        };
        let var = self.params[at].var;
        self.settle(var)?;
        match self.vars[var.0 as usize].gradient {
            None => Ok(None),
            Some(gradient) => {
                let slot = self.buffer(gradient.adjoint, var)?;
                let shape = param.shape().to_vec();
                match self.slot_shape(slot) == shape {
                    true => Ok(Some(slot)),
                    false => self.view(slot, 0, &shape).map(Some),
                }
            }
        }
    }

    /// Makes `gradient` the gradient of a parameter, in place of what
    /// [`Tape::backward`] found: for clipping, accumulation, or a rule of your
    /// own. The buffer has as many elements as the parameter.
    pub fn set_gradient(&mut self, param: &Tensor, gradient: Slot) -> Result<()> {
        if self.slot_len(gradient) != param.len() {
            return Err(Error::shape(format!(
                "set_gradient of shape {:?} for a parameter of shape {:?}",
                self.slot_shape(gradient),
                param.shape()
            )));
        }
        let var = self.param(param);
        self.vars[var.0 as usize].columns = None;
        self.vars[var.0 as usize].gradient =
            Some(Gradient { adjoint: Adjoint::Buffer(gradient), own: false });
        Ok(())
    }

    /// A differentiable operation of your own: `output` is what the
    /// operations that you emitted compute from values, and `rule` appends
    /// the gradient: given the adjoint of the output as a buffer of the same
    /// shape, it calls [`Tape::contribute`] for each operand. Read that buffer
    /// inside the rule: later operations may add to it.
    pub fn custom(
        &mut self,
        output: Slot,
        rule: impl FnOnce(&mut Tape, Slot) -> Result<()> + 'static,
    ) -> Var {
        let var = self.add_var(output, self.training);
        self.rule(
            var,
            Box::new(move |t, adjoint| {
                let slot = t.buffer(adjoint, var)?;
                rule(t, slot)
            }),
        );
        var
    }

    /// Adds a buffer to the gradient of `x`. The buffer must not be written
    /// to afterwards.
    pub fn contribute(&mut self, x: Var, share: Slot) -> Result<()> {
        if !self.needs_gradient(x) {
            return Ok(());
        }
        let x = self.meant(x)?;
        let shape = self.shape(x).to_vec();
        let share = match self.slot_shape(share) == shape {
            true => share,
            false => self.view(share, 0, &shape)?,
        };
        let dtype = self.slot_dtype(share);
        let entry = &mut self.vars[x.0 as usize];
        match (entry.gradient, entry.home) {
            (None, None) => {
                entry.gradient = Some(Gradient { adjoint: Adjoint::Buffer(share), own: false });
                Ok(())
            }
            (None, Some(home)) => {
                entry.gradient = Some(Gradient { adjoint: Adjoint::Buffer(home), own: true });
                self.emit_copy(share, home)
            }
            (Some(_), _) => {
                let (slot, _) = self.accumulator_of(x, dtype)?;
                let share = self.converted(share, self.slot_dtype(slot))?;
                self.emit_add(share, slot)
            }
        }
    }

    pub(super) fn rule(&mut self, output: Var, rule: Rule) {
        if self.training {
            self.rules.push((output, rule));
        }
    }

    /// The adjoint as a buffer of the shape of `of`.
    pub(super) fn buffer(&mut self, adjoint: Adjoint, of: Var) -> Result<Slot> {
        let slot = self.buffer_as_it_is(adjoint, of);
        self.converted(slot, Dtype::Float32)
    }

    /// As [`Tape::buffer`], for a rule that takes bfloat16 as well.
    pub(super) fn buffer_as_it_is(&mut self, adjoint: Adjoint, of: Var) -> Slot {
        match adjoint {
            Adjoint::Buffer(slot) => slot,
            Adjoint::Uniform(value) => {
                let slot = self.filled(value, of);
                self.vars[of.0 as usize].gradient =
                    Some(Gradient { adjoint: Adjoint::Buffer(slot), own: true });
                slot
            }
        }
    }

    /// A buffer of the shape of `like`, with one value everywhere.
    fn filled(&mut self, value: f32, like: Var) -> Slot {
        let shape = self.shape(like).to_vec();
        let slot = self.temporary(&shape);
        self.emit_fill(slot, value);
        slot
    }

    /// Adds a known value to each element of the gradient of `x`.
    pub(super) fn give_uniform(&mut self, x: Var, value: f32) -> Result<()> {
        if !self.needs_gradient(x) {
            return Ok(());
        }
        let x = self.meant(x)?;
        let entry = &mut self.vars[x.0 as usize];
        match (entry.gradient, entry.home) {
            (None, None) => entry.gradient = Some(Gradient { adjoint: Adjoint::Uniform(value), own: false }),
            (Some(Gradient { adjoint: Adjoint::Uniform(before), .. }), _) => {
                entry.gradient = Some(Gradient { adjoint: Adjoint::Uniform(before + value), own: false });
            }
            _ => {
                let slot = self.filled(value, x);
                self.contribute(x, slot)?;
            }
        }
        Ok(())
    }

    /// The float32 buffer that contributions to `x` go to, and whether to add to
    /// it (false: it has no content yet). `x` must need a gradient.
    pub(super) fn accumulator(&mut self, x: Var) -> Result<(Slot, bool)> {
        self.accumulator_of(x, Dtype::Float32)
    }

    /// As [`Tape::accumulator`], for an operation that writes and adds to
    /// bfloat16 as well: of that where the value is.
    pub(super) fn accumulator_of_either(&mut self, x: Var) -> Result<(Slot, bool)> {
        self.accumulator_of(x, Dtype::Bfloat16)
    }

    /// The buffer that holds what came to `x` so far, if anything did; its
    /// elements are as in [`Tape::accumulator_of_either`].
    pub(super) fn sum_so_far(&mut self, x: Var) -> Result<Option<Slot>> {
        let x = self.meant(x)?;
        match self.vars[x.0 as usize].gradient {
            Some(_) => self.accumulator_of_either(x).map(|(slot, _)| Some(slot)),
            None => Ok(None),
        }
    }

    /// For an operation that writes elements of `written`, or of float32 too.
    fn accumulator_of(&mut self, x: Var, written: Dtype) -> Result<(Slot, bool)> {
        let x = self.meant(x)?;
        let at = x.0 as usize;
        let shape = self.shape(x).to_vec();
        let dtype = if written == Dtype::Float32 { written } else { self.gradient_dtype(x) };
        let fits = |t: &Self, slot| [dtype, Dtype::Float32].contains(&t.slot_dtype(slot));
        let (slot, add) = match (self.vars[at].gradient, self.vars[at].home) {
            (Some(Gradient { adjoint: Adjoint::Buffer(slot), own: true }), _) if fits(self, slot) => {
                return Ok((slot, true));
            }
            (Some(Gradient { adjoint: Adjoint::Buffer(slot), .. }), None)
                if fits(self, slot) && self.is_left_to(x, slot) =>
            {
                (slot, true)
            }
            (Some(gradient), home) => {
                let slot = home.unwrap_or_else(|| self.temporary_of(dtype, &shape));
                match gradient.adjoint {
                    Adjoint::Buffer(shared) => self.emit_copy(shared, slot)?,
                    Adjoint::Uniform(value) => self.emit_fill(slot, value),
                }
                (slot, true)
            }
            (None, Some(home)) => (home, false),
            (None, None) => (self.temporary_of(dtype, &shape), false),
        };
        self.vars[at].gradient = Some(Gradient { adjoint: Adjoint::Buffer(slot), own: true });
        Ok((slot, add))
    }

    /// The elements of the gradient of `x`, where there is a choice.
    pub(super) fn gradient_dtype(&self, x: Var) -> Dtype {
        let entry = &self.vars[self.stood_for(x).0 as usize];
        if entry.parameter { Dtype::Float32 } else { self.slot_dtype(entry.slot) }
    }

    /// The value whose gradient that of `x` is.
    fn stood_for(&self, mut x: Var) -> Var {
        while let Some(of) = self.vars[x.0 as usize].stands_for {
            x = of;
        }
        x
    }

    /// As [`Tape::stood_for`], and all of the columns of its gradient have
    /// something in them, or none.
    fn meant(&mut self, x: Var) -> Result<Var> {
        let x = self.stood_for(x);
        self.settle(x)?;
        Ok(x)
    }

    /// Makes a gradient of columns a whole one: what nobody wrote is 0.
    fn settle(&mut self, x: Var) -> Result<()> {
        let Some(Columns { slot, cols, mut written }) = self.vars[x.0 as usize].columns.take() else {
            return Ok(());
        };
        let rows = (self.slot_len(slot) / u64::from(cols)) as u32;
        let flat = self.view(slot, 0, &[rows, cols])?;
        written.sort_by_key(|range| range.start);
        written.push(cols..cols);
        let mut begin = 0;
        for range in written {
            let width = range.start - begin;
            if width > 0 {
                let zeros = self.temporary_of(self.slot_dtype(slot), &[rows, width]);
                self.emit_fill(zeros, 0.0);
                self.emit_columns((zeros, 0), (flat, begin), width, false);
            }
            begin = range.end;
        }
        self.vars[x.0 as usize].gradient = Some(Gradient { adjoint: Adjoint::Buffer(slot), own: true });
        Ok(())
    }

    /// The buffer for an operation that writes or adds to a contribution to some
    /// columns of `x`, whose rows are `cols` long, and whether to add to them
    /// (false: they have no content yet). It has the shape of `x`, and elements
    /// as in [`Tape::accumulator_of_either`].
    pub(super) fn columns_accumulator(
        &mut self,
        x: Var,
        cols: u32,
        range: Range<u32>,
    ) -> Result<(Slot, bool)> {
        if let Some(slot) = self.free_columns(x, cols, &[range]) {
            return Ok((slot, false));
        }
        let (slot, add) = self.accumulator_of_either(x)?;
        if !add {
            self.emit_fill(slot, 0.0);
        }
        Ok((slot, true))
    }

    /// The buffer for columns of `x`, which do not overlap, if none has content
    /// yet; the caller writes them.
    pub(super) fn free_columns(&mut self, x: Var, cols: u32, ranges: &[Range<u32>]) -> Option<Slot> {
        let x = self.stood_for(x);
        let entry = &self.vars[x.0 as usize];
        if entry.gradient.is_some() || entry.home.is_some() || !entry.needs_gradient {
            return None;
        }
        if entry.columns.is_none() {
            let shape = self.shape(x).to_vec();
            let slot = self.temporary_of(self.gradient_dtype(x), &shape);
            self.vars[x.0 as usize].columns = Some(Columns { slot, cols, written: Vec::new() });
        }
        let columns = self.vars[x.0 as usize].columns.as_mut()?;
        let apart = |a: &Range<u32>, b: &Range<u32>| a.end <= b.start || b.end <= a.start;
        let free = |range: &Range<u32>| columns.written.iter().all(|other| apart(range, other));
        if columns.cols != cols || !ranges.iter().all(free) {
            return None;
        }
        columns.written.extend_from_slice(ranges);
        Some(columns.slot)
    }

    /// Whether `shared`, which came to `x` from another's gradient, is nobody
    /// else's any more: a buffer of the tape's whose other holders have passed
    /// it on.
    fn is_left_to(&self, x: Var, shared: Slot) -> bool {
        let root = self.root(shared);
        let mut made = false;
        for (at, var) in self.vars.iter().enumerate().filter(|(at, _)| *at != x.0 as usize) {
            if let Some(Gradient { adjoint: Adjoint::Buffer(slot), own }) = var.gradient
                && self.root(slot) == root
            {
                if !var.passed_on {
                    return false;
                }
                made |= own && self.vars[at].home.is_none();
            }
        }
        made
    }

    /// Where an operation that can only overwrite puts its contribution to
    /// `x`; hand it to [`Tape::deliver`] after the operation.
    pub(super) fn destination(&mut self, x: Var) -> Result<Destination> {
        self.destination_of(x, Dtype::Float32)
    }

    /// As [`Tape::destination`], for an operation that writes elements of
    /// `dtype`, whatever those of the gradient are.
    pub(super) fn destination_of(&mut self, x: Var, dtype: Dtype) -> Result<Destination> {
        let var = self.meant(x)?;
        let needs = self.needs_gradient(var);
        let fits = dtype == Dtype::Float32 || dtype == self.gradient_dtype(var);
        if needs && fits && self.vars[var.0 as usize].gradient.is_none() {
            let (slot, _) = self.accumulator_of(var, dtype)?;
            return Ok(Destination { var, slot, add: false });
        }
        let shape = self.shape(var).to_vec();
        let slot = self.temporary_of(dtype, &shape);
        Ok(Destination { var, slot, add: needs })
    }

    /// The same values in elements of `dtype`, in a buffer of their own where
    /// they are not already.
    pub(super) fn converted(&mut self, slot: Slot, dtype: Dtype) -> Result<Slot> {
        if self.slot_dtype(slot) == dtype {
            return Ok(slot);
        }
        let shape = self.slot_shape(slot).to_vec();
        let to = self.temporary_of(dtype, &shape);
        self.emit_copy(slot, to)?;
        Ok(to)
    }

    pub(super) fn deliver(&mut self, to: Destination) -> Result<()> {
        if !to.add {
            return Ok(());
        }
        self.contribute(to.var, to.slot)
    }
}
