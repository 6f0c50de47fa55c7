//! Rows of attention's scores with AVX-512: softmax, its gradient, and the
//! rounding of weights to pairs of bfloat16. Rows are whole vectors, of which
//! a mask says what is seen; what is not becomes 0.

use std::arch::x86_64::*;

use super::math::{EXP_MIN, LN_2_HIGH, LN_2_LOW, ROUND};

/// Floats of a vector.
const VECTOR: usize = 16;

/// Which of the sixteen keys from `at` on are in `low..high`, a bit each.
#[inline(always)]
fn seen(at: usize, (low, high): (usize, usize)) -> __mmask16 {
    let before = |end: usize| ((1u32 << end.saturating_sub(at).min(VECTOR)) - 1) as u16;
    before(high) & !before(low)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[f32; VECTOR]) -> __m512 {
    // SAFETY: sixteen floats.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [f32; VECTOR], x: __m512) {
    // SAFETY: room for sixteen floats.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

/// [`super::math::exp`] of some elements, 0 of the others. Of eʳ − 1 − r the
/// polynomial is the one of least error (3.4·10⁻⁹ of eʳ), fitted.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512, of: __mmask16) -> __m512 {
    let set = |x: f32| _mm512_set1_ps(x);
    let normal = _mm512_mask_cmp_ps_mask::<_CMP_NLT_UQ>(of, x, set(EXP_MIN));
    // 2¹²⁸ is infinite: nothing more is needed above. NaN stays.
    let x = _mm512_min_ps(set(89.0), x);
    let round = set(ROUND);
    let n = _mm512_sub_ps(_mm512_fmadd_ps(x, set(std::f32::consts::LOG2_E), round), round);
    let r = _mm512_fnmadd_ps(n, set(LN_2_LOW), _mm512_fnmadd_ps(n, set(LN_2_HIGH), x));
    let square = _mm512_mul_ps(r, r);
    let low = _mm512_fmadd_ps(set(0.166_665_23), r, set(0.499_999_94));
    let high = _mm512_fmadd_ps(set(0.008_368_605), r, set(0.041_668_296));
    let high = _mm512_fmadd_ps(set(0.001_382_023_8), square, high);
    let value = _mm512_fmadd_ps(_mm512_fmadd_ps(high, square, low), square, _mm512_add_ps(set(1.0), r));
    _mm512_maskz_scalef_ps(normal, value, n)
}

/// Turns a row of scores into exp(score − running maximum), with the running
/// sum of them; returns what earlier weights must be multiplied by.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn softmax(row: &mut [f32], seeing: (usize, usize), highest: &mut f32, total: &mut f32) -> f32 {
    let (chunks, _) = row.as_chunks_mut::<VECTOR>();
    let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
    for (i, chunk) in chunks.iter().enumerate() {
        most = _mm512_mask_max_ps(most, seen(i * VECTOR, seeing), most, load(chunk));
    }
    let new = highest.max(_mm512_reduce_max_ps(most));
    // Of a row of −∞ only, nothing may become NaN by −∞ − −∞ here.
    let shift = _mm512_set1_ps(if new == f32::NEG_INFINITY { 0.0 } else { new });
    let mut sum = _mm512_setzero_ps();
    for (i, chunk) in chunks.iter_mut().enumerate() {
        let mask = seen(i * VECTOR, seeing);
        let p = if mask == 0 { _mm512_setzero_ps() } else { exp(_mm512_sub_ps(load(chunk), shift), mask) };
        sum = _mm512_add_ps(sum, p);
        store(chunk, p);
    }
    let factor = match *highest {
        f32::NEG_INFINITY => 0.0,
        before => _mm512_cvtss_f32(exp(_mm512_sub_ps(_mm512_set1_ps(before), shift), 1)),
    };
    *total = *total * factor + _mm512_reduce_add_ps(sum);
    *highest = new;
    factor
}

/// Turns a row of scores into probabilities, given its log-sum-exp, and a row
/// of `dp` into the gradient of the scores: p · (dp − delta).
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn gradient(scores: &mut [f32], dp: &mut [f32], seeing: (usize, usize), lse: f32, delta: f32) {
    let (lse, delta) = (_mm512_set1_ps(lse), _mm512_set1_ps(delta));
    let (ps, gs) = (scores.as_chunks_mut::<VECTOR>().0, dp.as_chunks_mut::<VECTOR>().0);
    for (i, (p, g)) in ps.iter_mut().zip(gs).enumerate() {
        let mask = seen(i * VECTOR, seeing);
        if mask == 0 {
            store(p, _mm512_setzero_ps());
            store(g, _mm512_setzero_ps());
            continue;
        }
        let weight = exp(_mm512_sub_ps(load(p), lse), mask);
        store(p, weight);
        store(g, _mm512_maskz_mul_ps(mask, weight, _mm512_sub_ps(load(g), delta)));
    }
}

