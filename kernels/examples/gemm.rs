//! Speed of matrix products of one thread, as a share of the peak of its core:
//! `cargo run --release -p terrarium-kernels --example gemm [f32|bf16] [nn|nt|tn]`.
//!
//! Times are the thread's CPU time, least of several runs; the peak is taken
//! again before each shape.

#[path = "shared/cpu_time.rs"]
mod cpu_time;

use terrarium_kernels::{CpuConfig, DType, Device, Distribution, Error, MatMul, Op, Random};

/// How the operands are stored (n as used, t transposed), and M, K, N.
const SHAPES: [(&str, [u32; 3]); 12] = [
    ("nn", [512, 512, 512]),
    ("nn", [2048, 768, 3072]),
    ("nt", [2048, 384, 384]),
    ("nt", [2048, 384, 1536]),
    ("nt", [2048, 1536, 384]),
    ("nn", [2048, 384, 1536]),
    ("nn", [2048, 1536, 384]),
    ("tn", [1536, 2048, 384]),
    ("tn", [384, 2048, 384]),
    ("nt", [1024, 128, 512]),
    ("nn", [2048, 64, 256]),
    ("nn", [64, 2048, 256]),
];

fn main() -> Result<(), Error> {
    let dtype = match std::env::args().nth(1).as_deref() {
        Some("bf16") => DType::Bf16,
        _ => DType::F32,
    };
    let only = std::env::args().nth(2);
    for (way, [m, k, n]) in
        SHAPES.into_iter().filter(|(way, _)| only.as_deref().is_none_or(|only| only == *way))
    {
        let mut device = Device::cpu(CpuConfig { threads: 1, ..CpuConfig::default() })?;
        let (trans_a, trans_b) = (way == "tn", way == "nt");
        let a = device.alloc(dtype, &if trans_a { [k, m] } else { [m, k] })?;
        let b = device.alloc(dtype, &if trans_b { [n, k] } else { [k, n] })?;
        let out = device.alloc(dtype, &[m, n])?;
        let mut setup: Vec<Op> = Vec::new();
        for (dst, len) in [(a, m * k), (b, k * n)] {
            let wide = device.alloc(DType::F32, &[len])?;
            let distribution = Distribution::Normal;
            setup.push(Random { dst: wide, seed: 1, stream: len.into(), distribution, scale: 1.0 }.into());
            setup.push(terrarium_kernels::Copy { src: wide, dst }.into());
        }
        let setup = device.prepare(setup)?;
        device.run(&setup)?;
        let product = MatMul { a, b, out, trans_a, trans_b, alpha: 1.0, accumulate: false };
        let graph = device.prepare(vec![product.into()])?;
        let flops = 2.0 * f64::from(m) * f64::from(k) * f64::from(n);
        let runs = ((2e9 / flops) as usize).clamp(4, 300);
        let peak = cpu_time::peak();
        let best = cpu_time::least(runs, || device.run(&graph))?;
        let speed = flops / best / 1e9;
        println!("{way} {m}x{k}x{n}: {speed:.1} GFLOP/s, {:.0} % of {peak:.1}", 100.0 * speed / peak);
    }
    Ok(())
}
