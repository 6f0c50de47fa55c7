//! Guest-defined row kernels against loops written by hand for the same
//! thing, interleaved: `cargo run --release -p terrarium-kernels --example
//! rows [threads [avx2]]`. The figure is hand-written time / row kernel time:
//! above 0.9 a guest loses less than a tenth by writing its own.
//!
//! The hand-written loops are fused (one pass), compiled for the machine's
//! vectors (with `avx2`, for no longer ones than that), use the device's own
//! polynomials for exp and tanh, and run on one thread; with one thread the
//! comparison is fair, with more it is not.

use std::time::Instant;

use terrarium_kernels::*;

const ROWS: u32 = 1024;
const COLS: u32 = 512;
const LEN: usize = (ROWS * COLS) as usize;

struct Bench {
    device: Device,
}

/// Builds the node list of a kernel.
#[derive(Default)]
struct Nodes(Vec<Node>);

impl Nodes {
    fn push(&mut self, node: Node) -> u32 {
        self.0.push(node);
        self.0.len() as u32 - 1
    }
    fn input(&mut self, k: u32) -> u32 {
        self.push(Node::Input(k))
    }
    fn constant(&mut self, value: f32) -> u32 {
        self.push(Node::Constant(value))
    }
    fn one(&mut self, op: UnaryOp, a: u32) -> u32 {
        self.push(Node::Unary { op, a })
    }
    fn two(&mut self, op: BinaryOp, a: u32, b: u32) -> u32 {
        self.push(Node::Binary { op, a, b })
    }
    fn sum(&mut self, a: u32) -> u32 {
        self.push(Node::Reduce { op: Reduction::Sum, a })
    }
}

impl Bench {
    fn tensor(&mut self, shape: &[u32]) -> Result<TensorId, Error> {
        let dst = self.device.alloc(DType::F32, shape)?;
        let distribution = Distribution::Normal;
        let fill = Random { dst, seed: 1, stream: dst.to_bits(), distribution, scale: 1.0 };
        let graph = self.device.prepare(vec![fill.into()])?;
        self.device.run(&graph)?;
        Ok(dst)
    }

    /// Alternates the two, and prints the ratio of their least times.
    fn compare(&mut self, name: &str, ops: Vec<Op>, mut by_hand: impl FnMut()) -> Result<(), Error> {
        let graph = self.device.prepare(ops)?;
        let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..60 {
            let start = Instant::now();
            self.device.run(&graph)?;
            ours = ours.min(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            by_hand();
            theirs = theirs.min(start.elapsed().as_secs_f64() * 1e6);
        }
        println!(
            "{name:<10} row kernel {ours:>8.1} µs  by hand {theirs:>8.1} µs  ratio {:.2}",
            theirs / ours
        );
        Ok(())
    }
}

/// Runs a loop body with the machine's vectors where it has them.
macro_rules! by_hand {
    (fn $name:ident($($arg:ident: $ty:ty),*) $body:block) => {
        fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn portable($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) { portable($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512($($arg: $ty),*) { portable($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                if is_x86_feature_detected!("avx512f") && !std::env::args().any(|arg| arg == "avx2") {
                    // SAFETY: all three features were detected.
                    unsafe { avx512($($arg),*) };
                } else {
                    // SAFETY: both features were detected.
                    unsafe { avx2($($arg),*) };
                }
                return;
            }
            portable($($arg),*);
        }
    };
}

by_hand! {
    fn gelu(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x)));
        }
    }
}

by_hand! {
    fn swiglu(a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            let e = exp(-a.abs());
            *y = a * ((if *a >= 0.0 { 1.0 } else { e }) / (1.0 + e)) * b;
        }
    }
}

by_hand! {
    fn lion(p: &mut [f32], m: &mut [f32], g: &[f32], h: &[f32]) {
        let (rate, b1, b2, decay) = (h[0], h[1], h[2], h[3]);
        for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
            let way = b1 * *m + (1.0 - b1) * g;
            let sign = if way > 0.0 { 1.0 } else { 0.0 } - if way < 0.0 { 1.0 } else { 0.0 };
            *p -= rate * sign + decay * *p;
            *m = b2 * *m + (1.0 - b2) * g;
        }
    }
}

/// The device's polynomial, for x ≤ 0: see `kernels/src/cpu/math.rs`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let shifted = x.max(-87.336_54).mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x.max(-87.336_54)));
    let square = r * r;
    let low = f32::mul_add(1.0 / 6.0, r, 0.5).mul_add(square, 1.0 + r);
    let high = f32::mul_add(1.0 / 5040.0, r, 1.0 / 720.0);
    let high = high.mul_add(square, f32::mul_add(1.0 / 120.0, r, 1.0 / 24.0));
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127).wrapping_shl(23));
    high.mul_add(square * square, low) * scale
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let e = exp(-2.0 * a);
    let large = (1.0 - e) / (1.0 + e);
    let s = a * a;
    let mut p = -1382.0 / 155_925.0;
    for c in [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
        p = f32::mul_add(p, s, c);
    }
    let small = (a * s).mul_add(p, a);
    f32::copysign(if a < 0.3 { small } else { large }, x)
}

