//! Causal attention, forward.
//!
//! out_t = Σ_s p_ts v_s, p_t = softmax over the window of scale · q_t · k_s,
//! lse_t = ln Σ_s exp(scale · q_t · k_s).
//!
//! Blocks of queries against blocks of keys, with a running maximum and sum
//! (Milakov and Gimelshein 2018; Dao et al. 2022), so that scores need no
//! more room for a longer text. Keys and values are packed once, for all
//! blocks of queries; tiles of scores that the mask hides are left out. A
//! non-finite value in k or v reaches every query whose tiles it shares. With
//! AVX-512 it is `attention_avx512` that runs.

#[cfg(target_arch = "x86_64")]
use super::attention_avx512;
use super::matmul::Matrix;
use super::simd::{LANES, larger, maximum, multiversion, sum};
use super::tasks::Stage;
use super::tiles::{COLS, ROWS, Rows, SLACK, Tile, Tiles};
use super::{Output, Split, math, scratch};
use crate::step::AttentionDims;

/// Queries of a block: whole tiles.
const QUERIES: usize = 8 * ROWS;
/// Keys of a block: whole tiles.
pub(crate) const KEYS: usize = 16 * COLS;
/// Floats from one row of scores to the next: not a power of two, so that a
/// column of them does not fall on few lines of the cache.
pub(crate) const STRIDE: usize = KEYS + COLS;

/// Where a head of position `t` starts, positions being `row` elements apart.
pub(crate) fn head_start(dims: &AttentionDims, row: usize, b: usize, t: usize, head: usize) -> usize {
    (b * dims.time + t) * row + head * dims.dim
}

/// All rows of a head.
pub(crate) fn whole_head<'a, T>(
    of: &'a [T],
    dims: &AttentionDims,
    row: usize,
    (b, head): (usize, usize),
) -> Matrix<'a, T> {
    Matrix::strided(&of[head_start(dims, row, b, 0, head)..], dims.time, dims.dim, row)
}

/// The keys that a query sees of the block at `key`, as a range within it.
#[inline(always)]
pub(crate) fn visible(dims: &AttentionDims, t: usize, key: usize, keys: usize) -> (usize, usize) {
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
    #[cfg(target_arch = "x86_64")]
    if attention_avx512::can::<f32>() {
        return attention_avx512::forward::<f32>(split, [q, k, v], out, lse, dims);
    }
    let AttentionDims { batch, time, heads, kv_heads, dim, rows: [_, k_row, v_row], .. } = *dims;
    let blocks = time.div_ceil(QUERIES);
    let group = heads / kv_heads;
    let (out, lse) = (Output::new(out), Output::new(lse));
    let of_keys = dim * time.next_multiple_of(COLS);
    let of_both = of_keys + time * dim.next_multiple_of(COLS);
    let most = (scratch::KEPT / of_both).max(1);
    for first in (0..batch * kv_heads).step_by(most) {
        let packs = most.min(batch * kv_heads - first);
        scratch::with(packs * of_both, |panels| {
            let panels = Output::new(panels);
            let packed = Stage::default();
            split.each(packs + packs * group * blocks, |task| {
                let Some(task) = task.checked_sub(packs) else {
                    let _task = packed.task();
                    let head = ((first + task) / kv_heads, (first + task) % kv_heads);
                    // SAFETY: this key head's panels, which are this task's.
                    let panels = unsafe { panels.range(task * of_both, of_both) };
                    let (keys, values) = panels.split_at_mut(of_keys);
                    Tiles::new().pack_right(whole_head(k, dims, k_row, head).t(), keys);
                    Tiles::new().pack_right(whole_head(v, dims, v_row, head), values);
                    return;
                };
                let (kv, rest) = (task / (group * blocks), task % (group * blocks));
                let (b, kv_head) = ((first + kv) / kv_heads, (first + kv) % kv_heads);
                let (head, query) = (kv_head * group + rest / blocks, rest % blocks * QUERIES);
                packed.wait(packs);
                // SAFETY: all were packed above, and are only read from now on.
                let panels = unsafe { panels.read(kv * of_both, of_both) };
                let (keys, values) = panels.split_at(of_keys);
                query_block(q, keys, values, (out, lse), dims, (b, head, query));
            });
        });
    }
}

