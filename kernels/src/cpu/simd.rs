//! One body, two machines: kernels are written as plain loops and compiled
//! twice, for the portable instruction set and for AVX2 with fused
//! multiply-add. Which one runs is found out once per process. (Most passes of
//! row kernels are compiled for AVX-512 too, which changes no bit; large matrix
//! products and attention have more ways, for that, its bfloat16 and AMX.)

use std::sync::OnceLock;

use crate::Error;
use crate::error::fail;

/// An instruction set that kernels were compiled for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    /// What every machine of the target has.
    Portable,
    /// AVX2 and FMA. Only [`level`] makes this value, after detection.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Those and AVX-512F; made as `Avx2` is.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Those, AVX-512 BF16, AVX-512BW and AVX-512VL; made as `Avx2` is.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// Those, and AMX with bfloat16, which the system lets this process use; made
    /// as `Avx2` is.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// The environment variable that asks for a lower level than the best, for
/// tests: `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`.
const VARIABLE: &str = "TERRARIUM_SIMD";

/// The level that is used: the best of this machine, unless another is asked
/// for.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| asked().ok().flatten().unwrap_or_else(best))
}

/// The best of this machine. Found out once: it asks the system for AMX, which a
/// process that is locked down may not do.
fn best() -> Level {
    static BEST: OnceLock<Level> = OnceLock::new();
    *BEST.get_or_init(found)
}

fn found() -> Level {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let pairs = is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        return match (is_x86_feature_detected!("avx512f"), pairs) {
            (true, true) if super::amx::allowed() => Level::Amx,
            (true, true) => Level::Avx512Bf16,
            (true, false) => Level::Avx512,
            (false, _) => Level::Avx2,
        };
    }
    Level::Portable
}

/// The level that the environment asks for, if it asks.
pub(crate) fn asked() -> Result<Option<Level>, Error> {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let wanted = match name.to_str() {
        Some("portable") => Some(Level::Portable),
        #[cfg(target_arch = "x86_64")]
        Some("avx2") => Some(Level::Avx2),
        #[cfg(target_arch = "x86_64")]
        Some("avx512") => Some(Level::Avx512),
        #[cfg(target_arch = "x86_64")]
        Some("avx512bf16") => Some(Level::Avx512Bf16),
        #[cfg(target_arch = "x86_64")]
        Some("amx") => Some(Level::Amx),
        _ => None,
    };
    match wanted {
        Some(level) if level <= best() => Ok(Some(level)),
        _ => fail!(
            InvalidArgument,
            "{VARIABLE}={} is no level of this machine, whose best is {:?}; portable always works",
            name.display(),
            best()
        ),
    }
}

/// Bytes of a core's second cache; 0 where nothing says so.
pub(crate) fn second_cache() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;

        /// Leaf of what caches AMD's processors have; Intel's report L2 there too.
        const CACHES: u32 = 0x8000_0006;
        static BYTES: OnceLock<usize> = OnceLock::new();
        *BYTES.get_or_init(|| match __cpuid(0x8000_0000).eax {
            CACHES.. => (__cpuid(CACHES).ecx >> 16 << 10) as usize,
            _ => 0,
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// `a · b + c`: fused where the level has it (`FMA`), else rounded twice.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Defines `fn name(args)` that runs `fn body<const FMA: bool>(args)` at the
/// machine's level; at the levels above AVX2 only a `wide` one is compiled anew,
/// for vectors twice as long.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the caller's promise.
                unsafe { $body::<true>($($arg),*) }
            }
            match $crate::cpu::simd::level() {
                // SAFETY: the caller's promise.
                $crate::cpu::simd::Level::Portable => unsafe { $body::<false>($($arg),*) },
                // SAFETY: the caller's promise; `level` returns the others only
                // where the CPU reported both features.
                #[cfg(target_arch = "x86_64")]
                _ => unsafe { avx2($($arg),*) },
            }
        }
    };
    (wide $(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            match $crate::cpu::simd::level() {
                $crate::cpu::simd::Level::Portable => $body::<false>($($arg),*),
                // SAFETY: `level` returns it only where the CPU reported both
                // features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above, and these only where it reported AVX-512F.
                #[cfg(target_arch = "x86_64")]
                _ => unsafe { avx512($($arg),*) },
            }
        }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body::<true>($($arg),*)
            }
            match $crate::cpu::simd::level() {
                $crate::cpu::simd::Level::Portable => $body::<false>($($arg),*),
                // SAFETY: `level` returns the others only where the CPU
                // reported both features.
                #[cfg(target_arch = "x86_64")]
                _ => unsafe { avx2($($arg),*) },
            }
        }
    };
}
pub(crate) use multiversion;

