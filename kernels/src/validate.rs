//! The one validator: a list of [`Op`]s becomes a [`Graph`], or an error that
//! says which operation is wrong and why. Nothing else makes a `Graph`, and
//! nothing but a `Graph` reaches a backend.
//!
//! What it proves of every step: handles are live; element types and shapes
//! fit; every extent lies inside its storage; and an output shares no element
//! with any other operand of the same step. The last is what lets backends
//! write several outputs at once and split them between threads. There are two
//! exceptions: an `Element` output of a row kernel may be exactly the range of
//! one of its `Element` inputs, because a row kernel reads all of a tile
//! before it writes it; and gradients of an attention may be disjoint columns
//! of one tensor.

mod attention;
mod experts;
mod fused;

use crate::cuda::Captured;
use crate::error::fail;
use crate::graph::{Flow, Graph};
use crate::op::*;
use crate::row_kernel;
use crate::shape::*;
use crate::step::{CrossEntropyDims, Step};
use crate::table::{Span, Table, Tensor};
use crate::{Error, cost};

/// Most operations in one graph.
pub const MAX_OPS: usize = 65_536;
/// Most row-kernel nodes in one graph, so that a list that repeats one kernel
/// cannot fill the host's memory (about 100 bytes each).
pub const MAX_GRAPH_NODES: usize = 1 << 18;

pub(crate) fn graph(table: &Table, device: u64, ops: &[Op]) -> Result<Graph, Error> {
    if ops.len() > MAX_OPS {
        return fail!(Quota, "{} operations in one list, at most {MAX_OPS}; split it", ops.len());
    }
    let mut steps = Vec::with_capacity(ops.len());
    let mut handles = Vec::new();
    let mut fuels = Vec::with_capacity(ops.len());
    let mut flows = Vec::with_capacity(ops.len());
    let mut nodes = 0usize;
    for (index, op) in ops.iter().enumerate() {
        if let Op::RowMap(kernel) = op {
            nodes = nodes.saturating_add(kernel.nodes.len());
            if nodes > MAX_GRAPH_NODES {
                let error =
                    fail!(Quota, "the list has more than {MAX_GRAPH_NODES} row-kernel nodes; split it");
                return error.map_err(|error: Error| error.at(index as u32, op.name()));
            }
        }
        let mut check = Check { table, operands: Vec::with_capacity(8), handles: &mut handles };
        let step = check
            .op(op)
            .and_then(|step| check.alias(op).map(|()| step))
            .map_err(|error| error.at(index as u32, op.name()))?;
        let storages =
            |written| check.operands.iter().filter(move |o| o.written == written).map(|o| o.span.storage);
        flows.push(Flow { reads: storages(false).collect(), writes: storages(true).collect() });
        fuels.push(cost::fuel(&step));
        steps.push(step);
    }
    handles.sort_unstable();
    handles.dedup();
    Ok(Graph { device, steps, fuels, handles, flows, recorded: None, captured: Captured::default() })
}

/// One operand of the operation at hand.
struct Operand {
    name: &'static str,
    span: Span,
    written: bool,
    /// `Element` operands of a row kernel may be updated in place.
    in_place: bool,
    /// First column that is written and the one after the last, where it is
    /// not the whole tensor.
    columns: Option<[usize; 2]>,
}

struct Check<'a> {
    table: &'a Table,
    operands: Vec<Operand>,
    handles: &'a mut Vec<TensorId>,
}

