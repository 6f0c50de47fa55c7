//! From a validated step to its kernel: ranges become slices here.

use super::faults::StepFaults;
use super::tasks::Split;
use super::{
    adamw, attention, attention_backward, cross_entropy, indexing, matmul, moves, norm, random, reduce, rope,
    row_map,
};
use crate::step::Step;
use crate::table::Table;

pub(crate) fn run_step(t: &Table, step: &Step, split: Split, rope: &mut rope::Tables, faults: &StepFaults) {
    // SAFETY (of this function's reads and writes): the validator has proved
    // that a written range overlaps no other operand of its step, except in a
    // row map, which takes pointers; and `Device::run` holds the table for
    // the time of the run.
    macro_rules! input {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.f32(*$span) }
        };
    }
    macro_rules! indices {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.i32(*$span) }
        };
    }
    macro_rules! output {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.f32_mut(*$span) }
        };
    }
    macro_rules! bits {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.bits(*$span) }
        };
    }
    macro_rules! output_bits {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.bits_mut(*$span) }
        };
    }
    match step {
        Step::Fill { dst, bits } => output_bits!(dst).fill(*bits),
        Step::Random { dst, seed, stream, distribution, scale } => {
            random::fill(split, output!(dst), *seed, *stream, *distribution, *scale);
        }
        Step::Copy { src, dst, from, to } => {
            moves::copy(split, bits!(src), output_bits!(dst), *from, *to);
        }
        Step::Columns { src, dst, rows, src_cols, dst_cols, src_col, dst_col, width, accumulate, dtype } => {
            let from = moves::Side { cols: *src_cols, col: *src_col };
            let to = moves::Side { cols: *dst_cols, col: *dst_col };
            let how = accumulate.then_some(*dtype);
            moves::columns(split, bits!(src), output_bits!(dst), *rows, from, to, *width, how);
        }
        Step::Transpose { src, dst, batch, rows, cols } => {
            moves::transpose(split, bits!(src), output_bits!(dst), *batch, *rows, *cols);
        }
        Step::MatMul { a, b, out, batch, m, n, k, trans_a, trans_b, alpha, accumulate } => {
            let a = matmul::Matrix::new(input!(a), *m, *k, *trans_a);
            let b = matmul::Matrix::new(input!(b), *k, *n, *trans_b);
            matmul::batched(split, *batch, a, b, output!(out), *alpha, *accumulate);
        }
        Step::RowMap { program, inputs, stores } => {
            row_map::run(split, t, program, inputs, stores);
        }
        Step::Reduce { src, dst, rows, cols, axis, scale, accumulate } => {
            reduce::run(split, input!(src), output!(dst), *rows, *cols, *axis, *scale, *accumulate);
        }
        Step::RmsNorm { x, out, inv_rms, rows, cols, eps } => {
            norm::forward(split, input!(x), output!(out), output!(inv_rms), *rows, *cols, *eps);
        }
        Step::RmsNormBackward { x, inv_rms, dout, dx, rows, cols, accumulate } => {
            let (x, inv_rms, dout) = (input!(x), input!(inv_rms), input!(dout));
            norm::backward(split, x, inv_rms, dout, output!(dx), *rows, *cols, *accumulate);
        }
        Step::Rope { x, out, batch, time, heads, dim, base, inverse } => {
            let table = rope.get(*time, *dim, *base);
            rope::rotate(
                split,
                input!(x),
                output!(out),
                &table,
                *batch * *time,
                *time,
                *heads,
                *dim,
                *inverse,
            );
        }
        Step::Attention { q, k, v, out, lse, dims } => {
            let (q, k, v) = (input!(q), input!(k), input!(v));
            attention::forward(split, q, k, v, output!(out), output!(lse), dims);
        }
        Step::AttentionBackward { q, k, v, out, lse, dout, dq, dk, dv, dims } => {
            let inputs = attention_backward::Inputs {
                q: input!(q),
                k: input!(k),
                v: input!(v),
                out: input!(out),
                lse: input!(lse),
                dout: input!(dout),
            };
            attention_backward::backward(split, inputs, output!(dq), output!(dk), output!(dv), dims);
        }
        Step::Gather { table, indices, out, entries, cols } => {
            let (table, indices) = (input!(table), indices!(indices));
            indexing::gather(split, table, indices, output!(out), *entries, *cols, faults);
        }
        Step::ScatterAdd { src, indices, table, entries, cols, accumulate } => {
            let (src, indices, table) = (input!(src), indices!(indices), output!(table));
            indexing::scatter_add(split, src, indices, table, *entries, *cols, *accumulate, faults);
        }
        Step::LinearCrossEntropy { x, weight, targets, losses, lse, dims } => {
            let (x, weight, targets) = (input!(x), input!(weight), indices!(targets));
            let (losses, lse) = (output!(losses), output!(lse));
            cross_entropy::forward(split, x, weight, targets, losses, lse, dims, faults);
        }
        Step::LinearCrossEntropyBackward {
            x,
            weight,
            targets,
            lse,
            dx,
            dweight,
            dims,
            grad_scale,
            accumulate,
        } => {
            let inputs = cross_entropy::Inputs {
                x: input!(x),
                weight: input!(weight),
                targets: indices!(targets),
                lse: input!(lse),
            };
            let (dx, dweight) = (output!(dx), output!(dweight));
            cross_entropy::backward(split, inputs, dx, dweight, dims, *grad_scale, *accumulate, faults);
        }
        Step::AdamW { param, grad, m, v, hyper } => {
            let (grad, hyper) = (input!(grad), input!(hyper));
            adamw::step(split, output!(param), grad, output!(m), output!(v), hyper);
        }
    }
}
