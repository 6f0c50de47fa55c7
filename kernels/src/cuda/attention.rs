//! Launches of attention. Over bfloat16 it runs on tensor cores where a head
//! is at most 128 wide; wider ones are widened into scratch memory.

use super::arguments::{Attention, AttentionBf16, AttentionHopper, AttentionHopperBackward, Columns, shared};
use super::driver::{Address, TensorMap};
use super::launch::{copy, each};
use super::{Cuda, WARPS};
use crate::Error;
use crate::error::fail;
use crate::op::DType;
use crate::step::AttentionDims;

/// Queries, or keys, of a block.
const BLOCK: u64 = 64;
/// The largest head whose tiles are held in registers.
const MAX_DIM: u64 = 256;

/// The dimensions, with every address 0.
pub(super) fn arguments(dims: &AttentionDims) -> Attention {
    let [batch, time, heads, kv_heads, dim, window] =
        [dims.batch, dims.time, dims.heads, dims.kv_heads, dims.dim, dims.window].map(|d| d as u64);
    let [q_row, k_row, v_row] = dims.rows.map(|row| row as u64);
    let none = 0;
    Attention {
        q: none,
        k: none,
        v: none,
        out: none,
        lse: none,
        dout: none,
        delta: none,
        dq: none,
        dk: none,
        dv: none,
        batch,
        time,
        heads,
        kv_heads,
        dim,
        window,
        q_row,
        k_row,
        v_row,
        scale: dims.scale,
    }
}

/// Shared memory for `tiles` of 64 × dim and `scores` of 64 × 64.
fn shared_bytes(a: &Attention, tiles: u64, scores: u64) -> Result<usize, Error> {
    if a.dim > MAX_DIM {
        return fail!(InvalidArgument, "heads of {} are too large for this device; at most {MAX_DIM}", a.dim);
    }
    let words = tiles * BLOCK * (a.dim + 1) + scores * BLOCK * (BLOCK + 1);
    Ok(words as usize * 4)
}

fn blocks(a: &Attention, heads: u64) -> usize {
    (a.batch * heads * a.time.div_ceil(BLOCK)) as usize
}

pub(super) fn forward(cuda: &mut Cuda, a: Attention) -> Result<(), Error> {
    let shared = shared_bytes(&a, 3, 1)?;
    // SAFETY: addresses and dimensions are those of a validated step.
    unsafe { cuda.launch("attention", blocks(&a, a.heads), shared, a) }
}

pub(super) fn backward(cuda: &mut Cuda, a: Attention) -> Result<(), Error> {
    let rows = a.batch * a.time * a.heads;
    let a = Attention { delta: cuda.scratch(rows as usize * 4)?, ..a };
    backward_with(cuda, a)
}

/// With memory for delta.
fn backward_with(cuda: &mut Cuda, a: Attention) -> Result<(), Error> {
    let rows = a.batch * a.time * a.heads;
    let (of_queries, of_keys) = (shared_bytes(&a, 4, 1)?, shared_bytes(&a, 4, 2)?);
    // SAFETY: as above; `delta` holds a value per row.
    unsafe {
        cuda.launch("attention_delta", rows.div_ceil(WARPS) as usize, 0, a)?;
        cuda.launch("attention_backward_queries", blocks(&a, a.heads), of_queries, a)?;
        cuda.launch("attention_backward_keys", blocks(&a, a.kv_heads), of_keys, a)
    }
}

/// Rows that a block of the kernels over bfloat16 owns.
const OWN_ROWS: u64 = 128;

/// A producer and two consumers, of 128 threads.
const HOPPER_THREADS: u64 = 384;

/// Whether TMA and wgmma do it: heads of 64 or 128, rows aligned to 16 bytes.
fn by_hopper(cuda: &Cuda, whole: &AttentionBf16, width: usize) -> bool {
    cuda.driver.card.capability == (9, 0) && whole.aligned == 1 && whole.dim == width as u64
}

/// Of [B, T, heads · D], positions being `row` apart, for boxes of 64 columns
/// × `rows` rows.
fn head_rows(
    cuda: &Cuda,
    whole: &AttentionBf16,
    address: Address,
    (heads, row): (u64, u64),
    rows: u32,
) -> Result<TensorMap, Error> {
    let sizes = [heads * whole.dim, whole.time, whole.batch];
    cuda.driver.tensor_map(address, sizes, row, [64, rows, 1])
}

fn forward_hopper(cuda: &mut Cuda, whole: AttentionBf16, width: usize) -> Result<(), Error> {
    let map = |address, heads, row| head_rows(cuda, &whole, address, (heads, row), 128);
    let arguments = AttentionHopper {
        q: map(whole.q, whole.heads, whole.q_row)?,
        k: map(whole.k, whole.kv_heads, whole.k_row)?,
        v: map(whole.v, whole.kv_heads, whole.v_row)?,
        whole,
    };
    let name = if width == 64 { "attention_hopper_64" } else { "attention_hopper_128" };
    let (blocks, bytes) = (own_blocks(&whole, whole.heads), shared::attention_hopper(width));
    // SAFETY: addresses and dimensions are those of a validated step; the maps
    // were made for its operands.
    unsafe { cuda.launch_wide(name, blocks, HOPPER_THREADS, bytes, arguments) }
}