fn main() -> Result<(), Error> {
    let threads = std::env::args().nth(1).and_then(|t| t.parse().ok()).unwrap_or(1);
    let device = Device::cpu(CpuConfig { threads, ..CpuConfig::default() })?;
    let mut b = Bench { device };
    let shape = [ROWS, COLS];
    let (x, z, y) = (b.tensor(&shape)?, b.tensor(&shape)?, b.tensor(&shape)?);
    let (mut hx, mut hz, mut hy) = (vec![0.0; LEN], vec![0.0; LEN], vec![0.0; LEN]);
    b.device.download_f32(x, 0, &mut hx)?;
    b.device.download_f32(z, 0, &mut hz)?;
    let element = |tensor| Operand { tensor, layout: Layout::Element };
    let map = |inputs: &[Operand], nodes: Nodes, stores: &[(u32, TensorId)]| -> Op {
        let stores =
            stores.iter().map(|&(node, tensor)| Store { node, tensor, layout: Layout::Element }).collect();
        RowMap { rows: ROWS, cols: COLS, inputs: inputs.to_vec(), nodes: nodes.0, stores }.into()
    };

    // As the SDK's `gelu` lowers it.
    let mut n = Nodes::default();
    let a = n.input(0);
    let (c1, c2, half, one) =
        (n.constant(0.797_884_6), n.constant(0.044_715), n.constant(0.5), n.constant(1.0));
    let square = n.one(UnaryOp::Square, a);
    let scaled = n.two(BinaryOp::Multiply, c2, a);
    let cube = n.two(BinaryOp::Multiply, scaled, square);
    let inner = n.two(BinaryOp::Add, a, cube);
    let inner = n.two(BinaryOp::Multiply, c1, inner);
    let t = n.one(UnaryOp::Tanh, inner);
    let t = n.two(BinaryOp::Add, one, t);
    let a2 = n.two(BinaryOp::Multiply, half, a);
    let out = n.two(BinaryOp::Multiply, a2, t);
    b.compare("GELU", vec![map(&[element(x)], n, &[(out, y)])], || gelu(&hx, &mut hy))?;

    let mut n = Nodes::default();
    let (a, c) = (n.input(0), n.input(1));
    let s = n.one(UnaryOp::Sigmoid, a);
    let s = n.two(BinaryOp::Multiply, a, s);
    let out = n.two(BinaryOp::Multiply, s, c);
    b.compare("SwiGLU", vec![map(&[element(x), element(z)], n, &[(out, y)])], || swiglu(&hx, &hz, &mut hy))?;

    // Against the built-in operation.
    let mut n = Nodes::default();
    let a = n.input(0);
    let (share, eps) = (n.constant(1.0 / COLS as f32), n.constant(1e-6));
    let square = n.one(UnaryOp::Square, a);
    let total = n.sum(square);
    let mean = n.two(BinaryOp::Multiply, total, share);
    let mean = n.two(BinaryOp::Add, mean, eps);
    let inv = n.one(UnaryOp::ReciprocalSquareRoot, mean);
    let out = n.two(BinaryOp::Multiply, a, inv);
    let inv_rms = b.tensor(&[ROWS])?;
    let mut other = Device::cpu(CpuConfig { threads, ..CpuConfig::default() })?;
    let (x2, y2) = (other.alloc(DType::F32, &shape)?, other.alloc(DType::F32, &shape)?);
    let inv2 = other.alloc(DType::F32, &[ROWS])?;
    other.upload_f32(x2, 0, &hx)?;
    let built_in = other.prepare(vec![RmsNorm { x: x2, out: y2, inv_rms: inv2, eps: 1e-6 }.into()])?;
    let stores = vec![
        Store { node: out, tensor: y, layout: Layout::Element },
        Store { node: inv, tensor: inv_rms, layout: Layout::PerRow },
    ];
    let rms = RowMap { rows: ROWS, cols: COLS, inputs: vec![element(x)], nodes: n.0, stores };
    let mut failed = None;
    b.compare("RMSNorm", vec![rms.into()], || failed = other.run(&built_in).err().or(failed.take()))?;
    if let Some(error) = failed {
        return Err(error);
    }

    // As the SDK's Lion lowers it.
    let hyper = b.device.alloc(DType::F32, &[6])?;
    b.device.upload_f32(hyper, 0, &[1e-4, 0.9, 0.1, 0.99, 0.01, 1e-5])?;
    let mut inputs = vec![element(x), element(y), element(z)];
    for i in 0..6 {
        inputs.push(Operand { tensor: b.device.view(hyper, i, &[1])?, layout: Layout::Scalar });
    }
    let mut n = Nodes::default();
    let [p, m, g, rate, b1, r1, b2, r2, decay] = std::array::from_fn(|i| n.input(i as u32));
    let (u, v) = (n.two(BinaryOp::Multiply, b1, m), n.two(BinaryOp::Multiply, r1, g));
    let way = n.two(BinaryOp::Add, u, v);
    let back = n.one(UnaryOp::Negate, way);
    let (up, down) = (n.one(UnaryOp::Step, way), n.one(UnaryOp::Step, back));
    let sign = n.two(BinaryOp::Subtract, up, down);
    let (u, v) = (n.two(BinaryOp::Multiply, rate, sign), n.two(BinaryOp::Multiply, decay, p));
    let step = n.two(BinaryOp::Add, u, v);
    let next = n.two(BinaryOp::Subtract, p, step);
    let (u, v) = (n.two(BinaryOp::Multiply, b2, m), n.two(BinaryOp::Multiply, r2, g));
    let moved = n.two(BinaryOp::Add, u, v);
    let mut hm = hy.clone();
    let h = [1e-4, 0.9, 0.99, 1e-5];
    b.compare("Lion", vec![map(&inputs, n, &[(next, x), (moved, y)])], || lion(&mut hx, &mut hm, &hz, &h))?;
    Ok(())
}
