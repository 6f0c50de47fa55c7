//! From a validated step to its launches.

use super::arguments::{self as args, shared};
use super::driver::Address;
use super::{Buffer, Cuda, THREADS, WARPS, address, attention, cross_entropy, experts, product, row_map};
use crate::Error;
use crate::op::{DType, Distribution, ReduceAxis};
use crate::step::{HeadDims, Step};
use crate::table::Table;

/// Side of a tile of `matmul`.
const SIDE: usize = 128;
/// Rows of a band of `reduce_rows_bands`.
const BAND: usize = 64;
/// Elements of a strip of `reduce_all_strips`.
const STRIP: usize = 16_384;
/// Entries of a block of `scatter_add`.
const GROUP: usize = 8;
/// Tables of angles that are kept.
const KEPT_ANGLES: usize = 8;

/// Blocks for one thread an element.
pub(super) fn each(count: usize) -> usize {
    count.div_ceil(THREADS as usize)
}

/// Blocks for one warp a row.
fn each_row(rows: usize) -> usize {
    rows.div_ceil(WARPS as usize)
}

/// Blocks of `rope_norm`: half a warp a head.
fn each_head(dims: &HeadDims) -> usize {
    (dims.positions * dims.heads).div_ceil(2 * WARPS as usize)
}

pub(super) fn step(cuda: &mut Cuda, t: &Table, step: &Step, index: u32) -> Result<(), Error> {
    let at = |span: &crate::table::Span| address(t, *span);
    // Null where there is none.
    let maybe = |span: &Option<crate::table::Span>| span.as_ref().map_or(0, at);
    // SAFETY (of every launch here): the arguments are the kernel's twins in
    // `arguments`; spans lie inside live storages, `Device::run` holds the
    // table, and the validator has proved that a written range overlaps no
    // other operand. That kernels stay inside the ranges that the dimensions
    // describe is tested for every one of them in the simulator.
    match step {
        Step::Fill { dst, bits, dtype } => {
            let a = args::Fill { dst: at(dst), count: dst.len as u64, bits: *bits };
            // SAFETY: see above.
            unsafe { cuda.launch(of_width(*dtype, "fill", "fill_halves"), each(dst.len), 0, a) }
        }
        Step::Random { dst, seed, stream, counter, distribution, scale } => {
            let normal = u32::from(*distribution == Distribution::Normal);
            let (dst, count) = (at(dst), dst.len);
            let a = args::Random {
                dst,
                counter: maybe(counter),
                count: count as u64,
                seed: *seed,
                stream: *stream,
                normal,
                scale: *scale,
            };
            // SAFETY: see above.
            unsafe { cuda.launch("random_numbers", each(count.div_ceil(4)), 0, a) }
        }
        Step::Copy { src, dst, from, to } => {
            // SAFETY: see above.
            unsafe { copy(cuda, at(src), at(dst), dst.len, *from, *to) }
        }
        Step::Columns { src, dst, rows, src_cols, dst_cols, src_col, dst_col, width, accumulate, dtype } => {
            let a = args::Columns {
                src: at(src),
                dst: at(dst),
                rows: *rows as u64,
                src_cols: *src_cols as u64,
                dst_cols: *dst_cols as u64,
                src_col: *src_col as u64,
                dst_col: *dst_col as u64,
                width: *width as u64,
                accumulate: match (accumulate, dtype) {
                    (false, _) => 0,
                    (true, DType::F32 | DType::Bf16) => 1,
                    (true, DType::I32) => 2,
                },
            };
            // SAFETY: see above.
            unsafe { cuda.launch(of_width(*dtype, "columns", "columns_halves"), each(rows * width), 0, a) }
        }
        Step::Transpose { src, dst, batch, rows, cols, dtype } => {
            let a = args::Transpose {
                src: at(src),
                dst: at(dst),
                batch: *batch as u64,
                rows: *rows as u64,
                cols: *cols as u64,
            };
            let tiles = batch * rows.div_ceil(32) * cols.div_ceil(32);
            // SAFETY: see above.
            unsafe {
                cuda.launch(of_width(*dtype, "transpose", "transpose_halves"), tiles, shared::TRANSPOSE, a)
            }
        }
        Step::MatMul { a, b, out, dims, accumulate } => {
            // SAFETY: see above.
            unsafe { product::run(cuda, [a, b, out].map(at), dims, *accumulate, None) }
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
            let [bias, residual, pre] = [bias, residual, pre].map(maybe);
            let dtypes = [*residual_dtype, *pre_dtype];
            let end = product::epilogue(dims, [bias, residual, pre], dtypes, *activation, *backward);
            // SAFETY: see above.
            unsafe { product::run(cuda, [a, b, out].map(at), dims, false, Some(end)) }
        }
        Step::GroupedMatMul { a, b, starts, out, dims, trans_b, accumulate } => {
            let addresses = [a, b, starts, out].map(at);
            experts::grouped(cuda, addresses, dims, *trans_b, *accumulate, index)
        }
        Step::GroupedMatMulWeight { a, b, starts, out, dims, accumulate } => {
            experts::grouped_weight(cuda, [a, b, starts, out].map(at), dims, *accumulate, index)
        }
        Step::TopK { x, values, indices, rows, cols, k } => {
            let (rows64, cols, k) = (*rows as u64, *cols as u64, *k as u64);
            let a = args::TopK { x: at(x), values: at(values), indices: at(indices), rows: rows64, cols, k };
            // SAFETY: see above.
            unsafe { cuda.launch("top_k", each(*rows), 0, a) }
        }
        Step::TopKBackward { dvalues, indices, dx, rows, cols, k, accumulate } => {
            let a = args::TopKBackward {
                dvalues: at(dvalues),
                indices: at(indices),
                dx: at(dx),
                rows: *rows as u64,
                cols: *cols as u64,
                k: *k as u64,
                faults: cuda.faults.address,
                step: index,
                accumulate: u32::from(*accumulate),
            };
            // SAFETY: see above.
            unsafe { cuda.launch("top_k_backward", each(*rows), 0, a) }
        }
        Step::SortByKey { keys, sources, places, starts, per_source } => {
            let a = args::Sort {
                keys: at(keys),
                sources: at(sources),
                places: at(places),
                starts: at(starts),
                count: keys.len as u64,
                faults: cuda.faults.address,
                groups: u32::try_from(starts.len - 1).unwrap_or(u32::MAX),
                per_source: *per_source,
                step: index,
            };
            // SAFETY: see above.
            unsafe {
                cuda.launch("sort_counts", starts.len - 1, shared::SORT, a)?;
                cuda.launch("sort_starts", 1, 0, a)?;
                cuda.launch("sort_places", starts.len - 1, shared::SORT, a)
            }
        }
        Step::LayerNorm { x, gain, bias, out, mean, inv_std, rows, cols, eps, dtype } => {
            let a = args::LayerNorm {
                x: at(x),
                gain: maybe(gain),
                bias: maybe(bias),
                out: at(out),
                mean: at(mean),
                inv_std: at(inv_std),
                rows: *rows as u64,
                cols: *cols as u64,
                eps: *eps,
                half: half(*dtype),
            };
            // SAFETY: see above.
            unsafe { cuda.launch("layer_norm", each_row(*rows), 0, a) }
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
            let a = args::LayerNormBackward {
                x: at(x),
                gain: maybe(gain),
                mean: at(mean),
                inv_std: at(inv_std),
                dout: at(dout),
                dx: at(dx),
                rows: *rows as u64,
                cols: *cols as u64,
                accumulate: u32::from(*accumulate),
                half: half(*dtype),
            };
            // SAFETY: see above.
            unsafe {
                cuda.launch("layer_norm_backward", each_row(*rows), 0, a)?;
                norm_weights(cuda, a, [maybe(dgain), maybe(dbias)])
            }
        }
        Step::RopeNorm { x, out, inv_rms, dims, base, eps, dtypes } => {
            let a = args::RopeNorm {
                x: at(x),
                out: at(out),
                inv_rms: at(inv_rms),
                angles: angles(cuda, dims.time, dims.dim, *base)?,
                positions: dims.positions as u64,
                time: dims.time as u64,
                heads: dims.heads as u64,
                dim: dims.dim as u64,
                cols: dims.cols as u64,
                col: dims.col as u64,
                eps: *eps,
                half_x: half(dtypes[0]),
                half_out: half(dtypes[1]),
            };
            // SAFETY: see above; the angles are kept by `cuda`.
            unsafe { cuda.launch("rope_norm", each_head(dims), 0, a) }
        }
        Step::RopeNormBackward { out, inv_rms, dout, dx, dims, base, accumulate, dtypes } => {
            let a = args::RopeNormBackward {
                out: at(out),
                inv_rms: at(inv_rms),
                dout: at(dout),
                dx: at(dx),
                angles: angles(cuda, dims.time, dims.dim, *base)?,
                positions: dims.positions as u64,
                time: dims.time as u64,
                heads: dims.heads as u64,
                dim: dims.dim as u64,
                cols: dims.cols as u64,
                col: dims.col as u64,
                accumulate: u32::from(*accumulate),
                half_out: half(dtypes[0]),
                half_dx: half(dtypes[1]),
            };
            // SAFETY: as above.
            unsafe { cuda.launch("rope_norm_backward", each_head(dims), 0, a) }
        }
        Step::RowMap { program, inputs, stores } => row_map::run(cuda, t, program, inputs, stores),
        Step::Reduce { src, dst, dtype, rows, cols, axis, scale, accumulate } => {
            let a = args::Reduce {
                src: at(src),
                dst: at(dst),
                partial: 0,
                rows: *rows as u64,
                cols: *cols as u64,
                scale: *scale,
                accumulate: u32::from(*accumulate),
            };
            // SAFETY: see above.
            unsafe { reduce(cuda, a, *axis, *dtype) }
        }
        Step::RmsNorm { x, out, inv_rms, rows, cols, eps, dtypes } => {
            let a = args::RmsNorm {
                x: at(x),
                out: at(out),
                inv_rms: at(inv_rms),
                rows: *rows as u64,
                cols: *cols as u64,
                eps: *eps,
                half_x: half(dtypes[0]),
                half_out: half(dtypes[1]),
            };
            // SAFETY: see above.
            unsafe { cuda.launch("rms_norm", each_row(*rows), 0, a) }
        }
        Step::RmsNormBackward { x, inv_rms, dout, dx, rows, cols, accumulate, dtypes } => {
            let a = args::RmsNormBackward {
                x: at(x),
                inv_rms: at(inv_rms),
                dout: at(dout),
                dx: at(dx),
                rows: *rows as u64,
                cols: *cols as u64,
                accumulate: u32::from(*accumulate),
                half_x: half(dtypes[0]),
                half_dout: half(dtypes[1]),
                half_dx: half(dtypes[2]),
            };
            // SAFETY: see above.
            unsafe { cuda.launch("rms_norm_backward", each_row(*rows), 0, a) }
        }
        Step::Rope { x, out, batch, time, heads, dim, base, inverse } => {
            let a = args::Rope {
                x: at(x),
                out: at(out),
                angles: angles(cuda, *time, *dim, *base)?,
                positions: (batch * time) as u64,
                time: *time as u64,
                heads: *heads as u64,
                dim: *dim as u64,
                inverse: u32::from(*inverse),
            };
            // SAFETY: see above; the angles are kept by `cuda`.
            unsafe { cuda.launch("rope", each(x.len / 2), 0, a) }
        }
        Step::Attention { q, k, v, out, lse, dims } => {
            let a = args::Attention {
                q: at(q),
                k: at(k),
                v: at(v),
                out: at(out),
                lse: at(lse),
                ..attention::arguments(dims)
            };
            match dims.dtype {
                DType::Bf16 => attention::forward_halves(cuda, a),
                DType::F32 | DType::I32 => attention::forward(cuda, a),
            }
        }
        Step::AttentionBackward { q, k, v, out, lse, dout, dq, dk, dv, dims } => {
            let a = args::Attention {
                q: at(q),
                k: at(k),
                v: at(v),
                out: at(out),
                lse: at(lse),
                dout: at(dout),
                dq: at(dq),
                dk: at(dk),
                dv: at(dv),
                ..attention::arguments(dims)
            };
            match dims.dtype {
                DType::Bf16 => attention::backward_halves(cuda, a),
                DType::F32 | DType::I32 => attention::backward(cuda, a),
            }
        }
        Step::Gather { table, indices, out, entries, cols, dtype } => {
            let a = args::Gather {
                table: at(table),
                indices: at(indices),
                out: at(out),
                count: indices.len as u64,
                cols: *cols as u64,
                faults: cuda.faults.address,
                entries: u32::try_from(*entries).unwrap_or(u32::MAX),
                step: index,
            };
            // SAFETY: see above.
            unsafe { cuda.launch(of_width(*dtype, "gather", "gather_halves"), each_row(indices.len), 0, a) }
        }
        Step::ScatterAdd { src, indices, table, entries, cols, accumulate } => {
            let a = args::ScatterAdd {
                src: at(src),
                indices: at(indices),
                table: at(table),
                count: indices.len as u64,
                cols: *cols as u64,
                faults: cuda.faults.address,
                entries: u32::try_from(*entries).unwrap_or(u32::MAX),
                step: index,
                accumulate: u32::from(*accumulate),
            };
            let blocks = entries.div_ceil(GROUP) * each(*cols);
            // SAFETY: see above.
            unsafe { cuda.launch("scatter_add", blocks, shared::SCATTER_ADD, a) }
        }
        Step::LinearCrossEntropy { x, weight, targets, losses, lse, dims } => {
            let io =
                cross_entropy::Operands { x: at(x), weight: at(weight), targets: at(targets), lse: at(lse) };
            cross_entropy::forward(cuda, io, at(losses), dims, index)
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
            let io =
                cross_entropy::Operands { x: at(x), weight: at(weight), targets: at(targets), lse: at(lse) };
            cross_entropy::backward(cuda, io, [at(dx), at(dweight)], dims, *grad_scale, *accumulate, index)
        }
        Step::AdamW { param, grad, m, v, hyper, rounded } => {
            let a = args::AdamW {
                param: at(param),
                grad: at(grad),
                m: at(m),
                v: at(v),
                hyper: at(hyper),
                rounded: maybe(rounded),
                count: param.len as u64,
            };
            // SAFETY: see above.
            unsafe { cuda.launch("adamw", each(param.len.div_ceil(4)), 0, a) }
        }
    }
}

