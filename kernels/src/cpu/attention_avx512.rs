//! Causal attention with AVX-512: as [`super::attention`] and
//! [`super::attention_backward`], strip by strip of a tile's queries, so that
//! scores and what is made of them stay in L1. Of `f32`, or of bfloat16: then
//! all products are made of pairs. Scores, softmax and sums are `f32`;
//! probabilities and the gradients of scores are rounded to bfloat16 to be
//! multiplied (as FlashAttention-2 does).
//!
//! A pair is two neighbours of the inner dimension: of a head's dimensions in
//! scores, of keys where rows of weights are multiplied, and of queries where
//! their columns are. The block's first key and first query are even, so that
//! pairs of a block are pairs of the panels.
//!
//! Tiles of AMX read rows of their left operand: queries, output gradients and weights
//! as they are, 32 at a time, in steps of 32 elements. Weights that are rounded column
//! by column lie as a right operand does, so the gradients of keys and values are
//! summed turned: rows of a head's dimensions, and a column for each key.

use super::attention::{Block, KEYS, STRIDE, head_start, visible, whole_head};
use super::gemm_amx::{Amx, RowPair};
use super::gemm_avx512::{Avx512, Avx512Bf16, Weighed};
use super::matmul::Matrix;
use super::micro::Micro;
use super::moves::Moved;
use super::packing::{Pair, SLACK, Unit, pack_left, pack_right, prefetch_later, turn};
use super::packing_amx::pitch;
use super::rounding::narrow;
use super::simd::{LANES, ask, dot};
use super::softmax_avx512::{dot_pairs, gradient, round_row, round_rows, scale, softmax};
use super::tasks::Stage;
use super::tiles::Tile;
use super::{Level, Output, Split, level, scratch};
use crate::step::AttentionDims;

const COLS: usize = Avx512::COLS;
/// Key heads for each thread from which a task is one of them, with all queries
/// that share it: its panels stay in L2.
const EACH: usize = 4;
/// Rows ahead of the one that is written, when it is asked for.
const AHEAD: usize = 12;
const _: () = assert!(COLS == Avx512Bf16::COLS && COLS == Amx::COLS && KEYS.is_multiple_of(COLS));

/// What products are made of.
pub(crate) trait Kind: Unit {
    type Tile: Weighed;
    /// What its instructions need.
    const LEVEL: Level;
    /// Rows of a strip.
    const ROWS: usize = <Self::Tile as Micro>::ROWS;
    /// Queries of a block, forward: whole tiles, and even.
    const QUERIES: usize;
    /// Queries of a block, backward.
    const QUERIES_BACKWARD: usize;
    /// Elements that a tile's inner dimension begins and ends with a multiple of.
    const STEP: usize = Self::DEEP * <Self::Tile as Micro>::STEP;

    /// Of `f32`, as results are stored.
    fn narrow(from: &[f32], to: &mut [Self::Element]);

    /// Σ x · y; of equal lengths.
    fn dot(x: &[Self::Element], y: &[Self::Element]) -> f32;
}

impl Kind for f32 {
    type Tile = Avx512;
    const LEVEL: Level = Level::Avx512;
    const QUERIES: usize = 4 * Self::ROWS;
    const QUERIES_BACKWARD: usize = 8 * Self::ROWS;

    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn dot(x: &[f32], y: &[f32]) -> f32 {
        assert!(can::<f32>());
        dot::<true>(x, y)
    }
}

impl Kind for Pair {
    type Tile = Avx512Bf16;
    const LEVEL: Level = Level::Avx512Bf16;
    const QUERIES: usize = 4 * Self::ROWS;
    const QUERIES_BACKWARD: usize = 8 * Self::ROWS;

    fn narrow(from: &[f32], to: &mut [u16]) {
        narrow(from, to);
    }

    fn dot(x: &[u16], y: &[u16]) -> f32 {
        assert!(can::<Pair>());
        // SAFETY: the level.
        unsafe { dot_pairs(x, y) }
    }
}

impl Kind for RowPair {
    type Tile = Amx;
    const LEVEL: Level = Level::Amx;
    const QUERIES: usize = 2 * Self::ROWS;
    const QUERIES_BACKWARD: usize = 4 * Self::ROWS;

