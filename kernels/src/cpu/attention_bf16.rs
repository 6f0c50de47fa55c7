//! Causal attention over bfloat16 with AVX-512 BF16: as [`super::attention`]
//! and [`super::attention_backward`], with all products made of pairs. Scores,
//! softmax and sums are `f32`; probabilities and the gradients of scores are
//! rounded to bfloat16 to be multiplied (as FlashAttention-2 does).
//!
//! A pair is two neighbours of the inner dimension: of a head's dimensions in
//! scores, of keys where rows of weights are multiplied, and of queries where
//! their columns are. The block's first key and first query are even, so that
//! pairs of a block are pairs of the panels.

use super::attention::{Block, KEYS, STRIDE, head_start, online_softmax, probabilities, visible, whole_head};
use super::blocked::Micro;
use super::gemm_avx512::Avx512Bf16;
use super::matmul::Matrix;
use super::moves::Moved;
use super::packing::{Pair, SLACK, pack_left, pack_right};
use super::rounding::narrow;
use super::simd::{LANES, fma, multiversion};
use super::tasks::Stage;
use super::tiles::Tile;
use super::{Level, Output, Split, level, scratch};
use crate::bf16;
use crate::step::AttentionDims;

const ROWS: usize = Avx512Bf16::ROWS;
const COLS: usize = Avx512Bf16::COLS;
/// Queries of a block, forward: whole tiles, and even.
const QUERIES: usize = 4 * ROWS;
/// Queries of a block, backward.
const QUERIES_BACKWARD: usize = 8 * ROWS;
/// Units from one row of weights to the next: as many bfloat16s as a row of
/// scores has floats.
pub(crate) const WEIGHTS: usize = STRIDE / 2;
const _: () = assert!(QUERIES.is_multiple_of(2) && KEYS.is_multiple_of(COLS) && STRIDE.is_multiple_of(2));

/// Whether this machine has what it takes.
pub(crate) fn can() -> bool {
    level() == Level::Avx512Bf16
}

/// Floats of `depth` elements × `cols` columns in panels.
fn panels(depth: usize, cols: usize) -> usize {
    depth.div_ceil(2) * cols.next_multiple_of(COLS)
}

/// Floats of strips of `rows` rows of `depth` elements, in whole cache lines.
fn strips(rows: usize, depth: usize) -> usize {
    (rows * depth.div_ceil(2) + SLACK).next_multiple_of(LANES)
}

/// Packs `a` as left operands.
///
/// # Panics
/// If there is no room, or `a` leaves its slice.
fn left(a: Matrix<u16>, to: &mut [f32]) {
    a.check();
    assert!(can() && to.len() >= strips(a.rows, a.cols));
    // SAFETY: AVX2 is part of the level; `a` is inside its slice, and there is
    // room (checked).
    unsafe { pack_left::<Avx512Bf16, Pair>(&a, to.as_mut_ptr()) };
}

/// Packs `b` as right operands.
///
/// # Panics
/// As [`left`].
fn right(b: Matrix<u16>, to: &mut [f32]) {
    b.check();
    assert!(can() && to.len() >= panels(b.rows, b.cols));
    // SAFETY: as in `left`.
    unsafe { pack_right::<Avx512Bf16, Pair>(&b, to.as_mut_ptr(), b.rows.div_ceil(2) * COLS) };
}