fn half(dtype: DType) -> u32 {
    u32::from(dtype == DType::Bf16)
}

/// The kernel for elements of 4 bytes, or of 2.
fn of_width(dtype: DType, words: &'static str, halves: &'static str) -> &'static str {
    if dtype == DType::Bf16 { halves } else { words }
}

/// # Safety
/// The addresses are live and hold `count` elements of those types.
pub(super) unsafe fn copy(
    cuda: &mut Cuda,
    src: Address,
    dst: Address,
    count: usize,
    from: DType,
    to: DType,
) -> Result<(), Error> {
    let number = |dtype| match dtype {
        DType::F32 => 0,
        DType::I32 => 1,
        DType::Bf16 => 2,
    };
    let a = args::Copy { src, dst, count: count as u64, from: number(from), to: number(to) };
    // SAFETY: the caller's promise.
    unsafe { cuda.launch("copy_cast", each(count), 0, a) }
}

/// A batch of products of dense matrices, out \[m,n\] (=|+=) alpha ·
/// op(a) \[m,k\] · op(b) \[k,n\].
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub a: Address,
    pub b: Address,
    pub out: Address,
    pub batch: usize,
    /// m, n, k.
    pub dims: [usize; 3],
    /// Whether `a`, `b` are stored transposed.
    pub trans: [bool; 2],
    pub alpha: f32,
    pub accumulate: bool,
}

