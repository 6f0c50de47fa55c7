//! Launches of products by group. Where the groups begin is known on the card
//! alone: a launch has as many blocks as there could be tiles, and each block
//! finds its own. Nothing is read back.

use super::Cuda;
use super::arguments::{Bounds, Grouped, shared};
use super::driver::Address;
use crate::Error;
use crate::step::GroupDims;

/// Side of a tile of out.
const SIDE: usize = 128;

/// Where each group begins, and the last one ends: clamped to 0..=rows and made
/// ascending, in scratch memory.
fn bounds(cuda: &mut Cuda, starts: Address, dims: &GroupDims, step: u32) -> Result<Address, Error> {
    let count = dims.groups + 1;
    let bounds = cuda.scratch(count * 4)?;
    let a = Bounds {
        starts,
        bounds,
        faults: cuda.faults.address,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        rows: u32::try_from(dims.rows).unwrap_or(u32::MAX - 1),
        step,
    };
    // SAFETY: `starts` holds `count` integers of a validated step, and so does
    // the scratch.
    unsafe { cuda.launch("group_bounds", 1, 0, a)? };
    Ok(bounds)
}

fn arguments(
    [a, b, out, bounds]: [Address; 4],
    dims: &GroupDims,
    trans_b: bool,
    accumulate: bool,
) -> Grouped {
    Grouped {
        a,
        b,
        out,
        bounds,
        groups: dims.groups as u64,
        k: dims.k as u64,
        n: dims.n as u64,
        trans_b: u32::from(trans_b),
        accumulate: u32::from(accumulate),
        of_weights: 0,
    }
}

/// Rows of each group of a \[M,K\] times op(b\[g\]); a, b, starts, out.
pub(super) fn grouped(
    cuda: &mut Cuda,
    [a, b, starts, out]: [Address; 4],
    dims: &GroupDims,
    trans_b: bool,
    accumulate: bool,
    step: u32,
) -> Result<(), Error> {
    let GroupDims { groups, rows, n, .. } = *dims;
    let bounds = bounds(cuda, starts, dims, step)?;
    if !accumulate {
        // Rows of no group.
        cuda.driver.zero(out, rows * n * 4)?;
    }
    // Every group may end with a tile that is not full.
    let tiles = (rows / SIDE + groups.min(rows)) * n.div_ceil(SIDE);
    let arguments = arguments([a, b, out, bounds], dims, trans_b, accumulate);
    // SAFETY: the bounds ascend in 0..=rows, so each part lies inside its
    // operand of a validated step.
    unsafe { cuda.launch("matmul_grouped", tiles, shared::MATMUL, arguments) }
}

/// aᵀ·b over the rows of each group; a, b, starts, out.
pub(super) fn grouped_weight(
    cuda: &mut Cuda,
    [a, b, starts, out]: [Address; 4],
    dims: &GroupDims,
    accumulate: bool,
    step: u32,
) -> Result<(), Error> {
    let GroupDims { groups, k, n, .. } = *dims;
    let bounds = bounds(cuda, starts, dims, step)?;
    let tiles = groups * k.div_ceil(SIDE) * n.div_ceil(SIDE);
    let arguments = Grouped { of_weights: 1, ..arguments([a, b, out, bounds], dims, false, accumulate) };
    // SAFETY: as in `grouped`.
    unsafe { cuda.launch("matmul_grouped", tiles, shared::MATMUL, arguments) }
}
