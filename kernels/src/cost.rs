//! Device fuel: what an operation costs, known before it runs.
//!
//! `fuel = flops + 4 · bytes + 10,000 + what is not of either kind`, for each
//! operation, saturating at `u64::MAX`. It is a pure function of shapes and
//! node lists: no clock, no device, no data. One unit is about one
//! floating-point operation of a reference machine that does four of them in
//! the time in which it moves a byte (200 GFLOP/s and 50 GB/s), and 10,000 of
//! them while it starts an operation (50 ns). So on such a machine 2·10¹¹ units
//! are one second.
//!
//! Flops: a matrix product costs 2·m·n·k; attention counts only the positions
//! inside the causal window; functions that take several instructions weigh
//! more, by [`unary_weight`] and [`binary_weight`]. Bytes: each operand once,
//! an accumulated output twice.
//!
//! The rest is what tiny shapes are made of: a row ([`PER_ROW`]), an access to
//! a place that nothing has brought near ([`PER_PLACE`]), a product of its own
//! ([`PER_BLOCK`]), a tile of an attention ([`PER_TILE`]), an instruction of a
//! row kernel on a tile ([`PER_INSTRUCTION`]). In a model they are a few in a
//! hundred. Without them a batch of products of one number each would hold a
//! device a thousand times longer than its flops and bytes pay for;
//! `examples/fuel.rs` measures how well they meet the worst shapes, and
//! `tests/device/fuel.rs` bounds it.

use crate::op::{Activation, BinaryOp, DType, Distribution, ReduceAxis, UnaryOp};
use crate::step::{AttentionDims, CrossEntropyDims, GroupDims, MatMulDims, Step};
use crate::table::Span;

/// Fuel of starting any operation.
pub const LAUNCH: u64 = 10_000;
/// Fuel of moving one byte.
pub const PER_BYTE: u64 = 4;
/// Fuel of beginning a row of an operation that goes by rows.
pub const PER_ROW: u64 = 500;
/// Fuel of going to a place in memory that may lie anywhere.
pub const PER_PLACE: u64 = 2_000;
/// Fuel of beginning a matrix product inside of an operation.
pub const PER_BLOCK: u64 = 20_000;
/// Fuel of a tile of 64 queries and 64 keys, besides the pairs in its window.
pub const PER_TILE: u64 = 40_000;
/// Fuel of beginning an instruction of a row kernel on a tile.
pub const PER_INSTRUCTION: u64 = 200;
/// Fuel of a row of logits, besides the logits.
const PER_LOSS: u64 = 8_000;
/// Fuel of an angle of a rotary embedding: a sine and a cosine.
const PER_ANGLE: u64 = 400;
/// Flops of one exponential, logarithm, hyperbolic tangent or sigmoid.
pub const TRANSCENDENTAL: u64 = 12;

/// Flops of one element of a unary node.
pub const fn unary_weight(op: UnaryOp) -> u64 {
    match op {
        UnaryOp::Negate
        | UnaryOp::Absolute
        | UnaryOp::Square
        | UnaryOp::Relu
        | UnaryOp::Step
        | UnaryOp::Floor => 1,
        UnaryOp::Reciprocal | UnaryOp::SquareRoot | UnaryOp::ReciprocalSquareRoot => 4,
        UnaryOp::Exponential | UnaryOp::Logarithm | UnaryOp::Tanh | UnaryOp::Sigmoid => TRANSCENDENTAL,
        UnaryOp::Sine | UnaryOp::Cosine => 64,
    }
}

/// Flops of one element of a binary node.
pub const fn binary_weight(op: BinaryOp) -> u64 {
    match op {
        BinaryOp::Divide => 4,
        BinaryOp::Power => 64,
        _ => 1,
    }
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1u64, |n, &f| n.saturating_mul(f as u64))
}

fn elements(spans: &[&Span]) -> u64 {
    spans.iter().fold(0u64, |n, s| n.saturating_add(s.len as u64))
}

fn total(flops: u64, elements: u64) -> u64 {
    elements.saturating_mul(4 * PER_BYTE).saturating_add(flops).saturating_add(LAUNCH)
}

/// Pairs (query, key) inside the causal window of one head:
/// Σ_t min(t + 1, window).
pub(crate) fn visible_pairs(dims: &AttentionDims) -> u64 {
    let (t, w) = (dims.time as u64, dims.window as u64);
    let ramp = w.saturating_mul(w.saturating_add(1)) / 2;
    ramp.saturating_add(w.saturating_mul(t - w))
}

fn attention_flops(dims: &AttentionDims, products: u64) -> u64 {
    let per_pair = (2 * products).saturating_mul(dims.dim as u64).saturating_add(TRANSCENDENTAL);
    let pairs = visible_pairs(dims).saturating_mul(per_pair);
    let tiles = tiles(dims).saturating_mul(PER_TILE).saturating_mul(products / 2);
    product(&[dims.batch, dims.heads]).saturating_mul(pairs.saturating_add(tiles))
}

