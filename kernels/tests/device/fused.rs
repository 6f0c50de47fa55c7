//! Fused products, bfloat16, layer norm and the preparation of queries and
//! keys against the reference.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, cases, close};

const ACTIVATIONS: [Activation; 5] =
    [Activation::Identity, Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::Silu];

/// Which operands a fused product has beside its matrices.
#[derive(Clone, Copy, Debug)]
struct Ends {
    bias: bool,
    residual: bool,
    half_residual: bool,
    pre: bool,
    half_pre: bool,
}

fn check_fused(seed: u64, [batch, m, n, k]: [usize; 4], act: Activation, ends: Ends, trans_b: bool) {
    let mut bench = Bench::new(seed);
    let (a, a64) = bench.random(&[batch, m, k]);
    let (b, b64) = bench.random(&if trans_b { [batch, n, k] } else { [batch, k, n] });
    let (out, _) = bench.random(&[batch, m, n]);
    let (bias, bias64) = bench.random(&[n]);
    let (residual, residual64) = bench.random_of(ends.half_residual, &[batch, m, n]);
    let (pre, _) = bench.random_of(ends.half_pre, &[batch, m, n]);
    let fused = |pre: Option<TensorId>, backward: bool| MatMulFused {
        a,
        b,
        out,
        trans_a: false,
        trans_b,
        alpha: 0.5,
        bias: (ends.bias && !backward).then_some(bias),
        residual: (ends.residual && !backward).then_some(residual),
        pre,
        activation: act,
        backward,
    };
    bench.run(vec![fused(ends.pre.then_some(pre), false).into()]);
    let product = reference::matmul(&a64, &b64, [batch, m, n, k], false, trans_b);
    let bias_at = |i: usize| if ends.bias { bias64[i % n] } else { 0.0 };
    let z: Vec<f64> = product.iter().enumerate().map(|(i, p)| 0.5 * p + bias_at(i)).collect();
    let residual_at = |r: f64| if ends.residual { r } else { 0.0 };
    let pairs = z.iter().zip(&residual64);
    let want: Vec<f64> = pairs.map(|(z, r)| reference::activation(act, *z) + residual_at(*r)).collect();
    let tolerance = 1e-5 * (k as f64).sqrt();
    close(&bench.get(out), &want, tolerance);
    if ends.pre {
        let stored = bench.get(pre);
        close(&stored, &z, tolerance + if ends.half_pre { 1.0 / 256.0 } else { 0.0 });
        bench.run(vec![fused(Some(pre), true).into()]);
        let slopes = stored.iter().map(|&z| reference::activation_derivative(act, z.into()));
        let want: Vec<f64> = product.iter().zip(slopes).map(|(p, s)| 0.5 * p * s).collect();
        close(&bench.get(out), &want, tolerance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    #[test]
    fn fused_products(
        seed: u64, batch in 1usize..3, m in 1usize..80, n in 1usize..80, k in 1usize..50,
        act in 0usize..5, bias: bool, residual: bool, pre: bool, halves in 0usize..4, trans_b: bool,
    ) {
        let (half_pre, half_residual) = (halves & 1 > 0, halves & 2 > 0);
        let ends = Ends { bias, residual, half_residual, pre, half_pre };
        check_fused(seed, [batch, m, n, k], ACTIVATIONS[act], ends, trans_b);
    }

    #[test]
    fn layer_norm(
        seed: u64, rows in 1usize..150, cols in 1usize..300, shift in -50f32..50.0, accumulate: bool,
        which in 0usize..32,
    ) {
        let mut bench = Bench::new(seed);
        let values: Vec<f32> = (0..rows * cols).map(|_| bench.draw() + shift).collect();
        let x64: Vec<f64> = values.iter().map(|&v| v.into()).collect();
        let x = bench.put(&[rows, cols], &values);
        let half = which & 1 > 0;
        let (dout, dout64) = bench.random_of(half, &[rows, cols]);
        let (dx, before) = bench.random(&[rows, cols]);
        let (out, _) = bench.random_of(half, &[rows, cols]);
        let (mean, inv_std) = (bench.zeros(&[rows]), bench.zeros(&[rows]));
        let weights = [0; 4].map(|_| bench.random(&[cols]));
        let [gain, bias, dgain, dbias] = std::array::from_fn(|i| {
            (which & 2 << i > 0).then_some(weights[i].0)
        });
        let gain64 = |c: usize| gain.map_or(1.0, |_| weights[0].1[c]);
        let bias64 = |c: usize| bias.map_or(0.0, |_| weights[1].1[c]);
        let rounding = if half { 1.0 / 256.0 } else { 0.0 };
        let eps = 1e-2f32;
        bench.run(vec![
            LayerNorm { x, gain, bias, out, mean, inv_std, eps }.into(),
            LayerNormBackward { x, gain, mean, inv_std, dout, dx, dgain, dbias, accumulate }.into(),
        ]);
        let (normal, want_mean, want_inv) = reference::layer_norm(&x64, cols, eps.into());
        let want: Vec<f64> =
            normal.iter().enumerate().map(|(i, n)| n * gain64(i % cols) + bias64(i % cols)).collect();
        // The mean of numbers near 50 is known to 2⁻¹⁹, and what is left of
        // them is multiplied by 10 at most.
        close(&bench.get(out), &want, 2e-4 + rounding);
        close(&bench.get(mean), &want_mean, 2e-6);
        close(&bench.get(inv_std), &want_inv, 1e-4);
        let (want_gain, want_bias) = reference::layer_norm_weights(&x64, &dout64, cols, eps.into());
        for (sums, want) in [(dgain, want_gain), (dbias, want_bias)] {
            if let Some(sums) = sums {
                close(&bench.get(sums), &want, 3e-4 * (rows as f64).sqrt());
            }
        }
        let scaled: Vec<f64> = dout64.iter().enumerate().map(|(i, d)| d * gain64(i % cols)).collect();
        let mut want = reference::layer_norm_backward(&x64, &scaled, cols, eps.into());
        if accumulate {
            want.iter_mut().zip(before).for_each(|(w, b)| *w += b);
        }
        close(&bench.get(dx), &want, 1e-3);
    }

    #[test]
    fn rope_norm(
        seed: u64, batch in 1usize..3, time in 1usize..40, heads in 1usize..4, half in 1usize..20,
        before in 0usize..9, after in 0usize..9, which in 0usize..8, accumulate: bool, aligned: bool,
    ) {
        let four = |n: usize| if aligned { n.next_multiple_of(4) } else { n };
        let shape = [batch, time, heads, 2 * four(half)];
        check_rope_norm(seed, shape, [four(before), four(after)], Rounded::of(which), accumulate);
    }

    #[test]
    fn products_of_bfloat16(
        seed: u64, m in 1usize..70, n in 1usize..70, k in 1usize..60, which in 0usize..8,
        trans_a: bool, accumulate: bool,
    ) {
        let mut bench = Bench::new(seed);
        let (a, a64) = bench.random_of(which & 1 > 0, &if trans_a { [k, m] } else { [m, k] });
        let (b, b64) = bench.random_of(which & 2 > 0, &[k, n]);
        let (out, before) = bench.random_of(which & 4 > 0, &[m, n]);
        bench.run(vec![MatMul { a, b, out, trans_a, trans_b: false, alpha: 1.0, accumulate }.into()]);
        let product = reference::matmul(&a64, &b64, [1, m, n, k], trans_a, false);
        let base = |i: usize| if accumulate { before[i] } else { 0.0 };
        let want: Vec<f64> = product.iter().enumerate().map(|(i, p)| base(i) + p).collect();
        // A stored bfloat16 is rounded once, to 2⁻⁸ of itself.
        let stored = if which & 4 > 0 { 2f64.powi(-8) } else { 0.0 };
        close(&bench.get(out), &want, stored + 2e-6 * (k as f64).sqrt());
    }
}

/// What is bfloat16 of a [`RopeNorm`] and its gradient: the projection, the
/// heads, the projection's gradient.
#[derive(Clone, Copy)]
struct Rounded {
    x: bool,
    out: bool,
    dx: bool,
}

impl Rounded {
    fn of(bits: usize) -> Rounded {
        Rounded { x: bits & 1 > 0, out: bits & 2 > 0, dx: bits & 4 > 0 }
    }
}

fn check_rope_norm(
    seed: u64,
    shape: [usize; 4],
    [before, after]: [usize; 2],
    rounded: Rounded,
    accumulate: bool,
) {
    let [batch, time, heads, dim] = shape;
    let mut bench = Bench::new(seed);
    let (rows, width) = (batch * time, heads * dim);
    let cols = before + width + after;
    let (x, wide) = bench.random_of(rounded.x, &[rows, cols]);
    let (dout, dout64) = bench.random_of(rounded.out, &shape);
    let (dx, mut want) = bench.random_of(rounded.dx, &[rows, cols]);
    let (out, _) = bench.random_of(rounded.out, &shape);
    let inv_rms = bench.zeros(&[batch, time, heads]);
    let (base, eps) = (1000.0, 1e-3f32);
    let (x_col, dx_col) = (before as u32, before as u32);
    bench.run(vec![
        RopeNorm { x, x_col, out, inv_rms, base, eps }.into(),
        RopeNormBackward { out, inv_rms, dout, dx, dx_col, base, accumulate }.into(),
    ]);
    let part: Vec<f64> = wide.chunks(cols).flat_map(|row| row[before..before + width].to_vec()).collect();
    let (y, inv) = reference::rope_norm(&part, shape, base.into(), eps.into());
    let stored = bench.get(out);
    close(&stored, &y, if rounded.out { 1.0 / 256.0 } else { 3e-6 });
    close(&bench.get(inv_rms), &inv, 3e-6);
    let gradient = match rounded.out {
        false => reference::rope_norm_backward(&part, &dout64, shape, base.into(), eps.into()),
        // Of what was stored: inv · Rᵀ(dout − out · mean(dout · out)).
        true => {
            let heads = stored.chunks(dim).zip(dout64.chunks(dim));
            let across: Vec<f64> = heads
                .flat_map(|(y, dy)| {
                    let mean = y.iter().zip(dy).map(|(y, dy)| f64::from(*y) * dy).sum::<f64>() / dim as f64;
                    y.iter().zip(dy).map(move |(y, dy)| dy - f64::from(*y) * mean).collect::<Vec<_>>()
                })
                .collect();
            let turned = reference::rope(&across, shape, base.into(), true);
            turned.iter().enumerate().map(|(i, g)| g * inv[i / dim]).collect()
        }
    };
    for (i, g) in gradient.iter().enumerate() {
        let at = i / width * cols + before + i % width;
        want[at] = g + if accumulate { want[at] } else { 0.0 };
    }
    close(&bench.get(dx), &want, if rounded.dx { 1.0 / 256.0 } else { 1e-4 });
}

/// Heads that a lane of a card takes in one go, in more than one, and in one
/// that is not full, by loads of 16 bytes and by element.
#[test]
fn rope_norm_of_heads_of_every_width() {
    for (seed, dim) in (0..).zip([8, 64, 128, 136, 256]) {
        for (at, margin) in [0, 4, 3].into_iter().enumerate() {
            let rounded = Rounded::of(if at == 1 { 7 } else { seed as usize });
            check_rope_norm(seed, [1, 3, 3, dim], [margin, margin], rounded, at == 1);
        }
    }
}

/// Large enough to be split between threads.
#[test]
fn large_shapes_do_not_depend_on_threads() {
    // The simulator has no threads, and is slow.
    let (sides, rows) = if Bench::on_cuda() { ([1, 130, 140, 50], 40) } else { ([1, 300, 400, 200], 2000) };
    for half_pre in [false, true] {
        check_fused(
            1,
            sides,
            Activation::Gelu,
            Ends { bias: true, residual: true, half_residual: half_pre, pre: true, half_pre },
            true,
        );
    }
    for rounded in 0..8 {
        check_rope_norm(2, [2, 150, 6, 64], [16, 32], Rounded::of(rounded), true);
    }
    let mut bench = Bench::new(3);
    let (x, _) = bench.random(&[rows, 96]);
    let (dout, _) = bench.random(&[rows, 96]);
    let (out, dx) = (bench.zeros(&[rows, 96]), bench.zeros(&[rows, 96]));
    let (mean, inv_std) = (bench.zeros(&[rows]), bench.zeros(&[rows]));
    let (half, _) = bench.random_of(true, &[rows, 96]);
    let (table, _) = bench.random_of(true, &[96, rows]);
    let (values, indices) = (bench.zeros(&[rows, 8]), bench.put_ints(&[rows, 8], &[]));
    bench.run(vec![
        LayerNorm { x, gain: None, bias: None, out, mean, inv_std, eps: 1e-5 }.into(),
        LayerNormBackward {
            x,
            gain: None,
            mean,
            inv_std,
            dout,
            dx,
            dgain: None,
            dbias: None,
            accumulate: false,
        }
        .into(),
        TopK { x, values, indices }.into(),
        TopKBackward { dvalues: values, indices, dx, accumulate: true }.into(),
        Transpose { src: half, dst: table }.into(),
        Copy { src: half, dst: x }.into(),
    ]);
    for id in [out, dx, mean, inv_std, values, table, x] {
        assert!(bench.get(id).iter().any(|v| *v != 0.0));
    }
}

/// Every move of bfloat16, and each cast from it and to it.
#[test]
fn moves_and_casts_of_bfloat16() {
    let mut bench = Bench::new(1);
    let values = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::NAN, f32::MAX, -2.5, 0.0];
    let rounded = [1.0, 1.0 + 4.0 / 256.0, f32::NAN, f32::INFINITY, -2.5, 0.0];
    let half = bench.halves(&[2, 3]);
    let (turned, wide, picked) = (bench.halves(&[3, 2]), bench.halves(&[2, 4]), bench.halves(&[3, 3]));
    let ints = bench.put_ints(&[2, 3], &[]);
    let (src, back, full) = (bench.put(&[2, 3], &values), bench.zeros(&[2, 3]), bench.halves(&[4]));
    let rows = bench.put_ints(&[3], &[1, 0, 1]);
    let columns =
        |width, accumulate| Columns { src: half, src_col: 0, dst: wide, dst_col: 1, width, accumulate };
    bench.run(vec![
        Copy { src, dst: half }.into(),
        Copy { src: half, dst: back }.into(),
        Copy { src: half, dst: ints }.into(),
        Transpose { src: half, dst: turned }.into(),
        columns(3, false).into(),
        columns(2, true).into(),
        Gather { table: half, indices: rows, out: picked }.into(),
        Fill { dst: full, value: 1.0 + 1.0 / 256.0 }.into(),
    ]);
    let same = |got: Vec<f32>, want: &[f32]| {
        let bits = |x: &[f32]| x.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(want));
    };
    same(bench.get(half), &rounded);
    same(bench.get(back), &rounded);
    assert_eq!(bench.get_ints(ints), [1, 1, 0, i32::MAX, -2, 0]);
    let [a, b, c, d, e, f] = rounded;
    same(bench.get(turned), &[a, d, b, e, c, f]);
    same(bench.get(wide), &[0.0, 2.0 * a, 2.0 * b, c, 0.0, d, 2.0 * e, f]);
    same(bench.get(picked), &[d, e, f, a, b, c, d, e, f]);
    same(bench.get(full), &[1.0; 4]);
    bench.run(vec![Copy { src: ints, dst: half }.into()]);
    same(bench.get(half), &[1.0, 1.0, 0.0, 2f32.powi(31), -2.0, 0.0]);
}

