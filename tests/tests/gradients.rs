//! Every differentiable operation of the tape against finite differences.

use terrarium_sdk::rowkernel::Layout::{Element, PerCol, PerRow, Scalar};
use terrarium_sdk::{Distribution, Result, Tape, Tensor, Var};
use terrarium_tests::native::{NativeConfig, NativeSession};

type Build = dyn Fn(&mut Tape, &[Var]) -> Result<Var>;

/// The value of the scalar that `build` makes of the parameters.
fn value(params: &[Tensor], build: &Build) -> f64 {
    let out = Tensor::zeros(&[1]).unwrap();
    let mut t = Tape::inference();
    let vars: Vec<Var> = params.iter().map(|p| t.param(p)).collect();
    let loss = build(&mut t, &vars).unwrap();
    t.store(loss, &out).unwrap();
    t.run().unwrap();
    out.to_vec().unwrap()[0].into()
}

fn gradients(params: &[Tensor], build: &Build) -> Vec<Vec<f32>> {
    let mut t = Tape::training();
    let vars: Vec<Var> = params.iter().map(|p| t.param(p)).collect();
    let loss = build(&mut t, &vars).unwrap();
    t.backward(loss).unwrap();
    let outs: Vec<Tensor> = params.iter().map(|p| Tensor::zeros(p.shape()).unwrap()).collect();
    for (param, out) in params.iter().zip(&outs) {
        let grad = t.gradient_of(param).unwrap().expect("a gradient");
        let out = t.bind(out);
        t.emit_copy(grad, out).unwrap();
    }
    t.run().unwrap();
    outs.iter().map(|o| o.to_vec().unwrap()).collect()
}

/// Compares with central differences at every element of every parameter.
fn check(shapes: &[&[u32]], shift: f32, build: &Build) {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let params: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let p = Tensor::zeros(shape).unwrap();
            p.randomize(Distribution::Uniform, 1.0, 11, i as u64).unwrap();
            let moved: Vec<f32> = p.to_vec().unwrap().iter().map(|v| v + shift).collect();
            p.upload(&moved).unwrap();
            p
        })
        .collect();
    let got = gradients(&params, build);
    let h = 4e-3f32;
    for (p, (param, grad)) in params.iter().zip(&got).enumerate() {
        let at = param.to_vec().unwrap();
        let scale = grad.iter().fold(0.0f32, |m, g| m.max(g.abs())).max(1e-3);
        for i in 0..at.len() {
            let mut moved = at.clone();
            moved[i] = at[i] + h;
            param.upload(&moved).unwrap();
            let above = value(&params, build);
            moved[i] = at[i] - h;
            param.upload(&moved).unwrap();
            let below = value(&params, build);
            param.upload(&at).unwrap();
            let expected = (above - below) / (2.0 * f64::from(h));
            let error = (f64::from(grad[i]) - expected).abs() / f64::from(scale);
            assert!(error < 2e-2, "parameter {p} element {i}: {} but {expected} by differences", grad[i]);
        }
    }
}

/// A fixed, uneven weighting, so that no gradient is uniform by accident.
fn weigh(t: &mut Tape, x: Var) -> Result<Var> {
    let y = t.map_elements(&[x], &|e| (e[0] + 0.5) * (e[0] + 0.7) * 0.5)?;
    t.sum(y)
}

#[test]
fn linear() {
    check(&[&[2, 3, 4], &[5, 4]], 0.0, &|t, p| {
        let y = t.linear(p[0], p[1])?;
        weigh(t, y)
    });
}

#[test]
fn matmul_with_each_transpose() {
    for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
        let a: &[u32] = if ta { &[2, 4, 3] } else { &[2, 3, 4] };
        let b: &[u32] = if tb { &[2, 5, 4] } else { &[2, 4, 5] };
        check(&[a, b], 0.0, &move |t, p| {
            let y = t.matmul((p[0], ta), (p[1], tb))?;
            weigh(t, y)
        });
    }
}

#[test]
fn map_over_every_layout() {
    check(&[&[3, 4], &[3], &[4], &[1]], 0.0, &|t, p| {
        let y = t.map(&[(p[0], Element), (p[1], PerRow), (p[2], PerCol), (p[3], Scalar)], &|e| {
            (e[0] * e[1] + e[2]).tanh() * e[3] + e[1] * e[3]
        })?;
        weigh(t, y)
    });
}

#[test]
fn map_functions() {
    check(&[&[3, 5]], 0.0, &|t, p| {
        let y =
            t.map_elements(&[p[0]], &|e| e[0].relu().square() + e[0].sigmoid() + e[0].silu() + e[0].gelu())?;
        let z = t.map_elements(&[p[0], y], &|e| {
            e[0].sin() * e[1].cos() + (e[0] * 0.3).exp() - e[0].abs() + e[0].min(e[1]) + e[0].max(0.2 * e[1])
        })?;
        weigh(t, z)
    });
    // Away from 0, where these have poles.
    check(&[&[3, 5], &[3, 5]], 2.0, &|t, p| {
        let y = t.map_elements(&[p[0], p[1]], &|e| {
            e[0].sqrt()
                + e[0].rsqrt()
                + e[0].ln()
                + e[0].recip()
                + e[0] / e[1]
                + e[0].pow(e[1]) * 0.1
                + e[0].pow(2.5)
        })?;
        weigh(t, y)
    });
}