/// Tiles of 64 queries and 64 keys that one head touches.
fn tiles(dims: &AttentionDims) -> u64 {
    const SIDE: u64 = 64;
    let (time, window) = (dims.time as u64, dims.window as u64);
    // Of the n-th 64 queries: their own keys, and those of the window before.
    let whole = time.div_ceil(SIDE);
    let before = window.saturating_sub(1).div_ceil(SIDE);
    // Σ min(n, before) + 1 for n below `whole`.
    let ramp = before.min(whole);
    let growing = ramp.saturating_mul(ramp.saturating_add(1)) / 2;
    growing.saturating_add((whole - ramp).saturating_mul(before.saturating_add(1)))
}

fn cross_entropy_flops(dims: &CrossEntropyDims, products: u64) -> u64 {
    let transcendental = if dims.softcap == 0.0 { 1 } else { 2 } * TRANSCENDENTAL;
    let per_logit = (2 * products).saturating_mul(dims.channels as u64).saturating_add(transcendental);
    let rows = all(&[dims.rows], PER_LOSS);
    product(&[dims.rows, dims.vocabulary]).saturating_mul(per_logit).saturating_add(rows)
}

/// Elements of four bytes that take as much memory as `len` of `dtype`.
fn words_in(len: usize, dtype: DType) -> u64 {
    match dtype {
        DType::Bf16 => (len as u64).div_ceil(2),
        DType::F32 | DType::I32 => len as u64,
    }
}

/// [`words_in`] a span.
fn words(span: &Span, dtype: DType) -> u64 {
    words_in(span.len, dtype)
}

/// [`words_in`] `each` tensors as large as q and as many as large as k.
fn heads_moved(dims: &AttentionDims, each: u64) -> u64 {
    let [of_q, of_k] = dims.elements().map(|len| words_in(len, dims.dtype).saturating_mul(each));
    of_q.saturating_add(of_k)
}

/// [`words`] of all.
fn words_of(spans: &[&Span], dtype: DType) -> u64 {
    spans.iter().fold(0u64, |n, span| n.saturating_add(words(span, dtype)))
}

/// Sides of the largest block of a product.
const BLOCK: usize = 512;

fn matmul_cost(a: &Span, b: &Span, out: &Span, dims: &MatMulDims) -> (u64, u64) {
    let [da, db, dout] = dims.dtypes;
    // What is stored in half the bytes may have to be written out whole.
    let moved = |span: &Span, dtype| match dtype {
        DType::Bf16 => words(span, dtype).saturating_add(product(&[2, span.len])),
        DType::F32 | DType::I32 => words(span, dtype),
    };
    let moved = moved(a, da).saturating_add(moved(b, db)).saturating_add(moved(out, dout));
    let blocks = product(&[dims.batch, dims.m.div_ceil(BLOCK), dims.n.div_ceil(BLOCK)]);
    let flops = product(&[2, dims.batch, dims.m, dims.n, dims.k]);
    (flops.saturating_add(blocks.saturating_mul(PER_BLOCK)), moved)
}

/// So many of something that costs `each`.
fn all(count: &[usize], each: u64) -> u64 {
    product(count).saturating_mul(each)
}

/// Flops of an activation's element, or of its derivative's.
const fn activation_weight(activation: Activation, backward: bool) -> u64 {
    let forward = match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::ReluSquared => 2,
        Activation::Gelu => TRANSCENDENTAL + 6,
        Activation::Silu => TRANSCENDENTAL + 1,
    };
    if backward { forward + 4 } else { forward }
}

/// Of the longest that the groups can be: all rows.
fn grouped_flops(dims: &GroupDims) -> u64 {
    let begun = all(&[dims.groups], PER_BLOCK).saturating_add(all(&[dims.rows], PER_ROW));
    product(&[2, dims.rows, dims.n, dims.k]).saturating_add(begun)
}

/// `each` flops of every element, and `rows` rows.
fn by_rows(span: &Span, each: usize, rows: usize) -> u64 {
    product(&[span.len, each]).saturating_add(all(&[rows], PER_ROW))
}

