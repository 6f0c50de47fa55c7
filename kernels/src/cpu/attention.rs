//! Causal attention, forward.
//!
//! out_t = Σ_s p_ts v_s, p_t = softmax over the window of scale · q_t · k_s,
//! lse_t = ln Σ_s exp(scale · q_t · k_s).
//!
//! Blocks of queries against blocks of keys, with a running maximum and sum
//! (Milakov and Gimelshein 2018; Dao et al. 2022), so that scratch does not
//! grow with the length. Blocks outside the window are skipped. A non-finite
//! value in k or v reaches every query whose blocks it shares.

use super::matmul::{self, Matrix};
use super::simd::{LANES, larger, maximum, multiversion, sum};
use super::{Output, Split, math, scratch};
use crate::step::AttentionDims;

/// Queries of a block.
pub(crate) const QUERIES: usize = 64;
/// Keys of a block.
pub(crate) const KEYS: usize = 256;

/// Where the row of position `t` starts in [B,T,heads,D].
pub(crate) fn row_start(dims: &AttentionDims, heads: usize, b: usize, t: usize, head: usize) -> usize {
    ((b * dims.time + t) * heads + head) * dims.dim
}

/// The keys that a query sees of the block at `key`, as a range within it.
#[inline(always)]
fn visible(dims: &AttentionDims, t: usize, key: usize, keys: usize) -> (usize, usize) {
    let high = (t + 1).saturating_sub(key).min(keys);
    (dims.first(t).saturating_sub(key).min(high), high)
}

/// The least range of whole vectors around `low..high`, as far as there are
/// `keys`: what lies outside the window is overwritten, since a remainder
/// done one by one would take longer than all the vectors of a short row.
#[inline(always)]
fn whole_lanes(low: usize, high: usize, keys: usize) -> (usize, usize) {
    (low / LANES * LANES, high.next_multiple_of(LANES).min(keys))
}

pub(crate) fn forward(
    split: Split,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    dims: &AttentionDims,
) {
    let AttentionDims { batch, time, heads, kv_heads, dim, scale, .. } = *dims;
    let blocks = time.div_ceil(QUERIES);
    let (out, lse) = (Output::new(out), Output::new(lse));
    let (q_stride, k_stride) = (heads * dim, kv_heads * dim);
    let keys_most = KEYS.min(time);
    split.each(batch * heads * blocks, |task| {
        let (b, rest) = (task / (heads * blocks), task % (heads * blocks));
        let (head, query) = (rest / blocks, rest % blocks * QUERIES);
        let kv_head = head / (heads / kv_heads);
        let queries = QUERIES.min(time - query);
        let q_at = row_start(dims, heads, b, query, head);
        let q_block = Matrix::strided(&q[q_at..], queries, dim, q_stride);
        scratch::with(QUERIES * (keys_most + 3), |scratch| {
            let (scores, state) = scratch.split_at_mut(QUERIES * keys_most);
            let (highest, state) = state.split_at_mut(QUERIES);
            let (total, factor) = state.split_at_mut(QUERIES);
            highest.fill(f32::NEG_INFINITY);
            total.fill(0.0);
            let mut key = dims.first(query);
            let mut fresh = true;
            while key < query + queries {
                let keys = keys_most.min(query + queries - key);
                let kv_at = row_start(dims, kv_heads, b, key, kv_head);
                let k_block = Matrix::strided(&k[kv_at..], keys, dim, k_stride);
                let v_block = Matrix::strided(&v[kv_at..], keys, dim, k_stride);
                // SAFETY: `scores` is ours and holds queries × keys.
                unsafe {
                    matmul::block(q_block, k_block.t(), scores.as_mut_ptr(), keys, scale, false);
                }
                let scores = &mut scores[..queries * keys];
                let block = Block { query, key, keys };
                online_softmax(scores, highest, total, factor, block, dims);
                if !fresh {
                    for (i, factor) in factor[..queries].iter().enumerate() {
                        // SAFETY: rows of this task's queries and head only.
                        let row = unsafe { out.range(q_at + i * q_stride, dim) };
                        row.iter_mut().for_each(|o| *o *= factor);
                    }
                }
                let p = Matrix::strided(scores, queries, keys, keys);
                // SAFETY: as above; the last row ends inside `out`.
                unsafe { matmul::block(p, v_block, out.at(q_at), q_stride, 1.0, !fresh) };
                fresh = false;
                key += keys;
            }
            let lse_at = (b * heads + head) * time + query;
            // SAFETY: the entries of this task's queries and head only.
            let lse = unsafe { lse.range(lse_at, queries) };
            for i in 0..queries {
                lse[i] = highest[i] + total[i].ln();
                let inverse = 1.0 / total[i];
                // SAFETY: rows of this task's queries and head only.
                let row = unsafe { out.range(q_at + i * q_stride, dim) };
                row.iter_mut().for_each(|o| *o *= inverse);
            }
        });
    });
}

