//! Rotary embedding (Su et al., 2021), pairs (i, i + D/2).

use std::sync::Arc;

use super::simd::{fma, multiversion};
use super::{Output, Split};

const TASK: usize = 16_384;
/// Tables kept, and the most floats in one that is kept.
const KEPT: usize = 8;
const KEPT_FLOATS: usize = 1 << 21;

/// Cosines, then sines, of [time, dim / 2] angles.
pub(crate) type Angles = Arc<[f32]>;

/// The last few tables of angles, by (time, dim, base).
#[derive(Default)]
pub(crate) struct Tables {
    kept: Vec<((usize, usize, u32), Angles)>,
}

impl Tables {
    pub fn get(&mut self, time: usize, dim: usize, base: f32) -> Angles {
        let key = (time, dim, base.to_bits());
        if let Some((_, table)) = self.kept.iter().find(|(k, _)| *k == key) {
            return table.clone();
        }
        let table = angles(time, dim, base);
        if table.len() <= KEPT_FLOATS {
            if self.kept.len() == KEPT {
                self.kept.remove(0);
            }
            self.kept.push((key, table.clone()));
        }
        table
    }
}

/// Positions between two that are computed on their own.
const APART: usize = 64;

/// Cosines, then sines, of the angles [time, dim / 2]; in `f64`, then rounded.
///
/// Position 64·i + j has the angle of 64·i and that of j together: one product
/// of complex numbers instead of a sine and a cosine, which would take twenty
/// times as long as the rotation that they are for.
pub(crate) fn angles(time: usize, dim: usize, base: f32) -> Angles {
    let half = dim / 2;
    let frequencies: Vec<f64> =
        (0..half).map(|i| f64::from(base).powf(-2.0 * i as f64 / dim as f64)).collect();
    let turns = |t: usize| frequencies.iter().map(move |f| (t as f64 * f).sin_cos());
    let near: Vec<(f64, f64)> = (0..APART.min(time)).flat_map(turns).collect();
    let mut table = vec![0f32; 2 * time * half];
    let (cosines, sines) = table.split_at_mut(time * half);
    let blocks = cosines.chunks_mut((APART * half).max(1)).zip(sines.chunks_mut((APART * half).max(1)));
    for (block, (cosines, sines)) in blocks.enumerate() {
        let far: Vec<(f64, f64)> = turns(block * APART).collect();
        let lines = cosines.chunks_mut(half).zip(sines.chunks_mut(half)).zip(near.chunks(half));
        for ((cosines, sines), near) in lines {
            let pairs = far.iter().zip(near);
            for ((cos, sin), ((s, c), (t, d))) in cosines.iter_mut().zip(sines).zip(pairs) {
                *cos = (c * d - s * t) as f32;
                *sin = (s * d + c * t) as f32;
            }
        }
    }
    table.into()
}

/// Rotates each pair by its angle, or back; `positions` is batch × time.
#[allow(clippy::too_many_arguments)]
pub(crate) fn rotate(
    split: Split,
    x: &[f32],
    out: &mut [f32],
    angles: &[f32],
    positions: usize,
    time: usize,
    heads: usize,
    dim: usize,
    inverse: bool,
) {
    let width = heads * dim;
    let half = dim / 2;
    let (cosines, sines) = angles.split_at(time * half);
    let group = (TASK / width).max(1);
    let out = Output::new(out);
    split.each(positions.div_ceil(group), |task| {
        for position in task * group..((task + 1) * group).min(positions) {
            let at = position % time * half;
            let (cos, sin) = (&cosines[at..at + half], &sines[at..at + half]);
            let x = &x[position * width..][..width];
            // SAFETY: positions do not overlap, and each belongs to one task.
            let out = unsafe { out.range(position * width, width) };
            rotate_heads(x, out, cos, sin, inverse);
        }
    });
}

multiversion! {
    fn rotate_heads(x: &[f32], out: &mut [f32], cos: &[f32], sin: &[f32], inverse: bool) = rotate_body
}

#[inline(always)]
fn rotate_body<const FMA: bool>(x: &[f32], out: &mut [f32], cos: &[f32], sin: &[f32], inverse: bool) {
    let half = cos.len();
    let sign = if inverse { -1.0 } else { 1.0 };
    for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
        let (x0, x1) = x.split_at(half);
        let (out0, out1) = out.split_at_mut(half);
        let angles = cos.iter().zip(sin);
        let pairs = x0.iter().zip(x1).zip(out0.iter_mut().zip(out1));
        for ((c, s), ((a, b), (o0, o1))) in angles.zip(pairs) {
            let s = sign * s;
            *o0 = fma::<FMA>(*a, *c, -(b * s));
            *o1 = fma::<FMA>(*b, *c, a * s);
        }
    }
}
