//! Products of two bfloat16 matrices, which a card makes on tensor cores,
//! against the reference: every way of storing them, shapes that fill no tile,
//! rows that no wide copy can read, parts along k, and every end.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, cases, close};

/// Of a sum of k products of bfloat16 below 1, added in f32, and of a stored
/// result if it is `half`.
fn tolerance(k: usize, half: bool) -> f64 {
    let stored = if half { 2f64.powi(-8) } else { 0.0 };
    stored + 2e-6 * (k as f64).sqrt()
}

fn check(
    seed: u64,
    [batch, m, n, k]: [usize; 4],
    [trans_a, trans_b]: [bool; 2],
    half: bool,
    accumulate: bool,
) {
    let mut bench = Bench::new(seed);
    let pair = |a: usize, b: usize, swap: bool| if swap { [batch, b, a] } else { [batch, a, b] };
    let (a, a64) = bench.random_of(true, &pair(m, k, trans_a));
    let (b, b64) = bench.random_of(true, &pair(k, n, trans_b));
    let (out, before) = bench.random_of(half, &[batch, m, n]);
    bench.run(vec![MatMul { a, b, out, trans_a, trans_b, alpha: 0.5, accumulate }.into()]);
    let product = reference::matmul(&a64, &b64, [batch, m, n, k], trans_a, trans_b);
    let base = |i: usize| if accumulate { before[i] } else { 0.0 };
    let want: Vec<f64> = product.iter().enumerate().map(|(i, p)| base(i) + 0.5 * p).collect();
    close(&bench.get(out), &want, tolerance(k, half));
}

const FORMS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]

    #[test]
    fn products(
        seed: u64, batch in 1usize..3, m in 1usize..150, n in 1usize..280, k in 1usize..150,
        form in 0usize..4, half: bool, accumulate: bool, aligned: bool,
    ) {
        let round = |d: usize| if aligned { d.next_multiple_of(8) } else { d };
        check(seed, [batch, round(m), round(n), round(k)], FORMS[form], half, accumulate);
    }
}

#[test]
fn every_form_over_several_tiles_and_stages() {
    for (seed, form) in (1..).zip(FORMS) {
        // Five stages of k in a ring of four, the last half full.
        check(seed, [1, 136, 264, 288], form, seed % 2 == 0, true);
        // By blocks alone, as are tiles of one row: six stages.
        check(seed, [1, 72, 136, 352], form, false, true);
        // More tiles than the simulated card has multiprocessors.
        check(seed, [3, 72, 264, 64], form, false, false);
    }
}

#[test]
fn rows_that_are_not_aligned() {
    for (seed, form) in (1..).zip(FORMS) {
        check(seed, [2, 67, 131, 77], form, seed % 2 == 0, false);
    }
}

#[test]
fn a_deep_product_is_summed_in_parts() {
    for form in [[false, true], [true, false]] {
        check(5, [1, 40, 56, 1600], form, true, true);
        check(5, [2, 33, 20, 1100], form, false, true);
    }
}

#[test]
fn more_tiles_below_one_another_than_pairs_of_them() {
    // The last of nine pairs has one.
    check(7, [1, 2056, 40, 72], [false, true], true, true);
}

/// With its end in the product itself or, of a deep one, where parts are added;
/// rows in whole pieces of 16 bytes, or not.
#[test]
fn every_end() {
    let activations =
        [Activation::Identity, Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::Silu];
    for (seed, activation) in (1..).zip(activations) {
        for dims in [[24, 40, 1048], [136, 72, 80], [70, 44, 80]] {
            let halves = seed % 2 == 0;
            end(seed, activation, dims, halves, true);
            end(seed, activation, dims, !halves, seed % 3 == 0);
        }
    }
}

/// Forward, and backward of what it stored; out, pre and the residual are of
/// bfloat16 if they are `halves`.
fn end(seed: u64, activation: Activation, [m, n, k]: [usize; 3], halves: bool, residual: bool) {
    let alpha = 0.5;
    let mut bench = Bench::new(seed);
    let (a, a64) = bench.random_of(true, &[m, k]);
    let (b, b64) = bench.random_of(true, &[n, k]);
    let (out, _) = bench.random_of(halves, &[m, n]);
    let (bias, bias64) = bench.random(&[n]);
    let (beside, beside64) = bench.random_of(halves, &[m, n]);
    let (pre, _) = bench.random_of(halves, &[m, n]);
    let fused = MatMulFused {
        a,
        b,
        out,
        trans_a: false,
        trans_b: true,
        alpha,
        bias: Some(bias),
        residual: residual.then_some(beside),
        pre: Some(pre),
        activation,
        backward: false,
    };
    bench.run(vec![fused.clone().into()]);
    let product = reference::matmul(&a64, &b64, [1, m, n, k], false, true);
    let scale = f64::from(alpha);
    let z: Vec<f64> = product.iter().enumerate().map(|(i, p)| scale * p + bias64[i % n]).collect();
    let base = |i: usize| if residual { beside64[i] } else { 0.0 };
    let want: Vec<f64> =
        z.iter().enumerate().map(|(i, z)| reference::activation(activation, *z) + base(i)).collect();
    // A slope of 2 z, where z may be 30.
    close(&bench.get(out), &want, tolerance(k, halves) * 4.0);
    let stored = bench.get(pre);
    close(&stored, &z, tolerance(k, halves));
    bench.run(vec![MatMulFused { bias: None, residual: None, backward: true, ..fused }.into()]);
    let slopes = stored.iter().map(|&z| reference::activation_derivative(activation, z.into()));
    let want: Vec<f64> = product.iter().zip(slopes).map(|(p, s)| scale * p * s).collect();
    close(&bench.get(out), &want, tolerance(k, halves) * 16.0);
}