    fn narrow(from: &[f32], to: &mut [u16]) {
        narrow(from, to);
    }

    fn dot(x: &[u16], y: &[u16]) -> f32 {
        Pair::dot(x, y)
    }
}

/// Whether this machine has what it takes.
pub(crate) fn can<K: Kind>() -> bool {
    level() >= K::LEVEL
}

/// Floats of `depth` elements × `cols` columns in panels.
fn panels<K: Kind>(depth: usize, cols: usize) -> usize {
    units::<K>(depth) * cols.next_multiple_of(COLS)
}

/// Units that so many elements have in a panel.
fn units<K: Kind>(depth: usize) -> usize {
    depth.next_multiple_of(K::STEP) / K::DEEP
}

/// Floats from row to row of a packed left operand, or from strip to strip by its
/// rows.
fn pitch_of<K: Kind>(depth: usize) -> usize {
    if K::Tile::IN_ROWS { pitch(units::<K>(depth)) } else { units::<K>(depth) }
}

/// Floats of strips of `rows` rows of `depth` elements, in whole cache lines.
fn strips<K: Kind>(rows: usize, depth: usize) -> usize {
    let rows = if K::Tile::IN_ROWS { rows.next_multiple_of(K::ROWS) } else { rows };
    (rows * pitch_of::<K>(depth) + SLACK).next_multiple_of(LANES)
}

/// Packs `a` as left operands.
///
/// # Panics
/// If there is no room, or `a` leaves its slice.
fn left<K: Kind>(a: Matrix<K::Element>, to: &mut [f32]) {
    a.check();
    assert!(can::<K>() && to.len() >= strips::<K>(a.rows, a.cols));
    // SAFETY: the level; `a` is inside its slice, and there is room (checked).
    unsafe {
        match K::TO_ROWS {
            Some(copy) => copy(&a, to.as_mut_ptr()),
            None => pack_left::<K::Tile, K>(&a, to.as_mut_ptr()),
        }
    }
}

/// Packs `b` as right operands.
///
/// # Panics
/// As [`left`].
fn right<K: Kind>(b: Matrix<K::Element>, to: &mut [f32]) {
    b.check();
    assert!(can::<K>() && to.len() >= panels::<K>(b.rows, b.cols));
    let (units, done) = (units::<K>(b.rows), b.rows.div_ceil(K::DEEP));
    // SAFETY: as in `left`.
    unsafe { pack_right::<K::Tile, K>(&b, to.as_mut_ptr(), units * COLS, false) };
    if done < units {
        let panels = to.chunks_exact_mut(units * COLS).take(b.cols.div_ceil(COLS));
        panels.for_each(|panel| panel[done * COLS..].fill(0.0));
    }
}

/// Asks for `rows` rows of an output of which the first begins at `at`: they
/// are written when what is written into them has been computed.
fn prefetch_rows<T>(out: Moved<T>, at: usize, rows: usize, stride: usize, dim: usize) {
    for i in 0..rows {
        ask(out.at(at + i * stride), dim, true);
    }
}

/// Asks for rows of a head from position `t` on, `row` elements apart, into L2:
/// they are read by a later task.
fn prefetch_head<T>(
    of: &[T],
    dims: &AttentionDims,
    row: usize,
    (b, head): (usize, usize),
    t: usize,
    rows: usize,
) {
    for t in t..dims.time.min(t + rows) {
        let row = of.as_ptr().wrapping_add(head_start(dims, row, b, t, head));
        for line in (0..dims.dim).step_by(64 / size_of::<T>()) {
            prefetch_later(row.wrapping_add(line));
        }
    }
}

