//! Single operations by name and numbers:
//!
//! - `product f32|bf16 nn|nt|tn M K N f32|bf16` (operands, transposition,
//!   sizes, result)
//! - `attention f32|bf16 B T H K D WINDOW`, `attention_backward …`
//! - `cross_entropy f32|bf16 N C V`, `cross_entropy_backward …`
//! - `rms_norm R C`, `rms_norm_backward R C`, `layer_norm R C`
//! - `rope_norm B T H D`
//! - `gather N V C`, `scatter_add N V C`
//! - `relu_squared R C`, `softmax R C`: row kernels
//! - `reduce_rows R C`, `transpose R C`
//! - `adamw N`, `copy N`, `cast N` (f32 to bf16)

use terrarium_kernels as k;
use terrarium_kernels::{DType, Device, Op, TensorId};

use super::Result;

/// Where operands come from.
#[derive(Clone, Copy, PartialEq)]
pub enum Values {
    /// Drawn on the device: fast.
    Device,
    /// Uploaded: the same bits on every device.
    Host,
}

/// An operation, the tensors that it writes, and its least work.
pub struct Case {
    pub op: Op,
    pub results: Vec<TensorId>,
    pub flops: u64,
    /// Bytes of operands and results, each moved once.
    pub bytes: u64,
}

struct Builder<'a> {
    device: &'a mut Device,
    values: Values,
    stream: u64,
    bytes: u64,
}

