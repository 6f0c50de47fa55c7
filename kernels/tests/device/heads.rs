//! Attention against its reference, wherever its heads lie.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, cases, close};

/// Of what is rounded to bfloat16 at the end, and between two products.
const STORED: f64 = 8e-3;
/// Of a gradient: besides, the output that it starts from was rounded.
const GRADIENT: f64 = 1.6e-2;

/// Which of q, k and v are columns of one tensor, each behind `gap` columns
/// that are nothing's.
#[derive(Clone, Copy, Debug)]
pub struct Lying {
    pub fused: [bool; 3],
    pub gap: usize,
}

/// Each is a tensor of its own.
pub const APART: Lying = Lying { fused: [false; 3], gap: 0 };

/// Three operands and their values.
struct Operands {
    heads: [Heads; 3],
    values: [Vec<f64>; 3],
    /// What the columns are of, if any.
    whole: Option<(TensorId, Vec<f64>)>,
}

/// `from`, without the columns outside of `start..start + width`.
fn columns(from: &[f64], row: usize, start: usize, width: usize) -> Vec<f64> {
    from.chunks(row).flat_map(|line| line[start..start + width].to_vec()).collect()
}

impl Lying {
    /// The columns of q, k and v, and how many there are in all.
    fn starts(self, widths: [usize; 3]) -> ([usize; 3], usize) {
        let mut row = 0;
        let mut starts = [0; 3];
        // Last first: no order is better than another.
        for i in (0..3).rev().filter(|&i| self.fused[i]) {
            starts[i] = row + self.gap;
            row = starts[i] + widths[i];
        }
        (starts, row)
    }

    fn draw(self, bench: &mut Bench, half: bool, dims: &reference::Attention) -> Operands {
        let reference::Attention { batch, time, heads, kv_heads, dim, .. } = *dims;
        let counts = [heads, kv_heads, kv_heads];
        let widths = counts.map(|count| count * dim);
        let (starts, row) = self.starts(widths);
        let whole = (row > 0).then(|| bench.random_of(half, &[batch * time, row]));
        let parts = [0, 1, 2].map(|i| match &whole {
            Some((tensor, values)) if self.fused[i] => {
                let heads = Heads { tensor: *tensor, col: starts[i] as u32 };
                (heads, columns(values, row, starts[i], widths[i]))
            }
            _ => {
                let (tensor, values) = bench.random_of(half, &[batch, time, counts[i], dim]);
                (tensor.into(), values)
            }
        });
        let heads = parts.each_ref().map(|(heads, _)| *heads);
        Operands { heads, values: parts.map(|(_, values)| values), whole }
    }
}

/// Runs both directions and compares everything.
pub fn check(seed: u64, dims: reference::Attention, half: bool, lying: Lying) {
    let mut bench = Bench::new(seed);
    let reference::Attention { batch, time, heads, kv_heads, dim, window, scale } = dims;
    let wide = [batch, time, heads, dim];
    let inputs = lying.draw(&mut bench, half, &dims);
    let [q, k, v] = inputs.heads;
    let [q64, k64, v64] = &inputs.values;
    let (dout, dout64) = bench.random_of(half, &wide);
    // Overwritten: what was there must not matter.
    let (out, _) = bench.random_of(half, &wide);
    let gradients = lying.draw(&mut bench, half, &dims);
    let [dq, dk, dv] = gradients.heads.map(|heads| heads.tensor);
    let lse = bench.zeros(&[batch, heads, time]);
    let (window, scale32, kv_heads) = (window as u32, scale as f32, kv_heads as u32);
    bench.run(vec![
        Attention { q, k, v, kv_heads, out, lse, window, scale: scale32 }.into(),
        AttentionBackward { q, k, v, kv_heads, out, lse, dout, dq, dk, dv, window, scale: scale32 }.into(),
    ]);
    let (of_out, of_lse, of_gradient) = if half { (STORED, 1e-5, GRADIENT) } else { (3e-6, 3e-6, 2e-5) };
    let (want, want_lse) = reference::attention(q64, k64, v64, dims);
    close(&bench.get(out), &want, of_out);
    close(&bench.get(lse), &want_lse, of_lse);
    let (dq, dk, dv) = reference::attention_backward(q64, k64, v64, &dout64, dims);
    // What lies between the gradients stays what it was.
    let mut whole = gradients.whole;
    let widths = [&dq, &dk, &dv].map(|want| want.len() / (batch * time));
    let (starts, row) = lying.starts(widths);
    for (i, want) in [dq, dk, dv].into_iter().enumerate() {
        match &mut whole {
            Some((_, all)) if lying.fused[i] => {
                for (line, want) in all.chunks_mut(row).zip(want.chunks(widths[i])) {
                    line[starts[i]..][..widths[i]].copy_from_slice(want);
                }
            }
            _ => close(&bench.get(gradients.heads[i].tensor), &want, of_gradient),
        }
    }
    if let Some((tensor, all)) = whole {
        let got = bench.get(tensor);
        close(&got, &all, of_gradient);
        let between = |column: usize| {
            (0..3).all(|i| !lying.fused[i] || !(starts[i]..starts[i] + widths[i]).contains(&column))
        };
        for (at, (got, want)) in got.iter().zip(&all).enumerate().filter(|(at, _)| between(at % row)) {
            assert_eq!(f64::from(*got), *want, "element {at} is of no gradient");
        }
    }
}

/// A scale that leaves the softmax neither flat nor a maximum.
pub fn scale(dim: usize) -> f64 {
    // Exact in f32, which the operation takes.
    f64::from((2.0 / (dim as f32).sqrt() * 256.0).round() / 256.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]

    #[test]
    fn columns_of_one_projection(
        seed: u64, batch in 1usize..3, time in 1usize..150, kv_heads in 1usize..3, group in 1usize..3,
        dim in 1usize..140, window in 0usize..150, aligned: bool, half: bool, fused: [bool; 3],
        gap in 0usize..10,
    ) {
        let dim = if aligned { dim.next_multiple_of(8) } else { dim };
        let gap = if aligned { gap.next_multiple_of(8) } else { gap };
        let (heads, window) = (kv_heads * group, window.min(time));
        let dims = reference::Attention { batch, time, heads, kv_heads, dim, window, scale: scale(dim) };
        check(seed, dims, half, Lying { fused, gap });
    }
}

/// All in one tensor, and values alone, over several blocks.
fn projections(cases: [(u64, usize, bool); 2]) {
    for (seed, dim, half) in cases {
        let (batch, heads, kv_heads, window) = (2, 2, 1, 90);
        let dims = reference::Attention { batch, time: 150, heads, kv_heads, dim, window, scale: scale(dim) };
        check(seed, dims, half, Lying { fused: [true; 3], gap: 0 });
        check(seed, dims, half, Lying { fused: [false, false, true], gap: 8 });
    }
}

/// Of the widths that Hopper's kernels have.
#[test]
fn projections_of_full_heads() {
    projections([(1, 64, true), (2, 128, true)]);
}

/// Of a width that has no kernel in bfloat16 on a card; and in `f32`.
#[test]
fn projections_of_other_heads() {
    projections([(3, 136, true), (4, 64, false)]);
}
