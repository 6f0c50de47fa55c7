//! Attention and cross-entropy over bfloat16, which a card computes on tensor
//! cores, against the reference: heads of every width, blocks that are not
//! full, windows, shared key heads, soft caps.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, cases, close};
use crate::heads::{self, scale};

/// Of what is rounded to bfloat16 at the end.
const STORED: f64 = 8e-3;

fn check_attention(seed: u64, dims: reference::Attention) {
    heads::check(seed, dims, true, heads::APART);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(16)))]

    #[test]
    fn attention(
        seed: u64, batch in 1usize..3, time in 1usize..150, kv_heads in 1usize..3, group in 1usize..3,
        dim in 1usize..140, window in 0usize..150, aligned: bool,
    ) {
        let dim = if aligned { dim.next_multiple_of(8) } else { dim };
        let (heads, window) = (kv_heads * group, window.min(time));
        check_attention(
            seed,
            reference::Attention { batch, time, heads, kv_heads, dim, window, scale: scale(dim) },
        );
    }

    /// Of the widths that Hopper's kernels have.
    #[test]
    fn attention_of_full_heads(
        seed: u64, batch in 1usize..3, time in 1usize..330, kv_heads in 1usize..3, group in 1usize..4,
        wide: bool, window in 0usize..330,
    ) {
        let (dim, heads, window) = (if wide { 128 } else { 64 }, kv_heads * group, window.min(time));
        check_attention(
            seed,
            reference::Attention { batch, time, heads, kv_heads, dim, window, scale: scale(dim) },
        );
    }

    #[test]
    fn cross_entropy(
        seed: u64, rows in 1usize..150, channels in 1usize..80, vocabulary in 1usize..300,
        capped: bool, accumulate: bool, half: bool, aligned: bool,
    ) {
        let channels = if aligned { channels.next_multiple_of(8) } else { channels };
        check_cross_entropy(seed, [rows, channels, vocabulary], capped, accumulate, half);
    }
}

/// Heads of the widths that have kernels of their own, over several blocks of
/// queries and of keys.
#[test]
fn attention_over_several_blocks() {
    for (seed, dim) in [(1, 64), (2, 128)] {
        let dims = reference::Attention {
            batch: 1,
            time: 300,
            heads: 2,
            kv_heads: 1,
            dim,
            window: 0,
            scale: scale(dim),
        };
        check_attention(seed, dims);
        // Blocks of keys that are cut on both sides, and that nothing cuts.
        check_attention(seed + 2, reference::Attention { window: 170, heads: 1, ..dims });
        check_attention(seed + 4, reference::Attention { window: 1, heads: 1, batch: 2, time: 129, ..dims });
    }
}

/// More steps than a ring has stages, cut on both sides, for two heads in turn;
/// and the widest tiles.
#[test]
fn rings_that_go_round() {
    let dims = reference::Attention {
        batch: 1,
        time: 420,
        heads: 2,
        kv_heads: 1,
        dim: 64,
        window: 300,
        scale: scale(64),
    };
    check_attention(11, dims);
    let dims = reference::Attention { time: 150, heads: 1, dim: 128, window: 100, scale: scale(128), ..dims };
    check_attention(12, dims);
}