/// q, k, v; out; lse.
pub(crate) fn forward(
    split: Split,
    [q, k, v]: [&[u16]; 3],
    out: &mut [u16],
    lse: &mut [f32],
    dims: &AttentionDims,
) {
    let AttentionDims { batch, time, heads, kv_heads, dim, rows: [_, k_row, v_row], .. } = *dims;
    let blocks = time.div_ceil(QUERIES);
    let group = heads / kv_heads;
    let (out, lse) = (Moved::new(out), Output::new(lse));
    let of_keys = panels(dim, time);
    let of_both = of_keys + panels(time, dim);
    let most = (scratch::KEPT / of_both).max(1);
    for first in (0..batch * kv_heads).step_by(most) {
        let packs = most.min(batch * kv_heads - first);
        scratch::with(packs * of_both, |room| {
            let room = Output::new(room);
            let packed = Stage::default();
            split.each(packs + packs * group * blocks, |task| {
                let Some(task) = task.checked_sub(packs) else {
                    let _task = packed.task();
                    let head = ((first + task) / kv_heads, (first + task) % kv_heads);
                    // SAFETY: this key head's panels, which are this task's.
                    let room = unsafe { room.range(task * of_both, of_both) };
                    let (keys, values) = room.split_at_mut(of_keys);
                    right(whole_head(k, dims, k_row, head).t(), keys);
                    right(whole_head(v, dims, v_row, head), values);
                    return;
                };
                let (kv, rest) = (task / (group * blocks), task % (group * blocks));
                let (b, kv_head) = ((first + kv) / kv_heads, (first + kv) % kv_heads);
                let (head, query) = (kv_head * group + rest / blocks, rest % blocks * QUERIES);
                packed.wait(packs);
                // SAFETY: all were packed above, and are only read from now on.
                let room = unsafe { room.read(kv * of_both, of_both) };
                query_block(q, room.split_at(of_keys), (out, lse), dims, (b, head, query));
            });
        });
    }
}

/// One block of queries against all keys that it sees.
fn query_block(
    q: &[u16],
    (keys_packed, values_packed): (&[f32], &[f32]),
    (out, lse): (Moved<u16>, Output),
    dims: &AttentionDims,
    (b, head, query): (usize, usize, usize),
) {
    let AttentionDims { time, heads, dim, scale, rows: [q_row, ..], .. } = *dims;
    let row = heads * dim;
    let queries = QUERIES.min(time - query);
    let (q_at, at) = (head_start(dims, q_row, b, query, head), head_start(dims, row, b, query, head));
    let of_left = strips(QUERIES, dim);
    scratch::with(of_left + QUERIES * (STRIDE + WEIGHTS + dim + 3), |room| {
        let (q_left, room) = room.split_at_mut(of_left);
        let (scores, room) = room.split_at_mut(QUERIES * STRIDE);
        let (weights, room) = room.split_at_mut(QUERIES * WEIGHTS);
        let (sums, room) = room.split_at_mut(QUERIES * dim);
        let (highest, room) = room.split_at_mut(QUERIES);
        let (total, factor) = room.split_at_mut(QUERIES);
        highest.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        left(Matrix::strided(&q[q_at..], queries, dim, q_row), q_left);
        let mut key = dims.first(query) / COLS * COLS;
        let mut fresh = true;
        while key < query + queries {
            let keys = KEYS.min(query + queries - key);
            let block = Block { query, key, queries, keys };
            scores_of(block, dims, q_left, keys_packed, scale, scores);
            online_softmax(scores, highest, total, factor, block, dims);
            round_rows(scores, weights, block, dims);
            if !fresh {
                for (row, factor) in sums.chunks_exact_mut(dim).zip(&*factor).take(queries) {
                    row.iter_mut().for_each(|o| *o *= factor);
                }
            }
            weigh(block, dims, weights, values_packed, sums, fresh);
            fresh = false;
            key += keys;
        }
        // SAFETY: the entries of this task's queries and head only.
        let lse = unsafe { lse.range((b * heads + head) * time + query, queries) };
        for (i, sums) in sums.chunks_exact_mut(dim).take(queries).enumerate() {
            lse[i] = highest[i] + total[i].ln();
            let inverse = 1.0 / total[i];
            sums.iter_mut().for_each(|o| *o *= inverse);
            // SAFETY: rows of this task's queries and head only.
            narrow(sums, unsafe { out.range(at + i * row, dim) });
        }
    });
}

