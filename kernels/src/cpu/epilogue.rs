//! What a fused matrix product does to a block of its result while the block
//! is in a cache: bias, activation, residual, or the activation's derivative.

use super::Output;
use super::math::sigmoid;
use super::simd::{fma, multiversion};
use crate::op::Activation;

/// 2 · √(2/π) and the cubic term of GELU. With t twice what its tanh is of,
/// (1 + tanh(t/2)) / 2 = sigmoid(t), which takes half the operations.
const TWICE: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;

/// The end of a fused product. Slices are empty where an operand is absent.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub activation: Activation,
    /// One value per column.
    pub bias: &'a [f32],
    pub residual: &'a [f32],
    pub pre: Pre<'a>,
}

/// What is done with the value before the activation.
#[derive(Clone, Copy)]
pub(crate) enum Pre<'a> {
    Dropped,
    Stored(Output),
    /// The result is multiplied by the derivative there.
    Read(&'a [f32]),
}

impl Epilogue<'_> {
    /// Where what it reads or writes beside the result begins, each laid out
    /// as the result is.
    pub fn beside(&self) -> impl Iterator<Item = *const f32> {
        let residual = (!self.residual.is_empty()).then_some(self.residual.as_ptr());
        let pre = match self.pre {
            Pre::Read(pre) => Some(pre.as_ptr()),
            Pre::Stored(pre) => Some(pre.at(0).cast_const()),
            Pre::Dropped => None,
        };
        residual.into_iter().chain(pre)
    }

    /// Finishes one row of a block: `row` holds the product's elements
    /// `start..` of the output, which begin at column `col`.
    pub fn finish(&self, row: &mut [f32], start: usize, col: usize) {
        let len = row.len();
        let bias = if self.bias.is_empty() { self.bias } else { &self.bias[col..col + len] };
        let residual =
            if self.residual.is_empty() { self.residual } else { &self.residual[start..start + len] };
        match self.pre {
            Pre::Read(pre) => gradient(row, &pre[start..start + row.len()], self.activation),
            Pre::Dropped => apply(row, bias, residual, &mut [], self.activation),
            Pre::Stored(pre) => {
                // SAFETY: blocks do not overlap, and each is one task's.
                let pre = unsafe { pre.range(start, row.len()) };
                apply(row, bias, residual, pre, self.activation);
            }
        }
    }
}

multiversion! {
    /// row = act(row + bias) + residual, with the value before it to `pre`.
    fn apply(row: &mut [f32], bias: &[f32], residual: &[f32], pre: &mut [f32], act: Activation) = apply_body
}

#[inline(always)]
fn apply_body<const FMA: bool>(
    row: &mut [f32],
    bias: &[f32],
    residual: &[f32],
    pre: &mut [f32],
    act: Activation,
) {
    for (z, b) in row.iter_mut().zip(bias) {
        *z += b;
    }
    for (p, z) in pre.iter_mut().zip(row.iter()) {
        *p = *z;
    }
    match act {
        Activation::Identity => {}
        // NaN stays NaN.
        Activation::Relu => row.iter_mut().for_each(|z| *z = if *z <= 0.0 { 0.0 } else { *z }),
        Activation::ReluSquared => row.iter_mut().for_each(|z| {
            let r = if *z <= 0.0 { 0.0 } else { *z };
            *z = r * r;
        }),
        Activation::Gelu => row.iter_mut().for_each(|z| {
            *z *= sigmoid::<FMA>(TWICE * fma::<FMA>(CUBIC * *z * *z, *z, *z));
        }),
        Activation::Silu => row.iter_mut().for_each(|z| *z *= sigmoid::<FMA>(*z)),
    }
    for (z, r) in row.iter_mut().zip(residual) {
        *z += r;
    }
}

multiversion! {
    /// row *= act'(pre).
    fn gradient(row: &mut [f32], pre: &[f32], act: Activation) = gradient_body
}

#[inline(always)]
fn gradient_body<const FMA: bool>(row: &mut [f32], pre: &[f32], act: Activation) {
    let pairs = row.iter_mut().zip(pre);
    match act {
        Activation::Identity => {}
        Activation::Relu => pairs.for_each(|(d, z)| *d = if *z > 0.0 { *d } else { 0.0 }),
        Activation::ReluSquared => pairs.for_each(|(d, z)| *d *= if *z <= 0.0 { 0.0 } else { 2.0 * z }),
        Activation::Gelu => pairs.for_each(|(d, z)| {
            let square = z * z;
            let s = sigmoid::<FMA>(TWICE * fma::<FMA>(CUBIC * square, *z, *z));
            let inner = TWICE * fma::<FMA>(3.0 * CUBIC, square, 1.0);
            *d *= fma::<FMA>(z * s * (1.0 - s), inner, s);
        }),
        Activation::Silu => pairs.for_each(|(d, z)| {
            let s = sigmoid::<FMA>(*z);
            *d *= s * fma::<FMA>(*z, 1.0 - s, 1.0);
        }),
    }
}
