//! Linear layer, soft cap and cross-entropy in one, over chunks of rows, so
//! that the logits of all rows never exist at once.
//!
//! z = cap(x · weightᵀ), loss_n = lse_n − z_n,target. Backwards the logits of
//! a chunk are computed again; with p = softmax(z),
//! dlogit = grad_scale · (p − onehot) · cap′, cap′ = 1 − (z / softcap)².
//!
//! Where x and the weight are bfloat16, so is dlogit, to be multiplied by
//! them, as on a card.

use super::moves::convert;
use super::product::{self, Numbers, Results, Wide};
use super::rounding::narrow;
use super::simd::{maximum, multiversion, sum};
use super::{Output, Split, StepFaults, math, scratch};
use crate::op::DType;
use crate::step::{CrossEntropyDims, MatMulDims};

/// Most logits held at a time (8 MiB), except that a row is held whole.
const CHUNK: usize = 1 << 21;
/// Logits of a task, at least a row.
const TASK: usize = 16_384;

/// What both directions read.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub x: Numbers<'a>,
    pub weight: Numbers<'a>,
    pub targets: &'a [i32],
    /// Backward only; in the forward direction empty.
    pub lse: &'a [f32],
}

fn chunk_rows(dims: &CrossEntropyDims) -> usize {
    (CHUNK / dims.vocabulary).clamp(1, dims.rows)
}

pub(crate) fn forward(
    split: Split,
    inputs: Inputs,
    [losses, lse]: [&mut [f32]; 2],
    dims: &CrossEntropyDims,
    faults: &StepFaults,
) {
    let CrossEntropyDims { vocabulary, softcap, .. } = *dims;
    let (losses, lse) = (Output::new(losses), Output::new(lse));
    chunks(split, inputs, dims, |_, first, logits| {
        rows(split, logits, vocabulary, |row, z| {
            let n = first + row;
            let total = forward_row(z, softcap);
            let loss = match inputs.targets[n] {
                ignored if ignored < 0 => 0.0,
                target => total - z[faults.clamp(target, vocabulary)],
            };
            // SAFETY: one element per row, and rows belong to one task.
            unsafe {
                losses.range(n, 1)[0] = loss;
                lse.range(n, 1)[0] = total;
            }
        });
    });
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    split: Split,
    inputs: Inputs,
    mut dx: Results,
    dweight: &mut [f32],
    dims: &CrossEntropyDims,
    grad_scale: f32,
    accumulate: bool,
    faults: &StepFaults,
) {
    let CrossEntropyDims { channels, vocabulary, softcap, .. } = *dims;
    chunks(split, inputs, dims, |wide, first, logits| {
        rows(split, logits, vocabulary, |row, z| match inputs.targets[first + row] {
            ignored if ignored < 0 => z.fill(0.0),
            target => {
                let target = faults.clamp(target, vocabulary);
                backward_row(z, inputs.lse[first + row], target, softcap, grad_scale);
            }
        });
        let count = logits.len() / vocabulary;
        let part = first * channels..(first + count) * channels;
        let (x, dx) = (inputs.x.part(part.clone()), dx.part(part));
        let of_x = product_of([count, channels, vocabulary], [false, false]);
        let of_weight = product_of([vocabulary, channels, count], [true, false]);
        let accumulate = accumulate || first > 0;
        let multiply = |dlogits: Numbers| {
            product::run(split, wide, dlogits, inputs.weight, dx, &of_x, false, None);
            product::run(split, wide, dlogits, x, Results::F32(dweight), &of_weight, accumulate, None);
        };
        match x {
            Numbers::F32(_) => multiply(Numbers::F32(logits)),
            Numbers::Bf16(_) => scratch::with(logits.len().div_ceil(2), |room| {
                // SAFETY: a float is two of these, and any bits are one.
                let (_, halves, _) = unsafe { room.align_to_mut::<u16>() };
                let halves = &mut halves[..logits.len()];
                convert(split, logits, halves, narrow);
                multiply(Numbers::Bf16(halves));
            }),
        }
    });
}

/// A product of m × n results over k, in f32 sums.
fn product_of([m, n, k]: [usize; 3], [trans_a, trans_b]: [bool; 2]) -> MatMulDims {
    MatMulDims { batch: 1, m, n, k, trans_a, trans_b, alpha: 1.0, dtypes: [DType::F32; 3] }
}

