//! The ends of products in one pass, with AVX-512: what `epilogue` does in
//! several passes over a row, sixteen elements at a time in registers, to the
//! same bits.

use std::arch::x86_64::*;

use super::epilogue::{STEEP, STEEP_SQUARE};
use super::math::{
    EXP_MIN, EXP2, EXP2_RANGE, FALL, FALL_CUBIC, LN_2_HIGH, LN_2_LOW, LOG2_E, ROUND, ROUND_EXPONENT,
};
use super::product::{Numbers, Results};
use crate::op::Activation;

const LANES: usize = 16;

/// Sixteen numbers of a slice from `at` on.
///
/// # Safety
/// They are inside.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: &[f32], at: usize) -> __m512 {
    debug_assert!(at + LANES <= from.len());
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(from.as_ptr().add(at)) }
}

/// Their bits widened.
///
/// # Safety
/// As [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_halves(from: &[u16], at: usize) -> __m512 {
    debug_assert!(at + LANES <= from.len());
    // SAFETY: the caller's promise.
    let bits = unsafe { _mm256_loadu_si256(from.as_ptr().add(at).cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// # Safety
/// As [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_numbers(from: Numbers, at: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        match from {
            Numbers::F32(from) => load(from, at),
            Numbers::Bf16(from) => load_halves(from, at),
        }
    }
}

/// Past the caches if `past`.
///
/// # Safety
/// As [`load`]; if `past`, [`published`](super::past::published) is called
/// before another thread reads them.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put(to: &mut [f32], at: usize, x: __m512, past: bool) {
    debug_assert!(at + LANES <= to.len());
    let to = to.as_mut_ptr().wrapping_add(at);
    // SAFETY: the caller's promise; aligned as the instruction needs it.
    unsafe {
        if past && to.cast::<__m512>().is_aligned() {
            _mm512_stream_ps(to, x);
        } else {
            _mm512_storeu_ps(to, x);
        }
    }
}

/// Rounded as [`crate::bf16::round`] does, and stored as [`put`] does.
///
/// # Safety
/// As [`put`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put_halves(to: &mut [u16], at: usize, x: __m512, past: bool) {
    debug_assert!(at + LANES <= to.len());
    let bits = _mm512_castps_si512(x);
    let upper = _mm512_srli_epi32::<16>(bits);
    let even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    let carried = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
    let rounded = _mm512_srli_epi32::<16>(carried);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let rounded = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
    let rounded = _mm512_cvtepi32_epi16(rounded);
    let to = to.as_mut_ptr().wrapping_add(at).cast::<__m256i>();
    // SAFETY: the caller's promise; aligned as the instruction needs it.
    unsafe {
        if past && to.is_aligned() {
            _mm256_stream_si256(to, rounded);
        } else {
            _mm256_storeu_si256(to, rounded);
        }
    }
}

/// To `to`, or where the row is.
///
/// # Safety
/// As [`put`], of what is written.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put_result(row: &mut [f32], to: &mut Results, at: usize, x: __m512, past: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        match to {
            Results::F32([]) | Results::Bf16([]) => put(row, at, x, false),
            Results::F32(to) => put(to, at, x, past),
            Results::Bf16(to) => put_halves(to, at, x, past),
        }
    }
}

/// As `math::sigmoid`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sigmoid(x: __m512) -> __m512 {
    let of = |value: f32| _mm512_set1_ps(value);
    let sign = _mm512_set1_epi32(i32::MIN);
    // e to the −|x|, as `math::exp_negative`.
    let y = _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(x), sign));
    let inside = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(y, of(EXP_MIN));
    // (The second is taken if one is NaN.)
    let low = _mm512_max_ps(of(EXP_MIN), y);
    let shifted = _mm512_fmadd_ps(low, of(LOG2_E), of(ROUND));
    let n = _mm512_sub_ps(shifted, of(ROUND));
    let r = _mm512_fmadd_ps(n, of(-LN_2_LOW), _mm512_fmadd_ps(n, of(-LN_2_HIGH), low));
    let square = _mm512_mul_ps(r, r);
    let above = _mm512_fmadd_ps(of(1.0 / 6.0), r, of(0.5));
    let of_low = _mm512_fmadd_ps(above, square, _mm512_add_ps(of(1.0), r));
    let above = _mm512_fmadd_ps(of(1.0 / 5040.0), r, of(1.0 / 720.0));
    let of_high = _mm512_fmadd_ps(above, square, _mm512_fmadd_ps(of(1.0 / 120.0), r, of(1.0 / 24.0)));
    let value = _mm512_fmadd_ps(of_high, _mm512_mul_ps(square, square), of_low);
    let exponent = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
    let e = _mm512_maskz_mul_ps(inside, value, scale);
    let positive = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, of(0.0));
    let above = _mm512_mask_mov_ps(e, positive, of(1.0));
    _mm512_div_ps(above, _mm512_add_ps(of(1.0), e))
}

/// `math::gelu_divisor`.
#[inline]
#[target_feature(enable = "avx512f")]
fn gelu_divisor(z: __m512) -> __m512 {
    let of = |value: f32| _mm512_set1_ps(value);
    let square = _mm512_mul_ps(z, z);
    let y = _mm512_mul_ps(z, _mm512_fmadd_ps(of(FALL_CUBIC), square, of(FALL)));
    // (The second is taken if one is NaN.)
    let y = _mm512_min_ps(of(EXP2_RANGE[1]), _mm512_max_ps(of(EXP2_RANGE[0]), y));
    let shifted = _mm512_add_ps(y, of(ROUND_EXPONENT));
    let r = _mm512_sub_ps(y, _mm512_sub_ps(shifted, of(ROUND_EXPONENT)));
    let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(shifted)));
    let [a, b, c, d, e] = EXP2.map(of);
    let high = _mm512_fmadd_ps(_mm512_fmadd_ps(e, r, d), r, c);
    let power = _mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(high, r, b), r, a), r, of(1.0));
    _mm512_fmadd_ps(power, scale, of(1.0))
}

