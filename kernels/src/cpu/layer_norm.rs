//! Layer normalisation (Ba, Kiros and Hinton, 2016).

use super::product::{Numbers, Results};
use super::reduce::add_rows;
use super::rounding::{narrow, widen};
use super::simd::{ask, dot, fma, multiversion, sum};
use super::{Output, Split, scratch};

/// Elements of a task, at least a row.
const TASK: usize = 16_384;
/// Rows of a task that sums over rows, at least: its sums are two more rows.
const ROWS: usize = 16;

/// Rows ahead of the one at hand, when they are asked for: passes over a row leave
/// the memory idle. (On an Emerald Rapids 0.86 of the time forward and 0.89 backward in
/// `f32`, 0.81 and about 1 in bfloat16.)
const AHEAD: usize = 4;

/// Gain and bias, one of each per column; empty where there is none.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub gain: &'a [f32],
    pub bias: &'a [f32],
}

/// out = (x − mean) · inv_std · gain + bias of each row, in two passes: the
/// variance is of what is left when the mean is taken away.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward(
    split: Split,
    x: &[f32],
    affine: Affine,
    out: Results,
    mean: &mut [f32],
    inv_std: &mut [f32],
    rows: usize,
    cols: usize,
    eps: f32,
) {
    let group = (TASK / cols).max(1);
    let (out, mean, inv) = (out.shared(), Output::new(mean), Output::new(inv_std));
    split.each(rows.div_ceil(group), |task| {
        let first = task * group;
        let count = group.min(rows - first);
        // SAFETY: tasks take disjoint rows.
        let (out, mean, inv) = unsafe {
            (out.range(first * cols, count * cols), mean.range(first, count), inv.range(first, count))
        };
        let x = &x[first * cols..(first + count) * cols];
        scratch::with(cols, |line| forward_rows(x, affine, out, mean, inv, line, eps));
    });
}

multiversion! {
    /// `line` is scratch memory, as long as a row.
    fn forward_rows(
        x: &[f32], affine: Affine, out: Results, mean: &mut [f32], inv: &mut [f32], line: &mut [f32], eps: f32,
    ) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(
    x: &[f32],
    affine: Affine,
    out: Results,
    mean: &mut [f32],
    inv: &mut [f32],
    line: &mut [f32],
    eps: f32,
) {
    let cols = line.len();
    let rows = x.chunks_exact(cols).zip(mean.iter_mut().zip(inv));
    match out {
        Results::F32(out) => {
            for ((x, (mean, inv)), out) in rows.zip(out.chunks_exact_mut(cols)) {
                ask_ahead(out, true);
                (*mean, *inv) = normalised::<FMA>(x, affine, out, eps);
            }
        }
        Results::Bf16(out) => {
            for ((x, (mean, inv)), out) in rows.zip(out.chunks_exact_mut(cols)) {
                ask_ahead(out, true);
                (*mean, *inv) = normalised::<FMA>(x, affine, line, eps);
                narrow(line, out);
            }
        }
    }
}

/// Asks for the row that lies [`AHEAD`] rows after this one.
#[inline(always)]
fn ask_ahead<T>(row: &[T], written: bool) {
    ask(row.as_ptr().wrapping_add(AHEAD * row.len()), row.len(), written);
}

/// A row; its mean and its inv_std.
#[inline(always)]
fn normalised<const FMA: bool>(x: &[f32], affine: Affine, out: &mut [f32], eps: f32) -> (f32, f32) {
    ask_ahead(x, false);
    let mean = sum::<FMA>(x) / x.len() as f32;
    for (o, x) in out.iter_mut().zip(x) {
        *o = x - mean;
    }
    let inv = 1.0 / (dot::<FMA>(out, out) / x.len() as f32 + eps).sqrt();
    for o in &mut *out {
        *o *= inv;
    }
    // Empty: nothing is done.
    for (o, gain) in out.iter_mut().zip(affine.gain) {
        *o *= gain;
    }
    for (o, bias) in out.iter_mut().zip(affine.bias) {
        *o += bias;
    }
    (mean, inv)
}

/// What the gradient needs of the forward pass, and the adjoint.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub x: &'a [f32],
    /// Empty: 1.
    pub gain: &'a [f32],
    pub mean: &'a [f32],
    pub inv_std: &'a [f32],
    pub dout: Numbers<'a>,
}

