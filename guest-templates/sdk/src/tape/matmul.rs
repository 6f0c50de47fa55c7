//! Matrix products.

use super::{Slot, Tape, Var};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

impl Tape {
    /// y = x·wᵀ: x [..., K], weight [N, K] (one row per output, as in
    /// PyTorch's `Linear`) → [..., N].
    /// Costs 2·N·K flops a row, the gradient twice that.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var, w: &Tensor) -> Result<()> {
    /// let w = t.param(w); // [256, 64]
    /// let y = t.linear(x, w)?; // [8, 128, 64] → [8, 128, 256]
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn linear(&mut self, x: Var, weight: Var) -> Result<Var> {
        let (rows, k) = self.rows_cols(x)?;
        let n = match *self.shape(weight) {
            [n, wk] if wk == k => n,
            _ => return Err(self.mismatch("linear", x, weight)),
        };
        let mut shape = self.shape(x).to_vec();
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        let x2 = self.view(self.slot(x), 0, &[rows, k])?;
        let w = self.slot(weight);
        let out = self.temporary(&shape);
        let y2 = self.view(out, 0, &[rows, n])?;
        self.emit_matmul((x2, false), (w, true), y2, 1.0, false);
        let needs = self.needs_gradient(x) || self.needs_gradient(weight);
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = t.buffer_as_it_is(adjoint, y);
                let dy = t.view(dy, 0, &[rows, n])?;
                let dy = t.as_operand(dy, [x2, w])?;
                if t.needs_gradient(x) {
                    let (dx, add) = t.accumulator_of_either(x)?;
                    let dx = t.view(dx, 0, &[rows, k])?;
                    t.emit_matmul((dy, false), (w, false), dx, 1.0, add);
                }
                if t.needs_gradient(weight) {
                    let (dw, add) = t.accumulator(weight)?;
                    t.emit_matmul((dy, true), (x2, false), dw, 1.0, add);
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    /// y = op(a)·op(b) over the last two dimensions, where op transposes if
    /// the flag beside the operand says so. The leading dimensions are a
    /// batch and must be equal.
    /// [..., m, k] and [..., k, n] give [..., m, n] for 2·m·k·n flops a matrix,
    /// the gradient twice that.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, q: Var, k: Var) -> Result<()> {
    /// // [B, T, D] and [B, T, D] → every score, [B, T, T]
    /// let scores = t.matmul((q, false), (k, true))?;
    /// # let _ = scores;
    /// # Ok(()) }
    /// ```
    pub fn matmul(&mut self, (a, trans_a): (Var, bool), (b, trans_b): (Var, bool)) -> Result<Var> {
        let (sa, sb) = (self.shape(a).to_vec(), self.shape(b).to_vec());
        let (na, nb) = (sa.len(), sb.len());
        if na < 2 || na != nb || sa[..na - 2] != sb[..nb - 2] {
            return Err(self.mismatch("matmul", a, b));
        }
        let pick = |s: &[u32], swap: bool| match swap {
            true => (s[s.len() - 1], s[s.len() - 2]),
            false => (s[s.len() - 2], s[s.len() - 1]),
        };
        let ((m, ka), (kb, n)) = (pick(&sa, trans_a), pick(&sb, trans_b));
        if ka != kb {
            return Err(self.mismatch("matmul", a, b));
        }
        let mut shape = sa[..na - 2].to_vec();
        shape.extend([m, n]);
        let (slot_a, slot_b) = (self.slot(a), self.slot(b));
        let out = self.temporary(&shape);
        self.emit_matmul((slot_a, trans_a), (slot_b, trans_b), out, 1.0, false);
        let needs = self.needs_gradient(a) || self.needs_gradient(b);
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = t.buffer_as_it_is(adjoint, y);
                let dy = t.as_operand(dy, [slot_a, slot_b])?;
                if t.needs_gradient(a) {
                    let (da, add) = t.accumulator_of_either(a)?;
                    match trans_a {
                        false => t.emit_matmul((dy, false), (slot_b, !trans_b), da, 1.0, add),
                        true => t.emit_matmul((slot_b, trans_b), (dy, true), da, 1.0, add),
                    }
                }
                if t.needs_gradient(b) {
                    let (db, add) = t.accumulator_of_either(b)?;
                    match trans_b {
                        false => t.emit_matmul((slot_a, !trans_a), (dy, false), db, 1.0, add),
                        true => t.emit_matmul((dy, true), (slot_a, trans_a), db, 1.0, add),
                    }
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    /// A gradient as an operand of the products that follow: bfloat16 where
    /// the forward product's operands were, so that these are made on tensor
    /// cores too. Their sums stay float32.
    pub(super) fn as_operand(&mut self, dy: Slot, operands: [Slot; 2]) -> Result<Slot> {
        let low = operands.iter().all(|&slot| self.slot_dtype(slot) == Dtype::Bfloat16);
        if !low || self.slot_dtype(dy) == Dtype::Bfloat16 {
            return Ok(dy);
        }
        let shape = self.slot_shape(dy).to_vec();
        let cast = self.temporary_of(Dtype::Bfloat16, &shape);
        self.emit_copy(dy, cast)?;
        Ok(cast)
    }

    pub(super) fn mismatch(&self, what: &str, a: Var, b: Var) -> Error {
        Error::shape(format!("{what}: shapes {:?} and {:?} do not fit", self.shape(a), self.shape(b)))
    }
}
