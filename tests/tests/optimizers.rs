//! Optimizers on the device.

use terrarium_sdk::init::Seeds;
use terrarium_sdk::optim::{
    Accumulator, AdamW, AdamWConfig, Lion, LionConfig, Muon, MuonConfig, Optimizer, Sgd, SgdConfig,
    clip_gradients,
};
use terrarium_sdk::{Distribution, Dtype, Tape, Tensor};
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

/// A parameter that products read in bfloat16, with the copy that AdamW keeps
/// and with a cast in each step: the same bits, one operation less.
#[test]
fn a_rounded_copy_is_what_a_cast_would_be() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let mut seeds = Seeds::new(3);
    let start = seeds.normal(&[8, 16], 1.0).unwrap().to_vec().unwrap();
    let data = seeds.normal(&[4, 16], 1.0).unwrap();
    let train = |kept: bool| {
        let weight = Tensor::zeros(&[8, 16]).unwrap();
        weight.upload(&start).unwrap();
        let config = AdamWConfig { rate: 0.1, weight_decay: 0.1, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(std::slice::from_ref(&weight), config).unwrap();
        let mut t = Tape::training();
        let input = t.input(&data);
        let x = t.cast(input, Dtype::Bfloat16).unwrap();
        let rounded = kept.then(|| optimizer.rounded(&weight).unwrap());
        let w = match &rounded {
            Some(rounded) => t.param_rounded(&weight, rounded).unwrap(),
            None => {
                let w = t.param(&weight);
                t.cast(w, Dtype::Bfloat16).unwrap()
            }
        };
        let y = t.linear(x, w).unwrap();
        let y = t.map_elements(&[y], &|e| e[0].square()).unwrap();
        let loss = t.mean(y).unwrap();
        t.backward(loss).unwrap();
        optimizer.emit(&mut t).unwrap();
        let operations = t.len();
        let graph = t.record().unwrap();
        for step in 1..=5 {
            optimizer.prepare(step, 1.0).unwrap();
            graph.replay().unwrap();
        }
        // A copy that no update would write is refused.
        assert!(kept || optimizer.rounded(&weight).is_err());
        let half = Tensor::zeros_half(&[8, 16]).unwrap();
        half.copy_from(&weight).unwrap();
        if let Some(rounded) = rounded {
            assert_eq!(rounded.to_vec().unwrap(), half.to_vec().unwrap());
        }
        (weight.to_vec().unwrap(), operations)
    };
    let ((kept, fewer), (cast, operations)) = (train(true), train(false));
    assert_eq!(kept, cast);
    assert_ne!(kept, start);
    assert_eq!(fewer + 1, operations);
}

#[test]
fn each_optimizer_finds_a_minimum() {
    let config = SgdConfig { rate: 0.05, momentum: 0.8, weight_decay: 0.0 };
    assert!(descend(&|p| Box::new(Sgd::new(std::slice::from_ref(p), config).unwrap()), 200) < 1e-3);
    let config = AdamWConfig { rate: 0.05, ..AdamWConfig::default() };
    assert!(descend(&|p| Box::new(AdamW::new(std::slice::from_ref(p), config).unwrap()), 400) < 1e-2);
    let config = LionConfig { rate: 0.02, ..LionConfig::default() };
    assert!(descend(&|p| Box::new(Lion::new(std::slice::from_ref(p), config).unwrap()), 400) < 2e-2);
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

/// Two steps of Lion against its definition in plain arithmetic.
#[test]
fn lion_follows_its_definition() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let start = [0.5f32, -0.25, 1.0, 0.0];
    let slope = [2.0f32, -1.0, 0.0, 0.5];
    let param = Tensor::from_floats(&[2, 2], &start).unwrap();
    let weight = Tensor::from_floats(&[2, 2], &slope).unwrap();
    let config = LionConfig { rate: 0.1, beta1: 0.8, beta2: 0.6, weight_decay: 0.5 };
    let mut lion = Lion::new(std::slice::from_ref(&param), config).unwrap();
    let mut t = Tape::training();
    let (p, w) = (t.param(&param), t.input(&weight));
    let product = t.mul(p, w).unwrap();
    let loss = t.sum(product).unwrap();
    t.backward(loss).unwrap();
    lion.emit(&mut t).unwrap();
    let graph = t.record().unwrap();
    let (mut want, mut momentum) = (start, [0f32; 4]);
    for step in 1..=2 {
        lion.prepare(step, 1.0).unwrap();
        graph.replay().unwrap();
        for i in 0..4 {
            let way = 0.8 * momentum[i] + 0.2 * slope[i];
            let sign = if way == 0.0 { 0.0 } else { way.signum() };
            want[i] -= 0.1 * (sign + 0.5 * want[i]);
            momentum[i] = 0.6 * momentum[i] + 0.4 * slope[i];
        }
        for (got, want) in param.to_vec().unwrap().iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} and {want}");
        }
    }
}

