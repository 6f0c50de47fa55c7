//! Time of each operation at the shapes of a small language model:
//! `cargo run --release -p terrarium-kernels --example ops [threads]`.

use std::time::Instant;

use terrarium_kernels::*;

const BATCH: u32 = 8;
const TIME: u32 = 128;
const HEADS: u32 = 4;
const CHANNELS: u32 = 128;
const VOCABULARY: u32 = 256;
const N: u32 = BATCH * TIME;

struct Bench {
    device: Device,
}

impl Bench {
    fn tensor(&mut self, shape: &[u32]) -> Result<TensorId, Error> {
        let dst = self.device.alloc(DType::F32, shape)?;
        let distribution = Distribution::Normal;
        let fill = Random { dst, seed: 1, stream: dst.to_bits(), distribution, scale: 0.5 };
        let graph = self.device.prepare(vec![fill.into()])?;
        self.device.run(&graph)?;
        Ok(dst)
    }

    /// Least time of one of ten copies of an operation in a graph: what the
    /// operation takes where nothing else has the core.
    fn time(&mut self, name: &str, op: impl Into<Op>) -> Result<(), Error> {
        let graph = self.device.prepare(vec![op.into(); 10])?;
        let mut times = Vec::new();
        for _ in 0..150 {
            let start = Instant::now();
            self.device.run(&graph)?;
            times.push(start.elapsed().as_secs_f64() * 1e5);
        }
        times.sort_by(f64::total_cmp);
        let (time, fuel) = (times[0], graph.cost() / 10);
        println!("{name:<28} {time:>9.2} µs  {fuel:>12} fuel  {:>7.1} fuel/ns", fuel as f64 / time / 1e3);
        Ok(())
    }
}

fn main() -> Result<(), Error> {
    let threads = std::env::args().nth(1).and_then(|t| t.parse().ok()).unwrap_or(0);
    let device = Device::cpu(CpuConfig { threads, ..CpuConfig::default() })?;
    let mut b = Bench { device };
    let (x, y) = (b.tensor(&[N, CHANNELS])?, b.tensor(&[N, CHANNELS])?);
    let (wide, wider) = (b.tensor(&[N, 4 * CHANNELS])?, b.tensor(&[N, 4 * CHANNELS])?);
    let weight = b.tensor(&[4 * CHANNELS, CHANNELS])?;
    let one = b.tensor(&[1])?;
    b.time("fill 1", Fill { dst: one, value: 1.0 })?;
    b.time("fill N·C", Fill { dst: x, value: 1.0 })?;
    let product =
        |a, b, out, trans_a, trans_b| MatMul { a, b, out, trans_a, trans_b, alpha: 1.0, accumulate: false };
    b.time("matmul x·Wᵀ", product(x, weight, wide, false, true))?;
    b.time("matmul dy·W", product(wide, weight, x, false, false))?;
    b.time("matmul dyᵀ·x", product(wide, x, weight, true, false))?;
    let element = |tensor| Operand { tensor, layout: Layout::Element };
    let map = |inputs, nodes, tensor, cols| {
        let node = 3;
        let stores = vec![Store { node, tensor, layout: Layout::Element }];
        RowMap { rows: N, cols, inputs, nodes, stores }
    };
    let relu2 = vec![
        Node::Input(0),
        Node::Input(0),
        Node::Unary { op: UnaryOp::Relu, a: 0 },
        Node::Unary { op: UnaryOp::Square, a: 2 },
    ];
    b.time("row map relu² N·4C", map(vec![element(wide)], relu2, wider, 4 * CHANNELS))?;
    let silu = vec![
        Node::Input(0),
        Node::Input(1),
        Node::Unary { op: UnaryOp::Sigmoid, a: 0 },
        Node::Binary { op: BinaryOp::Multiply, a: 2, b: 1 },
    ];
    b.time("row map silu N·4C", map(vec![element(wide), element(wide)], silu.clone(), wider, 4 * CHANNELS))?;
    b.time("row map silu in place N·C", map(vec![element(x), element(y)], silu, x, CHANNELS))?;
    let add = vec![
        Node::Input(0),
        Node::Constant(0.5),
        Node::Binary { op: BinaryOp::Multiply, a: 0, b: 1 },
        Node::Binary { op: BinaryOp::Add, a: 2, b: 0 },
    ];
    b.time("row map scale, add N·C", map(vec![element(y)], add, x, CHANNELS))?;
    let inv_rms = b.tensor(&[N])?;
    b.time("rms norm", RmsNorm { x, out: y, inv_rms, eps: 1e-6 })?;
    let dout = b.tensor(&[N, CHANNELS])?;
    b.time("rms norm backward", RmsNormBackward { x, inv_rms, dout, dx: y, accumulate: true })?;
    let shape = [BATCH, TIME, HEADS, CHANNELS / HEADS];
    let mut heads = Vec::new();
    for _ in 0..8 {
        heads.push(b.tensor(&shape)?);
    }
    let [q, k, v, out, dout4, dq, dk, dv] = heads[..] else { unreachable!("eight were made") };
    b.time("rope", Rope { x: q, out, base: 1e4, inverse: false })?;
    let lse = b.tensor(&[BATCH, HEADS, TIME])?;
    let (window, scale, kv_heads) = (0, 0.17, HEADS);
    let [q, k, v] = [q, k, v].map(Heads::from);
    b.time("attention", Attention { q, k, v, kv_heads, out, lse, window, scale })?;
    let dout = dout4;
    b.time(
        "attention backward",
        AttentionBackward { q, k, v, kv_heads, out, lse, dout, dq, dk, dv, window, scale },
    )?;
    let targets = b.device.alloc(DType::I32, &[N])?;
    let table = b.tensor(&[VOCABULARY, CHANNELS])?;
    let (losses, lse, softcap) = (b.tensor(&[N])?, b.tensor(&[N])?, 15.0);
    let weight = table;
    b.time("cross-entropy", LinearCrossEntropy { x, weight, targets, losses, lse, softcap })?;
    let dweight = b.tensor(&[VOCABULARY, CHANNELS])?;
    let (dx, grad_scale, accumulate) = (y, 1e-3, true);
    b.time(
        "cross-entropy backward",
        LinearCrossEntropyBackward { x, weight, targets, lse, dx, dweight, softcap, grad_scale, accumulate },
    )?;
    b.time("gather", Gather { table, indices: targets, out: y })?;
    b.time("scatter-add", ScatterAdd { src: y, indices: targets, table, accumulate })?;
    let (param, grad) = (b.tensor(&[200_000])?, b.tensor(&[200_000])?);
    let (m, v, hyper) = (b.tensor(&[200_000])?, b.device.alloc(DType::F32, &[200_000])?, b.tensor(&[7])?);
    b.time("AdamW 200k", AdamW { param, grad, m, v, hyper, rounded: None })?;
    let (axis, scale) = (ReduceAxis::Rows, 1.0);
    let dst = b.tensor(&[CHANNELS])?;
    b.time("reduce rows", Reduce { src: x, dst, axis, scale, accumulate })?;
    let dst = b.tensor(&[CHANNELS, N])?;
    b.time("transpose", Transpose { src: x, dst })?;
    Ok(())
}
