//! Attention, whose heads may be columns of a fused projection.

use super::Check;
use crate::Error;
use crate::error::fail;
use crate::op::{Attention, AttentionBackward, Heads};
use crate::shape::{attention_dims, check_lse, same_shape};
use crate::step::{AttentionDims, Step};
use crate::table::{Span, Tensor};

impl Check<'_> {
    pub(super) fn attention(&mut self, o: &Attention) -> Result<Step, Error> {
        let q = self.number("q", o.q.tensor, false)?;
        let k = self.same_type("k", o.k.tensor, q, false)?;
        let v = self.same_type("v", o.v.tensor, q, false)?;
        let out = self.same_type("out", o.out, q, true)?;
        let lse = self.write("lse", o.lse)?;
        let dims = attention_dims(out, o.kv_heads, o.window, o.scale)?;
        check_lse(lse, &dims)?;
        let ([q, k, v], dims) = heads_of([q, k, v], [o.q, o.k, o.v], dims)?;
        Ok(Step::Attention { q: q.span, k: k.span, v: v.span, out: out.span, lse: lse.span, dims })
    }

    pub(super) fn attention_backward(&mut self, o: &AttentionBackward) -> Result<Step, Error> {
        let q = self.number("q", o.q.tensor, false)?;
        let k = self.same_type("k", o.k.tensor, q, false)?;
        let v = self.same_type("v", o.v.tensor, q, false)?;
        let out = self.same_type("out", o.out, q, false)?;
        let lse = self.read("lse", o.lse)?;
        let dout = self.same_type("dout", o.dout, q, false)?;
        let gradients = self.operands.len();
        let dq = self.same_type("dq", o.dq, q, true)?;
        let dk = self.same_type("dk", o.dk, q, true)?;
        let dv = self.same_type("dv", o.dv, q, true)?;
        let dims = attention_dims(out, o.kv_heads, o.window, o.scale)?;
        same_shape("out", out, "dout", dout)?;
        same_shape("q", q, "dq", dq)?;
        same_shape("k", k, "dk", dk)?;
        same_shape("v", v, "dv", dv)?;
        check_lse(lse, &dims)?;
        let places = [o.q, o.k, o.v];
        let ([q, k, v], dims) = heads_of([q, k, v], places, dims)?;
        let ([dq, dk, dv], dims) = heads_of([dq, dk, dv], places, dims)?;
        for (operand, heads) in self.operands[gradients..].iter_mut().zip([&dq, &dk, &dv]) {
            operand.columns = heads.columns;
        }
        Ok(Step::AttentionBackward {
            q: q.span,
            k: k.span,
            v: v.span,
            out: out.span,
            lse: lse.span,
            dout: dout.span,
            dq: dq.span,
            dk: dk.span,
            dv: dv.span,
            dims,
        })
    }
}

/// Where the heads of an operand lie.
struct Place {
    /// From their first element to their last.
    span: Span,
    /// Elements from one position to the next.
    row: usize,
    /// First column, and the one after the last; none of a tensor of heads.
    columns: Option<[usize; 2]>,
}

/// The heads of q, k and v, and `dims` with their rows.
fn heads_of(
    tensors: [&Tensor; 3],
    places: [Heads; 3],
    dims: AttentionDims,
) -> Result<([Place; 3], AttentionDims), Error> {
    let [q, k, v] = tensors;
    let [of_q, of_k, of_v] = places.map(|heads| heads.col as usize);
    let q = place("q", q, of_q, dims.heads, &dims)?;
    let k = place("k", k, of_k, dims.kv_heads, &dims)?;
    let v = place("v", v, of_v, dims.kv_heads, &dims)?;
    let rows = [q.row, k.row, v.row];
    Ok(([q, k, v], AttentionDims { rows, ..dims }))
}

fn place(
    name: &str,
    tensor: &Tensor,
    col: usize,
    heads: usize,
    dims: &AttentionDims,
) -> Result<Place, Error> {
    let AttentionDims { batch, time, dim, .. } = *dims;
    // Products of dimensions of out: they fit.
    let (positions, shape, span) = (batch * time, &tensor.shape, tensor.span);
    let whole = [batch, time, heads, dim];
    if shape.len() == whole.len() {
        if shape.iter().zip(whole).any(|(&is, must)| is as usize != must) {
            return fail!(ShapeMismatch, "{name} is {shape:?}, and must be {whole:?}");
        }
        if col != 0 {
            return fail!(InvalidArgument, "{name} has rank 4 and all its heads, so its column must be 0");
        }
        return Ok(Place { span, row: heads * dim, columns: None });
    }
    let (row, width) = (tensor.cols(), heads.saturating_mul(dim));
    let end = col.saturating_add(width);
    if tensor.rows() != positions || end > row {
        return fail!(
            ShapeMismatch,
            "{name} is {shape:?}, and must have {positions} rows with columns {col}..{end} \
             ({heads} heads of {dim})"
        );
    }
    let span = Span { offset: span.offset + col, len: (positions - 1) * row + width, ..span };
    Ok(Place { span, row, columns: Some([col, end]) })
}