/// Calls `task(buffers, first row, logits of the chunk, before the cap)` for
/// each chunk, in order.
fn chunks(
    split: Split,
    inputs: Inputs,
    dims: &CrossEntropyDims,
    mut task: impl FnMut(&mut Wide, usize, &mut [f32]),
) {
    let CrossEntropyDims { rows, channels, vocabulary, .. } = *dims;
    let height = chunk_rows(dims);
    let mut wide = Wide::default();
    scratch::with(height * vocabulary, |logits| {
        for first in (0..rows).step_by(height) {
            let count = height.min(rows - first);
            let logits = &mut logits[..count * vocabulary];
            let x = inputs.x.part(first * channels..(first + count) * channels);
            let dims = product_of([count, vocabulary, channels], [false, true]);
            let out = Results::F32(logits);
            product::run(split, &mut wide, x, inputs.weight, out, &dims, false, None);
            task(&mut wide, first, logits);
        }
    });
}

/// Calls `task(row, its logits)` for each row.
fn rows(split: Split, logits: &mut [f32], vocabulary: usize, task: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let count = logits.len() / vocabulary;
    let group = (TASK / vocabulary).max(1);
    let logits = Output::new(logits);
    split.each(count.div_ceil(group), |index| {
        for row in index * group..((index + 1) * group).min(count) {
            // SAFETY: rows do not overlap, and each belongs to one task.
            task(row, unsafe { logits.range(row * vocabulary, vocabulary) });
        }
    });
}

multiversion! {
    /// Caps the logits in place; returns their log-sum-exp.
    fn forward_row(z: &mut [f32], softcap: f32) -> f32 = forward_row_body
}

#[inline(always)]
fn cap<const FMA: bool>(z: &mut [f32], softcap: f32) {
    if softcap != 0.0 {
        for z in z.iter_mut() {
            *z = softcap * math::tanh::<FMA>(*z / softcap);
        }
    }
}

#[inline(always)]
fn forward_row_body<const FMA: bool>(z: &mut [f32], softcap: f32) -> f32 {
    cap::<FMA>(z, softcap);
    let highest = maximum(z);
    if highest == f32::NEG_INFINITY {
        return highest;
    }
    // Sixteen lanes at a time through a small buffer keeps z as it is.
    let mut buffer = [0f32; 256];
    let mut total = 0f32;
    for part in z.chunks(256) {
        for (e, z) in buffer.iter_mut().zip(part) {
            *e = math::exp_negative::<FMA>(*z - highest);
        }
        total += sum::<FMA>(&buffer[..part.len()]);
    }
    highest + math::ln::<FMA>(total)
}

multiversion! {
    /// Logits to their gradients, in place.
    fn backward_row(z: &mut [f32], lse: f32, target: usize, softcap: f32, grad_scale: f32) =
        backward_row_body
}

#[inline(always)]
fn backward_row_body<const FMA: bool>(z: &mut [f32], lse: f32, target: usize, softcap: f32, grad_scale: f32) {
    // The target's gradient has p − 1 where the others have p.
    let of_target = gradient::<FMA>(z[target], 1.0, lse, softcap, grad_scale);
    if softcap == 0.0 {
        for z in z.iter_mut() {
            *z = gradient::<FMA>(*z, 0.0, lse, 0.0, grad_scale);
        }
    } else {
        for z in z.iter_mut() {
            *z = gradient::<FMA>(*z, 0.0, lse, softcap, grad_scale);
        }
    }
    z[target] = of_target;
}

/// Of one logit, before the cap. A function, not a closure: it must be
/// compiled into its caller's instruction set.
#[inline(always)]
fn gradient<const FMA: bool>(logit: f32, onehot: f32, lse: f32, softcap: f32, scale: f32) -> f32 {
    if softcap == 0.0 {
        scale * (math::exp::<FMA>(logit - lse) - onehot)
    } else {
        let t = math::tanh::<FMA>(logit / softcap);
        scale * (math::exp::<FMA>(softcap * t - lse) - onehot) * (1.0 - t * t)
    }
}