/// q, k, v; out; lse.
pub(crate) fn forward<K: Kind>(
    split: Split,
    [q, k, v]: [&[K::Element]; 3],
    out: &mut [K::Element],
    lse: &mut [f32],
    dims: &AttentionDims,
) {
    let AttentionDims { batch, time, heads, kv_heads, dim, rows: [q_row, k_row, v_row], .. } = *dims;
    let blocks = time.div_ceil(K::QUERIES);
    let group = heads / kv_heads;
    let (out, lse) = (Moved::new(out), Output::new(lse));
    let of_keys = panels::<K>(dim, time);
    let of_both = of_keys + panels::<K>(time, dim);
    let pack = |kv: usize, room: &mut [f32]| {
        let head = (kv / kv_heads, kv % kv_heads);
        let (keys, values) = room.split_at_mut(of_keys);
        right::<K>(whole_head(k, dims, k_row, head).t(), keys);
        right::<K>(whole_head(v, dims, v_row, head), values);
    };
    let block = |kv: usize, rest: usize, room: &[f32]| {
        let (b, kv_head) = (kv / kv_heads, kv % kv_heads);
        let (head, query) = (kv_head * group + rest / blocks, rest % blocks * K::QUERIES);
        // Asks for a part of what this thread reads next, likely.
        let next = kv + split.threads();
        let soon = |part: usize, t: usize, rows: usize| {
            if next < batch * kv_heads {
                let (b, kv_head) = (next / kv_heads, next % kv_heads);
                match part {
                    0 => prefetch_head(q, dims, q_row, (b, kv_head * group + rest / blocks), t, rows),
                    _ if rest >= blocks => {}
                    1 => prefetch_head(k, dims, k_row, (b, kv_head), t, rows),
                    _ => prefetch_head(v, dims, v_row, (b, kv_head), t, rows),
                }
            }
        };
        query_block::<K>(q, room.split_at(of_keys), (out, lse), dims, (b, head, query), soon);
    };
    let all = batch * kv_heads;
    if all >= EACH * split.threads() {
        return split.each(all, |kv| {
            scratch::with(of_both, |room| {
                pack(kv, room);
                (0..group * blocks).for_each(|rest| block(kv, rest, room));
            });
        });
    }
    let most = (scratch::KEPT / of_both).max(1);
    for first in (0..all).step_by(most) {
        let packs = most.min(all - first);
        scratch::with(packs * of_both, |room| {
            let room = Output::new(room);
            let packed = Stage::default();
            split.each(packs + packs * group * blocks, |task| {
                let Some(task) = task.checked_sub(packs) else {
                    let _task = packed.task();
                    // SAFETY: this key head's panels, which are this task's.
                    pack(first + task, unsafe { room.range(task * of_both, of_both) });
                    return;
                };
                let (kv, rest) = (task / (group * blocks), task % (group * blocks));
                packed.wait(packs);
                // SAFETY: all were packed above, and are only read from now on.
                block(first + kv, rest, unsafe { room.read(kv * of_both, of_both) });
            });
        });
    }
}

