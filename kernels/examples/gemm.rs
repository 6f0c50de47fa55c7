//! Speed of matrix products on this machine:
//! `cargo run --release -p terrarium-kernels --example gemm`.

use std::time::Instant;

use terrarium_kernels::{CpuConfig, DType, Device, Distribution, Error, MatMul, Op, Random};

fn main() -> Result<(), Error> {
    for [m, k, n] in [[2048, 384, 1536], [1024, 128, 512], [2048, 64, 256], [64, 2048, 256]] {
        for threads in [1, 0] {
            let mut device = Device::cpu(CpuConfig { threads, ..CpuConfig::default() })?;
            let a = device.alloc(DType::F32, &[m, k])?;
            let b = device.alloc(DType::F32, &[k, n])?;
            let out = device.alloc(DType::F32, &[m, n])?;
            let fill = |dst, stream| -> Op {
                let distribution = Distribution::Normal;
                Random { dst, seed: 1, stream, distribution, scale: 1.0 }.into()
            };
            let setup = device.prepare(vec![fill(a, 0), fill(b, 1)])?;
            device.run(&setup)?;
            let (trans_a, trans_b) = (false, false);
            let product = MatMul { a, b, out, trans_a, trans_b, alpha: 1.0, accumulate: false };
            let graph = device.prepare(vec![product.into()])?;
            let flops = 2.0 * f64::from(m) * f64::from(k) * f64::from(n);
            let runs = ((4e9 / flops) as usize).clamp(3, 1000);
            let mut best = f64::INFINITY;
            for _ in 0..runs {
                let start = Instant::now();
                device.run(&graph)?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            let threads = if threads == 0 { "all threads" } else { "1 thread   " };
            println!("{m}x{k}x{n} {threads}: {:.1} GFLOP/s", flops / best / 1e9);
        }
    }
    Ok(())
}
