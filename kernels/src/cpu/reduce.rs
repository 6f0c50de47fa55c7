//! Sums over rows, columns or everything, in an order that shapes fix.

use super::simd::{multiversion, sum};
use super::{Output, Split, scratch};
use crate::bf16;
use crate::op::ReduceAxis;

/// Elements of a partial sum.
const TASK: usize = 16_384;
/// Rows of a partial sum over rows.
const ROWS: usize = 64;

/// What is summed.
pub(crate) trait Term: Copy + Send + Sync {
    /// Σ x.
    fn sum_row(x: &[Self]) -> f32;

    /// total\[c\] += Σ rows\[r, c\], in the order of r.
    fn add_rows(total: &mut [f32], rows: &[Self]);
}

impl Term for f32 {
    fn sum_row(x: &[f32]) -> f32 {
        sum_row(x)
    }

    fn add_rows(total: &mut [f32], rows: &[f32]) {
        add_rows(total, rows);
    }
}

/// A bfloat16.
impl Term for u16 {
    fn sum_row(x: &[u16]) -> f32 {
        scratch::with(x.len(), |wide| {
            bf16::widen(x, wide);
            sum_row(wide)
        })
    }

    fn add_rows(total: &mut [f32], rows: &[u16]) {
        add_rows_half(total, rows);
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn run<T: Term>(
    split: Split,
    src: &[T],
    dst: &mut [f32],
    rows: usize,
    cols: usize,
    axis: ReduceAxis,
    scale: f32,
    accumulate: bool,
) {
    let put = |d: &mut f32, value: f32| *d = if accumulate { *d } else { 0.0 } + scale * value;
    match axis {
        ReduceAxis::Cols => {
            let group = (TASK / cols).max(1);
            let dst = Output::new(dst);
            split.each(rows.div_ceil(group), |task| {
                let first = task * group;
                let count = group.min(rows - first);
                // SAFETY: tasks take disjoint rows.
                let dst = unsafe { dst.range(first, count) };
                for (d, row) in dst.iter_mut().zip(src[first * cols..].chunks_exact(cols)) {
                    put(d, T::sum_row(row));
                }
            });
        }
        ReduceAxis::All => {
            let tasks = src.len().div_ceil(TASK);
            let mut partial = vec![0f32; tasks];
            let output = Output::new(&mut partial);
            split.each(tasks, |task| {
                let start = task * TASK;
                // SAFETY: one element per task.
                let p = unsafe { output.range(task, 1) };
                p[0] = T::sum_row(&src[start..(start + TASK).min(src.len())]);
            });
            let total: f64 = partial.iter().map(|&p| f64::from(p)).sum();
            put(&mut dst[0], total as f32);
        }
        ReduceAxis::Rows => {
            // Blocks of ROWS rows, in parallel; then the blocks, in order.
            let blocks = rows.div_ceil(ROWS);
            let mut partial = vec![0f32; blocks * cols];
            let output = Output::new(&mut partial);
            split.each(blocks, |block| {
                // SAFETY: blocks take disjoint ranges.
                let p = unsafe { output.range(block * cols, cols) };
                let end = ((block + 1) * ROWS).min(rows);
                T::add_rows(p, &src[block * ROWS * cols..end * cols]);
            });
            let (first, rest) = partial.split_at_mut(cols);
            add_rows(first, rest);
            for (d, value) in dst.iter_mut().zip(first) {
                put(d, *value);
            }
        }
    }
}

multiversion! { fn sum_row(x: &[f32]) -> f32 = sum_body }

#[inline(always)]
fn sum_body<const FMA: bool>(x: &[f32]) -> f32 {
    sum::<FMA>(x)
}

multiversion! {
    /// total[c] += Σ rows[r, c], in the order of r.
    pub(crate) fn add_rows(total: &mut [f32], rows: &[f32]) = add_rows_body
}

multiversion! { fn add_rows_half(total: &mut [f32], rows: &[u16]) = add_rows_half_body }

#[inline(always)]
fn add_rows_body<const FMA: bool>(total: &mut [f32], rows: &[f32]) {
    add_streams(total, rows, |x| x);
}

#[inline(always)]
fn add_rows_half_body<const FMA: bool>(total: &mut [f32], rows: &[u16]) {
    add_streams(total, rows, bf16::value);
}

/// Rows that are read side by side, as streams from memory: sums of 2048 rows take
/// 0.7 of the time of one row at a time (Emerald Rapids; eight were no faster).
const STREAMS: usize = 4;

#[inline(always)]
fn add_streams<T: Copy>(total: &mut [f32], rows: &[T], value: impl Fn(T) -> f32) {
    let cols = total.len();
    let mut groups = rows.chunks_exact(STREAMS * cols);
    for group in &mut groups {
        let rows: [&[T]; STREAMS] = std::array::from_fn(|i| &group[i * cols..][..cols]);
        for (c, t) in total.iter_mut().enumerate() {
            *t = rows.iter().fold(*t, |sum, row| sum + value(row[c]));
        }
    }
    for row in groups.remainder().chunks_exact(cols) {
        for (t, v) in total.iter_mut().zip(row) {
            *t += value(*v);
        }
    }
}
