//! Gather, and its transpose: a scatter-add whose order is fixed.

use super::moves::Moved;
use super::{Output, Split, StepFaults};

const TASK: usize = 16_384;

/// out[n,:] = table[indices[n],:].
pub(crate) fn gather<T: Copy + Send + Sync>(
    split: Split,
    table: &[T],
    indices: &[i32],
    out: &mut [T],
    entries: usize,
    cols: usize,
    faults: &StepFaults,
) {
    let group = (TASK / cols).max(1);
    let out = Moved::new(out);
    split.each(indices.len().div_ceil(group), |task| {
        let first = task * group;
        for (n, &index) in (first..).zip(indices[first..].iter().take(group)) {
            let entry = faults.clamp(index, entries);
            // SAFETY: rows do not overlap, and each belongs to one task.
            let row = unsafe { out.range(n * cols, cols) };
            row.copy_from_slice(&table[entry * cols..][..cols]);
        }
    });
}

/// table[indices[n],:] += src[n,:] in the order of n: the rows are sorted by
/// entry (a stable counting sort), and then each entry is summed by one task.
#[allow(clippy::too_many_arguments)]
pub(crate) fn scatter_add(
    split: Split,
    src: &[f32],
    indices: &[i32],
    table: &mut [f32],
    entries: usize,
    cols: usize,
    accumulate: bool,
    faults: &StepFaults,
) {
    let entry_of: Vec<usize> = indices.iter().map(|&i| faults.clamp(i, entries)).collect();
    // starts[e]..starts[e + 1] are the places of entry e in `order`.
    let mut starts = vec![0usize; entries + 1];
    for &entry in &entry_of {
        starts[entry + 1] += 1;
    }
    for entry in 0..entries {
        starts[entry + 1] += starts[entry];
    }
    let mut next = starts.clone();
    let mut order = vec![0usize; entry_of.len()];
    for (n, &entry) in entry_of.iter().enumerate() {
        order[next[entry]] = n;
        next[entry] += 1;
    }
    let group = (TASK / cols).clamp(1, 64);
    let table = Output::new(table);
    split.each(entries.div_ceil(group), |task| {
        for entry in task * group..((task + 1) * group).min(entries) {
            // SAFETY: entries do not overlap, and each belongs to one task.
            let row = unsafe { table.range(entry * cols, cols) };
            if !accumulate {
                row.fill(0.0);
            }
            for &n in &order[starts[entry]..starts[entry + 1]] {
                for (t, s) in row.iter_mut().zip(&src[n * cols..][..cols]) {
                    *t += s;
                }
            }
        }
    });
}
