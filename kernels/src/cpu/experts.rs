//! A mixture of experts: top-k, sorting by expert, and products by group.
//!
//! No output of a row depends on which other rows there are: each is summed
//! over the inner dimension in order, wherever its group begins and ends.

use super::matmul::{Matrix, steady_block};
use super::{Output, Split, StepFaults};
use crate::step::GroupDims;

/// Elements of a task, at least a row.
const TASK: usize = 4096;
/// Sides of a block of a grouped product.
const ROWS: usize = 192;
const COLS: usize = 256;

/// Where each group begins, and the last one ends: clamped to 0..=rows and
/// made ascending; what had to be changed is reported.
fn bounds(starts: &[i32], rows: usize, faults: &StepFaults) -> Vec<usize> {
    let mut highest = 0;
    starts
        .iter()
        .map(|&start| {
            let start = faults.clamp(start, rows + 1);
            faults.add(u64::from(start < highest));
            highest = highest.max(start);
            highest
        })
        .collect()
}

/// A block of the outputs of one group.
struct Block {
    group: usize,
    /// Rows of the operands (or of the group's matrix, for weights).
    rows: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
}

fn blocks(group: usize, rows: std::ops::Range<usize>, cols: usize, list: &mut Vec<Block>) {
    for row in rows.clone().step_by(ROWS) {
        for col in (0..cols).step_by(COLS) {
            let (rows, cols) = (row..(row + ROWS).min(rows.end), col..(col + COLS).min(cols));
            list.push(Block { group, rows, cols });
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn grouped(
    split: Split,
    a: &[f32],
    b: &[f32],
    starts: &[i32],
    out: &mut [f32],
    dims: &GroupDims,
    trans_b: bool,
    accumulate: bool,
    faults: &StepFaults,
) {
    let GroupDims { groups, rows, k, n } = *dims;
    let bounds = bounds(starts, rows, faults);
    let (first, last) = (bounds[0], bounds[groups]);
    if !accumulate {
        out[..first * n].fill(0.0);
        out[last * n..].fill(0.0);
    }
    let mut list = Vec::new();
    for group in 0..groups {
        blocks(group, bounds[group]..bounds[group + 1], n, &mut list);
    }
    let out = Output::new(out);
    split.each(list.len(), |task| {
        let Block { group, rows, cols } = &list[task];
        let a = Matrix::new(&a[rows.start * k..rows.end * k], rows.len(), k, false);
        let b = Matrix::new(&b[group * k * n..][..k * n], k, n, trans_b).columns(cols.clone());
        // SAFETY: blocks do not overlap, each is one task's, and its last row
        // ends inside the output.
        unsafe { steady_block(a, b, out.at(rows.start * n + cols.start), n, accumulate) };
    });
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn grouped_weight(
    split: Split,
    a: &[f32],
    b: &[f32],
    starts: &[i32],
    out: &mut [f32],
    dims: &GroupDims,
    accumulate: bool,
    faults: &StepFaults,
) {
    let GroupDims { groups, rows, k, n } = *dims;
    let bounds = bounds(starts, rows, faults);
    let mut list = Vec::new();
    for group in 0..groups {
        if bounds[group] < bounds[group + 1] {
            blocks(group, 0..k, n, &mut list);
        } else if !accumulate {
            out[group * k * n..][..k * n].fill(0.0);
        }
    }
    let out = Output::new(out);
    split.each(list.len(), |task| {
        let Block { group, rows, cols } = &list[task];
        let (from, to) = (bounds[*group], bounds[*group + 1]);
        let a = Matrix::new(&a[from * k..to * k], to - from, k, false).columns(rows.clone()).t();
        let b = Matrix::new(&b[from * n..to * n], to - from, n, false).columns(cols.clone());
        // SAFETY: as in `grouped`.
        unsafe { steady_block(a, b, out.at((group * k + rows.start) * n + cols.start), n, accumulate) };
    });
}

/// Whether `a` comes before `b`: larger first, NaN last.
fn before(a: f32, b: f32) -> bool {
    a > b || (b.is_nan() && !a.is_nan())
}

pub(crate) fn top_k(
    split: Split,
    x: &[f32],
    values: &mut [f32],
    indices: &mut [i32],
    rows: usize,
    cols: usize,
    k: usize,
) {
    let group = (TASK / cols).max(1);
    let (values, indices) = (Output::new(values), Output::new_bits(indices));
    split.each(rows.div_ceil(group), |task| {
        for row in task * group..((task + 1) * group).min(rows) {
            // SAFETY: rows do not overlap, and each belongs to one task.
            let (values, indices) = unsafe { (values.range(row * k, k), indices.ints(row * k, k)) };
            let mut found = 0;
            for (index, &value) in x[row * cols..][..cols].iter().enumerate() {
                if found == k && !before(value, values[k - 1]) {
                    continue;
                }
                // Behind all that are not after it, so that of equals the
                // lower index stays first; the rest moves as a block.
                let at = values[..found].partition_point(|&other| !before(value, other));
                found = (found + 1).min(k);
                values.copy_within(at..found - 1, at + 1);
                indices.copy_within(at..found - 1, at + 1);
                (values[at], indices[at]) = (value, index as i32);
            }
        }
    });
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn top_k_backward(
    split: Split,
    dvalues: &[f32],
    indices: &[i32],
    dx: &mut [f32],
    rows: usize,
    cols: usize,
    k: usize,
    accumulate: bool,
    faults: &StepFaults,
) {
    let group = (TASK / cols).max(1);
    let dx = Output::new(dx);
    split.each(rows.div_ceil(group), |task| {
        for row in task * group..((task + 1) * group).min(rows) {
            // SAFETY: rows do not overlap, and each belongs to one task.
            let dx = unsafe { dx.range(row * cols, cols) };
            if !accumulate {
                dx.fill(0.0);
            }
            for (index, value) in indices[row * k..][..k].iter().zip(&dvalues[row * k..][..k]) {
                dx[faults.clamp(*index, cols)] += value;
            }
        }
    });
}

/// One thread: a pass over the keys, which are few beside what is done with
/// them.
pub(crate) fn sort_by_key(
    keys: &[i32],
    sources: &mut [i32],
    places: &mut [i32],
    starts: &mut [i32],
    per_source: u32,
    faults: &StepFaults,
) {
    let groups = starts.len() - 1;
    let key_of: Vec<usize> = keys.iter().map(|&key| faults.clamp(key, groups)).collect();
    let mut next = vec![0usize; groups + 1];
    for &key in &key_of {
        next[key + 1] += 1;
    }
    for group in 0..groups {
        next[group + 1] += next[group];
    }
    // There are at most 2³¹ − 1 keys (checked by the validator).
    for (start, &place) in starts.iter_mut().zip(&next) {
        *start = place as i32;
    }
    for (n, &key) in key_of.iter().enumerate() {
        let place = next[key];
        next[key] += 1;
        places[n] = place as i32;
        sources[place] = (n as u32 / per_source) as i32;
    }
}
