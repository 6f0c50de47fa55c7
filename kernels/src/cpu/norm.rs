//! Root-mean-square normalisation (Zhang and Sennrich, 2019), without gain.

use super::simd::{dot, fma, multiversion};
use super::{Output, Split};

/// Elements of a task, at least a row.
const TASK: usize = 16_384;

/// inv_rms = 1/√(mean x² + eps) of each row; out = x · inv_rms.
pub(crate) fn forward(
    split: Split,
    x: &[f32],
    out: &mut [f32],
    inv_rms: &mut [f32],
    rows: usize,
    cols: usize,
    eps: f32,
) {
    let group = (TASK / cols).max(1);
    let (out, inv_rms) = (Output::new(out), Output::new(inv_rms));
    split.each(rows.div_ceil(group), |task| {
        let first = task * group;
        let count = group.min(rows - first);
        // SAFETY: tasks take disjoint rows.
        let (out, inv) = unsafe { (out.range(first * cols, count * cols), inv_rms.range(first, count)) };
        forward_rows(&x[first * cols..(first + count) * cols], out, inv, cols, eps);
    });
}

multiversion! {
    fn forward_rows(x: &[f32], out: &mut [f32], inv: &mut [f32], cols: usize, eps: f32) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(x: &[f32], out: &mut [f32], inv: &mut [f32], cols: usize, eps: f32) {
    let rows = x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)).zip(inv);
    for ((x, out), inv) in rows {
        *inv = 1.0 / (dot::<FMA>(x, x) / cols as f32 + eps).sqrt();
        for (o, x) in out.iter_mut().zip(x) {
            *o = x * *inv;
        }
    }
}

/// dx (=|+=) inv_rms · (dout − x · inv_rms² · mean(dout · x)).
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    split: Split,
    x: &[f32],
    inv_rms: &[f32],
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
        let inv = &inv_rms[first..first + count];
        backward_rows(&x[part.clone()], inv, &dout[part], dx, cols, accumulate);
    });
}

multiversion! {
    fn backward_rows(
        x: &[f32], inv: &[f32], dout: &[f32], dx: &mut [f32], cols: usize, accumulate: bool,
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    x: &[f32],
    inv: &[f32],
    dout: &[f32],
    dx: &mut [f32],
    cols: usize,
    accumulate: bool,
) {
    let rows = x.chunks_exact(cols).zip(dout.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
    for (((x, dout), dx), &inv) in rows.zip(inv) {
        let along = -(inv * inv * inv) * (dot::<FMA>(dout, x) / cols as f32);
        for ((dx, x), dout) in dx.iter_mut().zip(x).zip(dout) {
            let gradient = fma::<FMA>(*x, along, inv * dout);
            *dx = if accumulate { *dx + gradient } else { gradient };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine's level is tested through the device; this holds the
    /// portable bodies to it.
    #[test]
    fn both_levels_agree() {
        let x: Vec<f32> = (0..210).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let dout: Vec<f32> = x.iter().rev().copied().collect();
        let run = |fused: bool| {
            let (mut out, mut dx, mut inv) = (vec![0.0; 210], vec![1.0; 210], vec![0.0; 6]);
            if fused {
                forward_rows(&x, &mut out, &mut inv, 35, 1e-5);
                backward_rows(&x, &inv, &dout, &mut dx, 35, true);
            } else {
                forward_body::<false>(&x, &mut out, &mut inv, 35, 1e-5);
                backward_body::<false>(&x, &inv, &dout, &mut dx, 35, true);
            }
            [out, dx, inv].concat()
        };
        for (a, b) in run(true).iter().zip(run(false)) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }
}
