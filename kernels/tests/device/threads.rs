//! Shapes large enough to be split between threads, for the operations whose
//! reference tests are small: 1, 2 and 3 threads must agree to the bit.

use terrarium_kernels::*;

use crate::bench::Bench;

#[test]
fn norms_and_rope() {
    let mut bench = Bench::new(21);
    let shape = [2, 200, 6, 64];
    let inv_rms = bench.zeros(&[2400]);
    for half in [true, false] {
        let [x, dout, dx, out] = [(); 4].map(|()| bench.random_of(half, &shape).0);
        bench.run(vec![
            RmsNorm { x, out, inv_rms, eps: 1e-6 }.into(),
            RmsNormBackward { x, inv_rms, dout, dx, accumulate: true }.into(),
        ]);
        assert!(bench.get(out).iter().any(|v| *v != 0.0));
        assert!(bench.get(dx).iter().any(|v| *v != 0.0));
    }
    let (x, _) = bench.random(&shape);
    let out = bench.zeros(&shape);
    bench.run(vec![Rope { x, out, base: 1e4, inverse: false }.into()]);
    assert_ne!(bench.get(out), bench.get(x));
}

#[test]
fn moves_and_indices() {
    let mut bench = Bench::new(22);
    let (rows, cols, entries) = (3000, 96, 500);
    let (src, _) = bench.random(&[rows, cols]);
    let (table, _) = bench.random(&[entries, cols]);
    let places: Vec<i32> = (0..rows).map(|_| bench.index(entries)).collect();
    let indices = bench.put_ints(&[rows], &places);
    let (out, turned) = (bench.zeros(&[rows, cols]), bench.zeros(&[cols, rows]));
    let (cast, wide) = (bench.put_ints(&[rows, cols], &[]), bench.zeros(&[rows, 2 * cols]));
    let columns =
        |src_col, dst_col, accumulate| Columns { src, src_col, dst: wide, dst_col, width: 90, accumulate };
    bench.run(vec![
        Gather { table, indices, out }.into(),
        ScatterAdd { src, indices, table, accumulate: true }.into(),
        Transpose { src, dst: turned }.into(),
        Copy { src, dst: cast }.into(),
        columns(0, 100, false).into(),
        columns(6, 60, true).into(),
        Copy { src: cast, dst: src }.into(),
    ]);
    for id in [out, table, turned, wide] {
        assert!(bench.get(id).iter().any(|v| *v != 0.0));
    }
    // Every draw is below 1, so that the cast leaves nothing.
    assert!(bench.get(src).iter().all(|v| *v == 0.0));
}

#[test]
fn sums() {
    let mut bench = Bench::new(23);
    let (rows, cols) = (1500, 700);
    let (src, _) = bench.random(&[rows, cols]);
    for (axis, len) in [(ReduceAxis::Rows, cols), (ReduceAxis::Cols, rows), (ReduceAxis::All, 1)] {
        let dst = bench.zeros(&[len]);
        bench.run(vec![Reduce { src, dst, axis, scale: 1.0, accumulate: false }.into()]);
        assert!(bench.get(dst).iter().all(|v| *v != 0.0));
    }
}

