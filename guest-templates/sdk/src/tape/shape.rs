//! Changes of shape: reshape, columns, transpose.

use super::{Slot, Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, elements};

impl Tape {
    /// The same elements in another shape; costs nothing.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let heads = t.reshape(x, &[8, 128, 4, 16])?; // of [8, 128, 64]
    /// # let _ = heads;
    /// # Ok(()) }
    /// ```
    pub fn reshape(&mut self, x: Var, shape: &[u32]) -> Result<Var> {
        if elements(shape) != elements(self.shape(x)) {
            return Err(Error::shape(format!("reshape {:?} into {shape:?}", self.shape(x))));
        }
        let slot = self.slot(x);
        let out = self.view(slot, 0, shape)?;
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| match adjoint {
                super::Adjoint::Uniform(value) => t.give_uniform(x, value),
                super::Adjoint::Buffer(dy) => t.contribute(x, dy),
            }),
        );
        Ok(y)
    }

    /// Columns `start..start + width` of x [..., C] → [..., width].
    /// A copy: it costs the bytes that it moves.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, qkv: Var) -> Result<()> {
    /// let k = t.columns(qkv, 64, 64)?; // the second third of [8, 128, 192]
    /// # let _ = k;
    /// # Ok(()) }
    /// ```
    pub fn columns(&mut self, x: Var, start: u32, width: u32) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x)?;
        if width == 0 || start.checked_add(width).is_none_or(|end| end > cols) {
            return Err(Error::shape(format!("columns {start}..+{width} of shape {:?}", self.shape(x))));
        }
        let mut shape = self.shape(x).to_vec();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        let src = self.slot(x);
        let out = self.temporary_of(self.slot_dtype(src), &shape);
        self.emit_columns((src, start), (out, 0), width, false);
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dy = t.buffer_as_it_is(adjoint, y);
                let (dx, add) = t.columns_accumulator(x, cols, start..start + width)?;
                let dx = t.view(dx, 0, &[rows, cols])?;
                let dy = t.converted(dy, t.slot_dtype(dx))?;
                t.emit_columns((dy, 0), (dx, start), width, add);
                Ok(())
            }),
        );
        Ok(y)
    }

    /// Values [..., Cᵢ] side by side → [..., ΣCᵢ], all of one element type.
    /// A copy: it costs the bytes that it moves.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, a: Var, b: Var) -> Result<()> {
    /// let both = t.concat_columns(&[a, b])?; // [N, 64], [N, 32] → [N, 96]
    /// # let _ = both;
    /// # Ok(()) }
    /// ```
    pub fn concat_columns(&mut self, parts: &[Var]) -> Result<Var> {
        let Some(&first) = parts.first() else {
            return Err(Error::invalid("concat_columns of nothing"));
        };
        let (rows, _) = self.rows_cols(first)?;
        let mut spans = Vec::new();
        let mut total = 0u32;
        for &part in parts {
            let (r, width) = self.rows_cols(part)?;
            if r != rows {
                return Err(self.mismatch("concat_columns", first, part));
            }
            spans.push((part, total, width));
            total = total.checked_add(width).ok_or_else(|| Error::shape("concat_columns: too wide"))?;
        }
        let mut shape = self.shape(first).to_vec();
        if let Some(last) = shape.last_mut() {
            *last = total;
        }
        let out = self.temporary_of(self.slot_dtype(self.slot(first)), &shape);
        for &(part, at, width) in &spans {
            let src = self.slot(part);
            self.emit_columns((src, 0), (out, at), width, false);
        }
        let needs = parts.iter().any(|&p| self.needs_gradient(p));
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = t.buffer(adjoint, y)?;
                for (part, at, width) in spans {
                    if t.needs_gradient(part) {
                        let (dp, add) = t.accumulator(part)?;
                        t.emit_columns((dy, at), (dp, 0), width, add);
                    }
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    /// Values [Nᵢ, …] one below the other → [ΣNᵢ, …], stored as `result`: the
    /// weights of several products of one x, which then is read once.
    /// A copy: it costs the bytes that it moves, and a cast nothing more.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Dtype, Result, Tape, Var, tape::Ends};
    /// # fn f(t: &mut Tape, x: Var, q: Var, k: Var, v: Var) -> Result<Var> {
    /// let result = Dtype::Bfloat16;
    /// let w = t.concat_rows(&[q, k, v], result)?; // thrice [64, 64] → [192, 64]
    /// t.linear_fused(x, w, Ends { result, ..Ends::default() })
    /// # }
    /// ```
    pub fn concat_rows(&mut self, parts: &[Var], result: Dtype) -> Result<Var> {
        let Some(&first) = parts.first() else {
            return Err(Error::invalid("concat_rows of nothing"));
        };
        let mut shape = self.shape(first).to_vec();
        let mut rows = 0u32;
        for &part in parts {
            match self.shape(part) {
                [n, rest @ ..] if rest == &shape[1..] => {
                    rows = rows.checked_add(*n).ok_or_else(|| Error::shape("concat_rows: too long"))?;
                }
                _ => return Err(self.mismatch("concat_rows", first, part)),
            }
        }
        shape[0] = rows;
        let out = self.temporary_of(result, &shape);
        let mut at = 0;
        for &part in parts {
            let of = self.shape(part).to_vec();
            let place = self.view(out, at, &of)?;
            self.emit_copy(self.slot(part), place)?;
            at += elements(&of);
        }
        let needs = parts.iter().any(|&p| self.needs_gradient(p));
        let y = self.add_var(out, needs);
        let parts = parts.to_vec();
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = t.buffer_as_it_is(adjoint, y);
                let mut at = 0;
                for part in parts {
                    let of = t.shape(part).to_vec();
                    let share = t.view(dy, at, &of)?;
                    t.contribute(part, share)?;
                    at += elements(&of);
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    /// The last two dimensions exchanged.
    /// A copy: it costs the bytes that it moves.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let y = t.transpose(x)?; // [8, 128, 64] → [8, 64, 128]
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn transpose(&mut self, x: Var) -> Result<Var> {
        let mut shape = self.shape(x).to_vec();
        let n = shape.len();
        if n < 2 {
            return Err(Error::shape(format!("transpose of shape {shape:?}")));
        }
        shape.swap(n - 2, n - 1);
        let src = self.slot(x);
        let out = self.temporary_of(self.slot_dtype(src), &shape);
        self.emit(Op::Transpose(compute::Transpose { src: src.raw(), dst: out.raw() }));
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dy = t.buffer(adjoint, y)?;
                let to = t.destination(x)?;
                t.emit(Op::Transpose(compute::Transpose { src: dy.raw(), dst: to.slot.raw() }));
                t.deliver(to)
            }),
        );
        Ok(y)
    }

    /// Copies or adds columns, from the one given with each buffer on.
    pub(super) fn emit_columns(&mut self, src: (Slot, u32), dst: (Slot, u32), width: u32, accumulate: bool) {
        let ((src, src_col), (dst, dst_col)) = (src, dst);
        self.emit(Op::Columns(compute::Columns {
            src: src.raw(),
            src_col,
            dst: dst.raw(),
            dst_col,
            width,
            accumulate,
        }));
    }
}