/// Whatever the order in which threads come.
#[test]
fn gradients_of_attention_repeat_to_the_bit() {
    let mut bench = Bench::new(13);
    let (wide, narrow) = ([1, 200, 4, 64], [1, 200, 2, 64]);
    let [q, dout] = [0; 2].map(|_| bench.random_of(true, &wide).0);
    let [k, v] = [0; 2].map(|_| Heads::from(bench.random_of(true, &narrow).0));
    let q = q.into();
    let (out, lse) = (bench.halves(&wide), bench.zeros(&[1, 4, 200]));
    let (window, scale) = (90, 0.25);
    bench.run(vec![Attention { q, k, v, kv_heads: 2, out, lse, window, scale }.into()]);
    let mut gradients = || {
        let (dq, dk, dv) = (bench.halves(&wide), bench.halves(&narrow), bench.halves(&narrow));
        bench.run(vec![
            AttentionBackward { q, k, v, kv_heads: 2, out, lse, dout, dq, dk, dv, window, scale }.into(),
        ]);
        [dq, dk, dv].map(|id| bench.get(id).into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let first = gradients();
    assert!((0..3).all(|_| gradients() == first));
}

/// What a device keeps from one operation to the next (scratch memory) changes
/// nothing, not even where it holds NaN.
#[test]
fn attention_forgets_what_it_did_before() {
    let mut bench = Bench::new(17);
    let mut gradients = |nan: bool, [time, dim]: [usize; 2]| {
        let shape = [1, time, 2, dim];
        let values: Vec<f32> =
            (0..time * 2 * dim).map(|i| if nan { f32::NAN } else { (i % 37) as f32 / 16.0 - 1.0 }).collect();
        let (wide, x) = (bench.put(&shape, &values), bench.halves(&shape));
        let [out, dq, dk, dv] = [0; 4].map(|_| bench.halves(&shape));
        let lse = bench.zeros(&[1, 2, time]);
        let (q, k, v, window, scale) = (x.into(), x.into(), x.into(), 0, 0.25);
        bench.run(vec![
            Copy { src: wide, dst: x }.into(),
            Attention { q, k, v, kv_heads: 2, out, lse, window, scale }.into(),
            AttentionBackward { q, k, v, kv_heads: 2, out, lse, dout: x, dq, dk, dv, window, scale }.into(),
        ]);
        [out, dq, dk, dv].map(|id| bench.get(id).into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    for shape in [[37, 24], [70, 40], [1, 8]] {
        let first = gradients(false, shape);
        gradients(true, [200, 64]);
        assert!(gradients(false, shape) == first, "{shape:?}");
        assert!(first.iter().flatten().all(|&bits| f32::from_bits(bits).is_finite()), "{shape:?}");
    }
}

/// A negative scale turns the order of the scores round.
#[test]
fn a_negative_scale() {
    let dims =
        reference::Attention { batch: 1, time: 90, heads: 1, kv_heads: 1, dim: 64, window: 40, scale: -0.5 };
    check_attention(7, dims);
}

/// What a later position holds does not reach an earlier one.
#[test]
fn attention_is_causal_to_the_bit() {
    let mut bench = Bench::new(9);
    let (time, width, shape) = (150, 128, [1, 150, 2, 64]);
    let (q, _) = bench.random_of(true, &shape);
    let values: Vec<f32> = (0..time * width).map(|_| bench.draw()).collect();
    let mut changed = values.clone();
    changed[100 * width..].iter_mut().for_each(|x| *x = *x * 3.0 + 1.0);
    let mut outputs = Vec::new();
    for values in [values, changed] {
        let wide = bench.put(&shape, &values);
        let (k, out) = (bench.halves(&shape), bench.halves(&shape));
        let lse = bench.zeros(&[1, 2, 150]);
        bench.run(vec![
            Copy { src: wide, dst: k }.into(),
            Attention {
                q: q.into(),
                k: k.into(),
                v: k.into(),
                kv_heads: 2,
                out,
                lse,
                window: 0,
                scale: 0.25,
            }
            .into(),
        ]);
        outputs.push(bench.get(out));
    }
    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let before = 100 * width;
    assert_eq!(bits(&outputs[0][..before]), bits(&outputs[1][..before]));
    assert_ne!(bits(&outputs[0][before..]), bits(&outputs[1][before..]));
}

fn check_cross_entropy(
    seed: u64,
    [rows, channels, vocabulary]: [usize; 3],
    capped: bool,
    accumulate: bool,
    half: bool,
) {
    let mut bench = Bench::new(seed);
    let softcap = if capped { 1.5f32 } else { 0.0 };
    let (x, x64) = bench.random_of(true, &[rows, channels]);
    let (weight, weight64) = bench.random_of(true, &[vocabulary, channels]);
    let wanted: Vec<i32> = (0..rows).map(|n| if n % 7 == 3 { -1 } else { bench.index(vocabulary) }).collect();
    let targets = bench.put_ints(&[rows], &wanted);
    let (losses, lse) = (bench.zeros(&[rows]), bench.zeros(&[rows]));
    let (dx, _) = bench.random_of(true, &[rows, channels]);
    let (dweight, before) = bench.random_of(half, &[vocabulary, channels]);
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
    close(&bench.get(losses), &want, 1e-5);
    close(&bench.get(lse), &want_lse, 1e-5);
    let (want_x, mut want_w) = reference::linear_cross_entropy_backward(operands, 0.25);
    if accumulate {
        want_w.iter_mut().zip(before).for_each(|(w, b)| *w += b);
    }
    close(&bench.get(dx), &want_x, STORED);
    close(&bench.get(dweight), &want_w, STORED);
}

#[test]
fn cross_entropy_over_several_tiles() {
    check_cross_entropy(3, [140, 72, 530], true, true, true);
    check_cross_entropy(4, [261, 64, 264], false, false, false);
    // More rows than a card has in a chunk; more logits than the CPU holds at a
    // time.
    let shape = if Bench::on_cuda() { [8200, 8, 8] } else { [70, 4, 40_000] };
    check_cross_entropy(5, shape, true, true, true);
    check_cross_entropy(6, shape, false, false, true);
}

/// An index that is out of range is clamped and reported once, in both
/// directions.
#[test]
fn targets_out_of_range_are_reported() {
    let mut device = Bench::device();
    let half = |device: &mut Device, shape: &[u32]| device.alloc(DType::Bf16, shape).unwrap();
    let (x, weight) = (half(&mut device, &[3, 8]), half(&mut device, &[5, 8]));
    let (dx, dweight) = (half(&mut device, &[3, 8]), half(&mut device, &[5, 8]));
    let targets = device.alloc(DType::I32, &[3]).unwrap();
    let [losses, lse] = [0, 1].map(|_| device.alloc(DType::F32, &[3]).unwrap());
    device.upload_i32(targets, 0, &[4, 5, -1]).unwrap();
    let (softcap, grad_scale, accumulate) = (0.0, 1.0, false);
    let ops: [Op; 2] = [
        LinearCrossEntropy { x, weight, targets, losses, lse, softcap }.into(),
        LinearCrossEntropyBackward { x, weight, targets, lse, dx, dweight, softcap, grad_scale, accumulate }
            .into(),
    ];
    for op in ops {
        let graph = device.prepare(vec![op]).unwrap();
        let error = device.run(&graph).unwrap_err();
        assert_eq!(error.code(), ErrorCode::IndexRange);
        assert!(error.to_string().contains("1 indices"), "{error}");
    }
    let mut got = [0f32; 3];
    device.download_f32(losses, 0, &mut got).unwrap();
    let uniform = 5f32.ln();
    assert!((got[0] - uniform).abs() < 1e-6 && (got[1] - uniform).abs() < 1e-6 && got[2] == 0.0, "{got:?}");
}

#[test]
fn types_that_do_not_fit_are_refused() {
    let mut device = Bench::device();
    let mut of = |dtype, shape: &[u32]| device.alloc(dtype, shape).unwrap();
    let shape = [1, 4, 2, 8];
    let [q, k, v, out] = [0; 4].map(|_| of(DType::Bf16, &shape));
    let [wide, lse] = [of(DType::F32, &shape), of(DType::F32, &[1, 2, 4])];
    let whole = of(DType::I32, &shape);
    let half_lse = of(DType::Bf16, &[1, 2, 4]);
    let [q, k, v] = [q, k, v].map(Heads::from);
    let attention = Attention { q, k, v, kv_heads: 2, out, lse, window: 0, scale: 1.0 };
    let (x, weight) = (of(DType::Bf16, &[4, 8]), of(DType::Bf16, &[5, 8]));
    let (x_wide, w_wide) = (of(DType::F32, &[4, 8]), of(DType::F32, &[5, 8]));
    let (w_half, targets) = (of(DType::Bf16, &[5, 8]), of(DType::I32, &[4]));
    let [losses, rows] = [0; 2].map(|_| of(DType::F32, &[4]));
    let dx_wide = of(DType::F32, &[4, 8]);
    let loss = LinearCrossEntropy { x, weight, targets, losses, lse: rows, softcap: 0.0 };
    let backward = LinearCrossEntropyBackward {
        x,
        weight,
        targets,
        lse: rows,
        dx: dx_wide,
        dweight: w_half,
        softcap: 0.0,
        grad_scale: 1.0,
        accumulate: false,
    };
    let refused: Vec<Op> = vec![
        Attention { k: wide.into(), ..attention.clone() }.into(),
        Attention { out: wide, ..attention.clone() }.into(),
        Attention { q: whole.into(), ..attention.clone() }.into(),
        Attention { lse: half_lse, ..attention.clone() }.into(),
        LinearCrossEntropy { x: x_wide, ..loss.clone() }.into(),
        LinearCrossEntropy { weight: w_wide, ..loss.clone() }.into(),
        // dx is not of the type of x.
        backward.clone().into(),
        // A sum that is rounded though nothing that goes into it is.
        LinearCrossEntropyBackward { x: x_wide, weight: w_wide, ..backward }.into(),
    ];
    for op in refused {
        let error = device.prepare(vec![op.clone()]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ShapeMismatch, "{error}: {op:?}");
    }
    assert!(device.prepare(vec![attention.into(), loss.into()]).is_ok());
}
