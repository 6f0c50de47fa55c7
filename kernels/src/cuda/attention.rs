//! Launches of attention.

use super::arguments::Attention;
use super::{Cuda, WARPS};
use crate::Error;
use crate::error::fail;
use crate::step::AttentionDims;

/// Queries, or keys, of a block.
const BLOCK: u64 = 64;
/// The largest head whose tiles are held in registers.
const MAX_DIM: u64 = 256;

/// The dimensions, with every address 0.
pub(super) fn arguments(dims: &AttentionDims) -> Attention {
    let [batch, time, heads, kv_heads, dim, window] =
        [dims.batch, dims.time, dims.heads, dims.kv_heads, dims.dim, dims.window].map(|d| d as u64);
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
    let (of_queries, of_keys) = (shared_bytes(&a, 4, 1)?, shared_bytes(&a, 4, 2)?);
    // SAFETY: as above; `delta` holds a value per row.
    unsafe {
        cuda.launch("attention_delta", rows.div_ceil(WARPS) as usize, 0, a)?;
        cuda.launch("attention_backward_queries", blocks(&a, a.heads), of_queries, a)?;
        cuda.launch("attention_backward_keys", blocks(&a, a.kv_heads), of_keys, a)
    }
}
