//! Attention, norms, rotary embedding and cross-entropy against the
//! reference.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, close};
use crate::heads;

fn check_attention(seed: u64, dims: reference::Attention) {
    heads::check(seed, dims, false, heads::APART);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::bench::cases(30)))]

    #[test]
    fn attention(
        seed: u64, batch in 1usize..3, time in 1usize..100, kv_heads in 1usize..3,
        group in 1usize..4, dim in 1usize..20, window in 0usize..100,
    ) {
        let heads = kv_heads * group;
        let window = window.min(time);
        let dims = reference::Attention { batch, time, heads, kv_heads, dim, window, scale: 0.5 };
        check_attention(seed, dims);
    }

    #[test]
    fn rms_norm(seed: u64, rows in 1usize..70, cols in 1usize..300, halves in 0usize..8, accumulate: bool) {
        let mut bench = Bench::new(seed);
        // x, out and dout, dx.
        let [half_x, half, half_dx] = [1, 2, 4].map(|bit| halves & bit > 0);
        let (x, x64) = bench.random_of(half_x, &[rows, cols]);
        let (dout, dout64) = bench.random_of(half, &[rows, cols]);
        let (dx, before) = bench.random_of(half_dx, &[rows, cols]);
        let (out, _) = bench.random_of(half, &[rows, cols]);
        let inv_rms = bench.zeros(&[rows]);
        let eps = 1e-3f32;
        bench.run(vec![
            RmsNorm { x, out, inv_rms, eps }.into(),
            RmsNormBackward { x, inv_rms, dout, dx, accumulate }.into(),
        ]);
        let eps = f64::from(eps);
        let (want, want_inv) = reference::rms_norm(&x64, cols, eps);
        close(&bench.get(out), &want, if half { 1.0 / 256.0 } else { 2e-6 });
        close(&bench.get(inv_rms), &want_inv, 2e-6);
        let mut want = reference::rms_norm_backward(&x64, &dout64, cols, eps);
        if accumulate {
            want.iter_mut().zip(before).for_each(|(w, b)| *w += b);
        }
        // inv_rms is up to 30 and enters cubed.
        close(&bench.get(dx), &want, if half_dx { 1.0 / 256.0 } else { 2e-5 });
    }

    #[test]
    fn rope(
        seed: u64, batch in 1usize..3, time in 1usize..60, heads in 1usize..4, half in 1usize..20,
        inverse: bool,
    ) {
        let mut bench = Bench::new(seed);
        let shape = [batch, time, heads, 2 * half];
        let (x, x64) = bench.random(&shape);
        let out = bench.zeros(&shape);
        bench.run(vec![Rope { x, out, base: 10_000.0, inverse }.into()]);
        close(&bench.get(out), &reference::rope(&x64, shape, 10_000.0, inverse), 1e-6);
    }

    #[test]
    fn linear_cross_entropy(
        seed: u64, rows in 1usize..60, channels in 1usize..40, vocabulary in 1usize..300,
        capped: bool, accumulate: bool,
    ) {
        check_cross_entropy(seed, [rows, channels, vocabulary], capped, accumulate);
    }
}

fn check_cross_entropy(seed: u64, [rows, channels, vocabulary]: [usize; 3], capped: bool, accumulate: bool) {
    let mut bench = Bench::new(seed);
    let softcap = if capped { 1.5f32 } else { 0.0 };
    let (x, x64) = bench.random(&[rows, channels]);
    let (weight, weight64) = bench.random(&[vocabulary, channels]);
    let wanted: Vec<i32> = (0..rows).map(|n| if n % 7 == 3 { -1 } else { bench.index(vocabulary) }).collect();
    let targets = bench.put_ints(&[rows], &wanted);
    let (losses, lse) = (bench.zeros(&[rows]), bench.zeros(&[rows]));
    let (dx, _) = bench.random(&[rows, channels]);
    let (dweight, before) = bench.random(&[vocabulary, channels]);
    let grad_scale = 0.25;
    bench.run(vec![
        LinearCrossEntropy { x, weight, targets, losses, lse, softcap }.into(),
        LinearCrossEntropyBackward { x, weight, targets, lse, dx, dweight, softcap, grad_scale, accumulate }
            .into(),
    ]);
    let operands = reference::CrossEntropy {
        x: &x64,
        weight: &weight64,
        targets: &wanted,
        channels,
        softcap: f64::from(softcap),
    };
    let (want, want_lse) = reference::linear_cross_entropy(operands);
    close(&bench.get(losses), &want, 5e-6);
    close(&bench.get(lse), &want_lse, 5e-6);
    let (want_x, mut want_w) = reference::linear_cross_entropy_backward(operands, 0.25);
    if accumulate {
        want_w.iter_mut().zip(before).for_each(|(w, b)| *w += b);
    }
    close(&bench.get(dx), &want_x, 5e-6);
    close(&bench.get(dweight), &want_w, 2e-5);
}

/// More logits than one chunk holds, so that several chunks are summed.
#[test]
fn cross_entropy_over_several_chunks() {
    // A card's chunks hold more than the simulator could do.
    let vocabulary = if Bench::on_cuda() { 700 } else { 40_000 };
    check_cross_entropy(3, [70, 4, vocabulary], false, true);
    check_cross_entropy(4, [70, 4, vocabulary], true, false);
}

/// Longer than a block of keys, so that the running softmax is rescaled.
#[test]
fn attention_over_several_blocks() {
    let (time, window) = if Bench::on_cuda() { (200, 130) } else { (600, 300) };
    let dims = reference::Attention { batch: 2, time, heads: 4, kv_heads: 2, dim: 8, window: 0, scale: 2.0 };
    check_attention(5, dims);
    check_attention(6, reference::Attention { window: 70, ..dims });
    check_attention(7, reference::Attention { window, ..dims });
    check_attention(8, reference::Attention { window: 1, ..dims });
}

/// What a later position holds does not reach an earlier one.
#[test]
fn attention_is_causal_to_the_bit() {
    let mut bench = Bench::new(9);
    let (time, shape) = (150, [1, 150, 2, 8]);
    let (q, _) = bench.random(&shape);
    let values: Vec<f32> = (0..time * 16).map(|_| bench.draw()).collect();
    let mut changed = values.clone();
    changed[100 * 16..].iter_mut().for_each(|x| *x = *x * 3.0 + 1.0);
    let mut outputs = Vec::new();
    for values in [values, changed] {
        let k = bench.put(&shape, &values);
        let (out, lse) = (bench.zeros(&shape), bench.zeros(&[1, 2, 150]));
        bench.run(vec![
            Attention { q: q.into(), k: k.into(), v: k.into(), kv_heads: 2, out, lse, window: 0, scale: 0.4 }
                .into(),
        ]);
        outputs.push(bench.get(out));
    }
    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&outputs[0][..1600]), bits(&outputs[1][..1600]));
    assert_ne!(bits(&outputs[0][1600..]), bits(&outputs[1][1600..]));
}
