//! Layer normalisation (Ba, Kiros and Hinton, 2016), without gain.

use super::simd::{dot, dot_shifted, fma, multiversion, sum};
use super::{Output, Split};

/// Elements of a task, at least a row.
const TASK: usize = 16_384;

/// out = (x − mean) · inv_std of each row, in two passes: the variance is of
/// what is left when the mean is taken away.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward(
    split: Split,
    x: &[f32],
    out: &mut [f32],
    mean: &mut [f32],
    inv_std: &mut [f32],
    rows: usize,
    cols: usize,
    eps: f32,
) {
    let group = (TASK / cols).max(1);
    let (out, mean, inv) = (Output::new(out), Output::new(mean), Output::new(inv_std));
    split.each(rows.div_ceil(group), |task| {
        let first = task * group;
        let count = group.min(rows - first);
        // SAFETY: tasks take disjoint rows.
        let (out, mean, inv) = unsafe {
            (out.range(first * cols, count * cols), mean.range(first, count), inv.range(first, count))
        };
        forward_rows(&x[first * cols..(first + count) * cols], out, mean, inv, cols, eps);
    });
}

multiversion! {
    fn forward_rows(
        x: &[f32], out: &mut [f32], mean: &mut [f32], inv: &mut [f32], cols: usize, eps: f32,
    ) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(
    x: &[f32],
    out: &mut [f32],
    mean: &mut [f32],
    inv: &mut [f32],
    cols: usize,
    eps: f32,
) {
    let rows = x.chunks_exact(cols).zip(out.chunks_exact_mut(cols));
    for (((x, out), mean), inv) in rows.zip(mean).zip(inv) {
        *mean = sum(x) / cols as f32;
        for (o, x) in out.iter_mut().zip(x) {
            *o = x - *mean;
        }
        *inv = 1.0 / (dot::<FMA>(out, out) / cols as f32 + eps).sqrt();
        for o in out {
            *o *= *inv;
        }
    }
}

/// dx (=|+=) inv_std · (dout − mean(dout) − x̂ · mean(dout · x̂)).
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    split: Split,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dout: &[f32],
    dx: &mut [f32],
    rows: usize,
    cols: usize,
    accumulate: bool,
) {
    let group = (TASK / cols).max(1);
    let dx = Output::new(dx);
    split.each(rows.div_ceil(group), |task| {
        let first = task * group;
        let count = group.min(rows - first);
        let part = first * cols..(first + count) * cols;
        // SAFETY: tasks take disjoint rows.
        let dx = unsafe { dx.range(part.start, part.len()) };
        let (mean, inv) = (&mean[first..first + count], &inv_std[first..first + count]);
        backward_rows(&x[part.clone()], mean, inv, &dout[part], dx, cols, accumulate);
    });
}

multiversion! {
    fn backward_rows(
        x: &[f32], mean: &[f32], inv: &[f32], dout: &[f32], dx: &mut [f32], cols: usize, accumulate: bool,
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    x: &[f32],
    mean: &[f32],
    inv: &[f32],
    dout: &[f32],
    dx: &mut [f32],
    cols: usize,
    accumulate: bool,
) {
    let rows = x.chunks_exact(cols).zip(dout.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
    for (((x, dout), dx), (&mean, &inv)) in rows.zip(mean.iter().zip(inv)) {
        let along = inv * dot_shifted::<FMA>(dout, x, mean) / cols as f32;
        let level = sum(dout) / cols as f32;
        for ((dx, x), dout) in dx.iter_mut().zip(x).zip(dout) {
            let normal = (x - mean) * inv;
            let gradient = inv * (fma::<FMA>(-normal, along, *dout) - level);
            *dx = if accumulate { *dx + gradient } else { gradient };
        }
    }
}