/// With delta computed.
fn backward_hopper(cuda: &mut Cuda, whole: AttentionBf16, width: usize) -> Result<(), Error> {
    let map = |address, heads, row| head_rows(cuda, &whole, address, (heads, row), 64);
    let arguments = AttentionHopperBackward {
        q: map(whole.q, whole.heads, whole.q_row)?,
        k: map(whole.k, whole.kv_heads, whole.k_row)?,
        v: map(whole.v, whole.kv_heads, whole.v_row)?,
        dout: map(whole.dout, whole.heads, whole.heads * whole.dim)?,
        whole,
    };
    let (of_queries, of_keys) = match width {
        64 => ("attention_backward_hopper_queries_64", "attention_backward_hopper_keys_64"),
        _ => ("attention_backward_hopper_queries_128", "attention_backward_hopper_keys_128"),
    };
    let bytes = shared::attention_hopper_backward(width);
    for (name, heads) in [(of_queries, whole.heads), (of_keys, whole.kv_heads)] {
        // SAFETY: addresses and dimensions are those of a validated step, and
        // delta holds a value per row; the maps were made for the operands.
        unsafe { cuda.launch_wide(name, own_blocks(&whole, heads), HOPPER_THREADS, bytes, arguments)? };
    }
    Ok(())
}

/// The same for the kernels over bfloat16, the width of whose heads is also
/// given: `None` where heads are too wide.
fn halves(a: &Attention) -> Option<(AttentionBf16, usize)> {
    let Attention { q, k, v, out, lse, dout, delta, dq, dk, dv, .. } = *a;
    let Attention { batch, time, heads, kv_heads, dim, window, q_row, k_row, v_row, scale, .. } = *a;
    let addresses = [q, k, v, out, dout, dq, dk, dv].iter().all(|address| address.is_multiple_of(16));
    let rows = [dim, q_row, k_row, v_row].iter().all(|elements| elements.is_multiple_of(8));
    let aligned = u32::from(addresses && rows);
    let width = match dim {
        0..=64 => 64,
        65..=128 => 128,
        _ => return None,
    };
    let whole = AttentionBf16 {
        q,
        k,
        v,
        out,
        lse,
        dout,
        delta,
        dq,
        dk,
        dv,
        batch,
        time,
        heads,
        kv_heads,
        dim,
        window,
        q_row,
        k_row,
        v_row,
        scale,
        aligned,
    };
    Some((whole, width))
}

/// Blocks that own [`OWN_ROWS`] rows of one of `heads`.
fn own_blocks(a: &AttentionBf16, heads: u64) -> usize {
    (a.batch * heads * a.time.div_ceil(OWN_ROWS)) as usize
}

pub(super) fn forward_halves(cuda: &mut Cuda, a: Attention) -> Result<(), Error> {
    if let Some((halves, width)) = halves(&a) {
        if by_hopper(cuda, &halves, width) {
            return forward_hopper(cuda, halves, width);
        }
        let name = if width == 64 { "attention_bf16_64" } else { "attention_bf16_128" };
        let (blocks, bytes) = (own_blocks(&halves, a.heads), shared::attention_bf16(width));
        // SAFETY: addresses and dimensions are those of a validated step.
        return unsafe { cuda.launch(name, blocks, bytes, halves) };
    }
    let [q, k, v, out] =
        [a.heads_of(a.q, a.q_row), a.keys_of(a.k, a.k_row), a.keys_of(a.v, a.v_row), a.dense_heads(a.out)];
    widened(cuda, [q, k, v], [out], 0, |cuda, [q, k, v], [out], _| {
        forward(cuda, Attention { q, k, v, out, ..a.dense() })
    })
}

pub(super) fn backward_halves(cuda: &mut Cuda, a: Attention) -> Result<(), Error> {
    let rows = (a.batch * a.time * a.heads) as usize;
    if let Some((halves, width)) = halves(&a) {
        let halves = AttentionBf16 { delta: cuda.scratch(rows * 4)?, ..halves };
        // SAFETY: as above; `delta` holds a value per row.
        unsafe { cuda.launch("attention_delta_bf16", rows.div_ceil(WARPS as usize), 0, halves)? };
        if by_hopper(cuda, &halves, width) {
            return backward_hopper(cuda, halves, width);
        }
        let (of_queries, of_keys) = match width {
            64 => ("attention_backward_bf16_queries_64", "attention_backward_bf16_keys_64"),
            _ => ("attention_backward_bf16_queries_128", "attention_backward_bf16_keys_128"),
        };
        let bytes = shared::attention_backward_bf16(width);
        // SAFETY: as above; delta has been computed.
        return unsafe {
            cuda.launch(of_queries, own_blocks(&halves, a.heads), bytes, halves)?;
            cuda.launch(of_keys, own_blocks(&halves, a.kv_heads), bytes, halves)
        };
    }
    let inputs = [
        a.heads_of(a.q, a.q_row),
        a.keys_of(a.k, a.k_row),
        a.keys_of(a.v, a.v_row),
        a.dense_heads(a.out),
        a.dense_heads(a.dout),
    ];
    let outputs = [a.heads_of(a.dq, a.q_row), a.keys_of(a.dk, a.k_row), a.keys_of(a.dv, a.v_row)];
    widened(cuda, inputs, outputs, rows, |cuda, [q, k, v, out, dout], [dq, dk, dv], delta| {
        backward_with(cuda, Attention { q, k, v, out, dout, dq, dk, dv, delta, ..a.dense() })
    })
}

