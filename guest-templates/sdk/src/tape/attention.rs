//! Normalisation, rotary embedding, and attention.

use super::{Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

impl Tape {
    /// x/√(mean x² + eps) over the last dimension, without weights (Zhang &
    /// Sennrich 2019).
    /// Shapes [..., C] → the same; about 3 flops and two numbers moved for each
    /// element.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let y = t.rms_norm(x, 1e-6)?;
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn rms_norm(&mut self, x: Var, eps: f32) -> Result<Var> {
        self.rms_norm_as(x, eps, Dtype::Float32)
    }

    /// As [`Tape::rms_norm`], stored as float32 or, for operations that
    /// multiply it, as bfloat16: no cast, and half of the memory.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Dtype, Result, Tape, Var};
    /// # fn f(t: &mut Tape, x: Var, w: Var) -> Result<Var> {
    /// let h = t.rms_norm_as(x, 1e-6, Dtype::Bfloat16)?;
    /// t.linear(h, w) // a bfloat16 weight
    /// # }
    /// ```
    pub fn rms_norm_as(&mut self, x: Var, eps: f32, result: Dtype) -> Result<Var> {
        let (rows, _) = self.rows_cols(x)?;
        let shape = self.shape(x).to_vec();
        let src = self.slot(x);
        let out = self.temporary_of(result, &shape);
        let inv_rms = self.temporary(&[rows]);
        self.emit(Op::RmsNorm(compute::RmsNorm {
            x: src.raw(),
            out: out.raw(),
            inv_rms: inv_rms.raw(),
            eps,
        }));
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dout = t.buffer_as_it_is(adjoint, y);
                let (dx, accumulate) = t.accumulator(x)?;
                t.emit(Op::RmsNormBackward(compute::RmsNormBackward {
                    x: src.raw(),
                    inv_rms: inv_rms.raw(),
                    dout: dout.raw(),
                    dx: dx.raw(),
                    accumulate,
                }));
                Ok(())
            }),
        );
        Ok(y)
    }

    /// Rotary position embedding of x `[B,T,H,D]`, D even (Su et al. 2021):
    /// pairs (i, i + D/2) turn by the angle t·base^(-2i/D).
    pub fn rope(&mut self, x: Var, base: f32) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        if shape.len() != 4 || !shape[3].is_multiple_of(2) {
            return Err(Error::shape(format!("rope needs [B,T,H,D] with D even, not {shape:?}")));
        }
        let src = self.slot(x);
        let out = self.temporary(&shape);
        self.emit(Op::Rope(compute::Rope { x: src.raw(), out: out.raw(), base, inverse: false }));
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dout = t.buffer(adjoint, y)?;
                let to = t.destination(x)?;
                t.emit(Op::Rope(compute::Rope { x: dout.raw(), out: to.slot.raw(), base, inverse: true }));
                t.deliver(to)
            }),
        );
        Ok(y)
    }

    /// Causal attention: q `[B,T,H,D]`; k, v `[B,T,K,D]` with K dividing H
    /// (grouped queries) → `[B,T,H,D]`. Position t sees the last `window`
    /// positions, itself among them (0: all). Scores are scaled by 1/√D.
    /// All three are float32 or all are bfloat16, and so are the result and
    /// its gradients.
    /// Costs 4·B·H·D flops for each pair of positions that see one another (T²/2,
    /// or T·window), the gradient two and a half times that; no scores are stored.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, q: Var, k: Var, v: Var) -> Result<()> {
    /// // 4 query heads over 2 of keys and values; each position sees 64.
    /// let y = t.attention(q, k, v, 64)?; // [8, 128, 4, 16]; k, v [8, 128, 2, 16]
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn attention(&mut self, q: Var, k: Var, v: Var, window: u32) -> Result<Var> {
        let shape = self.shape(q).to_vec();
        if shape.len() != 4 || self.shape(k).len() != 4 {
            return Err(self.mismatch("attention", q, k));
        }
        let (b, time, heads, dim) = (shape[0], shape[1], shape[2], shape[3]);
        let scale = 1.0 / (dim as f32).sqrt();
        let window = if window >= time { 0 } else { window };
        let (sq, sk, sv) = (self.slot(q), self.slot(k), self.slot(v));
        let dtype = self.slot_dtype(sq);
        let out = self.temporary_of(dtype, &shape);
        let lse = self.temporary(&[b, heads, time]);
        self.emit(Op::Attention(compute::Attention {
            q: sq.raw(),
            k: sk.raw(),
            v: sv.raw(),
            out: out.raw(),
            lse: lse.raw(),
            window,
            scale,
        }));
        let needs = [q, k, v].iter().any(|&x| self.needs_gradient(x));
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dout = t.buffer_as_it_is(adjoint, y);
                let dout = t.converted(dout, dtype)?;
                // One variable in two places needs two buffers: `destination`
                // gives its own to the first and a temporary to the next.
                let (dq, dk, dv) =
                    (t.destination_of(q, dtype)?, t.destination_of(k, dtype)?, t.destination_of(v, dtype)?);
                t.emit(Op::AttentionBackward(compute::AttentionBackward {
                    q: sq.raw(),
                    k: sk.raw(),
                    v: sv.raw(),
                    out: out.raw(),
                    lse: lse.raw(),
                    dout: dout.raw(),
                    dq: dq.slot.raw(),
                    dk: dk.slot.raw(),
                    dv: dv.slot.raw(),
                    window,
                    scale,
                }));
                t.deliver(dq)?;
                t.deliver(dk)?;
                t.deliver(dv)
            }),
        );
        Ok(y)
    }
}
