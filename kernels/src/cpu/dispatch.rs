//! From a validated step to its kernel: ranges become slices here.

use super::epilogue::{Epilogue, Pre};
use super::faults::StepFaults;
use super::moves::Moved;
use super::product::{self, Numbers, Results};
use super::rounding::{narrow, widen};
use super::tasks::Split;
use super::{
    Kept, Output, adamw, attention, attention_backward, cross_entropy, experts, halves, indexing, layer_norm,
    moves, norm, random, reduce, rope, rope_norm, row_map,
};
use crate::bf16;
use crate::op::DType;
use crate::step::Step;
use crate::table::Table;

pub(crate) fn run_step(t: &Table, step: &Step, split: Split, kept: &mut Kept, faults: &StepFaults) {
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
    // Empty where there is none.
    macro_rules! maybe {
        ($span:expr) => {
            $span.as_ref().map_or(&[][..], |span| input!(span))
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
    macro_rules! half {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.bf16(*$span) }
        };
    }
    macro_rules! output_half {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.bf16_mut(*$span) }
        };
    }
    macro_rules! ints {
        ($span:expr) => {
            // SAFETY: see above; both types accept all bits.
            unsafe { t.i32_mut(*$span) }
        };
    }
    macro_rules! numbers {
        ($span:expr, $dtype:expr) => {
            match $dtype {
                DType::Bf16 => Numbers::Bf16(half!($span)),
                DType::F32 | DType::I32 => Numbers::F32(input!($span)),
            }
        };
    }
    macro_rules! results {
        ($span:expr, $dtype:expr) => {
            match $dtype {
                DType::Bf16 => Results::Bf16(output_half!($span)),
                DType::F32 | DType::I32 => Results::F32(output!($span)),
            }
        };
    }
    match step {
        Step::Fill { dst, bits, dtype: DType::Bf16 } => output_half!(dst).fill(*bits as u16),
        Step::Fill { dst, bits, .. } => output_bits!(dst).fill(*bits),
        Step::Random { dst, seed, stream, counter, distribution, scale } => {
            // A step of the counter is a step of the stream, whatever its sign.
            let moved = counter.as_ref().map_or(0, |counter| i64::from(indices!(counter)[0]) as u64);
            let stream = stream.wrapping_add(moved);
            random::fill(split, output!(dst), *seed, stream, *distribution, *scale);
        }
        Step::Copy { src, dst, from, to } => match (from, to) {
            (DType::F32, DType::F32) | (DType::I32, DType::I32) => {
                moves::convert(split, bits!(src), output_bits!(dst), moves::each(|x| x));
            }
            (DType::Bf16, DType::Bf16) => {
                moves::convert(split, half!(src), output_half!(dst), moves::each(|x| x))
            }
            // Towards zero, saturating, NaN to 0.
            (DType::F32, DType::I32) => {
                moves::convert(split, input!(src), ints!(dst), moves::each(|x| x as i32));
            }
            (DType::I32, DType::F32) => {
                moves::convert(split, indices!(src), output!(dst), moves::each(|x| x as f32));
            }
            (DType::F32, DType::Bf16) => moves::convert(split, input!(src), output_half!(dst), narrow),
            (DType::Bf16, DType::F32) => moves::convert(split, half!(src), output!(dst), widen),
            (DType::Bf16, DType::I32) => {
                moves::convert(split, half!(src), ints!(dst), moves::each(|x| bf16::value(x) as i32));
            }
            (DType::I32, DType::Bf16) => {
                let cast = moves::each(|x| bf16::round(x as f32));
                moves::convert(split, indices!(src), output_half!(dst), cast);
            }
        },
        Step::Columns { src, dst, rows, src_cols, dst_cols, src_col, dst_col, width, accumulate, dtype } => {
            let from = moves::Side { cols: *src_cols, col: *src_col };
            let to = moves::Side { cols: *dst_cols, col: *dst_col };
            let (rows, width) = (*rows, *width);
            match dtype {
                DType::F32 => {
                    let add = accumulate.then_some((|a, b| a + b) as fn(f32, f32) -> f32);
                    moves::columns(split, input!(src), output!(dst), rows, from, to, width, add);
                }
                DType::I32 => {
                    let add = accumulate.then_some(i32::wrapping_add as fn(i32, i32) -> i32);
                    moves::columns(split, indices!(src), ints!(dst), rows, from, to, width, add);
                }
                DType::Bf16 => {
                    let sum = |a, b| bf16::round(bf16::value(a) + bf16::value(b));
                    let add = accumulate.then_some(sum as fn(u16, u16) -> u16);
                    moves::columns(split, half!(src), output_half!(dst), rows, from, to, width, add);
                }
            }
        }
        Step::Transpose { src, dst, batch, rows, cols, dtype: DType::Bf16 } => {
            moves::transpose(split, half!(src), output_half!(dst), *batch, *rows, *cols);
        }
        Step::Transpose { src, dst, batch, rows, cols, .. } => {
            moves::transpose(split, bits!(src), output_bits!(dst), *batch, *rows, *cols);
        }
        Step::MatMul { a, b, out, dims, accumulate } => {
            let [da, db, dout] = dims.dtypes;
            let (a, b, out) = (numbers!(a, da), numbers!(b, db), results!(out, dout));
            product::run(split, &mut kept.wide, a, b, out, dims, *accumulate, None);
        }
        Step::MatMulFused {
            a,
            b,
            out,
            dims,
            bias,
            residual,
            residual_dtype,
            pre,
            pre_dtype,
            activation,
            backward,
        } => {
            let epilogue = Epilogue {
                activation: *activation,
                bias: maybe!(bias),
                residual: residual.as_ref().map_or(Numbers::NONE, |span| numbers!(span, residual_dtype)),
                pre: match pre {
                    None => Pre::Dropped,
                    Some(pre) if *backward => Pre::Read(numbers!(pre, pre_dtype)),
                    Some(pre) => Pre::Stored(results!(pre, pre_dtype).shared()),
                },
                ..Epilogue::NONE
            };
            let [da, db, dout] = dims.dtypes;
            let (a, b, out) = (numbers!(a, da), numbers!(b, db), results!(out, dout));
            product::run(split, &mut kept.wide, a, b, out, dims, false, Some(&epilogue));
        }
        Step::GroupedMatMul { a, b, starts, out, dims, trans_b, accumulate } => {
            let (a, b, starts, out) = (input!(a), input!(b), indices!(starts), output!(out));
            experts::grouped(split, a, b, starts, out, dims, *trans_b, *accumulate, faults);
        }
        Step::GroupedMatMulWeight { a, b, starts, out, dims, accumulate } => {
            let (a, b, starts, out) = (input!(a), input!(b), indices!(starts), output!(out));
            experts::grouped_weight(split, a, b, starts, out, dims, *accumulate, faults);
        }
        Step::TopK { x, values, indices, rows, cols, k } => {
            experts::top_k(split, input!(x), output!(values), ints!(indices), *rows, *cols, *k);
        }
        Step::TopKBackward { dvalues, indices, dx, rows, cols, k, accumulate } => {
            let (dvalues, indices, dx) = (input!(dvalues), indices!(indices), output!(dx));
            experts::top_k_backward(split, dvalues, indices, dx, *rows, *cols, *k, *accumulate, faults);
        }
        Step::SortByKey { keys, sources, places, starts, per_source } => {
            let (keys, sources) = (indices!(keys), ints!(sources));
            experts::sort_by_key(keys, sources, ints!(places), ints!(starts), *per_source, faults);
        }
        Step::LayerNorm { x, gain, bias, out, mean, inv_std, rows, cols, eps, dtype } => {
            let affine = layer_norm::Affine { gain: maybe!(gain), bias: maybe!(bias) };
            let (x, out, mean, inv) = (input!(x), results!(out, dtype), output!(mean), output!(inv_std));
            layer_norm::forward(split, x, affine, out, mean, inv, *rows, *cols, *eps);
        }
        Step::LayerNormBackward {
            x,
            gain,
            mean,
            inv_std,
            dout,
            dx,
            dgain,
            dbias,
            rows,
            cols,
            accumulate,
            dtype,
        } => {
            let of = layer_norm::Inputs {
                x: input!(x),
                gain: maybe!(gain),
                mean: input!(mean),
                inv_std: input!(inv_std),
                dout: numbers!(dout, dtype),
            };
            let sums = [dgain, dbias].map(|sums| sums.as_ref().map(|span| output!(span)));
            layer_norm::backward(split, of, output!(dx), sums, *rows, *cols, *accumulate);
        }
        Step::RopeNorm { x, out, inv_rms, dims, base, eps, dtypes: [of_x, of_out] } => {
            let angles = kept.rope.get(dims.time, dims.dim, *base);
            let (x, out, inv_rms) = (numbers!(x, of_x), results!(out, of_out), output!(inv_rms));
            rope_norm::forward(split, x, out, inv_rms, &angles, dims, *eps);
        }
        Step::RopeNormBackward { out, inv_rms, dout, dx, dims, base, accumulate, dtypes } => {
            let [dtype, of_dx] = dtypes;
            let angles = kept.rope.get(dims.time, dims.dim, *base);
            let (out, inv_rms, dout) = (numbers!(out, dtype), input!(inv_rms), numbers!(dout, dtype));
            rope_norm::backward(split, out, inv_rms, dout, results!(dx, of_dx), &angles, dims, *accumulate);
        }
        Step::RowMap { program, inputs, stores } => {
            row_map::run(split, t, program, inputs, stores);
        }
        Step::Reduce { src, dst, dtype: DType::Bf16, rows, cols, axis, scale, accumulate } => {
            reduce::run(split, half!(src), output!(dst), *rows, *cols, *axis, *scale, *accumulate);
        }
        Step::Reduce { src, dst, rows, cols, axis, scale, accumulate, .. } => {
            reduce::run(split, input!(src), output!(dst), *rows, *cols, *axis, *scale, *accumulate);
        }
        Step::RmsNorm { x, out, inv_rms, rows, cols, eps, dtypes: [of_x, of_out] } => {
            let (x, out) = (numbers!(x, of_x), results!(out, of_out));
            norm::forward(split, x, out, output!(inv_rms), *rows, *cols, *eps);
        }
        Step::RmsNormBackward { x, inv_rms, dout, dx, rows, cols, accumulate, dtypes } => {
            let [of_x, of_dout, of_dx] = dtypes;
            let (x, inv_rms, dout) = (numbers!(x, of_x), input!(inv_rms), numbers!(dout, of_dout));
            norm::backward(split, x, inv_rms, dout, results!(dx, of_dx), *rows, *cols, *accumulate);
        }
        Step::Rope { x, out, batch, time, heads, dim, base, inverse } => {
            let table = kept.rope.get(*time, *dim, *base);
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
        Step::Attention { q, k, v, out, lse, dims } if dims.dtype == DType::Bf16 => {
            let inputs = [q, k, v].map(|span| half!(span));
            halves::attention(split, inputs, output_half!(out), output!(lse), dims);
        }
        Step::Attention { q, k, v, out, lse, dims } => {
            let (q, k, v) = (input!(q), input!(k), input!(v));
            attention::forward(split, q, k, v, output!(out), output!(lse), dims);
        }
        Step::AttentionBackward { q, k, v, out, lse, dout, dq, dk, dv, dims }
            if dims.dtype == DType::Bf16 =>
        {
            let inputs = [q, k, v, out, dout].map(|span| half!(span));
            // SAFETY: see above; they may be interleaved, so each is an address.
            let gradients = [dq, dk, dv].map(|span| unsafe { Moved::from_raw(t.bf16_ptr(*span), span.len) });
            halves::attention_backward(split, inputs, input!(lse), gradients, dims);
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
            // SAFETY: see above; they may be interleaved, so each is an address.
            let outputs = [dq, dk, dv].map(|span| unsafe { Output::from_raw(t.f32_ptr(*span), span.len) });
            attention_backward::backward(split, inputs, outputs, dims);
        }
        Step::Gather { table, indices, out, entries, cols, dtype: DType::Bf16 } => {
            let (table, indices) = (half!(table), indices!(indices));
            indexing::gather(split, table, indices, output_half!(out), *entries, *cols, faults);
        }
        Step::Gather { table, indices, out, entries, cols, .. } => {
            let (table, indices) = (input!(table), indices!(indices));
            indexing::gather(split, table, indices, output!(out), *entries, *cols, faults);
        }
        Step::ScatterAdd { src, indices, table, entries, cols, accumulate } => {
            let (src, indices, table) = (input!(src), indices!(indices), output!(table));
            indexing::scatter_add(split, src, indices, table, *entries, *cols, *accumulate, faults);
        }
        Step::LinearCrossEntropy { x, weight, targets, losses, lse, dims } => {
            let (x, weight) = (numbers!(x, dims.dtypes[0]), numbers!(weight, dims.dtypes[0]));
            let inputs = cross_entropy::Inputs { x, weight, targets: indices!(targets), lse: &[] };
            let outputs = [losses, lse].map(|span| output!(span));
            cross_entropy::forward(split, inputs, outputs, dims, faults);
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
            let (x, weight) = (numbers!(x, dims.dtypes[0]), numbers!(weight, dims.dtypes[0]));
            let inputs = cross_entropy::Inputs { x, weight, targets: indices!(targets), lse: input!(lse) };
            let (scale, accumulate) = (*grad_scale, *accumulate);
            if dims.dtypes[0] == DType::Bf16 {
                let (dx, dweight) = (output_half!(dx), results!(dweight, dims.dtypes[1]));
                halves::cross_entropy_backward(split, inputs, dx, dweight, dims, scale, accumulate, faults);
            } else {
                let (dx, dweight) = (Results::F32(output!(dx)), output!(dweight));
                cross_entropy::backward(split, inputs, dx, dweight, dims, scale, accumulate, faults);
            }
        }
        Step::AdamW { param, grad, m, v, hyper, rounded } => {
            let (grad, hyper) = (input!(grad), input!(hyper));
            let rounded = rounded.as_ref().map(|span| output_half!(span));
            adamw::step(split, output!(param), grad, output!(m), output!(v), hyper, rounded);
        }
    }
}