/// Heads in the columns of a tensor of bfloat16.
#[derive(Clone, Copy)]
struct Strided {
    address: Address,
    positions: u64,
    /// Elements of all heads of a position.
    width: u64,
    /// Elements from one position to the next.
    row: u64,
}

impl Attention {
    fn heads_of(&self, address: Address, row: u64) -> Strided {
        Strided { address, positions: self.batch * self.time, width: self.heads * self.dim, row }
    }

    fn keys_of(&self, address: Address, row: u64) -> Strided {
        Strided { address, positions: self.batch * self.time, width: self.kv_heads * self.dim, row }
    }

    fn dense_heads(&self, address: Address) -> Strided {
        self.heads_of(address, self.heads * self.dim)
    }

    /// The same, of dense rows.
    fn dense(self) -> Attention {
        let [of_q, of_k] = [self.heads, self.kv_heads].map(|heads| heads * self.dim);
        Attention { q_row: of_q, k_row: of_k, v_row: of_k, ..self }
    }
}

impl Strided {
    fn count(&self) -> usize {
        (self.positions * self.width) as usize
    }

    fn is_dense(&self) -> bool {
        self.row == self.width
    }

    /// Copies the heads from here to dense memory, or back.
    ///
    /// # Safety
    /// Both are memory of the step's.
    unsafe fn gather(&self, cuda: &mut Cuda, dense: Address, back: bool) -> Result<(), Error> {
        let ((src, src_cols), (dst, dst_cols)) = match back {
            false => ((self.address, self.row), (dense, self.width)),
            true => ((dense, self.width), (self.address, self.row)),
        };
        let (rows, width) = (self.positions, self.width);
        let a = Columns { src, dst, rows, src_cols, dst_cols, src_col: 0, dst_col: 0, width, accumulate: 0 };
        // SAFETY: the caller's promise.
        unsafe { cuda.launch("columns_halves", each(self.count()), 0, a) }
    }
}

/// Runs `task` with addresses of the widened, dense inputs, of f32 memory for
/// the outputs, and of `more` words; then rounds the outputs to where they
/// belong.
fn widened<const I: usize, const O: usize>(
    cuda: &mut Cuda,
    inputs: [Strided; I],
    outputs: [Strided; O],
    more: usize,
    task: impl FnOnce(&mut Cuda, [Address; I], [Address; O], Address) -> Result<(), Error>,
) -> Result<(), Error> {
    let bytes = |count: usize| (count * 4).next_multiple_of(16);
    let all = || inputs.iter().chain(&outputs);
    let total: usize = all().map(|heads| bytes(heads.count())).sum();
    // One after the other passes through the same memory.
    let gathered = all().filter(|heads| !heads.is_dense()).map(|heads| heads.count().div_ceil(2)).max();
    let gathered = gathered.unwrap_or(0);
    let mut next = cuda.scratch(total + bytes(more) + bytes(gathered))?;
    let mut cut = |count: usize| {
        let at = next;
        next += bytes(count) as Address;
        at
    };
    let wide_inputs = inputs.map(|heads| cut(heads.count()));
    let wide_outputs = outputs.map(|heads| cut(heads.count()));
    let (rest, gathered) = (cut(more), cut(gathered));
    for (from, to) in inputs.into_iter().zip(wide_inputs) {
        // SAFETY: an operand of a validated step; the scratch holds it.
        unsafe {
            let narrow = if from.is_dense() { from.address } else { gathered };
            if !from.is_dense() {
                from.gather(cuda, narrow, false)?;
            }
            copy(cuda, narrow, to, from.count(), DType::Bf16, DType::F32)?;
        }
    }
    task(cuda, wide_inputs, wide_outputs, rest)?;
    for (to, from) in outputs.into_iter().zip(wide_outputs) {
        // SAFETY: as above.
        unsafe {
            let narrow = if to.is_dense() { to.address } else { gathered };
            copy(cuda, from, narrow, to.count(), DType::F32, DType::Bf16)?;
            if !to.is_dense() {
                to.gather(cuda, narrow, true)?;
            }
        }
    }
    Ok(())
}
