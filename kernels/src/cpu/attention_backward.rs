//! Gradients of causal attention.
//!
//! With p from the saved log-sum-exp and δ_t = dout_t · out_t:
//! dv_s = Σ_t p_ts dout_t, ds_ts = p_ts (dout_t · v_s − δ_t) · scale,
//! dq_t = Σ_s ds_ts k_s, dk_s = Σ_t ds_ts q_t (Dao et al. 2022).
//!
//! A task owns one key head of one batch member, and with it the query heads
//! that share it: all three gradients are its own, and are summed in order.

use super::attention::{Block, KEYS, QUERIES, probabilities, row_start};
use super::matmul::{self, Matrix};
use super::simd::{dot, multiversion};
use super::{Output, Split, scratch};
use crate::step::AttentionDims;

/// What the forward pass read and wrote, and the gradient of its output.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
    pub dout: &'a [f32],
}

/// The three gradients, written in parts.
#[derive(Clone, Copy)]
struct Gradients {
    q: Output,
    k: Output,
    v: Output,
}

pub(crate) fn backward(
    split: Split,
    inputs: Inputs,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    dims: &AttentionDims,
) {
    let gradients = Gradients { q: Output::new(dq), k: Output::new(dk), v: Output::new(dv) };
    split.each(dims.batch * dims.kv_heads, |task| {
        let (b, kv_head) = (task / dims.kv_heads, task % dims.kv_heads);
        for t in 0..dims.time {
            let at = row_start(dims, dims.kv_heads, b, t, kv_head);
            // SAFETY: rows of this task's key head only.
            unsafe {
                gradients.k.range(at, dims.dim).fill(0.0);
                gradients.v.range(at, dims.dim).fill(0.0);
            }
        }
        let group = dims.heads / dims.kv_heads;
        for head in kv_head * group..(kv_head + 1) * group {
            for query in (0..dims.time).step_by(QUERIES) {
                query_block(inputs, gradients, dims, b, kv_head, head, query);
            }
        }
    });
}

/// The share of one block of queries of one head, run by the task that owns
/// `kv_head`.
fn query_block(
    inputs: Inputs,
    gradients: Gradients,
    dims: &AttentionDims,
    b: usize,
    kv_head: usize,
    head: usize,
    query: usize,
) {
    let AttentionDims { time, heads, kv_heads, dim, scale, .. } = *dims;
    let (q_stride, k_stride) = (heads * dim, kv_heads * dim);
    let queries = QUERIES.min(time - query);
    let keys_most = KEYS.min(time);
    let q_at = row_start(dims, heads, b, query, head);
    let q_block = Matrix::strided(&inputs.q[q_at..], queries, dim, q_stride);
    let dout_block = Matrix::strided(&inputs.dout[q_at..], queries, dim, q_stride);
    let lse = &inputs.lse[(b * heads + head) * time + query..][..queries];
    scratch::with(QUERIES * (2 * keys_most + 1), |scratch| {
        let (scores, rest) = scratch.split_at_mut(QUERIES * keys_most);
        let (dp, delta) = rest.split_at_mut(QUERIES * keys_most);
        let delta = &mut delta[..queries];
        row_dots(&inputs.dout[q_at..], &inputs.out[q_at..], q_stride, dim, delta);
        let mut key = dims.first(query);
        let mut fresh = true;
        while key < query + queries {
            let keys = keys_most.min(query + queries - key);
            let kv_at = row_start(dims, kv_heads, b, key, kv_head);
            let k_block = Matrix::strided(&inputs.k[kv_at..], keys, dim, k_stride);
            let v_block = Matrix::strided(&inputs.v[kv_at..], keys, dim, k_stride);
            let (scores, dp) = (&mut scores[..queries * keys], &mut dp[..queries * keys]);
            // SAFETY: both are ours and hold queries × keys.
            unsafe {
                matmul::block(q_block, k_block.t(), scores.as_mut_ptr(), keys, scale, false);
                matmul::block(dout_block, v_block.t(), dp.as_mut_ptr(), keys, 1.0, false);
            }
            probabilities(scores, dp, lse, delta, Block { query, key, keys }, dims);
            let p = Matrix::strided(scores, queries, keys, keys);
            let ds = Matrix::strided(dp, queries, keys, keys);
            // SAFETY: rows of this task's heads only; the last ones end
            // inside their outputs.
            unsafe {
                matmul::block(p.t(), dout_block, gradients.v.at(kv_at), k_stride, 1.0, true);
                matmul::block(ds.t(), q_block, gradients.k.at(kv_at), k_stride, 1.0, true);
                matmul::block(ds, k_block, gradients.q.at(q_at), q_stride, 1.0, !fresh);
            }
            fresh = false;
            key += keys;
        }
    });
}

multiversion! {
    /// out[i] = a_i · b_i for rows of `dim` that lie `stride` apart.
    fn row_dots(a: &[f32], b: &[f32], stride: usize, dim: usize, out: &mut [f32]) = row_dots_body
}

#[inline(always)]
fn row_dots_body<const FMA: bool>(a: &[f32], b: &[f32], stride: usize, dim: usize, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = dot::<FMA>(&a[i * stride..][..dim], &b[i * stride..][..dim]);
    }
}