/// One block of queries against all keys that it sees. `soon` asks for a part
/// of what comes later (0 to 2), for rows from a position on: a few cache lines
/// at a time, which the products do not wait for.
fn query_block<K: Kind>(
    q: &[K::Element],
    (keys_packed, values_packed): (&[f32], &[f32]),
    (out, lse): (Moved<K::Element>, Output),
    dims: &AttentionDims,
    (b, head, query): (usize, usize, usize),
    soon: impl Fn(usize, usize, usize),
) {
    let AttentionDims { time, heads, dim, rows: [q_row, ..], .. } = *dims;
    let stride = heads * dim;
    let queries = K::QUERIES.min(time - query);
    let (q_at, at) = (head_start(dims, q_row, b, query, head), head_start(dims, stride, b, query, head));
    let of_left = strips::<K>(K::QUERIES, dim);
    assert!(can::<K>());
    // SAFETY: the level (checked).
    let _registers = unsafe { K::Tile::begin() };
    scratch::with(of_left + 2 * K::ROWS * STRIDE + K::QUERIES * (dim + 2), |room| {
        let (q_left, room) = room.split_at_mut(of_left);
        let (scores, room) = room.split_at_mut(K::ROWS * STRIDE);
        let (weights, room) = room.split_at_mut(K::ROWS * STRIDE);
        let (sums, room) = room.split_at_mut(K::QUERIES * dim);
        let (highest, total) = room.split_at_mut(K::QUERIES);
        highest.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        left::<K>(Matrix::strided(&q[q_at..], queries, dim, q_row), q_left);
        let mut key = dims.first(query) / COLS * COLS;
        let mut fresh = true;
        while key < query + queries {
            let keys = KEYS.min(query + queries - key);
            let last = key + keys == query + queries;
            let block = Block { query, key, queries, keys };
            for strip in block.strips(dims, K::ROWS).map(Strip::from) {
                if last {
                    prefetch_rows(out, at + strip.row * stride, strip.rows, stride, dim);
                }
                let soon = |part| {
                    if last {
                        soon(part, query + strip.row, strip.rows)
                    }
                };
                let sums = &mut sums[strip.row * dim..][..strip.rows * dim];
                strip.scores::<K>(block, dims, q_left, keys_packed, dims.scale, scores);
                soon(0);
                for i in 0..strip.rows {
                    let (row, seeing) = strip.seeing(block, dims, i);
                    let state = (&mut highest[strip.row + i], &mut total[strip.row + i]);
                    // SAFETY: the level has AVX-512F (`left` checked it).
                    let factor = unsafe { softmax(&mut scores[row], seeing, state.0, state.1) };
                    if !fresh {
                        // SAFETY: as above.
                        unsafe { scale(&mut sums[i * dim..][..dim], factor) };
                    }
                }
                soon(1);
                let weights = strip.along::<K>(scores, weights);
                strip.weigh::<K>(block, dims, weights, values_packed, sums, fresh);
                soon(2);
                for (i, row) in sums.chunks_exact_mut(dim).enumerate().filter(|_| last) {
                    // SAFETY: as above.
                    unsafe { scale(row, 1.0 / total[strip.row + i]) };
                    // SAFETY: rows of this task's queries and head only.
                    K::narrow(row, unsafe { out.range(at + (strip.row + i) * stride, dim) });
                }
            }
            fresh = false;
            key += keys;
        }
        // SAFETY: the entries of this task's queries and head only.
        let lse = unsafe { lse.range((b * heads + head) * time + query, queries) };
        for ((lse, highest), total) in lse.iter_mut().zip(highest).zip(total) {
            *lse = *highest + total.ln();
        }
    });
}

/// Rows of a block's queries, a tile of them at most, and the keys of the block
/// that any of them sees.
#[derive(Clone, Copy)]
struct Strip {
    row: usize,
    rows: usize,
    low: usize,
    high: usize,
}

impl From<(usize, usize, usize, usize)> for Strip {
    fn from((row, rows, low, high): (usize, usize, usize, usize)) -> Strip {
        Strip { row, rows, low, high }
    }
}

impl Strip {
    /// The first key of its tiles of scores.
    fn first(self) -> usize {
        self.low / COLS * COLS
    }

    /// The end of its tiles of scores.
    fn end(self) -> usize {
        self.high.next_multiple_of(COLS).max(self.first())
    }

    /// Where the scores of its row `i` lie, and which of them the row sees.
    fn seeing(
        self,
        block: Block,
        dims: &AttentionDims,
        i: usize,
    ) -> (std::ops::Range<usize>, (usize, usize)) {
        let (low, high) = visible(dims, block.query + self.row + i, block.key, block.keys);
        let first = self.first();
        (i * STRIDE + first..i * STRIDE + self.end(), (low.saturating_sub(first), high.saturating_sub(first)))
    }

    /// alpha · left · packed for its tiles; `left` holds the block's strips,
    /// `packed` panels of all keys.
    fn scores<K: Kind>(
        self,
        block: Block,
        dims: &AttentionDims,
        left: &[f32],
        packed: &[f32],
        alpha: f32,
        scores: &mut [f32],
    ) {
        let (units, pitch) = (units::<K>(dims.dim), pitch_of::<K>(dims.dim));
        let strip = left[self.row * pitch..][..self.rows * pitch].as_ptr();
        for col in (self.first()..self.high).step_by(COLS) {
            let out = &mut scores[col..][..(self.rows - 1) * STRIDE + COLS];
            let narrow = self.high - col <= COLS / 2;
            let tile = Tile {
                depth: units,
                left: strip,
                right: packed[(block.key + col) * units..][..units * COLS].as_ptr(),
                right_stride: COLS,
                next: strip,
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride: STRIDE,
                rows: self.rows,
                width: if narrow { COLS / 2 } else { COLS },
                alpha,
                accumulate: false,
            };
            // SAFETY: the level (`left` checked it); a packed strip, a panel,
            // and rows of the scores.
            unsafe { K::Tile::packed(&tile, pitch) };
        }
    }

