//! Mixtures of experts against the reference.

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::{Bench, cases, close};

/// Ascending starts of `groups` groups in 0..=rows; some groups are empty, and
/// rows before the first and after the last may belong to none.
fn starts(bench: &mut Bench, rows: usize, groups: usize) -> Vec<i32> {
    let mut starts: Vec<i32> = (0..=groups).map(|_| bench.index(rows + 1)).collect();
    starts.sort_unstable();
    starts
}

fn check_grouped(seed: u64, [rows, groups, k, n]: [usize; 4], trans_b: bool, accumulate: bool) {
    let mut bench = Bench::new(seed);
    let bounds = starts(&mut bench, rows, groups);
    let starts = bench.put_ints(&[groups + 1], &bounds);
    let (a, a64) = bench.random(&[rows, k]);
    let (b, b64) = bench.random(&if trans_b { [groups, n, k] } else { [groups, k, n] });
    let (out, before) = bench.random(&[rows, n]);
    let (y, y64) = bench.random(&[rows, n]);
    let (db, db_before) = bench.random(&[groups, k, n]);
    bench.run(vec![
        GroupedMatMul { a, b, starts, out, trans_b, accumulate }.into(),
        GroupedMatMulWeight { a, b: y, starts, out: db, accumulate }.into(),
    ]);
    let plus = |want: Vec<f64>, before: Vec<f64>| -> Vec<f64> {
        want.iter().zip(before).map(|(w, b)| if accumulate { w + b } else { *w }).collect()
    };
    let want = reference::grouped_matmul(&a64, &b64, &bounds, [k, n], trans_b);
    close(&bench.get(out), &plus(want, before), 2e-6 * (k as f64).sqrt());
    let want = reference::grouped_matmul_weight(&a64, &y64, &bounds, [k, n]);
    close(&bench.get(db), &plus(want, db_before), 2e-6 * (rows as f64).sqrt());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    #[test]
    fn grouped_products(
        seed: u64, rows in 1usize..200, groups in 1usize..7, k in 1usize..40, n in 1usize..70,
        trans_b: bool, accumulate: bool,
    ) {
        check_grouped(seed, [rows, groups, k, n], trans_b, accumulate);
    }

    #[test]
    fn top_k_and_back(seed: u64, rows in 1usize..50, cols in 1usize..40, k in 1usize..40, accumulate: bool) {
        let k = k.min(cols);
        let mut bench = Bench::new(seed);
        // Few values, so that there are ties, and some NaN.
        let x: Vec<f32> = (0..rows * cols)
            .map(|_| match bench.index(9) { 0 => f32::NAN, 1 => f32::NEG_INFINITY, v => v as f32 })
            .collect();
        let x64: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let x = bench.put(&[rows, cols], &x);
        let values = bench.zeros(&[rows, k]);
        let indices = bench.put_ints(&[rows, k], &[]);
        let (dvalues, d64) = bench.random(&[rows, k]);
        let (dx, before) = bench.random(&[rows, cols]);
        bench.run(vec![
            TopK { x, values, indices }.into(),
            TopKBackward { dvalues, indices, dx, accumulate }.into(),
        ]);
        let (want, places) = reference::top_k(&x64, cols, k);
        prop_assert_eq!(bench.get_ints(indices), &places[..]);
        for (got, want) in bench.get(values).iter().zip(want) {
            prop_assert!(f64::from(*got) == want || (got.is_nan() && want.is_nan()));
        }
        let mut want = if accumulate { before } else { vec![0.0; rows * cols] };
        for (slot, &place) in places.iter().enumerate() {
            want[slot / k * cols + place as usize] += d64[slot];
        }
        close(&bench.get(dx), &want, 1e-6);
    }

    #[test]
    fn sorting_by_key(seed: u64, count in 1usize..300, groups in 1usize..20, per_source in 1usize..4) {
        let mut bench = Bench::new(seed);
        let keys: Vec<i32> = (0..count).map(|_| bench.index(groups)).collect();
        let (want_sources, want_places, want_starts) = reference::sort_by_key(&keys, groups, per_source);
        let keys = bench.put_ints(&[count], &keys);
        let [sources, places] = [(); 2].map(|()| bench.put_ints(&[count], &[]));
        let starts = bench.put_ints(&[groups + 1], &[]);
        bench.run(vec![SortByKey { keys, sources, places, starts, per_source: per_source as u32 }.into()]);
        prop_assert_eq!(bench.get_ints(sources), want_sources);
        prop_assert_eq!(bench.get_ints(places), want_places);
        prop_assert_eq!(bench.get_ints(starts), want_starts);
    }

    /// Starts and keys come from a guest: any bits are clamped and reported.
    #[test]
    fn hostile_indices(
        starts in prop::collection::vec(any::<i32>(), 4),
        keys in prop::collection::vec(any::<i32>(), 6),
    ) {
        let mut d = Bench::device();
        let mut make = |dtype, shape: &[u32]| d.alloc(dtype, shape).unwrap();
        let (a, out) = (make(DType::F32, &[6, 2]), make(DType::F32, &[6, 2]));
        let (b, db) = (make(DType::F32, &[3, 2, 2]), make(DType::F32, &[3, 2, 2]));
        let [k, sources, places] = [(); 3].map(|()| make(DType::I32, &[6]));
        let bounds = make(DType::I32, &[4]);
        d.upload_i32(bounds, 0, &starts).unwrap();
        let graph = d.prepare(vec![
            GroupedMatMul { a, b, starts: bounds, out, trans_b: false, accumulate: false }.into(),
            GroupedMatMulWeight { a, b: out, starts: bounds, out: db, accumulate: true }.into(),
        ]).unwrap();
        let legal = starts.iter().all(|s| (0..=6).contains(s)) && starts.is_sorted();
        prop_assert_eq!(d.run(&graph).is_ok(), legal);
        d.upload_i32(k, 0, &keys).unwrap();
        let sort = SortByKey { keys: k, sources, places, starts: bounds, per_source: 1 };
        let graph = d.prepare(vec![sort.into()]).unwrap();
        prop_assert_eq!(d.run(&graph).is_ok(), keys.iter().all(|k| (0..3).contains(k)));
        let mut sorted = [0; 4];
        d.download_i32(bounds, 0, &mut sorted).unwrap();
        prop_assert!(sorted.is_sorted() && sorted[0] == 0 && sorted[3] == 6);
    }
}

