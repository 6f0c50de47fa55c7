//! What each operation means: plain loops in `f64`, to read and to test
//! against. Nothing here is fast, and nothing here runs in a launch.
//!
//! Slices are dense and row-major, as tensors are. These functions are for
//! tests and assume that shapes fit; they panic where a slice is too short.

mod attention;
mod cross_entropy;
mod experts;
mod fused;
mod row_map;

pub use attention::{Attention, attention, attention_backward};
pub use cross_entropy::{CrossEntropy, linear_cross_entropy, linear_cross_entropy_backward};
pub use experts::{grouped_matmul, grouped_matmul_weight, sort_by_key, top_k};
pub use fused::{activation, activation_derivative, rope_norm, rope_norm_backward};
pub use row_map::row_map;

use crate::op::ReduceAxis;

/// out_ij = Σ_l a_il b_lj for each of `batch` products, \[m,k\]·\[k,n\]; `a` is
/// stored \[k,m\] if `trans_a`, `b` \[n,k\] if `trans_b`.
pub fn matmul(a: &[f64], b: &[f64], [batch, m, n, k]: [usize; 4], trans_a: bool, trans_b: bool) -> Vec<f64> {
    let mut out = Vec::with_capacity(batch * m * n);
    for member in 0..batch {
        let (a, b) = (&a[member * m * k..], &b[member * k * n..]);
        for i in 0..m {
            for j in 0..n {
                let term = |l: usize| {
                    let a = if trans_a { a[l * m + i] } else { a[i * k + l] };
                    let b = if trans_b { b[j * k + l] } else { b[l * n + j] };
                    a * b
                };
                out.push((0..k).map(term).sum());
            }
        }
    }
    out
}

/// The last two dimensions exchanged: dst\[c,r\] = src\[r,c\].
pub fn transpose(src: &[f64], batch: usize, rows: usize, cols: usize) -> Vec<f64> {
    let mut dst = Vec::with_capacity(src.len());
    for member in 0..batch {
        for c in 0..cols {
            dst.extend((0..rows).map(|r| src[(member * rows + r) * cols + c]));
        }
    }
    dst
}

/// Σ over rows (a value per column), over columns (per row), or of all.
pub fn reduce(src: &[f64], rows: usize, cols: usize, axis: ReduceAxis) -> Vec<f64> {
    let at = |r: usize, c: usize| src[r * cols + c];
    match axis {
        ReduceAxis::Rows => (0..cols).map(|c| (0..rows).map(|r| at(r, c)).sum()).collect(),
        ReduceAxis::Cols => (0..rows).map(|r| (0..cols).map(|c| at(r, c)).sum()).collect(),
        ReduceAxis::All => vec![src.iter().sum()],
    }
}

/// inv_r = 1/√(mean_c x_rc² + eps), out = x · inv: (out, inv).
pub fn rms_norm(x: &[f64], cols: usize, eps: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut inv) = (Vec::new(), Vec::new());
    for row in x.chunks(cols) {
        let mean_square = row.iter().map(|x| x * x).sum::<f64>() / cols as f64;
        let scale = 1.0 / (mean_square + eps).sqrt();
        inv.push(scale);
        out.extend(row.iter().map(|x| x * scale));
    }
    (out, inv)
}

/// With y = x·s and s = (mean x² + eps)^(−1/2), ∂s/∂x_c = −s³ x_c / cols, so
/// dx_c = s · dy_c − x_c s³ · mean(dy · x).
pub fn rms_norm_backward(x: &[f64], dout: &[f64], cols: usize, eps: f64) -> Vec<f64> {
    let (_, inv) = rms_norm(x, cols, eps);
    let rows = x.chunks(cols).zip(dout.chunks(cols)).zip(inv);
    rows.flat_map(|((x, dy), s)| {
        let mean = x.iter().zip(dy).map(|(x, dy)| x * dy).sum::<f64>() / cols as f64;
        x.iter().zip(dy).map(move |(x, dy)| s * dy - x * s * s * s * mean).collect::<Vec<_>>()
    })
    .collect()
}

