//! Launches of products by group. Where the groups begin is only known on the
//! card, so it is read back first (one wait); then each group is a product.

use super::Cuda;
use super::arguments::Bounds;
use super::driver::Address;
use super::launch::{Product, matmul};
use crate::Error;
use crate::step::GroupDims;

/// `count` elements of 4 bytes.
fn words(count: usize) -> Address {
    count as Address * 4
}

/// Where each group begins, and the last one ends: in 0..=rows, ascending.
fn bounds(cuda: &mut Cuda, starts: Address, dims: &GroupDims, step: u32) -> Result<Vec<usize>, Error> {
    let count = dims.groups + 1;
    let clamped = cuda.scratch(count * 4)?;
    let a = Bounds {
        starts,
        bounds: clamped,
        faults: cuda.faults.address,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        rows: u32::try_from(dims.rows).unwrap_or(u32::MAX - 1),
        step,
    };
    // SAFETY: `starts` holds `count` integers of a validated step, and so does
    // the scratch.
    unsafe { cuda.launch("group_bounds", 1, 0, a)? };
    let mut list = vec![0u32; count];
    cuda.driver.download(&mut list, clamped)?;
    Ok(list.into_iter().map(|bound| (bound as usize).min(dims.rows)).collect())
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
    let GroupDims { rows, k, n, .. } = *dims;
    let bounds = bounds(cuda, starts, dims, step)?;
    if !accumulate {
        cuda.driver.zero(out, rows * n * 4)?;
    }
    for (group, ends) in bounds.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]) {
        let product = Product {
            a: a + words(ends[0] * k),
            b: b + words(group * k * n),
            out: out + words(ends[0] * n),
            batch: 1,
            dims: [ends[1] - ends[0], n, k],
            trans: [false, trans_b],
            alpha: 1.0,
            accumulate,
        };
        // SAFETY: the bounds ascend in 0..=rows, so each part lies inside its
        // operand of a validated step.
        unsafe { matmul(cuda, product)? };
    }
    Ok(())
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
    if !accumulate {
        cuda.driver.zero(out, groups * k * n * 4)?;
    }
    for (group, ends) in bounds.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]) {
        let product = Product {
            a: a + words(ends[0] * k),
            b: b + words(ends[0] * n),
            out: out + words(group * k * n),
            batch: 1,
            dims: [k, n, ends[1] - ends[0]],
            trans: [true, false],
            alpha: 1.0,
            accumulate,
        };
        // SAFETY: as in `grouped`.
        unsafe { matmul(cuda, product)? };
    }
    Ok(())
}
