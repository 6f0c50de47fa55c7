//! Gradients of causal attention.
//!
//! With p from the saved log-sum-exp and δ_t = dout_t · out_t:
//! dv_s = Σ_t p_ts dout_t, ds_ts = p_ts (dout_t · v_s − δ_t) · scale,
//! dq_t = Σ_s ds_ts k_s, dk_s = Σ_t ds_ts q_t (Dao et al. 2022).
//!
//! A task owns one key head of one batch member, and with it the query heads
//! that share it: all three gradients are its own, and are summed in order. With
//! AVX-512 it is `attention_avx512` that runs.

use super::attention::{Block, KEYS, STRIDE, head_start, probabilities, whole_head};
#[cfg(target_arch = "x86_64")]
use super::attention_avx512;
use super::matmul::Matrix;
use super::simd::{dot, multiversion};
use super::tiles::{COLS, ROWS, SLACK, Tiles};
use super::{Output, Split, scratch};
use crate::step::AttentionDims;

/// Queries of a block: whole tiles. Twice those of the forward pass, for a
/// product sums over them, and then adds to what is there.
const QUERIES: usize = 16 * ROWS;

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

/// Gradients of q, k and v, whose rows may be interleaved.
pub(crate) fn backward(
    split: Split,
    inputs: Inputs,
    [dq, dk_out, dv_out]: [Output; 3],
    dims: &AttentionDims,
) {
    #[cfg(target_arch = "x86_64")]
    if attention_avx512::can::<f32>() {
        let Inputs { q, k, v, out, lse, dout } = inputs;
        let inputs = attention_avx512::Inputs { q, k, v, out, lse, dout };
        let gradients = [dq, dk_out, dv_out].map(Output::moved);
        return attention_avx512::backward::<f32>(split, inputs, gradients, dims);
    }
    let [_, k_row, v_row] = dims.rows;
    split.each(dims.batch * dims.kv_heads, |task| {
        let (b, kv_head) = (task / dims.kv_heads, task % dims.kv_heads);
        let of_keys = dims.dim * dims.time.next_multiple_of(COLS);
        let of_rows = dims.time * dims.dim.next_multiple_of(COLS);
        let of_sums = dims.time * dims.dim;
        scratch::with(2 * (of_keys + of_sums) + of_rows, |scratch| {
            let (keys, rest) = scratch.split_at_mut(of_keys);
            let (values, rest) = rest.split_at_mut(of_keys);
            let (key_rows, sums) = rest.split_at_mut(of_rows);
            sums.fill(0.0);
            let (dk, dv) = sums.split_at_mut(of_sums);
            let (k, v) = (
                whole_head(inputs.k, dims, k_row, (b, kv_head)),
                whole_head(inputs.v, dims, v_row, (b, kv_head)),
            );
            let tiles = Tiles::new();
            tiles.pack_right(k.t(), keys);
            tiles.pack_right(v.t(), values);
            tiles.pack_right(k, key_rows);
            let packed = Packed { keys, values, key_rows };
            let group = dims.heads / dims.kv_heads;
            for head in kv_head * group..(kv_head + 1) * group {
                for query in (0..dims.time).step_by(QUERIES) {
                    query_block(inputs, &packed, (dq, dk, dv), dims, (b, head, query));
                }
            }
            let rows = dk.chunks_exact(dims.dim).zip(dv.chunks_exact(dims.dim));
            for (t, (dk, dv)) in rows.enumerate() {
                let at = |row| head_start(dims, row, b, t, kv_head);
                // SAFETY: rows of this task's key head only.
                unsafe {
                    dk_out.range(at(k_row), dims.dim).copy_from_slice(dk);
                    dv_out.range(at(v_row), dims.dim).copy_from_slice(dv);
                }
            }
        });
    });
}

/// A key head, in panels of keys (k and v) and of its dimensions (k).
struct Packed<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    key_rows: &'a [f32],
}

/// The share of one block of queries of one head, run by the task that owns its
/// key head, whose gradients `dk` and `dv` are.
fn query_block(
    inputs: Inputs,
    packed: &Packed,
    (dq, dk, dv): (Output, &mut [f32], &mut [f32]),
    dims: &AttentionDims,
    (b, head, query): (usize, usize, usize),
) {
    let AttentionDims { time, heads, dim, scale, rows: [q_row, ..], .. } = *dims;
    let tiles = Tiles::new();
    let row = heads * dim;
    let queries = QUERIES.min(time - query);
    let (q_at, at) = (head_start(dims, q_row, b, query, head), head_start(dims, row, b, query, head));
    let q_block = Matrix::strided(&inputs.q[q_at..], queries, dim, q_row);
    let dout_block = Matrix::strided(&inputs.dout[at..], queries, dim, row);
    let lse = &inputs.lse[(b * heads + head) * time + query..][..queries];
    let strips = (QUERIES * dim + SLACK).next_multiple_of(COLS);
    let panels = QUERIES * dim.next_multiple_of(COLS);
    scratch::with(2 * (strips + panels) + QUERIES * (2 * STRIDE + 1), |scratch| {
        let (q_left, rest) = scratch.split_at_mut(strips);
        let (dout_left, rest) = rest.split_at_mut(strips);
        let (q_right, rest) = rest.split_at_mut(panels);
        let (dout_right, rest) = rest.split_at_mut(panels);
        let (scores, rest) = rest.split_at_mut(QUERIES * STRIDE);
        let (dp, delta) = rest.split_at_mut(QUERIES * STRIDE);
        let delta = &mut delta[..queries];
        tiles.pack_left(q_block, q_left);
        tiles.pack_left(dout_block, dout_left);
        tiles.pack_right(q_block, q_right);
        tiles.pack_right(dout_block, dout_right);
        row_dots(&inputs.dout[at..], &inputs.out[at..], row, dim, delta);
        let mut key = dims.first(query) / COLS * COLS;
        let mut fresh = true;
        while key < query + queries {
            let keys = KEYS.min(query + queries - key);
            let block = Block { query, key, queries, keys };
            block.scores(tiles, dims, q_left, packed.keys, scale, scores);
            block.scores(tiles, dims, dout_left, packed.values, 1.0, dp);
            probabilities(scores, dp, lse, delta, block, dims);
            block.transposed(tiles, dims, scores, dout_right, dv);
            block.transposed(tiles, dims, dp, q_right, dk);
            // SAFETY: rows of this task's heads only.
            unsafe { block.weighted(tiles, dims, dp, packed.key_rows, (dq, q_at, q_row), fresh) };
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