/// Pairs of neighbours of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn round_row(row: &[f32], to: &mut [f32]) {
    let (chunks, _) = row.as_chunks::<{ 2 * VECTOR }>();
    for (from, to) in chunks.iter().zip(to.as_chunks_mut::<VECTOR>().0) {
        let [low, high] = [0, 1].map(|half| load(&from.as_chunks::<VECTOR>().0[half]));
        let pairs = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: vectors of 512 bits.
        store(to, unsafe { std::mem::transmute::<__m512bh, __m512>(pairs) });
    }
}

/// Pairs of an element of `first` and one of `second`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn round_rows(first: &[f32], second: &[f32], to: &mut [f32]) {
    // Of 32 bfloat16s, those of the first row and of the second in turn.
    let turns = _mm512_or_si512(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_slli_epi32::<16>(_mm512_set_epi32(
            31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
        )),
    );
    let rows = first.as_chunks::<VECTOR>().0.iter().zip(second.as_chunks::<VECTOR>().0);
    for ((first, second), to) in rows.zip(to.as_chunks_mut::<VECTOR>().0) {
        let rounded = _mm512_cvtne2ps_pbh(load(second), load(first));
        // SAFETY: vectors of 512 bits.
        let rounded = unsafe { std::mem::transmute::<__m512bh, __m512i>(rounded) };
        store(to, _mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, rounded)));
    }
}

/// Σ x · y of bfloat16s; of equal lengths.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn dot_pairs(x: &[u16], y: &[u16]) -> f32 {
    let pairs = |from: &[u16; 2 * VECTOR]| {
        // SAFETY: 32 bfloat16s.
        unsafe { from.as_ptr().cast::<__m512bh>().read_unaligned() }
    };
    let filled = |tail: &[u16]| {
        let mut all = [0; 2 * VECTOR];
        all[..tail.len()].copy_from_slice(tail);
        all
    };
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks(), y.as_chunks());
    let mut sum = _mm512_setzero_ps();
    for (x, y) in xs.iter().zip(ys) {
        sum = _mm512_dpbf16_ps(sum, pairs(x), pairs(y));
    }
    if !x_tail.is_empty() {
        sum = _mm512_dpbf16_ps(sum, pairs(&filled(x_tail)), pairs(&filled(y_tail)));
    }
    _mm512_reduce_add_ps(sum)
}

