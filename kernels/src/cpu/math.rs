//! Elementary functions as branch-free polynomials, so that loops over them
//! become vector code. All take any input: infinities and NaN included.
//!
//! Error bounds hold at both instruction-set levels and are tested over the
//! whole range against `f64`.

use super::simd::fma;

pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts (Cody and Waite 1980): the high one has few enough bits
/// that n · LN_2_HIGH is exact for |n| < 2⁹.
pub(crate) const LN_2_HIGH: f32 = 0.693_145_75;
pub(crate) const LN_2_LOW: f32 = 1.428_606_8e-6;
/// Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// Above, eˣ is infinite.
const EXP_MAX: f32 = 88.722_83;
/// Below, eˣ is subnormal, and is flushed to 0.
pub(crate) const EXP_MIN: f32 = -87.336_54;

/// n and r of x = n · ln 2 + r, |r| ≤ ln 2 / 2: the first as [`ROUND`] + n.
#[inline(always)]
fn reduced<const FMA: bool>(x: f32) -> (f32, f32) {
    let shifted = fma::<FMA>(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    (shifted, fma::<FMA>(n, -LN_2_LOW, fma::<FMA>(n, -LN_2_HIGH, x)))
}

/// eʳ for |r| ≤ ln 2 / 2: Taylor to r⁷/5040, the rest is below 6·10⁻⁹. In pairs
/// (Estrin 1960), since loops over it wait for the chain of its operations.
#[inline(always)]
fn exp_reduced<const FMA: bool>(r: f32) -> f32 {
    let square = r * r;
    let low = fma::<FMA>(fma::<FMA>(1.0 / 6.0, r, 0.5), square, 1.0 + r);
    let high =
        fma::<FMA>(fma::<FMA>(1.0 / 5040.0, r, 1.0 / 720.0), square, fma::<FMA>(1.0 / 120.0, r, 1.0 / 24.0));
    fma::<FMA>(high, square * square, low)
}

/// eˣ, relative error below 3·10⁻⁷; 0 where it would be subnormal.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let low = if x < EXP_MIN { EXP_MIN } else { x };
    let clamped = if low > EXP_MAX { EXP_MAX } else { low };
    let (shifted, r) = reduced::<FMA>(clamped);
    // 2ⁿ in two factors, since n reaches 128. The low bits of `shifted` are n.
    let n = shifted.to_bits() as i32 & 0x00ff_ffff;
    let n = n.wrapping_sub(0x0040_0000);
    let half = n >> 1;
    let rest = n.wrapping_sub(half);
    let scale = |n: i32| f32::from_bits((n.wrapping_add(127) as u32).wrapping_shl(23));
    let value = exp_reduced::<FMA>(r) * scale(half) * scale(rest);
    let value = if x < EXP_MIN { 0.0 } else { value };
    if x > EXP_MAX { f32::INFINITY } else { value }
}

/// As [`exp`], for x ≤ 0, in fewer operations.
#[inline(always)]
pub(crate) fn exp_negative<const FMA: bool>(x: f32) -> f32 {
    let (shifted, r) = reduced::<FMA>(if x < EXP_MIN { EXP_MIN } else { x });
    // Of ROUND's bits none are left: 127 + n, at least 1, becomes the exponent.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127).wrapping_shl(23));
    if x < EXP_MIN { 0.0 } else { exp_reduced::<FMA>(r) * scale }
}

/// 1 / (1 + e⁻ˣ), relative error below 5·10⁻⁷; 0 below −87.3.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    // Of −|x|, so that nothing overflows.
    let e = exp_negative::<FMA>(-x.abs());
    let above = if x >= 0.0 { 1.0 } else { e };
    above / (1.0 + e)
}