impl Builder<'_> {
    /// A tensor of numbers in (-1, 1), of which the case moves all bytes.
    fn tensor(&mut self, dtype: DType, shape: &[u64]) -> Result<TensorId> {
        let id = self.zeros(dtype, shape)?;
        self.stream += 1;
        let count: u64 = shape.iter().product();
        if self.values == Values::Host {
            let mut state = self.stream;
            let values: Vec<f32> = (0..count)
                .map(|_| {
                    // Knuth's MMIX generator.
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
                })
                .collect();
            self.device.upload_f32(id, 0, &values)?;
            return Ok(id);
        }
        let drawn = if dtype == DType::F32 { id } else { self.alloc(DType::F32, shape)? };
        let distribution = k::Distribution::Uniform;
        let mut ops: Vec<Op> =
            vec![k::Random { dst: drawn, seed: 1, stream: self.stream, distribution, scale: 1.0 }.into()];
        if drawn != id {
            ops.push(k::Copy { src: drawn, dst: id }.into());
        }
        let graph = self.device.prepare(ops)?;
        self.device.run(&graph)?;
        if drawn != id {
            self.device.free(drawn)?;
        }
        Ok(id)
    }

    fn zeros(&mut self, dtype: DType, shape: &[u64]) -> Result<TensorId> {
        self.bytes += shape.iter().product::<u64>() * dtype.bytes();
        self.alloc(dtype, shape)
    }

    fn alloc(&mut self, dtype: DType, shape: &[u64]) -> Result<TensorId> {
        let shape = shape.iter().map(|&d| u32::try_from(d)).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(self.device.alloc(dtype, &shape)?)
    }

    fn indices(&mut self, count: u64, bound: u64) -> Result<TensorId> {
        let id = self.zeros(DType::I32, &[count])?;
        let values: Vec<i32> =
            (0..count).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % bound) as i32).collect();
        self.device.upload_i32(id, 0, &values)?;
        Ok(id)
    }

    /// Replaces the bytes counted so far: the operation moves others.
    fn moves(&mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

fn dtype(word: &str) -> Result<DType> {
    match word {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        _ => Err(format!("`{word}` is neither f32 nor bf16").into()),
    }
}

/// Positions that all queries of a sequence see together.
fn seen(time: u64, window: u64) -> u64 {
    let window = if window == 0 { time } else { window.min(time) };
    window * (window + 1) / 2 + (time - window) * window
}

/// Builds the case that `words` name.
pub fn build(device: &mut Device, words: &[&str], values: Values) -> Result<Case> {
    let mut b = Builder { device, values, stream: 0, bytes: 0 };
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let (op, results, flops) = operation(&mut b, words, &numbers)?;
    Ok(Case { op, results, flops, bytes: b.bytes })
}

type Built = (Op, Vec<TensorId>, u64);

fn operation(b: &mut Builder<'_>, words: &[&str], numbers: &[u64]) -> Result<Built> {
    const F: DType = DType::F32;
    match (words, numbers) {
        (["product", of, way, .., to], &[m, kk, n]) => {
            let (of, to) = (dtype(of)?, dtype(to)?);
            let (trans_a, trans_b) = (*way == "tn", *way == "nt");
            let a = b.tensor(of, &if trans_a { [kk, m] } else { [m, kk] })?;
            let right = b.tensor(of, &if trans_b { [n, kk] } else { [kk, n] })?;
            let out = b.zeros(to, &[m, n])?;
            // Sums stay near 1.
            let alpha = 1.0 / (kk as f32).sqrt();
            let op = k::MatMul { a, b: right, out, trans_a, trans_b, alpha, accumulate: false };
            Ok((op.into(), vec![out], 2 * m * kk * n))
        }
        (
            [name @ ("attention" | "attention_backward"), of, ..],
            &[batch, time, heads, groups, dim, window],
        ) => {
            let of = dtype(of)?;
            let q = b.tensor(of, &[batch, time, heads, dim])?.into();
            let [key, v] = [(); 2].map(|()| b.tensor(of, &[batch, time, groups, dim]));
            let (key, v, kv_heads) = (key?.into(), v?.into(), u32::try_from(groups)?);
            let out = b.zeros(of, &[batch, time, heads, dim])?;
            let lse = b.zeros(F, &[batch, heads, time])?;
            let (scale, window32) = (1.0 / (dim as f32).sqrt(), u32::try_from(window)?);
            let forward = k::Attention { q, k: key, v, kv_heads, out, lse, window: window32, scale };
            let flops = 4 * batch * heads * dim * seen(time, window);
            if *name == "attention" {
                return Ok((forward.into(), vec![out, lse], flops));
            }
            let graph = b.device.prepare(vec![forward.into()])?;
            b.device.run(&graph)?;
            let dout = b.tensor(of, &[batch, time, heads, dim])?;
            let dq = b.zeros(of, &[batch, time, heads, dim])?;
            let [dk, dv] = [(); 2].map(|()| b.zeros(of, &[batch, time, groups, dim]));
            let (dk, dv, window) = (dk?, dv?, window32);
            let op =
                k::AttentionBackward { q, k: key, v, kv_heads, out, lse, dout, dq, dk, dv, window, scale };
            // Five products instead of two.
            Ok((op.into(), vec![dq, dk, dv], flops / 2 * 5))
        }
        ([name @ ("cross_entropy" | "cross_entropy_backward"), of, ..], &[rows, channels, vocabulary]) => {
            let of = dtype(of)?;
            let (x, weight) = (b.tensor(of, &[rows, channels])?, b.tensor(of, &[vocabulary, channels])?);
            let targets = b.indices(rows, vocabulary)?;
            let [losses, lse] = [(); 2].map(|()| b.zeros(F, &[rows]));
            let (losses, lse, softcap) = (losses?, lse?, 15.0);
            let forward = k::LinearCrossEntropy { x, weight, targets, losses, lse, softcap };
            let flops = 2 * rows * channels * vocabulary;
            if *name == "cross_entropy" {
                return Ok((forward.into(), vec![losses, lse], flops));
            }
            let graph = b.device.prepare(vec![forward.into()])?;
            b.device.run(&graph)?;
            let (dx, dweight) = (b.zeros(F, &[rows, channels])?, b.zeros(F, &[vocabulary, channels])?);
            let (grad_scale, accumulate) = (1.0, false);
            let op = k::LinearCrossEntropyBackward {
                x,
                weight,
                targets,
                lse,
                dx,
                dweight,
                softcap,
                grad_scale,
                accumulate,
            };
            // The logits again, and two products with their gradient.
            Ok((op.into(), vec![dx, dweight], 3 * flops))
        }
        (["rms_norm", ..], &[rows, cols]) => {
            let (x, out) = (b.tensor(F, &[rows, cols])?, b.zeros(F, &[rows, cols])?);
            let inv_rms = b.zeros(F, &[rows])?;
            Ok((k::RmsNorm { x, out, inv_rms, eps: 1e-6 }.into(), vec![out, inv_rms], 0))
        }
        (["rms_norm_backward", ..], &[rows, cols]) => {
            let (x, dout) = (b.tensor(F, &[rows, cols])?, b.tensor(F, &[rows, cols])?);
            let (dx, inv_rms) = (b.zeros(F, &[rows, cols])?, b.tensor(F, &[rows])?);
            let op = k::RmsNormBackward { x, inv_rms, dout, dx, accumulate: false };
            Ok((op.into(), vec![dx], 0))
        }
        (["layer_norm", ..], &[rows, cols]) => {
            let (x, out) = (b.tensor(F, &[rows, cols])?, b.zeros(F, &[rows, cols])?);
            let (mean, inv_std) = (b.zeros(F, &[rows])?, b.zeros(F, &[rows])?);
            Ok((
                k::LayerNorm { x, gain: None, bias: None, out, mean, inv_std, eps: 1e-5 }.into(),
                vec![out, mean, inv_std],
                0,
            ))
        }
        (["rope_norm", ..], &[batch, time, heads, dim]) => {
            let x = b.tensor(F, &[batch * time, heads * dim])?;
            let out = b.zeros(F, &[batch, time, heads, dim])?;
            let inv_rms = b.zeros(F, &[batch, time, heads])?;
            let op = k::RopeNorm { x, x_col: 0, out, inv_rms, base: 10_000.0, eps: 1e-6 };
            Ok((op.into(), vec![out, inv_rms], 0))
        }
        (["gather", ..], &[count, entries, cols]) => {
            let (table, indices) = (b.tensor(F, &[entries, cols])?, b.indices(count, entries)?);
            let out = b.zeros(F, &[count, cols])?;
            b.moves(count * (8 * cols + 4));
            Ok((k::Gather { table, indices, out }.into(), vec![out], 0))
        }
        (["scatter_add", ..], &[count, entries, cols]) => {
            let (src, indices) = (b.tensor(F, &[count, cols])?, b.indices(count, entries)?);
            let table = b.zeros(F, &[entries, cols])?;
            Ok((k::ScatterAdd { src, indices, table, accumulate: false }.into(), vec![table], 0))
        }
        ([name @ ("relu_squared" | "softmax"), ..], &[rows, cols]) => {
            let (x, out) = (b.tensor(F, &[rows, cols])?, b.zeros(F, &[rows, cols])?);
            let nodes = match *name {
                "softmax" => vec![
                    k::Node::Input(0),
                    k::Node::Reduce { op: k::Reduction::Maximum, a: 0 },
                    k::Node::Binary { op: k::BinaryOp::Subtract, a: 0, b: 1 },
                    k::Node::Unary { op: k::UnaryOp::Exponential, a: 2 },
                    k::Node::Reduce { op: k::Reduction::Sum, a: 3 },
                    k::Node::Binary { op: k::BinaryOp::Divide, a: 3, b: 4 },
                ],
                _ => vec![
                    k::Node::Input(0),
                    k::Node::Unary { op: k::UnaryOp::Relu, a: 0 },
                    k::Node::Unary { op: k::UnaryOp::Square, a: 1 },
                ],
            };
            let node = nodes.len() as u32 - 1;
            let layout = k::Layout::Element;
            let inputs = vec![k::Operand { tensor: x, layout }];
            let stores = vec![k::Store { node, tensor: out, layout }];
            let (rows, cols) = (u32::try_from(rows)?, u32::try_from(cols)?);
            Ok((k::RowMap { rows, cols, inputs, nodes, stores }.into(), vec![out], 0))
        }
        (["reduce_rows", ..], &[rows, cols]) => {
            let (src, dst) = (b.tensor(F, &[rows, cols])?, b.zeros(F, &[cols])?);
            let (axis, scale) = (k::ReduceAxis::Rows, 1.0 / rows as f32);
            Ok((k::Reduce { src, dst, axis, scale, accumulate: false }.into(), vec![dst], 0))
        }
        (["transpose", ..], &[rows, cols]) => {
            let (src, dst) = (b.tensor(F, &[rows, cols])?, b.zeros(F, &[cols, rows])?);
            Ok((k::Transpose { src, dst }.into(), vec![dst], 0))
        }
        (["adamw", ..], &[count]) => {
            let [param, grad, m] = [(); 3].map(|()| b.tensor(F, &[count]));
            let (param, grad, m, v) = (param?, grad?, m?, b.zeros(F, &[count])?);
            let hyper = b.zeros(F, &[7])?;
            b.device.upload_f32(hyper, 0, &[1e-3, 0.9, 0.95, 1e-10, 0.01, 0.1, 0.05])?;
            // Reads four, writes three.
            b.moves(28 * count);
            Ok((k::AdamW { param, grad, m, v, hyper, rounded: None }.into(), vec![param, m, v], 0))
        }
        ([name @ ("copy" | "cast"), ..], &[count]) => {
            let src = b.tensor(F, &[count])?;
            let dst = b.zeros(if *name == "copy" { F } else { DType::Bf16 }, &[count])?;
            Ok((k::Copy { src, dst }.into(), vec![dst], 0))
        }
        _ => Err(format!("no case {words:?}; see cases.rs").into()),
    }
}
