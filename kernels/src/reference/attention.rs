//! Causal attention, every score written out.

/// Dimensions, as in [`crate::Attention`]: window 0 sees everything before.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Attention {
    pub batch: usize,
    pub time: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub window: usize,
    pub scale: f64,
}

impl Attention {
    fn first(&self, t: usize) -> usize {
        if self.window == 0 { 0 } else { (t + 1).saturating_sub(self.window) }
    }
    fn query(&self, b: usize, t: usize, h: usize) -> usize {
        ((b * self.time + t) * self.heads + h) * self.dim
    }
    fn key(&self, b: usize, t: usize, h: usize) -> usize {
        let kv = h / (self.heads / self.kv_heads);
        ((b * self.time + t) * self.kv_heads + kv) * self.dim
    }
    /// All (b, h, t).
    fn queries(self) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..self.batch)
            .flat_map(move |b| (0..self.heads).flat_map(move |h| (0..self.time).map(move |t| (b, h, t))))
    }
    /// Log-sum-exp and probabilities of the positions that t sees.
    fn row(&self, q: &[f64], k: &[f64], b: usize, h: usize, t: usize) -> (f64, Vec<f64>) {
        let query = &q[self.query(b, t, h)..][..self.dim];
        let scores: Vec<f64> = (self.first(t)..=t)
            .map(|s| self.scale * dot(query, &k[self.key(b, s, h)..][..self.dim]))
            .collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = highest + scores.iter().map(|s| (s - highest).exp()).sum::<f64>().ln();
        (lse, scores.iter().map(|s| (s - lse).exp()).collect())
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
}

/// out_t = Σ_s softmax_s(scale · q_t·k_s) v_s over the window: (out, lse),
/// lse \[B,H,T\].
pub fn attention(q: &[f64], k: &[f64], v: &[f64], dims: Attention) -> (Vec<f64>, Vec<f64>) {
    let mut out = vec![0.0; q.len()];
    let mut lses = Vec::new();
    for (b, h, t) in dims.queries() {
        let (lse, p) = dims.row(q, k, b, h, t);
        lses.push(lse);
        let out = &mut out[dims.query(b, t, h)..][..dims.dim];
        for (s, p) in (dims.first(t)..).zip(p) {
            add(out, p, &v[dims.key(b, s, h)..][..dims.dim]);
        }
    }
    (out, lses)
}

/// The chain rule through [`attention`]: with g_s = dout·v_s,
/// dscore_s = p_s (g_s − Σ_r p_r g_r). Returns (dq, dk, dv).
pub fn attention_backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    dout: &[f64],
    dims: Attention,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let dim = dims.dim;
    for (b, h, t) in dims.queries() {
        let (_, p) = dims.row(q, k, b, h, t);
        let at = dims.query(b, t, h);
        let dout = &dout[at..][..dim];
        let keys: Vec<usize> = (dims.first(t)..=t).map(|s| dims.key(b, s, h)).collect();
        let g: Vec<f64> = keys.iter().map(|&s| dot(dout, &v[s..][..dim])).collect();
        let mean = dot(&p, &g);
        for ((&s, p), g) in keys.iter().zip(&p).zip(&g) {
            let dscore = p * (g - mean) * dims.scale;
            add(&mut dv[s..][..dim], *p, dout);
            add(&mut dq[at..][..dim], dscore, &k[s..][..dim]);
            add(&mut dk[s..][..dim], dscore, &q[at..][..dim]);
        }
    }
    (dq, dk, dv)
}