/// −2 · √(2/π) · log₂e and that times GELU's cubic term.
pub(super) const FALL: f32 = -2.302_208_2;
pub(super) const FALL_CUBIC: f32 = -0.102_943_24;
/// [`ROUND`], with what is added to an exponent of `f32` in its low bits.
pub(super) const ROUND_EXPONENT: f32 = ROUND + 127.0;
/// Of 2ʸ: below, it would be subnormal; from there on it is infinite.
pub(super) const EXP2_RANGE: [f32; 2] = [-126.0, 128.0];
/// Of 2ʳ = 1 + …, |r| ≤ ½: the polynomial of least relative error (1.1·10⁻⁷ with
/// the first term 1), fitted.
#[expect(clippy::approx_constant, reason = "the second term is near ln 2, and is not it")]
pub(super) const EXP2: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];

/// 1 + e⁻ᵗ for t = 2 · √(2/π) · (z + 0.044715 z³): GELU (by its tanh, Hendrycks and
/// Gimpel 2016) is z / (1 + e⁻ᵗ), as (1 + tanh(t/2)) / 2 = 1 / (1 + e⁻ᵗ). Relative
/// error below 2·10⁻⁷, and 2·10⁻⁷ · |t| more for t < 0; infinite for t below −88.4.
#[inline(always)]
pub(crate) fn gelu_divisor<const FMA: bool>(z: f32) -> f32 {
    let y = z * fma::<FMA>(FALL_CUBIC, z * z, FALL);
    let [least, most] = EXP2_RANGE;
    let low = if y < least { least } else { y };
    let y = if low > most { most } else { low };
    let shifted = y + ROUND_EXPONENT;
    let r = y - (shifted - ROUND_EXPONENT);
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23));
    let [a, b, c, d, e] = EXP2;
    let high = fma::<FMA>(fma::<FMA>(e, r, d), r, c);
    let power = fma::<FMA>(fma::<FMA>(fma::<FMA>(high, r, b), r, a), r, 1.0);
    fma::<FMA>(power, scale, 1.0)
}

/// Hyperbolic tangent, relative error below 5·10⁻⁷.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let e = exp_negative::<FMA>(-2.0 * a);
    let large = (1.0 - e) / (1.0 + e);
    // Taylor to x¹¹; the next term is below 5·10⁻⁹ for |x| < 0.3.
    let s = a * a;
    let mut p = -1382.0 / 155_925.0;
    p = fma::<FMA>(p, s, 62.0 / 2835.0);
    p = fma::<FMA>(p, s, -17.0 / 315.0);
    p = fma::<FMA>(p, s, 2.0 / 15.0);
    p = fma::<FMA>(p, s, -1.0 / 3.0);
    let small = fma::<FMA>(a * s, p, a);
    let magnitude = if a < 0.3 { small } else { large };
    f32::copysign(magnitude, x)
}