/// Σ a·p + Σ b·q, so that the gradients are a and b; one step of plain descent.
fn step_along(a: &[f32], b: &[f32], limit: Option<f32>) -> (Vec<f32>, f32) {
    let (p, q) = (Tensor::zeros(&[1, 2]).unwrap(), Tensor::zeros(&[3]).unwrap());
    let (wa, wb) = (Tensor::from_floats(&[1, 2], a).unwrap(), Tensor::from_floats(&[3], b).unwrap());
    let params = [p.clone(), q.clone()];
    let config = SgdConfig { rate: 1.0, momentum: 0.0, weight_decay: 0.0 };
    let mut sgd = Sgd::new(&params, config).unwrap();
    let mut t = Tape::training();
    let (vp, vq, va, vb) = (t.param(&p), t.param(&q), t.input(&wa), t.input(&wb));
    let (x, y) = (t.mul(vp, va).unwrap(), t.mul(vq, vb).unwrap());
    let (x, y) = (t.sum(x).unwrap(), t.sum(y).unwrap());
    let loss = t.add(x, y).unwrap();
    t.backward(loss).unwrap();
    let norm = Tensor::zeros(&[1]).unwrap();
    if let Some(limit) = limit {
        let slot = clip_gradients(&mut t, &params, limit).unwrap();
        let into = t.bind(&norm);
        t.emit_copy(slot, into).unwrap();
    }
    sgd.emit(&mut t).unwrap();
    sgd.prepare(1, 1.0).unwrap();
    t.run().unwrap();
    ([p.to_vec().unwrap(), q.to_vec().unwrap()].concat(), norm.scalar().unwrap())
}

#[test]
fn clipping_bounds_the_common_norm_and_leaves_short_gradients_alone() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let (a, b) = ([3.0, 0.0], [0.0, 4.0, 0.0]);
    let (moved, norm) = step_along(&a, &b, Some(1.0));
    assert!((norm - 5.0).abs() < 1e-6);
    for (got, want) in moved.iter().zip([-0.6, 0.0, 0.0, -0.8, 0.0]) {
        assert!((got - want).abs() < 1e-6, "{moved:?}");
    }
    assert_eq!(step_along(&a, &b, Some(10.0)).0, step_along(&a, &b, None).0);
    let (still, norm) = step_along(&[0.0; 2], &[0.0; 3], Some(1.0));
    assert_eq!((norm, still), (0.0, vec![0.0; 5]));
}

#[test]
fn accumulated_batches_make_the_step_of_their_mean() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let param = Tensor::zeros(&[2, 2]).unwrap();
    let weight = Tensor::zeros(&[2, 2]).unwrap();
    let params = std::slice::from_ref(&param);
    let sums = Accumulator::new(params).unwrap();
    let mut t = Tape::training();
    let (p, w) = (t.param(&param), t.input(&weight));
    let product = t.mul(p, w).unwrap();
    let loss = t.sum(product).unwrap();
    t.backward(loss).unwrap();
    sums.add(&mut t).unwrap();
    let add = t.record().unwrap();
    let config = SgdConfig { rate: 1.0, momentum: 0.0, weight_decay: 0.0 };
    let mut sgd = Sgd::new(params, config).unwrap();
    let mut t = Tape::training();
    sums.take_mean(&mut t, 2).unwrap();
    sgd.emit(&mut t).unwrap();
    sgd.prepare(1, 1.0).unwrap();
    let update = t.record().unwrap();
    for round in 1..=2 {
        for batch in [[1.0, 2.0, 3.0, 4.0], [3.0, 2.0, 1.0, 0.0]] {
            weight.upload(&batch).unwrap();
            add.replay().unwrap();
        }
        update.replay().unwrap();
        assert_eq!(param.to_vec().unwrap(), [-2.0 * round as f32; 4]);
    }
}

#[test]
fn initial_values_have_their_deviations() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let mut seeds = Seeds::new(3);
    let deviation = |t: Tensor| {
        let values = t.to_vec().unwrap();
        (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64).sqrt()
    };
    let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.03, "{got} and {want}");
    near(deviation(seeds.normal(&[100, 100], 0.5).unwrap()), 0.5);
    near(deviation(seeds.uniform(&[100, 100], 3.0).unwrap()), 3f64.sqrt());
    near(deviation(seeds.xavier(&[150, 50]).unwrap()), (2f64 / 200.0).sqrt());
    near(deviation(seeds.kaiming(&[200, 50]).unwrap()), (2f64 / 50.0).sqrt());
    assert!(seeds.kaiming(&[5]).is_err() && seeds.orthogonal(&[5], 1.0).is_err());
    for (m, n) in [(10, 10), (6, 14)] {
        let q = seeds.orthogonal(&[m as u32, n as u32], 2.0).unwrap().to_vec().unwrap();
        for value in eigenvalues(gram(&q, m, n)) {
            assert!((0.8..1.2).contains(&(value.sqrt() / 2.0)), "singular value {}", value.sqrt());
        }
    }
}
