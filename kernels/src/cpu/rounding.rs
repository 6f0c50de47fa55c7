//! bfloat16 by whole slices: [`bf16::round`] and [`bf16::value`], the same bits
//! at every level.

use super::simd::multiversion;
use crate::bf16;

/// Rounds each element; of equal lengths.
pub(crate) fn narrow(from: &[f32], to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if super::level() >= super::Level::Avx512Bf16 {
        // SAFETY: the level's instructions.
        return unsafe { by_instruction(from, to) };
    }
    by_bits(from, to);
}

multiversion! { fn by_bits(from: &[f32], to: &mut [u16]) = narrow_body }

multiversion! {
    wide
    /// Widens each element; of equal lengths.
    pub(crate) fn widen(from: &[u16], to: &mut [f32]) = widen_body
}

#[inline(always)]
fn narrow_body<const FMA: bool>(from: &[f32], to: &mut [u16]) {
    bf16::narrow(from, to);
}

#[inline(always)]
fn widen_body<const FMA: bool>(from: &[u16], to: &mut [f32]) {
    bf16::widen(from, to);
}

/// `vcvtneps2bf16` rounds as [`bf16::round`] does, but takes denormal numbers
/// for zero; where there are some it is not used.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn by_instruction(from: &[f32], to: &mut [u16]) {
    use std::arch::x86_64::{
        __m256bh, __m256i, _mm256_storeu_si256, _mm512_castps_si512, _mm512_cvtneps_pbh, _mm512_loadu_ps,
        _mm512_mask_test_epi32_mask, _mm512_set1_epi32, _mm512_testn_epi32_mask,
    };

    let (exponent, all) = (_mm512_set1_epi32(0x7f80_0000), _mm512_set1_epi32(0x7fff_ffff));
    let (chunks, rest) = from.as_chunks::<16>();
    let (to_chunks, to_rest) = to.as_chunks_mut::<16>();
    for (from, to) in chunks.iter().zip(to_chunks) {
        // SAFETY: sixteen floats.
        let x = unsafe { _mm512_loadu_ps(from.as_ptr()) };
        let bits = _mm512_castps_si512(x);
        let denormal = _mm512_mask_test_epi32_mask(_mm512_testn_epi32_mask(bits, exponent), bits, all);
        if denormal == 0 {
            let rounded = _mm512_cvtneps_pbh(x);
            // SAFETY: vectors of 256 bits, and room for sixteen bfloat16.
            unsafe {
                let rounded = std::mem::transmute::<__m256bh, __m256i>(rounded);
                _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded);
            }
        } else {
            bf16::narrow(from, to);
        }
    }
    bf16::narrow(rest, to_rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_rounded_and_widened_as_numbers_are() {
        // All upper halves, with lower ones about and at the tie, in an order
        // that puts each kind beside others: infinities, NaN and denormals too.
        let numbers: Vec<f32> = (0..=u16::MAX)
            .flat_map(|upper| {
                let upper = upper.wrapping_mul(40_503);
                [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]
                    .map(|lower| f32::from_bits(u32::from(upper) << 16 | lower))
            })
            .collect();
        for skipped in 0..3 {
            let from = &numbers[skipped..];
            let mut to = vec![0; from.len()];
            narrow(from, &mut to);
            for (x, bits) in from.iter().zip(&to) {
                assert_eq!(*bits, bf16::round(*x), "{:#x}", x.to_bits());
            }
            let mut wide = vec![0.0; to.len()];
            widen(&to, &mut wide);
            for (bits, x) in to.iter().zip(&wide) {
                assert_eq!(x.to_bits(), bf16::value(*bits).to_bits());
            }
        }
        // Denormals alone, and one among others.
        for place in 0..33 {
            let mut from = [1.5f32; 33];
            from[place] = f32::from_bits(0x0000_c000);
            let mut to = [0; 33];
            narrow(&from, &mut to);
            assert_eq!(to, from.map(bf16::round));
        }
    }
}
