//! bfloat16: the upper half of an IEEE binary32 (sign, 8 bits of exponent, 7
//! of fraction). A format to store numbers in; arithmetic is in `f32`.

/// The nearest bfloat16, ties to even; NaN stays NaN (quiet), what is too
/// large becomes infinite.
#[inline(always)]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    // Adding half of the last kept place less one, plus its low bit, carries
    // exactly where the nearest (even) is above. No f32 but NaN overflows.
    let even = (bits >> 16) & 1;
    let rounded = (bits.wrapping_add(0x7fff).wrapping_add(even) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// The number that these bits are; exact.
#[inline(always)]
pub(crate) fn value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds each element; of equal lengths.
#[inline(always)]
pub(crate) fn narrow(from: &[f32], to: &mut [u16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = round(*from);
    }
}

/// Widens each element; of equal lengths.
#[inline(always)]
pub(crate) fn widen(from: &[u16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = value(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest by trying both neighbours in `f64`.
    fn slow(x: f32) -> u16 {
        let below = (x.to_bits() >> 16) as u16;
        let above = below.wrapping_add(1);
        let distance = |bits: u16| (f64::from(value(bits)) - f64::from(x)).abs();
        match distance(below).total_cmp(&distance(above)) {
            std::cmp::Ordering::Less => below,
            std::cmp::Ordering::Greater => above,
            std::cmp::Ordering::Equal => below + (below & 1),
        }
    }

    #[test]
    fn rounding_takes_the_nearest_and_ties_go_to_even() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Below the largest finite bfloat16, so that both neighbours are finite.
            let x = f32::from_bits(bits);
            if x.is_finite() && x.abs() < 3.38e38 {
                assert_eq!(round(x), slow(x), "{x:e}");
            }
        }
        for upper in 0..=0xffffu32 {
            let tie = f32::from_bits(upper << 16 | 0x8000);
            if tie.is_finite() && tie.abs() < 3.38e38 {
                assert_eq!(round(tie) & 1, 0, "{tie:e}");
            }
        }
    }

    #[test]
    fn special_values_stay_what_they_are() {
        for x in [f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0] {
            assert_eq!(value(round(x)).to_bits(), x.to_bits());
        }
        assert_eq!(value(round(f32::MAX)), f32::INFINITY);
        for nan in [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
            assert!(value(round(nan)).is_nan());
        }
        for bits in 0..=0xffffu16 {
            let x = value(bits);
            assert!(x.is_nan() || round(x) == bits);
        }
    }
}
