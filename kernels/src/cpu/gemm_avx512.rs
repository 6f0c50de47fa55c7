//! A tile of 14 × 32 outputs for AVX-512: 28 accumulators, two vectors of the
//! right operand, and the left one broadcast by the multiply-add itself (the
//! tile is that of BLIS on Skylake-X).
//!
//! It is chosen at run time, and tested where a machine has AVX-512. The one
//! that this was written on has not: there it has been compiled only. bfloat16
//! is widened while it is packed, as for AVX2; `vdpbf16ps`, which would
//! multiply it twice as fast, is not used.

use std::arch::x86_64::*;

use super::blocked::Micro;
use super::tiles::Tile;

/// AVX-512's tile of packed operands.
pub(crate) struct Avx512;

impl Micro for Avx512 {
    const ROWS: usize = 14;
    const COLS: usize = 32;
    const RUN: &'static [unsafe fn(&Tile)] = &[
        packed::<1>,
        packed::<2>,
        packed::<3>,
        packed::<4>,
        packed::<5>,
        packed::<6>,
        packed::<7>,
        packed::<8>,
        packed::<9>,
        packed::<10>,
        packed::<11>,
        packed::<12>,
        packed::<13>,
        packed::<14>,
    ];
}

/// Floats of a vector.
const VECTOR: usize = 16;

/// # Safety
/// AVX-512F; `left` has depth × M elements, `right` depth × COLS, `out` M rows
/// of `width`.
#[target_feature(enable = "avx512f")]
unsafe fn packed<const M: usize>(tile: &Tile) {
    for i in 0..M {
        // The outputs are wanted when the loop is over.
        let row = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride));
        _mm_prefetch::<_MM_HINT_T0>(row.cast());
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(VECTOR).cast());
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(Avx512::COLS - 1).cast());
    }
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let (mut left, mut right) = (tile.left, tile.right);
    for _ in 0..tile.depth {
        // SAFETY: `right` has depth rows of two vectors.
        let (b0, b1) = unsafe { (_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(VECTOR))) };
        for (i, [low, high]) in sums.iter_mut().enumerate() {
            // SAFETY: `left` has depth columns of M elements.
            let a = _mm512_set1_ps(unsafe { *left.add(i) });
            *low = _mm512_fmadd_ps(a, b0, *low);
            *high = _mm512_fmadd_ps(a, b1, *high);
        }
        left = left.wrapping_add(M);
        right = right.wrapping_add(Avx512::COLS);
    }
    let alpha = _mm512_set1_ps(tile.alpha);
    // A bit for each column that exists, of either vector.
    let columns = u32::MAX >> (Avx512::COLS - tile.width);
    let masks = [columns as u16, (columns >> VECTOR) as u16];
    for (i, halves) in sums.into_iter().enumerate() {
        for (half, sum) in halves.into_iter().enumerate() {
            let at = tile.out.wrapping_add(i.wrapping_mul(tile.out_stride)).wrapping_add(half * VECTOR);
            // SAFETY: masked elements are neither read nor written; the others
            // are in row i of `out`.
            unsafe {
                let value = if tile.accumulate {
                    _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(masks[half], at))
                } else {
                    _mm512_mul_ps(alpha, sum)
                };
                _mm512_mask_storeu_ps(at, masks[half], value);
            }
        }
    }
}
