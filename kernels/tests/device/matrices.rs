//! Matrix products, moves, reductions and optimizer steps against the
//! reference.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, close, widen};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::bench::cases(40)))]

    #[test]
    fn matmul(
        seed: u64, batch in 1usize..4, m in 1usize..90, n in 1usize..90, k in 1usize..70,
        trans_a: bool, trans_b: bool, accumulate: bool,
    ) {
        let mut bench = Bench::new(seed);
        let pair = |a: usize, b: usize, swap: bool| if swap { [batch, b, a] } else { [batch, a, b] };
        let (a, a64) = bench.random(&pair(m, k, trans_a));
        let (b, b64) = bench.random(&pair(k, n, trans_b));
        let (out, before) = bench.random(&[batch, m, n]);
        bench.run(vec![MatMul { a, b, out, trans_a, trans_b, alpha: 0.5, accumulate }.into()]);
        let product = reference::matmul(&a64, &b64, [batch, m, n, k], trans_a, trans_b);
        let base = |i: usize| if accumulate { before[i] } else { 0.0 };
        let want: Vec<f64> = product.iter().enumerate().map(|(i, p)| base(i) + 0.5 * p).collect();
        // k products of numbers below 1, each rounded to 2⁻²⁴.
        close(&bench.get(out), &want, 2e-6 * (k as f64).sqrt());
    }

    #[test]
    fn transpose(seed: u64, batch in 1usize..4, rows in 1usize..80, cols in 1usize..80) {
        let mut bench = Bench::new(seed);
        let (src, src64) = bench.random(&[batch, rows, cols]);
        let dst = bench.zeros(&[batch, cols, rows]);
        bench.run(vec![Transpose { src, dst }.into()]);
        close(&bench.get(dst), &reference::transpose(&src64, batch, rows, cols), 0.0);
    }

    #[test]
    fn columns(
        seed: u64, rows in 1usize..40, width in 1usize..20, before in 0usize..9,
        after in 0usize..9, place in 0usize..9, accumulate: bool,
    ) {
        let mut bench = Bench::new(seed);
        let src_cols = before + width + after;
        let dst_cols = place + width + 3;
        let (src, src64) = bench.random(&[rows, src_cols]);
        let (dst, mut want) = bench.random(&[rows, dst_cols]);
        bench.run(vec![Columns {
            src, src_col: before as u32, dst, dst_col: place as u32, width: width as u32, accumulate,
        }.into()]);
        for r in 0..rows {
            for c in 0..width {
                let to = &mut want[r * dst_cols + place + c];
                *to = if accumulate { *to } else { 0.0 } + src64[r * src_cols + before + c];
            }
        }
        close(&bench.get(dst), &want, 1e-7);
    }

    #[test]
    fn reduce(
        seed: u64, rows in 1usize..300, cols in 1usize..300, which in 0usize..3, accumulate: bool, half: bool,
    ) {
        let mut bench = Bench::new(seed);
        let axis = [ReduceAxis::Rows, ReduceAxis::Cols, ReduceAxis::All][which];
        let (src, src64) = bench.random_of(half, &[rows, cols]);
        let sums = reference::reduce(&src64, rows, cols, axis);
        let (dst, before) = bench.random(&[sums.len()]);
        bench.run(vec![Reduce { src, dst, axis, scale: 0.25, accumulate }.into()]);
        let base = |i: usize| if accumulate { before[i] } else { 0.0 };
        let want: Vec<f64> = sums.iter().enumerate().map(|(i, s)| base(i) + 0.25 * s).collect();
        // Rounding errors of the terms of one sum, adding up at random.
        let terms = (rows * cols / sums.len()) as f64;
        close(&bench.get(dst), &want, 5e-7 + 3e-7 * terms.sqrt());
    }

    #[test]
    fn adamw(seed: u64, len in 1usize..40_000) {
        let mut bench = Bench::new(seed);
        let (param, mut p) = bench.random(&[len]);
        let (grad, g) = bench.random(&[len]);
        let (m, mut m64) = bench.random(&[len]);
        let variances: Vec<f32> = (0..len).map(|_| bench.draw().abs() + 0.01).collect();
        let v = bench.put(&[len], &variances);
        let mut v64 = widen(&variances);
        let values = [0.01f32, 0.9, 0.99, 1e-8, 0.1, 0.19, 0.0199];
        let hyper = bench.put(&[7], &values);
        let half = bench.halves(&[len]);
        let rounded = (seed % 2 > 0).then_some(half);
        bench.run(vec![AdamW { param, grad, m, v, hyper, rounded }.into()]);
        reference::adamw(&mut p, &g, &mut m64, &mut v64, values.map(f64::from));
        close(&bench.get(param), &p, 2e-6);
        close(&bench.get(m), &m64, 1e-6);
        close(&bench.get(v), &v64, 1e-6);
        // As a cast rounds it.
        let cast = bench.halves(&[len]);
        bench.run(vec![Copy { src: param, dst: cast }.into()]);
        let want = if rounded.is_some() { bench.get(cast) } else { vec![0.0; len] };
        assert!(bench.get(half) == want);
    }

    #[test]
    fn gather_and_scatter_add(
        seed: u64, count in 1usize..400, entries in 1usize..60, cols in 1usize..70, accumulate: bool,
    ) {
        let mut bench = Bench::new(seed);
        let places: Vec<i32> = (0..count).map(|_| bench.index(entries)).collect();
        let indices = bench.put_ints(&[count], &places);
        let (table, table64) = bench.random(&[entries, cols]);
        let out = bench.zeros(&[count, cols]);
        let (src, src64) = bench.random(&[count, cols]);
        bench.run(vec![
            Gather { table, indices, out }.into(),
            ScatterAdd { src, indices, table, accumulate }.into(),
        ]);
        close(&bench.get(out), &reference::gather(&table64, &places, cols), 0.0);
        let mut want = if accumulate { table64 } else { vec![0.0; entries * cols] };
        reference::scatter_add(&src64, &places, &mut want, cols);
        close(&bench.get(table), &want, 1e-5);
    }
}

