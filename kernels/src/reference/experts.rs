//! A mixture of experts, written out.

use super::{clamp_index, matmul};

/// The rows of each group; others belong to none.
fn group_of(starts: &[i32], row: usize) -> Option<usize> {
    (0..starts.len() - 1).find(|&g| (starts[g]..starts[g + 1]).contains(&(row as i32)))
}

/// Row r of the result is row r of `a` \[M,K\] times op(b\[g\]) \[K,N\] of its
/// group, or 0. `starts` ascend in 0..=M.
pub fn grouped_matmul(a: &[f64], b: &[f64], starts: &[i32], [k, n]: [usize; 2], trans_b: bool) -> Vec<f64> {
    let rows = a.chunks(k).enumerate();
    rows.flat_map(|(row, a)| match group_of(starts, row) {
        Some(g) => matmul(a, &b[g * k * n..][..k * n], [1, 1, n, k], false, trans_b),
        None => vec![0.0; n],
    })
    .collect()
}

/// aᵀ·b over the rows of each group: \[G,K,N\].
pub fn grouped_matmul_weight(a: &[f64], b: &[f64], starts: &[i32], [k, n]: [usize; 2]) -> Vec<f64> {
    let mut out = vec![0.0; (starts.len() - 1) * k * n];
    for (row, (a, b)) in a.chunks(k).zip(b.chunks(n)).enumerate() {
        if let Some(g) = group_of(starts, row) {
            for i in 0..k {
                for j in 0..n {
                    out[(g * k + i) * n + j] += a[i] * b[j];
                }
            }
        }
    }
    out
}

/// The k largest of each row and where they are: by value, then by index;
/// NaN after everything.
pub fn top_k(x: &[f64], cols: usize, k: usize) -> (Vec<f64>, Vec<i32>) {
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.chunks(cols) {
        let mut order: Vec<usize> = (0..cols).collect();
        // A stable sort, so that equals keep the order of their indices.
        order.sort_by(|&i, &j| match (row[i].is_nan(), row[j].is_nan()) {
            (false, false) => row[j].partial_cmp(&row[i]).unwrap_or(std::cmp::Ordering::Equal),
            (a, b) => a.cmp(&b),
        });
        values.extend(order[..k].iter().map(|&i| row[i]));
        indices.extend(order[..k].iter().map(|&i| i as i32));
    }
    (values, indices)
}

/// (sources, places, starts), as of [`crate::SortByKey`].
pub fn sort_by_key(keys: &[i32], groups: usize, per_source: usize) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let key = |n: usize| clamp_index(keys[n], groups);
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|&n| key(n));
    let mut places = vec![0; keys.len()];
    for (place, &n) in order.iter().enumerate() {
        places[n] = place as i32;
    }
    let sources = order.iter().map(|n| (n / per_source) as i32).collect();
    let starts = (0..=groups).map(|g| order.iter().filter(|&&n| key(n) < g).count() as i32).collect();
    (sources, places, starts)
}
