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
    x: Numbers,
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
        let x = x.part(first * cols..(first + count) * cols);
        scratch::with(2 * cols, |lines| {
            let (wide, line) = lines.split_at_mut(cols);
            forward_rows(x, out, inv, [wide, line], eps);
        });
    });
}

multiversion! {
    /// The lines are scratch memory, as long as a row.
    fn forward_rows(x: Numbers, out: Results, inv: &mut [f32], lines: [&mut [f32]; 2], eps: f32) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(
    x: Numbers,
    out: Results,
    inv: &mut [f32],
    [wide, line]: [&mut [f32]; 2],
    eps: f32,
) {
    let cols = line.len();
    let row = |row: usize| x.part(row * cols..(row + 1) * cols);
    match out {
        Results::F32(out) => {
            for (i, (inv, out)) in inv.iter_mut().zip(out.chunks_exact_mut(cols)).enumerate() {
                *inv = normalised::<FMA>(row(i).widened(wide), out, eps);
            }
        }
        Results::Bf16(out) => {
            for (i, (inv, out)) in inv.iter_mut().zip(out.chunks_exact_mut(cols)).enumerate() {
                *inv = normalised::<FMA>(row(i).widened(wide), line, eps);
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
    x: Numbers,
    inv_rms: &[f32],
    dout: Numbers,
    dx: Results,
    rows: usize,
    cols: usize,
    accumulate: bool,
) {
    let group = (TASK / cols).max(1);
    let dx = dx.shared();
    split.each(rows.div_ceil(group), |task| {
        let first = task * group;
        let count = group.min(rows - first);
        let part = first * cols..(first + count) * cols;
        // SAFETY: tasks take disjoint rows.
        let dx = unsafe { dx.range(part.start, part.len()) };
        let (x, inv, dout) = (x.part(part.clone()), &inv_rms[first..first + count], dout.part(part));
        scratch::with(3 * cols, |lines| {
            let (wide, lines) = lines.split_at_mut(cols);
            let (wide_dout, line) = lines.split_at_mut(cols);
            backward_rows([x, dout], inv, dx, [wide, wide_dout, line], accumulate);
        });
    });
}

multiversion! {
    /// Of x and dout; the lines are scratch memory, as long as a row.
    fn backward_rows(
        of: [Numbers; 2], inv: &[f32], dx: Results, lines: [&mut [f32]; 3], accumulate: bool,
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    of: [Numbers; 2],
    inv: &[f32],
    dx: Results,
    [wide, wide_dout, line]: [&mut [f32]; 3],
    accumulate: bool,
) {
    let cols = line.len();
    let row = |row: usize| of.map(|of| of.part(row * cols..(row + 1) * cols));
    match dx {
        Results::F32(dx) => {
            for (i, (dx, &inv)) in dx.chunks_exact_mut(cols).zip(inv).enumerate() {
                let [x, dout] = row(i);
                gradient::<FMA>(x.widened(wide), dout.widened(wide_dout), inv, dx, accumulate);
            }
        }
        Results::Bf16(dx) => {
            for (i, (dx, &inv)) in dx.chunks_exact_mut(cols).zip(inv).enumerate() {
                let [x, dout] = row(i);
                if accumulate {
                    widen(dx, line);
                }
                gradient::<FMA>(x.widened(wide), dout.widened(wide_dout), inv, line, accumulate);
                narrow(line, dx);
            }
        }
    }
}

/// Of a row.
#[inline(always)]
fn gradient<const FMA: bool>(x: &[f32], dout: &[f32], inv: f32, dx: &mut [f32], accumulate: bool) {
    let along = -(inv * inv * inv) * (dot::<FMA>(dout, x) / x.len() as f32);
    for ((dx, x), dout) in dx.iter_mut().zip(x).zip(dout) {
        let gradient = fma::<FMA>(*x, along, inv * dout);
        *dx = if accumulate { *dx + gradient } else { gradient };
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
            let mut lines = [(); 3].map(|()| vec![0.0; 35]);
            let [a, b, c] = lines.each_mut().map(|line| &mut line[..]);
            let (x, dout) = (Numbers::F32(&x), Numbers::F32(&dout));
            if fused {
                forward_rows(x, Results::F32(&mut out), &mut inv, [a, b], 1e-5);
                backward_rows([x, dout], &inv, Results::F32(&mut dx), [a, b, c], true);
            } else {
                forward_body::<false>(x, Results::F32(&mut out), &mut inv, [a, b], 1e-5);
                backward_body::<false>([x, dout], &inv, Results::F32(&mut dx), [a, b, c], true);
            }
            [out, dx, inv].concat()
        };
        for (a, b) in run(true).iter().zip(run(false)) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }
}