/// alpha · left · packed where a strip sees keys; `left` holds the queries'
/// strips, `packed` panels of all keys.
fn scores_of(
    block: Block,
    dims: &AttentionDims,
    left: &[f32],
    packed: &[f32],
    alpha: f32,
    scores: &mut [f32],
) {
    let units = dims.dim.div_ceil(2);
    for (row, rows, low, high) in block.strips(dims, ROWS) {
        let strip = left[row * units..][..rows * units].as_ptr();
        for col in (low / COLS * COLS..high).step_by(COLS) {
            let out = &mut scores[row * STRIDE + col..][..(rows - 1) * STRIDE + COLS];
            let tile = Tile {
                depth: units,
                left: strip,
                right: packed[(block.key + col) * units..][..units * COLS].as_ptr(),
                next: strip,
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride: STRIDE,
                width: COLS,
                alpha,
                accumulate: false,
            };
            // SAFETY: the level (`left` checked it); a packed strip, a panel,
            // and rows of the scores.
            unsafe { Avx512Bf16::RUN[rows - 1](&tile) };
        }
    }
}

/// out (=|+=) weights · packed, dense rows of the block's queries; `packed`
/// holds panels of the head's dimensions for all keys.
fn weigh(block: Block, dims: &AttentionDims, weights: &[f32], packed: &[f32], out: &mut [f32], fresh: bool) {
    let AttentionDims { time, dim, .. } = *dims;
    let units = time.div_ceil(2);
    for (row, rows, low, high) in block.strips(dims, ROWS) {
        let (low, high) = (low / 2, high.div_ceil(2));
        let depth = high - low;
        if depth == 0 {
            if fresh {
                out[row * dim..(row + rows) * dim].fill(0.0);
            }
            continue;
        }
        let left = weights[row * WEIGHTS + low..][..(rows - 1) * WEIGHTS + depth].as_ptr();
        for col in (0..dim).step_by(COLS) {
            let width = COLS.min(dim - col);
            let out = &mut out[row * dim + col..][..(rows - 1) * dim + width];
            let at = col * units + (block.key / 2 + low) * COLS;
            let tile = Tile {
                depth,
                left,
                right: packed[at..][..depth * COLS].as_ptr(),
                next: left,
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride: dim,
                width,
                alpha: 1.0,
                accumulate: !fresh,
            };
            // SAFETY: the level (`left` checked it); rows of the weights, part
            // of a panel, and rows of the output.
            unsafe { Avx512Bf16::ROWS_OF_WEIGHTS[rows - 1](&tile) };
        }
    }
}

/// out += transposed weights · packed, for the block's keys among the rows of
/// all keys of one head, which are `out`; `packed` holds panels of the head's
/// dimensions for the block's queries.
fn weigh_transposed(block: Block, dims: &AttentionDims, weights: &[f32], packed: &[f32], out: &mut [f32]) {
    let dim = dims.dim;
    let units = block.queries.div_ceil(2);
    let out = &mut out[block.key * dim..][..block.keys * dim];
    for row in (0..block.keys).step_by(ROWS) {
        let rows = ROWS.min(block.keys - row);
        let seeing = block.seeing(dims, row, rows);
        if seeing.is_empty() {
            continue;
        }
        let (begin, end) = (seeing.start / 2, seeing.end.div_ceil(2));
        let depth = end - begin;
        let left = weights[begin * STRIDE + row..][..(depth - 1) * STRIDE + rows].as_ptr();
        for col in (0..dim).step_by(COLS) {
            let width = COLS.min(dim - col);
            let out = &mut out[row * dim + col..][..(rows - 1) * dim + width];
            let tile = Tile {
                depth,
                left,
                right: packed[col * units + begin * COLS..][..depth * COLS].as_ptr(),
                next: left,
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride: dim,
                width,
                alpha: 1.0,
                accumulate: true,
            };
            // SAFETY: the level (`left` checked it); columns of the weights,
            // part of a panel, and rows of the output.
            unsafe { Avx512Bf16::COLUMNS_OF_WEIGHTS[rows - 1](&tile) };
        }
    }
}

/// The keys whose weights any tile reads of query `i`: those of the strip that
/// it is in, of columns beside those that it sees, and whole pairs.
fn read_of(block: Block, dims: &AttentionDims, i: usize) -> std::ops::Range<usize> {
    let (low, high) = visible(dims, block.query + i, block.key, block.keys);
    let most = block.keys.next_multiple_of(2);
    low.saturating_sub(LANES) / 2 * 2..(high + LANES).next_multiple_of(2).min(most)
}

multiversion! {
    /// Rows of weights in bfloat16, where tiles read them.
    fn round_rows(weights: &mut [f32], to: &mut [f32], block: Block, dims: &AttentionDims) = round_rows_body
}

