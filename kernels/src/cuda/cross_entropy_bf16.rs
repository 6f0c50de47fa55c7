//! Launches of linear + cross-entropy over bfloat16, on tensor cores. Forward,
//! the product's tiles leave two numbers a row; backward, they leave the
//! gradient of the logits of a chunk of rows, which two more products use. The
//! logits themselves are never in memory.

use super::arguments::{End, Loss, LossTotal};
use super::cross_entropy::{Operands, after};
use super::driver::Address;
use super::launch::copy;
use super::{Cuda, WARPS, tensor_core};
use crate::Error;
use crate::op::DType;
use crate::step::{CrossEntropyDims, MatMulDims};

/// Most gradients of logits held at a time (128 MiB), except that a row is held
/// whole.
const CHUNK: usize = 1 << 26;
/// Most rows of a chunk: enough of them to fill a card.
const CHUNK_ROWS: usize = 8192;
/// Columns that leave one part of a row, forward.
const PART: usize = 32;

/// Rows of a chunk.
fn height(dims: &CrossEntropyDims) -> usize {
    (CHUNK / dims.vocabulary).clamp(1, CHUNK_ROWS).min(dims.rows)
}

/// The `n`th element of 2 bytes after `address`.
fn half_after(address: Address, n: usize) -> Address {
    address + n as Address * 2
}

/// Calls `task(first row, rows)` for each chunk, in order.
fn chunks(
    dims: &CrossEntropyDims,
    mut task: impl FnMut(usize, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let height = height(dims);
    (0..dims.rows).step_by(height).try_for_each(|first| task(first, height.min(dims.rows - first)))
}

fn loss(cuda: &Cuda, io: Operands, dims: &CrossEntropyDims, first: usize, step: u32) -> Loss {
    Loss {
        targets: after(io.targets, first),
        lse: after(io.lse, first),
        partial: 0,
        picked: 0,
        gradient: 0,
        faults: cuda.faults.address,
        step,
        softcap: dims.softcap,
        grad_scale: 0.0,
    }
}

pub(super) fn forward(
    cuda: &mut Cuda,
    io: Operands,
    losses: Address,
    dims: &CrossEntropyDims,
    step: u32,
) -> Result<(), Error> {
    let CrossEntropyDims { channels, vocabulary, .. } = *dims;
    let parts = height(dims) * vocabulary.div_ceil(PART) * 2;
    let partial = cuda.scratch((parts + height(dims)) * 4)?;
    chunks(dims, |first, count| {
        let x = half_after(io.x, first * channels);
        let loss = Loss { partial, picked: after(partial, parts), ..loss(cuda, io, dims, first, step) };
        let total = LossTotal {
            loss,
            losses: after(losses, first),
            lse: after(io.lse, first),
            rows: count as u64,
            vocabulary: vocabulary as u64,
        };
        // SAFETY: rows of a validated step; the scratch holds the parts of a
        // chunk and a value per row of it.
        unsafe {
            tensor_core::loss(cuda, [x, io.weight], [count, vocabulary, channels], loss, false)?;
            cuda.launch("linear_cross_entropy_total", count.div_ceil(WARPS as usize), 0, total)
        }
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
    let CrossEntropyDims { rows, channels, vocabulary, .. } = *dims;
    let height = height(dims);
    let half = dims.dtypes[1] == DType::Bf16;
    let product = |m: usize, n: usize, k: usize, trans_a: bool, out: DType| MatMulDims {
        batch: 1,
        m,
        n,
        k,
        trans_a,
        trans_b: false,
        alpha: 1.0,
        dtypes: [DType::Bf16, DType::Bf16, out],
    };
    // The products of a chunk of `count` rows, for dx and for dweight.
    let of_x = |count: usize| product(count, channels, vocabulary, false, DType::Bf16);
    let of_weight = |count: usize| product(vocabulary, channels, count, true, DType::F32);
    // Where several chunks are added to a bfloat16 dweight, it is rounded once.
    let widened = half && rows > height;
    let weights = vocabulary * channels;
    let lengths = [height * vocabulary * 2, if widened { weights * 4 } else { 0 }];
    let [gradients, sums] = lengths.map(|bytes| bytes.next_multiple_of(256));
    let counts = [height, rows % height].into_iter().filter(|count| *count > 0);
    let partial = counts
        .flat_map(|count| {
            // The scratch memory is aligned as address 0 is.
            let of_x = tensor_core::partial_bytes(cuda, [0, io.weight], &of_x(count));
            [of_x, tensor_core::partial_bytes(cuda, [0, io.x], &of_weight(count))]
        })
        .max();
    let gradient = cuda.scratch(gradients + sums + partial.unwrap_or(0))?;
    let wide = gradient + gradients as Address;
    let partial = wide + sums as Address;
    if widened && accumulate {
        // SAFETY: an operand of a validated step; the scratch holds it.
        unsafe { copy(cuda, dweight, wide, weights, DType::Bf16, DType::F32)? };
    }
    chunks(dims, |first, count| {
        let (x, dx) = (half_after(io.x, first * channels), half_after(dx, first * channels));
        let loss = Loss { gradient, grad_scale, ..loss(cuda, io, dims, first, step) };
        let (to, of_half) = if widened { (wide, false) } else { (dweight, half) };
        let end = End::plain(to, channels, of_half, accumulate || first > 0);
        // SAFETY: rows of a validated step; the scratch holds the gradients of
        // a chunk, and the parts of either product.
        unsafe {
            tensor_core::loss(cuda, [x, io.weight], [count, vocabulary, channels], loss, true)?;
            let of_x_end = End::plain(dx, channels, true, false);
            tensor_core::run_with(cuda, [gradient, io.weight], &of_x(count), of_x_end, partial)?;
            tensor_core::run_with(cuda, [gradient, x], &of_weight(count), end, partial)
        }
    })?;
    if widened {
        // SAFETY: as above.
        unsafe { copy(cuda, wide, dweight, weights, DType::F32, DType::Bf16)? };
    }
    Ok(())
}
