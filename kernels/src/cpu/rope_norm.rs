//! Rotary embedding and root-mean-square norm of each head, in one pass over
//! columns of a projection.
//!
//! A rotation R keeps lengths, so with y = s·R·x and s = inv_rms the gradient
//! needs only y: dx = s · Rᵀ(dy − y · mean(dy · y)).

use super::product::{Numbers, Results, SharedResults};
use super::rounding::{narrow, widen};
use super::simd::{dot, fma, multiversion};
use super::{Output, Split, scratch};
use crate::step::HeadDims;

/// Elements of a task, at least a position.
const TASK: usize = 16_384;

/// The cosines and sines of position `row`.
fn angles_at<'a>(angles: &'a [f32], dims: &HeadDims, row: usize) -> (&'a [f32], &'a [f32]) {
    let half = dims.dim / 2;
    let (cosines, sines) = angles.split_at(dims.time * half);
    let at = row % dims.time * half;
    (&cosines[at..at + half], &sines[at..at + half])
}

pub(crate) fn forward(
    split: Split,
    x: Numbers,
    out: Results,
    inv_rms: &mut [f32],
    angles: &[f32],
    dims: &HeadDims,
    eps: f32,
) {
    let width = dims.heads * dims.dim;
    let group = (TASK / width).max(1);
    let (out, inv_rms) = (out.shared(), Output::new(inv_rms));
    split.each(dims.positions.div_ceil(group), |task| {
        scratch::with(2 * width, |lines| {
            let (x_line, line) = lines.split_at_mut(width);
            for row in task * group..((task + 1) * group).min(dims.positions) {
                let (cos, sin) = angles_at(angles, dims, row);
                let start = row * dims.cols + dims.col;
                let x = x.part(start..start + width).widened(x_line);
                // SAFETY: positions do not overlap, and each belongs to one
                // task.
                let inv = unsafe { inv_rms.range(row * dims.heads, dims.heads) };
                match out {
                    SharedResults::F32(out) => {
                        // SAFETY: as above.
                        let out = unsafe { out.range(row * width, width) };
                        forward_heads(x, out, inv, cos, sin, eps);
                    }
                    SharedResults::Bf16(out) => {
                        forward_heads(x, line, inv, cos, sin, eps);
                        // SAFETY: as above.
                        let out = unsafe { out.range(row * width, width) };
                        narrow(line, out);
                    }
                }
            }
        });
    });
}

multiversion! {
    fn forward_heads(x: &[f32], out: &mut [f32], inv: &mut [f32], cos: &[f32], sin: &[f32], eps: f32) =
        forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(
    x: &[f32],
    out: &mut [f32],
    inv: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    eps: f32,
) {
    let half = cos.len();
    let dim = 2 * half;
    for ((x, out), inv) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).zip(inv) {
        *inv = 1.0 / (dot::<FMA>(x, x) / dim as f32 + eps).sqrt();
        let (x0, x1) = x.split_at(half);
        let (out0, out1) = out.split_at_mut(half);
        let pairs = x0.iter().zip(x1).zip(out0.iter_mut().zip(out1));
        for ((c, s), ((a, b), (o0, o1))) in cos.iter().zip(sin).zip(pairs) {
            *o0 = *inv * fma::<FMA>(*a, *c, -(b * s));
            *o1 = *inv * fma::<FMA>(*b, *c, a * s);
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    split: Split,
    out: Numbers,
    inv_rms: &[f32],
    dout: Numbers,
    dx: Results,
    angles: &[f32],
    dims: &HeadDims,
    accumulate: bool,
) {
    let width = dims.heads * dims.dim;
    let group = (TASK / width).max(1);
    let dx = dx.shared();
    split.each(dims.positions.div_ceil(group), |task| {
        scratch::with(3 * width, |lines| {
            let (y_line, lines) = lines.split_at_mut(width);
            let (dy_line, dx_line) = lines.split_at_mut(width);
            for row in task * group..((task + 1) * group).min(dims.positions) {
                let (cos, sin) = angles_at(angles, dims, row);
                let part = row * width..(row + 1) * width;
                let y = out.part(part.clone()).widened(y_line);
                let dy = dout.part(part).widened(dy_line);
                let inv = &inv_rms[row * dims.heads..][..dims.heads];
                // SAFETY: rows do not overlap, and each belongs to one task.
                match unsafe { dx.range(row * dims.cols + dims.col, width) } {
                    Results::F32(dx) => backward_heads(y, dy, dx, inv, cos, sin, accumulate),
                    Results::Bf16(dx) => {
                        if accumulate {
                            widen(dx, dx_line);
                        }
                        backward_heads(y, dy, dx_line, inv, cos, sin, accumulate);
                        narrow(dx_line, dx);
                    }
                }
            }
        });
    });
}

multiversion! {
    fn backward_heads(
        y: &[f32], dy: &[f32], dx: &mut [f32], inv: &[f32], cos: &[f32], sin: &[f32], accumulate: bool,
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    y: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    inv: &[f32],
    cos: &[f32],
    sin: &[f32],
    accumulate: bool,
) {
    let half = cos.len();
    let dim = 2 * half;
    let heads = y.chunks_exact(dim).zip(dy.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim));
    for (((y, dy), dx), &inv) in heads.zip(inv) {
        let along = dot::<FMA>(dy, y) / dim as f32;
        let (y0, y1) = y.split_at(half);
        let (dy0, dy1) = dy.split_at(half);
        let (dx0, dx1) = dx.split_at_mut(half);
        let inputs = y0.iter().zip(y1).zip(dy0.iter().zip(dy1));
        let outputs = dx0.iter_mut().zip(dx1);
        for (((c, s), ((y0, y1), (dy0, dy1))), (dx0, dx1)) in cos.iter().zip(sin).zip(inputs).zip(outputs) {
            let a = inv * fma::<FMA>(-along, *y0, *dy0);
            let b = inv * fma::<FMA>(-along, *y1, *dy1);
            let (g0, g1) = (fma::<FMA>(a, *c, b * s), fma::<FMA>(b, *c, -(a * s)));
            if accumulate {
                *dx0 += g0;
                *dx1 += g1;
            } else {
                *dx0 = g0;
                *dx1 = g1;
            }
        }
    }
}