#[test]
fn map_with_reductions() {
    check(&[&[3, 5], &[5]], 0.0, &|t, p| {
        let y = t.map(&[(p[0], Element), (p[1], PerCol)], &|e| {
            let z = e[0] + e[1];
            let s = (z - z.row_max()).exp();
            s / s.row_sum() + z.row_mean() * z
        })?;
        weigh(t, y)
    });
    check(&[&[3, 5], &[3]], 0.0, &|t, p| {
        let y = t.map(&[(p[0], Element), (p[1], PerRow)], &|e| (e[0] * e[1]).square().row_sum())?;
        weigh(t, y)
    });
}

#[test]
fn rms_norm_and_rope() {
    check(&[&[2, 3, 2, 4]], 0.0, &|t, p| {
        let x = t.rope(p[0], 100.0)?;
        let x = t.rms_norm(x, 1e-5)?;
        weigh(t, x)
    });
}

#[test]
fn attention_with_windows_and_groups() {
    for window in [0, 2] {
        check(&[&[1, 5, 4, 2], &[1, 5, 2, 2], &[1, 5, 2, 2]], 0.0, &move |t, p| {
            let y = t.attention(p[0], p[1], p[2], window)?;
            weigh(t, y)
        });
    }
}

#[test]
fn attention_of_one_value_with_itself() {
    check(&[&[1, 4, 2, 2]], 0.0, &|t, p| {
        let y = t.attention(p[0], p[0], p[0], 0)?;
        weigh(t, y)
    });
}

#[test]
fn gather_and_cross_entropy() {
    for softcap in [0.0, 3.0] {
        check(&[&[6, 4], &[6, 4]], 0.0, &move |t, p| {
            let tokens = Tensor::zeros_int(&[2, 3])?;
            tokens.upload_ints(&[0, 5, 2, 2, 1, 0])?;
            let targets = Tensor::zeros_int(&[2, 3])?;
            targets.upload_ints(&[5, 2, -1, 1, 0, 3])?;
            let (tokens, targets) = (t.input(&tokens), t.input(&targets));
            let x = t.gather(p[0], tokens)?;
            let losses = t.linear_cross_entropy(x, p[1], targets, softcap)?;
            t.mean(losses)
        });
    }
}

#[test]
fn shapes() {
    check(&[&[3, 4], &[3, 2]], 0.0, &|t, p| {
        let a = t.columns(p[0], 1, 2)?;
        let b = t.concat_columns(&[a, p[1], p[0]])?;
        let c = t.reshape(b, &[4, 6])?;
        let d = t.transpose(c)?;
        weigh(t, d)
    });
}

#[test]
fn a_value_used_in_many_places() {
    check(&[&[3, 3], &[3, 3]], 0.0, &|t, p| {
        let y = t.linear(p[0], p[0])?;
        let z = t.add(p[0], y)?;
        let z = t.add(z, p[0])?;
        let m = t.mean(p[0])?;
        let m = t.scale(m, 3.0)?;
        let z = t.map(&[(z, Element), (m, Scalar)], &|e| e[0] * e[1])?;
        let u = t.mul(z, p[1])?;
        let u = t.add(u, z)?;
        let v = t.rms_norm(z, 1e-5)?;
        let u = t.add(u, v)?;
        weigh(t, u)
    });
}

#[test]
fn rows_of_a_bank() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let bank = Tensor::zeros(&[3, 2, 2]).unwrap();
    bank.randomize(Distribution::Uniform, 1.0, 3, 0).unwrap();
    let out = Tensor::full(&[3, 2, 2], 9.0).unwrap();
    let mut t = Tape::training();
    let first = t.param_row(&bank, 0).unwrap();
    let again = t.param_row(&bank, 0).unwrap();
    let last = t.param_row(&bank, 2).unwrap();
    let y = t.linear(first, last).unwrap();
    let y = t.add(y, again).unwrap();
    let loss = t.sum(y).unwrap();
    t.backward(loss).unwrap();
    let grad = t.gradient_of(&bank).unwrap().unwrap();
    let dst = t.bind(&out);
    t.emit_copy(grad, dst).unwrap();
    t.run().unwrap();
    let (w, g) = (bank.to_vec().unwrap(), out.to_vec().unwrap());
    // loss = Σ first·lastᵀ + Σ first; row 1 is not used.
    let column = |m: &[f32], j: usize| m[j] + m[2 + j];
    for i in 0..4 {
        assert!((g[i] - (column(&w[8..12], i % 2) + 1.0)).abs() < 1e-5);
        assert_eq!(g[4 + i], 0.0);
        assert!((g[8 + i] - column(&w[0..4], i % 2)).abs() < 1e-5);
    }
}

#[test]
fn mistakes_are_errors_that_name_the_shapes() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let (a, b) = (Tensor::zeros(&[2, 3]).unwrap(), Tensor::zeros(&[4, 5]).unwrap());
    let mut t = Tape::training();
    let (a, b) = (t.input(&a), t.input(&b));
    let error = t.linear(a, b).unwrap_err().to_string();
    assert!(error.contains("[2, 3]") && error.contains("[4, 5]"), "{error}");
    assert!(t.add(a, b).is_err());
    assert!(t.reshape(a, &[7]).is_err());
    assert!(t.columns(a, 2, 2).is_err());
    assert!(t.attention(a, a, a, 0).is_err());
    assert!(t.rope(a, 10.0).is_err());
    assert!(t.gather(a, a).is_ok_and(|_| t.run().is_err()), "float indices are refused by the device");
}