/// Natural logarithm, error below 3·10⁻⁷ relative or 1·10⁻⁷ absolute; −∞ of
/// 0, NaN of negatives.
#[inline(always)]
pub(crate) fn ln<const FMA: bool>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let y = if tiny { x * 8_388_608.0 } else { x };
    let bias = if tiny { 23.0 } else { 0.0 };
    // y = m · 2ⁿ with m in [√½, √2): subtract the bits of √½ first.
    let bits = y.to_bits().wrapping_sub(0x3f35_04f3);
    let n = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let n = n as f32 - bias;
    // ln m = 2 artanh((m − 1) / (m + 1)), to s⁹; the rest is below 3·10⁻⁹.
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut p = 1.0 / 9.0;
    p = fma::<FMA>(p, q, 1.0 / 7.0);
    p = fma::<FMA>(p, q, 1.0 / 5.0);
    p = fma::<FMA>(p, q, 1.0 / 3.0);
    let twice = s + s;
    let ln_m = fma::<FMA>(twice * q, p, twice);
    let value = fma::<FMA>(n, LN_2_HIGH, fma::<FMA>(n, LN_2_LOW, ln_m));
    let value = if x == f32::INFINITY { x } else { value };
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    if x < 0.0 || x.is_nan() { f32::NAN } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worst relative error (and absolute below `floor`) over [low, high].
    fn worst(low: f32, high: f32, floor: f64, fast: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let steps = 400_000;
        (0..=steps)
            .map(|i| {
                let x = low + (high - low) * (i as f32 / steps as f32);
                let (got, want) = (f64::from(fast(x)), exact(f64::from(x)));
                (got - want).abs() / want.abs().max(floor)
            })
            .fold(0.0, f64::max)
    }

    fn sigmoid64(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn bounds<const FMA: bool>() {
        let tiny = 1e-37;
        assert!(worst(-87.3, 88.7, tiny, exp::<FMA>, f64::exp) < 3e-7);
        assert!(worst(-1.0, 1.0, tiny, exp::<FMA>, f64::exp) < 3e-7);
        assert!(worst(-87.3, 0.0, tiny, exp_negative::<FMA>, f64::exp) < 3e-7);
        assert!(worst(-87.0, 100.0, tiny, sigmoid::<FMA>, sigmoid64) < 5e-7);
        assert!(worst(-20.0, 20.0, tiny, tanh::<FMA>, f64::tanh) < 5e-7);
        assert!(worst(-0.5, 0.5, tiny, tanh::<FMA>, f64::tanh) < 5e-7);
        let divisor = |z: f64| 1.0 + (-1.595_769_121_605_731 * (z + 0.044_715 * z * z * z)).exp();
        assert!(worst(-1.0, 20.0, tiny, gelu_divisor::<FMA>, divisor) < 4e-7);
        assert!(worst(-9.7, -1.0, tiny, gelu_divisor::<FMA>, divisor) < 1e-5);
        assert!(worst(1e-3, 4.0, 0.3, ln::<FMA>, f64::ln) < 3e-7);
        assert!(worst(1e-30, 1e-20, 0.3, ln::<FMA>, f64::ln) < 3e-7);
        assert!(worst(1e-44, 1e-38, 0.3, ln::<FMA>, f64::ln) < 3e-7);
        assert!(worst(1.0, 3e38, 0.3, ln::<FMA>, f64::ln) < 3e-7);
    }

    #[test]
    fn errors_stay_in_their_bounds_portable() {
        bounds::<false>();
    }

    #[test]
    fn errors_stay_in_their_bounds_fused() {
        bounds::<true>();
    }

    #[test]
    fn special_values() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(exp::<false>(-inf), 0.0);
        assert_eq!(exp::<false>(inf), inf);
        assert_eq!(exp::<false>(0.0), 1.0);
        assert!(exp::<false>(nan).is_nan());
        assert_eq!(exp_negative::<false>(-inf), 0.0);
        assert_eq!(exp_negative::<false>(-0.0), 1.0);
        assert!(exp_negative::<false>(nan).is_nan());
        assert_eq!(sigmoid::<false>(-inf), 0.0);
        assert_eq!(sigmoid::<false>(inf), 1.0);
        assert!(sigmoid::<false>(nan).is_nan());
        for far in [-11.0, -1e10, -1e30, -inf] {
            assert_eq!(gelu_divisor::<false>(far), inf);
        }
        for far in [11.0, 1e10, 1e30, inf] {
            assert_eq!(gelu_divisor::<false>(far), 1.0);
        }
        assert_eq!(gelu_divisor::<false>(0.0), 2.0);
        assert!(gelu_divisor::<false>(nan).is_nan());
        assert_eq!(tanh::<false>(-inf), -1.0);
        assert_eq!(tanh::<false>(-0.0).to_bits(), (-0.0f32).to_bits());
        assert!(tanh::<false>(nan).is_nan());
        assert_eq!(ln::<false>(0.0), -inf);
        assert_eq!(ln::<false>(1.0), 0.0);
        assert_eq!(ln::<false>(inf), inf);
        assert!(ln::<false>(-1.0).is_nan());
        assert!(ln::<false>(nan).is_nan());
    }
}