    /// out (=|+=) weights · packed, dense rows of the strip's queries, as are
    /// the weights; `packed` holds panels of the head's dimensions for all keys.
    fn weigh<K: Kind>(
        self,
        block: Block,
        dims: &AttentionDims,
        weights: &[f32],
        packed: &[f32],
        out: &mut [f32],
        fresh: bool,
    ) {
        let AttentionDims { time, dim, .. } = *dims;
        let units = units::<K>(time);
        let (low, high) = (self.low / K::STEP * K::STEP, self.high.next_multiple_of(K::STEP));
        let (low, depth) = (low / K::DEEP, high.saturating_sub(low) / K::DEEP);
        if self.low == self.high {
            if fresh {
                out.fill(0.0);
            }
            return;
        }
        let left = weights[low..][..(self.rows - 1) * K::Tile::APART + depth].as_ptr();
        for col in (0..dim).step_by(COLS) {
            let width = COLS.min(dim - col);
            let out = &mut out[col..][..(self.rows - 1) * dim + width];
            let at = col * units + (block.key / K::DEEP + low) * COLS;
            let tile = Tile {
                depth,
                left,
                right: packed[at..][..depth * COLS].as_ptr(),
                right_stride: COLS,
                next: left,
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride: dim,
                rows: self.rows,
                width,
                alpha: 1.0,
                accumulate: !fresh,
            };
            // SAFETY: the level (`left` checked it); rows of the weights, part
            // of a panel, and rows of the output.
            unsafe { K::Tile::along(&tile) };
        }
    }
}

/// out += transposed weights · packed, for the block's keys among the rows of
/// all keys of one head, which are `out`; `packed` holds panels of the head's
/// dimensions for the block's queries. Where tiles read rows, `packed` are those of
/// the head's dimensions, and so are `out`'s, of whole tiles of keys.
fn weigh_transposed<K: Kind>(
    block: Block,
    dims: &AttentionDims,
    weights: &[f32],
    packed: &[f32],
    out: &mut [f32],
) {
    let dim = dims.dim;
    let all = dims.time.next_multiple_of(COLS);
    let (units, pitch) = (block.queries.div_ceil(K::DEEP), pitch_of::<K>(block.queries));
    let (tall, inner) = if K::Tile::IN_ROWS { (COLS, K::ROWS) } else { (K::ROWS, COLS) };
    for key in (0..block.keys).step_by(tall) {
        let keys = tall.min(block.keys - key);
        let seeing = block.seeing(dims, key, keys);
        if seeing.is_empty() {
            continue;
        }
        let begin = seeing.start / K::STEP * K::STEP / K::DEEP;
        let depth = seeing.end.next_multiple_of(K::STEP) / K::DEEP - begin;
        for at in (0..dim).step_by(inner) {
            let width = inner.min(dim - at);
            let weights = &weights[begin * STRIDE + key..][..(depth - 1) * STRIDE + keys];
            // The left operand, the right one, and from row to row of both.
            let tile = if K::Tile::IN_ROWS {
                let out = &mut out[at * all + block.key + key..][..(width - 1) * all + COLS];
                let left = packed[at * pitch + begin..][..(width - 1) * pitch + depth].as_ptr();
                (left, weights.as_ptr(), STRIDE, out, all, width, COLS)
            } else {
                let out = &mut out[(block.key + key) * dim + at..][..(keys - 1) * dim + width];
                let right = packed[at * units + begin * COLS..][..depth * COLS].as_ptr();
                (weights.as_ptr(), right, COLS, out, dim, keys, width)
            };
            let (left, right, right_stride, out, out_stride, rows, width) = tile;
            let tile = Tile {
                depth,
                left,
                right,
                right_stride,
                next: left,
                ahead: &[],
                out: out.as_mut_ptr(),
                out_stride,
                rows,
                width,
                alpha: 1.0,
                accumulate: true,
            };
            // SAFETY: the level (`left` checked it); columns of the weights,
            // part of a panel, and rows of the output; or rows of `packed`, pairs
            // of the weights, and rows of the output.
            unsafe {
                if K::Tile::IN_ROWS {
                    K::Tile::packed(&tile, pitch);
                } else {
                    K::Tile::across(&tile);
                }
            }
        }
    }
}

