//! Cross-entropy of a linear layer, every logit written out.

use super::clamp_index;

/// Operands of both directions: x \[N, channels\], weight \[V, channels\],
/// targets \[N\]; softcap 0 is none.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct CrossEntropy<'a> {
    pub x: &'a [f64],
    pub weight: &'a [f64],
    pub targets: &'a [i32],
    pub channels: usize,
    pub softcap: f64,
}

impl CrossEntropy<'_> {
    /// Capped logits of row n, z = softcap · tanh(x·w / softcap).
    fn logits(&self, n: usize) -> Vec<f64> {
        let x = &self.x[n * self.channels..][..self.channels];
        let logit = |w: &[f64]| {
            let z: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            if self.softcap == 0.0 { z } else { self.softcap * (z / self.softcap).tanh() }
        };
        self.weight.chunks(self.channels).map(logit).collect()
    }
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let highest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    highest + z.iter().map(|z| (z - highest).exp()).sum::<f64>().ln()
}

/// loss_n = lse_n − z_n,target, or 0 where the target is negative: (losses,
/// lse).
pub fn linear_cross_entropy(o: CrossEntropy) -> (Vec<f64>, Vec<f64>) {
    let row = |(n, &target): (usize, &i32)| {
        let z = o.logits(n);
        let lse = log_sum_exp(&z);
        (if target < 0 { 0.0 } else { lse - z[clamp_index(target, z.len())] }, lse)
    };
    o.targets.iter().enumerate().map(row).unzip()
}

/// Gradient of grad_scale · Σ losses. With p = softmax(z),
/// dlogit_v = grad_scale (p_v − \[v = target\]) (1 − (z_v / softcap)²).
/// Returns (dx, dweight).
pub fn linear_cross_entropy_backward(o: CrossEntropy, grad_scale: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut dx, mut dweight) = (vec![0.0; o.x.len()], vec![0.0; o.weight.len()]);
    let c = o.channels;
    for (n, &target) in o.targets.iter().enumerate().filter(|(_, t)| **t >= 0) {
        let z = o.logits(n);
        let lse = log_sum_exp(&z);
        for (v, z_v) in z.iter().enumerate() {
            let onehot = if v == clamp_index(target, z.len()) { 1.0 } else { 0.0 };
            let cap = if o.softcap == 0.0 { 1.0 } else { 1.0 - (z_v / o.softcap).powi(2) };
            let dlogit = grad_scale * ((z_v - lse).exp() - onehot) * cap;
            for i in 0..c {
                dx[n * c + i] += dlogit * o.weight[v * c + i];
                dweight[v * c + i] += dlogit * o.x[n * c + i];
            }
        }
    }
    (dx, dweight)
}