/// Layer normalisation: (out, mean, inv_std), with the variance of the whole
/// row (not of a sample).
pub fn layer_norm(x: &[f64], cols: usize, eps: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut out, mut means, mut scales) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.chunks(cols) {
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (variance + eps).sqrt();
        out.extend(row.iter().map(|x| (x - mean) * scale));
        means.push(mean);
        scales.push(scale);
    }
    (out, means, scales)
}

/// dx = s · (dy − mean(dy) − x̂ · mean(dy · x̂)).
pub fn layer_norm_backward(x: &[f64], dout: &[f64], cols: usize, eps: f64) -> Vec<f64> {
    let (normal, _, scales) = layer_norm(x, cols, eps);
    let rows = normal.chunks(cols).zip(dout.chunks(cols)).zip(scales);
    rows.flat_map(|((normal, dy), s)| {
        let level = dy.iter().sum::<f64>() / cols as f64;
        let along = normal.iter().zip(dy).map(|(n, dy)| n * dy).sum::<f64>() / cols as f64;
        normal.iter().zip(dy).map(move |(n, dy)| s * (dy - level - n * along)).collect::<Vec<_>>()
    })
    .collect()
}

/// dgain = Σ dy · x̂ and dbias = Σ dy over the rows.
pub fn layer_norm_weights(x: &[f64], dout: &[f64], cols: usize, eps: f64) -> (Vec<f64>, Vec<f64>) {
    let (normal, _, _) = layer_norm(x, cols, eps);
    let (mut dgain, mut dbias) = (vec![0.0; cols], vec![0.0; cols]);
    for (at, (n, dy)) in normal.iter().zip(dout).enumerate() {
        dgain[at % cols] += n * dy;
        dbias[at % cols] += dy;
    }
    (dgain, dbias)
}

/// Rotates the pair (x_i, x_{i+D/2}) at position t by t · base^(−2i/D); by
/// the negative angle if `inverse`.
pub fn rope(x: &[f64], [batch, time, heads, dim]: [usize; 4], base: f64, inverse: bool) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    let half = dim / 2;
    for position in 0..batch * time {
        for head in 0..heads {
            let start = (position * heads + head) * dim;
            for i in 0..half {
                let angle = (position % time) as f64 * base.powf(-2.0 * i as f64 / dim as f64);
                let (sin, cos) = if inverse { -angle } else { angle }.sin_cos();
                let (a, b) = (x[start + i], x[start + half + i]);
                out[start + i] = a * cos - b * sin;
                out[start + half + i] = b * cos + a * sin;
            }
        }
    }
    out
}

/// The nearest index in 0..bound.
pub fn clamp_index(index: i32, bound: usize) -> usize {
    usize::try_from(index.max(0)).unwrap_or(0).min(bound - 1)
}

/// out\[n,:\] = table\[indices\[n\],:\].
pub fn gather(table: &[f64], indices: &[i32], cols: usize) -> Vec<f64> {
    let entries = table.len() / cols;
    let row = |&i: &i32| table[clamp_index(i, entries) * cols..][..cols].to_vec();
    indices.iter().flat_map(row).collect()
}

/// table\[indices\[n\],:\] += src\[n,:\].
pub fn scatter_add(src: &[f64], indices: &[i32], table: &mut [f64], cols: usize) {
    let entries = table.len() / cols;
    for (row, &index) in src.chunks(cols).zip(indices) {
        let entry = &mut table[clamp_index(index, entries) * cols..][..cols];
        entry.iter_mut().zip(row).for_each(|(t, s)| *t += s);
    }
}

/// One step of decoupled AdamW (Loshchilov and Hutter, 2019, algorithm 2):
/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
/// p ← p − lr (m/c₁ / (√(v/c₂) + ε) + λp). `hyper` as in [`crate::AdamW`].
pub fn adamw(p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], hyper: [f64; 7]) {
    let [lr, beta1, beta2, eps, decay, c1, c2] = hyper;
    for i in 0..p.len() {
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        p[i] -= lr * (m[i] / c1 / ((v[i] / c2).sqrt() + eps) + decay * p[i]);
    }
}