/// What the forward pass read and wrote, and the gradient of its output.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, T> {
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
    pub out: &'a [T],
    pub lse: &'a [f32],
    pub dout: &'a [T],
}

/// A key head: panels of keys (k and v), and of the dimensions of k.
struct Packed<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    key_rows: &'a [f32],
}

/// Gradients of q, k and v. A task owns a key head, and with it the query
/// heads that share it.
pub(crate) fn backward<K: Kind>(
    split: Split,
    inputs: Inputs<K::Element>,
    [dq, dk_out, dv_out]: [Moved<K::Element>; 3],
    dims: &AttentionDims,
) {
    let [q_row, k_row, v_row] = dims.rows;
    split.each(dims.batch * dims.kv_heads, |task| {
        let (b, kv_head) = (task / dims.kv_heads, task % dims.kv_heads);
        let (of_keys, of_rows) = (panels::<K>(dims.dim, dims.time), panels::<K>(dims.time, dims.dim));
        let of_sums = dims.time.next_multiple_of(COLS) * dims.dim;
        assert!(can::<K>());
        // SAFETY: the level (checked).
        let _registers = unsafe { K::Tile::begin() };
        let of_turned = if K::Tile::IN_ROWS { of_sums } else { 0 };
        scratch::with(2 * (of_keys + of_sums) + of_rows + of_turned, |room| {
            let (keys, room) = room.split_at_mut(of_keys);
            let (values, room) = room.split_at_mut(of_keys);
            let (key_rows, room) = room.split_at_mut(of_rows);
            let (turned, sums) = room.split_at_mut(of_turned);
            sums.fill(0.0);
            let (dk, dv) = sums.split_at_mut(of_sums);
            let k = whole_head(inputs.k, dims, k_row, (b, kv_head));
            right::<K>(k.t(), keys);
            right::<K>(whole_head(inputs.v, dims, v_row, (b, kv_head)).t(), values);
            right::<K>(k, key_rows);
            let packed = Packed { keys, values, key_rows };
            let group = dims.heads / dims.kv_heads;
            for head in kv_head * group..(kv_head + 1) * group {
                let last = head + 1 == (kv_head + 1) * group;
                // As in the forward pass.
                let soon = |part: usize, t: usize, rows: usize| {
                    let next = if last { task + split.threads() } else { task };
                    let (b, next) = (next / dims.kv_heads, next % dims.kv_heads);
                    let next_head = if last { next * group } else { head + 1 };
                    let from = |of, row, head| {
                        if b < dims.batch {
                            prefetch_head(of, dims, row, (b, head), t, rows);
                        }
                    };
                    let dense = dims.heads * dims.dim;
                    match part {
                        0 => from(inputs.q, q_row, next_head),
                        1 => from(inputs.dout, dense, next_head),
                        2 => from(inputs.out, dense, next_head),
                        _ if !last => {}
                        3 => from(inputs.k, k_row, next),
                        _ => from(inputs.v, v_row, next),
                    }
                };
                for query in (0..dims.time).step_by(K::QUERIES_BACKWARD) {
                    gradient_block::<K>(inputs, &packed, (dq, dk, dv), dims, (b, head, query), soon);
                }
            }
            if K::Tile::IN_ROWS {
                let all = dims.time.next_multiple_of(COLS);
                for sums in [&mut *dk, &mut *dv] {
                    let room = &mut turned[..sums.len()];
                    room.copy_from_slice(sums);
                    assert!(room.len() == dims.dim * all);
                    // SAFETY: AVX2 is part of the level; both are as long (checked).
                    unsafe { turn(room, dims.dim, all, sums) };
                }
            }
            let rows = dk.chunks_exact(dims.dim).zip(dv.chunks_exact(dims.dim)).take(dims.time);
            for (t, (dk, dv)) in rows.enumerate() {
                let at = |row, t| head_start(dims, row, b, t, kv_head);
                if t + AHEAD < dims.time {
                    prefetch_rows(dk_out, at(k_row, t + AHEAD), 1, k_row, dims.dim);
                    prefetch_rows(dv_out, at(v_row, t + AHEAD), 1, v_row, dims.dim);
                }
                // SAFETY: rows of this task's key head only.
                unsafe {
                    K::narrow(dk, dk_out.range(at(k_row, t), dims.dim));
                    K::narrow(dv, dv_out.range(at(v_row, t), dims.dim));
                }
            }
        });
    });
}