/// # Safety
/// The addresses are live and hold the matrices; `out` overlaps neither.
pub(super) unsafe fn matmul(cuda: &mut Cuda, p: Product) -> Result<(), Error> {
    let [m, n, k] = p.dims;
    let (m64, n64, k64) = (m as u64, n as u64, k as u64);
    let [a_row, a_col] = if p.trans[0] { [1, m64] } else { [k64, 1] };
    let [b_row, b_col] = if p.trans[1] { [1, k64] } else { [n64, 1] };
    let a = args::MatMul {
        a: p.a,
        b: p.b,
        out: p.out,
        batch: p.batch as u64,
        m: m64,
        n: n64,
        k: k64,
        a_row,
        a_col,
        b_row,
        b_col,
        alpha: p.alpha,
        accumulate: u32::from(p.accumulate),
    };
    let tiles = p.batch * m.div_ceil(SIDE) * n.div_ceil(SIDE);
    // SAFETY: the caller's promise.
    unsafe { cuda.launch("matmul", tiles, shared::MATMUL, a) }
}

/// # Safety
/// As for `launch`.
unsafe fn reduce(cuda: &mut Cuda, a: args::Reduce, axis: ReduceAxis, dtype: DType) -> Result<(), Error> {
    let (rows, cols) = (a.rows as usize, a.cols as usize);
    let (bands, strips) = (rows.div_ceil(BAND), (rows * cols).div_ceil(STRIP));
    let partial = match axis {
        ReduceAxis::Cols => 0,
        ReduceAxis::Rows => bands * cols * 4,
        ReduceAxis::All => strips * 4,
    };
    // What is widened lies behind the partial sums.
    let partial = partial.next_multiple_of(16);
    let wide = if dtype == DType::Bf16 { rows * cols * 4 } else { 0 };
    let a = match partial + wide {
        0 => a,
        bytes => args::Reduce { partial: cuda.scratch(bytes)?, ..a },
    };
    let a = match dtype {
        DType::Bf16 => {
            let wide = a.partial + partial as Address;
            // SAFETY: the caller's promise; the scratch holds both.
            unsafe { copy(cuda, a.src, wide, rows * cols, DType::Bf16, DType::F32)? };
            args::Reduce { src: wide, ..a }
        }
        DType::F32 | DType::I32 => a,
    };
    // SAFETY (all launches): the caller's promise; `partial` is as large as
    // the first halves write.
    match axis {
        // SAFETY: see above.
        ReduceAxis::Cols => unsafe { cuda.launch("reduce_cols", rows, shared::WARP_PARTS, a) },
        ReduceAxis::Rows => {
            let total = args::Reduce { rows: bands as u64, ..a };
            // SAFETY: see above.
            unsafe {
                cuda.launch("reduce_rows_bands", bands * each(cols), 0, a)?;
                cuda.launch("reduce_rows_total", each(cols), 0, total)
            }
        }
        ReduceAxis::All => {
            let total = args::Reduce { rows: strips as u64, ..a };
            // SAFETY: see above.
            unsafe {
                cuda.launch("reduce_all_strips", strips, shared::WARP_PARTS, a)?;
                cuda.launch("reduce_all_total", 1, shared::WARP_PARTS, total)
            }
        }
    }
}

