//! Launches of linear + cross-entropy: products into a chunk of scratch
//! memory, so that the logits of all rows never exist at once. Over bfloat16:
//! `cross_entropy_bf16.rs`.

use super::arguments::{CrossEntropy, shared};
use super::driver::Address;
use super::launch::{Product, matmul};
use super::{Cuda, cross_entropy_bf16};
use crate::Error;
use crate::op::DType;
use crate::step::CrossEntropyDims;

/// Most logits held at a time (256 MiB), except that a row is held whole.
const CHUNK: usize = 1 << 26;

/// What both directions use.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub x: Address,
    pub weight: Address,
    pub targets: Address,
    pub lse: Address,
}

/// `n` elements of 4 bytes after `address`.
pub(super) fn after(address: Address, n: usize) -> Address {
    address + n as Address * 4
}

/// Calls `task(first row, rows, logits)` for each chunk, in order, after the
/// product x · weightᵀ.
fn chunks(
    cuda: &mut Cuda,
    io: Operands,
    dims: &CrossEntropyDims,
    mut task: impl FnMut(&mut Cuda, usize, usize, Address) -> Result<(), Error>,
) -> Result<(), Error> {
    let CrossEntropyDims { rows, channels, vocabulary, .. } = *dims;
    let height = (CHUNK / vocabulary).clamp(1, rows);
    let logits = cuda.scratch(height * vocabulary * 4)?;
    for first in (0..rows).step_by(height) {
        let count = height.min(rows - first);
        let product = Product {
            a: after(io.x, first * channels),
            b: io.weight,
            out: logits,
            batch: 1,
            dims: [count, vocabulary, channels],
            trans: [false, true],
            alpha: 1.0,
            accumulate: false,
        };
        // SAFETY: rows of a validated step; the scratch holds the chunk.
        unsafe { matmul(cuda, product)? };
        task(cuda, first, count, logits)?;
    }
    Ok(())
}

pub(super) fn forward(
    cuda: &mut Cuda,
    io: Operands,
    losses: Address,
    dims: &CrossEntropyDims,
    step: u32,
) -> Result<(), Error> {
    if dims.dtypes[0] == DType::Bf16 {
        return cross_entropy_bf16::forward(cuda, io, losses, dims, step);
    }
    chunks(cuda, io, dims, |cuda, first, count, logits| {
        let a = CrossEntropy {
            logits,
            targets: after(io.targets, first),
            losses: after(losses, first),
            lse: after(io.lse, first),
            vocabulary: dims.vocabulary as u64,
            faults: cuda.faults.address,
            step,
            softcap: dims.softcap,
            grad_scale: 0.0,
        };
        // SAFETY: as above; one block a row.
        unsafe { cuda.launch("cross_entropy", count, shared::WARP_PARTS, a) }
    })
}

pub(super) fn backward(
    cuda: &mut Cuda,
    io: Operands,
    [dx, dweight]: [Address; 2],
    dims: &CrossEntropyDims,
    grad_scale: f32,
    accumulate: bool,
    step: u32,
) -> Result<(), Error> {
    if dims.dtypes[0] == DType::Bf16 {
        return cross_entropy_bf16::backward(cuda, io, [dx, dweight], dims, grad_scale, accumulate, step);
    }
    let CrossEntropyDims { channels, vocabulary, softcap, .. } = *dims;
    chunks(cuda, io, dims, |cuda, first, count, logits| {
        let a = CrossEntropy {
            logits,
            targets: after(io.targets, first),
            losses: 0,
            lse: after(io.lse, first),
            vocabulary: vocabulary as u64,
            faults: cuda.faults.address,
            step,
            softcap,
            grad_scale,
        };
        let of_x = Product {
            a: logits,
            b: io.weight,
            out: after(dx, first * channels),
            batch: 1,
            dims: [count, channels, vocabulary],
            trans: [false, false],
            alpha: 1.0,
            accumulate: false,
        };
        let of_weight = Product {
            b: after(io.x, first * channels),
            out: dweight,
            dims: [vocabulary, channels, count],
            trans: [true, false],
            accumulate: accumulate || first > 0,
            ..of_x
        };
        // SAFETY: as above; the kernel turns the chunk into its gradient.
        unsafe {
            cuda.launch("cross_entropy_backward", count, shared::WARP_PARTS, a)?;
            matmul(cuda, of_x)?;
            matmul(cuda, of_weight)
        }
    })
}
