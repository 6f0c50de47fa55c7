//! This device's side of `tests/peers/bench_cpu.py`, which asks it and
//! PyTorch in turn: one question a line on stdin, one JSON answer a line on
//! stdout. Times are in seconds.
//!
//! - `peak`: GFLOP/s of multiply-adds in registers, all threads: f32, and
//!   pairs of bf16 where the machine has them, by vectors or by AMX
//! - `product f32|bf16 nn|nt|tn M K N`: times of one product
//! - `step f32|bf16 N`: times of N training steps
//! - `loss`: the loss of the last step
//! - `profile f32|bf16 N`: time of each kind of operation in N steps: [count,
//!   seconds]
//!
//! The model is GPT-2's of 10.84 million parameters (6 layers of 384 channels,
//! 6 heads, 256 positions, bytes, tied head), trained by AdamW on 8 rows. A
//! step is a replayed graph of the SDK's, as a guest drives it. In bf16 the
//! products of the layers, attention and the head take bfloat16 operands and
//! add in f32; parameters, their gradients, norms and the residual stream stay
//! f32, as in PyTorch's autocast.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use serde_json::{Value, json};
use terrarium_kernels as k;
use terrarium_sdk::optim::{AdamW, AdamWConfig, Optimizer};
use terrarium_sdk::tape::{Activation, Ends};
use terrarium_sdk::{Dtype, Graph, Tape, Tensor, Var, data, init::Seeds, layers};
use terrarium_tests::native::{NativeConfig, NativeSession};

const DEPTH: u32 = 6;
const CHANNELS: u32 = 384;
const HEADS: u32 = 6;
const TIME: u32 = 256;
const ROWS: u32 = 8;
const VOCABULARY: u32 = 256;
/// Seconds that the repetitions of one product should take.
const PRODUCT_SECONDS: f64 = 0.25;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Block {
    norms: [layers::LayerNorm; 2],
    /// Queries, keys and values in one.
    heads: layers::Linear,
    project: layers::Linear,
    up: layers::Linear,
    down: layers::Linear,
}

impl Block {
    fn new(seeds: &mut Seeds) -> terrarium_sdk::Result<Block> {
        let mut linear = |inputs, outputs| layers::Linear::new(seeds, inputs, outputs, true);
        let c = CHANNELS;
        Ok(Block {
            norms: [layers::LayerNorm::new(c)?, layers::LayerNorm::new(c)?],
            heads: linear(c, 3 * c)?,
            project: linear(c, c)?,
            up: linear(c, 4 * c)?,
            down: linear(4 * c, c)?,
        })
    }

    fn params(&self) -> Vec<Tensor> {
        let linears = [&self.heads, &self.project, &self.up, &self.down].into_iter();
        let norms = self.norms.iter().flat_map(layers::LayerNorm::params);
        linears.flat_map(layers::Linear::params).chain(norms).collect()
    }

    fn forward(&self, t: &mut Tape, x: Var, weights: &mut Weights) -> terrarium_sdk::Result<Var> {
        let operands = weights.operands;
        let h = self.norms[0].forward_as(t, x, operands)?;
        let (weight, bias) = weights.layer(&self.heads, t)?;
        let heads = t.linear_fused(h, weight, Ends { bias, result: operands, ..Ends::default() })?;
        let y = t.attention_fused(heads, HEADS, HEADS, 0)?;
        let (weight, bias) = weights.layer(&self.project, t)?;
        let x = t.linear_fused(y, weight, Ends { bias, residual: Some(x), ..Ends::default() })?;
        let h = self.norms[1].forward_as(t, x, operands)?;
        let (up, down) = (weights.layer(&self.up, t)?, weights.layer(&self.down, t)?);
        t.mlp_biased(h, up, down, Activation::Gelu, Some(x))
    }
}

/// Parameters, and the type that products take them in. The optimizer keeps
/// what is rounded.
struct Weights {
    operands: Dtype,
    optimizer: AdamW,
}

impl Weights {
    fn operand(&mut self, weight: &Tensor, t: &mut Tape) -> terrarium_sdk::Result<Var> {
        if self.operands == Dtype::Float32 {
            return Ok(t.param(weight));
        }
        let rounded = self.optimizer.rounded(weight)?;
        t.param_rounded(weight, &rounded)
    }

    /// Weight and bias.
    fn layer(&mut self, layer: &layers::Linear, t: &mut Tape) -> terrarium_sdk::Result<(Var, Option<Var>)> {
        Ok((self.operand(&layer.weight, t)?, layer.bias.as_ref().map(|bias| t.param(bias))))
    }
}

/// A model, its graph, and the session that they live in.
struct Training {
    graph: Graph,
    weights: Weights,
    tokens: Tensor,
    targets: Tensor,
    loss: Tensor,
    steps: u64,
    parameters: u64,
    session: NativeSession,
}

