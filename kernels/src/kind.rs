//! The kind of a device: what has to be equal for results to be equal.

use crate::cpu::{Level, level, second_cache};

/// The kind of this machine's CPU device: architecture, the vector level that
/// kernels choose at run time, and the processor's model and second cache (the
/// matrix products are blocked by cache sizes, and some virtual machines have a model
/// without a number).
pub fn cpu_kind() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown model".into());
    let cache = match second_cache() >> 10 {
        0 => String::new(),
        kib => format!(", {kib} KiB of L2"),
    };
    format!("{} {} {model}{cache}", std::env::consts::ARCH, vector_level())
}

fn vector_level() -> &'static str {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => "avx512f",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => "avx512f+bf16",
        #[cfg(target_arch = "x86_64")]
        Level::Amx => "avx512f+bf16+amx",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "avx2+fma",
        Level::Portable if cfg!(target_arch = "x86_64") => "sse2",
        Level::Portable => "portable",
    }
}

/// Makes every library that a kernel uses find out about this machine now:
/// the matrix library reads the cache sizes from the system at its first
/// product. A process that is about to give up its right to open files calls
/// this before; later it is too late, and the product would be blocked for
/// caches of guessed sizes.
pub fn warm_up() {
    let (a, b, mut c) = ([1.0f32; 64], [1.0f32; 64], [0.0f32; 64]);
    // SAFETY: the three arrays are 8 × 8, as the strides say, and disjoint.
    // Exercised by every worker that trains.
    unsafe {
        gemm::gemm(
            8,
            8,
            8,
            c.as_mut_ptr(),
            1,
            8,
            false,
            a.as_ptr(),
            1,
            8,
            b.as_ptr(),
            1,
            8,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    std::hint::black_box(c);
}