/// The activation of z; `ACT` is an [`Activation`].
#[inline]
#[target_feature(enable = "avx512f")]
fn value<const ACT: u8>(z: __m512) -> __m512 {
    let zero = _mm512_setzero_ps();
    // NaN stays NaN.
    let above = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(z, zero);
    match ACT {
        RELU => _mm512_maskz_mov_ps(above, z),
        RELU_SQUARED => _mm512_maskz_mul_ps(above, z, z),
        GELU => _mm512_div_ps(z, gelu_divisor(z)),
        SILU => _mm512_mul_ps(z, sigmoid(z)),
        _ => z,
    }
}

/// d times the slope of the activation at z.
#[inline]
#[target_feature(enable = "avx512f")]
fn times_slope<const ACT: u8>(d: __m512, z: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    let zero = _mm512_setzero_ps();
    match ACT {
        RELU => _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(z, zero), d),
        RELU_SQUARED => {
            let above = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(z, zero);
            _mm512_mul_ps(d, _mm512_maskz_mul_ps(above, _mm512_set1_ps(2.0), z))
        }
        GELU => {
            let s = _mm512_div_ps(one, gelu_divisor(z));
            let (steep, square) = (_mm512_set1_ps(STEEP), _mm512_set1_ps(STEEP_SQUARE));
            let steep = _mm512_fmadd_ps(square, _mm512_mul_ps(z, z), steep);
            let outer = _mm512_mul_ps(_mm512_mul_ps(z, s), _mm512_sub_ps(one, s));
            _mm512_mul_ps(d, _mm512_fmadd_ps(outer, steep, s))
        }
        SILU => {
            let s = sigmoid(z);
            let slope = _mm512_mul_ps(s, _mm512_fmadd_ps(z, _mm512_sub_ps(one, s), one));
            _mm512_mul_ps(d, slope)
        }
        _ => d,
    }
}

const IDENTITY: u8 = Activation::Identity as u8;
const RELU: u8 = Activation::Relu as u8;
const RELU_SQUARED: u8 = Activation::ReluSquared as u8;
const GELU: u8 = Activation::Gelu as u8;
const SILU: u8 = Activation::Silu as u8;

/// Calls a function of an activation that is known only now.
macro_rules! by_activation {
    ($act:expr, $name:ident($($arg:expr),*)) => {
        match $act {
            Activation::Identity => $name::<IDENTITY>($($arg),*),
            Activation::Relu => $name::<RELU>($($arg),*),
            Activation::ReluSquared => $name::<RELU_SQUARED>($($arg),*),
            Activation::Gelu => $name::<GELU>($($arg),*),
            Activation::Silu => $name::<SILU>($($arg),*),
        }
    };
}

/// act(row + bias) + residual, to `to` or where the row is, with the value
/// before the activation to `pre`. Does whole vectors, and says how many
/// elements those are. Slices are empty where there is nothing, else as long
/// as the row. If `past`, what goes elsewhere than to the row goes there past the
/// caches.
#[target_feature(enable = "avx512f")]
pub(crate) fn apply(
    row: &mut [f32],
    bias: &[f32],
    residual: Numbers,
    pre: &mut Results,
    act: Activation,
    to: &mut Results,
    past: bool,
) -> usize {
    by_activation!(act, apply_of(row, bias, residual, pre, to, past))
}

#[target_feature(enable = "avx512f")]
fn apply_of<const ACT: u8>(
    row: &mut [f32],
    bias: &[f32],
    residual: Numbers,
    pre: &mut Results,
    to: &mut Results,
    past: bool,
) -> usize {
    let whole = row.len() / LANES * LANES;
    let fits = |len: usize| len == 0 || len >= whole;
    assert!([bias.len(), residual.len(), to.len(), pre.len()].into_iter().all(fits));
    for at in (0..whole).step_by(LANES) {
        // SAFETY: at + LANES is at most `whole`, and so inside of each slice
        // that is not empty (checked).
        unsafe {
            let mut z = load(row, at);
            if !bias.is_empty() {
                z = _mm512_add_ps(z, load(bias, at));
            }
            match pre {
                Results::F32([]) | Results::Bf16([]) => {}
                Results::F32(pre) => put(pre, at, z, past),
                Results::Bf16(pre) => put_halves(pre, at, z, past),
            }
            z = value::<ACT>(z);
            match residual {
                Numbers::F32([]) | Numbers::Bf16([]) => {}
                residual => z = _mm512_add_ps(z, load_numbers(residual, at)),
            }
            put_result(row, to, at, z, past);
        }
    }
    whole
}

/// row · act'(pre), to `to` or where the row is, as [`apply`].
#[target_feature(enable = "avx512f")]
pub(crate) fn gradient(
    row: &mut [f32],
    pre: Numbers,
    act: Activation,
    to: &mut Results,
    past: bool,
) -> usize {
    by_activation!(act, gradient_of(row, pre, to, past))
}

#[target_feature(enable = "avx512f")]
fn gradient_of<const ACT: u8>(row: &mut [f32], pre: Numbers, to: &mut Results, past: bool) -> usize {
    let whole = row.len() / LANES * LANES;
    assert!(pre.len() >= whole && (to.len() == 0 || to.len() >= whole));
    for at in (0..whole).step_by(LANES) {
        // SAFETY: as in `apply_of`.
        unsafe {
            let d = times_slope::<ACT>(load(row, at), load_numbers(pre, at));
            put_result(row, to, at, d, past);
        }
    }
    whole
}