/// One block of queries against all keys that it sees.
fn query_block(
    q: &[f32],
    keys_packed: &[f32],
    values_packed: &[f32],
    (out, lse): (Output, Output),
    dims: &AttentionDims,
    (b, head, query): (usize, usize, usize),
) {
    let AttentionDims { time, heads, dim, scale, rows: [q_row, ..], .. } = *dims;
    let tiles = Tiles::new();
    let row = heads * dim;
    let queries = QUERIES.min(time - query);
    let (q_at, at) = (head_start(dims, q_row, b, query, head), head_start(dims, row, b, query, head));
    let strips = (QUERIES * dim + SLACK).next_multiple_of(COLS);
    scratch::with(strips + QUERIES * (STRIDE + 3), |scratch| {
        let (left, scores) = scratch.split_at_mut(strips);
        let (scores, state) = scores.split_at_mut(QUERIES * STRIDE);
        let (highest, state) = state.split_at_mut(QUERIES);
        let (total, factor) = state.split_at_mut(QUERIES);
        highest.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        tiles.pack_left(Matrix::strided(&q[q_at..], queries, dim, q_row), left);
        let mut key = dims.first(query) / COLS * COLS;
        let mut fresh = true;
        while key < query + queries {
            let keys = KEYS.min(query + queries - key);
            let block = Block { query, key, queries, keys };
            block.scores(tiles, dims, left, keys_packed, scale, scores);
            online_softmax(scores, highest, total, factor, block, dims);
            if !fresh {
                for (i, factor) in factor[..queries].iter().enumerate() {
                    // SAFETY: rows of this task's queries and head only.
                    let row = unsafe { out.range(at + i * row, dim) };
                    row.iter_mut().for_each(|o| *o *= factor);
                }
            }
            // SAFETY: rows of this task's queries and head only.
            unsafe { block.weighted(tiles, dims, scores, values_packed, (out, at, row), fresh) };
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
            let row = unsafe { out.range(at + i * row, dim) };
            row.iter_mut().for_each(|o| *o *= inverse);
        }
    });
}

/// Which queries and keys a block of scores is of: at most [`KEYS`] keys, from
/// one on that begins a tile. Rows of scores are [`STRIDE`] apart.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub query: usize,
    pub key: usize,
    pub queries: usize,
    pub keys: usize,
}