fn operands(dtype: &str) -> Dtype {
    if dtype == "bf16" { Dtype::Bfloat16 } else { Dtype::Float32 }
}

impl Training {
    fn new(operands: Dtype, timed: bool) -> Result<Training> {
        let text = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let config = NativeConfig { threads: 0, text, context: TIME, timed, ..NativeConfig::default() };
        let session = NativeSession::start(config)?;
        let mut seeds = Seeds::new(1);
        let words = layers::Embedding::new(&mut seeds, VOCABULARY, CHANNELS, 0.02)?;
        let places = layers::Embedding::new(&mut seeds, TIME, CHANNELS, 0.02)?;
        let blocks = (0..DEPTH).map(|_| Block::new(&mut seeds)).collect::<terrarium_sdk::Result<Vec<_>>>()?;
        let last = layers::LayerNorm::new(CHANNELS)?;
        let (tokens, targets) = (Tensor::zeros_int(&[ROWS, TIME])?, Tensor::zeros_int(&[ROWS, TIME])?);
        let positions = Tensor::zeros_int(&[ROWS, TIME])?;
        positions.upload_ints(&(0..(ROWS * TIME) as i32).map(|i| i % TIME as i32).collect::<Vec<_>>())?;
        let loss = Tensor::zeros(&[1])?;

        let mut params: Vec<Tensor> = blocks.iter().flat_map(Block::params).collect();
        params.extend([words.params(), places.params(), last.params()].concat());
        let parameters =
            params.iter().map(|p| p.shape().iter().map(|&d| u64::from(d)).product::<u64>()).sum();
        let optimizer = AdamW::new(&params, AdamWConfig { rate: 3e-4, ..AdamWConfig::default() })?;
        let mut weights = Weights { operands, optimizer };

        let mut t = Tape::training();
        let (input, target, position) = (t.input(&tokens), t.input(&targets), t.input(&positions));
        let (word, place) = (words.forward(&mut t, input)?, places.forward(&mut t, position)?);
        let mut x = t.add(word, place)?;
        for block in &blocks {
            x = block.forward(&mut t, x, &mut weights)?;
        }
        x = last.forward_as(&mut t, x, operands)?;
        let head = weights.operand(&words.table, &mut t)?;
        let losses = t.linear_cross_entropy(x, head, target, 0.0)?;
        let mean = t.mean(losses)?;
        t.store(mean, &loss)?;
        t.backward(mean)?;
        weights.optimizer.emit(&mut t)?;
        let graph = t.record()?;
        Ok(Training { graph, weights, tokens, targets, loss, steps: 0, parameters, session })
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        self.weights.optimizer.prepare(self.steps, 1.0)?;
        data::next_batch(&self.tokens, &self.targets)?;
        Ok(self.graph.replay()?)
    }
}

fn product(dtype: k::DType, way: &str, [m, k_, n]: [u32; 3]) -> Result<Vec<f64>> {
    let mut device = k::Device::cpu(k::CpuConfig::default())?;
    let (trans_a, trans_b) = (way == "tn", way == "nt");
    let a = device.alloc(dtype, &if trans_a { [k_, m] } else { [m, k_] })?;
    let b = device.alloc(dtype, &if trans_b { [n, k_] } else { [k_, n] })?;
    let out = device.alloc(dtype, &[m, n])?;
    let values = |len: u32| (0..len).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect::<Vec<_>>();
    device.upload_f32(a, 0, &values(m * k_))?;
    device.upload_f32(b, 0, &values(k_ * n))?;
    let op = k::MatMul { a, b, out, trans_a, trans_b, alpha: 1.0, accumulate: false };
    let graph = device.prepare(vec![op.into()])?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed().as_secs_f64() < PRODUCT_SECONDS {
        let start = Instant::now();
        device.run(&graph)?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// GFLOP/s of independent chains of multiply-adds, one set a thread: the best
/// of many short runs of each instruction set.
fn peak() -> Value {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features were just detected.
        let mut f32s = best(|| unsafe { chains::avx2() });
        let mut bf16 = None;
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: as above.
            f32s = f32s.max(best(|| unsafe { chains::avx512() }));
            if is_x86_feature_detected!("avx512bf16") {
                // SAFETY: as above.
                bf16 = Some(best(|| unsafe { chains::avx512bf16() }));
            }
            // (Opening the device asked the system for it.)
            if k::Device::cpu(k::CpuConfig::default()).is_ok() && k::cpu_kind().contains("+amx") {
                // SAFETY: the processor has AMX, and the system lends it.
                bf16 = Some(best(|| unsafe { chains::amx() }));
            }
        }
        return json!({ "f32": f32s, "bf16": bf16 });
    }
    Value::Null
}

#[cfg(target_arch = "x86_64")]
fn best(speed: impl Fn() -> f64 + Sync) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        let one = || (0..40).map(|_| speed()).fold(0.0, f64::max);
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter().filter_map(|one| one.join().ok()).sum()
    })
}

