//! Optimizers on the device.

use terrarium_sdk::optim::{AdamW, AdamWConfig, Muon, MuonConfig, Optimizer, Sgd, SgdConfig};
use terrarium_sdk::{Distribution, Tape, Tensor};
use terrarium_tests::native::{NativeConfig, NativeSession};

/// One step from zero parameters along a random gradient: −rate times Muon's
/// direction.
fn muon_direction(l: usize, m: usize, n: usize, second_moment: Option<f64>) -> Vec<f32> {
    let shape = [l as u32, m as u32, n as u32];
    let param = Tensor::zeros(&shape).unwrap();
    let weight = Tensor::zeros(&shape).unwrap();
    weight.randomize(Distribution::Normal, 1.0, 5, 1).unwrap();
    let config = MuonConfig { rate: 1.0, second_moment, ..MuonConfig::default() };
    let mut muon = Muon::new(std::slice::from_ref(&param), config).unwrap();
    let mut t = Tape::training();
    let (p, w) = (t.param(&param), t.input(&weight));
    let product = t.mul(p, w).unwrap();
    let loss = t.sum(product).unwrap();
    t.backward(loss).unwrap();
    muon.emit(&mut t).unwrap();
    muon.prepare(1, 1.0).unwrap();
    t.run().unwrap();
    param.to_vec().unwrap()
}

/// The Gram matrix of the smaller side, as f64.
fn gram(x: &[f32], m: usize, n: usize) -> Vec<Vec<f64>> {
    let at = |i: usize, j: usize| f64::from(x[i * n + j]);
    let side = m.min(n);
    let entry = |i: usize, j: usize| match m > n {
        true => (0..m).map(|r| at(r, i) * at(r, j)).sum::<f64>(),
        false => (0..n).map(|c| at(i, c) * at(j, c)).sum::<f64>(),
    };
    (0..side).map(|i| (0..side).map(|j| entry(i, j)).collect()).collect()
}

/// Eigenvalues of a symmetric matrix, by cyclic Jacobi rotations.
fn eigenvalues(mut a: Vec<Vec<f64>>) -> Vec<f64> {
    let n = a.len();
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q].abs() < 1e-14 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut() {
                    let (x, y) = (row[p], row[q]);
                    (row[p], row[q]) = (c * x - s * y, s * x + c * y);
                }
                let (upper, lower) = a.split_at_mut(q);
                for (x, y) in upper[p].iter_mut().zip(&mut lower[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
    }
    (0..n).map(|i| a[i][i]).collect()
}

#[test]
fn muon_orthogonalises_every_matrix_of_a_bank() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    for (m, n) in [(12, 12), (8, 20), (20, 8)] {
        let moved = muon_direction(2, m, n, None);
        let factor = f64::from((m as f32 / n as f32).max(1.0).sqrt());
        for matrix in moved.chunks(m * n) {
            for value in eigenvalues(gram(matrix, m, n)) {
                let singular = value.max(0.0).sqrt() / factor;
                assert!((0.8..1.2).contains(&singular), "{m}×{n}: singular value {singular}");
            }
        }
    }
}

#[test]
fn second_moment_scaling_keeps_the_norm_and_evens_the_rows() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let (m, n) = (20, 8);
    let (plain, scaled) = (muon_direction(1, m, n, None), muon_direction(1, m, n, Some(0.95)));
    let norm = |x: &[f32]| x.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    assert!((norm(&plain) / norm(&scaled) - 1.0).abs() < 1e-3);
    // After one step every row has the same norm: its own moment divides it.
    let rows: Vec<f64> = scaled.chunks(n).map(norm).collect();
    assert!(rows.iter().all(|r| (r / rows[0] - 1.0).abs() < 1e-3), "{rows:?}");
}

/// Minimises Σ (p − target)² and returns the distance at the end.
fn descend(make: &dyn Fn(&Tensor) -> Box<dyn Optimizer>, steps: u64) -> f32 {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let param = Tensor::zeros(&[3, 4]).unwrap();
    let target = Tensor::zeros(&[3, 4]).unwrap();
    target.randomize(Distribution::Uniform, 1.0, 9, 0).unwrap();
    let mut optimizer = make(&param);
    let mut t = Tape::training();
    let (p, goal) = (t.param(&param), t.input(&target));
    let error = t.map_elements(&[p, goal], &|e| (e[0] - e[1]).square()).unwrap();
    let loss = t.sum(error).unwrap();
    t.backward(loss).unwrap();
    optimizer.emit(&mut t).unwrap();
    let graph = t.record().unwrap();
    for step in 1..=steps {
        optimizer.prepare(step, 1.0 - (step as f64 / steps as f64) * 0.99).unwrap();
        graph.replay().unwrap();
    }
    let (p, goal) = (param.to_vec().unwrap(), target.to_vec().unwrap());
    p.iter().zip(&goal).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn each_optimizer_finds_a_minimum() {
    let config = SgdConfig { rate: 0.05, momentum: 0.8, weight_decay: 0.0 };
    assert!(descend(&|p| Box::new(Sgd::new(std::slice::from_ref(p), config).unwrap()), 200) < 1e-3);
    let config = AdamWConfig { rate: 0.05, ..AdamWConfig::default() };
    assert!(descend(&|p| Box::new(AdamW::new(std::slice::from_ref(p), config).unwrap()), 400) < 1e-2);
    let config = MuonConfig { rate: 0.05, ..MuonConfig::default() };
    assert!(descend(&|p| Box::new(Muon::new(std::slice::from_ref(p), config).unwrap()), 400) < 3e-2);
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let param = Tensor::zeros(&[3, 4]).unwrap();
    let mut optimizer = AdamW::new(&[param], AdamWConfig::default()).unwrap();
    let error = optimizer.emit(&mut Tape::training()).unwrap_err().to_string();
    assert!(error.contains("[3, 4]"), "{error}");
}
