//! What bfloat16 has no kernels for: attention, where the machine does not
//! multiply bfloat16, and sums that become bfloat16. Operands are widened into
//! scratch memory, and results rounded once, at the end.

#[cfg(target_arch = "x86_64")]
use super::attention_avx512;
use super::moves::convert;
#[cfg(target_arch = "x86_64")]
use super::packing::Pair;
use super::product::Results;
use super::rounding::{narrow, widen};
use super::{Split, StepFaults, attention, attention_backward, cross_entropy, scratch};
use crate::step::{AttentionDims, CrossEntropyDims};

/// Cuts the first `len` elements off.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, after) = std::mem::take(rest).split_at_mut(len);
    *rest = after;
    part
}

/// As [`cut`], filled with the widened `bits`.
fn widened<'a>(split: Split, rest: &mut &'a mut [f32], bits: &[u16]) -> &'a [f32] {
    let part = cut(rest, bits.len());
    convert(split, bits, part, widen);
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
        return attention_avx512::forward::<Pair>(split, [q, k, v], out, lse, dims);
    }
    scratch::with(2 * (q.len() + k.len()), |mut rest| {
        let [q, k, v] = [q, k, v].map(|bits| widened(split, &mut rest, bits));
        let sums = cut(&mut rest, out.len());
        attention::forward(split, q, k, v, sums, lse, dims);
        rounded(split, sums, out);
    });
}

/// q, k, v, out and dout; dq, dk, dv.
pub(crate) fn attention_backward(
    split: Split,
    inputs: [&[u16]; 5],
    lse: &[f32],
    gradients: [&mut [u16]; 3],
    dims: &AttentionDims,
) {
    #[cfg(target_arch = "x86_64")]
    if attention_avx512::can::<Pair>() {
        let [q, k, v, out, dout] = inputs;
        let inputs = attention_avx512::Inputs { q, k, v, out, lse, dout };
        return attention_avx512::backward::<Pair>(split, inputs, gradients, dims);
    }
    let len = |slice: &[u16]| slice.len();
    let total = inputs.map(len).iter().sum::<usize>() + gradients.iter().map(|g| g.len()).sum::<usize>();
    scratch::with(total, |mut rest| {
        let [q, k, v, out, dout] = inputs.map(|bits| widened(split, &mut rest, bits));
        let [dq, dk, dv] = gradients.each_ref().map(|gradient| cut(&mut rest, gradient.len()));
        let inputs = attention_backward::Inputs { q, k, v, out, lse, dout };
        attention_backward::backward(split, inputs, dq, dk, dv, dims);
        for (values, bits) in [dq, dk, dv].into_iter().zip(gradients) {
            rounded(split, values, bits);
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