/// The gradients of gain and bias, each unless null.
///
/// # Safety
/// As for `launch`.
unsafe fn norm_weights(
    cuda: &mut Cuda,
    of: args::LayerNormBackward,
    weights: [Address; 2],
) -> Result<(), Error> {
    if weights == [0, 0] {
        return Ok(());
    }
    let (rows, cols) = (of.rows as usize, of.cols as usize);
    let bands = rows.div_ceil(BAND);
    let half = bands * cols * 4;
    let partial = cuda.scratch(2 * half)?;
    let args::LayerNormBackward { x, mean, inv_std, dout, rows, cols: cols64, half: is_half, .. } = of;
    let band = BAND as u64;
    let a =
        args::LayerNormWeights { x, mean, inv_std, dout, partial, rows, cols: cols64, band, half: is_half };
    // SAFETY: the caller's promise; the scratch holds both halves of the sums of
    // the bands.
    unsafe { cuda.launch("norm_weights", bands * each(cols), 0, a)? };
    for (dst, partial) in weights.into_iter().zip([partial, partial + half as Address]) {
        let total = args::Reduce {
            src: 0,
            dst,
            partial,
            rows: bands as u64,
            cols: cols64,
            scale: 1.0,
            accumulate: 0,
        };
        if dst != 0 {
            // SAFETY: as above.
            unsafe { cuda.launch("reduce_rows_total", each(cols), 0, total)? };
        }
    }
    Ok(())
}

/// The table of angles of a rotary embedding, the same bits as the CPU's.
fn angles(cuda: &mut Cuda, time: usize, dim: usize, base: f32) -> Result<Address, Error> {
    let key = (time, dim, base.to_bits());
    if let Some((_, buffer)) = cuda.angles.iter().find(|(k, _)| *k == key) {
        return Ok(buffer.address);
    }
    let table = crate::cpu::rope_angles(time, dim, base);
    let buffer = Buffer::new(&cuda.driver, table.len() * 4)?;
    cuda.driver.upload(buffer.address, &table)?;
    let address = buffer.address;
    if cuda.angles.len() == KEPT_ANGLES {
        // Freeing waits for the launches that read it.
        cuda.angles.remove(0);
        cuda.generation += 1;
    }
    cuda.angles.push((key, buffer));
    Ok(address)
}