/// With d = dout · gain, dx (=|+=) inv_std · (d − mean(d) − x̂ · mean(d · x̂)).
/// Where they are asked for, dgain = Σ dout · x̂ and dbias = Σ dout over the
/// rows: of each task's, then over the tasks, in order.
pub(crate) fn backward(
    split: Split,
    of: Inputs,
    dx: &mut [f32],
    [dgain, dbias]: [Option<&mut [f32]>; 2],
    rows: usize,
    cols: usize,
    accumulate: bool,
) {
    let sums = dgain.is_some() || dbias.is_some();
    let group = (TASK / cols).max(if sums { ROWS } else { 1 });
    let tasks = rows.div_ceil(group);
    let each = if sums { 2 * cols } else { 0 };
    let mut partial = vec![0f32; tasks * each];
    let (dx, parts) = (Output::new(dx), Output::new(&mut partial));
    split.each(tasks, |task| {
        let first = task * group;
        let count = group.min(rows - first);
        let part = first * cols..(first + count) * cols;
        // SAFETY: tasks take disjoint rows, and sums of their own.
        let (dx, sums) = unsafe { (dx.range(part.start, part.len()), parts.range(task * each, each)) };
        let of = Inputs {
            x: &of.x[part.clone()],
            gain: of.gain,
            mean: &of.mean[first..first + count],
            inv_std: &of.inv_std[first..first + count],
            dout: of.dout.part(part),
        };
        scratch::with(2 * cols, |lines| backward_rows(of, dx, sums, lines, accumulate));
    });
    if sums {
        let (total, rest) = partial.split_at_mut(each);
        add_rows(total, rest);
        for (to, total) in [dgain, dbias].into_iter().zip(total.chunks_exact(cols)) {
            if let Some(to) = to {
                to.copy_from_slice(total);
            }
        }
    }
}

multiversion! {
    /// `sums` are those of dgain and of dbias, or empty; `lines` is scratch
    /// memory for two rows.
    fn backward_rows(
        of: Inputs, dx: &mut [f32], sums: &mut [f32], lines: &mut [f32], accumulate: bool,
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    of: Inputs,
    dx: &mut [f32],
    sums: &mut [f32],
    lines: &mut [f32],
    accumulate: bool,
) {
    let cols = lines.len() / 2;
    let (slopes, normals) = lines.split_at_mut(cols);
    let (dgain, dbias) = sums.split_at_mut(sums.len() / 2);
    let rows = of.x.chunks_exact(cols).zip(dx.chunks_exact_mut(cols)).zip(of.mean.iter().zip(of.inv_std));
    for (row, ((x, dx), (&mean, &inv))) in rows.enumerate() {
        ask_ahead(x, false);
        ask_ahead(dx, true);
        match of.dout.part(row * cols..(row + 1) * cols) {
            Numbers::F32(dout) => {
                ask_ahead(dout, false);
                slopes.copy_from_slice(dout);
            }
            Numbers::Bf16(bits) => {
                ask_ahead(bits, false);
                widen(bits, slopes);
            }
        }
        for (n, x) in normals.iter_mut().zip(x) {
            *n = (x - mean) * inv;
        }
        for (((dgain, dbias), d), n) in dgain.iter_mut().zip(&mut *dbias).zip(&*slopes).zip(&*normals) {
            *dgain = fma::<FMA>(*d, *n, *dgain);
            *dbias += d;
        }
        for (d, gain) in slopes.iter_mut().zip(of.gain) {
            *d *= gain;
        }
        let along = dot::<FMA>(slopes, normals) / cols as f32;
        let level = sum::<FMA>(slopes) / cols as f32;
        for ((dx, n), d) in dx.iter_mut().zip(&*normals).zip(&*slopes) {
            let gradient = inv * (fma::<FMA>(-n, along, *d) - level);
            *dx = if accumulate { *dx + gradient } else { gradient };
        }
    }
}
