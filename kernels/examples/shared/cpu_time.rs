//! Time of this thread on a CPU, which other work of a busy machine hardly
//! moves, and the peak to hold it against.

use std::time::Duration;

/// What this thread has spent on a CPU.
pub fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and `time` is ours.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "no clock of this thread's CPU time");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Least CPU seconds of one of `runs` calls, after one that warms up.
#[allow(dead_code)]
pub fn least<E>(runs: usize, mut task: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    task()?;
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = spent();
        task()?;
        best = best.min((spent() - start).as_secs_f64());
    }
    Ok(best)
}

/// f32 GFLOP/s of independent chains of fused multiply-adds in registers, one
/// thread; 0 where the machine has no AVX2.
#[allow(dead_code)]
pub fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        const ROUNDS: usize = 1 << 19;
        let best = least(20, || {
            // SAFETY: both features were just detected.
            unsafe { chains(ROUNDS) };
            Ok::<(), ()>(())
        });
        // Ten chains of eight, two flops each.
        return best.map_or(0.0, |best| (ROUNDS * 10 * 8 * 2) as f64 / best / 1e9);
    }
    0.0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains(rounds: usize) {
    use std::arch::x86_64::*;
    let (factor, term) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
    let mut s = [_mm256_set1_ps(0.5); 10];
    for _ in 0..rounds {
        // Written out: an array that is indexed would live in memory.
        let [a, b, c, d, e, f, g, h, i, j] = s;
        s = [
            _mm256_fmadd_ps(a, factor, term),
            _mm256_fmadd_ps(b, factor, term),
            _mm256_fmadd_ps(c, factor, term),
            _mm256_fmadd_ps(d, factor, term),
            _mm256_fmadd_ps(e, factor, term),
            _mm256_fmadd_ps(f, factor, term),
            _mm256_fmadd_ps(g, factor, term),
            _mm256_fmadd_ps(h, factor, term),
            _mm256_fmadd_ps(i, factor, term),
            _mm256_fmadd_ps(j, factor, term),
        ];
    }
    std::hint::black_box(s);
}
