//! Root-mean-square normalisation (Zhang and Sennrich, 2019), without gain.

use super::product::{Numbers, Results};
use super::rounding::{narrow, widen};
use super::simd::{dot, fma, multiversion};
use super::{Output, Split, scratch};

/// Elements of a task, at least a row.
const TASK: usize = 16_384;

/// inv_rms = 1/√(mean x² + eps) of each row; out = x · inv_rms.
pub(crate) fn forward(
    split: Split,
    x: &[f32],
    out: Results,
    inv_rms: &mut [f32],
    rows: usize,
    cols: usize,
    eps: f32,
) {
    let group = (TASK / cols).max(1);
    let (out, inv_rms) = (out.shared(), Output::new(inv_rms));
    split.each(rows.div_ceil(group), |task| {
        let first = task * group;
        let count = group.min(rows - first);
        // SAFETY: tasks take disjoint rows.
        let (out, inv) = unsafe { (out.range(first * cols, count * cols), inv_rms.range(first, count)) };
        let x = &x[first * cols..(first + count) * cols];
        scratch::with(cols, |line| forward_rows(x, out, inv, line, eps));
    });
}

multiversion! {
    /// `line` is scratch memory, as long as a row.
    fn forward_rows(x: &[f32], out: Results, inv: &mut [f32], line: &mut [f32], eps: f32) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(x: &[f32], out: Results, inv: &mut [f32], line: &mut [f32], eps: f32) {
    let cols = line.len();
    let rows = x.chunks_exact(cols).zip(inv);
    match out {
        Results::F32(out) => {
            for ((x, inv), out) in rows.zip(out.chunks_exact_mut(cols)) {
                *inv = normalised::<FMA>(x, out, eps);
            }
        }
        Results::Bf16(out) => {
            for ((x, inv), out) in rows.zip(out.chunks_exact_mut(cols)) {
                *inv = normalised::<FMA>(x, line, eps);
                narrow(line, out);
            }
        }
    }
}

/// A row; its inv_rms.
#[inline(always)]
fn normalised<const FMA: bool>(x: &[f32], out: &mut [f32], eps: f32) -> f32 {
    let inv = 1.0 / (dot::<FMA>(x, x) / x.len() as f32 + eps).sqrt();
    for (o, x) in out.iter_mut().zip(x) {
        *o = x * inv;
    }
    inv
}

/// dx (=|+=) inv_rms · (dout − x · inv_rms² · mean(dout · x)).
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    split: Split,
    x: &[f32],
    inv_rms: &[f32],
    dout: Numbers,
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
        let (x, inv, dout) = (&x[part.clone()], &inv_rms[first..first + count], dout.part(part));
        scratch::with(cols, |line| backward_rows(x, inv, dout, dx, line, accumulate));
    });
}

multiversion! {
    /// `line` is scratch memory, as long as a row.
    fn backward_rows(
        x: &[f32], inv: &[f32], dout: Numbers, dx: &mut [f32], line: &mut [f32], accumulate: bool,
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    x: &[f32],
    inv: &[f32],
    dout: Numbers,
    dx: &mut [f32],
    line: &mut [f32],
    accumulate: bool,
) {
    let cols = line.len();
    let rows = x.chunks_exact(cols).zip(dx.chunks_exact_mut(cols)).zip(inv);
    for (row, ((x, dx), &inv)) in rows.enumerate() {
        let dout = match dout {
            Numbers::F32(dout) => &dout[row * cols..][..cols],
            Numbers::Bf16(bits) => {
                widen(&bits[row * cols..][..cols], line);
                &*line
            }
        };
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
            let mut line = vec![0.0; 35];
            let dout = Numbers::F32(&dout);
            if fused {
                forward_rows(&x, Results::F32(&mut out), &mut inv, &mut line, 1e-5);
                backward_rows(&x, &inv, dout, &mut dx, &mut line, true);
            } else {
                forward_body::<false>(&x, Results::F32(&mut out), &mut inv, &mut line, 1e-5);
                backward_body::<false>(&x, &inv, dout, &mut dx, &mut line, true);
            }
            [out, dx, inv].concat()
        };
        for (a, b) in run(true).iter().zip(run(false)) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }
}