/// A graph whose counter is stepped inside it draws anew at each replay, as
/// the stream with that number would.
#[test]
fn a_counter_moves_the_stream_of_a_random_fill() {
    let mut d = Bench::device();
    let dst = d.alloc(DType::F32, &[64]).unwrap();
    let [counter, one] = [(); 2].map(|()| d.alloc(DType::I32, &[1]).unwrap());
    d.upload_i32(one, 0, &[1]).unwrap();
    let distribution = Distribution::Normal;
    let step = Columns { src: one, src_col: 0, dst: counter, dst_col: 0, width: 1, accumulate: true };
    let draw = RandomStep { dst, seed: 5, stream: 100, counter, distribution, scale: 1.0 };
    let graph = d.prepare(vec![draw.into(), step.into()]).unwrap();
    assert!(graph.profile().iter().any(|line| line.name == "RandomStep"));
    for replay in 0..3 {
        d.run(&graph).unwrap();
        let (mut got, mut want) = ([0f32; 64], [0f32; 64]);
        d.download_f32(dst, 0, &mut got).unwrap();
        let plain = Random { dst, seed: 5, stream: 100 + replay, distribution, scale: 1.0 };
        let plain = d.prepare(vec![plain.into()]).unwrap();
        d.run(&plain).unwrap();
        d.download_f32(dst, 0, &mut want).unwrap();
        assert_eq!(got, want);
    }
}