/// Multiplies each element.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn scale(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16;
    use crate::cpu::simd::{Level, level};

    const LEN: usize = 4 * VECTOR;

    fn filled(seed: usize) -> [f32; LEN] {
        std::array::from_fn(|i| ((i * 37 + seed * 11) % 101) as f32 / 16.0 - 3.0)
    }

    /// Of sixteen numbers.
    fn exps(x: [f32; VECTOR], of: __mmask16) -> [f32; VECTOR] {
        let mut to = [9.0; VECTOR];
        // SAFETY: every test here asks for the level first.
        unsafe { store(&mut to, exp(load(&x), of)) };
        to
    }

    #[test]
    fn exponentials() {
        if level() < Level::Avx512 {
            return;
        }
        let mut worst = 0f64;
        for step in 0..100_000 {
            let x: [f32; VECTOR] = std::array::from_fn(|i| {
                let at = (step * VECTOR + i) as f32 / 1_600_000.0;
                if step % 2 == 0 { -87.3 + 176.0 * at } else { 2.0 * at - 1.0 }
            });
            for (got, x) in exps(x, !0).into_iter().zip(x) {
                let want = f64::from(x).exp();
                worst = worst.max((f64::from(got) - want).abs() / want);
            }
        }
        assert!(worst < 2e-7, "{worst}");
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let special = [-inf, -1e30, -87.4, -0.0, 0.0, 88.73, 89.5, 1e30, inf, nan];
        let mut x = [0.0; VECTOR];
        x[..special.len()].copy_from_slice(&special);
        let got = exps(x, !0);
        assert_eq!(got[..9], [0.0, 0.0, 0.0, 1.0, 1.0, inf, inf, inf, inf]);
        assert!(got[9].is_nan());
        assert_eq!(exps([nan; VECTOR], 0), [0.0; VECTOR]);
    }

    #[test]
    fn softmax_and_its_gradient_see_what_they_should() {
        if level() < Level::Avx512 {
            return;
        }
        for (low, high) in [(0, LEN), (0, 1), (5, 40), (16, 32), (31, 33), (63, 64), (7, 7)] {
            let sees = |i: usize| (low..high).contains(&i);
            let scores = filled(1);
            let (mut row, mut highest, mut total) = (scores, 1.5, 2.0);
            // SAFETY: the level, as above.
            let factor = unsafe { softmax(&mut row, (low, high), &mut highest, &mut total) };
            let most = (low..high).fold(1.5, |most, i| scores[i].max(most));
            assert_eq!(highest, most);
            assert!((factor - (1.5 - most).exp()).abs() < 1e-6);
            let mut sum = 2.0 * f64::from(factor);
            let mut dp = filled(2);
            let mut p = scores;
            // SAFETY: as above.
            unsafe { gradient(&mut p, &mut dp, (low, high), 0.75, 0.5) };
            for i in 0..LEN {
                let weight = if sees(i) { f64::from(scores[i] - most).exp() } else { 0.0 };
                assert!((f64::from(row[i]) - weight).abs() < 1e-6, "{low}..{high}, {i}");
                sum += weight;
                let weight = if sees(i) { f64::from(scores[i] - 0.75).exp() } else { 0.0 };
                assert!((f64::from(p[i]) - weight).abs() <= 3e-7 * weight, "{low}..{high}, {i}");
                let want = weight * f64::from(filled(2)[i] - 0.5);
                assert!((f64::from(dp[i]) - want).abs() <= 1e-6 * want.abs(), "{low}..{high}, {i}");
            }
            assert!((f64::from(total) - sum).abs() < 1e-5 * sum);
        }
    }

    /// What is hidden is 0 whatever was there; a row that saw nothing before, and
    /// one whose scores are all −∞, have no NaN.
    #[test]
    fn what_is_hidden_or_infinite_makes_no_nan() {
        if level() < Level::Avx512 {
            return;
        }
        let mut row = [f32::NAN; LEN];
        row[3] = 2.0;
        let (mut highest, mut total) = (f32::NEG_INFINITY, 0.0);
        // SAFETY: the level, as above.
        let factor = unsafe { softmax(&mut row, (3, 4), &mut highest, &mut total) };
        assert_eq!((factor, highest, total), (0.0, 2.0, 1.0));
        assert_eq!(row.iter().sum::<f32>(), 1.0);
        let (mut row, mut highest, mut total) = ([f32::NEG_INFINITY; LEN], f32::NEG_INFINITY, 0.0);
        // SAFETY: as above.
        unsafe { softmax(&mut row, (0, LEN), &mut highest, &mut total) };
        assert_eq!((row, highest, total), ([0.0; LEN], f32::NEG_INFINITY, 0.0));
        let (mut p, mut dp) = ([f32::NAN; LEN], [f32::INFINITY; LEN]);
        p[3] = 0.0;
        dp[3] = 2.0;
        // SAFETY: as above.
        unsafe { gradient(&mut p, &mut dp, (3, 4), 0.0, 1.0) };
        assert_eq!((p[3], p.iter().sum::<f32>(), dp[3], dp.iter().sum::<f32>()), (1.0, 1.0, 1.0, 1.0));
    }

    #[test]
    fn pairs_are_rounded_as_numbers_are() {
        if level() < Level::Avx512Bf16 {
            return;
        }
        let (mut first, mut second) = (filled(3).map(|x| x / 3.0), filled(4).map(|x| x / 7.0));
        first[7] = f32::NAN;
        second[40] = f32::from_bits(0x3f80_8000);
        let pair = |low: f32, high: f32| u32::from(bf16::round(high)) << 16 | u32::from(bf16::round(low));
        let (mut along, mut across) = ([0.0; LEN / 2], [0.0; LEN]);
        // SAFETY: the level, as above.
        unsafe {
            round_row(&first, &mut along);
            round_rows(&first, &second, &mut across);
        }
        for (i, [low, high]) in first.as_chunks::<2>().0.iter().enumerate() {
            assert_eq!(along[i].to_bits(), pair(*low, *high), "{i}");
        }
        for i in 0..LEN {
            assert_eq!(across[i].to_bits(), pair(first[i], second[i]), "{i}");
        }
        let (x, y) = (filled(5).map(bf16::round), filled(6).map(bf16::round));
        for len in [0, 1, 31, 32, 50, LEN] {
            let product = |i: usize| f64::from(bf16::value(x[i])) * f64::from(bf16::value(y[i]));
            let want: f64 = (0..len).map(product).sum();
            // SAFETY: as above.
            let got = unsafe { dot_pairs(&x[..len], &y[..len]) };
            assert!((f64::from(got) - want).abs() < 1e-4, "{len}: {got}, {want}");
        }
    }
}
