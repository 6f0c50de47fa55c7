//! What an operation has to do at least: the flops of its matrix products, and
//! the bytes of its operands in their own element types, each moved once and
//! an accumulated one twice.
//!
//! Unlike fuel, which prices work for any machine, this is for a machine whose
//! peaks are known: no operation is faster than the larger of flops by its
//! flops a second and bytes by its bytes a second. Flops of what is no matrix
//! product are not counted; they are few beside the bytes.

use crate::cost::visible_pairs;
use crate::op::DType;
use crate::step::{AttentionDims, Step};
use crate::table::Span;

/// One operation of [`crate::Graph::account`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AccountLine {
    /// Its name, as in [`crate::Op::name`].
    pub name: &'static str,
    /// Flops of its matrix products.
    pub flops: u64,
    /// Bytes of its operands.
    pub bytes: u64,
}

const F32: DType = DType::F32;
const I32: DType = DType::I32;

fn bytes(len: usize, dtype: DType) -> u64 {
    (len as u64).saturating_mul(dtype.bytes())
}

fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

/// Of spans that are all of one type.
fn all<'a>(spans: impl IntoIterator<Item = &'a Span>, dtype: DType) -> u64 {
    sum(spans.into_iter().map(|span| bytes(span.len, dtype)))
}

/// A result: written, and read before if it is added to.
fn result(span: &Span, dtype: DType, accumulate: bool) -> u64 {
    bytes(span.len, dtype).saturating_mul(1 + u64::from(accumulate))
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |n, &factor| n.saturating_mul(factor as u64))
}

/// `products` of queries and keys, over the pairs that see one another.
fn attention_flops(dims: &AttentionDims, products: u64) -> u64 {
    let pairs = product(&[dims.batch, dims.heads]).saturating_mul(visible_pairs(dims));
    pairs.saturating_mul(2 * products).saturating_mul(dims.dim as u64)
}

/// `each` tensors as large as q, and as many as large as k.
fn attention_bytes(dims: &AttentionDims, each: u64, lse: &Span) -> u64 {
    let heads = dims.elements().map(|len| bytes(len, dims.dtype).saturating_mul(each));
    sum(heads).saturating_add(bytes(lse.len, F32))
}

/// Flops and bytes of one step.
pub(crate) fn of(step: &Step) -> (u64, u64) {
    match step {
        Step::MatMul { a, b, out, dims, accumulate } => {
            let [da, db, dout] = dims.dtypes;
            let moved = [bytes(a.len, da), bytes(b.len, db), result(out, dout, *accumulate)];
            (product(&[2, dims.batch, dims.m, dims.n, dims.k]), sum(moved))
        }
        Step::MatMulFused { a, b, out, dims, bias, residual, residual_dtype, pre, pre_dtype, .. } => {
            let [da, db, dout] = dims.dtypes;
            let moved = [bytes(a.len, da), bytes(b.len, db), bytes(out.len, dout)];
            let ends = sum([all(bias, F32), all(residual, *residual_dtype), all(pre, *pre_dtype)]);
            (product(&[2, dims.batch, dims.m, dims.n, dims.k]), sum(moved).saturating_add(ends))
        }
        Step::GroupedMatMul { a, b, starts, out, dims, accumulate, .. }
        | Step::GroupedMatMulWeight { a, b, starts, out, dims, accumulate } => {
            let moved = all([a, b, starts], F32).saturating_add(result(out, F32, *accumulate));
            (product(&[2, dims.rows, dims.n, dims.k]), moved)
        }
        Step::Attention { lse, dims, .. } => (attention_flops(dims, 2), attention_bytes(dims, 2, lse)),
        Step::AttentionBackward { lse, dims, .. } => {
            (attention_flops(dims, 5), attention_bytes(dims, 4, lse))
        }
        Step::LinearCrossEntropy { x, weight, targets, losses, lse, dims } => {
            let moved = all([x, weight], dims.dtypes[0]).saturating_add(all([targets, losses, lse], F32));
            (product(&[2, dims.rows, dims.channels, dims.vocabulary]), moved)
        }
        Step::LinearCrossEntropyBackward {
            x, weight, targets, lse, dx, dweight, dims, accumulate, ..
        } => {
            let moved = [
                all([x, weight, dx], dims.dtypes[0]),
                result(dweight, dims.dtypes[1], *accumulate),
                all([targets, lse], F32),
            ];
            (product(&[6, dims.rows, dims.channels, dims.vocabulary]), sum(moved))
        }
        _ => (0, moved(step)),
    }
}