#[inline(always)]
fn round_rows_body<const FMA: bool>(weights: &mut [f32], to: &mut [f32], block: Block, dims: &AttentionDims) {
    let rows = weights.chunks_exact_mut(STRIDE).zip(to.chunks_exact_mut(WEIGHTS));
    for (i, (row, to)) in rows.take(block.queries).enumerate() {
        // What is behind the last key is of no key.
        row[block.keys] = 0.0;
        let range = read_of(block, dims, i);
        let (pairs, _) = row[range.clone()].as_chunks::<2>();
        for (unit, [first, second]) in to[range.start / 2..].iter_mut().zip(pairs) {
            *unit = pair(*first, *second);
        }
    }
}

multiversion! {
    /// Weights in bfloat16, pairs of queries, where tiles read them.
    fn round_columns(weights: &[f32], to: &mut [f32], block: Block, dims: &AttentionDims) = round_columns_body
}

#[inline(always)]
fn round_columns_body<const FMA: bool>(weights: &[f32], to: &mut [f32], block: Block, dims: &AttentionDims) {
    const NONE: [f32; STRIDE] = [0.0; STRIDE];
    for (unit, to) in to.chunks_exact_mut(STRIDE).take(block.queries.div_ceil(2)).enumerate() {
        let i = 2 * unit;
        let next = (i + 1).min(block.queries - 1);
        let (low, high) = (read_of(block, dims, i).start, read_of(block, dims, next).end);
        let first = &weights[i * STRIDE..][low..high];
        let second = if next > i { &weights[next * STRIDE..][low..high] } else { &NONE[low..high] };
        for ((to, first), second) in to[low..high].iter_mut().zip(first).zip(second) {
            *to = pair(*first, *second);
        }
    }
}

#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16::round(second)) << 16 | u32::from(bf16::round(first)))
}

/// What the forward pass read and wrote, and the gradient of its output.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub q: &'a [u16],
    pub k: &'a [u16],
    pub v: &'a [u16],
    pub out: &'a [u16],
    pub lse: &'a [f32],
    pub dout: &'a [u16],
}

/// A key head: panels of keys (k and v), and of the dimensions of k.
struct Packed<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    key_rows: &'a [f32],
}

/// Gradients of q, k and v. A task owns a key head, and with it the query
/// heads that share it.
pub(crate) fn backward(
    split: Split,
    inputs: Inputs,
    [dq, dk_out, dv_out]: [Moved<u16>; 3],
    dims: &AttentionDims,
) {
    let [_, k_row, v_row] = dims.rows;
    split.each(dims.batch * dims.kv_heads, |task| {
        let (b, kv_head) = (task / dims.kv_heads, task % dims.kv_heads);
        let (of_keys, of_rows) = (panels(dims.dim, dims.time), panels(dims.time, dims.dim));
        let of_sums = dims.time * dims.dim;
        scratch::with(2 * (of_keys + of_sums) + of_rows, |room| {
            let (keys, room) = room.split_at_mut(of_keys);
            let (values, room) = room.split_at_mut(of_keys);
            let (key_rows, sums) = room.split_at_mut(of_rows);
            sums.fill(0.0);
            let (dk, dv) = sums.split_at_mut(of_sums);
            let (k, v) = (
                whole_head(inputs.k, dims, k_row, (b, kv_head)),
                whole_head(inputs.v, dims, v_row, (b, kv_head)),
            );
            right(k.t(), keys);
            right(v.t(), values);
            right(k, key_rows);
            let packed = Packed { keys, values, key_rows };
            let group = dims.heads / dims.kv_heads;
            for head in kv_head * group..(kv_head + 1) * group {
                for query in (0..dims.time).step_by(QUERIES_BACKWARD) {
                    gradient_block(inputs, &packed, (dq, dk, dv), dims, (b, head, query));
                }
            }
            let rows = dk.chunks_exact(dims.dim).zip(dv.chunks_exact(dims.dim));
            for (t, (dk, dv)) in rows.enumerate() {
                let at = |row| head_start(dims, row, b, t, kv_head);
                // SAFETY: rows of this task's key head only.
                unsafe {
                    narrow(dk, dk_out.range(at(k_row), dims.dim));
                    narrow(dv, dv_out.range(at(v_row), dims.dim));
                }
            }
        });
    });
}