/// The share of one block of queries of one head, run by the task that owns its
/// key head, whose gradients `dk` and `dv` are; `soon` as in [`query_block`],
/// of parts 0 to 4.
fn gradient_block<K: Kind>(
    inputs: Inputs<K::Element>,
    packed: &Packed,
    (dq, dk, dv): (Moved<K::Element>, &mut [f32], &mut [f32]),
    dims: &AttentionDims,
    (b, head, query): (usize, usize, usize),
    soon: impl Fn(usize, usize, usize),
) {
    let most = K::QUERIES_BACKWARD;
    let AttentionDims { time, heads, dim, scale: by, rows: [q_row, ..], .. } = *dims;
    let stride = heads * dim;
    let queries = most.min(time - query);
    let (q_at, at) = (head_start(dims, q_row, b, query, head), head_start(dims, stride, b, query, head));
    let q_block = Matrix::strided(&inputs.q[q_at..], queries, dim, q_row);
    let dout_block = Matrix::strided(&inputs.dout[at..], queries, dim, stride);
    let lse = &inputs.lse[(b * heads + head) * time + query..][..queries];
    let of_left = strips::<K>(most, dim);
    let of_right = if K::Tile::IN_ROWS { strips::<K>(dim, most) } else { panels::<K>(most, dim) };
    // Scores of `f32` become weights where they are; others strip by strip.
    let (of_scores, of_columns) = match K::DEEP {
        1 => (most * STRIDE, 0),
        _ => (K::ROWS * STRIDE, most / K::DEEP * STRIDE),
    };
    let of_weights = 2 * (of_scores + of_columns) + K::ROWS * STRIDE;
    scratch::with(2 * (of_left + of_right) + of_weights + most * (dim + 1), |room| {
        let (q_left, room) = room.split_at_mut(of_left);
        let (dout_left, room) = room.split_at_mut(of_left);
        let (q_right, room) = room.split_at_mut(of_right);
        let (dout_right, room) = room.split_at_mut(of_right);
        let (p_columns, room) = room.split_at_mut(of_columns);
        let (ds_columns, room) = room.split_at_mut(of_columns);
        let (scores, room) = room.split_at_mut(of_scores);
        let (dp, room) = room.split_at_mut(of_scores);
        let (weights, room) = room.split_at_mut(K::ROWS * STRIDE);
        let (sums, delta) = room.split_at_mut(most * dim);
        let delta = &mut delta[..queries];
        left::<K>(q_block, q_left);
        left::<K>(dout_block, dout_left);
        // What columns of weights are multiplied by: for sums that lie turned.
        let beside = |block: Matrix<K::Element>, to: &mut [f32]| match K::Tile::IN_ROWS {
            true => left::<K>(block.t(), to),
            false => right::<K>(block, to),
        };
        beside(q_block, q_right);
        beside(dout_block, dout_right);
        for (i, delta) in delta.iter_mut().enumerate() {
            let row = at + i * stride..at + i * stride + dim;
            *delta = by * K::dot(&inputs.dout[row.clone()], &inputs.out[row]);
        }
        let mut key = dims.first(query) / COLS * COLS;
        let mut fresh = true;
        while key < query + queries {
            let keys = KEYS.min(query + queries - key);
            let last = key + keys == query + queries;
            let block = Block { query, key, queries, keys };
            for strip in block.strips(dims, K::ROWS).map(Strip::from) {
                if last {
                    prefetch_rows(dq, q_at + strip.row * q_row, strip.rows, q_row, dim);
                }
                let soon = |part| {
                    if last {
                        soon(part, query + strip.row, strip.rows)
                    }
                };
                let at = if K::DEEP == 1 { strip.row * STRIDE } else { 0 };
                let (scores, dp) = (&mut scores[at..], &mut dp[at..]);
                strip.scores::<K>(block, dims, q_left, packed.keys, by, scores);
                soon(0);
                strip.scores::<K>(block, dims, dout_left, packed.values, by, dp);
                soon(1);
                for i in 0..strip.rows {
                    let (row, seeing) = strip.seeing(block, dims, i);
                    let (lse, delta) = (lse[strip.row + i], delta[strip.row + i]);
                    // SAFETY: the level has AVX-512F (`left` checked it).
                    unsafe { gradient(&mut scores[row.clone()], &mut dp[row], seeing, lse, delta) };
                }
                soon(2);
                strip.columns::<K>(scores, p_columns);
                soon(3);
                strip.columns::<K>(dp, ds_columns);
                let weights = strip.along::<K>(dp, weights);
                soon(4);
                let sums = &mut sums[strip.row * dim..][..strip.rows * dim];
                strip.weigh::<K>(block, dims, weights, packed.key_rows, sums, fresh);
                for (i, row) in sums.chunks_exact(dim).enumerate().filter(|_| last) {
                    // SAFETY: rows of this task's heads only.
                    K::narrow(row, unsafe { dq.range(q_at + (strip.row + i) * q_row, dim) });
                }
            }
            let (p, ds) = if K::DEEP == 1 { (&*scores, &*dp) } else { (&*p_columns, &*ds_columns) };
            weigh_transposed::<K>(block, dims, p, dout_right, dv);
            weigh_transposed::<K>(block, dims, ds, q_right, dk);
            fresh = false;
            key += keys;
        }
    });
}