/// Bytes of a step without a matrix product.
fn moved(step: &Step) -> u64 {
    match step {
        Step::Fill { dst, dtype, .. } => bytes(dst.len, *dtype),
        Step::Random { dst, .. } => bytes(dst.len, F32),
        Step::Copy { src, dst, from, to } => sum([bytes(src.len, *from), bytes(dst.len, *to)]),
        Step::Columns { rows, width, accumulate, dtype, .. } => {
            bytes(rows.saturating_mul(*width), *dtype).saturating_mul(2 + u64::from(*accumulate))
        }
        Step::Transpose { src, dst, dtype, .. } => all([src, dst], *dtype),
        Step::TopK { x, values, indices, .. } => all([x, values, indices], F32),
        Step::TopKBackward { dvalues, indices, dx, accumulate, .. } => {
            sum([all([dvalues, indices], F32), result(dx, F32, *accumulate)])
        }
        Step::SortByKey { keys, sources, places, starts, .. } => all([keys, sources, places, starts], I32),
        Step::LayerNorm { x, gain, bias, out, mean, inv_std, dtype, .. } => {
            let rest = [x, mean, inv_std].into_iter().chain(gain).chain(bias);
            sum([all(rest, F32), bytes(out.len, *dtype)])
        }
        Step::LayerNormBackward {
            x, gain, mean, inv_std, dout, dx, dgain, dbias, accumulate, dtype, ..
        } => {
            let rest = [x, mean, inv_std].into_iter().chain(gain).chain(dgain).chain(dbias);
            sum([all(rest, F32), bytes(dout.len, *dtype), result(dx, F32, *accumulate)])
        }
        Step::RopeNorm { out, inv_rms, dtypes, .. } => {
            sum([bytes(out.len, dtypes[0]), bytes(out.len, dtypes[1]), bytes(inv_rms.len, F32)])
        }
        Step::RopeNormBackward { out, inv_rms, dout, accumulate, dtypes, .. } => {
            let gradient = result(out, dtypes[1], *accumulate);
            sum([all([out, dout], dtypes[0]), bytes(inv_rms.len, F32), gradient])
        }
        Step::RowMap { program, inputs, stores } => {
            let dtypes = program.input_types.iter().chain(&program.store_types);
            sum(inputs.iter().chain(stores).zip(dtypes).map(|(span, dtype)| bytes(span.len, *dtype)))
        }
        Step::Reduce { src, dst, dtype, accumulate, .. } => {
            sum([bytes(src.len, *dtype), result(dst, F32, *accumulate)])
        }
        Step::RmsNorm { x, out, inv_rms, dtypes, .. } => {
            sum([bytes(x.len, dtypes[0]), bytes(out.len, dtypes[1]), bytes(inv_rms.len, F32)])
        }
        Step::RmsNormBackward { x, inv_rms, dout, dx, accumulate, dtypes, .. } => {
            let read = sum([bytes(x.len, dtypes[0]), bytes(dout.len, dtypes[1]), bytes(inv_rms.len, F32)]);
            read.saturating_add(result(dx, dtypes[2], *accumulate))
        }
        Step::Rope { x, out, .. } => all([x, out], F32),
        // Rows of the table, as many as there are of the result.
        Step::Gather { indices, out, dtype, .. } => sum([bytes(indices.len, I32), all([out, out], *dtype)]),
        Step::ScatterAdd { src, indices, table, accumulate, .. } => {
            sum([all([src], F32), bytes(indices.len, I32), result(table, F32, *accumulate)])
        }
        Step::AdamW { param, grad, m, v, rounded, .. } => {
            sum([all([param, param, grad, m, m, v, v], F32), all(rounded, DType::Bf16)])
        }
        // Those with a product have been accounted for.
        Step::MatMul { .. }
        | Step::MatMulFused { .. }
        | Step::GroupedMatMul { .. }
        | Step::GroupedMatMulWeight { .. }
        | Step::Attention { .. }
        | Step::AttentionBackward { .. }
        | Step::LinearCrossEntropy { .. }
        | Step::LinearCrossEntropyBackward { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::MatMulDims;

    #[test]
    fn a_product_moves_each_operand_in_its_own_type_and_a_sum_twice() {
        let span = |len| Span { storage: 0, offset: 0, len };
        let dims = MatMulDims {
            batch: 1,
            m: 2,
            n: 4,
            k: 3,
            trans_a: false,
            trans_b: false,
            alpha: 1.0,
            dtypes: [DType::Bf16, DType::Bf16, DType::F32],
        };
        for accumulate in [false, true] {
            let step = Step::MatMul { a: span(6), b: span(12), out: span(8), dims, accumulate };
            let again = if accumulate { 4 * 8 } else { 0 };
            assert_eq!(of(&step), (2 * 2 * 4 * 3, 2 * 6 + 2 * 12 + 4 * 8 + again));
        }
    }

    #[test]
    fn attention_counts_what_is_seen() {
        let span = |len| Span { storage: 0, offset: 0, len };
        let dims = AttentionDims {
            batch: 1,
            time: 3,
            heads: 2,
            kv_heads: 1,
            dim: 4,
            window: 2,
            scale: 1.0,
            dtype: DType::Bf16,
            rows: [8, 4, 4],
        };
        let [q, k, v, out, lse] = [24, 12, 12, 24, 6].map(span);
        let step = Step::Attention { q, k, v, out, lse, dims };
        // Five pairs a head, two products of 4; q and out, k and v, lse.
        assert_eq!(of(&step), (2 * 5 * 2 * 2 * 4, 2 * (2 * 24 + 2 * 12) + 4 * 6));
    }
}
