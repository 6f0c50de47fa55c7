//! Checks of what a mixture of experts needs: top-k, sorting by expert and
//! grouped products.

use super::Check;
use crate::Error;
use crate::error::fail;
use crate::op::*;
use crate::shape::*;
use crate::step::{GroupDims, Step};
use crate::table::Tensor;

impl<'a> Check<'a> {
    fn ints(&mut self, name: &'static str, id: TensorId, written: bool) -> Result<&'a Tensor, Error> {
        self.operand(name, id, Some(DType::I32), written, false)
    }

    pub(super) fn grouped_matmul(&mut self, o: &GroupedMatMul) -> Result<Step, Error> {
        let a = self.read("a", o.a)?;
        let b = self.read("b", o.b)?;
        let starts = self.ints("starts", o.starts, false)?;
        let out = self.write("out", o.out)?;
        let (rows, k) = (a.rows(), a.cols());
        let [groups, b_rows, b_cols] = rank3("b", b)?;
        let (b_k, n) = if o.trans_b { (b_cols, b_rows) } else { (b_rows, b_cols) };
        same("inner dimensions of a and op(b)", k, b_k)?;
        same("rows of a and out", rows, out.rows())?;
        same("cols of op(b) and out", n, out.cols())?;
        same("elements of starts and groups + 1", starts.span.len, groups + 1)?;
        let dims = GroupDims { groups, rows, k, n };
        let (a, b, starts, out) = (a.span, b.span, starts.span, out.span);
        let (trans_b, accumulate) = (o.trans_b, o.accumulate);
        Ok(Step::GroupedMatMul { a, b, starts, out, dims, trans_b, accumulate })
    }

    pub(super) fn grouped_matmul_weight(&mut self, o: &GroupedMatMulWeight) -> Result<Step, Error> {
        let a = self.read("a", o.a)?;
        let b = self.read("b", o.b)?;
        let starts = self.ints("starts", o.starts, false)?;
        let out = self.write("out", o.out)?;
        let [groups, k, n] = rank3("out", out)?;
        same("rows of a and b", a.rows(), b.rows())?;
        same("cols of a and rows of out's matrices", a.cols(), k)?;
        same("cols of b and out", b.cols(), n)?;
        same("elements of starts and groups + 1", starts.span.len, groups + 1)?;
        let dims = GroupDims { groups, rows: a.rows(), k, n };
        let (a, b, starts, out) = (a.span, b.span, starts.span, out.span);
        Ok(Step::GroupedMatMulWeight { a, b, starts, out, dims, accumulate: o.accumulate })
    }

    pub(super) fn top_k(&mut self, o: &TopK) -> Result<Step, Error> {
        let x = self.read("x", o.x)?;
        let values = self.write("values", o.values)?;
        let indices = self.ints("indices", o.indices, true)?;
        let (rows, cols, k) = (x.rows(), x.cols(), values.cols());
        same("rows of x and values", rows, values.rows())?;
        same_shape("values", values, "indices", indices)?;
        if k > cols {
            return fail!(ShapeMismatch, "values has {k} columns, more than the {cols} of x");
        }
        let (x, values, indices) = (x.span, values.span, indices.span);
        Ok(Step::TopK { x, values, indices, rows, cols, k })
    }

    pub(super) fn top_k_backward(&mut self, o: &TopKBackward) -> Result<Step, Error> {
        let dvalues = self.read("dvalues", o.dvalues)?;
        let indices = self.ints("indices", o.indices, false)?;
        let dx = self.write("dx", o.dx)?;
        let (rows, cols, k) = (dx.rows(), dx.cols(), dvalues.cols());
        same("rows of dvalues and dx", dvalues.rows(), rows)?;
        same_shape("dvalues", dvalues, "indices", indices)?;
        let (dvalues, indices, dx) = (dvalues.span, indices.span, dx.span);
        Ok(Step::TopKBackward { dvalues, indices, dx, rows, cols, k, accumulate: o.accumulate })
    }

    pub(super) fn sort_by_key(&mut self, o: &SortByKey) -> Result<Step, Error> {
        let keys = self.ints("keys", o.keys, false)?;
        let sources = self.ints("sources", o.sources, true)?;
        let places = self.ints("places", o.places, true)?;
        let starts = self.ints("starts", o.starts, true)?;
        same("elements of keys and sources", keys.span.len, sources.span.len)?;
        same("elements of keys and places", keys.span.len, places.span.len)?;
        if starts.span.len < 2 {
            return fail!(ShapeMismatch, "starts has one element; it needs one more than there are groups");
        }
        if keys.span.len > i32::MAX as usize {
            return fail!(InvalidArgument, "{} keys, at most 2³¹ − 1", keys.span.len);
        }
        if o.per_source == 0 {
            return fail!(InvalidArgument, "per_source is 0; it is how many keys each source has, 1 or more");
        }
        let (keys, sources, places, starts) = (keys.span, sources.span, places.span, starts.span);
        Ok(Step::SortByKey { keys, sources, places, starts, per_source: o.per_source })
    }
}

fn rank3(name: &str, tensor: &Tensor) -> Result<[usize; 3], Error> {
    match tensor.shape[..] {
        [a, b, c] => Ok([a as usize, b as usize, c as usize]),
        _ => fail!(ShapeMismatch, "{name} is {:?}, and must be [groups, rows, cols]", tensor.shape),
    }
}