/// Which queries and keys a block of scores is of.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub query: usize,
    pub key: usize,
    pub keys: usize,
}

multiversion! {
    /// Turns scores into exp(score − running maximum), 0 outside the window;
    /// `factor` is what earlier blocks must be multiplied by.
    fn online_softmax(
        scores: &mut [f32],
        highest: &mut [f32],
        total: &mut [f32],
        factor: &mut [f32],
        block: Block,
        dims: &AttentionDims,
    ) = online_softmax_body
}

#[inline(always)]
fn online_softmax_body<const FMA: bool>(
    scores: &mut [f32],
    highest: &mut [f32],
    total: &mut [f32],
    factor: &mut [f32],
    block: Block,
    dims: &AttentionDims,
) {
    let states = highest.iter_mut().zip(total).zip(factor);
    for (i, (row, ((highest, total), factor))) in scores.chunks_exact_mut(block.keys).zip(states).enumerate()
    {
        let (low, high) = visible(dims, block.query + i, block.key, block.keys);
        let (start, end) = whole_lanes(low, high, block.keys);
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        *factor = 1.0;
        if low == high {
            row[start..end].fill(0.0);
            continue;
        }
        row[start..low].fill(f32::NEG_INFINITY);
        row[high..end].fill(f32::NEG_INFINITY);
        let row = &mut row[start..end];
        let new = larger(*highest, maximum(row));
        // Of a row of −∞ only, nothing may become NaN by −∞ − −∞ here.
        let shift = if new == f32::NEG_INFINITY { 0.0 } else { new };
        *factor = math::exp_negative::<FMA>(*highest - shift);
        let (chunks, tail) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for p in chunk {
                *p = math::exp_negative::<FMA>(*p - shift);
            }
        }
        for p in tail {
            *p = math::exp_negative::<FMA>(*p - shift);
        }
        *total = *total * *factor + sum(row);
        *highest = new;
    }
}

multiversion! {
    /// Turns scores into probabilities, given the log-sum-exp of each row; 0
    /// outside the window. Then turns `dp` into the gradient of the scores:
    /// p · (dp − delta) · scale.
    pub(crate) fn probabilities(
        scores: &mut [f32],
        dp: &mut [f32],
        lse: &[f32],
        delta: &[f32],
        block: Block,
        dims: &AttentionDims,
    ) = probabilities_body
}

#[inline(always)]
fn probabilities_body<const FMA: bool>(
    scores: &mut [f32],
    dp: &mut [f32],
    lse: &[f32],
    delta: &[f32],
    block: Block,
    dims: &AttentionDims,
) {
    let rows = scores.chunks_exact_mut(block.keys).zip(dp.chunks_exact_mut(block.keys));
    for (i, ((scores, dp), (lse, delta))) in rows.zip(lse.iter().zip(delta)).enumerate() {
        let (low, high) = visible(dims, block.query + i, block.key, block.keys);
        let (start, end) = whole_lanes(low, high, block.keys);
        let (lse, delta, scale) = (*lse, *delta, dims.scale);
        let (ps, p_tail) = scores[start..end].as_chunks_mut::<LANES>();
        let (gs, g_tail) = dp[start..end].as_chunks_mut::<LANES>();
        for (p, g) in ps.iter_mut().zip(gs) {
            // Values, not places: the loops below become vectors only where
            // nothing can be the same memory.
            let (mut of_p, mut of_g) = (*p, *g);
            for p in &mut of_p {
                *p = math::exp::<FMA>(*p - lse);
            }
            for (g, p) in of_g.iter_mut().zip(&of_p) {
                *g = *p * (*g - delta) * scale;
            }
            (*p, *g) = (of_p, of_g);
        }
        for (p, g) in p_tail.iter_mut().zip(g_tail) {
            *p = math::exp::<FMA>(*p - lse);
            *g = *p * (*g - delta) * scale;
        }
        for outside in [0..low, high..block.keys] {
            scores[outside.clone()].fill(0.0);
            dp[outside].fill(0.0);
        }
    }
}