/// Shapes that are split into many blocks, and so between threads.
#[test]
fn large_products_are_right_and_do_not_depend_on_threads() {
    for (m, n, k) in [(300, 700, 200), (64, 96, 3000), (1000, 33, 65)] {
        for (trans_a, trans_b) in [(false, false), (true, false), (false, true)] {
            let mut bench = Bench::new(7);
            let pair = |a: usize, b: usize, swap: bool| if swap { [b, a] } else { [a, b] };
            let (a, a64) = bench.random(&pair(m, k, trans_a));
            let (b, b64) = bench.random(&pair(k, n, trans_b));
            let out = bench.zeros(&[m, n]);
            let product = MatMul { a, b, out, trans_a, trans_b, alpha: 1.0, accumulate: false };
            bench.run(vec![product.into()]);
            let want = reference::matmul(&a64, &b64, [1, m, n, k], trans_a, trans_b);
            close(&bench.get(out), &want, 1e-4);
        }
    }
}

#[test]
fn casts_are_defined_for_every_float() {
    let mut bench = Bench::new(1);
    let floats = [1.9, -1.9, f32::NAN, f32::INFINITY, -1e20, 0.0];
    let src = bench.put(&[6], &floats);
    let ints = bench.put_ints(&[6], &[0; 6]);
    let back = bench.zeros(&[6]);
    bench.run(vec![Copy { src, dst: ints }.into(), Copy { src: ints, dst: back }.into()]);
    let want = [1.0, -1.0, 0.0, i32::MAX as f32, i32::MIN as f32, 0.0];
    assert_eq!(bench.get(back), want);
    bench.run(vec![Fill { dst: ints, value: f32::NAN }.into(), Copy { src: ints, dst: back }.into()]);
    assert_eq!(bench.get(back), [0.0; 6]);
}

#[test]
fn random_fill_has_its_distribution_and_repeats() {
    let mut bench = Bench::new(1);
    let count = 400_001;
    let fill = |dst, stream, distribution| -> Op {
        Random { dst, seed: 42, stream, distribution, scale: 2.0 }.into()
    };
    for (distribution, variance) in [(Distribution::Normal, 4.0), (Distribution::Uniform, 4.0 / 3.0)] {
        let (a, b, c) = (bench.zeros(&[count]), bench.zeros(&[count]), bench.zeros(&[count]));
        bench.run(vec![fill(a, 1, distribution), fill(b, 2, distribution), fill(c, 1, distribution)]);
        let (a, b, c) = (bench.get(a), bench.get(b), bench.get(c));
        assert_eq!(a, c);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (a, b) = (widen(&a), widen(&b));
        let squares: Vec<f64> = a.iter().map(|x| x * x).collect();
        let products: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
        // Six standard errors.
        assert!(mean(&a).abs() < 6.0 * (variance / count as f64).sqrt());
        assert!((mean(&squares) - variance).abs() < 6.0 * variance * (2.0 / count as f64).sqrt());
        assert!(mean(&products).abs() < 6.0 * variance / (count as f64).sqrt());
        if distribution == Distribution::Uniform {
            assert!(a.iter().all(|x| x.abs() < 2.0));
        }
    }
}