/// The share of one block of queries of one head, run by the task that owns its
/// key head, whose gradients `dk` and `dv` are.
fn gradient_block(
    inputs: Inputs,
    packed: &Packed,
    (dq, dk, dv): (Moved<u16>, &mut [f32], &mut [f32]),
    dims: &AttentionDims,
    (b, head, query): (usize, usize, usize),
) {
    const QUERIES: usize = QUERIES_BACKWARD;
    let AttentionDims { time, heads, dim, scale, rows: [q_row, ..], .. } = *dims;
    let row = heads * dim;
    let queries = QUERIES.min(time - query);
    let (q_at, at) = (head_start(dims, q_row, b, query, head), head_start(dims, row, b, query, head));
    let q_block = Matrix::strided(&inputs.q[q_at..], queries, dim, q_row);
    let dout_block = Matrix::strided(&inputs.dout[at..], queries, dim, row);
    let lse = &inputs.lse[(b * heads + head) * time + query..][..queries];
    let (of_left, of_right) = (strips(QUERIES, dim), panels(QUERIES, dim));
    let of_weights = QUERIES * (2 * STRIDE + WEIGHTS) + QUERIES / 2 * STRIDE;
    scratch::with(2 * (of_left + of_right) + of_weights + QUERIES * (dim + 1), |room| {
        let (q_left, room) = room.split_at_mut(of_left);
        let (dout_left, room) = room.split_at_mut(of_left);
        let (q_right, room) = room.split_at_mut(of_right);
        let (dout_right, room) = room.split_at_mut(of_right);
        let (scores, room) = room.split_at_mut(QUERIES * STRIDE);
        let (dp, room) = room.split_at_mut(QUERIES * STRIDE);
        let (rows, room) = room.split_at_mut(QUERIES * WEIGHTS);
        let (columns, room) = room.split_at_mut(QUERIES / 2 * STRIDE);
        let (sums, delta) = room.split_at_mut(QUERIES * dim);
        let delta = &mut delta[..queries];
        left(q_block, q_left);
        left(dout_block, dout_left);
        right(q_block, q_right);
        right(dout_block, dout_right);
        row_dots(&inputs.dout[at..], &inputs.out[at..], row, dim, delta);
        let mut key = dims.first(query) / COLS * COLS;
        let mut fresh = true;
        while key < query + queries {
            let keys = KEYS.min(query + queries - key);
            let block = Block { query, key, queries, keys };
            scores_of(block, dims, q_left, packed.keys, scale, scores);
            scores_of(block, dims, dout_left, packed.values, 1.0, dp);
            probabilities(scores, dp, lse, delta, block, dims);
            round_columns(scores, columns, block, dims);
            weigh_transposed(block, dims, columns, dout_right, dv);
            round_columns(dp, columns, block, dims);
            weigh_transposed(block, dims, columns, q_right, dk);
            round_rows(dp, rows, block, dims);
            weigh(block, dims, rows, packed.key_rows, sums, fresh);
            fresh = false;
            key += keys;
        }
        for (i, sums) in sums.chunks_exact(dim).take(queries).enumerate() {
            // SAFETY: rows of this task's heads only.
            narrow(sums, unsafe { dq.range(q_at + i * q_row, dim) });
        }
    });
}

multiversion! {
    /// out[i] = a_i · b_i for rows of `dim` that lie `stride` apart.
    fn row_dots(a: &[u16], b: &[u16], stride: usize, dim: usize, out: &mut [f32]) = row_dots_body
}

#[inline(always)]
fn row_dots_body<const FMA: bool>(a: &[u16], b: &[u16], stride: usize, dim: usize, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let (a, b) = (&a[i * stride..][..dim], &b[i * stride..][..dim]);
        let mut lanes = [0f32; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane = fma::<FMA>(bf16::value(*a), bf16::value(*b), *lane);
            }
        }
        *out = lanes.iter().sum();
    }
}
