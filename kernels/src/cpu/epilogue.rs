//! What a fused matrix product does to a block of its result while the block
//! is in a cache: bias, activation, residual, or the activation's derivative.

use super::math::sigmoid;
use super::product::{Numbers, Results, SharedResults};
use super::rounding::narrow;
use super::simd::{fma, multiversion};
use crate::bf16;
use crate::op::Activation;

/// 2 · √(2/π) and the cubic term of GELU. With t twice what its tanh is of,
/// (1 + tanh(t/2)) / 2 = sigmoid(t), which takes half the operations.
const TWICE: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;
/// Elements that are widened at a time.
const PART: usize = 256;

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
    Stored(SharedResults),
    /// The result is multiplied by the derivative there.
    Read(Numbers<'a>),
}

impl Epilogue<'_> {
    /// Where what it reads or writes beside the result begins, each laid out
    /// as the result is, and the bytes of an element.
    pub fn beside(&self) -> impl Iterator<Item = (*const u8, usize)> {
        let residual = (!self.residual.is_empty()).then_some((self.residual.as_ptr().cast(), 4));
        let pre = match self.pre {
            Pre::Read(Numbers::F32(pre)) => Some((pre.as_ptr().cast(), 4)),
            Pre::Read(Numbers::Bf16(pre)) => Some((pre.as_ptr().cast(), 2)),
            Pre::Stored(SharedResults::F32(pre)) => Some((pre.at(0).cast_const().cast(), 4)),
            Pre::Stored(SharedResults::Bf16(pre)) => Some((pre.at(0).cast_const().cast(), 2)),
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
            Pre::Read(pre) => gradient(row, pre.part(start..start + row.len()), self.activation),
            Pre::Dropped => apply(row, bias, residual, Results::F32(&mut []), self.activation),
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
    fn apply(row: &mut [f32], bias: &[f32], residual: &[f32], pre: Results, act: Activation) = apply_body
}

#[inline(always)]
fn apply_body<const FMA: bool>(
    row: &mut [f32],
    bias: &[f32],
    residual: &[f32],
    pre: Results,
    act: Activation,
) {
    for (z, b) in row.iter_mut().zip(bias) {
        *z += b;
    }
    match pre {
        Results::F32(pre) => {
            for (p, z) in pre.iter_mut().zip(row.iter()) {
                *p = *z;
            }
        }
        Results::Bf16(pre) => narrow(row, pre),
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
    fn gradient(row: &mut [f32], pre: Numbers, act: Activation) = gradient_body
}

#[inline(always)]
fn gradient_body<const FMA: bool>(row: &mut [f32], pre: Numbers, act: Activation) {
    match pre {
        Numbers::F32(pre) => multiply_by_slopes::<FMA>(row, pre, act),
        Numbers::Bf16(bits) => {
            let mut pre = [0.0; PART];
            for (row, bits) in row.chunks_mut(PART).zip(bits.chunks(PART)) {
                bf16::widen(bits, &mut pre[..bits.len()]);
                multiply_by_slopes::<FMA>(row, &pre[..bits.len()], act);
            }
        }
    }
}

#[inline(always)]
fn multiply_by_slopes<const FMA: bool>(row: &mut [f32], pre: &[f32], act: Activation) {
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