impl Strip {
    /// Its rows of weights as tiles read them along.
    fn along<'a, K: Kind>(self, weights: &'a [f32], rounded: &'a mut [f32]) -> &'a [f32] {
        if K::DEEP == 1 {
            return weights;
        }
        let (first, len) = (self.first(), self.end() - self.first());
        for i in 0..self.rows {
            let to = &mut rounded[i * K::Tile::APART + first / K::DEEP..][..len / K::DEEP];
            // SAFETY: the level, of which pairs are (`left` checked it).
            unsafe { round_row(&weights[i * STRIDE + first..][..len], to) };
        }
        rounded
    }

    /// Puts its weights where tiles read columns of the block's, and 0 beside
    /// them: tiles of keys begin elsewhere than those of scores.
    fn columns<K: Kind>(self, weights: &mut [f32], columns: &mut [f32]) {
        const NONE: [f32; KEYS] = [0.0; KEYS];
        let (first, end) = (self.first(), self.end());
        let beside = |row: &mut [f32]| {
            row[first.saturating_sub(COLS)..first].fill(0.0);
            row[end..(end + COLS).min(KEYS)].fill(0.0);
        };
        if K::DEEP == 1 {
            return weights.chunks_exact_mut(STRIDE).take(self.rows).for_each(beside);
        }
        let columns = columns[self.row / K::DEEP * STRIDE..].chunks_exact_mut(STRIDE);
        for (i, to) in (0..self.rows.next_multiple_of(K::STEP)).step_by(2).zip(columns) {
            beside(to);
            if i >= self.rows {
                to[first..end].fill(0.0);
                continue;
            }
            let row = |i: usize| &weights[i * STRIDE..][first..end];
            let second = if i + 1 < self.rows { row(i + 1) } else { &NONE[first..end] };
            // SAFETY: the level, of which pairs are (`left` checked it).
            unsafe { round_rows(row(i), second, &mut to[first..end]) };
        }
    }
}