#[cfg(target_arch = "x86_64")]
mod chains {
    use std::arch::x86_64::*;
    use std::time::Instant;

    const ROUNDS: usize = 1 << 20;

    macro_rules! chains {
        ($name:ident, $features:literal, $flops:literal, $of:expr, $step:expr) => {
            /// GFLOP/s of ten chains.
            #[target_feature(enable = $features)]
            pub fn $name() -> f64 {
                let (factor, term) = ($of(0.999), $of(0.001));
                let step = |s| $step(s, factor, term);
                let mut s = [$of(0.5); 10];
                let start = Instant::now();
                for _ in 0..ROUNDS {
                    // Written out: an array that is indexed would live in memory.
                    let [a, b, c, d, e, f, g, h, i, j] = s;
                    s = [
                        step(a),
                        step(b),
                        step(c),
                        step(d),
                        step(e),
                        step(f),
                        step(g),
                        step(h),
                        step(i),
                        step(j),
                    ];
                }
                let time = start.elapsed().as_secs_f64();
                std::hint::black_box(s);
                (ROUNDS * 10 * $flops) as f64 / time / 1e9
            }
        };
    }

    chains!(avx2, "avx2,fma", 16, _mm256_set1_ps, _mm256_fmadd_ps);
    chains!(avx512, "avx512f", 32, _mm512_set1_ps, _mm512_fmadd_ps);
    chains!(avx512bf16, "avx512f,avx512bf16", 64, _mm512_set1_ps, pairs);

    /// GFLOP/s of four chains of AMX.
    ///
    /// # Safety
    /// The processor has AMX with bfloat16, and the system lends it to this process.
    pub unsafe fn amx() -> f64 {
        use std::arch::asm;

        const TILES: usize = ROUNDS / 4;
        #[repr(C, align(64))]
        struct Configuration([u8; 64]);
        let mut whole = Configuration([0; 64]);
        whole.0[0] = 1;
        for register in 0..8 {
            (whole.0[16 + 2 * register], whole.0[48 + register]) = (64, 16);
        }
        let start = Instant::now();
        // SAFETY: the caller's promise; a configuration of all registers, which are
        // zeros then, and released after this.
        unsafe {
            asm!(
                "ldtilecfg [{whole}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {times}",
                "jnz 2b",
                "tilerelease",
                whole = in(reg) &whole,
                times = inout(reg) TILES => _,
                options(nostack, readonly)
            );
        }
        (TILES * 4 * 2 * 16 * 16 * 32) as f64 / start.elapsed().as_secs_f64() / 1e9
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: vectors of 512 bits, of which any are pairs of bfloat16.
        let (a, b) = unsafe {
            (std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b))
        };
        _mm512_dpbf16_ps(sum, a, b)
    }
}

fn answer(question: &str, training: &mut Option<Training>) -> Result<Value> {
    let words: Vec<&str> = question.split_whitespace().collect();
    match words[..] {
        ["peak"] => Ok(peak()),
        ["product", dtype, way, m, k_, n] => {
            let dtype = if dtype == "bf16" { k::DType::Bf16 } else { k::DType::F32 };
            Ok(json!(product(dtype, way, [m.parse()?, k_.parse()?, n.parse()?])?))
        }
        ["step", dtype, count] => {
            // Sessions take turns: one host a thread.
            if training.as_ref().is_none_or(|training| training.weights.operands != operands(dtype)) {
                *training = None;
                *training = Some(Training::new(operands(dtype), false)?);
            }
            let training = training.as_mut().ok_or("no model")?;
            let mut times = Vec::new();
            for _ in 0..count.parse::<u32>()? {
                let start = Instant::now();
                training.step()?;
                times.push(start.elapsed().as_secs_f64());
            }
            Ok(json!(times))
        }
        ["loss"] => {
            let training = training.as_ref().ok_or("no step yet")?;
            Ok(json!({ "loss": training.loss.scalar()?, "parameters": training.parameters }))
        }
        ["profile", dtype, count] => {
            *training = None;
            let mut timed = Training::new(operands(dtype), true)?;
            timed.step()?;
            // What made the model, and touched its memory, is not of a step.
            let before = timed.session.record().times;
            for _ in 0..count.parse::<u32>()? {
                timed.step()?;
            }
            let mut times = timed.session.record().times;
            for (name, (count, seconds)) in before {
                let sum = times.entry(name).or_default();
                (sum.0, sum.1) = (sum.0 - count, sum.1 - seconds);
            }
            times.retain(|_, (count, _)| *count > 0);
            Ok(json!(times))
        }
        _ => Err(format!("unknown question {question:?}; see the head of this file").into()),
    }
}

fn main() -> Result<()> {
    let mut training = None;
    for line in std::io::stdin().lock().lines() {
        let value = answer(&line?, &mut training)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()?;
    }
    Ok(())
}
