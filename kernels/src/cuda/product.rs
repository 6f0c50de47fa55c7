//! Launches of matrix products over operands of either floating-point type,
//! with an end of their own. Two bfloat16 operands are multiplied on tensor
//! cores; beside an f32 operand a bfloat16 one is widened into scratch memory
//! first. A bfloat16 result is rounded once, at the end.

use super::arguments::{End, Epilogue};
use super::driver::Address;
use super::launch::{Product, copy, each, matmul};
use super::{Cuda, tensor_core};
use crate::Error;
use crate::op::{Activation, DType};
use crate::step::MatMulDims;

/// The end of a fused product; addresses of bias, residual and pre, 0 where
/// absent.
pub(super) fn epilogue(
    dims: &MatMulDims,
    [bias, residual, pre]: [Address; 3],
    [residual_dtype, pre_dtype]: [DType; 2],
    activation: Activation,
    backward: bool,
) -> Epilogue {
    let activation = match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::ReluSquared => 2,
        Activation::Gelu => 3,
        Activation::Silu => 4,
    };
    let count = (dims.batch * dims.m * dims.n) as u64;
    let (cols, backward) = (dims.n as u64, u32::from(backward));
    let [half_residual, half_pre] = [residual_dtype, pre_dtype].map(|dtype| u32::from(dtype == DType::Bf16));
    Epilogue { out: 0, bias, residual, pre, count, cols, half_residual, half_pre, activation, backward }
}

/// out (=|+=) alpha · op(a) · op(b), finished by `end`.
///
/// # Safety
/// The addresses of a, b and out are live and hold the matrices, those of the
/// end what it says; what is written overlaps nothing else.
pub(super) unsafe fn run(
    cuda: &mut Cuda,
    addresses: [Address; 3],
    dims: &MatMulDims,
    accumulate: bool,
    end: Option<Epilogue>,
) -> Result<(), Error> {
    let MatMulDims { batch, m, n, k, trans_a, trans_b, alpha, dtypes } = *dims;
    let counts = [batch * m * k, batch * k * n, batch * m * n];
    let half = dtypes.map(|dtype| dtype == DType::Bf16);
    if half[0] && half[1] && k > 0 {
        let mut whole = End { alpha, ..End::plain(addresses[2], n, half[2], accumulate) };
        if let Some(end) = end {
            let Epilogue { bias, residual, pre, half_residual, half_pre, activation, backward, .. } = end;
            whole = End { bias, residual, pre, half_residual, half_pre, activation, backward, ..whole };
        }
        // SAFETY: the caller's promise.
        return unsafe { tensor_core::run(cuda, [addresses[0], addresses[1]], dims, whole) };
    }
    // Widened a, b and out, one after the other, in one buffer.
    let mut wide = addresses;
    let sizes = [0, 1, 2].map(|i| if half[i] { (counts[i] * 4).next_multiple_of(16) } else { 0 });
    if half.contains(&true) {
        let mut next = cuda.scratch(sizes.iter().sum())?;
        for i in 0..3 {
            if half[i] {
                wide[i] = next;
                next += sizes[i] as Address;
            }
            if half[i] && (i < 2 || accumulate) {
                // SAFETY: the caller's promise; the scratch holds the operand.
                unsafe { copy(cuda, addresses[i], wide[i], counts[i], DType::Bf16, DType::F32)? };
            }
        }
    }
    let [a, b, out] = wide;
    let product = Product { a, b, out, batch, dims: [m, n, k], trans: [trans_a, trans_b], alpha, accumulate };
    // SAFETY: the caller's promise; the scratch holds what was widened.
    unsafe { matmul(cuda, product)? };
    if let Some(end) = end {
        // SAFETY: as above.
        unsafe { cuda.launch("epilogue", each(counts[2]), 0, Epilogue { out, ..end })? };
    }
    if half[2] {
        // SAFETY: as above.
        unsafe { copy(cuda, out, addresses[2], counts[2], DType::F32, DType::Bf16)? };
    }
    Ok(())
}