/// Fuel of one step.
pub(crate) fn fuel(step: &Step) -> u64 {
    match step {
        Step::Fill { dst, dtype, .. } => total(0, words(dst, *dtype)),
        Step::Random { dst, distribution, .. } => {
            // A normal takes a logarithm, a root and a sine.
            let each = if *distribution == Distribution::Normal { 600 } else { 100 };
            total(all(&[dst.len], each), elements(&[dst]))
        }
        Step::Copy { src, dst, from, to } => total(0, words(src, *from).saturating_add(words(dst, *to))),
        Step::Columns { rows, width, accumulate, .. } => {
            let moved = if *accumulate { 3 } else { 2 };
            total(all(&[*rows], PER_PLACE), product(&[*rows, *width, moved]))
        }
        Step::Transpose { src, dst, batch, cols, .. } => {
            let strips = all(&[*batch, cols.div_ceil(32)], PER_ROW);
            total(strips.saturating_add(all(&[src.len], 64)), elements(&[src, dst]))
        }
        Step::MatMul { a, b, out, dims, accumulate } => {
            let again = if *accumulate { words(out, dims.dtypes[2]) } else { 0 };
            let (flops, moved) = matmul_cost(a, b, out, dims);
            total(flops, moved.saturating_add(again))
        }
        Step::MatMulFused { a, b, out, dims, bias, residual, pre, activation, backward, .. } => {
            let (flops, moved) = matmul_cost(a, b, out, dims);
            let extra = [bias, residual, pre].into_iter().flatten();
            let moved = extra.fold(moved, |n, span| n.saturating_add(span.len as u64));
            let weight = activation_weight(*activation, *backward).saturating_add(2);
            let rows = all(&[dims.batch, dims.m, dims.n.div_ceil(BLOCK)], PER_ROW);
            let ends = weight.saturating_mul(out.len as u64).saturating_add(rows);
            total(flops.saturating_add(ends), moved)
        }
        Step::GroupedMatMul { a, b, starts, out, dims, accumulate, .. } => {
            let again = if *accumulate { out.len as u64 } else { 0 };
            total(grouped_flops(dims), elements(&[a, b, starts, out]).saturating_add(again))
        }
        Step::GroupedMatMulWeight { a, b, starts, out, dims, accumulate } => {
            let again = if *accumulate { out.len as u64 } else { 0 };
            total(grouped_flops(dims), elements(&[a, b, starts, out]).saturating_add(again))
        }
        Step::TopK { x, values, indices, k, .. } => {
            // At most all k are moved for each; to compare costs more.
            total(product(&[x.len, k.saturating_add(200)]), elements(&[x, values, indices]))
        }
        Step::TopKBackward { dvalues, indices, dx, .. } => {
            total(all(&[dvalues.len], 100), elements(&[dvalues, indices, dx, dx]))
        }
        Step::SortByKey { keys, sources, places, starts, .. } => {
            let begun = all(&[keys.len], PER_PLACE).saturating_add(all(&[starts.len], PER_ROW));
            total(begun, elements(&[keys, keys, sources, places, starts, starts]))
        }
        Step::LayerNorm { x, gain, bias, out, mean, inv_std, rows, .. } => {
            let each = 6 + gain.iter().len() + bias.iter().len();
            total(by_rows(x, each, *rows), elements(&[x, out, mean, inv_std]))
        }
        Step::LayerNormBackward {
            x, gain, mean, inv_std, dout, dx, dgain, dbias, accumulate, rows, ..
        } => {
            let each = 9 + gain.iter().len() + 2 * dgain.iter().len() + dbias.iter().len();
            let again = if *accumulate { dx.len as u64 } else { 0 };
            total(by_rows(x, each, *rows), elements(&[x, mean, inv_std, dout, dx]).saturating_add(again))
        }
        Step::RopeNorm { out, inv_rms, dims, .. } => {
            let table = all(&[dims.time, dims.dim / 2], PER_ANGLE);
            total(by_rows(out, 6, inv_rms.len).saturating_add(table), elements(&[out, out, inv_rms]))
        }
        Step::RopeNormBackward { out, inv_rms, dout, dims, accumulate, .. } => {
            let again = if *accumulate { out.len as u64 } else { 0 };
            let table = all(&[dims.time, dims.dim / 2], PER_ANGLE);
            let moved = elements(&[out, out, inv_rms, dout]).saturating_add(again);
            total(by_rows(out, 9, inv_rms.len).saturating_add(table), moved)
        }
        Step::RowMap { program, inputs, stores } => {
            let dtypes = program.input_types.iter().chain(&program.store_types);
            let (mut flops, mut moved) = (program.flops, 0u64);
            for (span, &dtype) in inputs.iter().chain(stores).zip(dtypes) {
                moved = moved.saturating_add(words(span, dtype));
                if dtype == DType::Bf16 {
                    // To be widened or rounded.
                    flops = flops.saturating_add(product(&[2, span.len]));
                }
            }
            total(flops, moved)
        }
        Step::Reduce { src, dst, rows, axis, .. } => {
            let rows = if *axis == ReduceAxis::All { 0 } else { *rows };
            total(by_rows(src, 1, rows), elements(&[src, dst, dst]))
        }
        Step::RmsNorm { x, out, inv_rms, rows, .. } => {
            total(by_rows(x, 3, *rows), elements(&[x, out, inv_rms]))
        }
        Step::RmsNormBackward { x, inv_rms, dout, dx, accumulate, rows, .. } => {
            let again = if *accumulate { dx.len as u64 } else { 0 };
            total(by_rows(x, 6, *rows), elements(&[x, inv_rms, dout, dx]).saturating_add(again))
        }
        Step::Rope { x, out, time, dim, batch, heads, .. } => {
            let table = all(&[*time, *dim / 2], PER_ANGLE);
            total(by_rows(x, 3, batch * time * heads).saturating_add(table), elements(&[x, out]))
        }
        Step::Attention { lse, dims, .. } => {
            let moved = heads_moved(dims, 2).saturating_add(lse.len as u64);
            total(attention_flops(dims, 2), moved)
        }
        Step::AttentionBackward { lse, dims, .. } => {
            let moved = heads_moved(dims, 4);
            total(attention_flops(dims, 5), moved.saturating_add(lse.len as u64))
        }
        Step::Gather { indices, out, .. } => {
            total(all(&[indices.len], PER_PLACE), elements(&[indices, out, out]))
        }
        Step::ScatterAdd { src, indices, table, entries, .. } => {
            // To be sorted, and then to be read in that order.
            let places = all(&[indices.len], 2 * PER_PLACE).saturating_add(all(&[*entries], PER_ROW));
            total(places.saturating_add(src.len as u64), elements(&[src, indices, table, table]))
        }
        Step::LinearCrossEntropy { x, weight, targets, losses, lse, dims } => {
            let moved = words_of(&[x, weight], dims.dtypes[0]);
            total(cross_entropy_flops(dims, 1), moved.saturating_add(elements(&[targets, losses, lse])))
        }
        Step::LinearCrossEntropyBackward { x, weight, targets, lse, dx, dweight, dims, .. } => {
            let moved = words_of(&[x, weight, dx], dims.dtypes[0])
                .saturating_add(words_of(&[dweight, dweight], dims.dtypes[1]))
                .saturating_add(elements(&[targets, lse]));
            total(cross_entropy_flops(dims, 3), moved)
        }
        Step::AdamW { param, grad, m, v, rounded, .. } => {
            let rounded = rounded.as_ref().map_or(0, |rounded| rounded.len as u64);
            let moved = elements(&[param, param, grad, m, m, v, v]).saturating_add(rounded);
            total(product(&[param.len, 20]), moved)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_counts_the_window_only() {
        for time in 1..20 {
            for window in 1..=time {
                let dims = AttentionDims {
                    batch: 1,
                    time,
                    heads: 1,
                    kv_heads: 1,
                    dim: 4,
                    window,
                    scale: 1.0,
                    dtype: DType::F32,
                    rows: [4; 3],
                };
                let counted: usize = (0..time).map(|t| t + 1 - dims.first(t)).sum();
                assert_eq!(visible_pairs(&dims), counted as u64);
            }
        }
    }

    #[test]
    fn tiles_are_those_that_the_window_touches() {
        for time in [1, 63, 64, 65, 200, 513] {
            for window in (1..=time).step_by(7) {
                let dims = AttentionDims {
                    batch: 1,
                    time,
                    heads: 1,
                    kv_heads: 1,
                    dim: 4,
                    window,
                    scale: 1.0,
                    dtype: DType::F32,
                    rows: [4; 3],
                };
                let counted: usize =
                    (0..time.div_ceil(64)).map(|n| n.min((window - 1).div_ceil(64)) + 1).sum();
                assert_eq!(tiles(&dims), counted as u64, "{time} {window}");
            }
        }
    }

    #[test]
    fn matmul_costs_its_flops_bytes_and_launch() {
        let span = |len| Span { storage: 0, offset: 0, len };
        let step = Step::MatMul {
            a: span(6),
            b: span(12),
            out: span(8),
            dims: MatMulDims {
                batch: 1,
                m: 2,
                n: 4,
                k: 3,
                trans_a: false,
                trans_b: false,
                alpha: 1.0,
                dtypes: [DType::F32, DType::Bf16, DType::F32],
            },
            accumulate: false,
        };
        assert_eq!(fuel(&step), 2 * 2 * 4 * 3 + 4 * (4 * 6 + (2 + 8) * 12 + 4 * 8) + 20_000 + 10_000);
    }

    #[test]
    fn fuel_saturates() {
        let huge = Span { storage: 0, offset: 0, len: usize::MAX };
        let step = Step::Random {
            dst: huge,
            seed: 0,
            stream: 0,
            counter: None,
            distribution: crate::Distribution::Normal,
            scale: 1.0,
        };
        assert_eq!(fuel(&step), u64::MAX);
    }
}