impl<'a> Check<'a> {
    fn operand(
        &mut self,
        name: &'static str,
        id: TensorId,
        dtype: Option<DType>,
        written: bool,
        in_place: bool,
    ) -> Result<&'a Tensor, Error> {
        let tensor = match self.table.get(id) {
            Ok(tensor) => tensor,
            Err(_) => {
                return fail!(
                    BadHandle,
                    "{name} is {:#x}, which is no live tensor; it was freed or never allocated",
                    id.to_bits()
                );
            }
        };
        if let Some(dtype) = dtype
            && tensor.dtype != dtype
        {
            return fail!(ShapeMismatch, "{name} must be {dtype:?}, and is {:?}", tensor.dtype);
        }
        self.handles.push(id);
        self.operands.push(Operand { name, span: tensor.span, written, in_place, columns: None });
        Ok(tensor)
    }

    fn read(&mut self, name: &'static str, id: TensorId) -> Result<&'a Tensor, Error> {
        self.operand(name, id, Some(DType::F32), false, false)
    }

    fn write(&mut self, name: &'static str, id: TensorId) -> Result<&'a Tensor, Error> {
        self.operand(name, id, Some(DType::F32), true, false)
    }

    /// An operand that may be of either floating-point type.
    fn number(&mut self, name: &'static str, id: TensorId, written: bool) -> Result<&'a Tensor, Error> {
        let tensor = self.operand(name, id, None, written, false)?;
        match tensor.dtype {
            DType::F32 | DType::Bf16 => Ok(tensor),
            DType::I32 => fail!(ShapeMismatch, "{name} must be F32 or Bf16, and is I32"),
        }
    }

    /// An operand that may be missing: one value for each of `len`.
    fn each(
        &mut self,
        name: &'static str,
        id: Option<TensorId>,
        len: usize,
        written: bool,
    ) -> Result<Option<Span>, Error> {
        let Some(id) = id else { return Ok(None) };
        let tensor = self.operand(name, id, Some(DType::F32), written, false)?;
        if tensor.span.len != len {
            return fail!(ShapeMismatch, "{name} has {} elements, and must have {len}", tensor.span.len);
        }
        Ok(Some(tensor.span))
    }

    /// An operand of the type of `like`.
    fn same_type(
        &mut self,
        name: &'static str,
        id: TensorId,
        like: &Tensor,
        written: bool,
    ) -> Result<&'a Tensor, Error> {
        self.operand(name, id, Some(like.dtype), written, false)
    }

    fn alias(&self, op: &Op) -> Result<(), Error> {
        for (i, out) in self.operands.iter().enumerate().filter(|(_, o)| o.written) {
            for (j, other) in self.operands.iter().enumerate() {
                if i == j || !out.span.overlaps(&other.span) {
                    continue;
                }
                let in_place = matches!(op, Op::RowMap(_))
                    && out.in_place
                    && other.in_place
                    && !other.written
                    && out.span == other.span;
                let beside = match (out.columns, other.columns) {
                    (Some([begin, end]), Some([other_begin, other_end])) => {
                        out.span == other.span && (end <= other_begin || other_end <= begin)
                    }
                    _ => false,
                };
                if !in_place && !beside {
                    return fail!(
                        Alias,
                        "output {} overlaps {}; write to a tensor of its own",
                        out.name,
                        other.name
                    );
                }
            }
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<Step, Error> {
        match op {
            Op::Fill(o) => {
                let dst = self.operand("dst", o.dst, None, true, false)?;
                let bits = match dst.dtype {
                    DType::F32 => o.value.to_bits(),
                    // Rust's cast: towards zero, saturating, NaN to 0.
                    DType::I32 => o.value as i32 as u32,
                    DType::Bf16 => u32::from(crate::bf16::round(o.value)),
                };
                Ok(Step::Fill { dst: dst.span, bits, dtype: dst.dtype })
            }
            Op::Random(o) => {
                let dst = self.write("dst", o.dst)?;
                non_negative("scale", o.scale)?;
                let (seed, stream) = (o.seed, o.stream);
                let (distribution, scale) = (o.distribution, o.scale);
                Ok(Step::Random { dst: dst.span, seed, stream, counter: None, distribution, scale })
            }
            Op::RandomStep(o) => {
                let dst = self.write("dst", o.dst)?;
                let counter = self.operand("counter", o.counter, Some(DType::I32), false, false)?;
                non_negative("scale", o.scale)?;
                same("elements of counter", counter.span.len, 1)?;
                let (seed, stream, counter) = (o.seed, o.stream, Some(counter.span));
                let (distribution, scale) = (o.distribution, o.scale);
                Ok(Step::Random { dst: dst.span, seed, stream, counter, distribution, scale })
            }
            Op::Copy(o) => {
                let src = self.operand("src", o.src, None, false, false)?;
                let dst = self.operand("dst", o.dst, None, true, false)?;
                same("elements of src and dst", src.span.len, dst.span.len)?;
                Ok(Step::Copy { src: src.span, dst: dst.span, from: src.dtype, to: dst.dtype })
            }
            Op::Columns(o) => self.columns(o),
            Op::Transpose(o) => self.transpose(o),
            Op::MatMul(o) => self.matmul(o),
            Op::MatMulFused(o) => self.matmul_fused(o),
            Op::GroupedMatMul(o) => self.grouped_matmul(o),
            Op::GroupedMatMulWeight(o) => self.grouped_matmul_weight(o),
            Op::TopK(o) => self.top_k(o),
            Op::TopKBackward(o) => self.top_k_backward(o),
            Op::SortByKey(o) => self.sort_by_key(o),
            Op::RopeNorm(o) => self.rope_norm(o),
            Op::RopeNormBackward(o) => self.rope_norm_backward(o),
            Op::RowMap(o) => self.row_map(o),
            Op::Reduce(o) => {
                let src = self.number("src", o.src, false)?;
                let dst = self.write("dst", o.dst)?;
                finite("scale", o.scale)?;
                let (rows, cols, dtype) = (src.rows(), src.cols(), src.dtype);
                let expected = match o.axis {
                    ReduceAxis::Rows => cols,
                    ReduceAxis::Cols => rows,
                    ReduceAxis::All => 1,
                };
                same("elements of dst and of the reduction", dst.span.len, expected)?;
                let (axis, scale, accumulate) = (o.axis, o.scale, o.accumulate);
                Ok(Step::Reduce { src: src.span, dst: dst.span, dtype, rows, cols, axis, scale, accumulate })
            }
            Op::RmsNorm(o) => {
                let x = self.number("x", o.x, false)?;
                let out = self.number("out", o.out, true)?;
                let inv_rms = self.write("inv_rms", o.inv_rms)?;
                positive("eps", o.eps)?;
                same_shape("x", x, "out", out)?;
                same("elements of inv_rms and rows of x", inv_rms.span.len, x.rows())?;
                Ok(Step::RmsNorm {
                    x: x.span,
                    out: out.span,
                    inv_rms: inv_rms.span,
                    rows: x.rows(),
                    cols: x.cols(),
                    eps: o.eps,
                    dtypes: [x.dtype, out.dtype],
                })
            }
            Op::RmsNormBackward(o) => {
                let x = self.number("x", o.x, false)?;
                let inv_rms = self.read("inv_rms", o.inv_rms)?;
                let dout = self.number("dout", o.dout, false)?;
                let dx = self.number("dx", o.dx, true)?;
                same_shape("x", x, "dout", dout)?;
                same_shape("x", x, "dx", dx)?;
                same("elements of inv_rms and rows of x", inv_rms.span.len, x.rows())?;
                Ok(Step::RmsNormBackward {
                    x: x.span,
                    inv_rms: inv_rms.span,
                    dout: dout.span,
                    dx: dx.span,
                    rows: x.rows(),
                    cols: x.cols(),
                    accumulate: o.accumulate,
                    dtypes: [x.dtype, dout.dtype, dx.dtype],
                })
            }
            Op::LayerNorm(o) => {
                let x = self.read("x", o.x)?;
                let gain = self.each("gain", o.gain, x.cols(), false)?;
                let bias = self.each("bias", o.bias, x.cols(), false)?;
                let out = self.number("out", o.out, true)?;
                let mean = self.write("mean", o.mean)?;
                let inv_std = self.write("inv_std", o.inv_std)?;
                positive("eps", o.eps)?;
                same_shape("x", x, "out", out)?;
                let (rows, cols, eps) = (x.rows(), x.cols(), o.eps);
                same("elements of mean and rows of x", mean.span.len, rows)?;
                same("elements of inv_std and rows of x", inv_std.span.len, rows)?;
                let dtype = out.dtype;
                let (x, out, mean, inv_std) = (x.span, out.span, mean.span, inv_std.span);
                Ok(Step::LayerNorm { x, gain, bias, out, mean, inv_std, rows, cols, eps, dtype })
            }
            Op::LayerNormBackward(o) => {
                let x = self.read("x", o.x)?;
                let gain = self.each("gain", o.gain, x.cols(), false)?;
                let mean = self.read("mean", o.mean)?;
                let inv_std = self.read("inv_std", o.inv_std)?;
                let dout = self.number("dout", o.dout, false)?;
                let dx = self.write("dx", o.dx)?;
                let dgain = self.each("dgain", o.dgain, x.cols(), true)?;
                let dbias = self.each("dbias", o.dbias, x.cols(), true)?;
                same_shape("x", x, "dout", dout)?;
                same_shape("x", x, "dx", dx)?;
                let (rows, cols, accumulate) = (x.rows(), x.cols(), o.accumulate);
                same("elements of mean and rows of x", mean.span.len, rows)?;
                same("elements of inv_std and rows of x", inv_std.span.len, rows)?;
                Ok(Step::LayerNormBackward {
                    x: x.span,
                    gain,
                    mean: mean.span,
                    inv_std: inv_std.span,
                    dout: dout.span,
                    dx: dx.span,
                    dgain,
                    dbias,
                    rows,
                    cols,
                    accumulate,
                    dtype: dout.dtype,
                })
            }
            Op::Rope(o) => {
                let x = self.read("x", o.x)?;
                let out = self.write("out", o.out)?;
                positive("base", o.base)?;
                same_shape("x", x, "out", out)?;
                let [batch, time, heads, dim] = rank4("x", x)?;
                if dim % 2 != 0 {
                    return fail!(ShapeMismatch, "the head size of x is {dim}, and must be even");
                }
                let (x, out) = (x.span, out.span);
                Ok(Step::Rope { x, out, batch, time, heads, dim, base: o.base, inverse: o.inverse })
            }
            Op::Attention(o) => self.attention(o),
            Op::AttentionBackward(o) => self.attention_backward(o),
            Op::Gather(o) => {
                let table = self.number("table", o.table, false)?;
                let indices = self.operand("indices", o.indices, Some(DType::I32), false, false)?;
                let out = self.operand("out", o.out, Some(table.dtype), true, false)?;
                same("cols of table and out", table.cols(), out.cols())?;
                same("rows of out and indices", out.rows(), indices.span.len)?;
                Ok(Step::Gather {
                    table: table.span,
                    indices: indices.span,
                    out: out.span,
                    entries: table.rows(),
                    cols: table.cols(),
                    dtype: table.dtype,
                })
            }
            Op::ScatterAdd(o) => {
                let src = self.read("src", o.src)?;
                let indices = self.operand("indices", o.indices, Some(DType::I32), false, false)?;
                let table = self.write("table", o.table)?;
                same("cols of table and src", table.cols(), src.cols())?;
                same("rows of src and indices", src.rows(), indices.span.len)?;
                Ok(Step::ScatterAdd {
                    src: src.span,
                    indices: indices.span,
                    table: table.span,
                    entries: table.rows(),
                    cols: table.cols(),
                    accumulate: o.accumulate,
                })
            }
            Op::LinearCrossEntropy(o) => {
                let x = self.number("x", o.x, false)?;
                let weight = self.same_type("weight", o.weight, x, false)?;
                let targets = self.operand("targets", o.targets, Some(DType::I32), false, false)?;
                let losses = self.write("losses", o.losses)?;
                let lse = self.write("lse", o.lse)?;
                let dims = cross_entropy_dims(x, weight, targets, lse, o.softcap)?;
                same("elements of losses and rows of x", losses.span.len, dims.rows)?;
                Ok(Step::LinearCrossEntropy {
                    x: x.span,
                    weight: weight.span,
                    targets: targets.span,
                    losses: losses.span,
                    lse: lse.span,
                    dims,
                })
            }
            Op::LinearCrossEntropyBackward(o) => {
                let x = self.number("x", o.x, false)?;
                let weight = self.same_type("weight", o.weight, x, false)?;
                let targets = self.operand("targets", o.targets, Some(DType::I32), false, false)?;
                let lse = self.read("lse", o.lse)?;
                let dx = self.same_type("dx", o.dx, x, true)?;
                let dweight = self.number("dweight", o.dweight, true)?;
                if dweight.dtype == DType::Bf16 && x.dtype == DType::F32 {
                    return fail!(ShapeMismatch, "dweight must be F32 where x is F32, and is Bf16");
                }
                let dims = cross_entropy_dims(x, weight, targets, lse, o.softcap)?;
                finite("grad_scale", o.grad_scale)?;
                same_shape("x", x, "dx", dx)?;
                same_shape("weight", weight, "dweight", dweight)?;
                Ok(Step::LinearCrossEntropyBackward {
                    x: x.span,
                    weight: weight.span,
                    targets: targets.span,
                    lse: lse.span,
                    dx: dx.span,
                    dweight: dweight.span,
                    dims: CrossEntropyDims { dtypes: [x.dtype, dweight.dtype], ..dims },
                    grad_scale: o.grad_scale,
                    accumulate: o.accumulate,
                })
            }
            Op::AdamW(o) => {
                let param = self.write("param", o.param)?;
                let grad = self.read("grad", o.grad)?;
                let m = self.write("m", o.m)?;
                let v = self.write("v", o.v)?;
                let hyper = self.read("hyper", o.hyper)?;
                same("elements of param and grad", param.span.len, grad.span.len)?;
                same("elements of param and m", param.span.len, m.span.len)?;
                same("elements of param and v", param.span.len, v.span.len)?;
                same("elements of hyper", hyper.span.len, 7)?;
                let rounded = match o.rounded {
                    None => None,
                    Some(id) => Some(self.operand("rounded", id, Some(DType::Bf16), true, false)?.span),
                };
                if let Some(rounded) = rounded {
                    same("elements of param and rounded", param.span.len, rounded.len)?;
                }
                Ok(Step::AdamW {
                    param: param.span,
                    grad: grad.span,
                    m: m.span,
                    v: v.span,
                    hyper: hyper.span,
                    rounded,
                })
            }
        }
    }

    fn columns(&mut self, o: &Columns) -> Result<Step, Error> {
        let src = self.operand("src", o.src, None, false, false)?;
        let dst = self.operand("dst", o.dst, Some(src.dtype), true, false)?;
        same("rows of src and dst", src.rows(), dst.rows())?;
        if o.width == 0 {
            return fail!(InvalidArgument, "width is 0");
        }
        for (name, start, cols) in [("src_col", o.src_col, src.cols()), ("dst_col", o.dst_col, dst.cols())] {
            if u64::from(start) + u64::from(o.width) > cols as u64 {
                return fail!(
                    InvalidArgument,
                    "{name} {start} + width {} leaves the {cols} columns",
                    o.width
                );
            }
        }
        Ok(Step::Columns {
            src: src.span,
            dst: dst.span,
            rows: src.rows(),
            src_cols: src.cols(),
            dst_cols: dst.cols(),
            src_col: o.src_col as usize,
            dst_col: o.dst_col as usize,
            width: o.width as usize,
            accumulate: o.accumulate,
            dtype: src.dtype,
        })
    }

    fn transpose(&mut self, o: &Transpose) -> Result<Step, Error> {
        let src = self.operand("src", o.src, None, false, false)?;
        let dst = self.operand("dst", o.dst, Some(src.dtype), true, false)?;
        let [rows, cols] = matrix("src", src)?;
        let mut expected = src.shape.clone();
        let rank = expected.len();
        expected.swap(rank - 1, rank - 2);
        if dst.shape != expected {
            return fail!(ShapeMismatch, "dst is {:?}, and must be {expected:?}", dst.shape);
        }
        let batch = src.span.len / (rows * cols);
        Ok(Step::Transpose { src: src.span, dst: dst.span, batch, rows, cols, dtype: src.dtype })
    }

    fn row_map(&mut self, o: &RowMap) -> Result<Step, Error> {
        // Handles and types are checked below.
        let dtype = |id| self.table.get(id).map_or(DType::F32, |tensor| tensor.dtype);
        let program = row_kernel::compile(o, dtype)?;
        let (rows, cols) = (o.rows as u64, o.cols as u64);
        let mut spans = Vec::with_capacity(o.inputs.len() + o.stores.len());
        let inputs = o.inputs.iter().map(|i| ("an input", i.tensor, i.layout, false));
        let stores = o.stores.iter().map(|s| ("a store", s.tensor, s.layout, true));
        for (name, id, layout, written) in inputs.chain(stores) {
            let in_place = layout == Layout::Element;
            let tensor = self.operand(name, id, None, written, in_place)?;
            match (layout, tensor.dtype) {
                (_, DType::F32) | (Layout::Element, DType::Bf16) => {}
                (Layout::Element, dtype) => {
                    return fail!(ShapeMismatch, "{name} must be F32 or Bf16, and is {dtype:?}");
                }
                (_, dtype) => {
                    return fail!(
                        ShapeMismatch,
                        "{name} with layout {layout:?} must be F32, and is {dtype:?}; only Element ones may be Bf16"
                    );
                }
            }
            let expected = match layout {
                // Both fit in 32 bits, so the product fits in 64.
                Layout::Element => rows * cols,
                Layout::PerRow => rows,
                Layout::PerCol => cols,
                Layout::Scalar => 1,
            };
            if tensor.span.len as u64 != expected {
                return fail!(
                    ShapeMismatch,
                    "{name} with layout {layout:?} has {} elements, and must have {expected}",
                    tensor.span.len
                );
            }
            spans.push(tensor.span);
        }
        let stores = spans.split_off(o.inputs.len());
        Ok(Step::RowMap { program: Box::new(program), inputs: spans, stores })
    }
}

fn swapped(dims: [usize; 2], swap: bool) -> [usize; 2] {
    if swap { [dims[1], dims[0]] } else { dims }
}
