//! What bfloat16 has no kernels for: attention, where the machine does not
//! multiply bfloat16, and sums that become bfloat16. Operands are widened into
//! scratch memory, and results rounded once, at the end.

#[cfg(target_arch = "x86_64")]
use super::attention_avx512;
#[cfg(target_arch = "x86_64")]
use super::gemm_amx::RowPair;
use super::moves::{Moved, convert, convert_rows};
#[cfg(target_arch = "x86_64")]
use super::packing::Pair;
use super::product::Results;
use super::rounding::{narrow, widen};
use super::{Output, Split, StepFaults, attention, attention_backward, cross_entropy, scratch};
use crate::step::{AttentionDims, CrossEntropyDims};

/// Cuts the first `len` elements off.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, after) = std::mem::take(rest).split_at_mut(len);
    *rest = after;
    part
}

/// As [`cut`], filled with the widened heads of an attention's operand, dense.
fn widened<'a>(
    split: Split,
    rest: &mut &'a mut [f32],
    (bits, row): (&[u16], usize),
    heads: usize,
    dims: &AttentionDims,
) -> &'a [f32] {
    let (positions, width) = (dims.batch * dims.time, heads * dims.dim);
    let part = cut(rest, positions * width);
    // SAFETY: `part` is borrowed for all of it.
    unsafe {
        convert_rows(split, (bits, Moved::new(part)), [positions, width], [row, width], widen);
    }
    part
}

fn rounded(split: Split, values: &[f32], bits: &mut [u16]) {
    convert(split, values, bits, narrow);
}

pub(crate) fn attention(
    split: Split,
    [q, k, v]: [&[u16]; 3],
    out: &mut [u16],
    lse: &mut [f32],
    dims: &AttentionDims,
) {
    #[cfg(target_arch = "x86_64")]
    if attention_avx512::can::<Pair>() {
        return match attention_avx512::can::<RowPair>() {
            true => attention_avx512::forward::<RowPair>(split, [q, k, v], out, lse, dims),
            false => attention_avx512::forward::<Pair>(split, [q, k, v], out, lse, dims),
        };
    }
    let ([of_q, of_k], [q_row, k_row, v_row]) = (dims.elements(), dims.rows);
    scratch::with(2 * (of_q + of_k), |mut rest| {
        let mut wide = |operand, heads| widened(split, &mut rest, operand, heads, dims);
        let q = wide((q, q_row), dims.heads);
        let [k, v] = [(k, k_row), (v, v_row)].map(|operand| wide(operand, dims.kv_heads));
        let sums = cut(&mut rest, out.len());
        attention::forward(split, q, k, v, sums, lse, &dims.dense());
        rounded(split, sums, out);
    });
}

/// q, k, v, out and dout; dq, dk, dv.
pub(crate) fn attention_backward(
    split: Split,
    inputs: [&[u16]; 5],
    lse: &[f32],
    gradients: [Moved<u16>; 3],
    dims: &AttentionDims,
) {
    #[cfg(target_arch = "x86_64")]
    if attention_avx512::can::<Pair>() {
        let [q, k, v, out, dout] = inputs;
        let inputs = attention_avx512::Inputs { q, k, v, out, lse, dout };
        return match attention_avx512::can::<RowPair>() {
            true => attention_avx512::backward::<RowPair>(split, inputs, gradients, dims),
            false => attention_avx512::backward::<Pair>(split, inputs, gradients, dims),
        };
    }
    let [q, k, v, out, dout] = inputs;
    let ([of_q, of_k], [q_row, k_row, v_row]) = (dims.elements(), dims.rows);
    scratch::with(4 * (of_q + of_k), |mut rest| {
        let mut wide = |operand, heads| widened(split, &mut rest, operand, heads, dims);
        let row = dims.heads * dims.dim;
        let [q, out, dout] = [(q, q_row), (out, row), (dout, row)].map(|operand| wide(operand, dims.heads));
        let [k, v] = [(k, k_row), (v, v_row)].map(|operand| wide(operand, dims.kv_heads));
        let mut sums = [of_q, of_k, of_k].map(|len| cut(&mut rest, len));
        let inputs = attention_backward::Inputs { q, k, v, out, lse, dout };
        let outputs = sums.each_mut().map(|sums| Output::new(sums));
        attention_backward::backward(split, inputs, outputs, &dims.dense());
        let positions = dims.batch * dims.time;
        for ((sums, bits), row) in sums.into_iter().zip(gradients).zip(dims.rows) {
            let width = sums.len() / positions;
            // SAFETY: heads of one gradient, which are the step's outputs.
            unsafe { convert_rows(split, (&*sums, bits), [positions, width], [width, row], narrow) };
        }
    });
}

/// x and the weight, both bfloat16; dx and dweight.
#[allow(clippy::too_many_arguments)]
pub(crate) fn cross_entropy_backward(
    split: Split,
    inputs: cross_entropy::Inputs,
    dx: &mut [u16],
    dweight: Results,
    dims: &CrossEntropyDims,
    grad_scale: f32,
    accumulate: bool,
    faults: &StepFaults,
) {
    let dx = Results::Bf16(dx);
    match dweight {
        Results::F32(dweight) => {
            cross_entropy::backward(split, inputs, dx, dweight, dims, grad_scale, accumulate, faults);
        }
        Results::Bf16(dweight) => scratch::with(dweight.len(), |wide| {
            if accumulate {
                convert(split, dweight, wide, widen);
            }
            cross_entropy::backward(split, inputs, dx, wide, dims, grad_scale, accumulate, faults);
            rounded(split, wide, dweight);
        }),
    }
}