/// Width of the accumulators of every reduction. It fixes the order of
/// summation, so it is the same at every level.
pub(crate) const LANES: usize = 16;

/// Adds the lanes, halving: a fixed order.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// [`sum`] and [`dot`] for AVX2 and FMA, by hand: of the lanes below a compiler
/// makes vectors here and single numbers there, as the surroundings have it.
#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::x86_64::*;

    use super::LANES;

    /// Adds lanes as [`super::fold`] does.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn folded(low: __m256, high: __m256) -> f32 {
        let eight = _mm256_add_ps(low, high);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn halves(chunk: &[f32; LANES]) -> [__m256; 2] {
        let from = chunk.as_ptr();
        // SAFETY: sixteen floats.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn filled(tail: &[f32]) -> [__m256; 2] {
        let mut chunk = [0f32; LANES];
        chunk[..tail.len()].copy_from_slice(tail);
        halves(&chunk)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub fn sum(x: &[f32]) -> f32 {
        let (chunks, tail) = x.as_chunks::<LANES>();
        let mut sums = [_mm256_setzero_ps(); 2];
        for chunk in chunks {
            let [low, high] = halves(chunk);
            sums = [_mm256_add_ps(sums[0], low), _mm256_add_ps(sums[1], high)];
        }
        if !tail.is_empty() {
            let [low, high] = filled(tail);
            sums = [_mm256_add_ps(sums[0], low), _mm256_add_ps(sums[1], high)];
        }
        folded(sums[0], sums[1])
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub fn dot(x: &[f32], y: &[f32]) -> f32 {
        let (xs, x_tail) = x.as_chunks::<LANES>();
        let (ys, y_tail) = y.as_chunks::<LANES>();
        let mut sums = [_mm256_setzero_ps(); 2];
        for (x, y) in xs.iter().zip(ys) {
            let ([a, b], [c, d]) = (halves(x), halves(y));
            sums = [_mm256_fmadd_ps(a, c, sums[0]), _mm256_fmadd_ps(b, d, sums[1])];
        }
        if !x_tail.is_empty() {
            let ([a, b], [c, d]) = (filled(x_tail), filled(y_tail));
            sums = [_mm256_fmadd_ps(a, c, sums[0]), _mm256_fmadd_ps(b, d, sums[1])];
        }
        folded(sums[0], sums[1])
    }
}

/// Asks for the cache lines of `len` numbers from `from` on, wherever that is: they
/// are soon read, or `written`.
#[inline(always)]
pub(crate) fn ask<T>(from: *const T, len: usize, written: bool) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(64 / size_of::<T>()) {
        let line = from.wrapping_add(at);
        match written {
            true => super::packing::prefetch_to_write(line),
            // SAFETY: SSE is part of the target; it takes any address.
            false => unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
            },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, len, written);
}

/// Σ x.
#[inline(always)]
pub(crate) fn sum<const FMA: bool>(x: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        // SAFETY: `FMA` is true at levels that have AVX2 and FMA alone.
        return unsafe { vectors::sum(x) };
    }
    let mut lanes = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane += v;
    }
    fold(lanes, |a, b| a + b)
}

/// Σ x · y; the slices have equal lengths.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        // SAFETY: as in `sum`.
        return unsafe { vectors::dot(x, y) };
    }
    let mut lanes = [0f32; LANES];
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = fma::<FMA>(*x, *y, *lane);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane = fma::<FMA>(*x, *y, *lane);
    }
    fold(lanes, |a, b| a + b)
}

/// The larger; NaN if either is.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller; NaN if either is.
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

/// The largest element; −∞ of none, NaN if any is.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *v);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, *v);
    }
    fold(lanes, larger)
}