/// Blocks of several tasks, and an inner dimension of several panels.
#[test]
fn large_grouped_products() {
    // The simulator's tiles are of 128 × 128.
    let shape = if Bench::on_cuda() { [300, 2, 40, 140] } else { [700, 3, 300, 520] };
    check_grouped(3, shape, false, false);
    check_grouped(4, shape, true, true);
}

/// What a row becomes does not depend on the rows beside it: a model that
/// routes must treat each row of a batch alone, to the bit.
#[test]
fn a_row_of_a_grouped_product_does_not_see_its_neighbours() {
    let (k, n) = (70, 33);
    let mut bench = Bench::new(8);
    let line: Vec<f32> = (0..k).map(|_| bench.draw()).collect();
    let (b, _) = bench.random(&[2, k, n]);
    let mut results = Vec::new();
    for (rows, at, bounds) in [(1, 0, [0, 0, 1]), (9, 4, [0, 3, 9]), (200, 199, [0, 1, 200])] {
        let mut values: Vec<f32> = (0..rows * k).map(|_| bench.draw()).collect();
        values[at * k..][..k].copy_from_slice(&line);
        let a = bench.put(&[rows, k], &values);
        let starts = bench.put_ints(&[3], &bounds);
        let out = bench.zeros(&[rows, n]);
        bench.run(vec![GroupedMatMul { a, b, starts, out, trans_b: false, accumulate: false }.into()]);
        let bits: Vec<u32> = bench.get(out)[at * n..][..n].iter().map(|v| v.to_bits()).collect();
        results.push(bits);
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}
