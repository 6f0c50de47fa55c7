//! Checks of matrix products with a fused end, and of the preparation of
//! queries and keys.

use super::{Check, swapped};
use crate::error::fail;
use crate::op::*;
use crate::shape::*;
use crate::step::{MatMulDims, Step};
use crate::table::{Span, Tensor};
use crate::{Error, TensorId};

impl<'a> Check<'a> {
    /// The dimensions of out = op(a) · op(b); checks types and shapes.
    pub(super) fn product(
        &mut self,
        (a, trans_a): (&Tensor, bool),
        (b, trans_b): (&Tensor, bool),
        out: &Tensor,
        alpha: f32,
    ) -> Result<MatMulDims, Error> {
        finite("alpha", alpha)?;
        let [m, k] = swapped(matrix("a", a)?, trans_a);
        let [k_of_b, n] = swapped(matrix("b", b)?, trans_b);
        same("inner dimensions of op(a) and op(b)", k, k_of_b)?;
        let [out_m, out_n] = matrix("out", out)?;
        same("rows of op(a) and out", m, out_m)?;
        same("cols of op(b) and out", n, out_n)?;
        let leading = |t: &Tensor| t.shape[..t.shape.len() - 2].to_vec();
        if leading(a) != leading(out) || leading(b) != leading(out) {
            return fail!(
                ShapeMismatch,
                "the leading dimensions of a {:?}, b {:?} and out {:?} differ",
                a.shape,
                b.shape,
                out.shape
            );
        }
        let dtypes = [a.dtype, b.dtype, out.dtype];
        Ok(MatMulDims { batch: out.span.len / (m * n), m, n, k, trans_a, trans_b, alpha, dtypes })
    }

    pub(super) fn matmul(&mut self, o: &MatMul) -> Result<Step, Error> {
        let a = self.number("a", o.a, false)?;
        let b = self.number("b", o.b, false)?;
        let out = self.number("out", o.out, true)?;
        let dims = self.product((a, o.trans_a), (b, o.trans_b), out, o.alpha)?;
        Ok(Step::MatMul { a: a.span, b: b.span, out: out.span, dims, accumulate: o.accumulate })
    }

    pub(super) fn matmul_fused(&mut self, o: &MatMulFused) -> Result<Step, Error> {
        let a = self.number("a", o.a, false)?;
        let b = self.number("b", o.b, false)?;
        let out = self.number("out", o.out, true)?;
        let dims = self.product((a, o.trans_a), (b, o.trans_b), out, o.alpha)?;
        if o.backward && (o.bias.is_some() || o.residual.is_some() || o.pre.is_none()) {
            return fail!(
                InvalidArgument,
                "backward multiplies by act'(pre): it needs pre, and takes neither bias nor residual"
            );
        }
        let bias = self.each("bias", o.bias, dims.n, false)?;
        let (residual, residual_dtype) = self.beside("residual", o.residual, out, false)?;
        let (pre, pre_dtype) = self.beside("pre", o.pre, out, !o.backward)?;
        let (activation, backward) = (o.activation, o.backward);
        let (a, b, out) = (a.span, b.span, out.span);
        Ok(Step::MatMulFused {
            a,
            b,
            out,
            dims,
            bias,
            residual,
            residual_dtype,
            pre,
            pre_dtype,
            activation,
            backward,
        })
    }

    /// A tensor, if any, with as many elements as `out`, of either type.
    fn beside(
        &mut self,
        name: &'static str,
        id: Option<TensorId>,
        out: &Tensor,
        written: bool,
    ) -> Result<(Option<Span>, DType), Error> {
        let Some(id) = id else { return Ok((None, DType::F32)) };
        let tensor = self.number(name, id, written)?;
        same(name, tensor.span.len, out.span.len)?;
        Ok((Some(tensor.span), tensor.dtype))
    }

    pub(super) fn rope_norm(&mut self, o: &RopeNorm) -> Result<Step, Error> {
        let x = self.number("x", o.x, false)?;
        let out = self.number("out", o.out, true)?;
        let inv_rms = self.write("inv_rms", o.inv_rms)?;
        positive("base", o.base)?;
        positive("eps", o.eps)?;
        let dims = heads_in(x, "x", o.x_col, out, inv_rms)?;
        let dtypes = [x.dtype, out.dtype];
        let (x, out, inv_rms) = (x.span, out.span, inv_rms.span);
        Ok(Step::RopeNorm { x, out, inv_rms, dims, base: o.base, eps: o.eps, dtypes })
    }

    pub(super) fn rope_norm_backward(&mut self, o: &RopeNormBackward) -> Result<Step, Error> {
        let out = self.number("out", o.out, false)?;
        let inv_rms = self.read("inv_rms", o.inv_rms)?;
        let dout = self.same_type("dout", o.dout, out, false)?;
        let dx = self.number("dx", o.dx, true)?;
        positive("base", o.base)?;
        same_shape("out", out, "dout", dout)?;
        let dims = heads_in(dx, "dx", o.dx_col, out, inv_rms)?;
        let (dtypes, accumulate) = ([out.dtype, dx.dtype], o.accumulate);
        let (out, inv_rms, dout, dx) = (out.span, inv_rms.span, dout.span, dx.span);
        Ok(Step::RopeNormBackward { out, inv_rms, dout, dx, dims, base: o.base, accumulate, dtypes })
    }
}

/// Where heads [B,T,H,D] lie in the columns of `wide`.
fn heads_in(
    wide: &Tensor,
    name: &str,
    col: u32,
    heads: &Tensor,
    inv_rms: &Tensor,
) -> Result<crate::step::HeadDims, Error> {
    let [batch, time, count, dim] = rank4("out", heads)?;
    if dim % 2 != 0 {
        return fail!(ShapeMismatch, "the head size is {dim}, and must be even");
    }
    let (cols, col, width) = (wide.cols(), col as usize, count * dim);
    same("rows of x and positions of out", wide.rows(), batch * time)?;
    if col.checked_add(width).is_none_or(|end| end > cols) {
        return fail!(
            InvalidArgument,
            "columns {col}..+{width} ({count} heads of {dim}) leave the {cols} of {name}"
        );
    }
    same("elements of inv_rms and heads", inv_rms.span.len, batch * time * count)?;
    Ok(crate::step::HeadDims { positions: batch * time, time, heads: count, dim, cols, col })
}
