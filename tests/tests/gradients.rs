//! Every differentiable operation of the tape against finite differences.

use terrarium_sdk::rowkernel::Layout::{Element, PerCol, PerRow, Scalar};
use terrarium_sdk::tape::{Activation, Affine, Ends, Heads};
use terrarium_sdk::{Distribution, Dtype, Result, Tape, Tensor, Var};
use terrarium_tests::native::{NativeConfig, NativeSession};

type Build<'a> = dyn Fn(&mut Tape, &[Var]) -> Result<Var> + 'a;

/// The value of the scalar that `build` makes of the parameters.
fn value(params: &[Tensor], build: &Build<'_>) -> f64 {
    let out = Tensor::zeros(&[1]).unwrap();
    let mut t = Tape::inference();
    let vars: Vec<Var> = params.iter().map(|p| t.param(p)).collect();
    let loss = build(&mut t, &vars).unwrap();
    t.store(loss, &out).unwrap();
    t.run().unwrap();
    out.to_vec().unwrap()[0].into()
}

fn gradients(params: &[Tensor], build: &Build<'_>) -> Vec<Vec<f32>> {
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

/// Parameters between -1 and 1.
fn random(shapes: &[&[u32]], seed: u64) -> Vec<Tensor> {
    let one = |(stream, shape): (u64, &&[u32])| {
        let tensor = Tensor::zeros(shape).unwrap();
        tensor.randomize(Distribution::Uniform, 1.0, seed, stream).unwrap();
        tensor
    };
    (0..).zip(shapes).map(one).collect()
}

/// The gradients of what `build` makes with bfloat16 are those with float32
/// but for rounding: differences by the largest of each parameter.
fn nearly_the_same(
    shapes: &[&[u32]],
    tolerance: f32,
    build: impl Fn(&mut Tape, &[Var], Dtype) -> Result<Var>,
) {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let params = random(shapes, 7);
    let run = |dtype| gradients(&params, &|t: &mut Tape, p: &[Var]| build(t, p, dtype));
    for (half, whole) in run(Dtype::Bfloat16).iter().zip(run(Dtype::Float32)) {
        let scale = whole.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(scale > 0.0);
        for (half, whole) in half.iter().zip(whole) {
            assert!((half - whole).abs() < tolerance * scale, "{half} but {whole} in float32");
        }
    }
}

/// Compares with central differences at every element of every parameter.
fn check(shapes: &[&[u32]], shift: f32, build: &Build<'_>) {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let params = random(shapes, 11);
    for p in &params {
        let moved: Vec<f32> = p.to_vec().unwrap().iter().map(|v| v + shift).collect();
        p.upload(&moved).unwrap();
    }
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

const ACTIVATIONS: [Activation; 5] =
    [Activation::Identity, Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::Silu];

#[test]
fn fused_linear_layers() {
    for activation in ACTIVATIONS {
        check(&[&[2, 3, 4], &[5, 4], &[5], &[6, 5]], 0.0, &move |t, p| {
            let ends = Ends { bias: Some(p[2]), activation, residual: Some(p[3]), ..Ends::default() };
            let y = t.linear_fused(p[0], p[1], ends)?;
            weigh(t, y)
        });
        check(&[&[6, 4], &[5, 4], &[4, 5]], 0.0, &move |t, p| {
            let y = t.mlp(p[0], p[1], p[2], activation, Some(p[0]))?;
            weigh(t, y)
        });
        check(&[&[6, 4], &[5, 4], &[5], &[4, 5], &[4]], 0.0, &move |t, p| {
            let y = t.mlp_biased(p[0], (p[1], Some(p[2])), (p[3], Some(p[4])), activation, None)?;
            weigh(t, y)
        });
    }
    // The residual may be the value itself, and the bias is optional.
    check(&[&[3, 4], &[4, 4]], 0.0, &|t, p| {
        let y = t.linear_fused(p[0], p[1], Ends { residual: Some(p[0]), ..Ends::default() })?;
        weigh(t, y)
    });
}

#[test]
fn prepared_heads_and_layer_norm() {
    check(&[&[2, 3, 2, 4]], 0.0, &|t, p| {
        let x = t.rope_norm(p[0], 100.0, 1e-2)?;
        weigh(t, x)
    });
    // Queries and keys out of one projection, whose columns overlap here.
    check(&[&[2, 3, 10]], 0.0, &|t, p| {
        let q = t.heads(p[0], 0, [2, 3, 2, 4], 100.0, 1e-2)?;
        let k = t.heads(p[0], 6, [2, 3, 1, 4], 100.0, 1e-2)?;
        let (q, k) = (weigh(t, q)?, weigh(t, k)?);
        t.add(q, k)
    });
    check(&[&[3, 6]], 0.5, &|t, p| {
        let x = t.layer_norm(p[0], 1e-2, Affine::default())?;
        let y = t.layer_norm(p[0], 1e-1, Affine::default())?;
        let x = t.add(x, y)?;
        weigh(t, x)
    });
    // Gain and bias, both or one, and a gain used twice.
    check(&[&[3, 6], &[6], &[6]], 0.5, &|t, p| {
        let both = Affine { gain: Some(p[1]), bias: Some(p[2]), ..Affine::default() };
        let x = t.layer_norm(p[0], 1e-2, both)?;
        let y = t.layer_norm(x, 1e-1, Affine { bias: None, ..both })?;
        let z = t.layer_norm(p[0], 1e-1, Affine { gain: None, ..both })?;
        let y = t.add(y, z)?;
        weigh(t, y)
    });
}

#[test]
fn gradients_that_values_share() {
    // A residual stream, whose gradient stays in one buffer.
    check(&[&[3, 4], &[4, 4], &[4, 4]], 0.0, &|t, p| {
        let mut x = t.map_elements(&[p[0]], &|e| e[0].square())?;
        for weight in &p[1..] {
            let h = t.rms_norm(x, 1e-2)?;
            let h = t.linear(h, *weight)?;
            x = t.add(x, h)?;
        }
        weigh(t, x)
    });
    // Both sides of a sum read its gradient, and either gets more of its own
    // before or after the other has read it.
    for late in [0, 1] {
        check(&[&[3, 4], &[3, 4]], 0.0, &move |t, p| {
            let sides = [t.map_elements(&[p[0]], &|e| e[0].square())?, t.rms_norm(p[1], 1e-2)?];
            let other = t.rms_norm(sides[late], 1e-1)?;
            let sum = t.add(sides[0], sides[1])?;
            let (sum, other) = (weigh(t, sum)?, weigh(t, other)?);
            t.add(sum, other)
        });
    }
}

/// The operations of a network with and without a residual stream: it costs no
/// copies of gradients.
#[test]
fn a_residual_stream_has_one_gradient() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let (input, weight) = (Tensor::zeros(&[2, 8]).unwrap(), Tensor::zeros(&[8, 8]).unwrap());
    let operations = |stream: bool| {
        let mut t = Tape::training();
        let (mut x, w) = (t.param(&input), t.param(&weight));
        for _ in 0..3 {
            let h = t.rms_norm(x, 1e-5).unwrap();
            x = t.linear_fused(h, w, Ends { residual: stream.then_some(x), ..Ends::default() }).unwrap();
        }
        let loss = t.mean(x).unwrap();
        t.backward(loss).unwrap();
        t.len()
    };
    assert_eq!(operations(true), operations(false));
}

#[test]
fn experts() {
    check(&[&[4, 5]], 0.0, &|t, p| {
        let (best, _) = t.top_k(p[0], 2)?;
        let (more, _) = t.top_k(p[0], 3)?;
        let (best, more) = (weigh(t, best)?, weigh(t, more)?);
        t.add(best, more)
    });
    check(&[&[5, 3], &[3, 4, 3]], 0.0, &|t, p| {
        let starts = Tensor::zeros_int(&[4])?;
        starts.upload_ints(&[0, 2, 2, 4])?;
        let starts = t.input(&starts);
        let y = t.grouped_linear(p[0], p[1], starts)?;
        let z = t.grouped_linear(p[0], p[1], starts)?;
        let y = t.add(y, z)?;
        weigh(t, y)
    });
    for k in [1, 2] {
        check(&[&[2, 3, 4], &[3, 4], &[3, 5, 4], &[3, 4, 5]], 0.0, &move |t, p| {
            let (y, _) = t.mixture(p[0], p[1], (p[2], p[3]), k, Activation::Silu)?;
            weigh(t, y)
        });
    }
}

#[test]
fn casts_pass_gradients_and_products_mix_types() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let x = Tensor::zeros(&[3, 8]).unwrap();
    let w = Tensor::zeros(&[4, 8]).unwrap();
    for (tensor, stream) in [(&x, 1), (&w, 2)] {
        tensor.randomize(Distribution::Uniform, 1.0, 5, stream).unwrap();
        // Through bfloat16 and back, so that the cast below loses nothing.
        let half = Tensor::zeros_half(tensor.shape()).unwrap();
        half.copy_from(tensor).unwrap();
        tensor.copy_from(&half).unwrap();
        assert_eq!(half.to_vec().unwrap(), tensor.to_vec().unwrap());
    }
    // What arrives at the product is rounded to bfloat16 too: powers of two stay.
    let weights = Tensor::zeros(&[3, 4]).unwrap();
    weights.upload(&[1.0, -0.5, 4.0, 0.25, -2.0, 1.0, 0.125, 8.0, 0.5, -4.0, 2.0, -1.0]).unwrap();
    let run = |half: bool| {
        gradients(&[x.clone(), w.clone()], &|t: &mut Tape, p: &[Var]| {
            let (a, b) = match half {
                true => (t.cast(p[0], Dtype::Bfloat16)?, t.cast(p[1], Dtype::Bfloat16)?),
                false => (p[0], p[1]),
            };
            // Moves keep the type.
            let parts = [t.columns(a, 0, 3)?, t.columns(a, 3, 5)?];
            let a = t.concat_columns(&parts)?;
            let b = t.transpose(b)?;
            let b = t.transpose(b)?;
            let y = t.linear(a, b)?;
            let weights = t.input(&weights);
            let y = t.mul(y, weights)?;
            t.sum(y)
        })
    };
    let (half, whole) = (run(true), run(false));
    // The gradient of a bfloat16 value is rounded, that of a parameter is not.
    for (half, whole) in half[0].iter().zip(&whole[0]) {
        assert!((half - whole).abs() <= whole.abs() / 256.0, "{half} but {whole} in float32");
    }
    assert_eq!(half[1], whole[1]);
}