#[test]
fn cross_entropy_and_attention() {
    let mut bench = Bench::new(24);
    let (rows, channels, vocabulary) = (512, 48, 300);
    let (x, _) = bench.random(&[rows, channels]);
    let (weight, _) = bench.random(&[vocabulary, channels]);
    let wanted: Vec<i32> = (0..rows).map(|_| bench.index(vocabulary)).collect();
    let targets = bench.put_ints(&[rows], &wanted);
    let (losses, lse) = (bench.zeros(&[rows]), bench.zeros(&[rows]));
    let (dx, dweight) = (bench.zeros(&[rows, channels]), bench.zeros(&[vocabulary, channels]));
    let (softcap, grad_scale, accumulate) = (15.0, 0.1, false);
    bench.run(vec![
        LinearCrossEntropy { x, weight, targets, losses, lse, softcap }.into(),
        LinearCrossEntropyBackward { x, weight, targets, lse, dx, dweight, softcap, grad_scale, accumulate }
            .into(),
    ]);
    for id in [losses, lse, dx, dweight] {
        assert!(bench.get(id).iter().any(|v| *v != 0.0));
    }
    let shape = [4, 128, 4, 32];
    let [q, k, v, dout] = [0; 4].map(|_| bench.random(&shape).0);
    let [q, k, v] = [q, k, v].map(Heads::from);
    let [out, dq, dk, dv] = [0; 4].map(|_| bench.zeros(&shape));
    let lse = bench.zeros(&[4, 4, 128]);
    let (window, scale) = (100, 0.2);
    bench.run(vec![
        Attention { q, k, v, kv_heads: 4, out, lse, window, scale }.into(),
        AttentionBackward { q, k, v, kv_heads: 4, out, lse, dout, dq, dk, dv, window, scale }.into(),
    ]);
    for id in [out, lse, dq, dk, dv] {
        assert!(bench.get(id).iter().any(|v| *v != 0.0));
    }
}

/// Keys and values of so many heads are packed in parts; the last batch member
/// must come out as by itself.
#[test]
fn attention_of_many_heads() {
    let mut bench = Bench::new(27);
    // A card does not pack.
    let batch = if Bench::on_cuda() { 3 } else { 4500 };
    let (time, heads, dim) = (5, 2, 24);
    let shape = [batch, time, heads, dim];
    let (q, _) = bench.random(&shape);
    let (k, _) = bench.random(&shape);
    let (v, _) = bench.random(&shape);
    let (window, scale) = (0, 0.2);
    let attend = |bench: &mut Bench, batch, [q, k, v]: [TensorId; 3]| {
        let (out, lse) = (bench.zeros(&[batch, time, heads, dim]), bench.zeros(&[batch, heads, time]));
        let [q, k, v] = [q, k, v].map(Heads::from);
        bench.run(vec![Attention { q, k, v, kv_heads: 2, out, lse, window, scale }.into()]);
        bench.get(out)
    };
    let all = attend(&mut bench, batch, [q, k, v]);
    let member = time * heads * dim;
    for number in [0, batch / 2, batch - 1] {
        let own = [q, k, v].map(|of| {
            let values = bench.get(of)[number * member..][..member].to_vec();
            bench.put(&[1, time, heads, dim], &values)
        });
        assert_eq!(attend(&mut bench, 1, own), all[number * member..][..member], "member {number}");
    }
}

/// Heads too long to be packed side by side: each comes out as by itself.
#[test]
fn attention_of_long_heads() {
    let mut bench = Bench::new(28);
    let (time, heads, dim) = (17_000, 2, 128);
    let of_all = [0; 3].map(|_| bench.random(&[1, time, heads, dim]).0);
    let (window, scale) = (3, 0.2);
    let attend = |bench: &mut Bench, heads, [q, k, v]: [TensorId; 3]| {
        let (out, lse) = (bench.zeros(&[1, time, heads, dim]), bench.zeros(&[1, heads, time]));
        let [q, k, v] = [q, k, v].map(Heads::from);
        let kv_heads = heads as u32;
        bench.run(vec![Attention { q, k, v, kv_heads, out, lse, window, scale }.into()]);
        bench.get(out)
    };
    let rows = |all: &[f32], head: usize| -> Vec<f32> {
        all.chunks_exact(dim).skip(head).step_by(heads).flatten().copied().collect()
    };
    let all = attend(&mut bench, heads, of_all);
    for head in 0..heads {
        let own = of_all.map(|of| {
            let values = rows(&bench.get(of), head);
            bench.put(&[1, time, 1, dim], &values)
        });
        assert!(attend(&mut bench, 1, own) == rows(&all, head), "head {head}");
    }
}
