//! The reference's gradients against central differences of its own forward
//! functions. Together with the comparison of the device with the reference
//! this checks every gradient of the device.

use terrarium_kernels::reference::{self, Attention, CrossEntropy};

use crate::bench::{Bench, widen};

const STEP: f64 = 1e-5;

fn draws(bench: &mut Bench, count: usize) -> Vec<f64> {
    widen(&(0..count).map(|_| bench.draw()).collect::<Vec<f32>>())
}

/// ∂/∂x of `loss`, element by element, against `gradient`.
#[track_caller]
fn check(x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    for (i, analytic) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[i] += by;
            loss(&x)
        };
        let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!(
            (numeric - analytic).abs() < 1e-7 * (1.0 + numeric.abs()),
            "element {i}: {analytic} instead of {numeric}"
        );
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn rms_norm() {
    let mut bench = Bench::new(1);
    let (x, dout) = (draws(&mut bench, 21), draws(&mut bench, 21));
    let gradient = reference::rms_norm_backward(&x, &dout, 7, 1e-2);
    check(&x, &gradient, |x| dot(&reference::rms_norm(x, 7, 1e-2).0, &dout));
}

#[test]
fn rope_backwards_is_its_inverse() {
    let mut bench = Bench::new(2);
    let shape = [1, 5, 2, 6];
    let (x, dout) = (draws(&mut bench, 60), draws(&mut bench, 60));
    let gradient = reference::rope(&dout, shape, 100.0, true);
    check(&x, &gradient, |x| dot(&reference::rope(x, shape, 100.0, false), &dout));
}

#[test]
fn attention() {
    let mut bench = Bench::new(3);
    for window in [0, 3] {
        let dims = Attention { batch: 2, time: 6, heads: 4, kv_heads: 2, dim: 3, window, scale: 0.7 };
        let (q, dout) = (draws(&mut bench, 144), draws(&mut bench, 144));
        let (k, v) = (draws(&mut bench, 72), draws(&mut bench, 72));
        let (dq, dk, dv) = reference::attention_backward(&q, &k, &v, &dout, dims);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&reference::attention(q, k, v, dims).0, &dout);
        check(&q, &dq, |q| loss(q, &k, &v));
        check(&k, &dk, |k| loss(&q, k, &v));
        check(&v, &dv, |v| loss(&q, &k, v));
    }
}

#[test]
fn linear_cross_entropy() {
    let mut bench = Bench::new(4);
    for softcap in [0.0, 1.5] {
        let (x, weight) = (draws(&mut bench, 20), draws(&mut bench, 28));
        let targets = [0, -1, 6, 3, 3];
        let loss = |x: &[f64], weight: &[f64]| {
            let o = CrossEntropy { x, weight, targets: &targets, channels: 4, softcap };
            0.3 * reference::linear_cross_entropy(o).0.iter().sum::<f64>()
        };
        let o = CrossEntropy { x: &x, weight: &weight, targets: &targets, channels: 4, softcap };
        let (dx, dweight) = reference::linear_cross_entropy_backward(o, 0.3);
        check(&x, &dx, |x| loss(x, &weight));
        check(&weight, &dweight, |weight| loss(&x, weight));
    }
}

#[test]
fn gather_backwards_is_scatter_add() {
    let mut bench = Bench::new(5);
    let (table, dout) = (draws(&mut bench, 12), draws(&mut bench, 15));
    let indices = [1, 0, 1, 3, 1];
    let mut gradient = vec![0.0; 12];
    reference::scatter_add(&dout, &indices, &mut gradient, 3);
    check(&table, &gradient, |table| dot(&reference::gather(table, &indices, 3), &dout));
}