impl Block {
    /// Its strips of `tall` rows: the first row, how many, and the keys of the
    /// block that any of them sees.
    pub fn strips(
        self,
        dims: &AttentionDims,
        tall: usize,
    ) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        (0..self.queries).step_by(tall).map(move |row| {
            let rows = tall.min(self.queries - row);
            let (low, _) = visible(dims, self.query + row, self.key, self.keys);
            let (_, high) = visible(dims, self.query + row + rows - 1, self.key, self.keys);
            (row, rows, low.min(high), high)
        })
    }

    /// alpha · left · packed where a strip sees keys; `left` holds the queries'
    /// strips, `packed` panels of all keys.
    pub fn scores(
        self,
        tiles: Tiles,
        dims: &AttentionDims,
        left: &[f32],
        packed: &[f32],
        alpha: f32,
        scores: &mut [f32],
    ) {
        let dim = dims.dim;
        for (row, rows, low, high) in self.strips(dims, ROWS) {
            let strip = left[row * dim..][..rows * dim].as_ptr();
            for col in (low / COLS * COLS..high).step_by(COLS) {
                let out = &mut scores[row * STRIDE + col..][..(rows - 1) * STRIDE + COLS];
                let tile = Tile {
                    depth: dim,
                    left: strip,
                    right: packed[(self.key + col) * dim..][..dim * COLS].as_ptr(),
                    right_stride: COLS,
                    next: strip,
                    ahead: &[],
                    out: out.as_mut_ptr(),
                    out_stride: STRIDE,
                    rows,
                    width: COLS,
                    alpha,
                    accumulate: false,
                };
                // SAFETY: a packed strip, a panel, and rows of the scores.
                unsafe { tiles.multiply(&tile, rows, Rows::Packed) };
            }
        }
    }

    /// out (=|+=) weights · packed, for rows of a head from `at` on, `out_stride`
    /// apart; `packed` holds panels of the head's dimensions for all keys.
    ///
    /// # Safety
    /// The rows of the block's queries, of one head, which no one else uses.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn weighted(
        self,
        tiles: Tiles,
        dims: &AttentionDims,
        weights: &[f32],
        packed: &[f32],
        (out, at, out_stride): (Output, usize, usize),
        fresh: bool,
    ) {
        let AttentionDims { time, dim, .. } = *dims;
        for (row, rows, low, high) in self.strips(dims, ROWS) {
            let depth = high - low;
            if depth == 0 {
                for i in (row..row + rows).filter(|_| fresh) {
                    // SAFETY: a row of the block, the caller's promise.
                    unsafe { out.range(at + i * out_stride, dim) }.fill(0.0);
                }
                continue;
            }
            let left = weights[row * STRIDE + low..][..(rows - 1) * STRIDE + depth].as_ptr();
            for col in (0..dim).step_by(COLS) {
                let width = COLS.min(dim - col);
                let first = at + row * out_stride + col;
                out.at(first + (rows - 1) * out_stride + width - 1);
                let tile = Tile {
                    depth,
                    left,
                    right: packed[col * time + (self.key + low) * COLS..][..depth * COLS].as_ptr(),
                    right_stride: COLS,
                    next: left,
                    ahead: &[],
                    out: out.at(first),
                    out_stride,
                    rows,
                    width,
                    alpha: 1.0,
                    accumulate: !fresh,
                };
                // SAFETY: rows of the weights, part of a panel, and rows of
                // the output, whose last element is inside (checked).
                unsafe { tiles.multiply(&tile, rows, Rows::Strided(STRIDE, 1)) };
            }
        }
    }

    /// The queries that see any of the block's `rows` keys from `row` on.
    pub fn seeing(self, dims: &AttentionDims, row: usize, rows: usize) -> std::ops::Range<usize> {
        let (first, last) = (self.key + row, self.key + row + rows - 1);
        let begin = first.saturating_sub(self.query).min(self.queries);
        begin..last.saturating_add(dims.window).saturating_sub(self.query).min(self.queries)
    }

    /// out += transposed weights · packed, for the block's keys among the rows
    /// of all keys of one head, which are `out`; `packed` holds panels of the
    /// head's dimensions for the block's queries.
    ///
    /// # Panics
    /// If `out` does not hold the block's keys.
    pub fn transposed(
        self,
        tiles: Tiles,
        dims: &AttentionDims,
        weights: &[f32],
        packed: &[f32],
        out: &mut [f32],
    ) {
        let dim = dims.dim;
        let out = &mut out[self.key * dim..][..self.keys * dim];
        for row in (0..self.keys).step_by(ROWS) {
            let rows = ROWS.min(self.keys - row);
            let seeing = self.seeing(dims, row, rows);
            if seeing.is_empty() {
                continue;
            }
            let (begin, depth) = (seeing.start, seeing.len());
            let left = weights[begin * STRIDE + row..][..(depth - 1) * STRIDE + rows].as_ptr();
            for col in (0..dim).step_by(COLS) {
                let width = COLS.min(dim - col);
                let out = &mut out[row * dim + col..][..(rows - 1) * dim + width];
                let tile = Tile {
                    depth,
                    left,
                    right: packed[(col / COLS * self.queries + begin) * COLS..][..depth * COLS].as_ptr(),
                    right_stride: COLS,
                    next: left,
                    ahead: &[],
                    out: out.as_mut_ptr(),
                    out_stride: dim,
                    rows,
                    width,
                    alpha: 1.0,
                    accumulate: true,
                };
                // SAFETY: columns of the weights, part of a panel, and rows of
                // the output.
                unsafe { tiles.multiply(&tile, rows, Rows::Strided(1, STRIDE)) };
            }
        }
    }
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
    let rows = scores.chunks_exact_mut(STRIDE).take(block.queries);
    for (i, (row, ((highest, total), factor))) in rows.zip(states).enumerate() {
        let row = &mut row[..block.keys];
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
        *total = *total * *factor + sum::<FMA>(row);
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
    let rows = scores.chunks_exact_mut(STRIDE).zip(dp.chunks_exact_mut(STRIDE));
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