#[test]
fn dropout_moves_with_its_counter_and_keeps_the_mean() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let x = Tensor::full(&[100, 100], 1.0).unwrap();
    let (counter, out) = (Tensor::zeros_int(&[1]).unwrap(), Tensor::zeros(&[100, 100]).unwrap());
    let mut t = Tape::training();
    let p = t.param(&x);
    let y = t.dropout(p, 0.25, 1, 0, &counter).unwrap();
    t.count(&counter).unwrap();
    t.store(y, &out).unwrap();
    let graph = t.record().unwrap();
    let mut seen = Vec::new();
    for step in 1..=3 {
        graph.replay().unwrap();
        assert_eq!(counter.download_ints(1).unwrap(), [step]);
        let values = out.to_vec().unwrap();
        let kept = values.iter().filter(|v| **v != 0.0).count();
        assert!((7200..7800).contains(&kept), "{kept} of 10000 kept");
        assert!(values.iter().all(|v| *v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
        assert!(!seen.contains(&values), "the same elements were dropped again");
        seen.push(values);
    }
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

/// Queries, keys and values in the columns of one value: with nothing between
/// them, used besides, with columns that are no one's, and overlapping.
#[test]
fn attention_of_one_projection() {
    for window in [0, 2] {
        check(&[&[1, 5, 16]], 0.0, &move |t, p| {
            let y = t.attention_fused(p[0], 4, 2, window)?;
            weigh(t, y)
        });
    }
    check(&[&[1, 4, 6]], 0.0, &|t, p| {
        let y = t.attention_fused(p[0], 1, 1, 0)?;
        let (y, x) = (weigh(t, y)?, weigh(t, p[0])?);
        t.add(x, y)
    });
    check(&[&[4, 9], &[1, 4, 2, 2]], 0.0, &|t, p| {
        let at = |of, col| Heads { of, col };
        let y = t.attention_in([1, 4, 2, 2], 1, [at(p[1], 0), at(p[0], 5), at(p[0], 1)], 0)?;
        weigh(t, y)
    });
    check(&[&[4, 5]], 0.0, &|t, p| {
        let at = |col| Heads { of: p[0], col };
        let y = t.attention_in([2, 2, 1, 2], 1, [at(0), at(1), at(3)], 0)?;
        weigh(t, y)
    });
}

/// Values out of the projection that queries and keys are made ready from.
#[test]
fn attention_beside_heads() {
    check(&[&[1, 4, 12]], 0.0, &|t, p| {
        let shape = [1, 4, 2, 2];
        let q = t.heads(p[0], 0, shape, 10.0, 1e-3)?;
        let k = t.heads(p[0], 4, shape, 10.0, 1e-3)?;
        let y = t.attention_in(shape, 2, [q.into(), k.into(), Heads { of: p[0], col: 8 }], 0)?;
        weigh(t, y)
    });
}

/// Some columns of a projection are nobody's, some have several readers, and one
/// reader takes them all.
#[test]
fn columns_that_share_a_gradient() {
    check(&[&[1, 4, 12]], 0.0, &|t, p| {
        let shape = [1, 4, 2, 2];
        let q = t.heads(p[0], 0, shape, 10.0, 1e-3)?;
        let y =
            t.attention_in(shape, 1, [q.into(), Heads { of: p[0], col: 6 }, Heads { of: p[0], col: 9 }], 0)?;
        weigh(t, y)
    });
    check(&[&[3, 10]], 0.3, &|t, p| {
        let (a, b) = (t.columns(p[0], 7, 3)?, t.columns(p[0], 2, 3)?);
        let c = t.columns(p[0], 8, 2)?;
        let c = t.concat_columns(&[c, c])?;
        let y = t.concat_columns(&[a, b, c])?;
        weigh(t, y)
    });
    check(&[&[3, 6]], 0.3, &|t, p| {
        let all = t.scale(p[0], 2.0)?;
        let (a, b) = (t.columns(p[0], 0, 3)?, t.columns(p[0], 3, 3)?);
        let y = t.concat_columns(&[b, a])?;
        let y = t.add(y, all)?;
        weigh(t, y)
    });
}

#[test]
fn rows_below_one_another() {
    let shapes: [&[u32]; 3] = [&[3, 4], &[2, 4], &[3, 4]];
    let build = |t: &mut Tape, p: &[Var], dtype| {
        let w = t.concat_rows(&[p[1], p[2], p[1]], dtype)?;
        let x = t.cast(p[0], dtype)?;
        let y = t.linear(x, w)?;
        weigh(t, y)
    };
    check(&shapes, 0.0, &|t, p| build(t, p, Dtype::Float32));
    nearly_the_same(&shapes, 2e-2, build);
}

/// Queries, keys and values of one bfloat16 projection, of which attention
/// takes the values where they lie.
#[test]
fn one_projection_in_bfloat16() {
    nearly_the_same(&[&[2, 6, 8], &[8, 8], &[4, 8], &[4, 8]], 4e-2, |t, p, dtype| {
        let x = t.rms_norm_as(p[0], 1e-3, dtype)?;
        let w = t.concat_rows(&p[1..], dtype)?;
        let qkv = t.linear_fused(x, w, Ends { result: dtype, ..Ends::default() })?;
        let q = t.heads_as(qkv, 0, [2, 6, 2, 4], 10.0, 1e-3, dtype)?;
        let k = t.heads_as(qkv, 8, [2, 6, 1, 4], 10.0, 1e-3, dtype)?;
        let y = t.attention_in([2, 6, 2, 4], 1, [q.into(), k.into(), Heads { of: qkv, col: 12 }], 4)?;
        let y = t.cast(y, Dtype::Float32)?;
        weigh(t, y)
    });
}

/// What several maps owe to one value is added up by the maps themselves.
#[test]
fn maps_add_to_a_gradient_that_is_there() {
    let operations = |maps: usize| {
        let _session = NativeSession::start(NativeConfig::default()).unwrap();
        let (x, scale) = (Tensor::zeros(&[4, 6]).unwrap(), Tensor::zeros(&[1]).unwrap());
        let mut t = Tape::training();
        let (x, scale) = (t.param(&x), t.input(&scale));
        let mut y = t.scale(x, 0.5).unwrap();
        for _ in 0..maps {
            y = t
                .map(&[(y, Element), (x, Element), (scale, Scalar)], &|e| e[0].tanh() + e[2] * e[1])
                .unwrap();
        }
        let loss = t.mean(y).unwrap();
        t.backward(loss).unwrap();
        t.len()
    };
    // Each is one pass forward and one back.
    assert_eq!(operations(5) - operations(2), 6);
    check(&[&[3, 5]], 0.2, &|t, p| {
        let mut y = p[0];
        for _ in 0..3 {
            y = t.map_elements(&[y, p[0], p[0]], &|e| e[0].tanh() * e[1] + 0.5 * e[2].square())?;
        }
        weigh(t, y)
    });
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
    assert!(t.attention_fused(a, 1, 1, 0).is_err());
    assert!(t.attention_fused(a, 0, 0, 0).is_err());
    let at = |col| Heads { of: a, col };
    assert!(t.attention_in([3, 1, 1, 1], 1, [at(0), at(1), at(u32::MAX)], 0).is_err());
    assert!(t.rope(a, 10.0).is_err());
    assert!(t.gather(a, a).is_ok_and(|_| t.run().is_err()), "float indices are refused by the device");
}

/// Attention and the loss over bfloat16, also where a value is used twice.
#[test]
fn bfloat16_flows_through_attention_and_the_loss() {
    let shapes: [&[u32]; 4] = [&[2, 6, 2, 4], &[2, 6, 1, 4], &[5, 8], &[2, 6, 16]];
    nearly_the_same(&shapes, 2e-2, |t, p, dtype| {
        let targets = Tensor::zeros_int(&[12])?;
        targets.upload_ints(&[0, 4, 1, -1, 2, 3, 0, 0, 1, 2, 4, 3])?;
        let (q, k) = (t.cast(p[0], dtype)?, t.cast(p[1], dtype)?);
        let weight = t.cast(p[2], dtype)?;
        let y = t.attention(q, k, k, 4)?;
        let fused = t.cast(p[3], dtype)?;
        let z = t.attention_fused(fused, 2, 1, 0)?;
        let (y, z) = (t.cast(y, Dtype::Float32)?, t.cast(z, Dtype::Float32)?);
        let z = t.reshape(z, &[2, 6, 2, 4])?;
        let y = t.add(y, z)?;
        let y = t.cast(y, dtype)?;
        let y = t.reshape(y, &[12, 8])?;
        let targets = t.input(&targets);
        let losses = t.linear_cross_entropy(y, weight, targets, 3.0)?;
        t.mean(losses)
    });
}

/// A map that reads bfloat16 and stores it, and one whose gradient is its
/// adjoint, which a product hands back in bfloat16: as in float32 but for
/// rounding.
#[test]
fn maps_read_and_store_bfloat16() {
    let _session = NativeSession::start(NativeConfig::default()).unwrap();
    let shapes: [&[u32]; 4] = [&[8, 8], &[8, 8], &[8], &[8, 8]];
    let params: Vec<Tensor> = (0..)
        .zip(shapes)
        .map(|(stream, shape)| {
            let tensor = Tensor::zeros(shape).unwrap();
            tensor.randomize(Distribution::Uniform, 1.0, 10, stream).unwrap();
            tensor
        })
        .collect();
    let run = |result: Dtype| {
        gradients(&params, &|t: &mut Tape, p: &[Var]| {
            let (gate, weight) = (t.cast(p[0], result)?, t.cast(p[3], result)?);
            // One operand of each type, and one that is used twice.
            let inputs = [(gate, Element), (p[1], Element), (p[2], PerCol)];
            let y = t.map_as(&inputs, result, &|e| e[0].silu() * e[1] + e[2])?;
            let z = t.map_as(&[(y, Element), (gate, Element)], result, &|e| e[0] + e[1])?;
            assert_eq!([y, z].map(|x| t.slot_dtype(t.slot(x))), [result; 2]);
            let last = t.linear(z, weight)?;
            // A value per row, whose adjoint comes back in bfloat16 too.
            let means = t.map(&[(z, Element)], &|e| e[0].square().row_mean())?;
            let means = t.cast(means, result)?;
            let means = t.reshape(means, &[1, 8])?;
            let means = t.linear(means, weight)?;
            let (last, means) = (weigh(t, last)?, weigh(t, means)?);
            t.add(last, means)
        })
    };
    for (half, whole) in run(Dtype::Bfloat16).iter().zip(run(Dtype::Float32)) {
        let scale = whole.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(scale > 0.0);
        for (half, whole) in half.iter().zip(whole) {
            assert!((half - whole).abs() < 2e-2 * scale, "{half} but {whole} in float32");
        }
    }
    let mut t = Tape::inference();
    let x = t.input(&params[0]);
    let error = t.map_as(&[(x, Element)], Dtype::Bfloat16, &|e| e[0].row_sum()).unwrap_err();
    assert!(error.to_string().contains("per row"), "{error}");
}

/// A residual stream of bfloat16, through both kinds of branches and a mix with
/// its beginning, so that several add to each gradient.
#[test]
fn a_residual_stream_in_bfloat16() {
    nearly_the_same(&[&[6, 8], &[8, 8], &[12, 8], &[8, 12]], 4e-2, |t, p, dtype| {
        let weights = [1, 2, 3].map(|i| t.cast(p[i], dtype));
        let [project, up, down] = weights;
        let first = t.map_as(&[(p[0], Element)], dtype, &|e| 2.0 * e[0] + 0.5)?;
        let h = t.rms_norm_as(first, 1e-3, dtype)?;
        let x =
            t.linear_fused(h, project?, Ends { residual: Some(first), result: dtype, ..Ends::default() })?;
        let h = t.rms_norm_as(x, 1e-3, dtype)?;
        let x = t.mlp(h, up?, down?, Activation::Gelu, Some(x))?;
        assert_eq!(t.slot_dtype(t.slot(x)), dtype);
        let x = t.map_as(&[(x, Element), (first, Element)], dtype, &|e| 1.5 * e[0] + 0.5 * e[1])?;
        let x = t.cast(x, Dtype::Float32)?;
        weigh(t, x)
    });
}

/// A layer that stores bfloat16: its value and its gradient, which attention
/// hands back in bfloat16, also where the value is used twice.
#[test]
fn linear_layers_store_bfloat16() {
    let shapes: [&[u32]; 5] = [&[2, 6, 8], &[8, 8], &[8, 8], &[8], &[8, 8]];
    nearly_the_same(&shapes, 3e-2, |t, p, result| {
        let x = t.cast(p[0], result)?;
        let mut heads = Vec::new();
        // (A bias of keys would have no gradient: it moves all scores of a query.)
        for (weight, bias) in [(p[1], Some(p[3])), (p[2], None)] {
            let weight = t.cast(weight, result)?;
            let y = t.linear_fused(x, weight, Ends { bias, result, ..Ends::default() })?;
            heads.push(t.reshape(y, &[2, 6, 2, 4])?);
        }
        // Attention refuses values of two types: x is of what was asked for.
        let values = t.reshape(x, &[2, 6, 2, 4])?;
        let y = t.attention(heads[0], heads[1], values, 0)?;
        let y = t.reshape(y, &[2, 6, 8])?;
        let last = t.cast(p[4], result)?;
        let y = t.linear(y, last)?;
        weigh(t, y)
    });
}
