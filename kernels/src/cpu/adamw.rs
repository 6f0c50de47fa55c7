//! Decoupled AdamW (Loshchilov and Hutter, 2019).
//!
//! m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
//! p ← p − lr · (m/c₁ / (√(v/c₂) + ε) + λp), c = 1 − βᵗ; and p rounded to
//! bfloat16, where that is asked for.

use super::moves::Moved;
use super::rounding::narrow;
use super::simd::{fma, multiversion};
use super::{Output, Split};

const TASK: usize = 16_384;

pub(crate) fn step(
    split: Split,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    hyper: &[f32],
    rounded: Option<&mut [u16]>,
) {
    let len = param.len();
    let hyper: [f32; 7] = std::array::from_fn(|i| hyper[i]);
    let (param, m, v) = (Output::new(param), Output::new(m), Output::new(v));
    let rounded = rounded.map(Moved::new);
    split.each(len.div_ceil(TASK), |task| {
        let start = task * TASK;
        let count = TASK.min(len - start);
        // SAFETY: tasks take disjoint ranges of each output.
        let (p, m, v) = unsafe { (param.range(start, count), m.range(start, count), v.range(start, count)) };
        update(p, &grad[start..start + count], m, v, hyper);
        if let Some(rounded) = rounded {
            // SAFETY: as above.
            narrow(p, unsafe { rounded.range(start, count) });
        }
    });
}

multiversion! {
    fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], hyper: [f32; 7]) = update_body
}

#[inline(always)]
fn update_body<const FMA: bool>(
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    [lr, beta1, beta2, eps, decay, correction1, correction2]: [f32; 7],
) {
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m = fma::<FMA>(beta1, *m, (1.0 - beta1) * g);
        *v = fma::<FMA>(beta2, *v, (1.0 - beta2) * g * g);
        let direction = (*m / correction1) / ((*v / correction2).sqrt() + eps);
        *p -= lr * fma::<FMA>(decay, *p, direction);
    }
}
